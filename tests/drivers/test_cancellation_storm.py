"""Thousands of statements cancelled at any moment, with every driver that can cancel.

Two thousand with each of five drivers, fewer with their kin. With `ASYNCDBPOOL_STORM=1` it is two
thousand with every one of them, and with `ASYNCDBPOOL_STORM=10` ten times as many.
"""

import asyncio
import os
from functools import partial

import pytest

from asyncdbpool.testing import check_invariants
from support.access import eventually, left_of
from support.activity import Activity, Embedded
from support.figures import Note, quantile
from support.storm import Storm, sayings
from support.subjects import Subject

pytestmark = [pytest.mark.needs("cancel"), pytest.mark.realtime, pytest.mark.proof]

STORM = float(os.environ.get("ASYNCDBPOOL_STORM", "0"))
ALL, FEW = 2_000, 300
FIVE = {"sqlite3", "psycopg2", "MySQLdb", "asyncpg", "aiomysql"}
SIZE = 10
# A function whose statement has not been killed within a moment, as may be on a slow machine, is
# cancelled itself, which the connections of these do not survive.
FRAGILE = {"aiomysql", "asyncmy"}


async def test_a_storm_of_cancellations_costs_nobody_else_anything(
    activity: Activity, subject: Subject, note: Note
) -> None:
    cancels = int(ALL * STORM) or (ALL if subject.name in FIVE else FEW)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with activity.pool(max_size=SIZE, timeout=60) as pool:
        with sayings(activity) as saying:
            storm = Storm(activity, pool, saying, nested=subject.has("savepoints"))
            await storm.rage(cancels)
        await eventually(lambda: pool.free == SIZE)
        await activity.ends(connections=pool.size)
        check_invariants(pool)
        stats = pool.stats()
        note(
            f"{stats.cancelled} cancellations",
            f"{storm.answers} answers, none of them foreign, in {loop.time() - began:.1f} s",
        )
        assert stats.cancelled >= cancels
        assert storm.answers > cancels / 20
        assert storm.gave_up > cancels / 100
        assert stats.in_use == 0
        assert stats.discarded <= (cancels / 10 if subject.name in FRAGILE else 0)
        assert stats.size == stats.created - stats.discarded <= SIZE
    assert left_of(pool.name) == []
    await activity.ends(connections=0)


@pytest.mark.parametrize(("at_once", "rounds"), [(1, 60), (SIZE, 10)], ids=["alone", "ten"])
async def test_a_cancelled_statement_is_gone_from_the_database_within_moments(
    activity: Activity, subject: Subject, at_once: int, rounds: int, note: Note
) -> None:
    if subject.name not in FIVE and not STORM:
        rounds = max(5, rounds // 5)  # one that is late must not be the median
    loop = asyncio.get_running_loop()
    gone: list[float] = []
    back: list[float] = []
    async with activity.pool(max_size=SIZE) as pool:
        with sayings(activity) as saying:
            ask = partial(pool.fetch_val, saying("never said", 60))
            for _ in range(rounds):
                statements = [asyncio.create_task(ask()) for _ in range(at_once)]
                await activity.begins(at_once)
                await eventually(lambda: pool.stats().in_use == at_once)
                began = ended = loop.time()
                for statement in statements:
                    statement.cancel()
                await asyncio.wait(statements)
                if not isinstance(activity, Embedded):  # where to look takes longer than to end
                    while await activity.running():  # noqa: ASYNC110 - a server sets no events
                        await asyncio.sleep(0.001)
                    ended = loop.time()
                while pool.free < SIZE:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.001)
                gone.append(1000 * (ended - began))
                back.append(1000 * (loop.time() - ended))
        check_invariants(pool)
        stats = pool.stats()
        assert (stats.cancelled, stats.discarded) == (rounds * at_once, 0)
    for what, times in {
        f"from cancel to none of {at_once} in the database": gone,
        "from there to every permit": back,
    }.items():
        note(what, f"median {quantile(times, 0.5):.1f} ms, p99 {quantile(times, 0.99):.1f} ms")
        assert quantile(times, 0.5) < 500
        assert quantile(times, 0.99) < 5_000
