"""Transactions that the database ends by itself, and blocks whose end fails: nothing by halves."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import Any

import aiomysql
import MySQLdb
import psycopg2
import pytest

from asyncdbpool import Connection, ConnectionPool, PoolError
from asyncdbpool.testing import NEVER, Fake, virtual_time
from support.databases import Database

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
        with pytest.raises(PoolError, match="ended the whole transaction"):
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
        with pytest.raises(PoolError, match="ended the whole transaction"):
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


# ------------------------------------------------------------------------------------------------
# MySQL and MariaDB, which tell of a transaction with some answers only


on_postgres = pytest.mark.parametrize(
    "database",
    [pytest.param(name, marks=pytest.mark.postgres) for name in ("psycopg2", "asyncpg")],
    indirect=True,
)
on_mariadb = pytest.mark.parametrize(
    "database",
    [pytest.param(name, marks=pytest.mark.mariadb) for name in ("MySQLdb", "aiomysql")],
    indirect=True,
)


@pytest.fixture
def unique_items(database: Database, items: str) -> str:
    """The table `items` with the rows 1 to 9, each of them once."""
    database.change(
        f"ALTER TABLE {items} ADD PRIMARY KEY (id)",
        f"INSERT INTO {items} SELECT seq, 'old' FROM seq_1_to_9",
    )
    return items


async def insert_once_more(pool: ConnectionPool, way: str) -> None:
    """Run a statement that fails, and locks a row all the same."""
    sql = "INSERT INTO items VALUES (1, 'new')"
    if way == "one-shot":
        await pool.execute(sql)
    elif way == "block":
        async with pool.transaction() as conn:
            await conn.execute(sql)
    else:
        async with pool.connection() as conn:
            await conn.execute(sql)


@on_mariadb
@pytest.mark.usefixtures("unique_items")
@pytest.mark.parametrize("way", ["one-shot", "block", "borrowed"])
async def test_a_failed_first_statement_leaves_no_lock_behind(
    database: Database, pool: ConnectionPool, way: str
) -> None:
    with pytest.raises(database.module.IntegrityError):
        await insert_once_more(pool, way)
    async with asyncio.timeout(20):
        while pool.stats().in_use:  # noqa: ASYNC110 - it comes back by itself
            await asyncio.sleep(0.001)
    database.change(
        "SET innodb_lock_wait_timeout = 0", "UPDATE items SET name = 'free' WHERE id = 1"
    )
    assert await pool.fetch_val("SELECT name FROM items WHERE id = 1") == "free"
    assert pool.stats().created == 1


@on_mariadb
@pytest.mark.usefixtures("unique_items")
async def test_a_rollback_ends_what_a_failed_first_statement_has_begun(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn:
        for end in (conn.rollback, conn.commit):
            with pytest.raises(database.module.IntegrityError):
                await conn.execute("INSERT INTO items VALUES (1, 'new')")
            await end()
            database.change(
                "SET innodb_lock_wait_timeout = 0", "UPDATE items SET name = 'free' WHERE id = 1"
            )


def broken() -> AbstractContextManager[Any]:
    return pytest.raises(PoolError, match="ended the whole transaction")


async def run_into_a_deadlock(light: Connection | Wrapping, heavy: Connection) -> None:
    """Have the database choose `light` as a deadlock's victim, for it has changed less."""
    await heavy.execute("UPDATE items SET name = 'heavy' WHERE id BETWEEN 2 AND 7")
    await light.execute("UPDATE items SET name = 'light' WHERE id = 1")
    waiting = asyncio.create_task(heavy.fetch_all("SELECT * FROM items FOR UPDATE"))
    await asyncio.sleep(0.05)
    try:
        await light.execute("UPDATE items SET name = 'light' WHERE id = 2")
    finally:
        assert len(await waiting) == 9


@on_mariadb
@pytest.mark.usefixtures("unique_items")
@pytest.mark.parametrize("savepoint", [False, True])
async def test_a_deadlock_breaks_the_block_and_nothing_of_it_is_committed(
    database: Database, pool: ConnectionPool, savepoint: bool
) -> None:
    deadlock = pytest.raises(database.module.OperationalError, match="1213")
    async with pool.connection() as heavy:
        with broken():
            async with pool.transaction() as light:
                await light.execute("INSERT INTO items VALUES (10, 'before')")
                if savepoint:
                    with broken():
                        async with light.transaction():
                            with deadlock:
                                await run_into_a_deadlock(light, heavy)
                else:
                    with deadlock:
                        await run_into_a_deadlock(light, heavy)
                with pytest.raises(PoolError, match="leave the block, or roll back"):
                    await light.execute("INSERT INTO items VALUES (11, 'after')")
                with pytest.raises(PoolError, match="leave the block, or roll back"):
                    await light.fetch_all("SELECT * FROM items")
        await heavy.rollback()
    rows = await pool.fetch_all("SELECT id, name FROM items ORDER BY id")
    assert [tuple(row) for row in rows] == [(number, "old") for number in range(1, 10)]
    assert pool.stats().closed == 0


@on_mariadb
@pytest.mark.usefixtures("unique_items")
async def test_a_deadlock_that_leaves_the_block_is_the_drivers_error(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.connection() as heavy:
        with pytest.raises(database.module.OperationalError, match="1213"):
            async with pool.transaction() as light:
                await run_into_a_deadlock(light, heavy)
        await heavy.commit()
    async with pool.transaction() as conn:
        await conn.execute("UPDATE items SET name = 'next' WHERE id = 1")
    rows = await pool.fetch_all("SELECT name FROM items ORDER BY id LIMIT 2")
    assert [name for (name,) in rows] == ["next", "heavy"]


@on_mariadb
@pytest.mark.usefixtures("unique_items")
async def test_a_statement_that_fails_inside_of_a_block_spares_the_rest_of_it(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.transaction() as conn:
        await conn.execute("INSERT INTO items VALUES (10, 'before')")
        with pytest.raises(database.module.IntegrityError):
            await conn.execute("INSERT INTO items VALUES (1, 'new')")
        await conn.execute("INSERT INTO items VALUES (11, 'after')")
    assert await pool.fetch_val("SELECT count(*) FROM items") == 11


@on_postgres
@pytest.mark.usefixtures("items")
async def test_a_block_that_postgresql_would_answer_with_rollback_says_so(
    database: Database, pool: ConnectionPool
) -> None:
    failed = pytest.raises(database.errors, match="current transaction is aborted")
    with failed:
        async with pool.transaction() as conn:
            await conn.execute("INSERT INTO items VALUES (1, 'lost')")
            with pytest.raises(database.errors, match="nothing"):
                await conn.execute("SELECT nothing")
    assert await pool.fetch_val("SELECT count(*) FROM items") == 0
    assert pool.stats().discarded == 0


@on_postgres
@pytest.mark.usefixtures("items")
async def test_a_savepoint_that_was_rolled_back_leaves_the_rest_to_be_committed(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.transaction() as conn:
        await conn.execute("INSERT INTO items VALUES (1, 'kept')")
        with pytest.raises(database.errors, match="nothing"):
            async with conn.transaction():
                await conn.execute("SELECT nothing")
    assert await pool.fetch_val("SELECT count(*) FROM items") == 1


async def test_a_function_that_swallows_an_error_of_postgresql_is_not_told_that_all_is_well(
    postgresql: Database,
) -> None:
    def swallow(raw: Any) -> None:
        with raw.cursor() as cursor, suppress(psycopg2.Error):
            cursor.execute("SELECT nothing")

    async with postgresql.pool() as pool:
        with pytest.raises(psycopg2.Error, match="current transaction is aborted"):
            await pool.run(swallow)
        assert await pool.fetch_val("SELECT 1") == 1


@on_mariadb
@pytest.mark.usefixtures("unique_items")
@pytest.mark.parametrize("nested", [False, True])
async def test_a_deadlock_that_a_function_swallows_breaks_the_block(
    database: Database, pool: ConnectionPool, nested: bool
) -> None:
    async with pool.connection() as heavy:
        with broken():
            async with pool.transaction() as light:
                await light.execute("INSERT INTO items VALUES (10, 'before')")
                await run_into_a_deadlock(Wrapping(light, database, swallow=True), heavy)
                if nested:
                    async with light.transaction():  # which cannot begin
                        await light.execute("INSERT INTO items VALUES (11, 'after')")
        await heavy.rollback()
    assert await pool.fetch_val("SELECT count(*) FROM items") == 9


@on_mariadb
@pytest.mark.usefixtures("unique_items")
async def test_a_deadlock_inside_of_another_error_breaks_the_block_too(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.connection() as heavy:
        with broken():
            async with pool.transaction() as light:
                await light.execute("INSERT INTO items VALUES (10, 'before')")
                with pytest.raises(RuntimeError, match="wrapped"):
                    await run_into_a_deadlock(Wrapping(light, database), heavy)
                with pytest.raises(PoolError, match="leave the block, or roll back"):
                    await light.execute("INSERT INTO items VALUES (11, 'after')")
        await heavy.rollback()
    assert await pool.fetch_val("SELECT count(*) FROM items") == 9


class Wrapping:
    """A connection whose statements are run by a function that wraps or swallows its errors."""

    def __init__(self, conn: Connection, database: Database, *, swallow: bool = False) -> None:
        self._conn = conn
        self._swallow = swallow
        self._native = database.native

    async def execute(self, sql: str) -> None:
        def blocking(raw: Any) -> None:
            try:
                with closing(raw.cursor()) as cursor:
                    cursor.execute(sql)
            except MySQLdb.Error as error:
                if not self._swallow:
                    raise RuntimeError("wrapped") from error

        async def native(raw: Any) -> None:
            try:
                async with raw.cursor() as cursor:
                    await cursor.execute(sql)
            except aiomysql.Error as error:
                if not self._swallow:
                    raise RuntimeError("wrapped") from error

        await self._conn.run(native if self._native else blocking)


@on_mariadb
async def test_a_block_takes_over_what_a_failed_procedure_has_begun(
    database: Database, items: str
) -> None:
    database.change(
        "DROP PROCEDURE IF EXISTS half",
        "CREATE PROCEDURE half() BEGIN START TRANSACTION;"
        f" INSERT INTO {items} VALUES (1, 'half'); SIGNAL SQLSTATE '45000'; END",
    )
    async with database.pool(autocommit=True, max_size=1) as pool:
        async with pool.connection() as conn:
            with pytest.raises(database.errors):
                await conn.fetch_all("CALL half()")
            with pytest.raises(ZeroDivisionError):
                async with conn.transaction():
                    raise ZeroDivisionError
        with pytest.raises(database.errors):
            await pool.fetch_all("CALL half()")
        assert await pool.fetch_val(f"SELECT count(*) FROM {items}") == 0
        assert pool.stats().discarded == 0
    database.change("DROP PROCEDURE half")
