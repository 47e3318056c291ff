"""Cancelled statements: what becomes of them, of their connection and of the next statement."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

import pytest

from asyncdbpool import PoolError
from asyncdbpool.testing import NEVER, Fake, check_invariants, now, settle, virtual_time
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
