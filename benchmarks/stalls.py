"""How long the event loop is kept from what is due, while tasks are at work on it."""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from benchmarks.contest import Lap, Laps

BEAT = 0.001  # seconds


def stalls_during(operation: Callable[[], Awaitable[object]], tasks: int) -> Laps:
    """Let each task do the operation once; a lap's cost is the 99th percentile of the delays."""

    async def once() -> None:
        await operation()

    async def lap(_operations: int) -> Lap:
        work = asyncio.gather(*(once() for _ in range(tasks)))
        delays = sorted(await delays_until(work))
        await work
        return Lap(1, delays[len(delays) * 99 // 100])

    return lap


async def delays_until(work: asyncio.Future[Any]) -> list[float]:
    """Note by how much each beat is late, those included that are missed during a long stall.

    So a stall counts by its length, and the percentile is what an event meets that arrives at a
    random moment.
    """
    delays: list[float] = []
    due = perf_counter()
    while not work.done():
        due += BEAT
        await asyncio.sleep(max(0.0, due - perf_counter()))
        now = perf_counter()
        delays.append(now - due)
        while due + BEAT <= now:
            due += BEAT
            delays.append(now - due)
    return delays
