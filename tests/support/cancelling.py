"""Trials that the cancelling of every driver has to stand, on its real database."""

import asyncio

from asyncdbpool import ConnectionPool
from asyncdbpool.testing import check_invariants
from support.access import frozen
from support.activity import Activity
from support.servers import Server

__all__ = ["cancelled_at_any_moment", "cancelled_without_an_answer"]


async def cancelled_at_any_moment(activity: Activity, pool: ConnectionPool, times: int) -> None:
    """Cancel short statements; each time the next one on the connection gets its own answer."""
    async with pool.connection() as conn:
        for number in range(times):
            doomed = asyncio.create_task(conn.fetch_one(activity.saying("doomed", 0.005)))
            await asyncio.sleep(number % 16 / 4000)
            doomed.cancel()
            await asyncio.wait([doomed])
            if not doomed.cancelled():
                assert doomed.result() == activity.said("doomed")
            await conn.rollback()
            token = f"token {number}"
            assert await conn.fetch_one(activity.saying(token, 0)) == activity.said(token)
    assert pool.stats().cancelled > times / 10
    assert (pool.stats().created, pool.stats().discarded) == (1, 0)
    check_invariants(pool)


async def cancelled_without_an_answer(
    activity: Activity, server: Server, *, hung_up: bool = True
) -> None:
    """Cancel a statement while the server is stopped: the loop goes on, the permit comes back.

    Where the driver does not tell its socket, so that it cannot be `hung_up`, not until the
    server has gone on.
    """
    loop = asyncio.get_running_loop()
    slow = activity.saying("nobody asks", 1.5)  # since it may be that nobody can cancel it
    async with activity.pool(max_size=1, cancel_grace=0.5) as pool:
        await pool.fetch_val(activity.database.select(1))  # a connect may run statements, too
        task = asyncio.create_task(pool.fetch_one(slow))
        await activity.begins()
        with frozen(server):
            task.cancel()
            longest, began = 0.0, loop.time()
            last = began
            while not pool.free and loop.time() - began < 1.5:
                await asyncio.sleep(0.01)
                longest, last = max(longest, loop.time() - last), loop.time()
            assert pool.free == int(hung_up)
        assert longest < 1.0, "a call that held the GIL would have stopped the loop until the end"
        assert await pool.fetch_val(activity.database.select(7)) == 7
    await activity.ends(connections=0)
