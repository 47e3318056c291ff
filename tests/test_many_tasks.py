"""Thousands of tasks on few connections, some failing, some cancelled: nothing is left behind."""

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from asyncdbpool import Connection, ConnectionPool
from support.access import connections, eventually, left_of, tell
from support.databases import Database
from support.fixtures import SERVED
from support.servers import MariaDBServer, Server
from support.ways import iterated, on_a_cursor

TASKS, SIZE = 10_000, 10
NATIVE_TASKS, NATIVE_SIZE = 1_000, 5


@dataclass
class Crowd:
    """What the tasks share: the pool, its database, and what became of them."""

    pool: ConnectionPool
    database: Database
    tasks: int
    ends: Counter[str] = field(default_factory=Counter)
    sure: set[int] = field(default_factory=set)  # whose transaction was committed for certain
    unsure: set[int] = field(default_factory=set)  # cancelled in a transaction
    failed: set[int] = field(default_factory=set)  # whose transaction failed for certain
    # Seeded by pytest-randomly, so its `--randomly-seed` brings a run back.
    rng: random.Random = field(default_factory=lambda: random.Random(random.getrandbits(32)))  # noqa: S311

    async def one_shot(self, number: int, doom: Callable[[], None]) -> None:
        doom()
        assert await self.pool.fetch_val(self.sql("SELECT ? + 1"), (number,)) == number + 1

    async def lease(self, number: int, doom: Callable[[], None]) -> None:
        async with self.pool.connection() as conn:
            doom()
            row = await on_a_cursor(self.pool.module)(conn, f"SELECT {number} + 2")
            assert row[0] == number + 2
            await asyncio.sleep(0)
            rows = await iterated(self.pool.module)(conn, "SELECT n FROM digits ORDER BY n")
            assert [row[0] for row in rows] == list(range(10))

    async def by_hand(self, number: int, doom: Callable[[], None]) -> None:
        conn = await self.pool.get()
        try:
            doom()
            assert await conn.fetch_val(self.sql("SELECT ? + 3"), (number,)) == number + 3
        finally:
            await self.pool.put(conn)

    async def failing(self, number: int, doom: Callable[[], None]) -> None:
        doom()
        with pytest.raises(self.database.errors):
            await self.pool.execute(f"INSERT INTO nowhere VALUES ({number})")

    async def transfer(self, number: int, doom: Callable[[], None]) -> None:
        """Two rows or none: what a transaction is for."""
        try:
            async with self.pool.transaction() as conn:
                doom()
                await self.insert(conn, number)
                await self.insert(conn, number)
        except asyncio.CancelledError:
            self.unsure.add(number)
            raise
        self.sure.add(number)

    async def broken_transfer(self, number: int, doom: Callable[[], None]) -> None:
        self.failed.add(number)
        with pytest.raises(self.database.errors):
            async with self.pool.transaction() as conn:
                doom()
                await self.insert(conn, number)
                await conn.execute("INSERT INTO nowhere VALUES (1)")

    async def forgotten_commit(self, number: int, doom: Callable[[], None]) -> None:
        self.failed.add(number)
        async with self.pool.connection() as conn:
            doom()
            if self.database.name == "asyncpg":  # where each statement is committed by itself
                await conn.transaction().start()
            await self.insert(conn, number)

    async def insert(self, conn: Connection, number: int) -> None:
        await conn.execute(f"INSERT INTO ledger VALUES ({number})")

    def sql(self, text: str) -> str:
        return self.database.sql(text)

    async def live(self, number: int) -> None:
        """One task's life."""
        rng, loop, task = self.rng, asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def cancel_soon() -> None:
            loop.call_later(rng.uniform(0, 0.003), task.cancel)

        lives: list[tuple[Callable[[int, Callable[[], None]], Any], int]] = [
            (self.one_shot, 45),
            (self.lease, 20),
            (self.by_hand, 10),
            (self.failing, 10),
            (self.transfer, 9),
            (self.broken_transfer, 3),
            (self.forgotten_commit, 3),
        ]
        way = rng.choices([life for life, _ in lives], [weight for _, weight in lives])[0]
        fate = rng.random()
        if fate < 0.1:
            loop.call_later(rng.uniform(0, 1), task.cancel)  # in the queue, most likely
        try:
            await way(number, cancel_soon if fate > 0.9 else lambda: None)
        except asyncio.CancelledError:
            self.ends["cancelled"] += 1
        else:
            self.ends[way.__name__] += 1

    async def run(self) -> None:
        watcher = asyncio.create_task(self.watch())
        async with asyncio.TaskGroup() as group:
            for number in range(self.tasks):
                group.create_task(self.live(number))
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher

    async def watch(self) -> None:
        while True:
            self.check()
            await asyncio.sleep(0.001)

    def check(self) -> None:
        stats = self.pool.stats()
        assert stats.size == stats.idle + stats.in_use + stats.connecting
        assert stats.size <= self.pool.max_size
        assert 0 <= self.pool.free <= self.pool.max_size

    async def verify(self) -> None:
        """All is quiet, and the database holds what it should."""
        await eventually(lambda: self.pool.stats().in_use == self.pool.stats().connecting == 0)
        self.check()
        stats = self.pool.stats()
        assert (stats.waiting, stats.timeouts, stats.reclaimed) == (0, 0, 0)
        assert stats.idle == stats.size
        assert stats.created - stats.closed == stats.size
        assert self.pool.free == self.pool.max_size
        assert self.pool.dump() == []
        assert sum(self.ends.values()) == self.tasks
        assert self.ends["cancelled"] > self.tasks / 100
        assert len(self.ends) == 8, f"every way of life came to its end: {self.ends}"

        for _ in range(2):  # the second lease sees what the first one saw
            conns = [await self.pool.get() for _ in range(self.pool.max_size)]
            for conn in conns:
                rows = await conn.fetch_all("SELECT task, count(*) FROM ledger GROUP BY task")
                written = dict(rows)
                assert self.sure <= set(written) <= self.sure | self.unsure
                assert not self.failed & set(written)
                assert set(written.values()) == {2}
            for conn in conns:
                await self.pool.put(conn)


@asynccontextmanager
async def crowd(database: Database, **options: Any) -> AsyncIterator[Crowd]:
    size, tasks = (NATIVE_SIZE, NATIVE_TASKS) if database.native else (SIZE, TASKS)
    async with database.pool(max_size=size, timeout=300, **options) as pool:
        found = Crowd(pool, database, tasks)
        await found.run()
        await found.verify()
        yield found
        found.check()
    assert left_of(pool.name) == []
    assert pool.stats().size == 0


@contextmanager
def tables(server: Server) -> Iterator[None]:
    engine = " ENGINE=InnoDB" if isinstance(server, MariaDBServer) else ""
    schema = server.database if isinstance(server, MariaDBServer) else "public"
    make_tables = [
        f"CREATE TABLE {schema}.ledger (task integer){engine}",
        f"CREATE TABLE {schema}.digits (n integer){engine}",
        f"INSERT INTO {schema}.digits VALUES {', '.join(f'({n})' for n in range(10))}",
    ]
    if not engine:
        make_tables.append("GRANT ALL ON ledger, digits TO PUBLIC")
    for sql in make_tables:
        tell(server, sql)
    yield
    tell(server, f"DROP TABLE {schema}.ledger, {schema}.digits")


@pytest.mark.proof
@pytest.mark.parametrize("database", SERVED, indirect=True)
async def test_thousands_of_tasks_share_few_connections_to_a_server(
    server: Server, database: Database
) -> None:
    with tables(server):
        async with crowd(database) as found:
            await eventually(lambda: connections(server) == found.pool.size)
        await eventually(lambda: connections(server) == 0)


def prepare_file(raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA journal_mode=WAL")
    raw.execute("PRAGMA synchronous=OFF")


@pytest.mark.proof
async def test_thousands_of_tasks_share_few_connections_to_a_file(sqlite: Database) -> None:
    file = Path(sqlite.arguments["database"])
    raw = sqlite3.connect(file)
    prepare_file(raw)
    raw.execute("CREATE TABLE ledger (task integer)")
    raw.execute("CREATE TABLE digits (n integer)")
    raw.executemany("INSERT INTO digits VALUES (?)", [(n,) for n in range(10)])
    raw.commit()
    raw.close()
    async with crowd(
        sqlite,
        isolation_level="IMMEDIATE",  # a deferred one may find the lock taken half-way
        setup=prepare_file,
        connect_kwargs={"timeout": 60.0},
    ):
        pass
    # The last connection to close removes the log. Where two close at once each takes the other
    # for the last, so one more is opened: it would not be the last if one of the pool's were left.
    last = sqlite3.connect(file)
    last.execute("SELECT count(*) FROM ledger").fetchone()
    last.close()
    assert not file.with_name(f"{file.name}-wal").exists()
