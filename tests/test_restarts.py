"""Servers that are restarted under load: what the outage costs, and when it is over."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from asyncdbpool import ConnectionPool, PoolError
from asyncdbpool.testing import check_invariants
from support.access import connections, eventually, left_of
from support.databases import Database
from support.figures import Note
from support.fixtures import SERVED, described
from support.servers import Server

pytestmark = pytest.mark.realtime

TASKS = 50
SIZE = 8
OUTAGE = 0.5  # seconds from the end of the server to its new start
LONGEST_STEP = 2.0  # seconds between two attempts to connect, at most
BOUND = 5.0  # seconds by which a slow machine may be late


@pytest.fixture(params=SERVED)
def database(request: pytest.FixtureRequest) -> Database:
    return described(request, request.param)


class Load:
    """What many tasks ask of a pool, each request with a token and a timeout of its own.

    Attributes:
        answered: Loop times of the answers.
        ends: How often a request ended in what way.
        late: Seconds by which the slowest request has outlived its timeout.
    """

    def __init__(self, pool: ConnectionPool, database: Database) -> None:
        self.answered: list[float] = []
        self.ends: Counter[str] = Counter()
        self.late = 0.0
        self._pool = pool
        self._errors: tuple[type[Exception], ...] = (PoolError, OSError, *database.errors)
        self._random = random.Random(random.getrandbits(32))  # noqa: S311 - no secret
        self._tokens = 0
        self._over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks = [self._loop.create_task(self._work()) for _ in range(TASKS)]

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
        began, seconds = self._loop.time(), self._random.uniform(0.1, 0.6)
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


@pytest.mark.parametrize("retry", [0.0, 30.0], ids=["at once", "retried"])
async def test_after_a_restart_under_load_the_first_answer_comes_within_one_step_of_backoff(
    server: Server, database: Database, retry: float, note: Note
) -> None:
    loop = asyncio.get_running_loop()
    async with database.pool(
        max_size=SIZE, retry_connect=retry, connect_timeout=1.0, cancel_grace=0.3
    ) as pool:
        load = Load(pool, database)
        await eventually(lambda: load.ends["answered"] > 2 * TASKS)
        assert load.ends.total() == load.ends["answered"]

        await asyncio.to_thread(server.restart, OUTAGE)
        back = loop.time()
        before = load.ends["answered"]
        await eventually(lambda: load.ends["answered"] > before + 4 * TASKS)
        await load.stop()

        gap, first = max(
            (later - sooner, later)
            for sooner, later in zip(load.answered, load.answered[1:], strict=False)
        )
        assert gap > OUTAGE, "there was an outage"
        note(
            "first answer", f"{first - back:+.3f} s after the server was back, {gap:.2f} s in all"
        )
        note("the slowest request outlived its timeout by", f"{1000 * load.late:.0f} ms")
        note("requests", ", ".join(f"{count} {end}" for end, count in load.ends.items()))
        assert first - back < LONGEST_STEP + BOUND
        assert load.late < BOUND

        await eventually(lambda: pool.free == SIZE)
        check_invariants(pool)
        await eventually(lambda: connections(server) == pool.size)
        stats = pool.stats()
        assert (stats.in_use, stats.connecting, stats.waiting) == (0, 0, 0)
    assert left_of(pool.name) == []
    await eventually(lambda: connections(server) == 0)
