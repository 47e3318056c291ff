"""Ten thousand tasks on ten connections, some failing, some cancelled: nothing is left behind."""

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import MySQLdb
import psycopg2
import pytest

from asyncdbpool import Connection, ConnectionPool
from support.access import connections, eventually, login, tell, threads
from support.servers import MariaDBServer, PostgresServer, Server

TASKS = 10_000
SIZE = 10


@dataclass
class Crowd:
    """What the tasks share: the pool, the driver's placeholder, and what became of them."""

    pool: ConnectionPool
    mark: str
    ends: Counter[str] = field(default_factory=Counter)
    sure: set[int] = field(default_factory=set)  # whose transaction was committed for certain
    unsure: set[int] = field(default_factory=set)  # cancelled in a transaction
    failed: set[int] = field(default_factory=set)  # whose transaction failed for certain
    # Seeded by pytest-randomly, so its `--randomly-seed` brings a run back.
    rng: random.Random = field(default_factory=lambda: random.Random(random.getrandbits(32)))  # noqa: S311

    async def one_shot(self, number: int, doom: Callable[[], None]) -> None:
        doom()
        assert await self.pool.fetch_val(f"SELECT {self.mark} + 1", (number,)) == number + 1

    async def lease(self, number: int, doom: Callable[[], None]) -> None:
        async with self.pool.connection() as conn:
            doom()
            cursor = await conn.execute(f"SELECT {self.mark} + 2", (number,))
            assert (await cursor.fetchone())[0] == number + 2
            await asyncio.sleep(0)
            rows = [row async for row in await conn.execute("SELECT n FROM digits ORDER BY n")]
            assert [row[0] for row in rows] == list(range(10))

    async def by_hand(self, number: int, doom: Callable[[], None]) -> None:
        conn = await self.pool.get()
        try:
            doom()
            assert await conn.fetch_val(f"SELECT {self.mark} + 3", (number,)) == number + 3
        finally:
            await self.pool.put(conn)

    async def failing(self, number: int, doom: Callable[[], None]) -> None:
        doom()
        with pytest.raises(self.pool.module.Error):
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
        with pytest.raises(self.pool.module.Error):
            async with self.pool.transaction() as conn:
                doom()
                await self.insert(conn, number)
                await conn.execute("INSERT INTO nowhere VALUES (1)")

    async def forgotten_commit(self, number: int, doom: Callable[[], None]) -> None:
        self.failed.add(number)
        async with self.pool.connection() as conn:
            doom()
            await self.insert(conn, number)

    async def insert(self, conn: Connection, number: int) -> None:
        await conn.execute(f"INSERT INTO ledger VALUES ({self.mark})", (number,))

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
            for number in range(TASKS):
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
        assert stats.size <= SIZE
        assert 0 <= self.pool.free <= SIZE

    async def verify(self) -> None:
        """All is quiet, and the database holds what it should."""
        await eventually(lambda: self.pool.stats().in_use == self.pool.stats().connecting == 0)
        self.check()
        stats = self.pool.stats()
        assert (stats.waiting, stats.timeouts, stats.reclaimed) == (0, 0, 0)
        assert stats.idle == stats.size
        assert stats.created - stats.closed == stats.size
        assert self.pool.free == SIZE
        assert self.pool.dump() == []
        assert sum(self.ends.values()) == TASKS
        assert self.ends["cancelled"] > TASKS / 100
        assert len(self.ends) == 8, f"every way of life came to its end: {self.ends}"

        for _ in range(2):  # the second lease sees what the first one saw
            conns = [await self.pool.get() for _ in range(SIZE)]
            for conn in conns:
                rows = await conn.fetch_all("SELECT task, count(*) FROM ledger GROUP BY task")
                written = dict(rows)
                assert self.sure <= set(written) <= self.sure | self.unsure
                assert not self.failed & set(written)
                assert set(written.values()) == {2}
            for conn in conns:
                await self.pool.put(conn)


@asynccontextmanager
async def crowd(module: Any, mark: str, /, **kwargs: Any) -> AsyncIterator[Crowd]:
    pool = ConnectionPool(module, max_size=SIZE, timeout=300, **kwargs)
    async with pool:
        found = Crowd(pool, mark)
        await found.run()
        await found.verify()
        yield found
        found.check()
    assert threads(pool.name) == []
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


async def on_server(server: Server, module: Any) -> None:
    with tables(server):
        async with crowd(module, "%s", **login(server)) as found:
            await eventually(lambda: connections(server) == found.pool.size)
        await eventually(lambda: connections(server) == 0)


async def test_ten_thousand_tasks_share_ten_connections_to_postgres(
    postgres: PostgresServer,
) -> None:
    await on_server(postgres, psycopg2)


async def test_ten_thousand_tasks_share_ten_connections_to_mariadb(mariadb: MariaDBServer) -> None:
    await on_server(mariadb, MySQLdb)


def prepare_file(raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA journal_mode=WAL")
    raw.execute("PRAGMA synchronous=OFF")


async def test_ten_thousand_tasks_share_ten_connections_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "crowd.db"
    raw = sqlite3.connect(file)
    prepare_file(raw)
    raw.execute("CREATE TABLE ledger (task integer)")
    raw.execute("CREATE TABLE digits (n integer)")
    raw.executemany("INSERT INTO digits VALUES (?)", [(n,) for n in range(10)])
    raw.commit()
    raw.close()
    async with crowd(
        sqlite3,
        "?",
        database=file,
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
    assert not (tmp_path / "crowd.db-wal").exists()
