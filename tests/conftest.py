"""What every test gets: an event loop by choice, real servers on demand, and a watch on blocking.

The environment decides two things: `ASYNCDBPOOL_LOOP` (asyncio, the default, or uvloop) names the
event loop, and with `CI` set a test may not be skipped, for whatever reason.
"""

import asyncio
import gc
import inspect
import os
import platform
import signal
from collections.abc import Callable, Generator, Iterator
from importlib.metadata import version
from typing import TypeVar

import pytest
from blockbuster import BlockBuster, BlockBusterFunction

from support.mutants import is_near
from support.servers import (
    SERVERS,
    FirebirdServer,
    MariaDBServer,
    PostgresServer,
    Server,
    ServerMissing,
)

IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}
LOOP = os.environ.get("ASYNCDBPOOL_LOOP", "asyncio")

AnyServer = TypeVar("AnyServer", bound=Server)

pytest_plugins = ["support.fixtures", "support.figures"]


def pytest_configure() -> None:
    # Whoever ends the run with SIGTERM, a CI's time limit say, ends the servers with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Spare the invariant checker, which looks at every object there is, the suite's own."""
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # otherwise DuckDB takes what is frozen for leaks


def pytest_report_header() -> list[str]:
    loop = LOOP
    if LOOP == "uvloop":
        loop = f"uvloop {version('uvloop')}"
    return [
        f"Python: {platform.python_implementation()} {platform.python_version()}, loop: {loop}",
        *(f"{kind.title}: {kind.installed_version() or 'not found'}" for kind in SERVERS),
    ]


# ------------------------------------------------------------------------------------------------
# The event loop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if LOOP == "uvloop":
        import uvloop

        return {"uvloop": uvloop.new_event_loop}
    if LOOP == "asyncio":
        return {"asyncio": asyncio.new_event_loop}
    raise pytest.UsageError(f"ASYNCDBPOOL_LOOP is asyncio or uvloop, not {LOOP!r}")


@pytest.fixture(scope="session")
def _blockbuster() -> BlockBuster:
    """The watch on blocking calls, made once because making it takes longer than many a test."""
    guard = BlockBuster("asyncdbpool", excluded_modules=["asyncdbpool.testing"])
    # The drivers block in C, where blockbuster cannot look; these are their ways in.
    for module in ("sqlite3", "psycopg2", "psycopg", "MySQLdb", "pymysql", "duckdb", "pyodbc"):
        name = f"{module}.connect"
        guard.functions[name] = BlockBusterFunction(None, name, scanned_modules="asyncdbpool")
    for function in guard.functions.values():
        # asyncpg looks for the user's keys and passwords in files, whenever it connects.
        function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_arguments")
        # The measuring takes a lock of its own, wherever it comes along.
        function.can_block_in("coverage/collector.py", "lock_data")
    return guard


@pytest.fixture(autouse=True)
def blockbuster(_blockbuster: BlockBuster) -> Iterator[BlockBuster]:
    """Fails a test in which the library blocks the event loop; the test itself may block it."""
    _blockbuster.activate()
    yield _blockbuster
    _blockbuster.deactivate()


# ------------------------------------------------------------------------------------------------
# Servers


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A private PostgreSQL, started for the first test that asks for it and shared by all."""
    yield from running(PostgresServer)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDBServer]:
    """A private MariaDB, started for the first test that asks for it and shared by all."""
    yield from running(MariaDBServer)


@pytest.fixture(scope="session")
def firebird() -> Iterator[FirebirdServer]:
    """A private Firebird, started for the first test that asks for it and shared by all."""
    yield from running(FirebirdServer)


def running(kind: type[AnyServer]) -> Iterator[AnyServer]:
    try:
        server = kind()
    except ServerMissing as missing:
        pytest.skip(str(missing))  # which fails in CI, as every skip does
    with server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the users of a server, so that `-m "not mariadb"` needs nobody's care.

    Virtual time has an event loop of its own, so it is left out where another one is asked for.
    """
    if LOOP != "asyncio":
        items[:] = [item for item in items if not is_virtual(item)]
    for item in items:
        for name in {"postgres", "mariadb", "firebird"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(name)
    mutant = os.environ.get("MUTANT_UNDER_TEST", "")  # set by mutmut
    if mutant.startswith("asyncdbpool."):
        items.sort(key=lambda item: (not is_near(item.path, mutant), waits(item)))


def waits(item: pytest.Item) -> bool:
    """Tell whether a test may wait for the real clock; the others are tried first."""
    return inspect.iscoroutinefunction(getattr(item, "function", None))


def is_virtual(item: pytest.Item) -> bool:
    """Tell what `virtual_time` has made a plain function of, or what says so itself."""
    function = getattr(item, "function", None)
    wrapped = inspect.iscoroutinefunction(inspect.unwrap(function)) if function else False
    return item.get_closest_marker("virtual") is not None or (
        wrapped and not inspect.iscoroutinefunction(function)
    )


# ------------------------------------------------------------------------------------------------
# No skips in CI


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        fail_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        fail_in_ci(report)
    return report


def fail_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure where nothing may be left out."""
    if IN_CI:
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"no test is skipped in CI, but this one says: {reason}"
