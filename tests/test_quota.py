"""Caps that pools share: never more than allowed, first come first served, nobody forgotten."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from asyncdbpool import ConnectionPool, PoolTimeout
from asyncdbpool._quota import Cap, Quota
from asyncdbpool.testing import NEVER, Fake, check_invariants, now, settle, virtual_time
from asyncdbpool.testing.invariants import join_threads


@asynccontextmanager
async def siblings(
    *fakes: Fake, caps: list[list[Cap]], **options: object
) -> AsyncIterator[list[ConnectionPool]]:
    """Pools that share caps, one for each fake."""
    async with AsyncExitStack() as stack:
        pools = []
        for fake, own in zip(fakes, caps, strict=True):
            pools.append(await stack.enter_async_context(fake.pool(**options)))
            pools[-1].share(own)
        yield pools
    for cap in {id(cap): cap for own in caps for cap in own}.values():
        assert (cap.taken, cap.leaving) == (0, 0)


@virtual_time
async def test_connections_of_all_pools_together_never_exceed_the_cap() -> None:
    fakes = Fake(), Fake(), Fake()
    cap = Cap("max_total", 4)

    async def use(pool: ConnectionPool) -> None:
        for _ in range(5):
            async with pool.connection():
                assert sum(fake.open for fake in fakes) <= 4
                await asyncio.sleep(0.1)

    async with siblings(*fakes, caps=[[cap]] * 3, max_size=3) as pools:
        await asyncio.gather(*(use(pool) for pool in pools for _ in range(6)))
        for pool in pools:
            check_invariants(pool)
        assert cap.taken == sum(pool.size for pool in pools) <= 4


@virtual_time
async def test_an_idle_connection_is_closed_to_make_room_for_a_busy_sibling() -> None:
    one, two = Fake(), Fake()
    cap = Cap("max_total", 2)
    async with siblings(one, two, caps=[[cap]] * 2) as (first, second):
        older, newer = await first.get(), await first.get()
        await first.put(older)
        await asyncio.sleep(0.1)
        await first.put(newer)
        began = now()
        conn = await second.get()

        assert now() - began < 0.01
        assert (first.idle, second.size) == (1, 1)
        assert [raw.closed for raw in one.connections] == [True, False], "the one unused longest"
        await second.put(conn)


@virtual_time
async def test_no_more_idle_connections_are_closed_than_siblings_wait_for() -> None:
    one, two, three = Fake(), Fake(), Fake()
    cap = Cap("max_total", 3)
    async with siblings(one, two, three, caps=[[cap]] * 3) as (first, second, third):
        for conn in [await first.get() for _ in range(3)]:
            await first.put(conn)
        one.close.always(1.0)
        waiters = [asyncio.create_task(second.get())]
        await asyncio.sleep(0.1)
        await second.resize(max_size=9)  # which makes it look again what it lacks
        assert first.idle == 2
        waiters.append(asyncio.create_task(third.get()))
        await asyncio.sleep(0.1)
        await third.resize(max_size=9)
        assert first.idle == 1
        await second.put(await waiters[0])
        await third.put(await waiters[1])
        assert (first.size, second.size, third.size) == (1, 1, 1)


@virtual_time
async def test_no_more_returned_connections_are_closed_than_siblings_wait_for() -> None:
    one, two, three = Fake(), Fake(), Fake()
    cap = Cap("max_total", 4)
    async with siblings(one, two, three, caps=[[cap]] * 3) as (first, second, third):
        lent = [await first.get() for _ in range(4)]
        waiters = [asyncio.create_task(pool.get()) for pool in (second, third)]
        await settle()
        one.close.once(1.0, 3.0)
        returns = [asyncio.create_task(first.put(lent.pop())) for _ in range(2)]
        await settle()
        await first.put(lent.pop())
        assert first.idle == 1, "two are being closed for two who wait"
        await second.put(await waiters[0])
        assert not waiters[1].done()
        await first.put(lent.pop())
        assert first.idle == 2, "one is still being closed for one who waits"
        await third.put(await waiters[1])
        await asyncio.gather(*returns)
        assert (first.size, second.size, third.size) == (2, 1, 1)


@virtual_time
async def test_a_lent_connection_is_closed_on_return_for_an_older_waiter_of_a_sibling() -> None:
    one, two = Fake(), Fake()
    cap = Cap("max_total", 1)
    async with siblings(one, two, caps=[[cap]] * 2) as (first, second):
        lent = await first.get()
        older = asyncio.create_task(second.get())
        await asyncio.sleep(1)
        younger = asyncio.create_task(first.get())
        await asyncio.sleep(1)
        await first.put(lent)
        conn = await older
        assert not younger.done()
        await second.put(conn)
        await first.put(await younger)


@virtual_time
async def test_a_returned_connection_stays_where_its_own_waiter_is_the_older_one() -> None:
    one, two = Fake(), Fake()
    cap = Cap("max_total", 1)
    async with siblings(one, two, caps=[[cap]] * 2) as (first, second):
        lent = await first.get()
        older = asyncio.create_task(first.get())
        await asyncio.sleep(1)
        younger = asyncio.create_task(second.get())
        await asyncio.sleep(1)
        await first.put(lent)
        await first.put(await older)
        await second.put(await younger)
        assert one.connect.calls == 1


@virtual_time
async def test_first_come_first_served_across_the_pools() -> None:
    fakes = Fake(), Fake(), Fake()
    cap = Cap("max_total", 1)
    served: list[int] = []

    async def use(pool: ConnectionPool, number: int) -> None:
        async with pool.connection():
            served.append(number)
            await asyncio.sleep(1)

    async with siblings(*fakes, caps=[[cap]] * 3, timeout=100) as pools:
        tasks = []
        for number in range(12):
            tasks.append(asyncio.create_task(use(pools[number * 7 % 3], number)))
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
    assert served == list(range(12))


@virtual_time
async def test_refilling_to_min_size_never_breaks_a_cap_and_never_displaces_anybody() -> None:
    one, two = Fake(), Fake()
    cap = Cap("max_total", 3)
    async with siblings(one, two, caps=[[cap]] * 2, min_size=2) as (first, second):
        await first.open()
        await second.open()
        assert (first.idle, second.idle, cap.taken) == (2, 1, 3)
        await first.clear()
        await settle()
        assert (cap.taken, first.idle + second.idle) == (3, 3)


@virtual_time
async def test_a_refill_leaves_the_room_to_those_who_wait() -> None:
    one, two = Fake(), Fake()
    cap = Cap("max_total", 1)
    async with siblings(one, two, caps=[[cap]] * 2, min_size=1) as (first, second):
        lent = await first.get()
        waiter = asyncio.create_task(second.get())
        await settle()
        await lent.discard()
        conn = await waiter
        assert (first.size, second.size) == (0, 1)
        await second.put(conn)


@virtual_time
async def test_a_waiter_that_gives_up_leaves_the_line() -> None:
    one, two = Fake(), Fake()
    cap = Cap("max_total", 1)
    async with siblings(one, two, caps=[[cap]] * 2) as (first, second):
        lent = await first.get()
        with pytest.raises(PoolTimeout):
            await second.get(timeout=1)
        await first.put(lent)
        await settle()
        assert first.idle == 1, "nobody waits, so nobody needs its room"
        async with first.connection():
            assert one.connect.calls == 1


@virtual_time
async def test_a_cap_on_the_whole_and_one_on_the_part() -> None:
    fakes = Fake(), Fake(), Fake()
    total, host = Cap("max_total", 3), Cap("max_per_host", 2)
    async with siblings(*fakes, caps=[[total, host], [total, host], [total]]) as (a, b, other):
        lent = [await a.get(), await b.get()]
        waiter = asyncio.create_task(a.get())
        await settle()
        assert not waiter.done(), "the host is full"
        free = await other.get()
        queued = asyncio.create_task(other.get())
        await settle()
        assert not queued.done(), "and now all are"
        await b.put(lent.pop())
        await a.put(await waiter)
        await settle()
        assert queued.done(), "an idle one makes room"
        for pool, conn in ((a, lent.pop()), (other, free), (other, await queued)):
            await pool.put(conn)


@virtual_time
async def test_a_failed_connect_gives_its_room_back() -> None:
    one, two = Fake(), Fake()
    cap = Cap("max_total", 1)
    async with siblings(one, two, caps=[[cap]] * 2) as (first, second):
        one.connect.once(one.Error("no"))
        with pytest.raises(one.Error):
            await first.get()
        assert cap.taken == 0
        await second.put(await second.get())


@virtual_time
async def test_a_hung_connect_keeps_its_room_until_it_ends() -> None:
    one, two = Fake(), Fake()
    cap = Cap("max_total", 1)
    async with siblings(one, two, caps=[[cap]] * 2, connect_timeout=2) as (first, second):
        one.connect.once(NEVER)
        with pytest.raises(TimeoutError):
            await first.get()
        waiter = asyncio.create_task(second.get())
        await asyncio.sleep(5)
        assert not waiter.done()
        one.connect.release()
        await second.put(await waiter)


@virtual_time
async def test_closing_and_opening_again_keeps_the_count() -> None:
    one, two = Fake(), Fake()
    cap = Cap("max_total", 2)
    async with siblings(one, two, caps=[[cap]] * 2, min_size=1) as (first, second):
        for _ in range(3):
            async with first, second:
                assert cap.taken == 2
            assert cap.taken == 0


@virtual_time
async def test_two_waiters_of_one_pool_get_room_for_two() -> None:
    one, two = Fake(), Fake()
    cap = Cap("max_total", 2)
    async with siblings(one, two, caps=[[cap]] * 2) as (first, second):
        lent = [await first.get(), await first.get()]
        waiters = [asyncio.create_task(second.get()) for _ in range(2)]
        await settle()
        for conn in lent:
            await first.put(conn)
        for waiter in waiters:
            await second.put(await waiter)
        assert second.size == 2


@virtual_time
async def test_a_timeout_names_the_cap_that_is_full() -> None:
    one, two = Fake(), Fake()
    cap = Cap("max_total", 1)
    async with siblings(one, two, caps=[[cap]] * 2) as (first, second):
        lent = await first.get()
        with pytest.raises(PoolTimeout, match=r"size 0 of max_size 10.*; max_total: 1 of 1 taken"):
            await second.get(timeout=1)
        await first.put(lent)


@virtual_time
async def test_a_refill_of_a_paused_pool_leaves_the_room_to_the_next_in_line() -> None:
    fakes = Fake(), Fake(), Fake()
    cap = Cap("max_total", 1)
    async with siblings(*fakes, caps=[[cap]] * 3, max_size=1) as (first, second, third):
        lent = await first.get()
        await second.resize(min_size=1)
        older = asyncio.create_task(second.get())
        await asyncio.sleep(1)
        younger = asyncio.create_task(third.get())
        await asyncio.sleep(1)
        await second.pause()
        await lent.discard()
        conn = await younger
        assert not older.done()
        second.resume()
        await third.put(conn)
        await second.put(await older)


@virtual_time
async def test_free_counts_what_the_caps_leave_room_for() -> None:
    one, two = Fake(), Fake()
    cap = Cap("max_total", 3)
    async with siblings(one, two, caps=[[cap]] * 2) as (first, second):
        assert (first.free, second.free) == (3, 3)
        lent = [await first.get(), await first.get()]
        assert second.free == 1
        await first.put(lent.pop())
        assert second.free == 2, "an idle one of the sibling would make room"
        await first.put(lent.pop())
        assert second.free == 3


@virtual_time
async def test_a_timeout_tells_how_every_cap_stands() -> None:
    one, two = Fake(), Fake()
    host, total = Cap("max_per_host", 1), Cap("max_total", 3)
    async with siblings(one, two, caps=[[host, total]] * 2, timeout=1) as (first, second):
        conn = await first.get()
        with pytest.raises(PoolTimeout) as caught:
            await second.get()
        assert "; max_per_host: 1 of 1 taken; max_total: 1 of 3 taken" in str(caught.value)
        await first.put(conn)


class Stranded:
    """A pool as a cap sees it, on an event loop of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def oldest_wait(self) -> float | None:
        return None

    def idle_since(self) -> float | None:
        return None

    def idle_count(self) -> int:
        return 0

    def make_room(self) -> None:
        raise AssertionError("nothing is idle")

    def dispatch(self) -> None:
        raise AssertionError("nobody waits")


def test_what_a_pool_holds_on_a_closed_loop_is_taken_back_once_and_every_time() -> None:
    cap = Cap("max_total", 2)
    lost, other = Quota([cap]), Quota([cap])
    for _ in range(2):
        member = Stranded()
        lost.join(member)
        assert lost.take(for_waiter=True)
        assert lost.take(for_waiter=True)
        member.loop.close()
        for _ in range(2):
            assert other.take(for_waiter=True)
        assert not other.take(for_waiter=False)
        assert cap.taken == 2
        other.give()
        other.give()
        assert cap.taken == 0


def test_of_what_a_pool_holds_on_a_closed_loop_what_it_has_given_back_is_left_out() -> None:
    cap = Cap("max_total", 5)
    lost, other = Quota([cap]), Quota([cap])
    member = Stranded()
    lost.join(member)
    assert all(lost.take(for_waiter=True) for _ in range(4))
    for _ in range(2):
        lost.give()
    assert all(other.take(for_waiter=True) for _ in range(3))
    member.loop.close()
    assert [other.take(for_waiter=True) for _ in range(3)] == [True, True, False]
    assert cap.taken == 5


def test_what_a_close_has_left_in_a_hung_call_is_taken_back_once_its_loop_is_closed() -> None:
    fake, cap = Fake(), Cap("max_total", 1)
    pool = ConnectionPool(fake, driver=fake.driver(), cancel_grace=0.01, timeout=5)
    pool.share([cap])
    fake.execute.once(NEVER)

    async def leave() -> None:
        hanging = asyncio.create_task(pool.fetch_val("SELECT n"))
        await asyncio.sleep(0.05)
        await pool.close(0)
        hanging.cancel()

    async def again() -> object:
        async with pool:
            return await pool.fetch_val("SELECT n")

    asyncio.run(leave())
    assert cap.taken == 1
    fake.execute.release()
    join_threads(pool)
    assert fake.open == 0
    assert asyncio.run(again()) == 1
    assert cap.taken == 0


@virtual_time
async def test_who_makes_room_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "asyncdbpool")
    cap = Cap("max_total", 1)
    async with siblings(Fake(), Fake(), caps=[[cap]] * 2) as (first, second):
        await first.put(await first.get())
        await second.put(await second.get())
    assert "closing an idle connection: another pool needs the room" in caplog.text


def test_who_joins_stands_in_no_line() -> None:
    cap = Cap("max_total", 1)
    quota, other = Quota([cap]), Quota([cap])
    members = Stranded(), Stranded()
    try:
        quota.join(members[0])
        other.join(members[1])
        assert not quota.in_line
        assert quota.take(for_waiter=True)
        assert not other.take(for_waiter=True)
        assert other.in_line
        other.join(members[1])
        assert not other.in_line
    finally:
        for member in members:
            member.loop.close()


def test_a_pool_in_line_on_a_loop_that_is_closed_is_not_asked_again() -> None:
    cap = Cap("max_total", 1)
    holder, lost, other = (Quota([cap]) for _ in range(3))
    members = Stranded(), Stranded(), Stranded()
    try:
        for quota, member in zip((holder, lost, other), members, strict=True):
            quota.join(member)
        assert holder.take(for_waiter=True)
        assert not lost.take(for_waiter=True)
        members[1].loop.close()
        assert not other.take(for_waiter=False)
        holder.give()
        assert cap.taken == 0
    finally:
        for member in members:
            member.loop.close()
