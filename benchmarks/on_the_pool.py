"""What the pool does with many waiters, slow connects, and memory: here it has no rivals."""

import asyncio
import gc
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

from asyncdbpool import ConnectionPool
from benchmarks.contest import CONNECTIONS, Arena, Lap, Laps, Unavailable

CONNECT_TIME = 0.2  # seconds
MANY_CONNECTIONS = 40
MANY_WAITERS = 10_000


# ------------------------------------------------------------------------------------------------
# Many tasks


@asynccontextmanager
async def waiting(arena: Arena) -> AsyncIterator[Laps]:
    """`pool.connection()`, `execute("SELECT 1")`, `fetchone()` on sqlite3, once in each task."""
    async with ConnectionPool(
        sqlite3, arena.sqlite, min_size=CONNECTIONS, isolation_level=None
    ) as pool:

        async def operation() -> None:
            async with pool.connection() as conn:
                cursor = await conn.execute("SELECT 1")
                row = await cursor.fetchone()
            assert row[0] == 1

        async def lap(operations: int) -> Lap:
            start = perf_counter()
            for _ in range(operations // arena.tasks):
                await asyncio.gather(*(operation() for _ in range(arena.tasks)))
            return Lap(operations, perf_counter() - start)

        yield lap


@asynccontextmanager
async def cancelling(arena: Arena) -> AsyncIterator[Laps]:
    """All are cancelled in `pool.get()`; from the first `cancel()` until the last has ended.

    A full garbage collection comes before it, since one in the middle would cost as much again.
    """
    async with ConnectionPool(sqlite3, arena.sqlite, max_size=1, timeout=None) as pool:

        async def lap(operations: int) -> Lap:
            cost = 0.0
            async with pool.connection():
                for _ in range(operations // arena.tasks):
                    tasks = [asyncio.create_task(pool.get()) for _ in range(arena.tasks)]
                    while pool.waiting < len(tasks):  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0)
                    gc.collect()  # or it is luck whether a full collection falls into the time
                    start = perf_counter()
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks)
                    cost += perf_counter() - start
                    assert all(task.cancelled() for task in tasks)
            return Lap(operations, cost)

        yield lap


def with_tasks(contestant: Any, tasks: int) -> Any:
    """Have a contestant run with a number of tasks of its own."""

    @asynccontextmanager
    async def changed(arena: Arena) -> AsyncIterator[Laps]:
        one = Arena(arena.postgres, arena.mariadb, arena.sqlite, tasks)
        async with contestant(one) as laps:
            yield laps

    changed.__doc__ = contestant.__doc__
    return changed


# ------------------------------------------------------------------------------------------------
# Slow connects


@asynccontextmanager
async def first_gets(_arena: Arena) -> AsyncIterator[Laps]:
    """Ten `pool.get()` at once on a new pool over sqlite3, whose `connect()` takes 200 ms here."""
    slow = ModuleType("slow")
    vars(slow).update(vars(sqlite3))

    def connect(*args: Any, **kwargs: Any) -> Any:
        time.sleep(CONNECT_TIME)
        return sqlite3.connect(*args, **kwargs)

    vars(slow)["connect"] = connect

    async def lap(operations: int) -> Lap:
        cost = 0.0
        for _ in range(operations):
            async with ConnectionPool(slow, ":memory:", max_size=CONNECTIONS) as pool:
                start = perf_counter()
                lent = await asyncio.gather(*(pool.get() for _ in range(CONNECTIONS)))
                cost += perf_counter() - start
                for conn in lent:
                    await pool.put(conn)
        return Lap(operations, cost)

    yield lap


# ------------------------------------------------------------------------------------------------
# Memory: what the process holds more, all of it. It is measured once, since freed memory is reused


def resident() -> int:
    """The bytes of memory that this process occupies."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        raise Unavailable("how much memory a process has is read from Linux's /proc")
    gc.collect()
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def beyond_the_driver(connect: Callable[[], Any], pooled: ConnectionPool) -> float:
    """Have pooled and bare connections work; how many bytes more each of the former takes."""
    with ExitStack() as bare:

        def open_bare() -> None:
            connection = bare.enter_context(closing(connect()))
            with closing(connection.cursor()) as cursor:
                cursor.execute("SELECT 1")
                cursor.fetchall()
            connection.rollback()

        # What the first ones bring along is shared by all: libraries, caches of the pool.
        open_bare()
        await pooled.fetch_all("SELECT 1")
        start = resident()
        for _ in range(MANY_CONNECTIONS):
            open_bare()
        driver = resident() - start
        start = resident()
        lent = [await pooled.get() for _ in range(MANY_CONNECTIONS + 1)]
        for conn in lent:
            await conn.fetch_all("SELECT 1")
            await pooled.put(conn)
        return (resident() - start - driver) / MANY_CONNECTIONS


def always(cost: float) -> Laps:
    """Run laps that tell what is known."""

    async def lap(_operations: int) -> Lap:
        return Lap(1, cost)

    return lap


@asynccontextmanager
async def idle_sqlite3(arena: Arena) -> AsyncIterator[Laps]:
    """40 in a pool, less 40 of the driver's own; its thread is counted."""
    async with ConnectionPool(sqlite3, arena.sqlite, max_size=MANY_CONNECTIONS + 1) as pool:
        yield always(await beyond_the_driver(partial(sqlite3.connect, arena.sqlite), pool))


@asynccontextmanager
async def idle_psycopg2(arena: Arena) -> AsyncIterator[Laps]:
    """40 in a pool, less 40 of the driver's own; its thread is counted."""
    import psycopg2

    connect = partial(psycopg2.connect, **arena.postgres)
    async with ConnectionPool(psycopg2, **arena.postgres, max_size=MANY_CONNECTIONS + 1) as pool:
        yield always(await beyond_the_driver(connect, pool))


@asynccontextmanager
async def waiter(arena: Arena) -> AsyncIterator[Laps]:
    """10,000 tasks that wait in `pool.get()`, less 10,000 that wait for a future each."""
    loop = asyncio.get_running_loop()

    async def bare() -> None:
        await loop.create_future()

    async def tasks_of(wait: Callable[[], Any]) -> tuple[int, list[asyncio.Task[Any]]]:
        start = resident()
        tasks = [asyncio.create_task(wait()) for _ in range(MANY_WAITERS)]
        await asyncio.sleep(0.1)
        return resident() - start, tasks

    pool = ConnectionPool(sqlite3, arena.sqlite, max_size=1)
    async with pool, pool.connection():
        task, first = await tasks_of(bare)
        waiting_task, second = await tasks_of(pool.get)
        assert pool.waiting == MANY_WAITERS
        for each in first + second:
            each.cancel()
        await asyncio.wait(first + second)
    yield always((waiting_task - task) / MANY_WAITERS)
