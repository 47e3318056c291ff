"""What a database is doing, seen past the pool, and statements that keep it busy."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from asyncdbpool import ConnectionPool
from asyncdbpool.drivers.duckdb import DuckDBDriver
from support.access import administrator
from support.databases import Database, Values
from support.servers import Server

__all__ = ["Activity", "Embedded", "observed"]

_COUNT = (
    "WITH RECURSIVE n(i) AS (VALUES(0) UNION ALL SELECT i + 1 FROM n {limit}) SELECT {what} FROM n"
)
_STEPS = 3_000_000  # of that in a second, more or less
_HASHES = 400_000_000  # of DuckDB in a second, more or less


class Activity(ABC):
    """One of the databases, and a view on it that no pool knows of.

    Attributes:
        database: The database.
        endless: A query that takes so long that somebody has to cancel it.
    """

    def __init__(self, database: Database, endless: str) -> None:
        self.database = database
        self.endless = endless

    def pool(self, **options: Any) -> ConnectionPool:
        """Make a pool whose statements can be seen."""
        return self.database.pool(**options)

    @abstractmethod
    def saying(self, token: str, seconds: float) -> str:
        """Return a query that takes its time in the database, and then gives `said(token)`."""

    def said(self, token: str) -> Values:
        """Return the row of such a query where nobody has cancelled it."""
        return Values((token, 0))

    @abstractmethod
    async def running(self) -> int:
        """Count the statements that run."""

    @abstractmethod
    def connections(self) -> int | None:
        """Count what the server counts as connections, where there is a server."""

    async def begins(self, count: int = 1) -> None:
        """Wait until so many statements run; the one before must not be taken for one of them."""
        async with asyncio.timeout(20):
            await asyncio.sleep(0.03)
            while await self.running() < count:  # noqa: ASYNC110 - a database sets no events
                await asyncio.sleep(0.01)

    async def ends(self, connections: int) -> None:
        """Wait until nothing runs, and the server counts so many connections."""
        async with asyncio.timeout(20):
            while not await self._rests_with(connections):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)

    async def _rests_with(self, connections: int) -> bool:
        return not await self.running() and self.connections() in (connections, None)


class Embedded(Activity):
    """SQLite: its connections report progress; how many of them do, is not to be seen."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, _COUNT.format(limit="", what="count(*)"))
        self._ticks = 0

    def pool(self, **options: Any) -> ConnectionPool:
        return super().pool(**{"setup": self._watch, **options})

    def _watch(self, raw: Any) -> None:
        raw.set_progress_handler(self._tick, 10_000)

    def _tick(self) -> None:
        self._ticks += 1

    def saying(self, token: str, seconds: float) -> str:
        limit = f"WHERE i < {int(seconds * _STEPS)}"
        return _COUNT.format(limit=limit, what=f"'{token}', min(i)")

    async def running(self) -> int:
        before = self._ticks
        await asyncio.sleep(0.02)
        return int(self._ticks != before)

    def connections(self) -> None:
        return None

    async def begins(self, count: int = 1) -> None:
        await super().begins(1)


class Counting(DuckDBDriver):
    """A driver that counts the statements that its connections run."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.running = 0

    def connect(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        raw = super().connect(args, kwargs)
        run = raw.run

        def counted(*arguments: Any) -> None:
            self.running += 1
            try:
                run(*arguments)
            finally:
                self.running -= 1

        raw.run = counted
        return raw


class Duck(Activity):
    """DuckDB: its driver counts what runs, since the database tells nobody else."""

    def __init__(self, database: Database) -> None:
        super().__init__(
            database,
            "SELECT min(i + j) FROM range(1000000000) AS a(i), range(1000000000) AS b(j)"
            " WHERE hash(i + j) IS NOT NULL",
        )
        self._driver = Counting(database.module)

    def pool(self, **options: Any) -> ConnectionPool:
        return super().pool(**{"driver": self._driver, **options})

    def saying(self, token: str, seconds: float) -> str:
        steps = int(seconds * _HASHES)
        return f"SELECT '{token}', count(hash(i))::INT * 0 FROM range({steps}) AS numbers(i)"

    async def running(self) -> int:
        return self._driver.running

    def connections(self) -> None:
        return None


class Served(Activity):
    """A server, asked by its administrator."""

    def __init__(self, database: Database, administrator: Any) -> None:
        self._administrator = administrator
        self._user = database.arguments["user"]
        self._postgres = database.server == "postgres"
        self._runs = "state = 'active'" if self._postgres else "command IN ('Query', 'Execute')"
        super().__init__(database, f"SELECT {'pg_sleep' if self._postgres else 'SLEEP'}(60)")

    def saying(self, token: str, seconds: float) -> str:
        if self._postgres:
            return f"SELECT '{token}', 0 FROM pg_sleep({seconds:f})"
        return f"SELECT '{token}', SLEEP({seconds:f})"  # which gives 1 where it is killed

    async def running(self) -> int:
        return self._count(self._runs)

    def comes_to_rest(self) -> None:
        """Wait until nothing runs any more that an earlier test has left behind."""
        give_up_at = time.monotonic() + 20
        while self._count(self._runs) and time.monotonic() < give_up_at:
            time.sleep(0.01)

    def connections(self) -> int:
        return self._count("true")

    def _count(self, condition: str) -> int:
        if self._postgres:
            source = f"pg_stat_activity WHERE usename = '{self._user}'"
        else:
            source = f"information_schema.processlist WHERE user = '{self._user}'"
        self._administrator.execute(f"SELECT count(*) FROM {source} AND {condition}")
        return int(self._administrator.fetchone()[0])


@contextmanager
def observed(database: Database, server: Server | None) -> Iterator[Activity]:
    """Watch a database, and its server if it has one."""
    if server is None:
        yield Duck(database) if database.name == "duckdb" else Embedded(database)
    else:
        with administrator(server) as cursor:
            served = Served(database, cursor)
            served.comes_to_rest()
            yield served
