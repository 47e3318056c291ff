"""Outages with every driver that has a server: stopped, and its connections killed under load.

Smaller than what `tests/test_stopped_servers.py` and its like do with five of the drivers.
"""

import asyncio

import pytest

from asyncdbpool.testing import check_invariants
from support.access import backends, eventually, frozen, kill_all, left_of
from support.activity import Activity
from support.load import Load
from support.servers import Server

pytestmark = [pytest.mark.needs("server"), pytest.mark.realtime, pytest.mark.proof]

SIZE = 3
GRACE = 0.2
BOUND = 5.0  # seconds by which a slow machine may be late


@pytest.mark.needs("socket")
async def test_with_a_stopped_server_every_caller_gets_away_and_every_permit_comes_back(
    activity: Activity, server: Server
) -> None:
    slow = activity.saying("nobody asks", 0.6)
    limits = {"check_timeout": 0.1, "connect_timeout": BOUND, "cancel_grace": GRACE}
    async with activity.pool(max_size=SIZE, check_after=0, **limits) as pool:
        numbers = await backends(server, pool, SIZE)
        callers = [asyncio.create_task(pool.fetch_one(slow)) for _ in range(4 * SIZE)]
        await activity.begins(SIZE)
        with frozen(server, *numbers):
            for caller in callers:
                caller.cancel()
            await asyncio.wait(callers, timeout=BOUND)
            assert all(caller.cancelled() for caller in callers)
            await eventually(lambda: pool.free == SIZE, within=GRACE + BOUND)
            with pytest.raises(TimeoutError):  # nobody has left anything that could be lent
                await pool.get(timeout=0.1)
            check_invariants(pool)
        assert await asyncio.gather(*(pool.fetch_val("SELECT 7") for _ in range(9))) == [7] * 9
        await eventually(lambda: pool.free == SIZE)
        check_invariants(pool)
    await eventually(lambda: left_of(pool.name) == [], within=BOUND)
    kill_all(server)  # its clients went while it was not looking
    await activity.ends(connections=0)


@pytest.mark.needs("kills under load")
async def test_every_connection_killed_under_load_costs_only_what_ran(
    activity: Activity, server: Server
) -> None:
    kills = 2
    async with activity.pool(max_size=SIZE, cancel_grace=GRACE) as pool:
        load = Load(pool, activity.database, tasks=4 * SIZE, timeouts=(2 * BOUND, 3 * BOUND))
        for _ in range(kills):
            await load.goes_on(4 * SIZE)
            await asyncio.to_thread(kill_all, server)
        await load.goes_on(4 * SIZE)
        await load.stop()
        # A connection that dies fails its borrower, and one that is being made its waiter.
        assert load.ends["failed"] <= kills * 2 * SIZE
        assert load.ends["timed out"] == 0
        assert pool.stats().closed >= kills, "a kill retires every connection"
        await eventually(lambda: pool.free == SIZE and pool.idle == pool.size)
        check_invariants(pool)
    await eventually(lambda: left_of(pool.name) == [], within=BOUND)
    await activity.ends(connections=0)
