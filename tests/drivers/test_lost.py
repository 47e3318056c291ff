"""Lost connections: known for what they are, and none of them reaches a borrower."""

from collections.abc import Callable
from typing import Any

import pytest

from asyncdbpool import ConnectionPool
from asyncdbpool.testing import check_invariants
from support.access import eventually
from support.activity import Activity
from support.databases import Database
from support.servers import Server
from support.subjects import Subject

Pools = Callable[..., ConnectionPool]

pytestmark = pytest.mark.needs("server")


async def test_a_killed_connection_retires_those_made_before_it(
    database: Database, subject: Subject, server: Server, pools: Pools
) -> None:
    pool = pools(max_size=3)
    async with pool.connection() as lent:
        async with pool.connection() as idle, pool.connection() as conn:
            for each in (lent, idle, conn):
                await each.fetch_val(database.select(1))
            subject.like.kill(server, await conn.fetch_val(database.select(subject.like.backend)))
            with pytest.raises(database.errors):
                await conn.fetch_val(database.select(1))
        assert (pool.size, pool.idle) == (1, 0)
        await lent.fetch_val(database.select(1))
    assert pool.size == 0
    assert await pool.fetch_val(database.select(1)) == 1
    check_invariants(pool)


@pytest.mark.parametrize("check", ["auto", "always"])
async def test_a_killed_idle_connection_is_not_lent_again(
    database: Database, subject: Subject, server: Server, pools: Pools, check: Any
) -> None:
    pool = pools(max_size=1, check=check, check_after=0)
    subject.like.kill(server, await pool.fetch_val(database.select(subject.like.backend)))
    assert await pool.fetch_val(database.select(1)) == 1
    assert (pool.stats().created, pool.stats().discarded) == (2, 1)


async def test_a_block_on_a_killed_connection_tells_and_its_work_is_undone(
    database: Database, subject: Subject, server: Server, pools: Pools, activity: Activity
) -> None:
    pool = pools(max_size=1)
    with pytest.raises(database.errors):
        async with pool.transaction() as conn:
            await conn.execute(database.inserts(1))
            subject.like.kill(server, await conn.fetch_val(database.select(subject.like.backend)))
            await conn.execute(database.inserts(2))
    assert await pool.fetch_all("SELECT id FROM wares") == []
    await eventually(lambda: activity.connections() == 1)


async def test_a_dropped_lease_of_a_killed_connection_costs_nothing_more(
    database: Database, subject: Subject, server: Server, pools: Pools
) -> None:
    pool = pools(max_size=1)
    conn: Any = await pool.get()
    subject.like.kill(server, await conn.fetch_val(database.select(subject.like.backend)))
    with pytest.warns(ResourceWarning, match="was dropped"):
        del conn
    assert await pool.fetch_val(database.select(1)) == 1
    assert (pool.stats().reclaimed, pool.stats().created) == (1, 2)
