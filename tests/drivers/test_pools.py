"""The pool itself: sharing, waiting, changing and closing, the same with every driver."""

import asyncio
import re
from collections.abc import Callable

import pytest

from asyncdbpool import ConnectionPool, ConnectionReturned, PoolClosed, PoolTimeout, WrongEventLoop
from asyncdbpool.testing import check_invariants
from support.access import eventually, left_of
from support.activity import Activity
from support.databases import Database
from support.lines import written

Pools = Callable[..., ConnectionPool]


async def test_many_tasks_share_a_few_connections(
    database: Database, pool: ConnectionPool
) -> None:
    async with asyncio.TaskGroup() as tasks:
        values = [tasks.create_task(pool.fetch_val(database.select(n))) for n in range(20)]
    assert [value.result() for value in values] == list(range(20))
    assert pool.stats().created <= pool.size <= 2
    assert pool.stats().acquired == 20


async def test_who_waits_too_long_is_told_who_holds_what(database: Database, pools: Pools) -> None:
    pool = pools(max_size=1)
    async with pool.connection() as conn:
        await conn.fetch_val(database.select(7))
        with pytest.raises(PoolTimeout, match=re.escape(database.select(7))):
            await asyncio.create_task(pool.get(timeout=0.01))
    assert pool.stats().timeouts == 1
    async with pool.connection(timeout=0.01):
        pass


async def test_clear_resize_and_pause_work_on_a_pool_in_use(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.connection() as first, pool.connection() as second:
        await pool.clear()
        assert pool.size == 2
        assert (
            await first.fetch_val(database.select(1))
            == await second.fetch_val(database.select(1))
            == 1
        )
    assert pool.size == 0, "the lent ones are closed on return"

    await pool.resize(min_size=2, max_size=3)
    await pool.fetch_val(database.select(1))
    await eventually(lambda: pool.idle == 2)
    await pool.resize(min_size=0, max_size=1)
    await eventually(lambda: pool.size == 1)

    await pool.pause()
    value = asyncio.create_task(pool.fetch_val(database.select(7)))
    await eventually(lambda: pool.waiting == 1)
    assert pool.free == 0
    pool.resume()
    assert await value == 7


async def test_close_sends_the_waiters_away_and_lets_the_borrowers_finish(
    database: Database, pools: Pools
) -> None:
    pool = pools(max_size=1)
    async with pool.transaction() as conn:
        waiters = [asyncio.create_task(pool.get()) for _ in range(3)]
        await eventually(lambda: pool.waiting == 3)
        closing = asyncio.create_task(pool.close())
        for result in await asyncio.gather(*waiters, return_exceptions=True):
            assert isinstance(result, PoolClosed)
        await conn.execute(database.inserts(1))
    await closing
    assert written(database) == [1]
    with pytest.raises(PoolClosed):
        await pool.fetch_val(database.select(1))
    assert await (await pool.open()).fetch_val(database.select(1)) == 1


@pytest.mark.needs("cancel")
async def test_close_cancels_what_still_runs_in_the_end(
    database: Database, pools: Pools, activity: Activity
) -> None:
    pool = pools(max_size=2)
    conn = await pool.get()
    running = asyncio.create_task(conn.fetch_all(activity.endless))
    await activity.begins()
    await pool.close(timeout=0)
    with pytest.raises(database.errors, match=r"(?i)interrupt|cancel"):
        await running
    with pytest.raises(ConnectionReturned):
        await conn.fetch_val(database.select(1))
    assert (pool.size, left_of(pool.name)) == (0, [])
    await activity.ends(connections=0)


def test_a_pool_is_open_on_one_loop_at_a_time(database: Database) -> None:
    async def use() -> None:
        async with pool:
            assert await pool.fetch_val(database.select(1)) == 1

    pool = database.pool(name="shop")
    for _ in range(2):
        asyncio.run(use())
    with asyncio.Runner() as runner:
        runner.run(pool.open())
        conn = runner.run(pool.get())
        for elsewhere in (pool.get, pool.open, pool.close, conn.commit):
            with pytest.raises(WrongEventLoop, match="'shop'"):
                asyncio.run(elsewhere())
        assert runner.run(conn.fetch_val(database.select(1))) == 1
        runner.run(pool.put(conn))
        runner.run(pool.close())
    check_invariants(pool)
