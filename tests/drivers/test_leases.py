"""Leases: what is lent is useless once it is returned, and comes back however it is lost."""

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from asyncdbpool import ConnectionPool, ConnectionReturned, PoolError
from asyncdbpool.testing import check_invariants
from support.databases import Database
from support.lines import begun
from support.subjects import Subject

Pools = Callable[..., ConnectionPool]


async def test_everything_made_from_a_returned_connection_is_revoked(
    database: Database, subject: Subject, pool: ConnectionPool
) -> None:
    make, fetch = subject.guest
    async with pool.connection() as conn:
        guest = await getattr(conn, make)(database.select(1))
        block = await conn.transaction().start()
        run = (conn.execute, conn.fetch_all, conn.fetch_one, conn.fetch_val, conn.cursor)
        uses: list[Callable[[], Any]] = [
            *(partial(method, database.select(1)) for method in run),
            *(conn.commit, conn.rollback, conn.transaction, conn.cancel, conn.discard),
            *(block.commit, block.rollback, getattr(guest, fetch)),
            *(lambda: conn.anything, lambda: guest.anything),
            lambda: setattr(conn, "anything", 1),
            partial(conn.executemany, database.select(1), [()]),
            partial(conn.run, subject.saying(database.select(1))),
        ]
    async with pool.connection() as other:
        for use in uses:
            with pytest.raises(ConnectionReturned):
                await use()
        assert not conn
        assert "returned" in repr(conn)
        assert repr(guest)
        assert repr(block)
        await conn.close()
        assert await other.fetch_val(database.select(1)) == 1
    assert (pool.stats().created, pool.stats().discarded) == (1, 0)
    check_invariants(pool)


async def test_only_what_is_lent_can_be_put_and_only_once(
    database: Database, pool: ConnectionPool, pools: Pools
) -> None:
    conn = await pool.get()
    foreign: list[Any] = [None, pool, object(), pools()]
    for thing in foreign:
        with pytest.raises(PoolError, match=r"put\(\) takes what get\(\) gave"):
            await pool.put(thing)
    with pytest.raises(PoolError, match="put it there"):
        await pools().put(conn)
    assert await conn.fetch_val(database.select(1)) == 1
    await pool.put(conn)
    with pytest.raises(ConnectionReturned):
        await pool.put(conn)
    assert (pool.size, pool.idle, pool.free) == (1, 1, 2)


async def test_a_connection_may_be_closed_inside_of_its_block(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn:
        await conn.close()
        assert (pool.idle, bool(conn)) == (1, False)
    async for provided in pool.provide():
        assert await provided.fetch_val(database.select(1)) == 1
    assert not provided
    assert (pool.stats().acquired, pool.stats().created, pool.idle) == (2, 1, 1)


async def test_a_discarded_connection_is_closed_and_not_lent_again(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn:
        await conn.discard()
        assert not conn
    assert (pool.size, pool.stats().discarded) == (0, 1)
    assert await pool.fetch_val(database.select(1)) == 1
    assert pool.stats().created == 2


async def test_a_connection_that_its_borrower_has_closed_is_not_lent_again(
    database: Database, subject: Subject, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn:
        uses: list[Any] = [conn]
        if subject.has("cursors"):
            uses.append(await conn.cursor())
        for use in uses:
            await use.execute(database.select(1))
        await conn.run(closing if subject.native else closing_blockingly)
        for use in uses:
            with pytest.raises((*database.errors, TypeError)):  # firebird-driver calls None
                await use.execute(database.select(1))
    assert (pool.size, pool.stats().discarded) == (0, 1)
    assert await pool.fetch_val(database.select(7)) == 7
    assert pool.stats().created == 2


def closing_blockingly(raw: Any) -> None:
    raw.close()


async def closing(raw: Any) -> None:
    answer = raw.close()
    if inspect.isawaitable(answer):
        await answer


async def test_a_dropped_connection_is_reclaimed_with_a_warning(
    database: Database, subject: Subject, pools: Pools
) -> None:
    pool = pools(max_size=1)
    conn = await pool.get()
    await begun(database, conn)
    await conn.execute(database.inserts(1))
    with pytest.warns(ResourceWarning, match=f"{pool.name!r}, lent> was dropped"):
        del conn
    assert await pool.fetch_val("SELECT count(*) FROM wares") == int(
        not subject.has("transactions")
    )
    assert (pool.stats().reclaimed, pool.stats().created) == (1, 1)


async def test_the_dump_tells_who_holds_what(database: Database, pool: ConnectionPool) -> None:
    async with pool.connection() as conn:
        await conn.fetch_val(database.select(7))
        (held,) = pool.dump()
        task = asyncio.current_task()
        assert task is not None
        assert (held.task, held.statement, held.returning) == (
            task.get_name(),
            database.select(7),
            False,
        )
        assert "test_the_dump_tells_who_holds_what" in held.stack
    assert pool.dump() == []
