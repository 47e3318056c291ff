"""A load that goes on whatever happens to the server, and sees what comes of each request."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from asyncdbpool import ConnectionPool, PoolError
from support.access import eventually
from support.databases import Database

__all__ = ["Load"]


class Load:
    """What many tasks ask of a pool, each request with a token and a timeout of its own.

    Attributes:
        answered: Loop times of the answers.
        ends: How often a request ended in what way.
        late: Seconds by which the slowest request has outlived its timeout.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        database: Database,
        *,
        tasks: int,
        timeouts: tuple[float, float] = (0.1, 0.6),
    ) -> None:
        self.answered: list[float] = []
        self.ends: Counter[str] = Counter()
        self.late = 0.0
        self._pool = pool
        self._timeouts = timeouts
        self._errors: tuple[type[Exception], ...] = (PoolError, OSError, *database.errors)
        self._random = random.Random(random.getrandbits(32))  # noqa: S311 - no secret
        self._tokens = 0
        self._over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks = [self._loop.create_task(self._work()) for _ in range(tasks)]

    async def goes_on(self, count: int) -> None:
        """Wait until so many more requests have been answered."""
        before = self.ends["answered"]
        await eventually(lambda: self.ends["answered"] > before + count)

    async def stop(self) -> None:
        """Wait until every task has seen that it is over; raise what has gone wrong."""
        self._over.set()
        await asyncio.gather(*self._tasks)

    async def _work(self) -> None:
        ways = [self._one_shot, self._block, self._transaction]
        while not self._over.is_set():
            await self._request(self._random.choice(ways))
            await asyncio.sleep(self._random.uniform(0, 0.02))

    async def _request(self, way: Callable[[str], Awaitable[object]]) -> None:
        self._tokens += 1
        token = f"token {self._tokens}"
        began, seconds = self._loop.time(), self._random.uniform(*self._timeouts)
        try:
            async with asyncio.timeout(seconds):
                answer = await way(token)
        except TimeoutError:
            self.ends["timed out"] += 1
        except self._errors:
            self.ends["failed"] += 1
        else:
            assert answer == token
            self.ends["answered"] += 1
            self.answered.append(self._loop.time())
        self.late = max(self.late, self._loop.time() - began - seconds)

    async def _one_shot(self, token: str) -> object:
        return await self._pool.fetch_val(f"SELECT '{token}'")

    async def _block(self, token: str) -> object:
        async with self._pool.connection() as conn:
            return await conn.fetch_val(f"SELECT '{token}'")

    async def _transaction(self, token: str) -> object:
        async with self._pool.transaction() as conn, conn.transaction():
            return await conn.fetch_val(f"SELECT '{token}'")
