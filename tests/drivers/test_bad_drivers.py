"""Drivers and entry points that are broken: a clear error, a pool that is whole, nothing lost."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import EntryPoint
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import aiomysql
import asyncpg
import pytest

from asyncdbpool import ConnectionPool, Driver, PoolError, PoolTimeout, drivers
from asyncdbpool.drivers import find_driver
from asyncdbpool.drivers._registered import Registered
from asyncdbpool.drivers.sqlite3 import SQLite3Driver
from asyncdbpool.testing import NEVER, Fake, check_invariants, settle, virtual_time
from asyncdbpool.testing.native import FakeNativeDriver, NativeFake

# ------------------------------------------------------------------------------------------------
# Modules whose `connect` is none


@pytest.mark.parametrize(
    "module",
    [None, "sqlite3", json, SimpleNamespace(connect="sqlite3"), object()],
    ids=["None", "a name", "a module", "no function", "an object"],
)
def test_what_has_no_connect_is_refused_by_name(module: Any) -> None:
    with pytest.raises(TypeError, match=r"has no connect\(\); give a driver's module") as caught:
        ConnectionPool(module)
    assert repr(module) in str(caught.value)


class Thing:
    """What a `connect()` may return by mistake."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Later(Thing):
    """What is to be awaited, without being a coroutine."""

    def __await__(self) -> Any:
        raise AssertionError("nobody is to wait for it")


async def later(**_: Any) -> Any:
    raise AssertionError("nobody is to wait for it")


NO_CONNECTIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, "returned None, not a connection"),
    "a number": (lambda: 7, r"returned int, which has no cursor\(\), not a connection"),
    "a thing": (Thing, r"returned Thing, which has no cursor\(\), not a connection"),
    "a cursor": (
        lambda: SimpleNamespace(cursor=None, close=lambda: 1 / 0),
        r"returned SimpleNamespace, which has no cursor\(\)",
    ),
    "a coroutine": (later, "returned coroutine, which is to be awaited; .* a NativeDriver"),
    "an awaitable": (Later, "returned Later, which is to be awaited; .* a NativeDriver"),
    "asyncpg's": (
        lambda: asyncpg.connect(),  # noqa: PLW0108 - not before the test
        "returned coroutine, which is to be awaited",
    ),
    "aiomysql's": (
        lambda: aiomysql.connect(),  # noqa: PLW0108 - as above
        "returned _ConnectionContextManager, which is to be awaited",
    ),
}


@asynccontextmanager
async def whole(fake: Fake, **options: Any) -> AsyncIterator[ConnectionPool]:
    """A pool with the generic driver, which is as it was when the block ends, and works."""
    async with fake.pool(driver=None, **options) as pool:
        yield pool
        check_invariants(pool)
        assert (pool.free, pool.stats().in_use) == (pool.max_size, 0)
        assert await pool.fetch_val("SELECT n") == 1


@pytest.mark.parametrize("kind", NO_CONNECTIONS)
async def test_a_connect_that_returns_something_else_says_what(kind: str) -> None:
    make, words = NO_CONNECTIONS[kind]
    connected = Fake()
    module = SimpleNamespace(__name__="odd", connect=make)
    async with ConnectionPool(module, driver=Driver(module), name="orders") as pool:
        attempts: list[Callable[[], Awaitable[Any]]] = [
            pool.get,
            lambda: pool.fetch_val("SELECT n"),
        ]
        for attempt in attempts:
            with pytest.raises(PoolError, match=rf"pool 'orders': connect\(\) of .*{words}"):
                await attempt()
            check_invariants(pool)
            assert (pool.free, pool.size) == (pool.max_size, 0)
        assert pool.stats().connect_errors == 2
        module.connect = connected.connect
        assert await pool.fetch_val("SELECT n") == 1
    connected.check(pool)


async def test_what_is_no_connection_is_closed_all_the_same() -> None:
    made: list[Thing] = []

    def connect() -> Thing:
        made.append(Thing())
        return made[-1]

    async with ConnectionPool(SimpleNamespace(connect=connect)) as pool:
        with pytest.raises(PoolError, match="not a connection"):
            await pool.get()
    assert [thing.closed for thing in made] == [True]


@pytest.mark.parametrize("answer", [lambda: None, later], ids=["nothing", "a coroutine"])
async def test_a_cursor_that_is_none_is_told_ahead_of_the_first_statement(
    answer: Callable[[], Any],
) -> None:
    closed: list[bool] = []
    raw = SimpleNamespace(cursor=answer, close=lambda: closed.append(True))
    async with ConnectionPool(SimpleNamespace(connect=lambda: raw), name="orders") as pool:
        words = r"pool 'orders': cursor\(\) of a connection of .* no execute\(\), not a cursor"
        with pytest.raises(PoolError, match=words):
            await pool.fetch_val("SELECT 1")
        check_invariants(pool)
        assert pool.free == pool.max_size
    assert closed == [True]


# ------------------------------------------------------------------------------------------------
# The wrong kind of driver


async def test_a_blocking_module_with_a_driver_for_asyncio_is_told_so() -> None:
    blocking = Fake()
    pool = ConnectionPool(blocking, driver=FakeNativeDriver(blocking))
    words = r"connect\(\) of .* returned FakeConnection, .*FakeNativeDriver.* needs a Driver"
    with pytest.raises(PoolError, match=words):
        await pool.get()
    check_invariants(pool)
    assert pool.free == pool.max_size
    assert (blocking.open, len(blocking.connections)) == (0, 1), "it has been closed"
    await pool.close()


async def test_what_a_native_connect_returns_may_be_anything() -> None:
    module = SimpleNamespace(connect=lambda: 7)
    pool = ConnectionPool(module, driver=FakeNativeDriver(module))
    with pytest.raises(PoolError, match="returned int, which cannot be awaited"):
        await pool.get()
    await pool.close()


async def test_a_native_module_without_a_driver_of_its_own_is_told_so() -> None:
    native = NativeFake()
    async with ConnectionPool(native) as pool:
        with pytest.raises(PoolError, match=r"is to be awaited; .* needs `driver=`"):
            await pool.get()
        check_invariants(pool)
    assert native.connections == []


# ------------------------------------------------------------------------------------------------
# Drivers that fail at a step


async def one_shot(pool: ConnectionPool) -> None:
    await pool.fetch_all("SELECT n")


async def block(pool: ConnectionPool) -> None:
    async with pool.connection() as conn:
        await conn.execute("INSERT")
        cursor = conn.cursor()
        await cursor.execute("SELECT n")
        await cursor.fetchall()
        await cursor.close()
        await conn.commit()


async def transaction(pool: ConnectionPool) -> None:
    async with pool.transaction() as conn, conn.transaction():
        await conn.execute("INSERT")


STEPS = ("connect", "cursor", "cursor_close", "execute", "fetch", "commit", "rollback", "close")


@pytest.mark.parametrize("use", [one_shot, block, transaction])
@pytest.mark.parametrize("step", STEPS)
@virtual_time
async def test_a_driver_that_raises_at_any_step_loses_nothing(
    step: str, use: Callable[[ConnectionPool], Awaitable[None]]
) -> None:
    fake = Fake()
    async with whole(fake, max_size=2, max_uses=2) as pool:
        for spared in range(6):
            gate = getattr(fake, step)
            gate.once(*[None] * spared, fake.Error(f"no {step} today"))
            with suppress(fake.Error):
                await use(pool)
            await settle()
            check_invariants(pool)
            assert (pool.free, fake.most <= 2) == (2, True)
            gate.open()
        await pool.clear()
        assert fake.open == 0


@virtual_time
async def test_a_close_that_hangs_holds_its_own_permit_and_no_other() -> None:
    fake = Fake()
    async with whole(fake, max_size=2, timeout=3) as pool:
        fake.close.once(NEVER)
        conn = await pool.get()
        returning = asyncio.create_task(conn.discard())
        await settle()
        assert (pool.free, pool.stats().in_use, fake.open) == (1, 1, 1)
        async with pool.connection():
            with pytest.raises(PoolTimeout, match="no connection within 3"):
                await pool.get()
        check_invariants(pool)
        fake.close.open()
        await returning
        assert fake.open == 1, "the one that the other borrower has left"


@virtual_time
async def test_a_close_that_hangs_ends_with_its_socket() -> None:
    fake = Fake(sockets=True)
    async with whole(fake, max_size=1, cancel_grace=5) as pool:
        fake.close.once(NEVER)
        conn = await pool.get()
        async with asyncio.timeout(5.1):
            await conn.discard()
        assert fake.open == 0


@virtual_time
async def test_a_pool_closes_although_a_connection_does_not() -> None:
    fake = Fake()
    async with fake.pool(driver=None, cancel_grace=5) as pool:
        await pool.put(await pool.get())
        fake.close.once(NEVER)
        async with asyncio.timeout(2 + 5 + 1 + 0.1):
            await pool.close(timeout=2)
        check_invariants(pool, stuck=1)
        fake.close.open()
        await asyncio.sleep(1)
        assert fake.open == 0


# ------------------------------------------------------------------------------------------------
# Entry points

EXOTIC = SimpleNamespace(__name__="exotic", connect=lambda: None)

SOURCE = """
    from asyncdbpool import Driver, NativeDriver

    class Special(Driver):
        host_keyword = "server"

    class Other(Driver):
        pass

    class Failing(Driver):
        def __init__(self, module):
            raise RuntimeError("no licence")

    class Abstract(NativeDriver):
        pass

    def function(module):
        return Driver(module)

    class Stranger:
        def __init__(self, module):
            pass
"""

Packages = Callable[..., None]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    """Puts packages where Python finds them, and has the library look for their drivers."""

    def install(**entry_points: str) -> None:
        folder = tmp_path / "packages"
        for name, lines in entry_points.items():
            put_package(folder, name, lines)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setattr(drivers, "_REGISTERED", Registered())

    monkeypatch.delitem(sys.modules, "exotic_driver", raising=False)
    return install


def put_package(folder: Path, name: str, lines: str) -> None:
    """Write down a distribution that registers something."""
    about = folder / f"{name}-1.5.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (about / "entry_points.txt").write_text(f"[asyncdbpool.drivers]\n{lines}\n")
    (folder / "exotic_driver.py").write_text(dedent(SOURCE))


def test_a_driver_is_found_by_what_another_package_has_registered(packages: Packages) -> None:
    assert type(find_driver(EXOTIC)) is Driver
    packages(exotic_pool="exotic = exotic_driver:Special\nsqlite3 = exotic_driver:Special")
    found = find_driver(EXOTIC)
    assert (type(found).__name__, found.host_keyword) == ("Special", "server")
    import sqlite3

    assert type(find_driver(sqlite3)) is SQLite3Driver, "the library's own come first"


BROKEN = {
    "no_such_module:Driver": (ModuleNotFoundError, "No module named 'no_such_module'"),
    "exotic_driver:Missing": (AttributeError, "Missing"),
    "exotic_driver:Failing": (RuntimeError, "no licence"),
    "exotic_driver:Abstract": (TypeError, "abstract"),
    "exotic_driver:function": (TypeError, "is no subclass of Driver or NativeDriver"),
    "exotic_driver:Stranger": (TypeError, "is no subclass of Driver or NativeDriver"),
    "exotic_driver": (TypeError, "is no subclass of Driver or NativeDriver"),
    "exotic driver!": (Exception, ""),
}


@pytest.mark.parametrize("value", BROKEN)
def test_a_broken_entry_point_is_told_with_its_package_and_its_cause(
    packages: Packages, value: str
) -> None:
    kind, words = BROKEN[value]
    packages(exotic_pool=f"exotic = {value}")
    with pytest.raises(PoolError, match=r"module 'exotic'.*or give `driver=`") as caught:
        ConnectionPool(EXOTIC)
    assert f"exotic_pool 1.5 with 'exotic = {value}'" in str(caught.value)
    assert isinstance(caught.value.__cause__, kind)
    assert words in str(caught.value)
    assert str(caught.value.__cause__) in str(caught.value)
    pool = ConnectionPool(EXOTIC, driver=Driver(EXOTIC))
    assert pool.free == pool.max_size, "as it says, one can do without"


def test_a_broken_entry_point_matters_to_its_own_module_only(packages: Packages) -> None:
    packages(exotic_pool="exotic = no_such_module:Driver")
    assert type(find_driver(SimpleNamespace(__name__="plain", connect=lambda: None))) is Driver


def test_a_module_without_connect_is_to_blame_itself(packages: Packages) -> None:
    packages(exotic_pool="exotic = exotic_driver:Special")
    with pytest.raises(TypeError, match=r"has no connect\(\)"):
        find_driver(SimpleNamespace(__name__="exotic"))


def test_two_packages_for_one_module_are_one_too_many(packages: Packages) -> None:
    packages(b_pool="exotic = exotic_driver:Special", a_pool="exotic = exotic_driver:Other")
    words = (
        "more than one package registers a driver for module 'exotic': "
        r"a_pool 1\.5 with 'exotic = exotic_driver:Other', "
        r"b_pool 1\.5 with 'exotic = exotic_driver:Special'; .*`driver=`"
    )
    with pytest.raises(PoolError, match=words):
        find_driver(EXOTIC)


def test_two_packages_that_register_the_same_are_as_one(packages: Packages) -> None:
    packages(b_pool="exotic = exotic_driver:Special", a_pool="exotic = exotic_driver:Special")
    assert type(find_driver(EXOTIC)).__name__ == "Special"


def test_a_file_that_cannot_be_read_keeps_nobody_else_from_being_found(
    packages: Packages, caplog: pytest.LogCaptureFixture
) -> None:
    packages(a_pool="this is no entry point", b_pool="exotic = exotic_driver:Special")
    assert type(find_driver(EXOTIC)).__name__ == "Special"
    assert caplog.text == ""
    assert type(find_driver(SimpleNamespace(__name__="plain", connect=lambda: None))) is Driver
    assert "the entry points of a_pool 1.5 (" in caplog.text
    assert "cannot be read; should it register a driver for 'plain'" in caplog.text


def test_a_package_that_hides_another_one_counts_alone(
    packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_package(tmp_path / "hidden", "exotic_pool", "exotic = exotic_driver:Other")
    monkeypatch.syspath_prepend(str(tmp_path / "hidden"))
    packages(exotic_pool="exotic = exotic_driver:Special", a_pool="this is no entry point")
    assert type(find_driver(EXOTIC)).__name__ == "Special"


def test_a_package_may_have_no_name(packages: Packages, tmp_path: Path) -> None:
    put_package(tmp_path / "packages", "exotic_pool", "exotic = no_such_module:Driver")
    (tmp_path / "packages" / "exotic_pool-1.5.dist-info" / "METADATA").unlink()
    packages()
    with pytest.raises(PoolError, match="cannot be used: a package without a name with 'exotic ="):
        find_driver(EXOTIC)


def test_an_entry_point_may_come_from_nowhere() -> None:
    registered = Registered()
    registered.entries["exotic"] = [EntryPoint("exotic", "no_such_module:Driver", "any")]
    with pytest.raises(PoolError, match="cannot be used: a package without a name with 'exotic ="):
        registered.make("exotic", EXOTIC)


# ------------------------------------------------------------------------------------------------
# A package that is really installed


def wheel_of(folder: Path) -> Path:
    """Make a wheel of a tiny package that brings a module and registers a driver for it."""
    files = {
        "tinydb.py": """
            import sqlite3

            connect = sqlite3.connect
        """,
        "tinydb_pool.py": """
            import sqlite3

            from asyncdbpool.drivers.sqlite3 import SQLite3Driver

            class TinyDriver(SQLite3Driver):
                def __init__(self, module):
                    super().__init__(sqlite3)
        """,
        "tinydb_pool-0.1.dist-info/METADATA": """
            Metadata-Version: 2.1
            Name: tinydb-pool
            Version: 0.1
        """,
        "tinydb_pool-0.1.dist-info/WHEEL": """
            Wheel-Version: 1.0
            Generator: by hand
            Root-Is-Purelib: true
            Tag: py3-none-any
        """,
        "tinydb_pool-0.1.dist-info/entry_points.txt": """
            [asyncdbpool.drivers]
            tinydb = tinydb_pool:TinyDriver
        """,
    }
    record = "tinydb_pool-0.1.dist-info/RECORD"
    wheel = folder / "tinydb_pool-0.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, dedent(text).lstrip())
        archive.writestr(record, "".join(f"{name},,\n" for name in [*files, record]))
    return wheel


def install(wheel: Path, target: Path) -> None:
    """Install a wheel, without a network; a virtual environment may have no pip."""
    if importlib.util.find_spec("pip") is None:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
        return
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(wheel)],
        check=True,
        env=os.environ | {"PIP_CONFIG_FILE": os.devnull},
    )


USE = """
    import asyncio, tinydb
    from asyncdbpool import ConnectionPool

    async def main():
        async with ConnectionPool(tinydb, ":memory:") as pool:
            print(type(pool._driver).__name__, await pool.fetch_val("SELECT 7"))

    asyncio.run(main())
"""


def test_an_installed_package_brings_its_driver(tmp_path: Path) -> None:
    target = tmp_path / "site"
    install(wheel_of(tmp_path), target)
    path = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")]))
    answer = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", dedent(USE)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert (answer.stdout, answer.stderr) == ("TinyDriver 7\n", "")
