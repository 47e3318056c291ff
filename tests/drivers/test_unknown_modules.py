"""Modules that nobody knows: what they have beyond PEP 249 is used where it can do no harm."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from asyncdbpool import ConnectionPool, Driver, PoolError
from asyncdbpool.testing import NEVER, Fake, check_invariants, settle, virtual_time
from support.access import eventually

DRIVER = Driver(SimpleNamespace(connect=lambda: None))


class Stand(sqlite3.Connection):
    """A connection of a module that nobody knows."""

    autocommit: Any = None


class Switched(Stand):
    """One with the `autocommit` that PEP 249 has for an extension."""

    @property
    def autocommit(self) -> bool:
        return self.isolation_level is None

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        if value != self.autocommit:
            if value:
                self.commit()
            self.isolation_level = None if value else "IMMEDIATE"

    def switch(self) -> None:
        self.autocommit = not self.autocommit


@asynccontextmanager
async def pool_of(
    kind: type[sqlite3.Connection], path: Path, *, threadsafety: Any = 1, **options: Any
) -> AsyncIterator[ConnectionPool]:
    """A pool of a module whose connections are such, with a table of numbers, in autocommit."""

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            path / "n.db", factory=kind, isolation_level=None, check_same_thread=False
        )

    module = SimpleNamespace(__name__="unknown", connect=connect, threadsafety=threadsafety)
    async with ConnectionPool(module, max_size=2, **options) as pool:
        await pool.execute("CREATE TABLE IF NOT EXISTS n (n INTEGER PRIMARY KEY)")
        yield pool
        check_invariants(pool)


async def numbers(pool: ConnectionPool) -> list[int]:
    return [n for (n,) in await pool.fetch_all("SELECT n FROM n ORDER BY n")]


def is_in_autocommit(raw: Any) -> bool:
    return raw.autocommit is True


# ------------------------------------------------------------------------------------------------
# autocommit


async def test_a_transaction_leaves_autocommit_until_it_ends(tmp_path: Path) -> None:
    async with pool_of(Switched, tmp_path) as pool, pool.connection() as conn:
        await conn.execute("INSERT INTO n VALUES (1)")
        assert await numbers(pool) == [1], "outside of a transaction it commits by itself"
        async with conn.transaction():
            assert not conn.autocommit
            await conn.execute("INSERT INTO n VALUES (2)")
            assert await numbers(pool) == [1]
        assert conn.autocommit
        assert await numbers(pool) == [1, 2]
        with pytest.raises(LookupError):
            async with conn.transaction():
                await conn.execute("INSERT INTO n VALUES (3)")
                async with conn.transaction():
                    await conn.execute("INSERT INTO n VALUES (4)")
                raise LookupError
        assert conn.autocommit
        assert await numbers(pool) == [1, 2]


async def test_a_one_shot_of_several_statements_is_all_or_nothing(tmp_path: Path) -> None:
    async with pool_of(Switched, tmp_path) as pool:
        with pytest.raises(sqlite3.IntegrityError):
            await pool.execute_many("INSERT INTO n VALUES (?)", [(1,), (2,), (1,)])
        assert await numbers(pool) == []
        assert await pool.execute_many("INSERT INTO n VALUES (?)", [(1,), (2,)]) == 2
        assert await numbers(pool) == [1, 2]
        assert await pool.run(is_in_autocommit)


async def test_a_borrowers_autocommit_is_not_the_next_ones(tmp_path: Path) -> None:
    def switch(raw: Any) -> None:
        raw.switch()

    async with pool_of(Switched, tmp_path, max_idle=60) as pool:
        async with pool.connection() as conn:
            conn.autocommit = False
            await conn.execute("INSERT INTO n VALUES (1)")
        assert await pool.run(is_in_autocommit)
        async with pool.connection() as conn:
            await conn.switch()
        assert await pool.run(is_in_autocommit)
        await pool.run(switch)
        assert await pool.run(is_in_autocommit)
        assert await numbers(pool) == []
        assert pool.stats().created == 1


async def test_autocommit_proves_nothing_about_a_transaction(tmp_path: Path) -> None:
    async with pool_of(Switched, tmp_path) as pool:
        async with pool.connection() as conn:
            await conn.execute("BEGIN")
            await conn.execute("INSERT INTO n VALUES (1)")
        assert await numbers(pool) == [], "what a statement has begun is rolled back"


async def test_an_autocommit_that_is_no_switch_is_left_alone(tmp_path: Path) -> None:
    class Called(Stand):
        def autocommit(self, value: bool) -> None:
            raise AssertionError(value)

    class Coded(Stand):
        autocommit = -1

    class Refused(Stand):
        @property
        def autocommit(self) -> bool:
            raise sqlite3.NotSupportedError("no such thing")

    for kind in (Stand, Called, Coded, Refused):
        async with pool_of(kind, tmp_path) as pool:
            async with pool.transaction() as conn:
                await conn.fetch_val("SELECT 1")
            assert pool.stats().created == 1


async def test_an_autocommit_that_cannot_be_left_fails_the_transaction(tmp_path: Path) -> None:
    class Fixed(Stand):
        @property
        def autocommit(self) -> bool:
            return True

    async with pool_of(Fixed, tmp_path) as pool:
        with pytest.raises(AttributeError, match="autocommit"):
            async with pool.transaction():
                raise AssertionError
        await pool.execute("INSERT INTO n VALUES (1)")
        assert await numbers(pool) == [1]


async def test_a_connection_that_goes_in_mid_transaction_leaves_no_note(tmp_path: Path) -> None:
    async with pool_of(Switched, tmp_path) as pool:
        driver: Any = pool._driver
        for end in ("discard", "close"):
            conn = await pool.get()
            await conn.transaction().__aenter__()
            assert len(driver._out_of_autocommit) == 1
            await getattr(conn, end)()
            assert driver._out_of_autocommit == {}
        assert await pool.run(is_in_autocommit)


# ------------------------------------------------------------------------------------------------
# closed


@pytest.mark.parametrize(
    ("closed", "believed"),
    [(True, True), (2, True), (False, False), (lambda: True, False), ("yes", False)],
)
def test_a_connection_that_says_it_is_closed_is_lost(closed: Any, believed: bool) -> None:
    raw = SimpleNamespace(closed=closed)
    assert DRIVER.is_disconnect(LookupError(), raw) is believed
    assert DRIVER.is_disconnect(ConnectionError(), raw)


@virtual_time
async def test_one_that_is_closed_after_an_error_retires_the_others() -> None:
    fake = Fake()
    async with fake.pool(driver=None, max_size=2) as pool:
        first, second = await pool.get(), await pool.get()
        await pool.put(second)

        def fail() -> None:
            fake.connections[0].closed = True
            raise fake.OperationalError("the server has gone")

        fake.execute.once(fail)
        with pytest.raises(fake.OperationalError):
            await first.execute("UPDATE t")
        fake.connections[0].closed = False  # so that the fake lets itself be closed
        await pool.put(first)
        assert await pool.fetch_val("SELECT n") == 1
        assert len(fake.connections) == 3


# ------------------------------------------------------------------------------------------------
# ping


class Pinged:
    """Notes what a driver does to a connection."""

    def __init__(self, **members: Any) -> None:
        self.done: list[str] = []
        vars(self).update(members)

    def cursor(self) -> Any:
        return SimpleNamespace(execute=self.done.append, fetchall=lambda: None, close=lambda: None)

    def rollback(self) -> None:
        self.done.append("rollback")


def test_a_ping_that_takes_nothing_is_the_modules_own() -> None:
    raw = Pinged()
    raw.ping = lambda: raw.done.append("ping")  # type: ignore[attr-defined] # as a module may
    DRIVER.ping(raw)
    assert raw.done == ["ping", "rollback"], "it may have begun a transaction"


@pytest.mark.parametrize(
    "ping",
    [
        lambda reconnect=True: None,
        lambda *args: None,
        lambda **options: None,
        lambda host: None,
        min,  # which does not tell what it takes
        True,
    ],
    ids=["reconnect", "args", "options", "required", "C", "value"],
)
def test_a_ping_that_may_connect_anew_is_not_used(ping: Any) -> None:
    raw = Pinged(ping=ping)
    DRIVER.ping(raw)
    assert raw.done == ["SELECT 1", "rollback"]


def test_a_ping_that_says_no_is_a_failed_one() -> None:
    with pytest.raises(ConnectionError, match="returned False"):
        DRIVER.ping(Pinged(ping=lambda: False))


@virtual_time
async def test_a_ping_that_fails_has_another_connection_lent() -> None:
    fake = Fake()
    async with fake.pool(driver=None, check="always") as pool:
        await pool.put(await pool.get())
        assert (await pool.fetch_val("SELECT n"), fake.ping.calls) == (1, 1)
        fake.ping.once(fake.Error("no answer"))
        assert await pool.fetch_val("SELECT n") == 1
        assert (fake.ping.calls, len(fake.connections)) == (2, 2)
        assert "SELECT 1" not in fake.statements


# ------------------------------------------------------------------------------------------------
# interrupt and cancel

SLOW = """
    WITH RECURSIVE c(n) AS (
        SELECT ifnull(begun(), 1) UNION ALL SELECT n + 1 FROM c WHERE n < 1000000000
    )
    SELECT max(n) FROM c
"""


async def test_what_runs_is_interrupted_and_its_connection_is_closed(tmp_path: Path) -> None:
    begun = threading.Event()

    class Telling(sqlite3.Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.create_function("begun", 0, begun.set)

    async def cancelled(statement: Awaitable[Any]) -> None:
        begun.clear()
        running = asyncio.ensure_future(statement)
        await eventually(begun.is_set)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()

    async with pool_of(Telling, tmp_path, threadsafety=3, max_idle=60) as pool:
        began = time.monotonic()
        async with pool.connection() as conn:
            await cancelled(conn.fetch_val(SLOW))
            assert await conn.fetch_val("SELECT 1") == 1, "the borrower goes on"
        assert (pool.idle, pool.stats().cancelled) == (0, 1)
        await cancelled(pool.fetch_val(SLOW))
        assert await numbers(pool) == []
        await eventually(lambda: pool.stats().discarded == 2)
        assert time.monotonic() - began < 60, "no statement has run to its end"


def shared() -> Fake:
    """A fake whose connections may be shared by threads, and interrupted."""
    fake = Fake()
    fake.threadsafety = 2
    return fake


@pytest.mark.parametrize("late", [0, 1, 2])
@virtual_time
async def test_a_cancel_that_is_late_hits_a_statement_of_nobodys(late: int) -> None:
    fake = shared()

    def hit() -> None:
        fake.connections[0].interrupted = True

    async with fake.pool(driver=None) as pool:
        async with pool.connection() as conn:
            fake.execute.once(NEVER, *[hit] * late)
            running = asyncio.ensure_future(conn.execute("SELECT n"))
            await settle()
            await conn.cancel()
            with pytest.raises(fake.OperationalError, match="interrupted"):
                await running
            assert fake.execute.calls == 1 + min(2, late + 1)
            assert await conn.fetch_val("SELECT n") == 1
        assert fake.open == 0, "nobody can say whether another one is on its way"
        driver: Any = pool._driver
        assert driver._cancelled == {}


@virtual_time
async def test_what_was_open_cannot_be_committed_after_a_cancel() -> None:
    fake = shared()
    async with fake.pool(driver=None) as pool:
        async with pool.connection() as conn:
            await conn.execute("INSERT")
            fake.execute.once(NEVER)
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await conn.execute("UPDATE t")
            with pytest.raises(PoolError, match="roll back"):
                await conn.commit()
            await conn.rollback()
            assert await conn.fetch_val("SELECT n") == 1
        with pytest.raises(PoolError, match="roll back"):
            async with pool.transaction() as conn:
                fake.execute.once(NEVER)
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await conn.execute("UPDATE t")
        assert [raw.calls["commit"] for raw in fake.connections] == [0, 0]
        assert fake.open == 0


def test_what_can_be_cancelled_depends_on_what_the_module_promises() -> None:
    def canceller(threadsafety: Any, **members: Any) -> Any:
        module = SimpleNamespace(connect=lambda: None, threadsafety=threadsafety)
        return Driver(module).canceller(SimpleNamespace(**members), (), {})

    done: list[str] = []
    interrupt, cancel = (lambda: done.append("interrupt")), (lambda: done.append("cancel"))
    for unsafe in (None, 0, 1, "2", True):
        assert canceller(unsafe, interrupt=interrupt, cancel=cancel) is None
    assert canceller(3) is None
    assert canceller(3, cancel=lambda statement: None) is None
    assert canceller(3, cancel="no method") is None
    canceller(2, cancel=cancel)(dict)
    canceller(3, interrupt=interrupt, cancel=cancel)(dict)
    canceller(2, cancel=lambda timeout=5: done.append("optional"))(dict)
    canceller(2, cancel=dict)(dict)  # in C, and does not tell what it takes
    assert done == ["cancel", "interrupt", "optional"]


@virtual_time
async def test_where_threads_may_not_share_a_connection_nothing_is_cancelled() -> None:
    fake = Fake()
    async with fake.pool(driver=None) as pool, pool.connection() as conn:
        with pytest.raises(PoolError, match="cannot cancel"):
            await conn.cancel()


# ------------------------------------------------------------------------------------------------
# The rest


async def test_a_module_may_have_properties_that_raise(tmp_path: Path) -> None:
    class Touchy(sqlite3.Connection):
        @property
        def touchy(self) -> Any:
            raise sqlite3.NotSupportedError("not with this database")

    for name in ("autocommit", "closed", "ping", "interrupt", "cancel", "fileno"):
        setattr(Touchy, name, Touchy.touchy)

    async with pool_of(Touchy, tmp_path, threadsafety=3, check="always") as pool:
        assert await pool.fetch_val("SELECT 1") == 1
        with pytest.raises(sqlite3.OperationalError):
            await pool.fetch_val("SELEKT 1")
        async with pool.transaction() as conn:
            await conn.fetch_val("SELECT 1")
        assert pool.stats().created == 1


@pytest.mark.parametrize("fileno", [7, "7", lambda: "7", lambda: 1 / 0, lambda which: which])
def test_what_gives_no_number_is_no_socket(fileno: Any) -> None:
    assert DRIVER.fileno(SimpleNamespace(fileno=fileno)) is None
