"""Cancellation: at every await point and by every means it costs nobody else anything."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import pytest

from asyncdbpool import Connection, ConnectionPool, ConnectTimeout
from asyncdbpool.testing import NEVER, Fake, check_invariants, now, settle, virtual_time
from support.ticks import hand_over

Work = Callable[[], Awaitable[object]]
Means = Callable[[Work, float], Coroutine[Any, Any, None]]


async def by_cancel(work: Work, after: float) -> None:
    task = asyncio.ensure_future(work())
    await asyncio.sleep(after)
    task.cancel()
    await asyncio.wait([task])


async def by_two_cancels(work: Work, after: float) -> None:
    task = asyncio.ensure_future(work())
    await asyncio.sleep(after)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def by_timeout(work: Work, after: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(after):
            await work()


async def by_wait_for(work: Work, after: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(work(), after)


async def by_anyio_scope(work: Work, after: float) -> None:
    """A scope that cancels every await inside of it, those of the cleanup included."""
    with anyio.move_on_after(after):
        await work()


MEANS = [by_cancel, by_two_cancels, by_timeout, by_wait_for, by_anyio_scope]
every_means = pytest.mark.parametrize("cancel", MEANS)


async def by_hand(pool: ConnectionPool) -> None:
    conn = await pool.get()
    try:
        cursor = await conn.execute("INSERT")
        await cursor.fetchone()
    finally:
        await pool.put(conn)


async def in_a_block(pool: ConnectionPool) -> None:
    async with pool.connection() as conn, conn.cursor() as cursor:
        await cursor.execute("SELECT n")
        await cursor.fetchall()


async def in_nested_transactions(pool: ConnectionPool) -> None:
    async with pool.transaction() as conn:
        await conn.execute("INSERT")
        async with conn.transaction():
            await conn.execute("INSERT")


async def as_one_shots(pool: ConnectionPool) -> None:
    await pool.fetch_all("SELECT n")
    await pool.run(lambda raw: raw.commit())


@every_means
@pytest.mark.parametrize("knowing", [True, False], ids=["knowing driver", "generic driver"])
@pytest.mark.parametrize("use", [by_hand, in_a_block, in_nested_transactions, as_one_shots])
@virtual_time
async def test_a_cancelled_borrower_leaks_nothing_at_any_await_point(
    use: Callable[[ConnectionPool], Awaitable[None]], knowing: bool, cancel: Means
) -> None:
    fake = Fake()
    options: dict[str, Any] = {} if knowing else {"driver": None}
    async with fake.pool(max_size=1, check="always", timeout=90, **options) as pool:
        for step in ("connect", "ping", "execute", "fetch", "commit", "rollback"):
            getattr(fake, step).always(1.0)
        for quarter in range(1, 33):
            ahead = asyncio.create_task(pool.get()) if quarter % 2 else None
            await settle()
            other = asyncio.create_task(cancel(lambda: use(pool), quarter / 4))
            await asyncio.sleep(0.4)
            check_invariants(pool, proxies=False)
            if ahead is not None:
                await pool.put(await ahead)
            await asyncio.sleep(60)
            assert other.done()
            check_invariants(pool, proxies=False)
            assert (pool.size, pool.free, fake.open) == (pool.idle, 1, pool.idle)
            assert not any(raw.in_transaction for raw in fake.connections if not raw.closed)


@virtual_time
async def test_a_cancelled_waiter_costs_the_next_one_nothing() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        lent = await pool.get()
        first, second = (asyncio.create_task(pool.get()) for _ in range(2))
        await settle()
        first.cancel()
        await asyncio.wait([first])
        began = now()
        await pool.put(lent)

        assert await second
        assert now() == began
        await pool.put(await second)


@virtual_time
async def test_a_cancel_that_races_the_hand_over_of_a_permit_serves_the_next_waiter() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        lent = await pool.get()
        first, second = (asyncio.create_task(pool.get()) for _ in range(2))
        await settle()

        await pool.put(lent)  # serves the first, in this tick
        first.cancel()  # which is cancelled in the same one

        with pytest.raises(asyncio.CancelledError):
            await first
        await pool.put(await second)


async def cancel_in_the_tick_of_the_hand_over(
    pool: ConnectionPool, task: asyncio.Task[Any]
) -> None:
    await hand_over(pool)
    assert not task.done()
    task.cancel()


@virtual_time
async def test_a_cancel_that_races_the_hand_over_of_a_connection_serves_the_next_waiter() -> None:
    fake = Fake()
    fake.connect.once(NEVER, NEVER)
    async with fake.pool(max_size=2, connect_limit=1) as pool:
        first, second = (asyncio.create_task(pool.get()) for _ in range(2))
        await settle()
        fake.connect.release()
        await cancel_in_the_tick_of_the_hand_over(pool, first)

        with pytest.raises(asyncio.CancelledError):
            await first
        await pool.put(await second)
        assert pool.stats().acquired == 1


@virtual_time
async def test_a_failed_connect_that_races_a_cancellation_is_nobodys_error() -> None:
    fake = Fake()
    fake.connect.once(fake.Error("no"))
    async with fake.pool(max_size=1) as pool:
        first = asyncio.create_task(pool.get())
        await asyncio.sleep(0)
        await cancel_in_the_tick_of_the_hand_over(pool, first)
        with pytest.raises(asyncio.CancelledError):
            await first
        await settle()
        assert (pool.size, pool.free) == (0, 1)


@virtual_time
async def test_a_timeout_that_races_the_hand_over_keeps_the_connection_in_the_pool() -> None:
    fake = Fake()
    fake.connect.always(1.0)
    async with fake.pool(max_size=1, timeout=1.0) as pool:
        results = [await asyncio.create_task(_outcome(pool.get())) for _ in range(3)]
        await asyncio.sleep(5)
        for result in results:
            if isinstance(result, Connection):
                await pool.put(result)
        assert (pool.size, pool.idle, pool.free) == (1, 1, 1)


async def _outcome(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except TimeoutError as error:
        return error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_that_races_a_cancellation_is_not_swallowed(
    error: type[BaseException],
) -> None:
    fake = Fake()
    fake.connect.once(error())
    pool = ConnectionPool(fake)

    @virtual_time
    async def scenario() -> None:
        first = asyncio.create_task(pool.get())
        await asyncio.sleep(0)
        await cancel_in_the_tick_of_the_hand_over(pool, first)
        await asyncio.wait([first])

    with pytest.raises(error):
        scenario()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_a_statement_that_races_its_cancellation_is_not_swallowed(
    error: type[BaseException],
) -> None:
    fake = Fake()
    pool = ConnectionPool(fake)

    @virtual_time
    async def scenario() -> None:
        conn = await pool.get()
        fake.execute.once(error())
        statement = asyncio.create_task(conn.fetch_all("SELECT n"))
        await asyncio.sleep(0)
        while conn._lease.record.pending:  # noqa: ASYNC110 - the very tick is the point
            await asyncio.sleep(0)
        assert not statement.done()
        statement.cancel()
        try:
            await asyncio.wait([statement])
            await asyncio.sleep(1)
        finally:
            await pool.put(conn)
            await pool.close()

    with pytest.raises(error):
        scenario()


@virtual_time
async def test_a_connect_that_outlives_its_caller_joins_the_pool() -> None:
    fake = Fake()
    fake.connect.once(3.0)
    async with fake.pool() as pool:
        await by_cancel(pool.get, 1)
        assert pool.stats().connecting == 1
        check_invariants(pool)
        await asyncio.sleep(3)

        assert (pool.idle, fake.connect.calls) == (1, 1)
        async with pool.connection():
            assert fake.connect.calls == 1


@virtual_time
async def test_a_connect_that_outlives_its_caller_is_closed_where_the_pool_has_closed() -> None:
    fake = Fake()
    fake.connect.once(3.0)
    async with fake.pool() as pool:
        await by_cancel(pool.get, 1)
        began = now()
        await pool.close()

        assert now() - began == pytest.approx(2, abs=0.1)
        assert (fake.open, len(fake.connections)) == (0, 1)


@every_means
@virtual_time
async def test_a_timeout_during_a_connect_leaks_nothing(cancel: Means) -> None:
    fake = Fake()
    fake.connect.once(NEVER)
    async with fake.pool(max_size=1, connect_timeout=60) as pool:
        await cancel(pool.get, 2)
        assert (pool.stats().connecting, pool.waiting, pool.free) == (1, 0, 1)
        fake.connect.release()
        await settle()
        assert (pool.idle, fake.open) == (1, 1)


@virtual_time
async def test_a_failed_connect_whose_caller_has_gone_is_logged_without_the_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = Fake()
    fake.connect.once(lambda: _fail_late(fake))
    async with fake.pool(password="s33kr1t") as pool:
        with caplog.at_level(logging.WARNING, "asyncdbpool"):
            await by_cancel(pool.get, 1)
            await asyncio.sleep(5)
        assert (pool.size, pool.stats().connect_errors) == (0, 1)
    assert "connect failed: OperationalError: no entry with ***" in caplog.text
    assert "s33kr1t" not in caplog.text


def _fail_late(fake: Fake) -> None:
    from asyncdbpool.testing import sleep

    sleep(2)
    raise fake.OperationalError("no entry with s33kr1t")


@every_means
@virtual_time
async def test_returning_ends_in_the_pools_own_hands(cancel: Means) -> None:
    fake = Fake()
    fake.rollback.always(2.0)
    async with fake.pool(max_size=1) as pool:

        async def use() -> None:
            async with pool.connection() as conn:
                await conn.execute("INSERT")

        await cancel(use, 1)  # during the rollback
        assert pool.stats().in_use == 1
        await asyncio.sleep(2)
        assert (pool.idle, pool.free, fake.connections[0].in_transaction) == (1, 1, False)


@virtual_time
async def test_a_return_inside_a_cancelled_anyio_scope_completes() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        with anyio.CancelScope() as scope:
            async with pool.connection() as conn:
                await conn.execute("INSERT")
                scope.cancel()
                await anyio.sleep(1)
        assert not conn
        await settle()
        assert (pool.idle, fake.rollback.calls, fake.open) == (1, 1, 1)


@virtual_time
async def test_a_connect_that_takes_too_long_fails_its_caller_and_serves_another() -> None:
    fake = Fake()
    fake.connect.once(7.0, NEVER)
    async with fake.pool(max_size=1, connect_timeout=5) as pool:
        with pytest.raises(ConnectTimeout, match="longer than connect_timeout=5 s"):
            await pool.get()
        began = now()
        conn = await pool.get()

        assert now() - began == pytest.approx(2)
        await pool.put(conn)
