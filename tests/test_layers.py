"""Layers: imports point down, importing loads no driver, the public names are the promised."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import asyncdbpool

PACKAGE = Path(asyncdbpool.__file__).parent

LAYERS = [
    {"errors", "stats", "_stacks", "_options", "_permits"},
    {"drivers.dbapi"},
    {"drivers.sqlite3", "drivers.psycopg2", "drivers.mysqldb", "drivers"},
    {"_cursor"},
    {"_session", "_queries"},
    {"_workers", "_record"},
    {"_lease", "_quota", "_claims"},
    {"_connect"},
    {"_stock"},
    {"_reports", "_upkeep"},
    {"_engine"},
    {"proxies._members"},
    {"proxies.cursor", "proxies.connection", "proxies.transaction", "proxies"},
    {"_borrowing"},
    {"pool"},
    {"connector"},
    {""},
]
"""Who may import whom: those of a higher line those of a lower one, or of their own."""

NAMES = {
    "Connection",
    "ConnectionPool",
    "ConnectionReturned",
    "ConnectTimeout",
    "Cursor",
    "DatabaseConnector",
    "Driver",
    "LeaseInfo",
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


def imports(path: Path) -> set[str]:
    """The package's modules that a file imports when it runs, not only for the type checker."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} has a relative import"
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        for name in names:
            package, _, module = name.partition(".")
            if package == "asyncdbpool" and module in modules():
                found.add(module)
    return found - {""}


def layer(module: str) -> int:
    (number,) = [number for number, names in enumerate(LAYERS) if module in names]
    return number


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_down_the_layers(module: str) -> None:
    assert sum(module in names for names in LAYERS) == 1, f"give {module!r} a place in LAYERS"
    upwards = {other for other in imports(modules()[module]) if layer(other) > layer(module)}
    assert not upwards, f"{module} imports {upwards}"


def test_no_layer_names_a_module_that_is_gone() -> None:
    assert set().union(*LAYERS) == set(modules())


def test_importing_the_package_loads_no_driver_framework_or_exporter() -> None:
    code = "import asyncdbpool, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    answer = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
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
