"""Live changes: clear, resize, pause and resume, while connections are lent and waited for."""

import asyncio

import pytest

from asyncdbpool import ConnectionPool, PoolTimeout, WrongEventLoop
from asyncdbpool.testing import NEVER, Fake, check_invariants, now, settle, virtual_time
from support.ticks import hand_over


@virtual_time
async def test_clear_closes_the_idle_now_and_the_lent_on_return() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        lent, other = await pool.get(), await pool.get()
        await pool.put(other)
        fake.close.once(2.0)
        began = now()
        await pool.clear()

        assert now() - began == pytest.approx(2)
        assert pool.size == 1
        await pool.put(lent)
        await settle()
        assert (pool.size, pool.stats().discarded) == (0, 0)
        async with pool.connection():
            assert fake.connect.calls == 3, "the next lease is on a fresh connection"


@virtual_time
async def test_clear_includes_connections_that_are_checked_or_cleaned_just_now() -> None:
    fake = Fake()
    async with fake.pool(check="always") as pool:
        conn = await pool.get()
        await conn.execute("INSERT")
        fake.rollback.once(NEVER)
        returning = asyncio.create_task(pool.put(conn))
        await settle()
        await pool.clear()
        fake.rollback.release()
        await returning
        await settle()
        assert pool.size == 0


@virtual_time
async def test_a_cancelled_clear_goes_on_by_itself() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        await pool.put(await pool.get())
        fake.close.once(2.0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.clear(), 1)
        await asyncio.sleep(2)
        assert pool.size == 0


@virtual_time
async def test_live_changes_of_a_pool_that_is_not_open() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        await pool.clear()
        await pool.resize(min_size=1, max_size=2)
        pool.resume()
        assert (pool.min_size, pool.max_size, pool.free, pool.size) == (1, 2, 2, 0)
        await pool.open()
        assert pool.idle == 1


@virtual_time
async def test_growing_serves_those_who_wait_at_once() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        gets = [asyncio.create_task(pool.get()) for _ in range(4)]
        await settle()
        began = now()
        await pool.resize(max_size=3)
        await settle()

        assert [get.done() for get in gets] == [True, True, True, False]
        assert now() - began < 0.1
        check_invariants(pool)
        for get in gets:
            await pool.put(await get)


@virtual_time
async def test_shrinking_closes_the_idle_at_once_and_the_lent_on_return() -> None:
    fake = Fake()
    async with fake.pool(max_size=6) as pool:
        conns = [await pool.get() for _ in range(6)]
        for conn in conns[:2]:
            await pool.put(conn)
        await pool.resize(max_size=2)
        await settle()
        assert (pool.size, pool.idle, pool.free) == (4, 0, 0)
        with pytest.raises(PoolTimeout):
            await asyncio.create_task(pool.get(timeout=1))
        for conn in conns[2:]:
            await pool.put(conn)
            await settle()
            check_invariants(pool)
        assert (pool.size, pool.idle, pool.free) == (2, 2, 2)


@virtual_time
async def test_shrinking_and_growing_again_while_everything_is_lent() -> None:
    fake = Fake()
    async with fake.pool(max_size=4) as pool:
        conns = [await pool.get() for _ in range(4)]
        await pool.resize(max_size=1)
        await pool.resize(max_size=3)
        waiter = asyncio.create_task(pool.get())
        await pool.put(conns.pop())
        await settle()
        assert not waiter.done(), "three are lent, and three are allowed"
        await pool.put(conns.pop())
        conns.append(await waiter)
        for conn in conns:
            await pool.put(conn)
        await settle()
        assert (pool.size, pool.free) == (3, 3)


@virtual_time
async def test_shrinking_under_waiters_never_lends_more_than_max_size() -> None:
    fake = Fake()
    fake.connect.always(1.0)
    async with fake.pool(max_size=5) as pool:
        gets = [asyncio.create_task(pool.get()) for _ in range(5)]
        await asyncio.sleep(0.5)
        await pool.resize(max_size=1)
        for get in gets:
            conn = await get
            assert pool.stats().in_use - (pool.size - 1) <= 1
            await pool.put(conn)
        await settle()
        assert (pool.size, pool.free) == (1, 1)


@virtual_time
async def test_a_larger_min_size_is_made_and_a_smaller_one_expires() -> None:
    fake = Fake()
    async with fake.pool(max_idle=60) as pool:
        await pool.put(await pool.get())
        await pool.resize(min_size=3)
        await settle()
        assert pool.idle == 3
        await asyncio.sleep(100)
        assert pool.idle == 3
        await pool.resize(min_size=1)
        await asyncio.sleep(61)
        assert pool.idle == 1


@pytest.mark.parametrize(
    ("sizes", "error"),
    [
        ({"min_size": 3}, ValueError),
        ({"max_size": 0}, ValueError),
        ({"max_size": "4"}, TypeError),
        ({"min_size": -1}, ValueError),
    ],
)
@virtual_time
async def test_impossible_sizes_change_nothing(
    sizes: dict[str, int], error: type[Exception]
) -> None:
    fake = Fake()
    async with fake.pool(max_size=2) as pool:
        with pytest.raises(error, match="_size"):
            await pool.resize(**sizes)
        assert (pool.min_size, pool.max_size) == (0, 2)


@virtual_time
async def test_pause_waits_for_what_is_lent_and_lends_nothing_until_resume() -> None:
    fake = Fake()
    async with fake.pool(max_size=2) as pool:
        lent = await pool.get()
        pausing = asyncio.create_task(pool.pause())
        await settle()
        waiter = asyncio.create_task(pool.get())
        await settle()
        assert (pausing.done(), waiter.done(), pool.free) == (False, False, 0)
        await pool.put(lent)
        await pausing
        await settle()
        assert (waiter.done(), pool.idle) == (False, 1)
        pool.resume()
        await pool.put(await waiter)
        assert pool.free == 2


@virtual_time
async def test_a_get_on_a_paused_pool_times_out_with_the_reason() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        await pool.put(await pool.get())
        await pool.pause()
        with pytest.raises(PoolTimeout, match=r"idle 1, .*paused"):
            await pool.get(timeout=2)
        pool.resume()
        await pool.put(await pool.get())


@virtual_time
async def test_a_paused_pool_lends_to_no_waiter_what_comes_back() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        lent = await pool.get()
        waiter = asyncio.create_task(pool.get())
        await settle()
        pausing = asyncio.create_task(pool.pause())
        await settle()
        await pool.put(lent)
        await pausing
        await asyncio.sleep(5)
        assert not waiter.done()
        pool.resume()
        await pool.put(await waiter)


@virtual_time
async def test_pause_waits_for_a_lease_that_is_just_handed_over() -> None:
    fake = Fake()
    fake.connect.once(NEVER)
    async with fake.pool() as pool:
        waiter = asyncio.create_task(pool.get())
        await settle()
        fake.connect.release()
        await hand_over(pool)
        with pytest.raises(TimeoutError):  # for that lease is still out
            async with asyncio.timeout(1):
                await pool.pause()
        await pool.put(await waiter)
        await pool.pause()


@virtual_time
async def test_a_cancelled_pause_leaves_the_pool_paused() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        lent = await pool.get()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.pause(), 1)
        with pytest.raises(PoolTimeout):
            await asyncio.create_task(pool.get(timeout=1))
        await pool.put(lent)


@virtual_time
async def test_several_tasks_may_wait_for_the_same_change() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        lent = await pool.get()
        waits = asyncio.gather(pool.pause(), pool.pause())
        await settle()
        await pool.put(lent)
        await waits


@virtual_time
async def test_a_paused_pool_can_be_closed() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        await pool.pause()
        waiter = asyncio.create_task(pool.get())
        await settle()
        await pool.close()
        await asyncio.wait([waiter])
        assert type(waiter.exception()).__name__ == "PoolClosed"


@virtual_time
async def test_a_resize_closes_what_is_too_much_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "asyncdbpool")
    fake = Fake()
    async with fake.pool(max_size=3) as pool:
        for conn in [await pool.get(), await pool.get()]:
            await pool.put(conn)
        await pool.resize(max_size=2)
        assert pool.idle == 2
        assert "closing" not in caplog.text
        await pool.resize(max_size=1)
        await settle()
        assert (pool.idle, pool.size) == (1, 1)
        assert "closing an idle connection: resized" in caplog.text


@virtual_time
async def test_each_clear_is_one_of_its_own() -> None:
    fake = Fake()
    async with fake.pool() as pool:
        await pool.clear()
        conn = await pool.get()
        await pool.clear()
        await pool.put(conn)
        await settle()
        assert pool.size == 0


@virtual_time
async def test_what_is_being_closed_already_is_not_too_much() -> None:
    fake = Fake()
    async with fake.pool(max_size=4) as pool:
        for conn in [await pool.get() for _ in range(4)]:
            await pool.put(conn)
        fake.close.always(1.0)
        for _ in range(3):
            await pool.resize(max_size=3)
            assert pool.idle == 3
        await asyncio.sleep(2)
        assert (pool.idle, pool.size) == (3, 3)


@virtual_time
async def test_what_was_made_between_two_clears_is_closed_by_the_second() -> None:
    async with Fake().pool() as pool:
        for number in range(3):
            await pool.clear()
            conn = await pool.get()
            await pool.clear()
            await pool.put(conn)
            await settle()
            assert (pool.size, pool.stats().closed) == (0, number + 1)


@virtual_time
async def test_after_a_pause_those_who_wait_get_their_connections_side_by_side() -> None:
    fake = Fake()
    fake.connect.always(1.0)
    async with fake.pool(max_size=3) as pool:
        await pool.open()
        await pool.pause()
        gets = [asyncio.create_task(pool.get()) for _ in range(3)]
        await settle()
        began = now()
        pool.resume()
        for conn in await asyncio.gather(*gets):
            await pool.put(conn)
        assert now() - began == pytest.approx(1.0, abs=0.01)


@virtual_time
async def test_a_smaller_pool_closes_no_more_than_it_has_to_while_a_close_takes_its_time() -> None:
    fake = Fake()
    fake.close.once(5.0)
    async with fake.pool(max_size=2) as pool:
        first, second = await pool.get(), await pool.get()
        await pool.resize(max_size=1)
        returning = asyncio.create_task(pool.put(first))
        await settle()
        await pool.put(second)
        assert pool.idle == 1
        await returning
        assert (pool.size, pool.idle, fake.open) == (1, 1, 1)


def test_resume_belongs_to_the_pools_own_loop() -> None:
    fake = Fake()
    pool = ConnectionPool(fake)

    async def resume() -> None:
        pool.resume()

    async def pause() -> None:
        await pool.pause()
        waiter = asyncio.create_task(pool.get())
        await asyncio.sleep(0)
        with pytest.raises(WrongEventLoop, match="open on another event loop"):
            await asyncio.to_thread(asyncio.run, resume())
        assert not waiter.done()
        pool.resume()
        await pool.put(await waiter)
        await pool.pause()

    asyncio.run(pause())
    with pytest.warns(ResourceWarning, match="was not closed before its event loop"):
        asyncio.run(resume())
    assert (pool.size, pool.closed) == (0, False)
