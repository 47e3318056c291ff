"""Five hundred tasks, half of them cancelled at any moment, with each of the five drivers."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from asyncdbpool import ConnectionPool
from asyncdbpool.testing import check_invariants
from support.access import eventually
from support.activity import Activity
from support.fixtures import with_every_driver
from support.ways import in_a_function, on_a_cursor

pytestmark = [pytest.mark.realtime, with_every_driver]

TASKS = 500
SIZE = 8
DELAY = 0.01  # seconds in the database, at most
DURATION = 1.0  # seconds in which the cancellations come

Ask = Callable[[str], Awaitable[object]]


class Storm:
    """What the tasks do, and what they must get: their own answer, or a cancellation."""

    def __init__(self, activity: Activity, pool: ConnectionPool) -> None:
        self.activity = activity
        self.pool = pool
        self.random = random.Random(random.getrandbits(32))  # noqa: S311 - no secret
        self.gave_up = 0
        self._tokens = 0

    async def one_shot(self) -> None:
        await self._own(self.pool.fetch_one)

    async def block(self) -> None:
        async with self.pool.connection() as conn:
            for _ in range(2):
                await self._own(conn.fetch_one)

    async def transaction(self) -> None:
        async with self.pool.transaction() as conn:
            await self._own(conn.fetch_one)
            async with conn.transaction():
                await self._own(conn.fetch_one)

    async def cursor(self) -> None:
        async with self.pool.connection() as conn:
            await self._own(partial(on_a_cursor(self.pool.module), conn))

    async def function(self) -> None:
        ask = in_a_function(self.pool.module)
        await self._own(partial(self.pool.run, ask))

    async def patience(self) -> None:
        """Give up on a statement, and go on with the same connection."""
        async with self.pool.connection() as conn:
            for _ in range(2):
                try:
                    async with asyncio.timeout(self.random.uniform(0, DELAY)):
                        await self._own(conn.fetch_one)
                except TimeoutError:
                    self.gave_up += 1
                    await conn.rollback()
                await self._own(conn.fetch_one)

    async def _own(self, ask: Ask) -> None:
        self._tokens += 1
        token = f"token {self._tokens}"
        delay = self.random.uniform(0, DELAY)
        assert await ask(self.activity.saying(token, delay)) == self.activity.said(token)

    def ways(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            self.one_shot,
            self.block,
            self.transaction,
            self.cursor,
            self.function,
            self.patience,
        ]


async def test_a_storm_of_cancellations_costs_nobody_else_anything(activity: Activity) -> None:
    async with activity.pool(max_size=SIZE, timeout=60) as pool:
        storm = Storm(activity, pool)
        loop = asyncio.get_running_loop()
        ways = storm.ways()
        tasks = [asyncio.ensure_future(ways[n % len(ways)]()) for n in range(TASKS)]
        doomed = storm.random.sample(tasks, TASKS // 2)
        for task in doomed:
            loop.call_later(storm.random.uniform(0, DURATION), task.cancel)
        await asyncio.wait(tasks)

        for task in tasks:
            if task.cancelled():
                assert task in doomed
            else:
                task.result()  # raises what has gone wrong
        hit = pool.stats().cancelled
        assert hit > TASKS / 20, "statements were cancelled, not only those who wait"
        assert storm.gave_up > TASKS / 50
        await eventually(lambda: pool.free == SIZE)
        await activity.ends(connections=pool.size)
        check_invariants(pool)
        stats = pool.stats()
        # A function whose statement has not been killed within a moment, as may be on a slow
        # machine, is cancelled itself, which aiomysql does not survive.
        expendable = hit / 10 if activity.database.name == "aiomysql" else 0
        assert stats.in_use == 0
        assert stats.discarded <= expendable
        assert stats.size == stats.created - stats.discarded <= SIZE
    await activity.ends(connections=0)
