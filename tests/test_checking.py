"""Checking: proof of life before a lease, and what one dead connection says about the others."""

import asyncio
from typing import Any

import pytest

from asyncdbpool import PoolTimeout
from asyncdbpool.testing import NEVER, Fake, check_invariants, now, settle, virtual_time


@virtual_time
async def test_auto_pings_only_what_has_been_idle_for_long() -> None:
    fake = Fake()
    async with fake.pool(check_after=1.0) as pool:
        await pool.put(await pool.get())
        await asyncio.sleep(0.9)
        await pool.put(await pool.get())
        assert fake.ping.calls == 0
        await asyncio.sleep(1.1)
        await pool.put(await pool.get())
        assert fake.ping.calls == 1


@virtual_time
async def test_auto_pings_what_has_something_to_read_on_its_socket() -> None:
    fake = Fake(sockets=True)
    async with fake.pool() as pool:
        await pool.put(await pool.get())
        await pool.put(await pool.get())
        assert fake.ping.calls == 0
        line = fake.connections[0].line
        assert line is not None
        line.answer()  # a NOTIFY, say, or the news of a shutdown
        await pool.put(await pool.get())

        assert (fake.ping.calls, fake.connect.calls) == (1, 1), "readable does not mean dead"


@pytest.mark.parametrize("size", [1, 2])
@virtual_time
async def test_one_that_was_told_something_while_lent_is_pinged_before_it_is_handed_over(
    size: int,
) -> None:
    fake = Fake(sockets=True)
    fake.connect.once(None, 500.0)  # the second, where there may be one, comes too late
    async with fake.pool(max_size=size, timeout=1000, connect_timeout=1000) as pool:
        lent = await pool.get()
        await asyncio.sleep(100)  # the server gives it up meanwhile, say
        waiter = asyncio.create_task(pool.get())
        await settle()
        line = fake.connections[0].line
        assert line is not None
        line.answer()
        await pool.put(lent)
        await pool.put(await waiter)
        assert fake.ping.calls == 1
        await asyncio.sleep(600)  # the late connect ends, too


@virtual_time
async def test_one_that_is_due_for_a_ping_at_once_is_not_handed_over_without() -> None:
    fake = Fake()
    async with fake.pool(check_after=0, max_size=1) as pool:
        lent = await pool.get()
        waiter = asyncio.create_task(pool.get())
        await settle()
        await pool.put(lent)
        await pool.put(await waiter)
        assert fake.ping.calls == 1


@virtual_time
async def test_always_pings_before_every_lease() -> None:
    fake = Fake()
    async with fake.pool(check="always", max_size=1) as pool:
        for _ in range(3):
            await pool.put(await pool.get())
        assert fake.ping.calls == 2, "a new connection needs no proof"
        lent = await pool.get()
        waiter = asyncio.create_task(pool.get())
        await settle()
        await pool.put(lent)
        await pool.put(await waiter)
        assert fake.ping.calls == 4, "nor is a returned one handed over without"


@virtual_time
async def test_auto_pings_before_every_lease_where_no_idle_time_is_short_enough() -> None:
    fake = Fake()
    async with fake.pool(check_after=0, max_size=1) as pool:
        for _ in range(3):
            await pool.put(await pool.get())
        assert fake.ping.calls == 2


@virtual_time
async def test_without_a_check_nothing_is_pinged() -> None:
    fake = Fake()
    async with fake.pool(check=None) as pool:
        await pool.put(await pool.get())
        await asyncio.sleep(500)
        await pool.put(await pool.get())
        assert fake.ping.calls == 0


@pytest.mark.parametrize("answer", [None, True, 0])
@virtual_time
async def test_a_check_of_the_users_may_return_anything_but_false(answer: object) -> None:
    fake = Fake()

    def check(raw: Any) -> object:
        raw.cursor().execute("SELECT n")
        return answer

    async with fake.pool(check=check) as pool:
        await pool.put(await pool.get())
        async with pool.connection() as conn:
            assert fake.statements == ["SELECT n"]
            assert not conn.in_transaction, "the check's own transaction is over"
        assert fake.connect.calls == 1


@pytest.mark.parametrize("answer", [False, LookupError("stale")])
@virtual_time
async def test_a_check_of_the_users_that_fails_discards_this_connection_alone(
    answer: object,
) -> None:
    fake = Fake()
    answers = [answer]

    def check(raw: Any) -> object:
        if not answers:
            return True
        verdict = answers.pop()
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    async with fake.pool(check=check) as pool:
        first, second = await pool.get(), await pool.get()
        await pool.put(first)
        await pool.put(second)
        await pool.put(await pool.get())
        await settle()

        assert (pool.stats().discarded, pool.idle, fake.connect.calls) == (1, 1, 2)


@virtual_time
async def test_a_failed_check_costs_the_borrower_only_time() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        await pool.put(await pool.get())
        await asyncio.sleep(2)
        fake.ping.once(fake.Lost("gone"))
        async with pool.connection() as conn:
            assert await conn.fetch_val("SELECT n") == 1
        assert (fake.connect.calls, pool.stats().discarded) == (2, 1)


@virtual_time
async def test_a_half_open_socket_does_not_hang_the_ping() -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=1, check_timeout=5, timeout=30) as pool:
        await pool.put(await pool.get())
        await asyncio.sleep(2)
        fake.ping.once(NEVER)
        began = now()
        conn = await pool.get()

        assert now() - began == pytest.approx(5)
        assert (fake.connect.calls, pool.stats().discarded) == (2, 1)
        await pool.put(conn)


@virtual_time
async def test_without_a_socket_a_hung_ping_keeps_its_place_and_the_next_one_is_made() -> None:
    fake = Fake()
    async with fake.pool(max_size=2, check_timeout=5) as pool:
        await pool.put(await pool.get())
        await asyncio.sleep(2)
        fake.ping.once(NEVER)
        conn = await pool.get()
        check_invariants(pool)

        assert (pool.size, pool.stats().in_use) == (2, 2)
        await pool.put(conn)
        fake.ping.release()
        await settle()
        assert (pool.size, pool.idle, fake.open) == (1, 1, 1)


@virtual_time
async def test_without_a_socket_a_hung_ping_on_a_pool_of_one_ends_with_the_deadline() -> None:
    fake = Fake()
    async with fake.pool(max_size=1, check_timeout=5, timeout=12) as pool:
        await pool.put(await pool.get())
        await asyncio.sleep(2)
        fake.ping.once(NEVER)
        with pytest.raises(PoolTimeout, match="in use 1"):
            await pool.get()
        fake.ping.release()
        await pool.put(await pool.get())


@virtual_time
async def test_one_disconnect_error_retires_the_whole_idle_generation() -> None:
    fake = Fake()
    async with fake.pool(max_size=25) as pool:
        conns = await asyncio.gather(*(pool.get() for _ in range(25)))
        for conn in conns[1:]:
            await pool.put(conn)
        fake.execute.once(fake.Lost("terminated by the administrator"))
        with pytest.raises(fake.Lost):
            await conns[0].execute("SELECT n")
        await settle()

        assert (pool.size, pool.idle) == (1, 0)
        await pool.put(conns[0])
        for _ in range(25):  # not one failure more
            assert await pool.fetch_val("SELECT n") == 1
        assert fake.open == 1


@virtual_time
async def test_lent_connections_of_a_retired_generation_are_closed_on_return() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        healthy, broken = await pool.get(), await pool.get()
        fake.execute.once(fake.Lost("gone"))
        with pytest.raises(fake.Lost):
            await broken.execute("SELECT n")
        await healthy.execute("SELECT n")  # it may finish what it has begun
        await pool.put(healthy)
        await pool.put(broken)
        await settle()
        assert (pool.size, pool.stats().discarded) == (0, 1)


@virtual_time
async def test_a_second_disconnect_of_the_same_generation_spares_the_new_ones() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        old = [await pool.get() for _ in range(2)]
        fake.execute.once(fake.Lost("gone"), fake.Lost("gone"))
        with pytest.raises(fake.Lost):
            await old[0].execute("SELECT n")
        await pool.put(await pool.get())  # a new one, of the next generation
        with pytest.raises(fake.Lost):
            await old[1].execute("SELECT n")
        assert pool.idle == 1
        for conn in old:
            await pool.put(conn)


@virtual_time
async def test_a_read_only_primary_after_a_failover_retires_its_connections() -> None:
    fake = Fake()
    async with fake.pool(max_size=2) as pool:
        first, second = await pool.get(), await pool.get()
        await pool.put(second)
        fake.execute.once(fake.ReadOnly("cannot execute INSERT in a read-only transaction"))
        with pytest.raises(fake.ReadOnly):
            await first.execute("INSERT")
        await pool.put(first)
        await settle()
        assert pool.size == 0
        assert await pool.execute("INSERT") == 1


@virtual_time
async def test_an_ordinary_error_retires_nothing() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        fake.execute.once(fake.ProgrammingError("syntax"))
        with pytest.raises(fake.ProgrammingError):
            await pool.execute("SELEC")
        await settle()
        assert (pool.idle, pool.stats().discarded) == (1, 0)


@virtual_time
async def test_a_disconnect_starts_a_replacement_for_the_head_waiter_at_once() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        lent = await pool.get()
        waiter = asyncio.create_task(pool.get())
        fake.execute.once(fake.Lost("gone"))
        with pytest.raises(fake.Lost):
            await lent.execute("SELECT n")
        began = now()
        await pool.put(lent)
        conn = await waiter

        assert now() == began
        assert await conn.fetch_val("SELECT n") == 1
        await pool.put(conn)


@virtual_time
async def test_pings_go_out_side_by_side_for_several_borrowers() -> None:
    fake = Fake()
    async with fake.pool(max_size=3, check="always") as pool:
        for conn in [await pool.get() for _ in range(3)]:
            await pool.put(conn)
        fake.ping.always(1.0)
        began = now()
        conns = await asyncio.gather(*(pool.get() for _ in range(3)))
        assert now() - began == pytest.approx(1)
        assert pool.size == 3
        for conn in conns:
            await pool.put(conn)


@virtual_time
async def test_a_checked_connection_whose_borrower_has_gone_stays_idle() -> None:
    fake = Fake()
    async with fake.pool(check="always") as pool:
        await pool.put(await pool.get())
        fake.ping.once(1.0)
        task = asyncio.create_task(pool.get())
        await settle()
        task.cancel()
        await asyncio.sleep(2)
        assert (pool.idle, pool.stats().in_use) == (1, 0)


@virtual_time
async def test_a_check_that_is_not_answered_retires_the_others_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "asyncdbpool")
    fake = Fake()
    async with fake.pool(max_size=3, check_timeout=2.0, timeout=None) as pool:
        for conn in [await pool.get() for _ in range(3)]:
            await pool.put(conn)
        await asyncio.sleep(10)
        fake.ping.once(NEVER)
        began = now()
        async with pool.connection():
            assert now() - began == pytest.approx(2, abs=0.01)
            assert (fake.connect.calls, pool.idle) == (4, 0)
    assert "discarding a connection: its check timed out" in caplog.text
    assert "closing an idle connection: retired" in caplog.text


@virtual_time
async def test_a_check_that_fails_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "asyncdbpool")
    fake = Fake()
    async with fake.pool(check="always") as pool:
        await pool.put(await pool.get())
        fake.ping.once(fake.Error("no"))
        await pool.put(await pool.get())
    assert "discarding a connection: it failed its check" in caplog.text


@virtual_time
async def test_a_connection_that_was_lost_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "asyncdbpool")
    fake = Fake()
    async with fake.pool() as pool, pool.connection() as conn:
        fake.execute.once(fake.Lost("gone"))
        with pytest.raises(fake.Lost):
            await conn.execute("SELECT n")
    assert "discarding a connection: it was lost\n" in caplog.text


@virtual_time
async def test_without_a_check_a_connection_that_comes_back_is_handed_on_as_it_is() -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=2, check=None, connect_timeout=100) as pool:
        lent, began = await pool.get(), now()
        fake.connect.once(NEVER)
        waiting = asyncio.create_task(pool.get())
        await settle()
        await asyncio.sleep(10)
        line = fake.connections[0].line
        assert line is not None
        line.answer()
        await pool.put(lent)
        await pool.put(await waiting)
        assert now() - began == pytest.approx(10, abs=0.01)
        assert fake.ping.calls == 0
