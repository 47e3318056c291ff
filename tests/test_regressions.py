"""Defects that have been found: each of these failed once."""

import asyncio
import copy
import gc
import sqlite3
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any
from unittest import mock

import pytest

from asyncdbpool import ConnectionPool, DatabaseConnector, PoolError, PoolTimeout
from asyncdbpool.testing import (
    NEVER,
    Fake,
    FakeDriver,
    NativeFake,
    check_invariants,
    run_virtually,
    settle,
    virtual_time,
)
from asyncdbpool.testing.fake import FakeConnection, FakeCursor

with_both_kinds = pytest.mark.parametrize("kind", [Fake, NativeFake])

request: ContextVar[str] = ContextVar("request", default="nobody's")


@virtual_time
async def test_a_function_that_waits_in_line_has_its_callers_context_also_an_empty_one() -> None:
    fake = NativeFake()

    async def asks(raw: Any) -> str:
        await asyncio.sleep(1)
        return request.get()

    async with fake.pool(max_size=1) as pool:

        async def first() -> str:
            request.set("the first's")
            return str(await pool.run(asks))

        one = asyncio.create_task(first())
        await settle()
        two = asyncio.get_running_loop().create_task(pool.run(asks), context=Context())
        assert (await one, await two) == ("the first's", "nobody's")


@virtual_time
async def test_a_side_thread_that_cannot_be_started_costs_no_permit_and_no_cancellation() -> None:
    fake = Fake(cancels=True)
    fake.execute.once(NEVER, NEVER)
    start = threading.Thread.start

    def fails(thread: threading.Thread) -> None:
        if thread.name.endswith("-aside"):
            raise RuntimeError("can't start new thread")
        start(thread)

    async with fake.pool(max_size=1) as pool:
        conn = await pool.get()
        task = asyncio.create_task(conn.fetch_all("SELECT n"))
        await settle()
        with mock.patch.object(threading.Thread, "start", fails):
            returning = asyncio.create_task(pool.put(conn))
            await settle()
        await returning  # the next cancel has a thread
        with pytest.raises(fake.OperationalError):
            await task
        with mock.patch.object(threading.Thread, "start", fails), pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await pool.fetch_all("SELECT n")
        await asyncio.sleep(1)
        assert (pool.free, pool.stats().in_use) == (1, 0)


@with_both_kinds
def test_an_interrupt_is_not_lost_where_its_caller_is_cancelled_during_the_return(
    kind: type[Fake],
) -> None:
    async def play() -> None:
        fake = kind()
        fake.reset.always(1.0)

        def stops(raw: Any) -> None:
            raise SystemExit

        async def stops_later(raw: Any) -> None:
            raise SystemExit

        async with fake.pool(cleanup="reset") as pool:
            task = asyncio.create_task(pool.run(stops if kind is Fake else stops_later))
            await asyncio.sleep(0.5)
            task.cancel()
            await asyncio.wait([task])

    with pytest.raises(SystemExit):
        run_virtually(play)


def test_an_interrupt_of_a_connect_that_is_late_comes_out_of_the_loop() -> None:
    async def play() -> None:
        fake = Fake()

        def setup(raw: FakeConnection) -> None:
            fake.ping.enter(raw)
            raise SystemExit

        fake.ping.once(2.0)
        async with fake.pool(connect_timeout=1, setup=setup) as pool:
            with pytest.raises(PoolError):
                await pool.get()
            await asyncio.sleep(2)

    with pytest.raises(SystemExit):
        run_virtually(play)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@virtual_time
async def test_a_dropped_lease_is_reclaimed_also_where_its_warning_is_an_error() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            await pool.get()
            gc.collect()
        await settle()
        assert (pool.free, pool.stats().reclaimed) == (1, 1)


def test_a_pool_is_of_use_on_the_next_loop_also_where_its_warning_is_an_error() -> None:
    fake = Fake()
    pool = ConnectionPool(fake, driver=fake.driver())
    asyncio.run(pool.fetch_all("SELECT n"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with pytest.raises(ResourceWarning):
            asyncio.run(pool.fetch_all("SELECT n"))

        async def again() -> None:
            assert await pool.fetch_all("SELECT n") == [(1,)]
            await pool.close()

        asyncio.run(again())


if sys.version_info >= (3, 12):

    @with_both_kinds
    @virtual_time
    async def test_growth_connects_at_once_with_an_eager_task_factory(kind: type[Fake]) -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        fake = kind()
        async with fake.pool(max_size=1) as pool:
            first = await pool.get()
            waiter = asyncio.create_task(pool.get())
            await settle()
            await pool.resize(max_size=2)
            await pool.put(await waiter)
            await pool.put(first)


@virtual_time
async def test_a_pool_that_is_made_while_a_connector_opens_does_no_harm() -> None:
    fake = Fake()
    fake.connect.always(1.0)
    dc = DatabaseConnector(fake, {"default": {}}, driver=fake.driver(), min_size=1)
    dc.get("a")

    async def later() -> None:
        await asyncio.sleep(0.5)
        dc.get("b")

    task = asyncio.create_task(later())
    async with dc:
        assert len(dc) == 2
    await task


@pytest.mark.parametrize("way", ["connection", "transaction"])
@virtual_time
async def test_a_loan_that_is_under_way_is_not_entered_once_more(way: str) -> None:
    fake = Fake()
    async with fake.pool(max_size=2) as pool:
        loan = getattr(pool, way)()

        async def use(seconds: float) -> Any:
            async with loan as conn:
                await asyncio.sleep(seconds)
                return await conn.fetch_val("SELECT n")

        ends: Any = await asyncio.gather(use(1), use(2), return_exceptions=True)
        assert ends[0] == 1
        assert isinstance(ends[1], PoolError)
        assert await use(0) == 1  # one after the other is well


async def test_another_thread_may_read_the_figures() -> None:
    fake, errors, over = Fake(), [], threading.Event()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        async with fake.pool(max_size=20, max_idle=0) as pool:

            def scrape() -> None:
                while not over.is_set():
                    try:
                        figures = pool.stats()
                        assert figures.size == figures.idle + figures.in_use + figures.connecting
                    except Exception as error:  # noqa: BLE001 - to be shown
                        errors.append(error)

            thread = threading.Thread(target=scrape)
            thread.start()
            for _ in range(20):
                await asyncio.gather(*(pool.fetch_all("SELECT n") for _ in range(20)))
            over.set()
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors


@with_both_kinds
@virtual_time
async def test_what_is_being_set_up_when_the_pool_is_cleared_is_not_lent(kind: type[Fake]) -> None:
    fake = kind()

    async def set_up_later(raw: Any) -> None:
        await fake.ping.pass_through(raw)

    setup: Callable[[Any], object] = fake.ping.enter if kind is Fake else set_up_later
    fake.ping.once(1.0)
    async with fake.pool(setup=setup) as pool:
        waiter = asyncio.create_task(pool.get())
        await asyncio.sleep(0.5)
        (old,) = fake.connections
        await pool.clear()
        await pool.put(await waiter)
        assert old.closed
        assert len(fake.connections) == 2


@virtual_time
async def test_a_statement_that_cannot_be_shown_keeps_nobody_waiting() -> None:
    class Statement(str):
        __slots__ = ()

        def __str__(self) -> str:
            raise ValueError

    fake = Fake()
    async with fake.pool(max_size=1, timeout=1) as pool, pool.connection() as conn:
        await conn.fetch_all(Statement("SELECT n"))
        with pytest.raises(PoolTimeout):
            await asyncio.wait_for(asyncio.create_task(pool.get()), 5)
        assert "Statement" in str(pool.dump()[0])


@with_both_kinds
@virtual_time
async def test_a_cancelled_call_keeps_no_parameters_alive(kind: type[Fake]) -> None:
    class Parameters(list[int]):
        pass

    fake = kind(cancels=True)
    fake.execute.once(NEVER)
    async with fake.pool(max_size=1) as pool:
        parameters = Parameters()
        alive = weakref.ref(parameters)
        task = asyncio.create_task(pool.fetch_all("SELECT n", parameters))
        del parameters
        await settle()
        task.cancel()
        await asyncio.wait([task])
        del task
        await asyncio.sleep(2)
        gc.collect()
        assert pool.idle == 1
        assert alive() is None


@virtual_time
async def test_a_cursor_that_the_driver_has_made_keeps_its_arraysize() -> None:
    def query(raw: FakeConnection, sql: str) -> FakeCursor:
        cursor = raw.cursor()
        cursor.arraysize = 100
        cursor.execute(sql)
        return cursor

    fake = Fake(rows=300)
    with mock.patch.object(FakeConnection, "query", query, create=True):
        async with fake.pool() as pool, pool.connection() as conn:
            cursor = await conn.query("SELECT n")
            assert cursor.arraysize == 100
            assert len(await cursor.fetchmany()) == 100


@virtual_time
async def test_a_cursor_that_is_closed_in_an_iteration_gives_no_more_rows() -> None:
    fake, seen = Fake(rows=9), []
    async with fake.pool() as pool, pool.connection() as conn:
        cursor = await conn.execute("SELECT n")
        with pytest.raises(fake.InterfaceError, match="closed"):
            async for row in cursor:
                seen.append(row)
                await cursor.close()
    assert seen == [(1,)]


async def test_cursors_in_the_errors_of_a_group_die_on_their_thread() -> None:
    died: list[str] = []

    class Cursor(sqlite3.Cursor):
        def __del__(self) -> None:
            died.append(threading.current_thread().name)

    def fails(raw: sqlite3.Connection) -> None:
        cursor = raw.cursor(Cursor)
        cursor.execute("SELECT 1")
        raise ValueError

    def fails_for_several_reasons(raw: sqlite3.Connection) -> None:
        errors = []
        try:
            fails(raw)
        except ValueError as error:
            errors.append(error)
        raise ExceptionGroup("several", errors) from None

    async with ConnectionPool(sqlite3, ":memory:", name="p") as pool:
        with pytest.raises(ExceptionGroup):
            await pool.run(fails_for_several_reasons)
        gc.collect()
        assert died == ["p-1"]


@virtual_time
async def test_a_pool_cannot_be_copied() -> None:
    fake = Fake()
    async with fake.pool() as pool, pool.connection() as conn:
        with pytest.raises(TypeError, match="copied"):
            copy.copy(pool)
        gc.collect()
        assert await conn.fetch_val("SELECT n") == 1


def test_who_was_in_line_on_a_loop_that_is_closed_now_is_not_looked_after() -> None:
    fake = Fake()
    dc = DatabaseConnector(
        fake, {"default": {}}, driver=fake.driver(), min_size=1, max_size=2, max_total=2
    )
    stranded, pool = dc.get("stranded"), dc.get("used")
    kept = []

    async def strand() -> None:
        kept.extend([await pool.get(), await pool.get()])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stranded.get(), 0.05)

    async def use() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: told_of.append(told))
        conn = await pool.get()
        await conn.discard()
        await asyncio.sleep(0.1)
        assert pool.size == 1
        check_invariants(pool)
        await pool.close()

    told_of: list[Any] = []
    asyncio.run(strand())
    with pytest.warns(ResourceWarning, match="its connections are dropped"):
        asyncio.run(use())
    assert not told_of


def test_an_interrupt_while_a_cancel_is_absorbed_hides_no_transaction() -> None:
    class Stopping(FakeDriver):
        def absorb_cancel(self, raw: Any) -> None:
            raise SystemExit

    async def play() -> None:
        fake = Fake(cancels=True)
        fake.fetch.once(NEVER)
        async with fake.pool(max_size=1, driver=Stopping(fake)) as pool:
            conn = await pool.get()
            asyncio.get_running_loop().call_later(0.1, asyncio.ensure_future, conn.cancel())
            with pytest.raises(SystemExit):
                await conn.fetch_all("SELECT n")
            await pool.put(conn)
            assert not (pool.idle and fake.connections[0].in_transaction)

    run_virtually(play)


@virtual_time
async def test_a_pool_whose_block_is_never_entered_is_closed() -> None:
    fake = Fake()
    fake.connect.always(2.0)
    pool = ConnectionPool(fake, driver=fake.driver(), min_size=2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1), pool:
            raise AssertionError
    await asyncio.sleep(2)
    assert (pool.size, fake.open, pool.closed) == (0, 0, True)
