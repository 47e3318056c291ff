"""`python -m asyncdbpool`: the command that tells what a driver can do here."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import logging
import math
import os
import pkgutil
import sys
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from asyncdbpool._check import Check, CheckFailed
from asyncdbpool._secrets import Secrets, is_secret

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["main"]

_NAME = "asyncdbpool"

_WRONG_USAGE = 2

_WORDS = {"true": True, "false": False, "none": None}

_PACKAGES = {
    "MySQLdb": "mysqlclient",
    "adbc_driver_postgresql": "adbc-driver-postgresql",
    "adbc_driver_sqlite": "adbc-driver-sqlite",
    "firebird": "firebird-driver",
    "mysql": "mysql-connector-python",
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    **{
        name: name
        for name in (
            *("aiomysql", "asyncmy", "asyncpg", "duckdb", "fdb", "mariadb", "oracledb", "pg8000"),
            *("pymssql", "pymysql", "pyodbc"),
        )
    },
}
"""What to install for a module. Others are not guessed: a misspelt name may be somebody's trap."""


class _Refused(Exception):
    """The arguments make no sense."""


class _Parser(argparse.ArgumentParser):
    """One that repeats nothing of what it was given, since that may be a password."""

    def error(self, message: str) -> NoReturn:
        """End the program with what is wrong, in general words."""
        missing = message.startswith("the following arguments")
        where = message if missing else message.partition(":")[0]
        self.exit(_WRONG_USAGE, f"{self.format_usage()}{_NAME}: {where}; see --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What stands behind the program's name on the command line.

    Returns:
        0 where a connection was made, 1 where not.

    Raises:
        SystemExit: 2 where the arguments make no sense, 0 for `--help`.
    """
    parser = _parser()
    given = parser.parse_intermixed_args(arguments)
    secrets = Secrets()
    try:
        timeout = _seconds(given.timeout)
        keywords = _keywords(given.keywords)
        module = _module(given.module, asks=given.password)
        if given.password or given.password_env is not None:
            _add_password(keywords, given.password_as, given.password_env, secrets)
    except _Refused as refusal:
        parser.exit(_WRONG_USAGE, f"{_NAME}: {refusal}\n")
    check = Check(module, given.module, keywords, timeout=timeout, secrets=secrets, say=_say)
    try:
        with _silence():
            asyncio.run(check.run())
    except CheckFailed as failure:
        sys.stdout.flush()
        sys.stderr.write(f"{_NAME}: {given.module}: {failure}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m asyncdbpool",
        allow_abbrev=False,
        description=(
            "Connect through a pool, and tell what the driver can do here, how long things take, "
            "how many connections the server allows, and what that means for max_size."
        ),
        epilog=(
            "A password, or a DSN with one, comes from a prompt or from the environment, since "
            "others may see the arguments of a program. Exit status: 0 connected, 1 not, 2 wrong "
            "usage."
        ),
    )
    parser.add_argument("command", metavar="check", choices=["check"], help="the only command")
    parser.add_argument("module", metavar="MODULE", help="psycopg2, mysql.connector, ...")
    parser.add_argument(
        "keywords",
        metavar="KEY=VALUE",
        nargs="*",
        help="keywords of the module's connect(); whole numbers, true, false and none are no text",
    )
    password = parser.add_mutually_exclusive_group()
    password.add_argument("--password", action="store_true", help="ask for the password")
    password.add_argument(
        "--password-env", metavar="NAME", help="the environment variable that has the password"
    )
    parser.add_argument(
        "--password-as",
        metavar="KEY",
        default="password",
        help="its keyword, if that is not password: passwd, dsn, ...",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        default="5",
        help="for the connect, and for each thing that is tried (5)",
    )
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise _Refused("--timeout is a number of seconds, more than 0")
    return seconds


def _keywords(pairs: Sequence[str]) -> dict[str, Any]:
    keywords: dict[str, Any] = {}
    for place, pair in enumerate(pairs, 1):
        key, equals, text = pair.partition("=")
        if not (equals and key.isidentifier()):
            raise _Refused(f"argument {place} behind the module is not KEY=VALUE")
        if key in keywords:
            raise _Refused(f"{key} is given twice")
        if is_secret(key, text):
            raise _Refused(
                f"{key} seems to hold a password, which others could see in the list of "
                "processes; leave it out, and give --password, or --password-env NAME"
                + ("" if key == "password" else f", with --password-as {key}")
            )
        keywords[key] = _value(text)
    return keywords


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    digits = text.removeprefix("-")
    is_number = digits.isascii() and digits.isdigit() and (digits == "0" or digits[0] != "0")
    return int(text) if is_number else text


def _add_password(
    keywords: dict[str, Any], key: str, variable: str | None, secrets: Secrets
) -> None:
    if key in keywords:
        raise _Refused("one of the keywords is that of the password, too; see --password-as")
    password = _prompt() if variable is None else os.environ.get(variable)
    if password is None:
        raise _Refused("--password-env: the environment has no variable of that name")
    keywords[key] = secrets.keep(password)


def _prompt() -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass("Password: ")
    except (EOFError, getpass.GetPassWarning):
        raise _Refused(
            "--password: there is no terminal to ask at; use --password-env NAME"
        ) from None


def _module(name: str, *, asks: bool) -> Any:
    """Import a module, or a class of it."""
    try:
        module = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        if asks:  # then the name may be a password: `check --password hunter2 psycopg2`
            raise _Refused("there is no such MODULE; --password takes no value, it asks") from None
        raise _Refused(_reason(name, error)) from None
    except Exception as error:  # noqa: BLE001 - an import may run anything
        raise _Refused(_reason(name, error)) from None
    if not callable(getattr(module, "connect", None)):
        raise _Refused(f"{name} has no connect(); give a driver's module, such as sqlite3")
    return module


def _reason(name: str, error: Exception) -> str:
    """Say why a module is not there."""
    top = name.partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and error.name == top:
        if top in _PACKAGES:
            return f"{name} is not installed: python -m pip install '{_PACKAGES[top]}'"
        return f"{name} is not installed; install the package that has it"
    if isinstance(error, (AttributeError, ValueError)):
        return f"there is no module or class {name}"
    return f"{name} cannot be imported: {type(error).__name__}: {error}"


def _say(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the pool's log off the terminal, where nobody has asked for it."""
    log, handler = logging.getLogger("asyncdbpool"), logging.NullHandler()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
