"""Cancelled statements: what becomes of them, of their connection and of the next statement."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

import pytest

from asyncdbpool import PoolError
from asyncdbpool.testing import (
    NEVER,
    Clock,
    Fake,
    check_invariants,
    now,
    settle,
    sleep,
    virtual_time,
)
from support.ticks import answer_under_way


async def cancelled_after(work: Awaitable[Any], seconds: float) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.wait([task])


@virtual_time
async def test_a_statement_that_was_cancelled_before_it_started_never_runs() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        fake.execute.once(2.0)
        running = asyncio.create_task(conn.fetch_all("SELECT 1"))
        queued = asyncio.create_task(conn.fetch_all("SELECT 2"))
        after = asyncio.create_task(conn.fetch_all("SELECT 3"))
        await settle()
        queued.cancel()
        await asyncio.wait([running, queued, after])

        assert fake.statements == ["SELECT 1", "SELECT 3"]
        assert pool.stats().cancelled == 1


@virtual_time
async def test_a_rollback_runs_even_if_its_caller_is_cancelled() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        await conn.execute("INSERT")
        fake.execute.once(2.0)
        running = asyncio.create_task(conn.fetch_all("SELECT 1"))
        await settle()
        await cancelled_after(conn.rollback(), 1)
        await running
        await settle()
        assert fake.rollback.calls == 1


@virtual_time
async def test_a_timed_out_statement_does_not_make_its_caller_wait_for_its_end() -> None:
    fake = Fake()
    fake.execute.once(30.0)
    async with fake.pool(max_size=1) as pool:
        began = now()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), pool.connection() as conn:
                await conn.execute("UPDATE t")

        assert now() - began == pytest.approx(0.5)
        assert (pool.stats().in_use, pool.stats().cancelled) == (1, 1)
        await asyncio.sleep(30)
        assert (pool.size, pool.free) == (pool.idle, 1)


@virtual_time
async def test_a_cancelled_statements_answer_never_goes_to_the_next_one() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        fake.execute.once(2.0)
        await cancelled_after(conn.fetch_val("SELECT 1"), 1)
        fake.rows = [("the next",)]
        assert await conn.fetch_val("SELECT 2") == "the next"


@pytest.mark.parametrize("returned", [True, False])
@virtual_time
async def test_an_answer_that_races_the_cancellation_costs_the_connection_nothing(
    returned: bool,
) -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=1, cancel_grace=5) as pool:
        conn = await pool.get()
        fake.execute.once(NEVER)
        statement = asyncio.create_task(conn.fetch_all("SELECT n"))
        await settle()
        fake.execute.release()
        answer_under_way()
        statement.cancel()
        await asyncio.wait([statement])
        check_invariants(pool)
        if returned:
            await pool.put(conn)
            conn = await pool.get()
        await asyncio.sleep(60)

        assert await conn.fetch_val("SELECT n") == 1, "nobody has hung up on an innocent"
        await pool.put(conn)
        assert (pool.stats().discarded, fake.connect.calls) == (0, 1)


@virtual_time
async def test_a_cancelled_statement_is_cancelled_in_the_database() -> None:
    fake = Fake(sockets=True, cancels=True)
    async with fake.pool(max_size=1, cancel_grace=60) as pool:
        fake.execute.once(NEVER)
        await cancelled_after(pool.execute("UPDATE t"), 1)
        began = now()
        assert await pool.fetch_val("SELECT n") == 1

        assert now() - began < 0.1
        assert (fake.cancel.calls, fake.connect.calls, pool.stats().cancelled) == (1, 1, 1)


@virtual_time
async def test_a_cancel_is_repeated_until_the_statement_has_ended() -> None:
    fake = Fake(sockets=True, cancels=True)
    fake.lost_cancels = 4
    async with fake.pool(max_size=1, cancel_grace=60) as pool:
        fake.execute.once(NEVER)
        await cancelled_after(pool.execute("UPDATE t"), 1)
        await asyncio.sleep(20)
        assert (fake.cancel.calls, pool.idle) == (5, 1)


@virtual_time
async def test_a_cancel_that_fails_is_logged_and_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = Fake(sockets=True, cancels=True)
    fake.cancel.once(fake.Error("no side connection"))
    async with fake.pool(max_size=1, cancel_grace=60) as pool:
        fake.execute.once(NEVER)
        with caplog.at_level(logging.INFO, "asyncdbpool"):
            await cancelled_after(pool.execute("UPDATE t"), 1)
            await asyncio.sleep(20)
        assert (fake.cancel.calls, pool.idle) == (2, 1)
    assert "cancelling failed: Error: no side connection" in caplog.text


@pytest.mark.realtime
async def test_a_late_cancel_never_hits_the_next_statement() -> None:
    fake = Fake(sockets=True, cancels=True)
    async with fake.pool(max_size=1, cancel_grace=60) as pool, pool.connection() as conn:
        fake.execute.once(0.1)
        fake.cancel.always(0.3)  # it arrives when the statement has ended by itself
        await cancelled_after(conn.fetch_all("SELECT n"), 0.05)
        assert await conn.fetch_val("SELECT n") == 1
        assert fake.connections[0].interrupted is False


@virtual_time
async def test_a_statement_that_resists_its_cancel_loses_its_socket() -> None:
    fake = Fake(sockets=True, cancels=True)
    fake.lost_cancels = 1000
    async with fake.pool(max_size=1, cancel_grace=5) as pool:
        fake.execute.once(NEVER)
        await cancelled_after(pool.execute("UPDATE t"), 1)
        began = now()
        assert await pool.fetch_val("SELECT n") == 1
        assert now() - began <= 5.01
        assert fake.connect.calls == 2


@virtual_time
async def test_a_statement_of_another_task_can_be_cancelled_by_hand() -> None:
    fake = Fake(sockets=True, cancels=True)
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        await conn.cancel()  # where nothing runs, nothing happens
        fake.execute.once(NEVER)
        statement = asyncio.create_task(conn.fetch_all("SELECT n"))
        await settle()
        await conn.cancel()
        with pytest.raises(fake.OperationalError, match="interrupted"):
            await statement
        assert await conn.fetch_val("SELECT n") == 1
        assert pool.stats().cancelled == 0, "its caller was not cancelled"


@virtual_time
async def test_a_driver_that_cannot_cancel_says_so() -> None:
    fake = Fake()
    async with fake.pool() as pool, pool.connection() as conn:
        with pytest.raises(PoolError, match="cannot cancel a statement"):
            await conn.cancel()


@virtual_time
async def test_a_put_cancels_what_another_task_still_runs() -> None:
    fake = Fake(sockets=True, cancels=True)
    async with fake.pool(max_size=1) as pool:
        conn = await pool.get()
        fake.execute.once(NEVER)
        statement = asyncio.create_task(conn.fetch_all("SELECT n"))
        await settle()
        began = now()
        await pool.put(conn)
        assert now() - began < 0.1
        await asyncio.wait([statement])
        assert statement.exception() is not None
        assert (pool.idle, fake.cancel.calls) == (1, 1)


@virtual_time
async def test_a_close_ends_a_statement_that_resists_its_cancel_through_its_socket() -> None:
    fake = Fake(sockets=True, cancels=True)
    fake.lost_cancels = 1000
    async with fake.pool(max_size=1, cancel_grace=5) as pool:
        fake.execute.once(NEVER)
        statement = asyncio.create_task(pool.execute("UPDATE t"))
        await settle()
        began = now()
        await pool.close(timeout=2)
        assert 7 <= now() - began < 8.1
        await asyncio.wait([statement])
        assert statement.exception() is not None


@virtual_time
async def test_a_cancel_by_hand_can_be_cancelled_itself() -> None:
    fake = Fake(sockets=True, cancels=True)
    fake.cancel.once(2.0)
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        fake.execute.once(NEVER)
        statement = asyncio.create_task(conn.fetch_all("SELECT n"))
        await settle()
        await cancelled_after(conn.cancel(), 1)
        with pytest.raises(fake.OperationalError, match="interrupted"):
            await statement


@virtual_time
async def test_a_rollback_is_not_cancelled() -> None:
    fake = Fake(cancels=True)
    async with fake.pool() as pool, pool.connection() as conn:
        await conn.execute("INSERT")
        fake.rollback.once(3.0)
        rollback = asyncio.create_task(conn.rollback())
        await settle()
        await conn.cancel()
        await rollback
        assert fake.cancel.calls == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_a_statement_that_nobody_waits_for_comes_out_of_the_loop(
    error: type[BaseException],
) -> None:
    fake = Fake()

    def late() -> None:
        sleep(2)
        raise error

    @virtual_time
    async def scenario() -> None:
        async with fake.pool(max_size=1) as pool, pool.connection() as conn:
            fake.execute.once(late)
            await cancelled_after(conn.execute("UPDATE t"), 1)
            await asyncio.sleep(20)

    with pytest.raises(error):
        scenario()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_cancelling_comes_out_of_the_loop(error: type[BaseException]) -> None:
    fake = Fake(sockets=True, cancels=True)
    fake.cancel.once(error())

    @virtual_time
    async def scenario() -> None:
        async with fake.pool(max_size=1) as pool:
            fake.execute.once(NEVER)
            await cancelled_after(pool.execute("UPDATE t"), 1)
            await asyncio.sleep(20)

    with pytest.raises(error):
        scenario()


@virtual_time
async def test_cancels_are_repeated_at_pauses_that_double_up_to_a_second() -> None:
    fake = Fake(cancels=True)
    times: list[float] = []

    def note() -> None:  # on the side thread
        assert Clock.current is not None
        times.append(Clock.current.now)

    fake.cancel.always(note)
    async with fake.pool(max_size=1, cancel_grace=10) as pool, pool.connection() as conn:
        for cancel in (None, conn.cancel):
            fake.lost_cancels = 7
            fake.execute.once(NEVER)
            statement = asyncio.create_task(conn.fetch_all("SELECT n"))
            await settle()
            began = now()
            if cancel is None:
                statement.cancel()
            else:
                await cancel()
            await asyncio.gather(statement, return_exceptions=True)
            await conn.commit()
            pauses = [time - began for time in times]
            expected = [0, 0.05, 0.15, 0.35, 0.75, 1.55, 2.55, 3.55]
            assert pauses == pytest.approx(expected, abs=0.01)
            times.clear()


@virtual_time
async def test_one_cancel_at_a_time_is_on_its_way_whoever_asks() -> None:
    fake = Fake(cancels=True)
    fake.execute.once(NEVER)
    fake.cancel.once(0.3)
    fake.lost_cancels = 1
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        statement = asyncio.create_task(conn.fetch_all("SELECT n"))
        await settle()
        asking = asyncio.create_task(conn.cancel())
        await settle()
        statement.cancel()
        await asyncio.sleep(0.31)
        assert fake.cancel.calls == 1
        await asyncio.sleep(1)
        assert fake.cancel.calls == 2
        await asking


@virtual_time
async def test_what_does_not_come_to_rest_is_discarded_alone_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "asyncdbpool")
    fake = Fake(sockets=True)
    async with fake.pool(max_size=2, cancel_grace=2.0) as pool:
        conn, other = await pool.get(), await pool.get()
        await pool.put(other)
        fake.execute.once(NEVER)
        await cancelled_after(conn.fetch_all("SELECT n"), 1)
        await pool.put(conn)
        await asyncio.sleep(3)
        assert (pool.idle, pool.size, fake.connect.calls) == (1, 1, 2)
    assert "discarding a connection: it did not come to rest in time" in caplog.text
    assert "is stuck" not in caplog.text


@virtual_time
async def test_what_gets_stuck_again_is_reported_again(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake()
    async with fake.pool(max_size=1, cancel_grace=2.0) as pool:
        conn = await pool.get()
        fake.execute.once(NEVER)
        fake.close.once(NEVER)
        await cancelled_after(conn.fetch_all("SELECT n"), 1)
        await asyncio.sleep(3)
        assert caplog.text.count("is stuck in a call of its driver") == 1
        fake.execute.release()
        putting = asyncio.create_task(pool.put(conn))
        await asyncio.sleep(3)
        assert caplog.text.count("is stuck in a call of its driver") == 2
        fake.close.release()
        await putting


@pytest.mark.parametrize("block", ["connection", "transaction"])
@virtual_time
async def test_who_is_cancelled_in_a_block_does_not_wait_for_its_clean_up(block: str) -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:

        async def work() -> None:
            async with getattr(pool, block)() as conn:
                await conn.execute("INSERT")
                await asyncio.sleep(3600)

        fake.rollback.once(NEVER)
        began = now()
        await cancelled_after(work(), 1)
        assert now() - began == pytest.approx(1, abs=0.01)
        await settle()
        assert fake.rollback.held == 1


@virtual_time
async def test_who_is_cancelled_before_a_transaction_has_begun_waits_for_nothing() -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=1, check=None, cancel_grace=60) as pool:
        async with pool.connection() as conn:
            cursor = await conn.execute("INSERT")
            await conn.commit()
        fake.cursor_close.once(NEVER)
        await asyncio.sleep(1)
        assert fake.cursor_close.held == 1, "what the last borrower left is still being closed"
        assert not cursor

        async def work() -> None:
            async with pool.transaction():
                raise AssertionError("not reached")

        began = now()
        await cancelled_after(work(), 1)
        assert now() - began == pytest.approx(1, abs=0.01)
        fake.cursor_close.release()


@virtual_time
async def test_who_is_cancelled_before_a_commit_has_begun_waits_for_nothing() -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=1, cancel_grace=60) as pool:
        fake.execute.once(NEVER)
        others: list[asyncio.Task[Any]] = []

        async def work() -> None:
            async with pool.transaction() as conn:
                others.append(asyncio.create_task(conn.fetch_all("SELECT n")))
                await settle()

        began = now()
        await cancelled_after(work(), 1)
        assert now() - began == pytest.approx(1, abs=0.01)
        fake.execute.release()
        await asyncio.wait(others)
        await settle()
        assert (fake.commit.calls, pool.idle) == (0, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_an_undoing_that_nobody_waits_for_comes_out_of_the_loop(
    error: type[BaseException],
) -> None:
    fake = Fake()

    @virtual_time
    async def scenario() -> None:
        async with fake.pool(max_size=1) as pool, pool.connection() as conn:
            fake.rollback.once(error())
            with pytest.raises(asyncio.CancelledError):
                async with conn.transaction():
                    await conn.execute("INSERT")
                    raise asyncio.CancelledError
            await asyncio.sleep(60)

    with pytest.raises(error):
        scenario()
