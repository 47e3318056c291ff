"""ADBC, with its drivers for SQLite and PostgreSQL: what its file knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi
import adbc_driver_sqlite.dbapi
import pyarrow
import pytest

from asyncdbpool import ConnectionPool, PoolError, PoolTimeout
from asyncdbpool.drivers.adbc import ADBCPostgreSQLDriver, ADBCSQLiteDriver
from support.activity import Activity
from support.cancelling import cancelled_at_any_moment, cancelled_without_an_answer
from support.databases import Database, expected
from support.lines import written
from support.servers import PostgresServer, Server
from support.subjects import adbc_postgres, adbc_sqlite

Error = adbc_driver_postgresql.dbapi.Error
NotSupportedError = adbc_driver_postgresql.dbapi.NotSupportedError

ON_POSTGRES = pytest.mark.postgres

BATCHES = {"adbc_stmt_kwargs": {"adbc.postgresql.batch_size_hint_bytes": "5000"}}
"""A cursor that has to read its rows from the connection many times."""


@pytest.fixture
def database(postgres: PostgresServer) -> Database:
    return adbc_postgres.SUBJECT.database(postgres)


@pytest.fixture
def wares(database: Database) -> None:
    columns = "id INTEGER PRIMARY KEY, name VARCHAR(40)"
    database.change(f"CREATE TABLE IF NOT EXISTS wares ({columns})", "DELETE FROM wares")


@pytest.fixture
async def pool(database: Database, wares: None) -> AsyncIterator[ConnectionPool]:
    async with database.opened(max_size=1, timeout=5) as pool:
        yield pool


@pytest.fixture
async def sqlite_pool(sqlite_file: Database) -> AsyncIterator[ConnectionPool]:
    async with sqlite_file.opened(max_size=1, timeout=5) as pool:
        yield pool


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Database:
    database = adbc_sqlite.SUBJECT.database(tmp_path)
    database.change("CREATE TABLE wares (id INTEGER PRIMARY KEY, name VARCHAR(40))")
    return database


# ------------------------------------------------------------------------------------------------
# Rows of PostgreSQL


@ON_POSTGRES
async def test_cursors_that_are_half_read_keep_their_own_rows(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn:
        first, second = conn.cursor(**BATCHES), conn.cursor(**BATCHES)
        await first.execute(database.rows(5000))
        assert await first.fetchone() == (1, "row 1")
        await second.execute("SELECT n, 'other' FROM generate_series(1, 5000) AS n")
        assert await second.fetchmany(2) == [(1, "other"), (2, "other")]
        assert [row async for row in first] == expected(5000)[1:]
        assert await second.fetchall() == [(n, "other") for n in range(3, 5001)]
        await first.execute(database.rows(5000))
        assert await first.fetchone() == (1, "row 1")
        await conn.commit()
        assert await first.fetchall() == expected(5000)[1:]


@ON_POSTGRES
async def test_in_a_function_they_do_so_too(database: Database, pool: ConnectionPool) -> None:
    def fn(raw: Any) -> None:
        cursor = raw.cursor(**BATCHES)
        assert cursor.rownumber is None
        cursor.execute(database.rows(5000))
        assert [cursor.fetchone(), cursor.rownumber] == [(1, "row 1"), 1]
        assert raw.adbc_get_table_schema("wares").names == ["id", "name"]
        assert [cursor.fetchone(), cursor.rownumber] == [(2, "row 2"), 2]
        assert cursor.fetchmany() == [(3, "row 3")]
        cursor.arraysize = 2
        assert cursor.fetchmany() == expected(5)[3:]
        assert list(cursor) == expected(5000)[5:]
        assert (cursor.fetchone(), cursor.fetchmany(7), cursor.fetchall()) == (None, [], [])
        with pytest.raises(StopIteration):
            next(cursor)
        cursor.setinputsizes([None])
        assert cursor.execute(database.rows(3)) is cursor
        assert cursor.fetchmany(2) == expected(2)
        with raw.execute("SELECT $1::int", (7,)) as other:
            assert other.next() == (7,)
        assert cursor.fetchall() == expected(3)[2:]
        cursor.adbc_cancel()
        cursor.close()

    await pool.run(fn)


@ON_POSTGRES
async def test_an_error_among_the_rows_taken_along_comes_in_its_place(
    pool: ConnectionPool,
) -> None:
    sql = "SELECT 10 / (4000 - n) FROM generate_series(1, 5000) AS n"
    async with pool.connection() as conn:
        cursor = conn.cursor(**BATCHES)
        await cursor.execute(sql)
        assert await cursor.fetchone() == (0,)
        with pytest.raises(Error, match="aborted"):
            await conn.fetch_val("SELECT 1")
        with pytest.raises(Error, match="division by zero"):
            await cursor.fetchall()
        await conn.rollback()
        assert await conn.fetch_val("SELECT 1") == 1


@ON_POSTGRES
async def test_arrow_tables_and_data_frames_hold_all_rows(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn, conn.cursor() as cursor:
        await cursor.execute(database.rows(600))
        table = await cursor.fetch_arrow_table()
        assert isinstance(table, pyarrow.Table)
        assert table.to_pylist()[599] == {"n": 600, "label": "row 600"}
        await cursor.execute(database.rows(600))
        assert (await cursor.fetchallarrow()).num_rows == 600
        await cursor.execute(database.rows(600))
        assert len(await cursor.fetch_df()) == 600
        await cursor.execute(database.rows(600))
        assert await conn.fetch_val("SELECT 1") == 1
        with pytest.raises(NotSupportedError, match="as rows only"):
            await cursor.fetch_arrow_table()
        assert len(await cursor.fetchall()) == 600


@ON_POSTGRES
async def test_a_stream_that_was_handed_out_must_end_before_another_statement(
    database: Database, pool: ConnectionPool
) -> None:
    def fn(raw: Any) -> int:
        cursor = raw.cursor(**BATCHES)
        stream = cursor.execute(database.rows(5000)).fetch_record_batch()
        first: int = stream.read_next_batch().num_rows
        with raw.cursor() as other:
            with pytest.raises(NotSupportedError, match="close its cursor first"):
                other.execute("SELECT 1")
            rest: int = stream.read_all().num_rows
            cursor.close()
            assert other.execute("SELECT 1").fetchall() == [(1,)]
        return first + rest

    async with pool.connection() as conn:
        assert await conn.run(fn) == 5000


@ON_POSTGRES
async def test_a_word_that_copy_does_not_know_runs_without_it(pool: ConnectionPool) -> None:
    async with pool.connection() as conn:
        with pytest.raises(Error, match="SHOW"):
            await conn.fetch_val("SHOW server_version_num")
        await conn.rollback()
        options = {"adbc.postgresql.use_copy": "false"}
        async with conn.cursor(adbc_stmt_kwargs=options) as cursor:
            await cursor.execute("SHOW server_version_num")
            assert len(await cursor.fetchall()) == 1


# ------------------------------------------------------------------------------------------------
# Transactions of PostgreSQL


@ON_POSTGRES
async def test_autocommit_is_an_attribute_and_the_next_borrower_finds_it_as_it_was(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn:
        assert conn.autocommit is False
        conn.autocommit = True
        await conn.execute(database.inserts(1))
        assert written(database) == [1]
        with pytest.raises(Error):
            async with conn.transaction():
                await conn.execute(database.inserts(2))
                await conn.execute(database.inserts(1))
    async with pool.connection() as conn:
        assert conn.autocommit is False
        await conn.execute(database.inserts(3))
    assert written(database) == [1]


@ON_POSTGRES
async def test_the_schema_that_a_borrower_has_chosen_ends_with_its_lease(
    pool: ConnectionPool,
) -> None:
    async with pool.connection() as conn:
        before = await conn.run(lambda raw: raw.adbc_current_db_schema)
        with pytest.raises(PoolError, match="adbc_current_db_schema asks the server"):
            _ = conn.adbc_current_db_schema
        conn.adbc_current_db_schema = "information_schema"
        assert await conn.fetch_val("SELECT current_schema()") == "information_schema"
    assert await pool.fetch_val("SELECT current_schema()") == before


@ON_POSTGRES
async def test_a_failure_that_nobody_minded_is_not_taken_for_a_commit(
    database: Database, pool: ConnectionPool
) -> None:
    with pytest.raises(Error, match="aborted"):
        async with pool.transaction() as conn:
            await conn.execute(database.inserts(1))
            with pytest.raises(Error):
                await conn.execute(database.inserts(1))
    assert written(database) == []


@ON_POSTGRES
async def test_a_cursor_has_adbc_s_own_methods_before_its_first_statement(
    database: Database, pool: ConnectionPool
) -> None:
    table = pyarrow.table({"id": pyarrow.array([1, 2], pyarrow.int32()), "name": ["a", "b"]})
    async with pool.transaction() as conn:
        assert await conn.cursor().adbc_ingest("wares", table, mode="append") == 2
    assert written(database) == [1, 2]


@ON_POSTGRES
async def test_what_was_ingested_is_rolled_back_with_the_rest(
    database: Database, pool: ConnectionPool
) -> None:
    table = pyarrow.table({"id": pyarrow.array([1, 2], pyarrow.int32()), "name": ["a", "b"]})

    def fn(raw: Any) -> int:
        with raw.cursor() as cursor:
            count: int = cursor.adbc_ingest("wares", table, mode="append")
            return count

    assert await pool.run(fn) == 2
    assert written(database) == [1, 2]
    async with pool.connection() as conn:
        await conn.execute("DELETE FROM wares")
        assert await conn.run(fn) == 2
        await conn.rollback()
        await conn.execute("DELETE FROM wares")
        await conn.commit()
        assert await conn.run(fn) == 2
    assert written(database) == []


# ------------------------------------------------------------------------------------------------
# Connecting to PostgreSQL


@ON_POSTGRES
def test_a_connection_closes_with_its_block(database: Database) -> None:
    driver = ADBCPostgreSQLDriver(database.module)
    with driver.connect((), database.arguments) as raw, raw.execute("SELECT 1") as cursor:
        assert cursor.fetchall() == [(1,)]
    with pytest.raises(Error):
        raw.execute("SELECT 1")


@ON_POSTGRES
async def test_libpq_s_keywords_add_to_a_uri_or_a_string(database: Database) -> None:
    async def told(*args: Any, **kwargs: Any) -> Any:
        module = adbc_driver_postgresql.dbapi
        async with ConnectionPool(module, *args, **{**database.arguments, **kwargs}) as pool:
            return await pool.fetch_val("SELECT current_setting('application_name')")

    hostile = r"it's a \ 100% & = ?"
    for uri in ((), ("application_name=other",), ("postgresql://?application_name=other",)):
        assert await told(*uri, application_name=hostile) == hostile
    assert await told(uri="postgresql:///", application_name=hostile, autocommit=True) == hostile
    for uri in ((), ("postgresql:///",)):
        assert await told(*uri, application_name=None) != "None"


@ON_POSTGRES
def test_what_may_pass_is_told_from_what_is_wrong_for_good(database: Database) -> None:
    driver = ADBCPostgreSQLDriver(database.module)
    for change, transient in (
        ({"port": 1}, True),
        ({"password": "x"}, False),
        ({"database": "nowhere"}, False),
    ):
        with pytest.raises(Error) as caught:
            driver.connect((), {**database.arguments, **change})
        assert driver.is_transient(caught.value) is transient


# ------------------------------------------------------------------------------------------------
# Cancelling in PostgreSQL


@ON_POSTGRES
async def test_a_cancel_at_any_moment_hits_its_statement_or_none(activity: Activity) -> None:
    async with activity.pool(max_size=1) as pool:
        await cancelled_at_any_moment(activity, pool, 60)


@ON_POSTGRES
@pytest.mark.realtime
async def test_a_cancel_that_the_server_does_not_answer_does_not_stop_the_loop(
    activity: Activity, server: Server
) -> None:
    await cancelled_without_an_answer(activity, server, hung_up=False)


# ------------------------------------------------------------------------------------------------
# SQLite


async def test_in_autocommit_blocks_begin_and_end_what_statements_have_begun(
    sqlite_file: Database,
) -> None:
    async with sqlite_file.opened(max_size=1, autocommit=True) as pool:
        async with pool.connection() as conn:
            await conn.execute("INSERT INTO wares VALUES (1, 'one')")
            await conn.rollback()
            assert written(sqlite_file) == [1]
            await conn.execute("BEGIN")
            await conn.execute("INSERT INTO wares VALUES (2, 'two')")
            async with conn.transaction():
                await conn.execute("INSERT INTO wares VALUES (3, 'three')")
            assert written(sqlite_file) == [1, 2, 3]
            with pytest.raises(ZeroDivisionError):
                async with conn.transaction():
                    await conn.execute("INSERT INTO wares VALUES (4, 'four')")
                    raise ZeroDivisionError
            await conn.execute("BEGIN")
            await conn.execute("INSERT INTO wares VALUES (5, 'five')")
        assert await pool.fetch_val("SELECT count(*) FROM wares") == 3
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)


async def test_a_rollback_after_a_transaction_that_a_statement_ended_begins_the_next(
    sqlite_file: Database, sqlite_pool: ConnectionPool
) -> None:
    async with sqlite_pool.connection() as conn:
        await conn.execute("INSERT INTO wares VALUES (1, 'one')")
        await conn.execute("COMMIT")
        await conn.rollback()
        await conn.execute("INSERT INTO wares VALUES (2, 'two')")
        await conn.rollback()
    assert written(sqlite_file) == [1]
    assert sqlite_pool.stats().discarded == 0


async def test_a_full_database_ends_the_block_that_filled_it(
    sqlite_file: Database, sqlite_pool: ConnectionPool
) -> None:
    async with sqlite_pool.connection() as conn:
        await conn.fetch_val("PRAGMA max_page_count = 10")
        with pytest.raises(PoolError, match="has ended the whole transaction"):
            async with conn.transaction():
                await conn.execute("INSERT INTO wares VALUES (1, 'one')")
                with pytest.raises(Error, match="full"):
                    await conn.execute("INSERT INTO wares SELECT 2, zeroblob(100000)")
                await conn.execute("INSERT INTO wares VALUES (3, 'three')")
        await conn.rollback()
        await conn.execute("INSERT INTO wares VALUES (4, 'four')")
        await conn.commit()
    assert written(sqlite_file) == [4]


async def test_a_commit_that_fails_says_so(sqlite_file: Database) -> None:
    async with (
        sqlite_file.opened(max_size=2, autocommit=True) as pool,
        pool.connection() as reader,
        pool.connection() as writer,
    ):
        await reader.execute("BEGIN")
        assert await reader.fetch_all("SELECT id FROM wares") == []
        await writer.execute("BEGIN")
        await writer.execute("INSERT INTO wares VALUES (1, 'one')")
        with pytest.raises(Error, match="locked"):
            await writer.commit()
        await reader.rollback()
        await writer.commit()
    assert written(sqlite_file) == [1]


async def test_an_error_among_the_rows_loses_none_before_it(sqlite_pool: ConnectionPool) -> None:
    sql = (
        "WITH RECURSIVE series(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM series LIMIT 3000)"
        " SELECT CASE WHEN n < 2500 THEN n ELSE abs(-9223372036854775808) END FROM series"
    )
    seen = []
    async with sqlite_pool.connection() as conn, conn.cursor() as cursor:
        await cursor.execute(sql)
        with pytest.raises(OSError, match="overflow"):  # as pyarrow has it
            while row := await cursor.fetchone():
                seen.append(row)
    assert seen == [(n,) for n in range(1, 2049)], "a batch has 1024"


async def test_what_cannot_be_cancelled_keeps_its_connection_until_its_end(
    sqlite_file: Database,
) -> None:
    slow = (
        "WITH RECURSIVE n(i) AS (VALUES(0) UNION ALL SELECT i + 1 FROM n LIMIT 5000000)"
        " SELECT count(*) FROM n"
    )
    patient = {"timeout": 60, "cancel_grace": 60}  # a slow machine computes for long
    async with sqlite_file.opened(max_size=1, **patient) as pool:
        task = asyncio.create_task(pool.fetch_val(slow))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
        assert task.cancelled()
        with pytest.raises(PoolTimeout):
            await pool.get(timeout=0.01)
        assert await pool.fetch_val("SELECT 7") == 7
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)


async def test_a_closed_cursor_says_so_by_an_error_of_adbc_s(sqlite_pool: ConnectionPool) -> None:
    async with sqlite_pool.connection() as conn:
        cursor = await conn.execute("SELECT 1")
        await cursor.close()
        with pytest.raises(adbc_driver_sqlite.dbapi.InterfaceError, match="closed"):
            await cursor.fetchone()


def test_sqlite_tells_by_words_what_has_rolled_back() -> None:
    driver = ADBCSQLiteDriver(adbc_driver_sqlite.dbapi)
    assert driver.has_rolled_back(OSError("IO: Failed to step query: disk I/O error"))
    assert not driver.has_rolled_back(ValueError("INTEGRITY: UNIQUE constraint failed"))
