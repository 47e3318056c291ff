"""Servers that are stopped and go on later: everybody gets away in time, and nothing is lost."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from asyncdbpool import ConnectionPool, PoolError
from asyncdbpool.testing import check_invariants
from support.access import backends, eventually, frozen, kill_all, left_of
from support.activity import Activity
from support.databases import Database
from support.figures import Note, ticking
from support.fixtures import SERVED, described
from support.servers import Server

pytestmark = [pytest.mark.realtime, pytest.mark.proof]

SIZE = 5
CALLERS = 50
GRACE = 0.3
BOUND = 5.0  # seconds by which a slow machine may be late

Use = Callable[[ConnectionPool, str], Awaitable[object]]


@pytest.fixture(params=SERVED)
def database(request: pytest.FixtureRequest) -> Database:
    return described(request, request.param)


async def as_a_one_shot(pool: ConnectionPool, sql: str) -> None:
    await pool.fetch_all(sql)


async def in_a_block(pool: ConnectionPool, sql: str) -> None:
    async with pool.connection() as conn:
        await conn.fetch_all(sql)


async def in_a_transaction(pool: ConnectionPool, sql: str) -> None:
    async with pool.transaction() as conn:
        await conn.fetch_all(sql)


async def by_hand(pool: ConnectionPool, sql: str) -> None:
    conn = await pool.get()
    try:
        await conn.fetch_all(sql)
    finally:
        await pool.put(conn)


USES: list[Use] = [as_a_one_shot, in_a_block, in_a_transaction, by_hand]


async def late(pool: ConnectionPool, use: Use, sql: str, seconds: float) -> float:
    """Use the pool with a timeout of one's own; tell by how much it came late."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError):  # the pool's own may come before
        async with asyncio.timeout(seconds):
            await use(pool, sql)
    return loop.time() - began - seconds


async def test_with_a_stopped_server_every_caller_gets_his_timeout_and_every_permit_comes_back(
    server: Server, activity: Activity, note: Note
) -> None:
    slow = activity.saying("nobody asks", 1.0)
    limits = {"check_timeout": 0.2, "connect_timeout": BOUND, "cancel_grace": GRACE}
    loop = asyncio.get_running_loop()
    async with activity.database.pool(max_size=SIZE, check_after=0, **limits) as pool:
        numbers = await backends(server, pool, SIZE)
        # Those who wait are gone when those whose statements run give up, so only these count.
        patience = [0.5] * SIZE + [0.2 + n / 200 for n in range(CALLERS - SIZE)]
        callers = [
            asyncio.create_task(late(pool, USES[n % len(USES)], slow, seconds))
            for n, seconds in enumerate(patience)
        ]
        await activity.begins(SIZE)
        with frozen(server, *numbers), ticking() as stalls:
            lateness = await asyncio.gather(*callers)
            ended = loop.time()
            await eventually(lambda: pool.free == SIZE, within=GRACE + BOUND)
            back = loop.time() - ended
            with pytest.raises(TimeoutError):  # nobody has left anything that could be lent
                await pool.get(timeout=0.1)
            check_invariants(pool)
        continued = loop.time()
        assert await pool.fetch_val("SELECT 7") == 7
        first = loop.time() - continued

        note("the last of 50 timeouts came late by", f"{1000 * max(lateness):.0f} ms")
        note("permits back after", f"{back:.3f} s, cancel_grace is {GRACE} s")
        note("the loop was late by at most", f"{1000 * max(stalls):.0f} ms")
        note("first answer after the server went on", f"{first:.3f} s")
        assert max(lateness) < BOUND
        assert max(stalls) < 0.5, "a call of the driver that holds the interpreter would show"
        assert first < BOUND

        assert await asyncio.gather(*(pool.fetch_val("SELECT 7") for _ in range(20))) == [7] * 20
        await eventually(lambda: pool.free == SIZE)
        check_invariants(pool)
    await eventually(lambda: left_of(pool.name) == [], within=BOUND)
    kill_all(server)  # its clients went while it was not looking
    await activity.ends(connections=0)


async def test_a_server_that_pauses_for_a_moment_costs_nothing_but_the_moment(
    server: Server, activity: Activity
) -> None:
    async with activity.database.pool(max_size=SIZE) as pool:
        numbers = await backends(server, pool, SIZE)
        tokens = [f"token {n}" for n in range(CALLERS)]
        callers = [
            asyncio.create_task(pool.fetch_one(activity.saying(token, 0.05))) for token in tokens
        ]
        await activity.begins()
        with frozen(server, *numbers):
            await asyncio.sleep(0.3)
            assert not all(caller.done() for caller in callers)
        assert await asyncio.gather(*callers) == [activity.said(token) for token in tokens]
        await eventually(lambda: pool.free == SIZE)
        check_invariants(pool)
        stats = pool.stats()
        assert (stats.created, stats.closed, stats.cancelled) == (SIZE, 0, 0)
    assert left_of(pool.name) == []
    await activity.ends(connections=0)


async def test_closing_a_pool_whose_server_is_stopped_ends_within_the_grace(
    server: Server, activity: Activity, note: Note
) -> None:
    loop = asyncio.get_running_loop()
    pool = activity.database.pool(max_size=SIZE, cancel_grace=GRACE, connect_timeout=BOUND)
    numbers = await backends(server, pool, SIZE)
    lent = await pool.get()
    running = asyncio.create_task(lent.fetch_val(activity.saying("nobody asks", 1.0)))
    await activity.begins()
    with frozen(server, *numbers), ticking() as stalls:
        waiter = asyncio.create_task(late(pool, in_a_block, "SELECT 7", 0.2))
        began = loop.time()
        await pool.close(timeout=0.1)
        took = loop.time() - began
        with pytest.raises((PoolError, OSError, *activity.database.errors)):
            await running
        await asyncio.wait([waiter])
    note("close took", f"{took:.3f} s, cancel_grace is {GRACE} s")
    note("the loop was late by at most", f"{1000 * max(stalls):.0f} ms")
    assert took < GRACE + BOUND
    assert max(stalls) < 0.5
    check_invariants(pool, stuck=SIZE + 1)  # calls that nothing ends but the server
    await eventually(lambda: left_of(pool.name) == [], within=BOUND)
    kill_all(server)
    await activity.ends(connections=0)
