"""`python -m asyncdbpool check`: what it reports, how it fails, and that it shows no secret."""

import getpass
import os
import pty
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from asyncdbpool import Driver, drivers
from asyncdbpool.__main__ import main
from asyncdbpool._limits import DATABASES, Limit
from asyncdbpool._secrets import Secrets, is_secret
from asyncdbpool.testing import NEVER, Fake, FakeDriver
from support.mistakes import SECRET
from support.servers import MariaDBServer, PostgresServer, Server, free_port

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command, with a password in the environment; nothing that it says has a secret."""

    def run(*arguments: str, password: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setenv("SHOP_PASSWORD", password or "")
        if password is not None:
            arguments = (*arguments, "--password-env", "SHOP_PASSWORD")
        try:
            code: Any = main(["check", *arguments])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        assert SECRET not in out + err
        assert not password or password not in out + err
        return code, out, err

    return run


def report(out: str) -> dict[str, str]:
    """The lines of a report by their first column."""
    lines = [re.split(r"  +", line.strip(), maxsplit=1) for line in out.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) > 1}


TIMES = ("first connect", "later connects", "round trip", "hop alone", "borrow and return")

ABILITIES = (
    *("paramstyle", "threadsafety", "open transaction", "savepoints", "ping", "reset", "socket"),
    *("rows ahead", "cancel"),
)


def is_whole(out: str) -> bool:
    """Tell whether a report has all of its lines, and times that are times."""
    told = report(out)
    times = [float(told[name].partition(" ms")[0]) for name in TIMES]
    return set(ABILITIES) <= set(told) and all(time > 0 for time in times)


def login(server: Server, **changes: Any) -> list[str]:
    keywords = {"host": server.host, "port": server.port, "user": server.user} | changes
    return [f"{key}={value}" for key, value in keywords.items()]


# ------------------------------------------------------------------------------------------------
# The report


def test_sqlite_is_reported(run: Run, tmp_path: Path) -> None:
    code, out, err = run("sqlite3", f"database={tmp_path / 'a=b.db'}")
    assert (code, err) == (0, "")
    assert is_whole(out)
    told = report(out)
    assert (
        told["driver"] == "SQLite3Driver, the library's own; runs on a thread for each connection"
    )
    assert told["database"].startswith("SQLite 3.")
    assert told["paramstyle"] == "qmark"
    assert told["open transaction"] == "told without a round trip"
    assert told["reset"] == 'no: cleanup="reset" closes the connection'
    assert told["socket"].startswith("not known")
    assert told["rows ahead"] == "read in batches"
    assert told["cancel"].startswith("yes, ")
    assert told["limit"].startswith("no limit: ")
    assert "one connection writes at a time" in told["limit"]
    assert (tmp_path / "a=b.db").exists(), "a value may hold the sign of equality"


POSTGRES_LIMIT = r"\d+ at most, the server's limit, 3 of them kept for administrators; \d+ in use"


@pytest.mark.parametrize("module", ["psycopg2", "asyncpg"])
def test_postgresql_is_reported(run: Run, postgres: PostgresServer, module: str) -> None:
    pairs = login(postgres, database=postgres.database)
    code, out, err = run(module, *pairs, password=postgres.password)
    assert (code, err) == (0, "")
    assert is_whole(out)
    told = report(out)
    assert told["database"].startswith(f"PostgreSQL {postgres.version}")
    assert told["reset"] == told["savepoints"] == told["ping"] == "yes"
    assert told["cancel"].startswith("yes, ")
    assert told["socket"].startswith("known")
    assert re.match(POSTGRES_LIMIT, told["limit"])
    assert re.search(r"at most \((\d+) - 3\) / N.*that is \d+ for one", told["hint for max_size"])


@pytest.mark.parametrize("module", ["MySQLdb", "aiomysql", "pymysql"])
def test_mariadb_is_reported(run: Run, mariadb: MariaDBServer, module: str) -> None:
    pairs = login(mariadb, autocommit="false", charset="utf8mb4")
    pairs.append(f"{'db' if module == 'aiomysql' else 'database'}={mariadb.database}")
    code, out, err = run(module, *pairs, password=mariadb.password)
    assert (code, err) == (0, "")
    assert is_whole(out)
    told = report(out)
    assert mariadb.version in told["database"]
    assert told["cancel"].startswith("yes, ")
    how = "" if module == "MySQLdb" else " in autocommit only"
    assert told["open transaction"] == f"told without a round trip{how}"
    assert re.match(r"\d+ at most, the server's limit; \d+ in use", told["limit"])


def test_it_is_a_command(tmp_path: Path) -> None:
    answer = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "asyncdbpool", "check", "sqlite3", f"database={tmp_path / 'a.db'}"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert is_whole(answer.stdout)


# ------------------------------------------------------------------------------------------------
# Drivers that are not as they should be


@contextmanager
def installed(monkeypatch: pytest.MonkeyPatch, fake: Fake, kind: Any = None) -> Iterator[None]:
    """Have a fake be the module `fakedb`, with a driver that another package has registered."""
    monkeypatch.setitem(sys.modules, "fakedb", fake)
    vars(fake)["__name__"] = "fakedb"
    make = kind or (lambda module: None)
    stand_in = SimpleNamespace(make=lambda name, module: make(module))
    monkeypatch.setattr(drivers, "_REGISTERED", stand_in)
    yield
    fake.release()


class Foreign(FakeDriver):
    """Somebody else's."""


def unlike_any_database(sql: str, params: Any) -> Any:
    if sql == "SELECT 1 FROM DUAL":
        return [(1,)]
    raise Fake.ProgrammingError(f"no such thing as {sql[:11]}")


def test_a_module_that_nobody_knows_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(rows=unlike_any_database)
    with installed(monkeypatch, fake):
        code, out, _ = run("fakedb")
    assert code == 0
    assert is_whole(out)
    told = report(out)
    assert out.startswith("fakedb\n")
    assert told["driver"].startswith("the generic one, since nobody knows this module")
    assert told["database"] == "unknown"
    assert told["open transaction"] == "not told"
    assert told["cancel"] == "no: a statement whose caller has gone runs to its end"
    assert told["round trip"].endswith("(SELECT 1 FROM DUAL, one call)")
    assert told["limit"].startswith("not known")


def test_a_database_that_understands_nothing_is_connected_all_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(sql: str, params: Any) -> Any:
        raise Fake.ProgrammingError("what?")

    with installed(monkeypatch, Fake(rows=rows)):
        code, out, _ = run("fakedb")
    assert code == 0
    assert report(out)["round trip"].startswith("not known: ProgrammingError: what?")
    assert report(out)["savepoints"] == "no: ProgrammingError: what?"


def test_a_registered_driver_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(cancels=True, rows=unlike_any_database)
    fake.__version__ = (1, 5)  # type: ignore[attr-defined] # as some do
    fake.reset.always(fake.Error("not today"))
    fake.ping.always(TimeoutError("no answer"))
    with installed(monkeypatch, fake, Foreign):
        code, out, _ = run("fakedb")
    assert code == 0
    assert is_whole(out)
    told = report(out)
    assert out.startswith("fakedb (1, 5)\n")
    assert told["driver"].startswith("test_check_command.Foreign, registered by another package")
    assert told["reset"] == "no: it fails"
    assert told["ping"] == "no: TimeoutError: no answer"
    assert told["cancel"].startswith("the driver has a way, not tried")


class Deaf(Foreign):
    """It has autocommit, but no way to reset, to read ahead or to tell anything."""

    can_reset = False

    def in_transaction(self, raw: Any) -> bool | None:
        return None

    def reads_ahead(self, cursor_class: type) -> bool:
        return False


def test_what_does_not_work_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(sql: str, params: Any) -> Any:
        fake.connections[-1].autocommit = None  # which is neither
        if "pg_sleep" in sql:
            time.sleep(1.5)  # the cancel gets lost
        return [("15.é",)]

    fake = Fake(cancels=True, rows=rows)
    fake.lost_cancels = 1000
    with installed(monkeypatch, fake, Deaf):
        code, out, _ = run("fakedb")
    assert code == 0
    told = report(out)
    assert told["database"] == "PostgreSQL 15.é"
    assert told["open transaction"] == "not told"
    assert told["cancel"] == "no: the statement goes on"
    assert told["rows ahead"] == "not before the first fetch"
    assert told["limit"].startswith("not known: ValueError: ")


@pytest.mark.parametrize("gate", ["execute", "ping", "commit"])
def test_a_server_that_hangs_ends_the_check_in_time(
    run: Run, monkeypatch: pytest.MonkeyPatch, gate: str
) -> None:
    fake = Fake()
    getattr(fake, gate).always(NEVER)
    began = time.monotonic()
    with installed(monkeypatch, fake, FakeDriver):
        code, _, err = run("fakedb", "--timeout", "0.5")
    assert time.monotonic() - began < 30
    assert (code, err) == (1, "asyncdbpool: fakedb: connected, but no answer within 0.5 s\n")


def test_a_limit_that_does_not_come_ends_the_check_in_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = Fake().execute

    def rows(sql: str, params: Any) -> Any:
        if "superuser_reserved" in sql:
            hang.always(NEVER)
            hang.enter()
        return [("15",)]

    fake = Fake(rows=rows)
    with installed(monkeypatch, fake, FakeDriver):
        code, out, err = run("fakedb", "--timeout", "0.5")
    hang.release()
    assert code == 1
    assert report(out)["driver"].startswith("FakeDriver, the library's own")
    assert "no answer within 0.5 s" in err


def test_a_driver_that_breaks_in_between_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    fake.connect.once(None, *[fake.Error("no more today")] * 100)
    with installed(monkeypatch, fake):
        fake.close.once(None)
        code, _, err = run("fakedb")
    assert (code, err) == (1, "asyncdbpool: fakedb: Error: no more today\n")


def test_a_class_can_be_checked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    module = ModuleType("doorway")
    module.paramstyle = "qmark"  # type: ignore[attr-defined] # as a module has it
    door = type("Door", (), {"connect": staticmethod(fake.connect), "__module__": "doorway"})
    module.Door = door  # type: ignore[attr-defined] # as above
    monkeypatch.setitem(sys.modules, "doorway", module)
    code, out, _ = run("doorway.Door", "host=here")
    assert (code, report(out)["paramstyle"]) == (0, "qmark")
    assert report(out)["threadsafety"] == "not said"


# ------------------------------------------------------------------------------------------------
# No connection


@pytest.mark.parametrize("module", ["psycopg2", "asyncpg"])
def test_a_wrong_password_is_told_but_not_shown(
    run: Run, postgres: PostgresServer, module: str
) -> None:
    pairs = login(postgres, database=postgres.database)
    code, out, err = run(module, *pairs, password=SECRET)
    assert (code, out) == (1, "")
    assert re.fullmatch(
        rf"asyncdbpool: {module}: \w+: .*password authentication failed for user \"tester\"\n", err
    )


def test_a_refused_port_is_told(run: Run) -> None:
    port = free_port()
    code, out, err = run("MySQLdb", "host=127.0.0.1", f"port={port}", "user=a", password=SECRET)
    assert (code, out) == (1, "")
    assert "Can't connect" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("module", ["psycopg2", "MySQLdb", "asyncpg"])
def test_a_host_that_swallows_everything_ends_the_check_in_time(run: Run, module: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        began = time.monotonic()
        code, out, err = run(
            *(module, "host=127.0.0.1", f"port={port}", "user=a", "--timeout", "1"),
            password=SECRET,
        )
        assert time.monotonic() - began < 30
    assert (code, out) == (1, "")
    assert err.count("\n") == 1


def test_a_keyword_that_the_driver_does_not_know_is_told(run: Run) -> None:
    code, _, err = run("sqlite3", "database=:memory:", "hots=3")
    assert code == 1
    assert re.match(r"asyncdbpool: sqlite3: TypeError: .*'hots'", err)


def test_a_driver_that_cannot_be_made_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: Any) -> Driver:
        raise LookupError

    with installed(monkeypatch, Fake(), broken):
        assert run("fakedb") == (1, "", "asyncdbpool: fakedb: LookupError\n")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("psycopg2", "is not installed: python -m pip install 'psycopg2-binary'"),
        ("mysql.connector", "is not installed: python -m pip install 'mysql-connector-python'"),
        ("nowhere_to_be_found", "is not installed; install the package that has it"),
        ("sqlite3.nothing", "there is no module or class sqlite3.nothing"),
        ("sql ite", "there is no module or class sql ite"),
        ("json", r"json has no connect\(\); give a driver's module"),
        ("half", "half cannot be imported: ModuleNotFoundError: No module named 'missing_half'"),
        ("broken", "broken cannot be imported: RuntimeError: no licence"),
    ],
)
def test_a_module_that_cannot_be_used_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, words: str
) -> None:
    (tmp_path / "half.py").write_text("import missing_half\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    if "python -m pip" in words:
        hide(monkeypatch, module.partition(".")[0])
    code, out, err = run(module)
    assert (code, out) == (2, "")
    assert re.match(f"asyncdbpool: (.*){words}", err)
    assert err.count("\n") == 1


def hide(monkeypatch: pytest.MonkeyPatch, top: str) -> None:
    """Have a package not be installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == top]:
        monkeypatch.delitem(sys.modules, name)

    class Finder:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> None:
            if name == top:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])


# ------------------------------------------------------------------------------------------------
# Wrong usage


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: MODULE"),
        (["sqlite3", SECRET], "argument 1 behind the module is not KEY=VALUE"),
        (
            ["sqlite3", "a=1", f"postgresql://a:{SECRET}@b/c"],
            "argument 2 behind the module is not",
        ),
        (["sqlite3", "a=1", "a=2"], "a is given twice"),
        (["sqlite3", "--timeout", "soon"], "--timeout is a number of seconds"),
        (["sqlite3", "--timeout", "0"], "--timeout is a number of seconds"),
        (["sqlite3", "--timeout", "inf"], "--timeout is a number of seconds"),
        (["sqlite3", f"--timeout={SECRET}"], "--timeout is a number of seconds"),
        (["sqlite3", f"-p{SECRET}"], "unrecognized arguments"),
        (["sqlite3", f"--passwd={SECRET}"], "unrecognized arguments"),
        (["sqlite3", f"--password={SECRET}"], "argument --password"),
        (["sqlite3", "--password", SECRET], "argument 1 behind the module is not KEY=VALUE"),
        (["--password", SECRET, "host=a"], "--password takes no value, it asks"),
        (["sqlite3", "--password-env", SECRET], "the environment has no variable of that name"),
        (["sqlite3", "--password", "--password-env", "HOME"], "argument --password-env"),
        (
            ["sqlite3", "uri=x", "--password-env", "HOME", "--password-as", "uri"],
            "one of the keywords is that of the password",
        ),
    ],
)
def test_wrong_usage_is_told_without_repeating_it(
    run: Run, arguments: list[str], words: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(
    "pair",
    [
        *(f"{key}={SECRET}" for key in ("password", "passwd", "PWD", "pass", "sslpassword")),
        *(f"{key}={SECRET}" for key in ("auth_token", "client_secret", "api_key", "passphrase")),
        f"dsn=postgresql://me:{SECRET}@host/db",
        f"uri=mysql://:{SECRET}@host/db?x=1",
        f"dsn=postgresql://host/db?user=me&password={SECRET}",
        f"conninfo=host=a password={SECRET} user=b",
        f"conninfo=host=a password = '{SECRET}'",
        f"connstring=DRIVER=x;UID=me;Pwd={{{SECRET}}};Port=1",
    ],
)
def test_a_password_on_the_command_line_is_refused(run: Run, pair: str) -> None:
    key = pair.partition("=")[0]
    code, out, err = run("psycopg2", "host=127.0.0.1", pair)
    assert (code, out) == (2, "")
    assert f"{key} seems to hold a password, which others could see" in err
    assert ("--password-as" in err) is (key != "password")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("passfile", "/home/me/.pgpass"),
        ("password", ""),
        ("dsn", "postgresql://me@host:5432/db"),
        ("dsn", "postgresql://host:5432/db"),
        ("dsn", "host=a user=b"),
        ("database", ":memory:"),
    ],
)
def test_what_is_no_password_may_be_given(key: str, text: str) -> None:
    assert not is_secret(key, text)


def test_values_are_numbers_words_and_texts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    pairs = ("port=5432", "shift=-3", "zip=01234", "half=2.5", "zero=0", "minus=-", "power=²")
    words = ("tls=True", "wait=false", "where=none", "database=", "path=a=b", "pwd=")
    with installed(monkeypatch, fake):
        run("fakedb", *pairs, *words, "--password-as", "passwd", password=SECRET)
    assert fake.asked[0] == {
        "port": 5432,
        "shift": -3,
        "zip": "01234",
        "half": "2.5",
        "zero": 0,
        "minus": "-",
        "power": "²",
        "tls": True,
        "wait": False,
        "where": None,
        "database": "",
        "path": "a=b",
        "pwd": "",
        "passwd": SECRET,
    }


def test_help_says_what_to_do(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for word in (
        "MODULE",
        "KEY=VALUE",
        "--password-env",
        "--password-as",
        "--timeout",
        "max_size",
    ):
        assert word in out


# ------------------------------------------------------------------------------------------------
# Secrets


def test_the_prompt_takes_the_password(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    monkeypatch.setattr(getpass, "getpass", lambda prompt: SECRET)
    with installed(monkeypatch, fake):
        code, _, _ = run("fakedb", "--password")
    assert (code, fake.asked[0]) == (0, {"password": SECRET})


COMMAND = [sys.executable, "-m", "asyncdbpool", "check", "sqlite3", "--password"]


def test_the_prompt_does_not_echo() -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "--password-as", "database"]
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        command,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # there is no other terminal then
    )
    with process, os.fdopen(ours, "rb+", buffering=0) as terminal:
        os.close(theirs)
        assert process.stderr is not None
        assert process.stderr.read(10) == b"Password: "
        terminal.write(b":memory:\n")
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err.strip()) == (0, b"")
        assert is_whole(out.decode())
        assert b":memory:" not in out


def test_without_a_terminal_there_is_no_prompt() -> None:
    answer = subprocess.run(  # noqa: S603 - our own interpreter
        COMMAND, capture_output=True, stdin=subprocess.DEVNULL, start_new_session=True, check=False
    )
    assert answer.returncode == 2
    assert b"there is no terminal to ask at; use --password-env" in answer.stderr
    assert answer.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("hun'ter\\2", "no hun'ter\\2, {0!r}"),
        ("a b/c+d", "no a%20b/c%2Bd or a%20b%2Fc%2Bd or a+b%2Fc%2Bd"),
        ("postgresql://me:p%40ss@host/db", "for me no p@ss, no p%40ss"),
        ("host=a password='it''s me' user=b", "no password it"),
        ("DRIVER=x;PWD={se;cret};UID=me", "no {{se;cret}} and no se;cret"),
        ("*", "no * here"),
        ("hun  ter", "no\nhun  ter"),
    ],
)
def test_a_drivers_error_that_repeats_a_secret_is_masked(
    run: Run, monkeypatch: pytest.MonkeyPatch, secret: str, shown: str
) -> None:
    fake = Fake()
    fake.connect.always(fake.Error(shown.format(secret)))
    monkeypatch.setenv("WHERE", secret)
    with installed(monkeypatch, fake):
        code, _, err = run("fakedb", "--password-env", "WHERE", "--password-as", "dsn")
    assert code == 1
    assert "***" in err
    for part in ("hun", "ter", "%20b", "p%40ss", "p@ss", "se;cret", "no password it"):
        assert part not in err


def test_libpq_repeats_a_dsn_that_it_does_not_understand(run: Run) -> None:
    code, _, err = run("psycopg2", "--password-as", "dsn", password=f"host {SECRET}")
    assert code == 1
    assert "ProgrammingError" in err


def test_without_secrets_a_text_stays_as_it_is() -> None:
    assert Secrets().redact("as it is") == "as it is"


# ------------------------------------------------------------------------------------------------
# Limits


LIMITS = {database.name: database.limit for database in DATABASES}


async def ask_limit(name: str, *rows: Any) -> Limit:
    answers = list(rows)

    async def ask(sql: str) -> Any:
        return answers.pop(0)

    limit = LIMITS[name]
    assert limit is not None
    return await limit(ask)


async def test_the_narrowest_limit_counts() -> None:
    assert await ask_limit("PostgreSQL", (100, 3, 2, 9, -1, -1)) == Limit(100, 5, 9)
    of_user = await ask_limit("PostgreSQL", (100, 3, 0, 9, 20, 50))
    assert of_user == Limit(20, 0, 9, "this user's")
    assert str(of_user) == "20 at most, this user's limit; 9 in use on the server"
    of_database = await ask_limit("PostgreSQL", (100, 3, 0, 9, 500, 50))
    assert of_database == Limit(50, 0, 9, "this database's")
    for narrower in (0, 200):
        limit = await ask_limit("MySQL or MariaDB", (151, narrower), ("x", "4"))
        assert limit == Limit(151, 0, 4)
    mine = await ask_limit("MySQL or MariaDB", (151, 10), ("Threads_connected", "4"))
    assert mine == Limit(10, 0, 4, "this user's")


def test_the_hint_says_how_it_is_reckoned() -> None:
    assert "at most (100 - 3) / N, less what other clients need" in Limit(100, 3, 1).advice()
    assert "that is 97 for one process, 24 for four" in Limit(100, 3, 1).advice()
    assert "at most 151 / N" in Limit(151, 0, 1).advice()
