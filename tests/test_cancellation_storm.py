"""Two thousand cancelled statements with each of the five drivers, at any moment of their lives.

`ASYNCDBPOOL_STORM=10` makes it ten times as many.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

import MySQLdb
import pytest

from asyncdbpool import ConnectionPool
from asyncdbpool.testing import check_invariants
from support.access import eventually, left_of
from support.activity import Activity, Embedded
from support.figures import Note, quantile
from support.fixtures import with_every_driver
from support.ways import in_a_function, on_a_cursor

pytestmark = [pytest.mark.realtime, pytest.mark.proof, with_every_driver]

CANCELS = int(2_000 * float(os.environ.get("ASYNCDBPOOL_STORM", "1")))
VISITORS = 20
SIZE = 10
DELAY = 0.005  # seconds in the database, at most, where that costs no time of this process
DOOMED = 0.8  # the share of visits that are cancelled, if they have not ended by then

Ask = Callable[[str], Awaitable[object]]
Saying = Callable[[str, float], str]


@contextmanager
def sayings(activity: Activity) -> Iterator[Saying]:
    """Give what makes a query that says a token after a while.

    MariaDB's SLEEP()s share a mutex: to kill one among many can stall the server for two seconds.
    So there it is a lock that the queries wait for, and do not get.
    """
    if (activity.database.twin or activity.database).module is not MySQLdb:
        yield activity.saying
        return
    with closing(activity.database.connect()) as holder, closing(holder.cursor()) as cursor:
        cursor.execute("SELECT GET_LOCK('storm', 0)")
        # As with SLEEP(), a killed one ends "successfully", but with something else than 0.
        yield lambda token, seconds: f"SELECT '{token}', GET_LOCK('storm', {seconds:f})"


class Storm:
    """What the visitors do, and what they must get: their own answer, or a cancellation.

    Attributes:
        answers: How many statements were answered.
        gave_up: How many were cancelled by a visitor who then went on with his connection.
    """

    def __init__(self, activity: Activity, pool: ConnectionPool, saying: Saying) -> None:
        self.activity = activity
        self.pool = pool
        self.saying = saying
        self.answers = 0
        self.gave_up = 0
        self._random = random.Random(random.getrandbits(32))  # noqa: S311 - no secret
        self._tokens = 0
        self._delay = DELAY / 4 if isinstance(activity, Embedded) else DELAY

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


async def test_a_storm_of_cancellations_costs_nobody_else_anything(
    activity: Activity, note: Note
) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with activity.pool(max_size=SIZE, timeout=60) as pool:
        with sayings(activity) as saying:
            storm = Storm(activity, pool, saying)
            await storm.rage(CANCELS)
        await eventually(lambda: pool.free == SIZE)
        await activity.ends(connections=pool.size)
        check_invariants(pool)
        stats = pool.stats()
        note(
            f"{stats.cancelled} cancellations",
            f"{storm.answers} answers, none of them foreign, in {loop.time() - began:.1f} s",
        )
        assert stats.cancelled >= CANCELS
        assert storm.answers > CANCELS / 20
        assert storm.gave_up > CANCELS / 100
        # A function whose statement has not been killed within a moment, as may be on a slow
        # machine, is cancelled itself, which aiomysql does not survive.
        expendable = CANCELS / 10 if activity.database.name == "aiomysql" else 0
        assert stats.in_use == 0
        assert stats.discarded <= expendable
        assert stats.size == stats.created - stats.discarded <= SIZE
    assert left_of(pool.name) == []
    await activity.ends(connections=0)


@pytest.mark.parametrize(("at_once", "rounds"), [(1, 60), (SIZE, 10)], ids=["alone", "ten"])
async def test_a_cancelled_statement_is_gone_from_the_database_within_moments(
    activity: Activity, at_once: int, rounds: int, note: Note
) -> None:
    loop = asyncio.get_running_loop()
    gone: list[float] = []
    back: list[float] = []
    async with activity.pool(max_size=SIZE) as pool:
        with sayings(activity) as saying:
            ask = partial(pool.fetch_val, saying("never said", 60))
            for _ in range(rounds):
                statements = [asyncio.create_task(ask()) for _ in range(at_once)]
                await activity.begins(at_once)
                await eventually(lambda: pool.stats().in_use == at_once)
                began = ended = loop.time()
                for statement in statements:
                    statement.cancel()
                await asyncio.wait(statements)
                if not isinstance(activity, Embedded):  # where to look takes longer than to end
                    while await activity.running():  # noqa: ASYNC110 - a server sets no events
                        await asyncio.sleep(0.001)
                    ended = loop.time()
                while pool.free < SIZE:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.001)
                gone.append(1000 * (ended - began))
                back.append(1000 * (loop.time() - ended))
        check_invariants(pool)
        stats = pool.stats()
        assert (stats.cancelled, stats.discarded) == (rounds * at_once, 0)
    for what, times in {
        f"from cancel to none of {at_once} in the database": gone,
        "from there to every permit": back,
    }.items():
        note(what, f"median {quantile(times, 0.5):.1f} ms, p99 {quantile(times, 0.99):.1f} ms")
        assert quantile(times, 0.5) < 500
        assert quantile(times, 0.99) < 5_000
