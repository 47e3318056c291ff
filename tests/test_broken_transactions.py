"""Transactions that the database ends by itself, and blocks whose end fails: nothing by halves."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from asyncdbpool import Connection, ConnectionPool, PoolError
from support.clock import virtual_time
from support.fake import NEVER, Fake

SLOW = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "words.db"
    with sqlite3.connect(file) as raw:
        raw.execute("CREATE TABLE words (word)")
    raw.close()
    return file


def stored(path: Path) -> list[str]:
    raw = sqlite3.connect(path)
    try:
        return [word for (word,) in raw.execute("SELECT word FROM words ORDER BY word")]
    finally:
        raw.close()


async def write_for_ever(conn: Connection) -> None:
    """Run a statement that writes and is cancelled; SQLite rolls the whole transaction back."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await conn.execute(f"INSERT INTO words {SLOW}")


async def test_a_block_whose_transaction_is_gone_commits_nothing(path: Path) -> None:
    async with ConnectionPool(sqlite3, path) as pool, pool.connection() as conn:
        with pytest.raises(PoolError, match="rolled back the whole transaction"):
            async with conn.transaction():
                await conn.execute("INSERT INTO words VALUES ('before')")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2), conn.transaction():
                        await conn.execute(f"INSERT INTO words {SLOW}")
                await conn.execute("INSERT INTO words VALUES ('after')")
        assert stored(path) == []
        async with conn.transaction():
            await conn.execute("INSERT INTO words VALUES ('another block')")
    assert stored(path) == ["another block"]


async def test_the_end_of_such_a_block_fails_even_where_nothing_follows(path: Path) -> None:
    async with ConnectionPool(sqlite3, path) as pool:
        with pytest.raises(PoolError, match="rolled back the whole transaction"):
            async with pool.transaction() as conn:
                await conn.execute("INSERT INTO words VALUES ('before')")
                await write_for_ever(conn)
        await pool.execute("INSERT INTO words VALUES ('next')")
    assert stored(path) == ["next"]


async def test_without_a_block_a_rollback_makes_the_connection_usable_again(path: Path) -> None:
    async with ConnectionPool(sqlite3, path) as pool, pool.connection() as conn:
        await conn.execute("INSERT INTO words VALUES ('before')")
        await write_for_ever(conn)
        with pytest.raises(PoolError, match="roll back"):
            await conn.execute("INSERT INTO words VALUES ('after')")
        with pytest.raises(PoolError, match="roll back"):
            await conn.commit()
        await conn.rollback()
        await conn.execute("INSERT INTO words VALUES ('again')")
        await conn.commit()
    assert stored(path) == ["again"]


async def test_a_cancelled_read_takes_no_transaction_with_it(path: Path) -> None:
    async with ConnectionPool(sqlite3, path) as pool, pool.transaction() as conn:
        await conn.execute("INSERT INTO words VALUES ('before')")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await conn.execute(SLOW)
        await conn.execute("INSERT INTO words VALUES ('after')")
    assert stored(path) == ["after", "before"]


async def test_a_block_whose_commit_fails_is_rolled_back(path: Path) -> None:
    reader = sqlite3.connect(path)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM words").fetchall()
    pool = ConnectionPool(sqlite3, path, connect_kwargs={"timeout": 0})
    async with pool, pool.connection() as conn:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            async with conn.transaction():
                await conn.execute("INSERT INTO words VALUES ('first')")
        reader.rollback()
        reader.close()
        async with conn.transaction():
            await conn.execute("INSERT INTO words VALUES ('second')")
    assert stored(path) == ["second"]


async def test_a_savepoint_that_the_database_has_forgotten_fails_where_it_ends(
    path: Path,
) -> None:
    async with ConnectionPool(sqlite3, path) as pool:
        with pytest.raises(sqlite3.OperationalError, match="no such savepoint"):
            async with pool.transaction() as conn, conn.transaction():
                await conn.commit()
    assert stored(path) == []


@virtual_time
async def test_a_cancelled_block_does_not_wait_for_a_rollback_that_hangs() -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=1, cancel_grace=4) as pool:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), pool.transaction() as conn:
                await conn.execute("INSERT")
                fake.rollback.once(NEVER)
                await asyncio.sleep(60)
        assert loop.time() - began == pytest.approx(0.5, abs=0.1)
        await asyncio.sleep(4.5)
        assert (pool.free, pool.stats().discarded) == (1, 1), "its socket was shut down"
