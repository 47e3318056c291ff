"""What a contestant is: something that opens in an arena and then runs laps of the row's work."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

CONNECTIONS = 10
"""How many each contestant has, where there are many tasks."""

SIZES: dict[str, Any] = {"min_size": CONNECTIONS, "max_size": CONNECTIONS}
"""Pool options for that, here and with asyncpg and psycopg."""


class Unavailable(Exception):
    """This machine lacks what a contestant needs; the others go on without it."""


@dataclass(frozen=True)
class Arena:
    """Where a row is run.

    Attributes:
        postgres: Connect keywords for the private PostgreSQL.
        mariadb: The same for the private MariaDB.
        sqlite: A database file, filled by `on_sqlite.fill()`.
        tasks: How many tasks share the work.
    """

    postgres: dict[str, Any]
    mariadb: dict[str, Any]
    sqlite: Path
    tasks: int = 1


@dataclass(frozen=True)
class Lap:
    """What one lap came to: so many operations, and what they cost together.

    The cost is in seconds, or in bytes where the row is about memory.
    """

    operations: int
    cost: float


Laps = Callable[[int], Awaitable[Lap]]
"""Runs about so many operations, rounded up to what can be shared out evenly."""

Contestant = Callable[[Arena], AbstractAsyncContextManager[Laps]]
"""Opens once, is warmed up, and runs laps. Its docstring, shown on the page, is its settings."""


def by_tasks(operation: Callable[[], Awaitable[object]], tasks: int, worth: int = 1) -> Laps:
    """Let tasks repeat an operation that is worth so many (the rows of a result, say)."""

    async def lap(operations: int) -> Lap:
        times = -(-operations // (tasks * worth))

        async def repeat() -> None:
            for _ in range(times):
                await operation()

        start = perf_counter()
        await asyncio.gather(*(repeat() for _ in range(tasks)))
        return Lap(times * tasks * worth, perf_counter() - start)

    return lap


def by_threads(operations: Sequence[Callable[[], object]]) -> Laps:
    """Let plain threads repeat a blocking operation each, while the event loop stands still."""

    async def lap(count: int) -> Lap:
        times = -(-count // len(operations))

        def repeat(operation: Callable[[], object]) -> None:
            for _ in range(times):
                operation()

        threads = [threading.Thread(target=repeat, args=(o,)) for o in operations]
        start = perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Lap(times * len(threads), perf_counter() - start)

    return lap


def by_calls(operation: Callable[[], object], worth: int = 1) -> Laps:
    """Repeat a blocking operation right here, with neither threads nor tasks."""

    async def lap(operations: int) -> Lap:
        times = -(-operations // worth)
        start = perf_counter()
        for _ in range(times):
            operation()
        return Lap(times * worth, perf_counter() - start)

    return lap
