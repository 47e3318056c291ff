"""Cancelling: the caller gets away, the database stops, the connection is lent again."""

import asyncio
from collections.abc import Callable

import pytest

from asyncdbpool import ConnectionPool, ConnectionReturned
from support.activity import Activity
from support.cancelling import cancelled_at_any_moment, cancelled_without_an_answer
from support.databases import Database
from support.lines import written
from support.servers import Server
from support.subjects import Subject

Pools = Callable[..., ConnectionPool]

pytestmark = pytest.mark.needs("cancel")


async def test_a_cancelled_statement_ends_at_once_and_its_connection_goes_on(
    database: Database, pools: Pools, activity: Activity
) -> None:
    pool = pools(max_size=1)
    async with pool.connection() as conn:
        task = asyncio.create_task(conn.fetch_all(activity.endless))
        await activity.begins()
        task.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await task
            await conn.rollback()
            assert await conn.fetch_val(database.select(1)) == 1
    assert await pool.fetch_val(database.select(2)) == 2
    stats = pool.stats()
    assert (stats.cancelled, stats.created, stats.discarded) == (1, 1, 0)


@pytest.mark.usefixtures("unhurried")
async def test_a_one_shot_that_takes_too_long_leaves_its_connection_to_the_next(
    database: Database, subject: Subject, pools: Pools, activity: Activity
) -> None:
    pool = pools(max_size=1)
    await pool.fetch_val(database.select(1))  # some drivers ask things when they connect
    for work in (pool.fetch_val(activity.endless), pool.run(subject.saying(activity.endless))):
        task = asyncio.create_task(work)
        await activity.begins()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await pool.execute("DELETE FROM wares") == 0
    stats = pool.stats()
    assert (stats.cancelled, stats.created, stats.discarded) == (2, 1, 0)


async def test_a_cancelled_transaction_is_rolled_back(
    database: Database, pools: Pools, activity: Activity
) -> None:
    async def work() -> None:
        async with pool.transaction() as conn:
            await conn.execute(database.inserts(1))
            await conn.fetch_all(activity.endless)

    pool = pools(max_size=1)
    task = asyncio.create_task(work())
    await activity.begins()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert await pool.fetch_all("SELECT id FROM wares") == []
    assert written(database) == []
    assert (pool.stats().created, pool.stats().discarded) == (1, 0)


async def test_a_statement_cancelled_by_hand_gives_the_driver_s_own_error(
    database: Database, pools: Pools, activity: Activity
) -> None:
    async with pools(max_size=1).connection() as conn:
        await conn.cancel()  # nothing runs, so nothing happens
        task = asyncio.create_task(conn.fetch_all(activity.endless))
        await activity.begins()
        await conn.cancel()
        with pytest.raises(database.errors, match=r"(?i)interrupt|cancel"):
            await task
        await conn.rollback()
        assert await conn.fetch_val(database.select(1)) == 1


async def test_a_return_cancels_what_runs_and_refuses_what_waits(
    database: Database, subject: Subject, pools: Pools, activity: Activity
) -> None:
    pool = pools(max_size=1)
    conn = await pool.get()
    running = asyncio.create_task(conn.fetch_all(activity.endless))
    waiting = asyncio.create_task(conn.run(subject.saying(database.inserts(1))))
    await activity.begins()
    await pool.put(conn)
    with pytest.raises(database.errors, match=r"(?i)interrupt|cancel"):
        await running
    with pytest.raises(ConnectionReturned):
        await waiting
    assert await pool.fetch_all("SELECT id FROM wares") == []
    assert (pool.stats().created, pool.stats().discarded) == (1, 0)


async def test_a_cancel_at_any_moment_hits_its_statement_or_none(
    activity: Activity, pools: Pools
) -> None:
    await cancelled_at_any_moment(activity, pools(max_size=1), 60)


@pytest.mark.needs("server")
@pytest.mark.realtime
async def test_a_cancel_that_gets_no_answer_stops_nobody_else(
    activity: Activity, subject: Subject, server: Server
) -> None:
    await cancelled_without_an_answer(activity, server, hung_up=subject.has("socket"))
