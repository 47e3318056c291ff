"""What the README and docs/ say of the library is so: options, members, files, states, links."""

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import aiomysql
import asyncpg
import pytest

import asyncdbpool
from asyncdbpool import (
    Connection,
    ConnectionPool,
    Cursor,
    DatabaseConnector,
    Driver,
    NativeDriver,
    PoolError,
    Transaction,
)
from asyncdbpool._record import MOVES, State
from asyncdbpool.drivers import BaseDriver, find_driver
from support.documents import PAGES, README, ROOT, anchors, blocks, prose, rows
from support.lineup import DRAWN, drawn, versions
from support.subjects import Subject, subjects

SOURCE = ROOT / "src" / "asyncdbpool"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
DRIVERS = ROOT / "docs" / "drivers.md"
FILES = sorted(
    str(path.relative_to(SOURCE))
    for path in SOURCE.rglob("*")
    if path.suffix == ".py" or path.name == "py.typed"
)
EVERYTHING = "".join(page.read_text("utf-8") for page in PAGES)


def quoted(text: str) -> list[str]:
    """The words in code style."""
    return re.findall(r"`([^`]+)`", text)


# ------------------------------------------------------------------------------------------------
# The README


def test_the_table_of_options_is_the_signature() -> None:
    table = rows(README, "option")
    documented = {
        quoted(option)[0]: ast.literal_eval(quoted(default)[0]) for option, default, *_ in table
    }
    assert len(documented) == len(table), "an option is in the table twice"
    signature = inspect.signature(ConnectionPool)
    actual = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert documented == actual
    assert {name: type(value) for name, value in documented.items()} == {
        name: type(value) for name, value in actual.items()
    }


@pytest.mark.parametrize("name", asyncdbpool.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    assert re.search(rf"\b{name}\b", EVERYTHING)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in (ConnectionPool, DatabaseConnector, Connection, Cursor, Transaction)
        for name in vars(kind)
        if not name.startswith("_")
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_every_public_member_is_documented(kind: type, name: str) -> None:
    assert re.search(rf"\b{name}\b", EVERYTHING), f"{kind.__name__}.{name}"


def test_every_error_is_in_the_table_of_errors() -> None:
    errors = {
        name
        for name in asyncdbpool.__all__
        if inspect.isclass(kind := getattr(asyncdbpool, name)) and issubclass(kind, PoolError)
    }
    assert {quoted(row[0])[0] for row in rows(README, "error")} == errors


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.read_text("utf-8").splitlines()) < 300


def test_the_commands_of_the_readme_are_there() -> None:
    commands = "\n".join(block.code for block in blocks(README, "console"))
    assert "python3 noxfile.py demo" in commands
    noxfile = ast.parse((ROOT / "noxfile.py").read_text("utf-8"))
    assert "demo" in {node.name for node in noxfile.body if isinstance(node, ast.FunctionDef)}


def test_the_extras_of_the_readme_are_declared() -> None:
    tomllib = importlib.import_module("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = set(project["optional-dependencies"])
    readme = README.read_text("utf-8")
    (sentence,) = re.findall(r"The extras for drivers are (.+?)\. Any other", readme, re.DOTALL)
    assert set(quoted(sentence)) == extras


# ------------------------------------------------------------------------------------------------
# The architecture


def layers() -> list[str]:
    """The files in the order of the table, the highest first."""
    return [name for row in rows(ARCHITECTURE, "layer") for name in quoted(row[1])]


def test_every_file_has_its_place_in_the_layers_and_only_one() -> None:
    assert sorted(layers()) == FILES


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".py")])
def test_imports_point_down_the_layers(name: str) -> None:
    order = {_module(file): place for place, file in enumerate(layers())}
    allowed = {module for module, place in order.items() if place > order[_module(name)]}
    tree = ast.parse((SOURCE / name).read_text("utf-8"))
    assert _imported(tree.body) & set(order) <= allowed


def _module(file: str) -> str:
    dotted = "asyncdbpool." + file.removesuffix(".py").replace("/", ".")
    return dotted.removesuffix(".__init__")


def _imported(body: list[ast.stmt]) -> set[str]:
    """What is imported when the module is; imports for type checkers alone do not count."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = {part for part in parts if _is_module(part)}
            found |= submodules or {node.module}
    return found


def _is_module(dotted: str) -> bool:
    path = SOURCE.parent.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def test_the_drawing_shows_the_legal_moves() -> None:
    (drawing,) = blocks(ARCHITECTURE, "mermaid")
    drawn = {
        (State[start], State[end])
        for start, end in re.findall(r"^ *(\w+) --> (\w+):", drawing.code, flags=re.MULTILINE)
    }
    assert drawn == {(start, end) for start, ends in MOVES.items() for end in ends}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    paths = re.findall(r"`((?:src|docs|tests|examples)/[\w./-]+|_\w+\.py)`", prose(page))
    for path in paths:
        home = SOURCE if path.startswith("_") else ROOT
        assert (home / path).exists(), path


@pytest.mark.parametrize("cell", [row[1] for row in rows(ARCHITECTURE, "to change")])
def test_functions_that_are_named_are_in_their_file(cell: str) -> None:
    for file, functions in re.findall(r"`(\w+\.py)`: ((?:`\w+\(\)`(?:, )?)+)", cell):
        source = (SOURCE / file).read_text("utf-8")
        for function in quoted(functions):
            assert f"def {function.removesuffix('()')}(" in source, f"{file}: {function}"


# ------------------------------------------------------------------------------------------------
# The drivers


def test_the_table_of_versions_names_the_drivers_that_the_suite_runs_with() -> None:
    """Their versions are those of the last drawing: a new release is no mistake of the page's."""
    _, table, _ = drawn("versions")
    line = re.compile(r"^\| (`[^|]+`) \| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
    on_page, now = (line.findall(text) for text in (table, versions()))
    assert [(name, base) for name, _, base, _ in on_page] == [(n, b) for n, _, b, _ in now]
    assert all(re.search(r"\d|this process", cell) for row in on_page for cell in row[1::2])


@pytest.mark.parametrize("name", ["abilities", "conformance"])
def test_what_is_made_of_the_code_is_as_on_the_page(name: str) -> None:
    _, table, _ = drawn(name)
    page, draw = DRAWN[name]
    assert draw() == table, f"`PYTHONPATH=tests python -m support.lineup` redraws {page.name}"


@pytest.mark.parametrize("subject", subjects(), ids=str)
def test_what_a_driver_is_without_is_what_its_file_lacks(subject: Subject) -> None:
    driver: Any = find_driver(subject.module)
    generic: Any = NativeDriver if subject.native else Driver
    assert subject.has("reset") is driver.can_reset
    assert subject.has("cancel") is (type(driver).canceller is not generic.canceller)
    assert subject.has("procedures") is bool(subject.procedure)
    if subject.has("probe"):
        assert type(driver).in_transaction is not BaseDriver.in_transaction


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("ability", ["sqlite3", "psycopg2", "MySQLdb", "asyncpg", "aiomysql", ""]),
        ("ability of its kin", ["psycopg", "pymysql", "duckdb", "pyodbc"]),
    ],
)
def test_the_tables_of_drivers_agree_with_what_can_be_asked_of_a_driver(
    title: str, names: list[str]
) -> None:
    table = {row[0]: row[1:] for row in rows(DRIVERS, title)}
    for column, name in enumerate(names):
        driver: Any = (
            find_driver(importlib.import_module(name))
            if name
            else Driver(importlib.import_module("sqlite3"))
        )
        host = "none" if driver.host_keyword is None else f"`{driver.host_keyword}`"
        assert table["keyword for the host"][column] == host
        assert table["keyword for the database"][column] == f"`{driver.database_keyword}`"
        closes = table['`cleanup="reset"`'][column] == "closes the connection"
        assert closes is not driver.can_reset
        where = "on the loop" if driver.native else "on a thread"
        assert table["statements run"][column] == where
        if isinstance(driver, Driver):
            restored = table["attributes restored whoever changed them"][column]
            assert set(quoted(restored)) == set(driver.session_attributes)
        options = set(quoted(table["`transaction()` begins with"][column]))
        assert options >= set(driver.transaction_options)
        file = f"{type(driver).__module__.rpartition('.')[2]}.py"
        assert table["file"][column] == f"`{file}`"


@pytest.mark.parametrize(("driver", "title"), [(asyncpg, "asyncpg's"), (aiomysql, "aiomysql's")])
def test_nothing_that_a_drivers_own_pool_offers_is_left_out(driver: Any, title: str) -> None:
    table = rows(DRIVERS, "asyncpg's `Pool`")
    column = {"asyncpg's": 0, "aiomysql's": 1}[title]
    listed = " ".join(name for row in table for name in quoted(row[column]))
    options = set(inspect.signature(driver.create_pool).parameters)
    offered = {name for name in vars(driver.pool.Pool) if not name.startswith("_")} | options
    # Every connect keyword passes through; a pool has the loop that it is used on.
    offered -= {"dsn", "kwargs", "connect_kwargs", "loop"}
    offered = {re.sub("^copy_.*", "copy_", re.sub("^get_.*_size", "get_size", o)) for o in offered}
    assert {name for name in offered if not re.search(rf"\b{name}(\b|_)", listed)} == set()
    assert all(row[2] not in ("", "—") for row in table), "and there is something in its place"


@pytest.mark.parametrize(
    ("kind", "table", "unlisted"),
    [
        (Driver, "to tell the pool", {"command", "native"}),
        (NativeDriver, "of a native driver, to tell the pool", {"native"}),
    ],
)
def test_what_a_driver_can_override_is_listed(kind: type, table: str, unlisted: set[str]) -> None:
    listed = {name for row in rows(DRIVERS, table) for name in quoted(row[1])}
    own = {name for name in vars(kind) if not name.startswith("_")}
    common = {name for name in vars(BaseDriver) if not name.startswith("_")}
    # What both kinds have is listed once, with the blocking ones.
    assert (own | common if kind is Driver else own) - unlisted <= listed
    assert listed <= own | common | {"guests"}


# ------------------------------------------------------------------------------------------------
# Every page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


def test_every_page_is_linked_from_the_readme() -> None:
    for page in PAGES[1:]:
        assert f"(docs/{page.name})" in README.read_text("utf-8")
