"""Proxies and pools used in the wrong place: a clear error, and nothing changes."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from asyncdbpool import (
    ConnectionPool,
    ConnectionReturned,
    PoolDeadlock,
    PoolError,
    WrongEventLoop,
)
from asyncdbpool.testing import Fake, now, virtual_time
from support.mistakes import gauges

# ------------------------------------------------------------------------------------------------
# Proxies in the wrong place


async def test_a_proxy_that_is_put_twice_is_refused_and_nothing_changes() -> None:
    async with ConnectionPool(sqlite3, ":memory:", name="shop", max_size=1) as pool:
        conn = await pool.get()
        await pool.put(conn)
        before = gauges(pool)
        with pytest.raises(ConnectionReturned, match="pool 'shop': this connection was returned"):
            await pool.put(conn)
        assert gauges(pool) == before
        other = await pool.get()  # the same physical connection
        before = gauges(pool)
        with pytest.raises(ConnectionReturned):
            await pool.put(conn)
        assert gauges(pool) == before
        assert await other.fetch_val("SELECT 1") == 1
        await pool.put(other)


async def test_a_proxy_of_another_pool_is_refused_with_the_names_of_both() -> None:
    one = ConnectionPool(sqlite3, ":memory:", name="one")
    two = ConnectionPool(sqlite3, ":memory:", name="two")
    async with one, two:
        conn = await one.get()
        before = gauges(one), gauges(two)
        with pytest.raises(PoolError, match=r"pool 'two'.* belongs to pool 'one'; put it there"):
            await two.put(conn)
        assert (gauges(one), gauges(two)) == before
        assert await conn.fetch_val("SELECT 1") == 1
        await one.put(conn)
        with pytest.raises(ConnectionReturned, match="'one'"):
            await two.put(conn)


async def test_a_pool_that_lent_nothing_takes_nothing() -> None:
    never_opened = ConnectionPool(sqlite3, ":memory:", name="never")
    async with ConnectionPool(sqlite3, ":memory:") as pool, pool.connection() as conn:
        with pytest.raises(PoolError, match="pool 'never'"):
            await never_opened.put(conn)
        assert conn
    assert never_opened.size == 0


async def test_only_what_the_pool_lent_can_be_put_back() -> None:
    pool = ConnectionPool(sqlite3, ":memory:", name="shop")
    async with pool, pool.connection() as conn:
        raw = sqlite3.connect(":memory:")
        before = gauges(pool)
        for foreign in (None, 7, "conn", raw, conn.cursor(), pool):
            kind = type(foreign).__name__
            with pytest.raises(PoolError, match=rf"'shop': put\(\) takes .* not {kind}$"):
                await pool.put(foreign)  # type: ignore[arg-type]
            assert gauges(pool) == before
        raw.close()
        assert await conn.fetch_val("SELECT 1") == 1


async def test_everything_made_from_a_returned_connection_is_revoked(pool: ConnectionPool) -> None:
    conn = await pool.get()
    cursor = await conn.execute("SELECT 1")
    unborn = conn.cursor()
    block = conn.transaction()
    execute, cursor_method, transaction_method = conn.execute, conn.cursor, conn.transaction
    rows = aiter(cursor)
    await pool.put(conn)
    before = gauges(pool)

    at_once: list[Callable[[], Any]] = [
        cursor_method,
        transaction_method,
        lambda: conn.execute("SELECT 1"),
        lambda: execute("SELECT 1"),
        lambda: conn.isolation_level,
        lambda: conn.no_such_thing,
        lambda: setattr(conn, "autocommit", True),
        lambda: cursor.description,
        lambda: cursor.rowcount,
        lambda: cursor.lastrowid,
        lambda: cursor.arraysize,
        lambda: setattr(cursor, "arraysize", 5),
        lambda: cursor.connection,
        lambda: cursor.no_such_thing,
        lambda: cursor.execute("SELECT 1"),
        lambda: unborn.rowcount,
        lambda: unborn.executemany("SELECT 1", []),
    ]
    for use in at_once:
        with pytest.raises(ConnectionReturned, match=rf"pool {pool.name!r}: .*was returned"):
            use()

    awaited: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        conn.commit,
        conn.rollback,
        conn.discard,
        partial(conn.fetch_all, "SELECT 1"),
        partial(conn.fetch_one, "SELECT 1"),
        partial(conn.fetch_val, "SELECT 1"),
        partial(conn.run, print),
        cursor.fetchone,
        cursor.fetchmany,
        cursor.fetchall,
        lambda: cursor.nextset(),  # noqa: PLW0108 - not every driver's cursor has it
        cursor.close,
        lambda: cursor.callproc("p"),
        lambda: cursor.scroll(1),
        cursor.__aenter__,
        rows.__anext__,  # type: ignore[list-item] # an async generator's is one, too
        unborn.fetchall,
        block.start,
    ]
    for call in awaited:
        with pytest.raises(ConnectionReturned):
            await call()
    assert gauges(pool) == before

    await conn.close()  # harmless, as the classic module's users expect
    assert not conn
    assert not cursor
    assert "returned" in repr(conn)
    assert "returned" in repr(cursor)
    assert gauges(pool) == before
    assert await pool.fetch_val("SELECT 1") == 1


# ------------------------------------------------------------------------------------------------
# Another event loop


async def elsewhere(work: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine on an event loop of its own, in a thread of its own."""

    async def alone() -> Any:
        async with asyncio.timeout(20):
            return await work()

    return await asyncio.to_thread(asyncio.run, alone())


async def test_a_pool_is_refused_on_another_event_loop() -> None:
    async with ConnectionPool(sqlite3, ":memory:", name="shop", min_size=1) as pool:
        before = gauges(pool)
        uses: list[Callable[[], Awaitable[Any]]] = [
            pool.get,
            pool.connection().__aenter__,
            pool.transaction().__aenter__,
            partial(pool.fetch_val, "SELECT 1"),
            partial(pool.execute, "SELECT 1"),
            partial(pool.run, print),
            pool.open,
            pool.close,
            pool.clear,
            pool.pause,
            partial(pool.resize, max_size=3),
        ]
        for use in uses:
            with pytest.raises(WrongEventLoop, match=r"'shop'.*another event loop.*each loop"):
                await elsewhere(use)
            assert gauges(pool) == before
        assert await pool.fetch_val("SELECT 1") == 1


async def test_a_borrowed_connection_is_refused_on_another_event_loop() -> None:
    async with ConnectionPool(sqlite3, ":memory:", name="shop") as pool:
        conn = await pool.get()
        cursor = await conn.execute("SELECT 1")
        before = gauges(pool)
        uses: list[Callable[[], Awaitable[Any]]] = [
            lambda: conn.execute("SELECT 1"),
            lambda: cursor.execute("SELECT 1"),
            partial(conn.fetch_val, "SELECT 1"),
            conn.commit,
            conn.transaction().start,
            partial(conn.run, print),
            partial(pool.put, conn),
            conn.discard,
            conn.close,
        ]
        for use in uses:
            with pytest.raises(WrongEventLoop, match=r"'shop'.*on another event loop"):
                await elsewhere(use)
            assert gauges(pool) == before
        assert await conn.fetch_val("SELECT 1") == 1
        await pool.put(conn)


@pytest.mark.parametrize("way", ["connection", "transaction"])
@virtual_time
async def test_a_block_inside_of_a_block_is_a_deadlock_at_once(way: str) -> None:
    async with Fake().pool(max_size=1) as pool, getattr(pool, way)():
        began = now()
        with pytest.raises(PoolDeadlock):
            await pool.get()
        assert now() == began
