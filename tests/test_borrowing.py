"""Borrowing: who gets which connection, when, and what a deadline covers."""

import asyncio
import contextlib
from typing import Any

import pytest

from asyncdbpool import Connection, ConnectionPool, PoolError, PoolTimeout
from asyncdbpool.testing import (
    NEVER,
    Fake,
    FakeDriver,
    check_invariants,
    now,
    settle,
    virtual_time,
)
from asyncdbpool.testing.invariants import threads_of


@virtual_time
async def test_making_a_pool_does_nothing() -> None:
    fake = Fake()
    async with fake.pool(min_size=2) as pool:
        await settle()

        assert (pool.size, fake.connect.calls, threads_of(pool)) == (0, 0, [])
        assert pool.free == pool.max_size == 10


@virtual_time
async def test_the_figures_of_a_pool_that_is_not_open_are_zero() -> None:
    pool = ConnectionPool(Fake())
    stats = pool.stats()
    assert (stats.size, stats.idle, stats.in_use, stats.connecting, stats.waiting) == (0,) * 5
    assert pool.waiting == 0


@virtual_time
async def test_the_first_get_opens_the_pool() -> None:
    fake = Fake()
    async with fake.pool(min_size=2) as pool:
        conn = await pool.get()
        await settle()

        assert (pool.size, pool.idle, pool.free) == (2, 1, 9)
        await pool.put(conn)


@virtual_time
async def test_a_returned_connection_is_lent_again() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        first = await pool.get()
        raw = await first.run(id)
        await pool.put(first)
        second = await pool.get()

        assert await second.run(id) == raw
        assert fake.connect.calls == 1
        await pool.put(second)


@virtual_time
async def test_the_connection_used_last_is_lent_first() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        first, second = await pool.get(), await pool.get()
        await pool.put(second)
        await asyncio.sleep(0.1)
        await pool.put(first)
        async with pool.connection() as conn:
            assert await conn.run(fake.connections.index) == 0


@virtual_time
async def test_parallel_first_gets_take_one_connect_time() -> None:
    fake = Fake()
    fake.connect.always(0.2)
    async with fake.pool(max_size=9) as pool:
        began = now()
        conns = await asyncio.gather(*(pool.get() for _ in range(9)))

        assert now() - began == pytest.approx(0.2)
        assert fake.most == 9
        check_invariants(pool)
        for conn in conns:
            await pool.put(conn)


@virtual_time
async def test_a_waiter_takes_a_returned_connection_ahead_of_the_one_being_made() -> None:
    fake = Fake()
    async with fake.pool(max_size=2) as pool:
        lent = await pool.get()
        fake.connect.once(3.0)
        began = now()
        waiter = asyncio.create_task(pool.get())
        await asyncio.sleep(1)
        await pool.put(lent)
        conn = await waiter

        assert now() - began == pytest.approx(1.0)
        assert (pool.stats().connecting, pool.stats().in_use) == (1, 1)
        await asyncio.sleep(3)
        assert (pool.idle, pool.stats().in_use) == (1, 1), "the one that was made is kept"
        await pool.put(conn)


@virtual_time
async def test_a_waiter_takes_a_new_connection_ahead_of_the_one_still_lent() -> None:
    fake = Fake()
    async with fake.pool(max_size=2) as pool:
        lent = await pool.get()
        fake.connect.once(3.0)
        began = now()
        conn = await pool.get()

        assert now() - began == pytest.approx(3.0)
        await pool.put(lent)
        await pool.put(conn)


@virtual_time
async def test_an_acquire_has_a_finite_deadline_by_default() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        lent = await pool.get()
        began = now()
        with pytest.raises(PoolTimeout, match="no connection within 30 s"):
            await asyncio.create_task(pool.get())

        assert now() - began == pytest.approx(30)
        assert pool.stats().timeouts == 1
        await pool.put(lent)


@virtual_time
async def test_one_deadline_covers_wait_connect_and_check_together() -> None:
    fake = Fake()
    async with fake.pool(max_size=1, timeout=10, check="always", connect_timeout=60) as pool:
        lent = await pool.get()
        fake.ping.once(fake.Lost("gone"))
        fake.connect.once(NEVER)
        began = now()
        waiter = asyncio.create_task(pool.get())
        await asyncio.sleep(6)
        await pool.put(lent)  # six seconds of waiting, then a check, then a connect that hangs
        with pytest.raises(PoolTimeout):
            await waiter

        assert now() - began == pytest.approx(10)
        assert (fake.ping.calls, fake.connect.calls) == (1, 2)


@virtual_time
async def test_wait_for_bounds_an_acquire() -> None:
    fake = Fake()
    async with fake.pool(max_size=1, check="always", check_timeout=60) as pool:
        await pool.put(await pool.get())
        fake.ping.once(NEVER)
        began = now()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.get(), 0.5)

        assert now() - began == pytest.approx(0.5)


@pytest.mark.parametrize("by", ["get", "connection", "transaction"])
@virtual_time
async def test_a_timeout_can_be_given_for_one_use(by: str) -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        lent = await pool.get()

        async def borrow() -> None:
            async with contextlib.AsyncExitStack() as stack:
                if by == "get":
                    await pool.get(timeout=2)
                else:
                    await stack.enter_async_context(getattr(pool, by)(timeout=2))

        began = now()
        with pytest.raises(PoolTimeout, match="within 2 s"):
            await asyncio.create_task(borrow())
        assert now() - began == pytest.approx(2)
        await pool.put(lent)


@virtual_time
async def test_a_timeout_of_none_waits_without_end() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        lent = await pool.get()
        waiter = asyncio.create_task(pool.get(timeout=None))
        await asyncio.sleep(100_000)
        assert not waiter.done()
        await pool.put(lent)
        await pool.put(await waiter)


@virtual_time
async def test_a_timeout_of_zero_takes_what_is_there_and_waits_for_nothing() -> None:
    fake = Fake()
    fake.connect.always(1.0)
    async with fake.pool(max_size=1) as pool:
        with pytest.raises(PoolTimeout):
            await pool.get(timeout=0)
        await asyncio.sleep(1.5)

        conn = await pool.get(timeout=0)  # the connect has outlived its caller

        assert fake.connect.calls == 1
        await pool.put(conn)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
@virtual_time
async def test_an_impossible_timeout_is_refused(timeout: float) -> None:
    fake = Fake()
    async with fake.pool() as pool:
        with pytest.raises(ValueError, match="timeout"):
            await pool.get(timeout=timeout)
        with pytest.raises(ValueError, match="timeout"):
            await pool.close(timeout=timeout)


@virtual_time
async def test_a_borrowers_timeout_error_is_not_taken_for_the_pools() -> None:
    fake = Fake()
    fake.connect.once(TimeoutError("the driver's own"))
    async with fake.pool() as pool:
        with pytest.raises(TimeoutError, match="the driver's own") as caught:
            await pool.get()
        assert not isinstance(caught.value, PoolError)
        assert pool.stats().timeouts == 0


@virtual_time
async def test_an_asyncio_timeout_around_get_stays_the_callers_own() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        lent = await pool.get()

        async def impatient() -> None:
            async with asyncio.timeout(1):
                await pool.get()

        with pytest.raises(TimeoutError) as caught:
            await asyncio.create_task(impatient())
        assert not isinstance(caught.value, PoolTimeout)
        assert (pool.stats().timeouts, pool.waiting) == (0, 0)
        await pool.put(lent)


@virtual_time
async def test_an_iteration_over_provide_lends_one_connection() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        async for conn in pool.provide():
            assert isinstance(conn, Connection)
            assert pool.stats().in_use == 1
        assert pool.stats().in_use == 0


@virtual_time
async def test_a_one_shot_is_one_hop_and_gives_back_what_it_borrowed() -> None:
    fake = Fake(rows=3)
    async with fake.pool(max_size=1) as pool:
        assert await pool.fetch_all("SELECT n") == [(1,), (2,), (3,)]
        assert await pool.fetch_one("SELECT n") == (1,)
        assert await pool.fetch_val("SELECT n") == 1
        assert await pool.execute("UPDATE t") == 1
        assert await pool.execute_many("INSERT", [(1,), (2,)]) == 2
        assert await pool.run(lambda raw, n, *, m: (type(raw).__name__, n, m), 1, m=2) == (
            "FakeConnection",
            1,
            2,
        )

        assert (pool.idle, pool.stats().acquired, fake.connect.calls) == (1, 6, 1)
        assert fake.commit.calls == 5, "a function that runs no statement needs no commit"
        assert fake.rollback.calls == 0


@virtual_time
async def test_a_one_shot_that_fails_is_rolled_back() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:

        def half(raw: object) -> None:
            raw.cursor().execute("UPDATE t")  # type: ignore[attr-defined] # the fake's
            raise KeyError("half-way")

        with pytest.raises(KeyError, match="half-way"):
            await pool.run(half)
        await settle()
        assert (fake.commit.calls, fake.rollback.calls, pool.idle) == (0, 1, 1)


class HesitantDriver(FakeDriver):
    """Asks the server before a transaction."""

    def begin(self, raw: Any) -> None:
        raw.ping()


@virtual_time
async def test_a_transaction_that_cannot_begin_gives_its_connection_back() -> None:
    fake = Fake()
    async with fake.pool(max_size=1, driver=HesitantDriver(fake)) as pool:
        fake.ping.once(fake.Error("no"))
        with pytest.raises(fake.Error, match="no"):
            async with pool.transaction():
                raise AssertionError("never entered")
        assert (pool.idle, pool.stats().in_use) == (1, 0)


@pytest.mark.parametrize("driver", [None, "knowing"])
@virtual_time
async def test_a_transaction_commits_on_success_and_rolls_back_on_an_error(
    driver: str | None,
) -> None:
    fake = Fake()
    options = {} if driver else {"driver": None}
    async with fake.pool(**options) as pool:
        async with pool.transaction() as conn:
            await conn.execute("INSERT")
        assert (fake.commit.calls, fake.rollback.calls) == (1, 0)
        with pytest.raises(ZeroDivisionError):
            async with pool.transaction() as conn:
                await conn.execute("INSERT")
                raise ZeroDivisionError
        assert (fake.commit.calls, fake.rollback.calls) == (1, 1)


@virtual_time
async def test_a_module_may_be_any_object_with_a_connect() -> None:
    fake = Fake()

    class Bare:
        connect = fake.connect

    pool = ConnectionPool(Bare())
    assert await pool.fetch_val("SELECT n") == 1
    assert pool.name.startswith("Bare-")
    await pool.close()


@virtual_time
@pytest.mark.parametrize("idle", [False, True], ids=["new", "idle"])
async def test_a_connection_by_hand_is_cleaned_up_as_the_pool_does_however_it_is_closed(
    idle: bool,
) -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        if idle:
            await pool.put(await pool.get())
        conn = await pool.get()
        await conn.execute("INSERT")
        await conn.close()
        assert (pool.idle, fake.rollback.calls) == (1, 1)


@virtual_time
async def test_an_open_is_not_about_one_that_has_failed_before() -> None:
    fake = Fake()
    fake.connect.once(fake.OperationalError("no such user"))
    async with fake.pool(min_size=1) as pool:
        with pytest.raises(fake.OperationalError):
            await pool.open()
        await pool.put(await pool.get())
        assert await pool.open() is pool
