"""The package from outside: what importing it loads, and the names that it promises."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import asyncdbpool

PACKAGE = Path(asyncdbpool.__file__).parent

NAMES = {
    "Connection",
    "ConnectionPool",
    "ConnectionReturned",
    "ConnectTimeout",
    "Cursor",
    "DatabaseConnector",
    "Driver",
    "LeaseInfo",
    "NativeConnection",
    "NativeDriver",
    "PoolClosed",
    "PoolDeadlock",
    "PoolError",
    "PoolStats",
    "PoolTimeout",
    "TooManyWaiters",
    "Transaction",
    "UnknownHost",
    "WrongEventLoop",
}


def modules() -> dict[str, Path]:
    """The package's modules by their dotted names, "" for the package itself."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def test_importing_the_package_loads_no_driver_framework_or_exporter() -> None:
    code = "import asyncdbpool, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    answer = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    loaded = set(answer.stdout.split())

    assert "asyncdbpool" in loaded
    third_party = loaded - set(sys.stdlib_module_names) - {"asyncdbpool"}
    allowed = {"anyio", "sniffio", "idna", "typing_extensions"}
    # What starts with an underscore comes from the interpreter's own start-up.
    assert {name for name in third_party if not name.startswith("_")} <= allowed
    assert not loaded & {"sqlite3", "psycopg2", "MySQLdb", "asyncpg", "aiomysql", "uvloop"}


def test_the_public_names_are_the_promised_ones() -> None:
    assert set(asyncdbpool.__all__) == NAMES
    assert len(asyncdbpool.__all__) == len(NAMES)
    exported = {
        name
        for name, value in vars(asyncdbpool).items()
        if not name.startswith("_") and not isinstance(value, type(asyncdbpool))
    }
    assert exported == NAMES


@pytest.mark.parametrize("module", sorted(modules()))
def test_every_module_says_what_it_exports_and_what_lives_there(module: str) -> None:
    tree = ast.parse(modules()[module].read_text())
    docstring = ast.get_docstring(tree)
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":"))
    if module:
        assert "__all__" in modules()[module].read_text()


def test_the_errors_have_the_bases_that_users_catch_them_by() -> None:
    for name in NAMES:
        value = getattr(asyncdbpool, name)
        if isinstance(value, type) and issubclass(value, Exception):
            assert issubclass(value, asyncdbpool.PoolError)
    assert issubclass(asyncdbpool.PoolTimeout, TimeoutError)
    assert issubclass(asyncdbpool.ConnectTimeout, TimeoutError)
    assert issubclass(asyncdbpool.UnknownHost, LookupError)
