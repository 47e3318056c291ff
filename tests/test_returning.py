"""Returning: what is cleaned, what is closed, and what is of no more use to anybody."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from asyncdbpool import Connection, ConnectionReturned, PoolError
from asyncdbpool.testing import NEVER, Fake, check_invariants, now, settle, sleep, virtual_time


@virtual_time
async def test_a_clean_connection_is_returned_without_a_round_trip() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        conn = await pool.get()
        await conn.execute("INSERT")
        await conn.commit()
        await pool.put(conn)
        assert (fake.rollback.calls, pool.idle) == (0, 1)


@virtual_time
async def test_an_open_transaction_is_rolled_back_on_return() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        conn = await pool.get()
        await conn.execute("INSERT")
        await pool.put(conn)
        assert (fake.rollback.calls, pool.idle, fake.connections[0].in_transaction) == (
            1,
            1,
            False,
        )


@virtual_time
async def test_a_generic_driver_rolls_back_wherever_it_cannot_know_better() -> None:
    fake = Fake()
    async with fake.pool(driver=None) as pool:
        await pool.put(await pool.get())
        assert fake.rollback.calls == 0, "nothing was run"
        async with pool.connection() as conn:
            await conn.execute("SELECT n")
        assert fake.rollback.calls == 1
        async with pool.connection() as conn:
            await conn.execute("INSERT")
            await conn.commit()
        assert fake.rollback.calls == 1, "the commit came last"


def cleans(raw: Any) -> None:
    raw.rollback()


def fails(raw: Any) -> None:
    raise LookupError("cannot clean")


def leaves_a_mess(raw: Any) -> None:
    raw.in_transaction = True


@pytest.mark.parametrize(
    ("cleanup", "calls", "kept"),
    [
        ("rollback", {"rollback": 1}, True),
        ("reset", {"reset": 1}, True),
        (None, {}, False),  # a transaction is still open, and that is known
        (cleans, {"rollback": 1}, True),
        (fails, {}, False),
        (leaves_a_mess, {}, False),
    ],
)
@pytest.mark.parametrize("given", ["pool", "put", "connection"])
@virtual_time
async def test_every_kind_of_cleanup(
    given: str, cleanup: Any, calls: dict[str, int], kept: bool
) -> None:
    fake = Fake()
    async with fake.pool(**({"cleanup": cleanup} if given == "pool" else {})) as pool:
        if given == "connection":
            async with pool.connection(cleanup=cleanup) as conn:
                await conn.execute("INSERT")
        else:
            conn = await pool.get()
            await conn.execute("INSERT")
            await pool.put(conn, **({"cleanup": cleanup} if given == "put" else {}))

        called = {step: getattr(fake, step).calls for step in ("rollback", "reset")}
        assert {step: count for step, count in called.items() if count} == calls
        assert (pool.idle, pool.stats().discarded) == ((1, 0) if kept else (0, 1))
        check_invariants(pool)


@virtual_time
async def test_no_cleanup_leaves_what_is_clean_alone() -> None:
    fake = Fake()
    async with fake.pool(cleanup=None) as pool:
        async with pool.connection() as conn:
            await conn.execute("INSERT")
            await conn.commit()
        assert (pool.idle, fake.rollback.calls) == (1, 0)


@virtual_time
async def test_a_reset_that_the_driver_cannot_do_closes_the_connection() -> None:
    fake = Fake()
    async with fake.pool(driver=None, cleanup="reset") as pool:
        await pool.put(await pool.get())
        assert (pool.size, pool.stats().discarded) == (0, 1)


@pytest.mark.parametrize("how", ["cleanup", "close"])
@pytest.mark.parametrize("error", [None, LookupError("no")])
@virtual_time
async def test_put_ends_when_the_connection_is_clean_or_closed(
    how: str, error: Exception | None
) -> None:
    fake = Fake()
    gate = fake.rollback if how == "cleanup" else fake.close
    async with fake.pool(max_uses=None if how == "cleanup" else 1) as pool:
        conn = await pool.get()
        await conn.execute("INSERT")
        gate.once(error or 3.0)
        began = now()
        await pool.put(conn)

        assert now() - began == pytest.approx(0 if error else 3)
        assert pool.stats().in_use == 0
        assert pool.idle == (how == "cleanup" and error is None)


@virtual_time
async def test_a_hung_cleanup_has_its_socket_shut_down_after_the_grace() -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=1, cancel_grace=4) as pool:
        conn = await pool.get()
        await conn.execute("INSERT")
        fake.rollback.once(NEVER)
        began = now()
        await pool.put(conn)

        assert now() - began == pytest.approx(4)
        assert (pool.size, pool.stats().discarded) == (0, 1)


@virtual_time
async def test_a_hung_close_has_its_socket_shut_down_after_the_grace() -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=1, cancel_grace=4, max_uses=1) as pool:
        conn = await pool.get()
        fake.close.once(NEVER)
        began = now()
        await pool.put(conn)
        assert now() - began == pytest.approx(4)
        assert pool.size == 0


@virtual_time
async def test_the_permit_of_a_cancelled_statement_comes_back_within_the_grace() -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=1, cancel_grace=5) as pool:
        fake.execute.once(NEVER)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.fetch_all("SELECT n"), 1)
        began = now()
        async with pool.connection() as conn:
            assert now() - began <= 5.001
            assert await conn.fetch_val("SELECT n") == 1
        assert fake.most == 1


@virtual_time
async def test_a_put_with_a_running_statement_of_another_task() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        conn = await pool.get()
        fake.execute.once(2.0)
        running = asyncio.create_task(conn.fetch_val("SELECT 1"))
        queued = asyncio.create_task(conn.fetch_val("SELECT 2"))
        await settle()
        await pool.put(conn)

        with pytest.raises(ConnectionReturned):
            await queued
        await asyncio.wait([running])
        assert fake.statements == ["SELECT 1"]
        assert pool.idle == 1


@virtual_time
async def test_discard_closes_instead_of_reusing() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        conn = await pool.get()
        await conn.discard()
        assert (pool.size, pool.stats().discarded, bool(conn)) == (0, 1, False)
        with pytest.raises(ConnectionReturned, match="discarded it"):
            await conn.execute("SELECT n")


@virtual_time
async def test_a_connection_is_closed_after_max_uses() -> None:
    fake = Fake()
    async with fake.pool(max_uses=3) as pool:
        for _ in range(6):
            await pool.put(await pool.get())
        assert (fake.connect.calls, pool.size, pool.stats().discarded) == (2, 0, 0)


@pytest.mark.parametrize("option", ["max_idle", "max_age"])
@virtual_time
async def test_with_a_limit_of_zero_every_connection_is_closed_on_return(option: str) -> None:
    fake = Fake()
    async with fake.pool(**{option: 0}, max_size=2) as pool:
        for _ in range(3):
            await pool.put(await pool.get())
        await settle()
        assert (fake.connect.calls, pool.size) == (3, 0)


@pytest.mark.parametrize("option", ["max_idle", "max_age"])
@virtual_time
async def test_with_a_limit_of_zero_upkeep_still_makes_min_size_anew(option: str) -> None:
    fake = Fake()
    async with fake.pool(**{option: 0}, min_size=2, max_size=2) as pool:
        await pool.open()
        assert pool.idle == 2
        first = await pool.get()
        await pool.put(first)
        await settle()

        assert (pool.idle, fake.connect.calls) == (2, 3)
        await asyncio.sleep(3000)
        assert fake.connect.calls == 3, "idle ones are left in peace"


@virtual_time
async def test_a_second_put_changes_nothing() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        conn = await pool.get()
        await pool.put(conn)
        other = await pool.get()
        with pytest.raises(ConnectionReturned, match="was returned"):
            await pool.put(conn)
        await conn.close()  # harmless

        assert other
        check_invariants(pool)
        assert pool.stats().in_use == 1
        await pool.put(other)


@virtual_time
async def test_foreign_things_are_not_taken_back() -> None:
    fake = Fake()
    async with fake.pool(name="one") as one, fake.pool(name="two") as two:
        conn = await two.get()
        with pytest.raises(PoolError, match="belongs to pool 'two'"):
            await one.put(conn)
        raw = await conn.run(lambda raw: raw)
        with pytest.raises(PoolError, match="not FakeConnection"):
            await one.put(raw)
        assert (bool(conn), two.stats().in_use) == (True, 1)
        await two.put(conn)


USES: list[Callable[[Connection], Any]] = [
    lambda conn: conn.execute("SELECT n"),
    lambda conn: conn.cursor(),
    lambda conn: conn.transaction(),
    lambda conn: conn.autocommit,
    lambda conn: setattr(conn, "autocommit", True),
    lambda conn: conn.commit(),
    lambda conn: conn.rollback(),
    lambda conn: conn.fetch_all("SELECT n"),
    lambda conn: conn.run(id),
    lambda conn: conn.discard(),
]


@pytest.mark.parametrize("use", USES)
@virtual_time
async def test_every_use_after_return_is_refused(use: Callable[[Connection], Any]) -> None:
    fake = Fake()
    async with fake.pool() as pool:
        conn = await pool.get()
        await pool.put(conn)
        before = dict(fake.connections[0].calls)
        with pytest.raises(ConnectionReturned, match="borrow another connection"):
            await use(conn)
        await settle()
        assert dict(fake.connections[0].calls) == before, "the connection was not touched"
        assert (bool(conn), "returned" in repr(conn)) == (False, True)


@virtual_time
async def test_a_stale_snapshot_never_reaches_the_next_borrower() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.fetch_all("SELECT n")  # opens a transaction, with its snapshot
        async with pool.connection() as conn:
            assert conn.in_transaction is False


@virtual_time
async def test_what_a_borrower_sets_is_undone_on_return() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            conn.autocommit = True
            await conn.execute("INSERT")
        assert fake.connections[0].autocommit is False


@virtual_time
async def test_cursors_left_open_are_closed_soon_after_the_return() -> None:
    fake = Fake()
    async with fake.pool(max_size=2) as pool:
        async with pool.connection() as one, pool.connection() as two:
            cursors = [await conn.execute("SELECT n") for conn in (one, one, two)]
            await one.commit()
            await two.commit()
        assert not any(cursors)
        await asyncio.sleep(0.1)
        assert [raw.cursors for raw in fake.connections] == [0, 0]
        assert (pool.idle, fake.open) == (2, 2)


@virtual_time
async def test_a_cursor_may_be_closed_whose_only_statement_has_never_begun() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        fake.execute.once(NEVER)
        running = asyncio.create_task(conn.fetch_all("SELECT 1"))
        await settle()
        cursor = conn.cursor()
        queued = asyncio.create_task(cursor.execute("SELECT 2"))
        await settle()
        queued.cancel()
        closing = asyncio.create_task(cursor.close())
        await settle()
        assert not closing.done(), "its thread may still have it"
        fake.execute.release()
        await closing
        await running
        assert queued.cancelled()
        assert not cursor
        assert fake.statements == ["SELECT 1"]


@virtual_time
async def test_the_next_statement_closes_them_first() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            first = await conn.execute("SELECT n")
            await conn.commit()
        async with pool.connection() as conn:
            assert fake.connections[0].cursors == 1
            await conn.run(lambda raw: None)
            assert fake.connections[0].cursors == 0
            second = await conn.execute("SELECT n")
            await asyncio.sleep(0.1)  # nothing sweeps beneath a borrower
            assert fake.connections[0].cursors == 1
            await conn.commit()
        async with pool.connection():
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.1)
        assert fake.connections[0].cursors == 0
    assert (bool(first), bool(second)) == (False, False)


@pytest.mark.parametrize("then", ["idle", "lent"])
@virtual_time
async def test_a_cursor_that_cannot_be_closed_costs_its_connection(then: str) -> None:
    fake = Fake()

    def fail_late() -> None:
        sleep(0.5)
        raise fake.Error("broken")

    async with fake.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            cursor = await conn.execute("SELECT n")
            await conn.commit()
            fake.cursor_close.once(fail_late)
        await asyncio.sleep(0.1)
        if then == "lent":
            conn = await pool.get()
            await asyncio.sleep(1)
            await pool.put(conn)
        await asyncio.sleep(1)
        assert (pool.size, pool.stats().discarded, bool(cursor)) == (0, 1, False)


@virtual_time
async def test_discarding_starts_a_replacement_for_the_head_waiter_at_once() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        lent = await pool.get()
        waiter = asyncio.create_task(pool.get())
        await settle()
        began = now()
        await lent.discard()
        conn = await waiter
        assert (now(), fake.connect.calls) == (began, 2)
        await pool.put(conn)


@virtual_time
async def test_discarding_while_a_cancelled_statement_hangs_frees_the_place_at_once() -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=1, cancel_grace=60) as pool:
        conn = await pool.get()
        fake.execute.once(NEVER)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(conn.fetch_all("SELECT n"), 1)
        began = now()
        await conn.discard()
        await pool.put(await pool.get())
        assert now() - began < 0.1


def fail(raw: Any) -> None:
    raise raw.fake.Error("no")


def leave_something_open(raw: Any) -> None:
    raw.cursor().execute("INSERT")


@pytest.mark.parametrize(
    ("cleanup", "reason"),
    [(fail, "raised Error"), (leave_something_open, "could not make it clean")],
)
@virtual_time
async def test_a_cleanup_that_fails_costs_one_connection_and_says_why(
    cleanup: Callable[[Any], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "asyncdbpool")
    fake = Fake()
    async with fake.pool() as pool:
        conn, other = await pool.get(), await pool.get()
        await pool.put(other)
        await pool.put(conn, cleanup=cleanup)
        await settle()
        assert (pool.size, pool.idle) == (1, 1)
    assert f"discarding a connection: its cleanup {reason}" in caplog.text


@virtual_time
async def test_a_cursor_that_cannot_be_closed_costs_one_connection_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "asyncdbpool")
    fake = Fake()
    async with fake.pool() as pool:
        conn, other = await pool.get(), await pool.get()
        await pool.put(other)
        cursor = await conn.execute("SELECT n")
        await conn.commit()
        fake.cursor_close.once(KeyError("no"))
        await pool.put(conn)
        await asyncio.sleep(0.1)
        assert (pool.size, pool.idle) == (1, 1)
        del cursor
    assert "discarding a connection: a cursor could not be closed" in caplog.text
    assert "closing an idle connection: a cursor could not be closed" in caplog.text


@virtual_time
async def test_a_one_shot_gives_its_connection_back_with_the_pools_own_cleanup() -> None:
    fake = Fake()
    async with fake.pool(max_size=1, cleanup="reset") as pool:
        assert await pool.fetch_val("SELECT n") == 1
        assert fake.reset.calls == 1
