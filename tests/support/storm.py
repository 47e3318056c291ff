"""A storm of cancellations: visitors of a pool, most of whom are cancelled at any moment."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

from asyncdbpool import ConnectionPool
from support.activity import Activity, Served
from support.ways import in_a_function, on_a_cursor

__all__ = ["Storm", "sayings"]

VISITORS = 20
DELAY = 0.005  # seconds in the database, at most; a quarter of it where they are spent computing
DOOMED = 0.8  # the share of visits that are cancelled, if they have not ended by then

Ask = Callable[[str], Awaitable[object]]
Saying = Callable[[str, float], str]


@contextmanager
def sayings(activity: Activity) -> Iterator[Saying]:
    """Give what makes a query that says a token after a while.

    MariaDB's SLEEP()s share a mutex: to kill one among many can stall the server for two seconds.
    So there it is a lock that the queries wait for, and do not get.
    """
    if activity.database.server != "mariadb":
        yield activity.saying
        return
    with closing(activity.database.connect()) as holder, closing(holder.cursor()) as cursor:
        cursor.execute("SELECT GET_LOCK('storm', 0)")
        cursor.fetchall()
        # As with SLEEP(), a killed one ends "successfully", but with something else than 0.
        yield lambda token, seconds: f"SELECT '{token}', GET_LOCK('storm', {seconds:f})"


class Storm:
    """What the visitors do, and what they must get: their own answer, or a cancellation.

    Attributes:
        answers: How many statements were answered.
        gave_up: How many were cancelled by a visitor who then went on with his connection.
    """

    def __init__(
        self, activity: Activity, pool: ConnectionPool, saying: Saying, *, nested: bool = True
    ) -> None:
        self.activity = activity
        self.pool = pool
        self.saying = saying
        self.answers = 0
        self.gave_up = 0
        self._nested = nested
        self._random = random.Random(random.getrandbits(32))  # noqa: S311 - no secret
        self._tokens = 0
        self._delay = DELAY if isinstance(activity, Served) else DELAY / 4

    async def rage(self, cancels: int) -> None:
        """Go on until so many statements were cancelled; raise whatever else went wrong."""
        await asyncio.gather(*(self._visit_until(cancels) for _ in range(VISITORS)))

    async def _visit_until(self, cancels: int) -> None:
        loop = asyncio.get_running_loop()
        ways = [
            self._one_shot,
            self._block,
            self._transaction,
            self._cursor,
            self._function,
            self._patience,
        ]
        while self.pool.stats().cancelled < cancels:
            visit = asyncio.ensure_future(self._random.choice(ways)())
            doomed = self._random.random() < DOOMED
            if doomed:
                loop.call_later(self._random.uniform(0, 2 * self._delay), visit.cancel)
            await asyncio.wait({visit})
            if visit.cancelled():
                assert doomed, "nobody is cancelled in another's place"
            else:
                visit.result()  # raises what has gone wrong

    async def _one_shot(self) -> None:
        await self._own(self.pool.fetch_one)

    async def _block(self) -> None:
        async with self.pool.connection() as conn:
            for _ in range(2):
                await self._own(conn.fetch_one)

    async def _transaction(self) -> None:
        async with self.pool.transaction() as conn:
            await self._own(conn.fetch_one)
            if self._nested:
                async with conn.transaction():
                    await self._own(conn.fetch_one)

    async def _cursor(self) -> None:
        async with self.pool.connection() as conn:
            await self._own(partial(on_a_cursor(self.pool.module), conn))

    async def _function(self) -> None:
        ask = in_a_function(self.pool.module)
        await self._own(partial(self.pool.run, ask))

    async def _patience(self) -> None:
        """Give up on a statement, and go on with the same connection."""
        async with self.pool.connection() as conn:
            try:
                async with asyncio.timeout(self._random.uniform(0, self._delay)):
                    await self._own(conn.fetch_one)
            except TimeoutError:
                self.gave_up += 1
                await conn.rollback()
            await self._own(conn.fetch_one)

    async def _own(self, ask: Ask) -> None:
        self._tokens += 1
        token = f"token {self._tokens}"
        delay = self._random.uniform(0, self._delay)
        assert await ask(self.saying(token, delay)) == self.activity.said(token)
        self.answers += 1
