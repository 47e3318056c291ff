"""The client: measures the contestants of one row, in turns, in a process on a core of its own.

The parent writes the `Order` to its standard input, and reads `{"costs": ..., "missing": ...}`.
"""

import asyncio
import gc
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.contest import CONNECTIONS, Arena, Laps, Unavailable
from benchmarks.rows import ROWS


@dataclass(frozen=True)
class Order:
    """What the client is to measure.

    Attributes:
        row: The key of the row.
        loop: The event loop, "asyncio" or "uvloop".
        contestants: Those that compete.
        rounds: How often each of them has its turn.
        seconds: How long a turn takes, about.
        core: The core to run on; None: wherever there is one.
        postgres: Connect keywords; likewise `mariadb`.
        sqlite: The path of the database file.
    """

    row: str
    loop: str
    contestants: Sequence[str]
    rounds: int
    seconds: float
    core: int | None
    postgres: dict[str, Any]
    mariadb: dict[str, Any]
    sqlite: str

    def as_json(self) -> str:
        """Write it for a client to read."""
        return json.dumps(asdict(self))


async def measure(order: Order) -> dict[str, Any]:
    """Open the contestants, warm them up, and give each its turns, in another order each round."""
    row = ROWS[order.row]
    arena = Arena(order.postgres, order.mariadb, Path(order.sqlite), row.tasks)
    # What asyncio.to_thread() and aioodbc run on; the default would be six threads on two cores.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CONNECTIONS))
    missing: dict[str, str] = {}
    opened: dict[str, Laps] = {}
    async with AsyncExitStack() as stack:
        for name in order.contestants:
            try:
                opened[name] = await stack.enter_async_context(row.contestants[name](arena))
            except (ImportError, Unavailable) as error:
                missing[name] = str(error)
        sizes = {
            name: await warmed_up(laps, row.operations, order.seconds)
            for name, laps in opened.items()
        }
        costs: dict[str, list[float]] = {name: [] for name in opened}
        for number in range(order.rounds):
            for name in rotated(list(opened), number):
                gc.collect()
                lap = await opened[name](sizes[name])
                costs[name].append(lap.cost / lap.operations)
    return {"costs": costs, "missing": missing}


async def warmed_up(laps: Laps, operations: int | None, seconds: float) -> int:
    """Run laps until the time that they take can be told; how many operations fill a turn."""
    if operations is not None:
        await laps(operations)
        return operations
    count = 1
    while True:
        start = perf_counter()
        lap = await laps(count)
        taken = perf_counter() - start
        if taken > seconds / 4:
            return max(1, round(lap.operations * seconds / taken))
        count = lap.operations * 4


def rotated(names: list[str], number: int) -> list[str]:
    """Begin with another one in each round."""
    start = number % len(names) if names else 0
    return names[start:] + names[:start]


def main() -> None:
    """Do what standard input orders."""
    order = Order(**json.load(sys.stdin))
    if order.core is not None:
        os.sched_setaffinity(0, {order.core})
    factory = None
    if order.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(runner.run(measure(order))))


if __name__ == "__main__":
    main()
