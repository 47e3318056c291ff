"""The contestants on MariaDB: MySQLdb and aiomysql in this pool, aiomysql's own, plain threads."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from functools import partial
from typing import Any

from asyncdbpool import ConnectionPool
from benchmarks.contest import CONNECTIONS, SIZES, Arena, Laps, by_tasks, by_threads
from benchmarks.on_postgres import SQL, statement_on


def ours(arena: Arena) -> ConnectionPool:
    """MySQLdb in this pool."""
    import MySQLdb

    return ConnectionPool(MySQLdb, **arena.mariadb, **SIZES, autocommit=True)


def for_aiomysql(arena: Arena) -> dict[str, Any]:
    """Connect keywords as aiomysql calls them."""
    login = dict(arena.mariadb)
    login["db"] = login.pop("database")
    return {**login, "autocommit": True}


@asynccontextmanager
async def get_and_put(arena: Arena) -> AsyncIterator[Laps]:
    """`get()`, `put()`."""
    async with ours(arena) as pool:

        async def operation() -> None:
            await pool.put(await pool.get())

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def one_shots(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.fetch_all()`; autocommit."""
    async with ours(arena) as pool:

        async def operation() -> None:
            rows = await pool.fetch_all(SQL)
            assert rows[0][0] == 1

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def aiomysql_in_ours(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.fetch_all()`; autocommit."""
    import aiomysql

    async with ConnectionPool(aiomysql, **for_aiomysql(arena), **SIZES) as pool:

        async def operation() -> None:
            rows = await pool.fetch_all(SQL)
            assert rows[0][0] == 1

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def bare_threads(arena: Arena) -> AsyncIterator[Laps]:
    """MySQLdb on ten plain threads, a connection each, no event loop; autocommit."""
    import MySQLdb

    with ExitStack() as stack:
        connections = [
            stack.enter_context(closing(MySQLdb.connect(**arena.mariadb, autocommit=True)))
            for _ in range(CONNECTIONS)
        ]
        yield by_threads([partial(statement_on, connection) for connection in connections])


@asynccontextmanager
async def aiomysql_pool(arena: Arena) -> AsyncIterator[Any]:
    """Open aiomysql's own pool."""
    import aiomysql

    async with aiomysql.create_pool(
        minsize=CONNECTIONS, maxsize=CONNECTIONS, **for_aiomysql(arena)
    ) as pool:
        yield pool


@asynccontextmanager
async def aiomysql_acquire(arena: Arena) -> AsyncIterator[Laps]:
    """`acquire()`, `release()`."""
    async with aiomysql_pool(arena) as pool:

        async def operation() -> None:
            await pool.release(await pool.acquire())

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def aiomysql_statements(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.acquire()`, `cursor()`, `execute()`, `fetchall()`; autocommit."""
    async with aiomysql_pool(arena) as pool:

        async def operation() -> None:
            async with pool.acquire() as conn, conn.cursor() as cursor:
                await cursor.execute(SQL)
                rows = await cursor.fetchall()
            assert rows[0][0] == 1

        yield by_tasks(operation, arena.tasks)
