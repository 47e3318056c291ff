"""The contestants on PostgreSQL: psycopg2 in this pool, asyncpg in this pool, and their peers.

Everybody runs the same SQL, fetches every row and looks at what came back.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, closing
from functools import partial
from typing import Any

from asyncdbpool import ConnectionPool
from benchmarks.contest import CONNECTIONS, SIZES, Arena, Laps, by_calls, by_tasks, by_threads
from benchmarks.stalls import stalls_during

SQL = "SELECT 1"
ROWS = 100_000
BATCH = 2_000  # rows; what psycopg2 takes by itself in iterating over a named cursor
MANY_ROWS = "SELECT n, 'row ' || n FROM generate_series(1, {count}) AS n"
LARGE = 20_000
LARGE_RESULT = MANY_ROWS.format(count=LARGE)


# ------------------------------------------------------------------------------------------------
# This library


def autocommit(raw: Any) -> None:
    """Set up a psycopg2 connection that begins no transactions."""
    raw.autocommit = True


def ours(arena: Arena, **options: Any) -> ConnectionPool:
    """Psycopg2 in this pool."""
    import psycopg2

    return ConnectionPool(psycopg2, **arena.postgres, **SIZES, **options)


def ours_on_asyncpg(arena: Arena) -> ConnectionPool:
    """Asyncpg in this pool."""
    import asyncpg

    return ConnectionPool(asyncpg, **arena.postgres, **SIZES)


@asynccontextmanager
async def get_and_put(arena: Arena) -> AsyncIterator[Laps]:
    """`get()`, `put()`."""
    async with ours(arena, setup=autocommit) as pool:

        async def operation() -> None:
            await pool.put(await pool.get())

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def connection_block(arena: Arena) -> AsyncIterator[Laps]:
    """`async with pool.connection()`."""
    async with ours(arena, setup=autocommit) as pool:

        async def operation() -> None:
            async with pool.connection():
                pass

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def one_shots(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.fetch_all()`; autocommit by `setup`."""
    async with ours(arena, setup=autocommit) as pool:

        async def operation() -> None:
            rows = await pool.fetch_all(SQL)
            assert rows[0][0] == 1

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def leases(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.connection()`, `execute()`, `fetchall()`; autocommit by `setup`."""
    async with ours(arena, setup=autocommit) as pool:

        async def operation() -> None:
            async with pool.connection() as conn:
                cursor = await conn.execute(SQL)
                rows = await cursor.fetchall()
            assert rows[0][0] == 1

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def asyncpg_in_ours(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.fetch_all()`."""
    async with ours_on_asyncpg(arena) as pool:

        async def operation() -> None:
            rows = await pool.fetch_all(SQL)
            assert rows[0][0] == 1

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def iterated_rows(arena: Arena) -> AsyncIterator[Laps]:
    """`async for` over a named cursor."""
    async with ours(arena) as pool:

        async def operation() -> None:
            async with pool.connection() as conn, conn.cursor(name="many") as cursor:
                await cursor.execute(MANY_ROWS.format(count=ROWS))
                count = 0
                async for _ in cursor:
                    count += 1
            assert count == ROWS

        yield by_tasks(operation, arena.tasks, worth=ROWS)


@asynccontextmanager
async def rows_in_batches(arena: Arena) -> AsyncIterator[Laps]:
    """`fetchmany(2000)` from a named cursor."""
    async with ours(arena) as pool:

        async def operation() -> None:
            async with pool.connection() as conn, conn.cursor(name="many") as cursor:
                await cursor.execute(MANY_ROWS.format(count=ROWS))
                count = 0
                while batch := await cursor.fetchmany(BATCH):
                    count += len(batch)
            assert count == ROWS

        yield by_tasks(operation, arena.tasks, worth=ROWS)


@asynccontextmanager
async def large_results(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.fetch_all()`; autocommit by `setup`."""
    async with ours(arena, setup=autocommit) as pool:

        async def operation() -> None:
            assert len(await pool.fetch_all(LARGE_RESULT)) == LARGE

        yield stalls_during(operation, arena.tasks)


# ------------------------------------------------------------------------------------------------
# The floor: psycopg2 without asyncio, and asyncpg without a pool


def connected(arena: Arena) -> Any:
    """Connect psycopg2 in autocommit."""
    import psycopg2

    connection = psycopg2.connect(**arena.postgres)
    autocommit(connection)
    return connection


def statement_on(connection: Any) -> None:
    """Do on the driver's own connection what everybody does."""
    with closing(connection.cursor()) as cursor:
        cursor.execute(SQL)
        rows = cursor.fetchall()
    assert rows[0][0] == 1


@asynccontextmanager
async def bare_threads(arena: Arena) -> AsyncIterator[Laps]:
    """psycopg2 on ten plain threads, a connection each, no event loop; autocommit."""
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connected(arena))) for _ in range(CONNECTIONS)]
        yield by_threads([partial(statement_on, connection) for connection in connections])


@asynccontextmanager
async def blocking_batches(arena: Arena) -> AsyncIterator[Laps]:
    """psycopg2 without asyncio: `fetchmany(2000)` from a named cursor, then `rollback()`."""
    import psycopg2

    with closing(psycopg2.connect(**arena.postgres)) as connection:

        def operation() -> None:
            with closing(connection.cursor(name="many")) as cursor:
                cursor.execute(MANY_ROWS.format(count=ROWS))
                count = 0
                while batch := cursor.fetchmany(BATCH):
                    count += len(batch)
            connection.rollback()
            assert count == ROWS

        yield by_calls(operation, worth=ROWS)


@asynccontextmanager
async def bare_asyncpg(arena: Arena) -> AsyncIterator[Laps]:
    """Ten asyncpg connections on a stack behind an `asyncio.Semaphore`: `fetch()`."""
    import asyncpg

    connections = [await asyncpg.connect(**arena.postgres) for _ in range(CONNECTIONS)]
    permits = asyncio.Semaphore(CONNECTIONS)

    async def operation() -> None:
        async with permits:
            connection = connections.pop()
            try:
                rows = await connection.fetch(SQL)
            finally:
                connections.append(connection)
        assert rows[0][0] == 1

    yield by_tasks(operation, arena.tasks)
    for connection in connections:
        await connection.close()


# ------------------------------------------------------------------------------------------------
# psycopg_pool


@asynccontextmanager
async def psycopg_pool(arena: Arena, **options: Any) -> AsyncIterator[Any]:
    """Open psycopg's asyncio pool."""
    from psycopg_pool import AsyncConnectionPool

    login = dict(arena.postgres)
    login["dbname"] = login.pop("database")
    async with AsyncConnectionPool(
        kwargs={**login, **options},
        **SIZES,
        open=False,
    ) as pool:
        await pool.wait()
        yield pool


@asynccontextmanager
async def psycopg_pool_getconn(arena: Arena) -> AsyncIterator[Laps]:
    """`getconn()`, `putconn()`; psycopg with C inside, autocommit."""
    async with psycopg_pool(arena, autocommit=True) as pool:

        async def operation() -> None:
            await pool.putconn(await pool.getconn())

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def psycopg_pool_block(arena: Arena) -> AsyncIterator[Laps]:
    """`async with pool.connection()`; psycopg with C inside, autocommit."""
    async with psycopg_pool(arena, autocommit=True) as pool:

        async def operation() -> None:
            async with pool.connection():
                pass

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def psycopg_pool_statements(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.connection()`, `execute()`, `fetchall()`; C inside, autocommit, not prepared."""
    async with psycopg_pool(arena, autocommit=True, prepare_threshold=None) as pool:

        async def operation() -> None:
            async with pool.connection() as conn:
                cursor = await conn.execute(SQL)
                rows = await cursor.fetchall()
            assert rows[0][0] == 1

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def psycopg_pool_rows(arena: Arena) -> AsyncIterator[Laps]:
    """`async for` over a named cursor; C inside, `itersize = 2000`."""
    async with psycopg_pool(arena) as pool:

        async def operation() -> None:
            async with pool.connection() as conn, conn.cursor(name="many") as cursor:
                cursor.itersize = BATCH
                await cursor.execute(MANY_ROWS.format(count=ROWS))
                count = 0
                async for _ in cursor:
                    count += 1
            assert count == ROWS

        yield by_tasks(operation, arena.tasks, worth=ROWS)


@asynccontextmanager
async def psycopg_pool_large_results(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.connection()`, `execute()`, `fetchall()`; C inside, autocommit, not prepared."""
    async with psycopg_pool(arena, autocommit=True, prepare_threshold=None) as pool:

        async def operation() -> None:
            async with pool.connection() as conn:
                cursor = await conn.execute(LARGE_RESULT)
                assert len(await cursor.fetchall()) == LARGE

        yield stalls_during(operation, arena.tasks)


# ------------------------------------------------------------------------------------------------
# asyncpg.Pool


@asynccontextmanager
async def asyncpg_pool(arena: Arena, **options: Any) -> AsyncIterator[Any]:
    """Open asyncpg's own pool."""
    import asyncpg

    async with asyncpg.create_pool(**arena.postgres, **SIZES, **options) as pool:
        yield pool


async def no_reset(_connection: Any) -> None:
    """Be what asyncpg.Pool awaits instead of its reset."""


@asynccontextmanager
async def asyncpg_acquire(arena: Arena) -> AsyncIterator[Laps]:
    """`acquire()`, `release()`, which resets the session in a round trip."""
    async with asyncpg_pool(arena) as pool:

        async def operation() -> None:
            await pool.release(await pool.acquire())

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def asyncpg_acquire_without_reset(arena: Arena) -> AsyncIterator[Laps]:
    """`acquire()`, `release()`, with a `reset=` that does nothing."""
    async with asyncpg_pool(arena, reset=no_reset) as pool:

        async def operation() -> None:
            await pool.release(await pool.acquire())

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def asyncpg_statements(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.fetch()`; statements cached; the session is reset in a round trip on each return."""
    async with asyncpg_pool(arena) as pool:

        async def operation() -> None:
            rows = await pool.fetch(SQL)
            assert rows[0][0] == 1

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def asyncpg_statements_without_reset(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.fetch()`; statements cached; a `reset=` that does nothing."""
    async with asyncpg_pool(arena, reset=no_reset) as pool:

        async def operation() -> None:
            rows = await pool.fetch(SQL)
            assert rows[0][0] == 1

        yield by_tasks(operation, arena.tasks)


@asynccontextmanager
async def asyncpg_rows(arena: Arena) -> AsyncIterator[Laps]:
    """`async for` over `conn.cursor(prefetch=2000)` in a transaction."""
    async with asyncpg_pool(arena) as pool:

        async def operation() -> None:
            count = 0
            async with pool.acquire() as conn, conn.transaction():
                async for _ in conn.cursor(MANY_ROWS.format(count=ROWS), prefetch=BATCH):
                    count += 1
            assert count == ROWS

        yield by_tasks(operation, arena.tasks, worth=ROWS)


@asynccontextmanager
async def asyncpg_large_results(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.fetch()`; statements cached."""
    async with asyncpg_pool(arena) as pool:

        async def operation() -> None:
            assert len(await pool.fetch(LARGE_RESULT)) == LARGE

        yield stalls_during(operation, arena.tasks)


# ------------------------------------------------------------------------------------------------
# SQLAlchemy, and the driver on asyncio's own threads


@asynccontextmanager
async def sqlalchemy_statements(arena: Arena) -> AsyncIterator[Laps]:
    """Core on asyncpg: `engine.connect()`, `exec_driver_sql()`; AUTOCOMMIT, no reset on return."""
    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import create_async_engine

    login = dict(arena.postgres)
    login["username"] = login.pop("user")
    engine = create_async_engine(
        URL.create("postgresql+asyncpg", **login),
        isolation_level="AUTOCOMMIT",
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_reset_on_return=None,
    )

    async def operation() -> None:
        async with engine.connect() as conn:
            rows = (await conn.exec_driver_sql(SQL)).all()
        assert rows[0][0] == 1

    yield by_tasks(operation, arena.tasks)
    await engine.dispose()


@asynccontextmanager
async def to_thread_with_psycopg2_pool(arena: Arena) -> AsyncIterator[Laps]:
    """`asyncio.to_thread()`, ten threads, psycopg2's `ThreadedConnectionPool`; autocommit."""
    from psycopg2.pool import ThreadedConnectionPool

    pool = ThreadedConnectionPool(CONNECTIONS, CONNECTIONS, **arena.postgres)
    for connection in [pool.getconn() for _ in range(CONNECTIONS)]:
        autocommit(connection)
        pool.putconn(connection)

    def work() -> None:
        connection = pool.getconn()
        try:
            statement_on(connection)
        finally:
            pool.putconn(connection)

    yield by_tasks(on_a_thread(work), arena.tasks)
    pool.closeall()


@asynccontextmanager
async def to_thread_with_dbutils(arena: Arena) -> AsyncIterator[Laps]:
    """`asyncio.to_thread()`, ten threads, DBUtils `PooledDB` with `ping=0, reset=False`."""
    import psycopg2
    from dbutils.pooled_db import PooledDB

    pool = PooledDB(
        partial(connected, arena),
        mincached=CONNECTIONS,
        maxcached=CONNECTIONS,
        maxconnections=CONNECTIONS,
        blocking=True,
        ping=0,
        reset=False,
        failures=(psycopg2.OperationalError, psycopg2.InterfaceError),
    )

    def work() -> None:
        with closing(pool.connection()) as connection:
            statement_on(connection)

    yield by_tasks(on_a_thread(work), arena.tasks)
    pool.close()


def on_a_thread(work: Callable[[], None]) -> Callable[[], Any]:
    """Make an operation of a blocking function; the loop's executor has as many threads as pools
    have connections, so that none of them ever has to wait for a connection.
    """
    return partial(asyncio.to_thread, work)
