"""DuckDB: its connections as PEP 249 has them, and what its file knows beyond that."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest

from asyncdbpool.drivers.duckdb import Connection, DuckDBDriver
from asyncdbpool.testing import check_invariants
from support.activity import Activity
from support.databases import Database, expected
from support.lines import insert, on_a_thread, written

WARES = "CREATE TABLE wares (id INTEGER PRIMARY KEY, name VARCHAR(40))"


@pytest.fixture
def database(duckdb_database: Database) -> Database:
    duckdb_database.change(WARES)
    return duckdb_database


# ------------------------------------------------------------------------------------------------
# Cursors


async def test_cursors_of_a_connection_share_its_transaction(database: Database) -> None:
    async with database.opened() as pool, pool.connection() as conn:
        async with conn.transaction():
            writer, reader = conn.cursor(), conn.cursor()
            await writer.execute(insert(1))
            await reader.execute("SELECT id FROM wares")
            assert await reader.fetchall() == [(1,)]
            assert written(database) == []
        assert written(database) == [1]


async def test_a_cursor_that_is_half_read_loses_no_row_to_other_statements(
    database: Database,
) -> None:
    async with database.opened() as pool, pool.connection() as conn:
        first, second = conn.cursor(), conn.cursor()
        await first.execute(database.rows(3000))
        await second.execute(database.rows(3000))
        assert await first.fetchmany(2) == expected(2)
        await conn.execute(insert(1))
        assert await second.fetchone() == (1, "row 1")
        async with conn.transaction():
            assert await conn.fetch_val("SELECT 7") == 7
        assert [row async for row in first] == expected(3000)[2:]
        assert await second.fetchall() == expected(3000)[1:]
        assert await second.fetchall() == []
        assert await second.fetchone() is None


async def test_an_error_among_rows_that_nobody_has_read_waits_for_its_reader(
    database: Database,
) -> None:
    sql = "SELECT CASE WHEN i < 5000 THEN i ELSE error('too many')::INT END FROM range(9000) r(i)"

    def read(raw: Connection) -> tuple[int, int]:
        reader, other = raw.cursor(), raw.cursor()
        reader.execute(sql)
        before = len(reader.fetchmany(10))
        seven = other.execute("SELECT 7").fetchall()[0][0]
        with pytest.raises(duckdb.Error, match="too many"):
            while reader.fetchmany(1000):
                pass
        return before, seven

    at_once = on_a_thread("SET streaming_buffer_size = '1KB'")
    async with database.opened(setup=at_once) as pool, pool.connection() as conn:
        assert await conn.run(read) == (10, 7)
        with pytest.raises(duckdb.Error, match="too many"):
            await conn.fetch_all(sql)


async def test_a_cursor_that_has_no_result_gives_no_rows_of_another(database: Database) -> None:
    def read(raw: Connection) -> list[Any]:
        reader, idle = raw.cursor(), raw.cursor()
        reader.execute(database.rows(3))
        with pytest.raises(duckdb.ParserException):
            idle.execute("SELEC")
        return [idle.fetchone(), idle.fetchall(), reader.fetchall()]

    async with database.opened() as pool, pool.connection() as conn:
        assert await conn.run(read) == [None, [], expected(3)]


async def test_a_cursor_that_is_closed_early_ends_its_result(database: Database) -> None:
    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            async with conn.cursor() as cursor:
                await cursor.execute(database.rows(3000))
                assert await cursor.fetchone() == (1, "row 1")
            await cursor.connection.execute(database.rows(3000))
        assert await pool.fetch_one(database.rows(3)) == (1, "row 1")
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)


def test_forms_of_duckdbs_own_are_there_while_the_result_is_the_cursors() -> None:
    native = SimpleNamespace(
        execute=lambda sql: None,
        df=lambda **options: ["frame", options],
        fetchall=list,
        description=[],
        rowcount=-1,
    )
    connection = Connection(duckdb, native)
    one, other = connection.cursor(), connection.cursor()
    one.execute("SELECT 1")
    assert one.df(date_as_object=True) == ["frame", {"date_as_object": True}]
    other.execute("SELECT 2")
    with pytest.raises(duckdb.InvalidInputException, match="rows only"):
        one.df()
    assert not hasattr(one, "callproc")


# ------------------------------------------------------------------------------------------------
# Connections


async def test_what_duckdbs_connection_has_is_there_and_never_the_connection_itself(
    database: Database,
) -> None:
    async with database.opened() as pool, pool.connection() as conn:
        assert await conn.begin() is conn
        await conn.execute(insert(1))
        assert await conn.run(lambda raw: raw.sql("SELECT id FROM wares").fetchall()) == [(1,)]
        assert await conn.run(lambda raw: raw.execute("SELECT 7").fetchone()) == (7,)
        assert await conn.run(lambda raw: raw.cursor().begin is not None)
        await conn.rollback()
        assert written(database) == []
        with pytest.raises(AttributeError):
            _ = conn.nothing_of_the_kind


@pytest.mark.parametrize(
    "beginning", ["BEGIN", "begin transaction; SELECT 1", "/* now */ START TRANSACTION"]
)
async def test_a_transaction_that_a_statement_has_begun_is_known(
    database: Database, beginning: str
) -> None:
    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.execute(beginning)
            await conn.execute(insert(1))
        assert written(database) == [], "it was rolled back on return"
        async with pool.connection() as conn:
            await conn.run(on_a_thread(beginning, insert(2), "COMMIT"))
        assert written(database) == [2]


async def test_a_prepared_commit_is_known_too(database: Database) -> None:
    def look(raw: Connection) -> list[bool | None]:
        seen = [raw.in_transaction]
        cursor = raw.cursor()
        for sql in ("BEGIN", "SELECT 1 AS begin", "COMMIT"):
            cursor.execute(sql)
            seen.append(raw.in_transaction)
        return seen

    async with database.opened() as pool, pool.connection() as conn:
        assert await conn.run(look) == [False, None, None, None]


async def test_commit_and_rollback_where_nothing_is_open_do_nothing(database: Database) -> None:
    async with database.opened() as pool, pool.connection() as conn:
        await conn.commit()
        await conn.rollback()
        await conn.execute(insert(1))
        await conn.rollback()
        assert written(database) == [1], "a statement commits by itself"


async def test_a_transaction_that_has_failed_is_not_committed_in_silence(
    database: Database,
) -> None:
    async with database.opened(max_size=1) as pool:
        with pytest.raises(duckdb.TransactionException, match="aborted"):
            async with pool.transaction() as conn:
                await conn.execute(insert(1))
                with pytest.raises(duckdb.ConstraintException):
                    await conn.execute(insert(1))
        assert await pool.fetch_all("SELECT id FROM wares") == []
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)


async def test_a_block_inside_of_another_is_refused_and_the_outer_one_goes_on(
    database: Database,
) -> None:
    async with database.opened() as pool:
        async with pool.transaction() as conn:
            with pytest.raises(duckdb.NotSupportedError, match="no savepoints"):
                async with conn.transaction():
                    raise AssertionError
            await conn.execute(insert(1))
        assert written(database) == [1]


# ------------------------------------------------------------------------------------------------
# Cancelling


async def test_a_statement_cancelled_in_a_transaction_takes_it_all(
    database: Database, activity: Activity
) -> None:
    async with activity.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            with pytest.raises(duckdb.TransactionException, match="aborted"):
                async with conn.transaction():
                    await conn.execute(insert(1))
                    task = asyncio.create_task(conn.fetch_val(activity.endless))
                    await activity.begins()
                    task.cancel()
                    await asyncio.wait([task])
            await conn.execute(insert(2))
        assert written(database) == [2]
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)
        check_invariants(pool)


async def test_a_cursor_that_is_half_read_outlives_another_statements_cancel(
    activity: Activity,
) -> None:
    async with activity.pool(max_size=1) as pool, pool.connection() as conn:
        reader = await conn.execute(activity.database.rows(3000))
        assert await reader.fetchone() == (1, "row 1")
        task = asyncio.create_task(conn.fetch_val(activity.endless))
        await activity.begins()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await conn.fetch_val("SELECT 7") == 7
        assert await reader.fetchall() == expected(3000)[1:]


def test_an_interrupt_ends_a_result_that_the_connection_still_has(database: Database) -> None:
    driver = DuckDBDriver(duckdb)
    raw = driver.connect((), database.arguments)
    reader = raw.cursor().execute(database.rows(100_000))
    assert reader.fetchone() == (1, "row 1")
    assert isinstance(driver.interrupted(reader), duckdb.InterruptException)
    raw.native.interrupt()
    with pytest.raises(duckdb.InterruptException):
        reader.fetchall()
    assert raw.cursor().execute("SELECT 7").fetchall() == [(7,)]
    raw.close()


# ------------------------------------------------------------------------------------------------
# Errors


def test_a_database_that_has_to_be_opened_anew_is_a_lost_connection() -> None:
    driver = DuckDBDriver(duckdb)
    for lost in (duckdb.ConnectionException("closed"), duckdb.FatalException("invalidated")):
        assert driver.is_disconnect(lost, None)
    assert not driver.is_disconnect(duckdb.ConstraintException("Duplicate key"), None)
    assert driver.fileno(Connection(duckdb, SimpleNamespace())) is None
