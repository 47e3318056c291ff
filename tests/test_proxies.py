"""What proxies do without much of a database: passing on, refusing, telling what they are."""

import asyncio
import gc
import sqlite3
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

from asyncdbpool import Connection, ConnectionPool, ConnectionReturned, PoolError
from asyncdbpool._cursor import BATCH
from asyncdbpool._workers import Job
from asyncdbpool.drivers.sqlite3 import SQLite3Driver
from asyncdbpool.proxies._members import is_method
from asyncdbpool.proxies.cursor import Execution
from asyncdbpool.testing import NEVER, Fake, now, settle, virtual_time

# ------------------------------------------------------------------------------------------------
# Methods and values


class Thing:
    """An object of a driver's, with everything that can be called."""

    kind = dict
    number = 3

    def __init__(self) -> None:
        self.factory = lambda: None
        self.bound = [1].append
        self.borrowed = len

    def method(self) -> None: ...

    @staticmethod
    def static() -> None: ...

    @property
    def handler(self) -> Callable[[int], None]:
        return [1].append


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("method", True),
        ("static", True),
        ("bound", True),
        ("handler", False),
        ("factory", False),
        ("borrowed", False),
        ("kind", False),
        ("number", False),
    ],
)
def test_what_is_callable_may_still_be_a_value(name: str, method: bool) -> None:
    thing = Thing()
    assert is_method(thing, name, getattr(thing, name)) is method


# ------------------------------------------------------------------------------------------------
# A driver that has more


class RichCursor(sqlite3.Cursor):
    """A cursor with the optional methods of PEP 249, which notes what they are given."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.given: list[object] = []

    def callproc(self, *args: Any, **kwargs: Any) -> object:
        self.given.append((args, kwargs))
        return "called"

    def nextset(self) -> bool:
        return True

    def scroll(self, value: int, mode: str = "relative") -> None:
        self.given.append((value, mode))

    def home(self) -> Any:
        return self.connection

    def itself(self) -> Any:
        return self


class Rich(sqlite3.Connection):
    """A connection of which something callable is a value."""

    @property
    def handler(self) -> Callable[[int], None]:
        return [1].append

    def itself(self) -> "Rich":
        return self

    def opened(self) -> sqlite3.Cursor:
        return self.cursor()


@pytest.fixture
def pool() -> ConnectionPool:
    return ConnectionPool(sqlite3, ":memory:", factory=Rich, max_size=1, name="rich")


async def test_optional_methods_pass_on_what_they_are_given(pool: ConnectionPool) -> None:
    async with pool, pool.connection() as conn:
        cursor = conn.cursor(RichCursor)
        assert await cursor.callproc("tidy", 1, two=2) == "called"
        assert pool.dump()[0].statement == "tidy"
        assert await cursor.nextset() is True
        await cursor.scroll(1, "absolute")
        await cursor.scroll(2)
        assert cursor.given == [(("tidy", 1), {"two": 2}), (1, "absolute"), (2, "relative")]


async def test_proxies_come_in_place_of_the_drivers_own_objects(pool: ConnectionPool) -> None:
    async with pool, pool.connection() as conn:
        cursor = await conn.cursor(RichCursor).execute("SELECT 1")
        assert await cursor.home() is conn
        assert await cursor.itself() is cursor
        assert await conn.itself() is conn
        born = await conn.opened()
        assert born.connection is conn
        await born.execute("SELECT 1")
        assert await born.fetchone() == (1,)


async def test_a_value_that_can_be_called_is_given_as_it_is(pool: ConnectionPool) -> None:
    async with pool, pool.connection() as conn:
        assert isinstance(conn.handler, types.BuiltinMethodType)


async def test_names_of_pythons_own_are_not_looked_up_with_the_driver(
    pool: ConnectionPool,
) -> None:
    async with pool, pool.connection() as conn:
        for proxy, name in ((conn, "Connection"), (conn.cursor(), "Cursor")):
            with pytest.raises(
                AttributeError, match=f"'{name}' object has no attribute '__len__'"
            ):
                proxy.__len__()


# ------------------------------------------------------------------------------------------------
# What is passed on


@virtual_time
async def test_parameters_reach_the_driver_by_whatever_way_they_are_given() -> None:
    def rows(sql: str, params: Any) -> list[tuple[Any, ...]]:
        return [(params, "more"), ("another",)]

    async with Fake(rows=rows).pool(max_size=1) as pool:
        assert await pool.fetch_one("SELECT n", (1,)) == ((1,), "more")
        assert await pool.fetch_val("SELECT n", (2,)) == (2,)
        assert await pool.fetch_val("SELECT n", (2,), 1) == "more"
        assert await pool.fetch_all("SELECT n", (3,)) == [((3,), "more"), ("another",)]
        async with pool.connection() as conn:
            assert await conn.fetch_one("SELECT n", (4,)) == ((4,), "more")
            assert await conn.fetch_val("SELECT n", (5,), column=1) == "more"
            cursor = await conn.execute("SELECT n", params=(6,))
            assert await cursor.fetchone() == ((6,), "more")
            cursor = await conn.executemany("INSERT", params=[(1,), (2,), (3,)])
            assert cursor.rowcount == 3
            cursor = conn.cursor()
            assert (await cursor.execute("SELECT n", params=(7,))).rowcount == 2
            assert (await cursor.executemany("INSERT", params=[(1,)])).rowcount == 1


def test_a_statement_about_to_run_is_a_coroutine_in_every_respect() -> None:
    @types.coroutine
    def echo() -> Generator[Any, Any, Any]:
        first = yield "begun"
        try:
            yield first
        except LookupError as error:
            yield error
        return "over"

    coroutine: Any = echo()
    execution = Execution(coroutine)
    assert execution.send(None) == "begun"
    assert execution.send("first") == "first"
    error = LookupError()
    assert execution.throw(error) is error
    with pytest.raises(StopIteration, match="over"):
        execution.send(None)
    execution.close()


@virtual_time
async def test_a_discarded_connection_says_so() -> None:
    async with Fake().pool(name="orders") as pool:
        conn: Connection = await pool.get()
        await conn.discard()
        with pytest.raises(
            ConnectionReturned,
            match="pool 'orders': this connection is gone: the borrower discarded it;",
        ):
            conn.cursor()


# ------------------------------------------------------------------------------------------------
# Transactions


@virtual_time
async def test_a_rollback_that_waits_for_its_turn_runs_even_if_its_caller_goes() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        block = await conn.transaction().start()
        await conn.execute("INSERT")
        fake.execute.once(NEVER)
        running = asyncio.create_task(conn.fetch_all("SELECT n"))
        await settle()
        undoing = asyncio.create_task(block.rollback())
        await settle()
        undoing.cancel()
        await asyncio.wait([undoing])
        fake.execute.release()
        await running
        await settle()
        assert fake.rollback.calls == 1
        assert pool.stats().cancelled == 0, "a rollback is never cancelled in the database"


@virtual_time
async def test_a_commit_that_waits_for_its_turn_does_not_run_once_its_caller_has_gone() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        block = await conn.transaction().start()
        await conn.execute("INSERT")
        fake.execute.once(NEVER)
        running = asyncio.create_task(conn.fetch_all("SELECT n"))
        await settle()
        committing = asyncio.create_task(block.commit())
        await settle()
        committing.cancel()
        await asyncio.wait([committing])
        fake.execute.release()
        await running
        await settle()
        assert (fake.commit.calls, fake.rollback.calls) == (0, 1)
        assert pool.stats().cancelled == 1


@virtual_time
async def test_a_transactions_repr_tells_which_it_is() -> None:
    async with Fake().pool(max_size=1) as pool, pool.connection() as conn:
        outer, inner = conn.transaction(), conn.transaction()
        await outer.start()
        await inner.start()
        assert repr(outer) == f"<Transaction (transaction) of {conn!r}>"
        assert repr(inner) == f"<Transaction (savepoint) of {conn!r}>"
        await inner.rollback()
        await outer.rollback()


@virtual_time
async def test_a_rollback_that_was_asked_for_ahead_of_the_return_is_told_to_be_done() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        conn = await pool.get()
        block = await conn.transaction().start()
        fake.execute.once(2.0)
        running = asyncio.create_task(conn.fetch_all("SELECT n"))
        await settle()
        undoing = asyncio.create_task(block.rollback())
        await settle()
        await asyncio.gather(pool.put(conn), running, undoing)
        assert fake.rollback.calls == 1


@virtual_time
async def test_a_block_that_was_cancelled_is_over_for_good() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        block = conn.transaction()
        with pytest.raises(asyncio.CancelledError):
            async with block:
                raise asyncio.CancelledError
        with pytest.raises(PoolError, match="is not under way"):
            await block.commit()
        assert fake.commit.calls == 0


@virtual_time
async def test_the_error_of_a_block_counts_more_than_that_of_its_rollback() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        fake.rollback.once(fake.Error("no"))
        with pytest.raises(LookupError, match="of the block"):
            async with conn.transaction():
                await conn.execute("INSERT")
                raise LookupError("of the block")


@virtual_time
async def test_options_that_the_drivers_transactions_do_not_know_are_refused_by_name() -> None:
    async with Fake().pool(name="orders") as pool, pool.connection() as conn:
        with pytest.raises(
            TypeError,
            match=r"^pool 'orders': this driver's transactions take no isolation, readonly$",
        ):
            conn.transaction(readonly=True, isolation="serializable")


# ------------------------------------------------------------------------------------------------
# Cursors


@virtual_time
async def test_a_cursor_that_nobody_holds_is_closed_ahead_of_the_next_statement() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        for _ in range(3):
            await conn.execute("SELECT n")
            gc.collect()
        assert fake.connections[0].cursors == 1, "the last one"


def test_rows_that_have_come_ahead_are_read_without_a_hop_and_the_next_ones_with_one(
    hops: list[Job],
) -> None:
    """The fake tells of a row that is fetched on any thread but the connection's."""

    @virtual_time
    async def scenario() -> None:
        fake = Fake(rows=2 * BATCH)
        async with fake.pool(max_size=1) as pool, pool.connection() as conn:

            async def took(read: Awaitable[Any]) -> tuple[Any, int]:
                before = len(hops)
                return await read, len(hops) - before

            one = await conn.execute("SELECT n")
            for number in range(1, BATCH + 1):
                assert await took(anext(one)) == ((number,), 0)
            assert await took(anext(one)) == ((BATCH + 1,), 1)

            many = await conn.execute("SELECT n")
            many.arraysize = 7
            rows, count = await took(many.fetchmany())
            assert (len(rows), count) == (7, 0)
            rows, count = await took(many.fetchmany(BATCH - 16))
            assert (len(rows), count) == (BATCH - 16, 0)
            rows, count = await took(many.fetchmany(12))
            assert (len(rows), count) == (12, 1), "nine were here"
            many.arraysize = BATCH
            await many.execute("SELECT n")
            rows, count = await took(many.fetchmany(1))
            assert (len(rows), count) == (1, 0)
            rows, count = await took(many.fetchmany())
            assert (len(rows), count) == (BATCH, 1)

    scenario()


@pytest.mark.parametrize("way", ["fetchone", "anext", "iteration"])
@virtual_time
async def test_who_reads_behind_a_cursors_next_statement_gets_that_ones_rows(way: str) -> None:
    fake = Fake(rows=lambda sql, params: [(sql,)] * 3)
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        cursor = await conn.execute("SELECT 0")
        rows = aiter(cursor)
        assert await anext(rows) == ("SELECT 0",)
        fake.execute.once(1.0, 1.0)
        statements = cursor.execute("SELECT 1"), conn.execute("UPDATE"), cursor.execute("SELECT 2")
        running = [asyncio.create_task(statement) for statement in statements]
        await asyncio.sleep(1.5)
        assert [task.done() for task in running] == [True, False, False]
        match way:
            case "fetchone":
                assert await cursor.fetchone() == ("SELECT 2",)
            case "anext":
                assert await anext(cursor) == ("SELECT 2",)
            case _:
                assert await anext(rows) == ("SELECT 2",)
        await asyncio.gather(*running)


@virtual_time
async def test_a_cursor_with_rows_left_is_closed_when_its_close_returns() -> None:
    fake = Fake(rows=1000)
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        cursor = await conn.execute("SELECT n")
        assert fake.connections[0].cursors == 1
        await cursor.close()
        assert fake.connections[0].cursors == 0


@virtual_time
async def test_a_close_waits_for_the_statement_that_its_cursor_runs() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        cursor = conn.cursor()
        fake.execute.once(2.0)
        running = asyncio.create_task(cursor.execute("INSERT"))
        await settle()
        began = now()
        await cursor.close()
        assert now() - began == pytest.approx(2, abs=0.01)
        await running
        assert not cursor


@virtual_time
async def test_a_close_that_waits_for_its_turn_is_done_even_if_its_caller_goes() -> None:
    fake = Fake(rows=1000)
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        cursor = await conn.execute("SELECT n")
        fake.execute.once(2.0)
        running = asyncio.create_task(conn.fetch_all("SELECT n"))
        await settle()
        closing = asyncio.create_task(cursor.close())
        await settle()
        closing.cancel()
        await asyncio.wait([closing])
        assert cursor, "it has not been closed yet"
        await running
        await settle()
        assert not cursor


@virtual_time
async def test_a_block_tells_that_its_cursor_could_not_be_closed_unless_it_fails_itself() -> None:
    fake = Fake(rows=1000)
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        fake.cursor_close.once(fake.Error("cannot close"))
        with pytest.raises(fake.Error, match="cannot close"):
            async with conn.execute("SELECT n"):
                pass
        fake.cursor_close.once(fake.Error("cannot close"))
        with pytest.raises(LookupError, match="of the block"):
            async with conn.execute("SELECT n"):
                raise LookupError("of the block")


@virtual_time
async def test_a_closed_cursor_says_so_even_where_the_module_has_no_interface_error() -> None:
    fake = Fake()

    class Bare:
        connect = fake.connect

    for module, error in ((fake, fake.InterfaceError), (Bare(), PoolError)):
        async with ConnectionPool(module) as pool, pool.connection() as conn:
            cursor = conn.cursor()
            await cursor.close()
            with pytest.raises(error, match=r"^this cursor is closed$"):
                await cursor.fetchone()


async def test_what_the_class_tells_of_an_unborn_cursor_is_told_and_no_more() -> None:
    class Coloured(sqlite3.Cursor):
        colour = "red"

    class Making(sqlite3.Connection):
        def cursor(self, factory: Any = Coloured) -> Any:
            return super().cursor(factory)

    def reverse(self: object, cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
        return row[::-1]

    async with (
        ConnectionPool(sqlite3, ":memory:", factory=Making, max_size=1) as pool,
        pool.connection() as conn,
    ):
        cursor = conn.cursor()
        assert cursor.colour == "red"
        await cursor.setinputsizes([1])
        unborn = conn.cursor()
        with pytest.raises(AttributeError, match="'row_factory' is not known yet"):
            _ = unborn.row_factory
        factory = types.MethodType(reverse, self := object())
        cursor.row_factory = factory
        await cursor.execute("SELECT 1, 2")
        assert cursor.row_factory == factory, "a value, though it is a method of something's"
        assert await cursor.fetchone() == (2, 1)
        assert factory.__self__ is self


@virtual_time
async def test_a_fetch_that_has_not_begun_when_its_caller_goes_never_does() -> None:
    fake = Fake(rows=2000)
    async with fake.pool() as pool, pool.connection() as conn:
        cursor = await conn.execute("SELECT n")
        fake.execute.once(5.0)
        busy = asyncio.create_task(conn.execute("UPDATE t"))
        await settle()
        doomed = asyncio.create_task(cursor.fetchall())
        await settle()
        doomed.cancel()
        await asyncio.wait([doomed, busy])
        assert await cursor.fetchone() == (1,), "no row has gone"


@virtual_time
async def test_fetches_of_several_tasks_get_their_rows_in_the_order_of_the_calls() -> None:
    fake = Fake(rows=2000)
    async with fake.pool() as pool, pool.connection() as conn:
        cursor = await conn.execute("SELECT n")
        many, one = await asyncio.gather(cursor.fetchmany(1000), cursor.fetchone())
        assert (many[0], len(many), one) == ((1,), 1000, (1001,))


async def test_what_asks_the_server_when_it_is_read_is_read_in_a_function() -> None:
    class Asking(SQLite3Driver):
        asking_attributes = frozenset({"total_changes"})

    pool = ConnectionPool(sqlite3, ":memory:", driver=Asking(sqlite3))
    async with pool, pool.connection() as conn:
        with pytest.raises(PoolError, match=r"total_changes asks the server .* for run\(\)"):
            _ = conn.total_changes
        assert await conn.run(getattr, "total_changes") == 0
