"""Private database servers for the tests: found or installed, run, and removed.

`python tests/support/servers.py install` makes sure that this machine can run them. That happens
before the test dependencies are there, so this file uses the standard library only.
"""

import atexit
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

START_TIMEOUT = 60.0
STOP_TIMEOUT = 20.0


class ServerMissing(RuntimeError):
    """This machine has no such server."""


class Server(ABC):
    """A database server of one's own: loopback TCP, passwords, a data folder that goes with it.

    The role `user` owns `database`; `admin`, with the same password, may do everything.
    """

    title: ClassVar[str]
    program: ClassVar[str]
    account: ClassVar[str]  # runs the server where we are root, since the servers refuse root
    gentle_stop: ClassVar[signal.Signals]  # data on disk and whole, for a restart
    quick_stop: ClassVar[signal.Signals]  # for data that nobody will read again
    asks_version: ClassVar[str] = "--version"

    host = "127.0.0.1"
    user = "tester"
    password = "s33kr1t"
    database = "shop"
    admin = "admin"

    def __init__(self) -> None:
        version = self.installed_version()
        if version is None:
            raise ServerMissing(f"{self.title} is not installed: {how_to_install()}")
        self.version = version
        self.port = free_port()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.version} at {self.host}:{self.port}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @classmethod
    def installed_version(cls) -> str | None:
        """The version of the server on this machine, such as "15.18", if it has one."""
        path = cls.find(cls.program)
        if path is None:
            return None
        command: list[str | Path] = [path, cls.asks_version]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        found = re.search(r"\d+(\.\d+)+", answer.stdout)
        return found.group() if found else answer.stdout.strip()

    @classmethod
    @abstractmethod
    def find(cls, program: str) -> Path | None:
        """The path of one of the server's programs."""

    @property
    @abstractmethod
    def socket(self) -> Path | None:
        """The Unix socket that it listens on, too, if it can."""

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise RuntimeError(f"{self!r} is not running")
        return self._process.pid

    def start(self) -> Self:
        """Make the data folder, run the server on it and wait until it answers."""
        owner = os.getpid()
        atexit.register(self._stop_at_exit, owner)
        # Not under TMPDIR, which may be long: a Unix socket's path must fit into 100 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="adp-", dir="/tmp"))
        try:
            if runs_as_root():
                shutil.chown(self._folder, self.account)
            self._create_data()
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and remove its data; harmless when it is not running."""
        self._end(self.quick_stop)
        if self._folder is not None:
            # A child of the server may still be writing its last words.
            for _ in range(5):
                shutil.rmtree(self._folder, ignore_errors=True)
                if not self._folder.exists():
                    break
                time.sleep(0.1)
            self._folder = None
        atexit.unregister(self._stop_at_exit)

    def restart(self, pause: float = 0.0) -> None:
        """End the server, which breaks every connection, and run it again on the same data.

        Args:
            pause: Seconds in between.
        """
        self._end(self.gentle_stop)
        time.sleep(pause)
        self._launch()

    def _stop_at_exit(self, owner: int) -> None:
        # A forked child inherits the exit handlers, but not the server.
        if os.getpid() == owner:
            self.stop()

    @abstractmethod
    def _create_data(self) -> None:
        """Fill the data folder: roles and a database."""

    @abstractmethod
    def _command(self) -> list[str | Path]:
        """The command that runs the server in the foreground."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether the server that was just launched accepts clients."""

    def _launch(self) -> None:
        with self._as_server() as options:
            process = self._process = subprocess.Popen[bytes](self._command(), **options)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self!r} does not start:\n{self._log_tail()}")
            time.sleep(0.02)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _run(self, *command: str | Path, sql: str = "") -> None:
        """Run one of the server's own tools to its end, with `sql` as its input."""
        with self._as_server() as options:
            options["stdin"] = subprocess.PIPE
            process = subprocess.Popen[bytes](command, **options)
            process.communicate(sql.encode())
        if process.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{self._log_tail()}")

    @contextlib.contextmanager
    def _as_server(self) -> Iterator[dict[str, Any]]:
        """Options for `Popen`: the server's account, folder, log and a neutral environment."""
        with self._log.open("ab") as log:
            options: dict[str, Any] = {
                "cwd": self._home,
                "env": {
                    "PATH": os.environ.get("PATH", os.defpath),
                    "LC_ALL": "C",
                    "TZ": "UTC",
                    # A MariaDB that starts clears the temporary tables of any other away.
                    "TMPDIR": str(self._home),
                    **self._environment(),
                },
                "stdin": subprocess.DEVNULL,
                "stdout": log,
                "stderr": log,
                # The Ctrl-C that interrupts pytest is not meant for the server.
                "start_new_session": True,
            }
            if runs_as_root():
                options |= {"user": self.account, "group": self.account, "extra_groups": []}
            yield options

    def _environment(self) -> dict[str, str]:
        """What else the server's programs look for in their environment."""
        return {}

    @property
    def _home(self) -> Path:
        if self._folder is None:
            raise RuntimeError(f"{self!r} was not started")
        return self._folder

    @property
    def _data(self) -> Path:
        return self._home / "data"

    @property
    def _log(self) -> Path:
        return self._home / "log"

    def _log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def _require(self, program: str) -> Path:
        path = self.find(program)
        if path is None:
            raise ServerMissing(f"{self.title} has no {program} here: {how_to_install()}")
        return path


class PostgresServer(Server):
    """A private PostgreSQL with SCRAM passwords, without fsync."""

    title = "PostgreSQL"
    program = "postgres"
    account = "postgres"
    gentle_stop = signal.SIGINT  # "fast": clients are thrown out, data are written
    quick_stop = signal.SIGQUIT  # "immediate": as in a crash

    @classmethod
    def find(cls, program: str) -> Path | None:
        # Debian keeps the servers of all versions out of the PATH.
        versions = Path("/usr/lib/postgresql").glob(f"[1-9]*/bin/{program}")
        newest = max(versions, key=lambda path: float(path.parts[-3]), default=None)
        return newest or which(program)

    @property
    def socket(self) -> Path:
        return self._home / f".s.PGSQL.{self.port}"  # clients make the name of the port

    def _create_data(self) -> None:
        secret = self._home / "password"
        secret.write_text(self.password)
        self._run(
            self._require("initdb"),
            f"--pgdata={self._data}",
            f"--username={self.admin}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        )
        # One statement a line is how the single-user server reads its input.
        self._run(
            self._require("postgres"),
            "--single",
            "-F",
            "-D",
            self._data,
            "postgres",
            sql=f"CREATE ROLE {self.user} LOGIN PASSWORD '{self.password}'\n"
            f"CREATE DATABASE {self.database} OWNER {self.user}\n",
        )

    def _command(self) -> list[str | Path]:
        settings = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": self._home,
            "max_connections": 100,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self._require("postgres"), "-D", self._data, *options]

    def _is_ready(self) -> bool:
        # What pg_ctl looks at: the first line is the server's pid, the eighth its state.
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(self.pid)] and lines[7:8] != [] and lines[7].strip() == "ready"


class MariaDBServer(Server):
    """A private MariaDB with native passwords, without flushes to the disk."""

    title = "MariaDB"
    program = "mariadbd"
    account = "mysql"
    gentle_stop = signal.SIGTERM
    quick_stop = signal.SIGKILL

    @classmethod
    def find(cls, program: str) -> Path | None:
        return which(program)

    @property
    def socket(self) -> Path:
        return self._home / "sock"

    def _create_data(self) -> None:
        self._run(
            self._require("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={self._data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            "--innodb-flush-method=nosync",
            "--innodb-log-file-size=16M",
        )
        identified = f"IDENTIFIED VIA mysql_native_password USING PASSWORD('{self.password}')"
        self._run(
            *self._server("--bootstrap"),
            # The bootstrap server has no user accounts until it has loaded them.
            sql="FLUSH PRIVILEGES;\n"
            f"CREATE DATABASE {self.database} CHARACTER SET utf8mb4;\n"
            f"CREATE USER '{self.admin}'@'%' {identified};\n"
            f"GRANT ALL ON *.* TO '{self.admin}'@'%' WITH GRANT OPTION;\n"
            f"CREATE USER '{self.user}'@'%' {identified};\n"
            f"GRANT ALL ON {self.database}.* TO '{self.user}'@'%';\n",
        )

    def _command(self) -> list[str | Path]:
        return self._server(
            f"--bind-address={self.host}",
            f"--port={self.port}",
            f"--socket={self.socket}",
            f"--pid-file={self._home / 'pid'}",
            "--max-connections=151",
        )

    def _server(self, *options: str) -> list[str | Path]:
        return [
            self._require("mariadbd"),
            "--no-defaults",
            f"--datadir={self._data}",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=16M",
            "--character-set-server=utf8mb4",
            *options,
        ]

    def _is_ready(self) -> bool:
        # The port is open early, but the greeting comes only once the server serves.
        try:
            with socket.create_connection((self.host, self.port), timeout=1.0) as client:
                return client.recv(1) != b""
        except OSError:
            return False


class FirebirdServer(Server):
    """A private Firebird with accounts of its own."""

    title = "Firebird"
    program = "firebird"
    account = "firebird"
    gentle_stop = signal.SIGTERM
    quick_stop = signal.SIGKILL
    asks_version = "-z"
    admin = "SYSDBA"

    @classmethod
    def find(cls, program: str) -> Path | None:
        return which(program)

    @property
    def socket(self) -> None:
        return None

    @property
    def path(self) -> Path:
        """The file of the database, by which clients name it."""
        return self._home / "shop.fdb"

    def _create_data(self) -> None:
        accounts = self._home / "security.fdb"
        settings = {
            "RemoteServicePort": self.port,
            "RemoteBindAddress": self.host,
            "SecurityDatabase": accounts,
            "AuthServer": "Srp",
            "UserManager": "Srp",
        }
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (self._home / "firebird.conf").write_text(text)
        self._run(
            self._require("isql-fb"),
            "-quiet",
            "-bail",
            # Not yet a server: the tool opens the files itself, as whom it likes.
            sql=f"CREATE DATABASE '{accounts}' USER {self.admin};\n"
            f"CREATE USER {self.admin} PASSWORD '{self.password}';\n"
            f"CREATE USER {self.user} PASSWORD '{self.password}';\n"
            "COMMIT;\n"
            f"CREATE DATABASE '{self.path}' USER {self.user} DEFAULT CHARACTER SET UTF8;\n",
        )

    def _command(self) -> list[str | Path]:
        return [self._require("firebird")]

    def _environment(self) -> dict[str, str]:
        names = ("FIREBIRD", "FIREBIRD_LOCK", "FIREBIRD_TMP", "FIREBIRD_LOG")
        return dict.fromkeys(names, str(self._home))

    def _is_ready(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex((self.host, self.port)) == 0


SERVERS: tuple[type[Server], ...] = (PostgresServer, MariaDBServer, FirebirdServer)
"""Every kind of them."""


def free_port() -> int:
    """A TCP port that nobody listens on.

    It lies below the range from which clients get theirs: while a server restarts, a client that
    keeps trying its port must not be given that very port, and so be connected to itself. The
    usual random numbers are the same in every process of a run of the tests.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((Server.host, port))
            return port


def which(program: str) -> Path | None:
    """Like `shutil.which`, with the folders of servers, which not everyone has in the PATH."""
    folders = [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/usr/libexec"]
    found = shutil.which(program, path=os.pathsep.join(folders))
    return Path(found) if found else None


def runs_as_root() -> bool:
    return os.geteuid() == 0


# ------------------------------------------------------------------------------------------------
# Installation


def install() -> bool:
    """Install what the servers and their drivers need, or say what to; True if it is all there."""
    missing = missing_packages()
    if missing and can_install():
        apt_install(missing)
        missing = missing_packages()
    for server in SERVERS:
        print(f"{server.title}: {server.installed_version() or 'not found'}")
    if missing:
        print(f"For the tests with real servers, {how_to_install(missing)}")
    return not missing


def missing_packages() -> list[str]:
    """The Debian packages whose contents this machine lacks, whoever installed the rest."""
    needs = {
        "postgresql": PostgresServer.installed_version() is not None,
        "mariadb-server": MariaDBServer.installed_version() is not None,
        "firebird3.0-server": FirebirdServer.installed_version() is not None,
        # mysqlclient comes as source only.
        "gcc": which("gcc") is not None,
        "libc6-dev": Path("/usr/include/stdio.h").exists() or sys.platform != "linux",
        "pkg-config": which("pkg-config") is not None,
        "libmariadb-dev": has_mysql_headers(),
        "unixodbc": which("odbcinst") is not None,
        "odbc-postgresql": has_odbc_driver("PostgreSQL Unicode"),
        "odbc-mariadb": has_odbc_driver("MariaDB Unicode"),
        "libsqliteodbc": has_odbc_driver("SQLite3"),
        python_headers_package(): Path(sysconfig.get_path("include"), "Python.h").exists(),
    }
    return [package for package, is_there in needs.items() if not is_there]


def has_mysql_headers() -> bool:
    """Whether mysqlclient will find a client library to compile against, asked as it asks."""
    pkg_config = which("pkg-config")
    return pkg_config is not None and any(
        subprocess.run([pkg_config, "--exists", name], check=False).returncode == 0
        for name in ("mysqlclient", "mariadb", "libmariadb")
    )


def has_odbc_driver(name: str) -> bool:
    """Whether pyodbc will find a driver by its name."""
    known = Path("/etc/odbcinst.ini")
    return known.exists() and f"[{name}]" in known.read_text(errors="replace")


def python_headers_package() -> str:
    return f"python{sys.version_info.major}.{sys.version_info.minor}-dev"


def can_install() -> bool:
    return which("apt-get") is not None and runs_as_root()


def how_to_install(packages: list[str] | None = None) -> str:
    names = " ".join(packages or ["postgresql", "mariadb-server", "firebird3.0-server"])
    if which("apt-get") is not None:
        return f"run as root: apt-get install {names}"
    return f"install what Debian calls: {names}"


def apt_install(packages: list[str]) -> None:
    """Install Debian packages without starting the services that they bring."""
    apt_get = ["apt-get", "-q", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=300"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with services_stay_off():
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            subprocess.run(
                [*apt_get, *command], env=environment, stdin=subprocess.DEVNULL, check=True
            )


@contextlib.contextmanager
def services_stay_off() -> Iterator[None]:
    """Debian starts a server as soon as it is installed, on the standard port: not here."""
    refusals = {
        # https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
        Path("/usr/sbin/policy-rc.d"): "#!/bin/sh\nexit 101\n",
        Path("/etc/postgresql-common/createcluster.d/asyncdbpool-tests.conf"): (
            "create_main_cluster = false\n"
        ),
    }
    ours = {path: text for path, text in refusals.items() if not path.exists()}
    for path, text in ours.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    try:
        yield
    finally:
        for path in ours:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit("usage: python tests/support/servers.py install")
    sys.exit(0 if install() else 1)
