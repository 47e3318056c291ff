"""The contestants on SQLite: sqlite3 in this pool, aiosqlite with and without a pool, aioodbc.

Everybody reads the same file; nobody begins transactions.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from itertools import cycle
from pathlib import Path
from typing import Any

from asyncdbpool import ConnectionPool
from benchmarks.contest import CONNECTIONS, Arena, Laps, Unavailable, by_calls, by_tasks

ROWS = 100_000
SINGLY = 20_000  # rows that are fetched one by one
KEYS = range(1, ROWS, 97)
POINT = "SELECT id, label FROM item WHERE id = ?"
ALL = "SELECT id, label FROM item ORDER BY id"
SOME = f"{ALL} LIMIT {SINGLY}"


def fill(path: Path) -> None:
    """Make the database that everybody reads."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, label TEXT)")
        items = ((n, f"row {n}") for n in range(1, ROWS + 1))
        connection.executemany("INSERT INTO item VALUES (?, ?)", items)


def by_points(query: Callable[[int], Awaitable[Any]], tasks: int) -> Laps:
    """Run laps of a query for one row by its key."""
    keys = cycle(KEYS)

    async def operation() -> None:
        key = next(keys)
        rows = await query(key)
        assert rows[0][0] == key

    return by_tasks(operation, tasks)


# ------------------------------------------------------------------------------------------------
# This library, and the floor


def ours(arena: Arena) -> ConnectionPool:
    """Sqlite3 in this pool: one connection for one task, ten for many."""
    size = min(arena.tasks, CONNECTIONS)
    return ConnectionPool(
        sqlite3, arena.sqlite, min_size=size, max_size=size, isolation_level=None
    )


@asynccontextmanager
async def get_and_put(arena: Arena) -> AsyncIterator[Laps]:
    """`get()`, `put()`."""
    async with ours(arena) as pool:

        async def operation() -> None:
            await pool.put(await pool.get())

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def leases(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.connection()`, `execute()`, `fetchall()`."""
    async with ours(arena) as pool:

        async def query(key: int) -> Any:
            async with pool.connection() as conn:
                cursor = await conn.execute(POINT, (key,))
                return await cursor.fetchall()

        yield by_points(query, arena.tasks)


@asynccontextmanager
async def one_shots(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.fetch_all()`."""
    async with ours(arena) as pool:

        async def query(key: int) -> Any:
            return await pool.fetch_all(POINT, (key,))

        yield by_points(query, arena.tasks)


@asynccontextmanager
async def iterated_rows(arena: Arena) -> AsyncIterator[Laps]:
    """`async for` in a lease."""
    async with ours(arena) as pool:

        async def operation() -> None:
            count = 0
            async with pool.connection() as conn:
                async for _ in await conn.execute(ALL):
                    count += 1
            assert count == ROWS

        yield by_tasks(operation, arena.tasks, worth=ROWS)


@asynccontextmanager
async def rows_one_by_one(arena: Arena) -> AsyncIterator[Laps]:
    """`fetchone()` in a lease."""
    async with ours(arena) as pool:

        async def operation() -> None:
            count = 0
            async with pool.connection() as conn:
                cursor = await conn.execute(SOME)
                while await cursor.fetchone() is not None:
                    count += 1
            assert count == SINGLY

        yield by_tasks(operation, arena.tasks, worth=SINGLY)


@asynccontextmanager
async def blocking_queries(arena: Arena) -> AsyncIterator[Laps]:
    """sqlite3 without asyncio, one connection: `execute()`, `fetchall()`."""
    with closing(sqlite3.connect(arena.sqlite, isolation_level=None)) as connection:
        keys = cycle(KEYS)

        def operation() -> None:
            key = next(keys)
            rows = connection.execute(POINT, (key,)).fetchall()
            assert rows[0][0] == key

        yield by_calls(operation)


@asynccontextmanager
async def blocking_rows(arena: Arena) -> AsyncIterator[Laps]:
    """sqlite3 without asyncio: `for row in cursor`."""
    with closing(sqlite3.connect(arena.sqlite, isolation_level=None)) as connection:

        def operation() -> None:
            count = 0
            for _ in connection.execute(ALL):
                count += 1
            assert count == ROWS

        yield by_calls(operation, worth=ROWS)


@asynccontextmanager
async def blocking_rows_one_by_one(arena: Arena) -> AsyncIterator[Laps]:
    """sqlite3 without asyncio: `fetchone()`."""
    with closing(sqlite3.connect(arena.sqlite, isolation_level=None)) as connection:

        def operation() -> None:
            count = 0
            cursor = connection.execute(SOME)
            while cursor.fetchone() is not None:
                count += 1
            assert count == SINGLY

        yield by_calls(operation, worth=SINGLY)


# ------------------------------------------------------------------------------------------------
# aiosqlite, which has no pool: all tasks share one connection and its thread, which is its fastest
# way, but keeps no two tasks apart; or they borrow ten


@asynccontextmanager
async def aiosqlite_queries(arena: Arena) -> AsyncIterator[Laps]:
    """One connection for all tasks: `execute()`, `fetchall()`, `close()` of the cursor."""
    import aiosqlite

    async with aiosqlite.connect(arena.sqlite, isolation_level=None) as db:

        async def query(key: int) -> Any:
            async with db.execute(POINT, (key,)) as cursor:
                return await cursor.fetchall()

        yield by_points(query, arena.tasks)


@asynccontextmanager
async def aiosqlite_shortcut(arena: Arena) -> AsyncIterator[Laps]:
    """One connection for all tasks: `execute_fetchall()`, a single trip to the thread."""
    import aiosqlite

    async with aiosqlite.connect(arena.sqlite, isolation_level=None) as db:

        async def query(key: int) -> Any:
            return await db.execute_fetchall(POINT, (key,))

        yield by_points(query, arena.tasks)


@asynccontextmanager
async def aiosqlite_borrowed(arena: Arena) -> AsyncIterator[Laps]:
    """Ten connections on an `asyncio.LifoQueue`, lent one by one; `execute_fetchall()`."""
    import aiosqlite

    async with AsyncExitStack() as stack:
        idle: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
        for _ in range(CONNECTIONS):
            connecting = aiosqlite.connect(arena.sqlite, isolation_level=None)
            idle.put_nowait(await stack.enter_async_context(connecting))

        async def query(key: int) -> Any:
            db = await idle.get()
            try:
                return await db.execute_fetchall(POINT, (key,))
            finally:
                idle.put_nowait(db)

        yield by_points(query, arena.tasks)


@asynccontextmanager
async def aiosqlite_rows(arena: Arena) -> AsyncIterator[Laps]:
    """`async for`, `iter_chunk_size=512`."""
    import aiosqlite

    async with aiosqlite.connect(arena.sqlite, isolation_level=None, iter_chunk_size=512) as db:

        async def operation() -> None:
            count = 0
            async with db.execute(ALL) as cursor:
                async for _ in cursor:
                    count += 1
            assert count == ROWS

        yield by_tasks(operation, arena.tasks, worth=ROWS)


@asynccontextmanager
async def aiosqlite_rows_one_by_one(arena: Arena) -> AsyncIterator[Laps]:
    """`fetchone()`."""
    import aiosqlite

    async with aiosqlite.connect(arena.sqlite, isolation_level=None) as db:

        async def operation() -> None:
            count = 0
            async with db.execute(SOME) as cursor:
                while await cursor.fetchone() is not None:
                    count += 1
            assert count == SINGLY

        yield by_tasks(operation, arena.tasks, worth=SINGLY)


# ------------------------------------------------------------------------------------------------
# Pools


@asynccontextmanager
async def aiosqlitepool(arena: Arena) -> AsyncIterator[Any]:
    """Open aiosqlitepool over aiosqlite: one connection for one task, ten for many."""
    import aiosqlite
    from aiosqlitepool import SQLiteConnectionPool

    async def connect() -> Any:
        return await aiosqlite.connect(arena.sqlite, isolation_level=None)

    size = min(arena.tasks, CONNECTIONS)
    async with SQLiteConnectionPool(connect, pool_size=size) as pool:
        yield pool


@asynccontextmanager
async def aiosqlitepool_block(arena: Arena) -> AsyncIterator[Laps]:
    """`async with pool.connection()`; it asks the connection and rolls back, a trip each."""
    async with aiosqlitepool(arena) as pool:

        async def operation() -> None:
            async with pool.connection():
                pass

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def aiosqlitepool_queries(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.connection()`, `execute_fetchall()`; it asks the connection and rolls back, too."""
    async with aiosqlitepool(arena) as pool:

        async def query(key: int) -> Any:
            async with pool.connection() as db:
                return await db.execute_fetchall(POINT, (key,))

        yield by_points(query, arena.tasks)


@asynccontextmanager
async def aioodbc_queries(arena: Arena) -> AsyncIterator[Laps]:
    """SQLite's ODBC driver: `acquire()`, `cursor()`, `execute()`, `fetchall()`; autocommit."""
    import aioodbc
    import pyodbc

    if "SQLite3" not in pyodbc.drivers():
        raise Unavailable("SQLite's ODBC driver is not installed")
    size = min(arena.tasks, CONNECTIONS)
    source = f"DRIVER=SQLite3;Database={arena.sqlite}"
    async with aioodbc.create_pool(
        dsn=source, minsize=size, maxsize=size, autocommit=True
    ) as pool:

        async def query(key: int) -> Any:
            async with pool.acquire() as conn, conn.cursor() as cursor:
                await cursor.execute(POINT, key)
                return await cursor.fetchall()

        yield by_points(query, arena.tasks)
