"""What a database is doing, seen past the pool, and statements that keep it busy."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from asyncdbpool import ConnectionPool
from asyncdbpool.drivers import find_driver
from support.access import administrator
from support.databases import Database, Values
from support.servers import Server

__all__ = ["Activity", "Counted", "Embedded", "Served", "duck", "observed", "sqlite_by_odbc"]

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


class Counted(Activity):
    """A database in this process, of which only its driver can tell what runs."""

    def __init__(self, database: Database, endless: str, template: str, steps: int) -> None:
        super().__init__(database, endless)
        self._template = template
        self._steps = steps
        self._count = 0
        self._driver = find_driver(database.module)
        self._connect = self._driver.connect  # type: ignore[attr-defined] # it is a blocking one
        self._driver.connect = self._connect_and_count  # type: ignore[attr-defined] # as above

    def _connect_and_count(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        raw = self._connect(args, kwargs)
        run = raw.run

        def counted(*arguments: Any, **keywords: Any) -> Any:
            self._count += 1
            try:
                return run(*arguments, **keywords)
            finally:
                self._count -= 1

        vars(raw)["run"] = counted
        return raw

    def pool(self, **options: Any) -> ConnectionPool:
        return super().pool(**{"driver": self._driver, **options})

    def saying(self, token: str, seconds: float) -> str:
        return self._template.format(token=token, steps=int(seconds * self._steps))

    async def running(self) -> int:
        return self._count

    def connections(self) -> None:
        return None


def duck(database: Database) -> Activity:
    """Watch DuckDB."""
    return Counted(
        database,
        "SELECT min(i + j) FROM range(1000000000) AS a(i), range(1000000000) AS b(j)"
        " WHERE hash(i + j) IS NOT NULL",
        "SELECT '{token}', count(hash(i))::INT * 0 FROM range({steps}) AS numbers(i)",
        _HASHES,
    )


def sqlite_by_odbc(database: Database) -> Activity:
    """Watch SQLite through its ODBC driver."""
    template = _COUNT.format(limit="WHERE i < {steps}", what="'{token}', min(i)")
    return Counted(database, _COUNT.format(limit="", what="count(*)"), template, _STEPS)


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
def observed(
    database: Database,
    server: Server | None,
    watch: Callable[[Database], Activity] | None = None,
) -> Iterator[Activity]:
    """Watch a database: by its server if it has one, else by what suits its driver."""
    if watch is not None:
        yield watch(database)
    elif server is None:
        yield duck(database) if database.name == "duckdb" else Embedded(database)
    else:
        with administrator(server) as cursor:
            served = Served(database, cursor)
            served.comes_to_rest()
            yield served
