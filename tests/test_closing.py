"""Opening and closing: what is left, whoever waits, whatever hangs, whichever loop runs."""

import asyncio
import gc
import logging
from typing import Any

import pytest

from asyncdbpool import (
    ConnectionPool,
    ConnectionReturned,
    ConnectTimeout,
    PoolClosed,
    WrongEventLoop,
)
from asyncdbpool.testing import (
    NEVER,
    Fake,
    FakeDriver,
    check_invariants,
    now,
    settle,
    sleep,
    virtual_time,
)
from asyncdbpool.testing.invariants import threads_of
from support.ticks import hand_over


@virtual_time
async def test_open_makes_min_size_connections_and_gives_the_pool() -> None:
    fake = Fake()
    fake.connect.always(1.0)
    async with fake.pool(min_size=3) as pool:
        began = now()
        assert await pool.open() is pool
        assert now() - began == pytest.approx(1)
        assert pool.idle == 3
        assert await pool.open() is pool
        assert fake.connect.calls == 3


@virtual_time
async def test_open_makes_all_of_min_size_under_a_connect_limit() -> None:
    fake = Fake()
    fake.connect.always(1.0)
    async with fake.pool(min_size=3, connect_limit=1) as pool:
        await pool.open()
        assert (pool.idle, pool.stats().connecting) == (3, 0)


@virtual_time
async def test_open_waits_for_what_others_have_begun_to_connect_while_it_waited() -> None:
    fake = Fake()
    fake.connect.once(1.0, 3.0, 1.0)
    async with fake.pool(min_size=3, connect_limit=2) as pool:
        began = now()
        opening = asyncio.create_task(pool.open())
        await asyncio.sleep(2.5)
        conns = [await pool.get()]
        borrowing = asyncio.create_task(pool.get())  # it makes the pool look what is missing
        await opening
        assert now() - began == pytest.approx(3.5, abs=0.01)
        conns.append(await borrowing)
        assert pool.stats().connecting == 0
        for conn in conns:
            await pool.put(conn)


@virtual_time
async def test_open_waits_for_connects_that_somebody_else_has_started() -> None:
    fake = Fake()
    fake.connect.always(1.0)
    async with fake.pool(min_size=2) as pool:
        opening = asyncio.create_task(pool.open())
        conn = await pool.get()
        await opening
        await settle()
        assert pool.size >= 2
        await pool.put(conn)


@virtual_time
async def test_an_open_that_fails_raises_and_leaves_the_pool_as_it_was() -> None:
    fake = Fake()
    fake.connect.once(None, fake.OperationalError("no such database"))
    async with fake.pool(min_size=2) as pool:
        with pytest.raises(fake.OperationalError, match="no such database"):
            await pool.open()
        assert (pool.size, fake.open, threads_of(pool)) == (0, 0, [])
        await pool.open()
        assert pool.idle == 2


@virtual_time
async def test_a_closed_pool_whose_open_fails_stays_closed() -> None:
    fake = Fake()
    async with fake.pool(min_size=1) as pool:
        await pool.open()
        await pool.close()
        fake.connect.once(fake.OperationalError("no"))
        with pytest.raises(fake.OperationalError):
            await pool.open()
        with pytest.raises(PoolClosed):
            await pool.get()


@virtual_time
async def test_a_cancelled_open_goes_on_by_itself() -> None:
    fake = Fake()
    fake.connect.always(2.0)
    async with fake.pool(min_size=2) as pool:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.open(), 1)
        await asyncio.sleep(2)
        assert pool.idle == 2


@virtual_time
async def test_a_close_during_open_ends_both() -> None:
    fake = Fake()
    fake.connect.always(1.0)
    async with fake.pool(min_size=2) as pool:
        opening = asyncio.create_task(pool.open())
        await asyncio.sleep(0.5)
        began = now()
        await pool.close()
        with pytest.raises(PoolClosed):
            await opening

        assert now() - began == pytest.approx(0.5, abs=0.1)
        assert fake.connect.calls == 2
        with pytest.raises(PoolClosed):
            await pool.get()


@virtual_time
async def test_close_fails_every_waiter_within_one_tick() -> None:
    fake = Fake()
    async with fake.pool(max_size=2, name="orders") as pool:
        lent = await pool.get()
        fake.connect.once(NEVER)
        waiters = [asyncio.create_task(pool.get()) for _ in range(10)]
        await settle()
        closing = asyncio.create_task(pool.close())
        await asyncio.sleep(0)  # close() starts its work
        await asyncio.sleep(0)  # which tells the waiters
        await asyncio.sleep(0)  # who raise

        for waiter in waiters:
            with pytest.raises(PoolClosed, match="'orders' is closed"):
                waiter.result()
        assert pool.waiting == 0
        fake.connect.release()
        await pool.put(lent)
        await closing
        assert pool.stats().acquired == 1, "nobody gets a connection afterwards"


@virtual_time
async def test_close_while_a_connection_is_handed_over_gives_it_to_nobody() -> None:
    fake = Fake()
    fake.connect.once(NEVER)
    async with fake.pool() as pool:
        waiter = asyncio.create_task(pool.get())
        await settle()
        fake.connect.release()
        await hand_over(pool)
        assert pool._engine is not None
        pool._engine.closing = True
        with pytest.raises(PoolClosed):
            await waiter
        await settle()
        assert (pool.size, fake.open) == (0, 0)


@virtual_time
async def test_close_lets_borrowers_finish() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        conn = await pool.get()
        closing = asyncio.create_task(pool.close(timeout=10))
        await asyncio.sleep(5)
        assert await conn.fetch_val("SELECT n") == 1
        with pytest.raises(PoolClosed):
            await pool.get()
        began = now()
        await pool.put(conn)
        await closing
        assert now() - began < 0.1


@virtual_time
async def test_close_takes_the_connections_away_after_its_timeout() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        conn = await pool.get()
        began = now()
        await pool.close(timeout=0.3)

        assert now() - began == pytest.approx(0.3, abs=0.01)
        with pytest.raises(
            ConnectionReturned, match="this connection is gone: its pool was closed;"
        ):
            await conn.execute("SELECT n")
        await conn.close()
        with pytest.raises(ConnectionReturned):
            await pool.put(conn)


@virtual_time
async def test_close_without_a_deadline_waits_for_the_borrowers() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        conn = await pool.get()
        closing = asyncio.create_task(pool.close(timeout=None))
        await asyncio.sleep(100_000)
        assert not closing.done()
        await pool.put(conn)
        await closing


@pytest.mark.parametrize("use", ["one-shot", "block", "transaction"])
@virtual_time
async def test_close_ends_a_hung_statement_through_its_socket(use: str) -> None:
    fake = Fake(sockets=True)
    async with fake.pool() as pool:

        async def work() -> None:
            if use == "one-shot":
                await pool.execute("UPDATE t")
            else:
                async with pool.connection() if use == "block" else pool.transaction() as conn:
                    await conn.execute("UPDATE t")

        fake.execute.once(NEVER)
        working = asyncio.create_task(work())
        await settle()
        await pool.close(timeout=2)

        with pytest.raises((fake.Lost, ConnectionReturned)):
            await working
        assert (fake.open, threads_of(pool)) == (0, [])


@virtual_time
async def test_close_leaves_a_thread_that_hangs_for_good_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = Fake()
    async with fake.pool(cancel_grace=5) as pool:
        fake.execute.once(NEVER)
        working = asyncio.create_task(pool.execute("UPDATE t"))
        await settle()
        began = now()
        with caplog.at_level(logging.WARNING, "asyncdbpool"):
            await pool.close(timeout=2)

        assert now() - began == pytest.approx(2 + 5 + 1, abs=0.1), "a second for threads to end"
        assert "1 calls of the driver have not ended" in caplog.text
        check_invariants(pool, stuck=1)
        with pytest.raises(PoolClosed, match="closed while this ran; it hangs in the driver"):
            await working
        fake.execute.release()
        await settle()
        assert (fake.open, threads_of(pool)) == (0, [])


@virtual_time
async def test_close_lets_nobody_wait_for_a_call_that_hangs_for_good() -> None:
    fake = Fake()
    async with fake.pool(max_size=3, cancel_grace=5) as pool:
        conn, other, third = await pool.get(), await pool.get(), await pool.get()
        await third.execute("SELECT 0")
        fake.execute.once(NEVER)
        fake.close.once(NEVER)
        fake.rollback.once(NEVER)
        working = asyncio.create_task(conn.fetch_all("SELECT 1"))
        await settle()
        queued = asyncio.create_task(conn.fetch_all("SELECT 2"))
        given_up = asyncio.create_task(conn.commit())
        discarding = asyncio.create_task(other.discard())
        returning = asyncio.create_task(pool.put(third))
        pausing = asyncio.create_task(pool.pause())
        await settle()
        given_up.cancel()
        returning.cancel()
        await pool.close(timeout=2)

        for hung in (working, queued):
            with pytest.raises(PoolClosed, match="it hangs in the driver"):
                await hung
        await discarding
        await pausing
        check_invariants(pool, stuck=3)
        for gate in (fake.execute, fake.close, fake.rollback):
            gate.release()
        await settle()
        assert (fake.open, threads_of(pool)) == (0, [])
        assert sorted(fake.statements) == ["SELECT 0", "SELECT 1"]


@virtual_time
async def test_close_ends_a_hung_check_through_its_socket_and_gives_it_time_to_notice() -> None:
    class Sluggish(FakeDriver):
        def ping(self, raw: Any) -> None:
            try:
                super().ping(raw)
            finally:
                sleep(0.2)

    fake = Fake(sockets=True)
    options: dict[str, Any] = {"check": "always", "check_timeout": 60, "cancel_grace": 5}
    async with fake.pool(driver=Sluggish(fake), **options) as pool:
        await pool.put(await pool.get())
        fake.ping.once(NEVER)
        waiter = asyncio.create_task(pool.get())
        await settle()
        began = now()
        await pool.close(timeout=2)

        assert now() - began == pytest.approx(2 + 5 + 0.2, abs=0.1)
        assert isinstance(waiter.exception(), PoolClosed)
        assert (fake.open, pool.stats().closed, threads_of(pool)) == (0, 1, [])


@virtual_time
async def test_close_leaves_a_connect_that_hangs_for_good_and_closes_it_in_the_end() -> None:
    fake = Fake()
    async with fake.pool(cancel_grace=5) as pool:
        fake.connect.once(NEVER)
        waiter = asyncio.create_task(pool.get())
        await settle()
        await pool.close(timeout=1)
        with pytest.raises(PoolClosed):
            await waiter
        fake.connect.release()
        await asyncio.sleep(1)

        assert (fake.open, len(fake.connections), threads_of(pool)) == (0, 1, [])
        await asyncio.sleep(20)


@virtual_time
async def test_close_gives_up_the_retries_of_a_connect() -> None:
    fake = Fake()
    fake.connect.always(fake.Lost("refused"))
    async with fake.pool(min_size=1, retry_connect=600, timeout=600) as pool:
        waiter = asyncio.create_task(pool.get())
        await asyncio.sleep(10)
        began = now()
        await pool.close()
        assert now() - began < 0.1
        with pytest.raises(PoolClosed):
            await waiter


@virtual_time
async def test_a_cancelled_close_only_stops_the_waiting_for_it() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        conn = await pool.get()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.close(timeout=10), 1)
        with pytest.raises(PoolClosed):
            await pool.get()
        await asyncio.sleep(10)
        assert (fake.open, threads_of(pool), bool(conn)) == (0, [], False)


@virtual_time
async def test_closing_twice_is_closing_once() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        conn = await pool.get()
        both = asyncio.gather(pool.close(), pool.close())
        await settle()
        await pool.put(conn)
        await both
        await pool.close()
        assert pool.stats().closed == 1


@virtual_time
async def test_a_pool_that_was_never_opened_can_be_closed() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        await pool.close()
        assert "closed" in repr(pool)
        assert pool.free == 0
        with pytest.raises(PoolClosed, match="open it again"):
            await pool.get()


@virtual_time
async def test_a_closed_pool_may_be_opened_again() -> None:
    fake = Fake()
    async with fake.pool(min_size=1) as pool:
        for _ in range(3):
            async with pool:
                assert (await pool.fetch_val("SELECT n"), pool.closed) == (1, False)
            assert (pool.size, pool.closed) == (0, True)
            check_invariants(pool)
        assert (pool.stats().acquired, pool.stats().created) == (3, 3)


@virtual_time
async def test_an_open_during_a_close_waits_for_its_end() -> None:
    fake = Fake()
    async with fake.pool(min_size=1) as pool:
        await pool.open()
        fake.close.once(2.0)
        closing = asyncio.create_task(pool.close())
        await settle()
        began = now()
        await pool.open()
        assert now() - began == pytest.approx(2, abs=0.1)
        assert closing.done()
        assert pool.idle == 1


@virtual_time
async def test_an_open_goes_on_with_a_close_whose_task_was_cancelled() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        lent = await pool.get()
        closing = asyncio.create_task(pool.close())
        await settle()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # as some do at the end of a program
        await asyncio.wait([closing])
        opening = asyncio.create_task(pool.open())
        await settle()
        assert (opening.done(), pool.closed) == (False, True), "the borrower may finish"
        await pool.put(lent)
        await opening
        assert await pool.fetch_val("SELECT n") == 1
        assert fake.connect.calls == 2


@virtual_time
async def test_a_close_that_the_driver_fails_is_a_close_all_the_same() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        await pool.put(await pool.get())
        fake.close.once(fake.Error("already gone"))
        await pool.close()
        assert (pool.size, fake.open, threads_of(pool)) == (0, 0, [])


@virtual_time
async def test_a_return_while_the_pool_closes_closes_the_connection() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        conn = await pool.get()
        await conn.execute("INSERT")
        closing = asyncio.create_task(pool.close())
        await settle()
        await pool.put(conn)
        await closing
        assert (pool.stats().closed, fake.open) == (1, 0)


def test_a_pool_is_refused_on_a_second_loop_before_any_io() -> None:
    fake = Fake()
    pool = ConnectionPool(fake, driver=FakeDriver(fake))
    with asyncio.Runner() as one, asyncio.Runner() as two:
        conn = one.run(pool.get())
        uses: list[Any] = [pool.get, pool.open, pool.close, pool.clear, pool.pause, conn.commit]
        for use in uses:
            with pytest.raises(WrongEventLoop):
                two.run(use())
        assert fake.connect.calls == 1
        one.run(pool.put(conn))
        one.run(pool.close())
        two.run(pool.open())
        assert two.run(pool.fetch_val("SELECT n")) == 1
        two.run(pool.close())
    fake.check(pool)


def refuse_late() -> None:
    sleep(2)
    raise Fake.OperationalError("no such user")


@virtual_time
async def test_an_open_that_fails_lets_those_finish_who_were_served_meanwhile() -> None:
    fake = Fake(cancels=True)
    fake.connect.once(None, refuse_late)
    async with fake.pool(min_size=2, max_size=2) as pool:
        opening = asyncio.create_task(pool.open())
        await settle()
        fake.execute.once(5.0)
        statement = asyncio.create_task(pool.fetch_val("SELECT n"))

        with pytest.raises(fake.OperationalError, match="no such user"):
            await opening
        assert await statement == 1
        assert (pool.closed, pool.size) == (False, 0)


@virtual_time
async def test_an_open_that_fails_waits_ten_seconds_for_those_and_no_longer() -> None:
    fake = Fake()
    fake.connect.once(None, refuse_late)
    async with fake.pool(min_size=2, max_size=2) as pool:
        opening = asyncio.create_task(pool.open())
        await settle()
        conn = await pool.get()
        began = now()
        with pytest.raises(fake.OperationalError, match="no such user"):
            await opening
        assert now() - began == pytest.approx(2 + 10, abs=0.1)
        with pytest.raises(ConnectionReturned):
            await conn.fetch_val("SELECT n")


@virtual_time
async def test_an_open_that_fails_raises_its_error_and_does_not_log_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = Fake()
    fake.connect.once(fake.Error("no"))
    async with fake.pool(min_size=1) as pool:
        with pytest.raises(fake.Error, match="no"):
            await pool.open()
    assert "connect failed" not in caplog.text


@virtual_time
async def test_an_open_that_fails_for_nobody_is_not_reported_as_forgotten() -> None:
    fake = Fake()

    def refuse() -> None:
        sleep(2.0)
        raise fake.Error("no")

    fake.connect.once(refuse)
    async with fake.pool(min_size=1) as pool:
        opening = asyncio.create_task(pool.open())
        await settle()
        opening.cancel()
        await asyncio.sleep(3)
        gc.collect()  # a task whose error nobody has seen says so when it goes
        await settle()
        assert pool.size == 0


@virtual_time
async def test_an_open_that_fails_late_ends_nothing_that_was_opened_after_it() -> None:
    fake = Fake()
    fake.connect.once(None, refuse_late)
    async with fake.pool(min_size=2, max_size=2, cancel_grace=1) as pool:
        failing = asyncio.create_task(pool.open())
        await settle()
        fake.execute.once(NEVER)
        hanging = asyncio.create_task(pool.fetch_val("SELECT n"))
        await asyncio.sleep(3)
        await pool.close(0)  # is faster than the end of the open, which waits for who borrows
        assert not failing.done()
        await pool.open()
        conn = await pool.get()
        with pytest.raises(fake.OperationalError, match="no such user"):
            await failing

        await pool.put(conn)
        assert (pool.size, pool.idle, pool.free) == (2, 2, 2)
        assert fake.connect.calls == 4
        with pytest.raises(PoolClosed):
            await hanging
        fake.execute.release()
        await settle()


@virtual_time
async def test_an_open_waits_for_its_own_connections_whatever_became_of_one_before_it() -> None:
    fake = Fake()
    fake.connect.once(NEVER, 59.0)
    async with fake.pool(min_size=1, connect_timeout=60, cancel_grace=1) as pool:
        failing = asyncio.create_task(pool.open())
        await asyncio.sleep(1)
        await pool.close(0)
        first = asyncio.create_task(pool.open())
        with pytest.raises(ConnectTimeout):
            await failing
        second = asyncio.create_task(pool.open())
        await settle()
        assert (first.done(), second.done()) == (False, False)
        await asyncio.wait([first, second])
        assert pool.idle == 1
        fake.connect.release()
        await settle()


@virtual_time
async def test_an_opening_that_was_cancelled_to_its_end_cancels_nobody_later() -> None:
    fake = Fake()
    fake.connect.once(None, 50.0)
    async with fake.pool(min_size=2, connect_timeout=60) as pool:
        opening = asyncio.create_task(pool.open())
        await settle()
        conn = await pool.get()
        task = pool._opening
        assert task is not None
        for _ in range(2):  # in its fill, and then in the end of that
            task.cancel()
            await settle()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert await pool.open() is pool
        await pool.put(conn)
        await pool.close()
        await asyncio.sleep(60)
