"""pyodbc, with the ODBC drivers of PostgreSQL, MariaDB and SQLite: what its file knows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pyodbc
import pytest

from asyncdbpool import ConnectionPool
from asyncdbpool.drivers.pyodbc import Connection, Cursor, PyODBCDriver
from support.activity import Activity
from support.databases import Database, Values, expected
from support.fixtures import described
from support.ways import on_a_cursor

ON_BOTH = [
    pytest.param("pyodbc", marks=pytest.mark.postgres),
    pytest.param("pyodbc on MariaDB", marks=pytest.mark.mariadb),
]


@pytest.fixture(params=ON_BOTH)
def database(request: pytest.FixtureRequest) -> Database:
    return described(request, request.param)


# ------------------------------------------------------------------------------------------------
# Connections


async def test_everything_of_pyodbc_s_connection_is_there(database: Database) -> None:
    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            product = await conn.getinfo(pyodbc.SQL_DBMS_NAME)
            assert product in {"PostgreSQL", "MariaDB"}
            assert await conn.run(lambda raw: raw.execute("SELECT ?", "7").fetchval()) == "7"
            before = conn.maxwrite
            conn.maxwrite = 4096
            assert await conn.fetch_val("SELECT 1") == 1
            assert conn.maxwrite == 4096
            with pytest.raises(AttributeError):
                _ = conn.nothing_of_the_kind
        async with pool.connection() as conn:
            assert conn.maxwrite == before


async def test_cursors_are_pyodbc_s_own_to_the_eye(database: Database) -> None:
    async with database.opened() as pool, pool.connection() as conn:
        cursor = await conn.execute(database.rows(600))
        assert cursor.description[0][0] == "n"
        assert [row async for row in cursor] == expected(600)
        assert await cursor.execute(database.rows(3)) is cursor
        assert await cursor.fetchval() == 1
        cursor.arraysize = 2
        assert await cursor.fetchmany() == expected(3)[1:]
        await cursor.execute(database.rows(3))
        assert await cursor.fetchmany() == expected(2)


async def test_a_cursor_has_pyodbc_s_own_methods_before_its_first_statement(
    database: Database,
) -> None:
    database.change("CREATE TABLE IF NOT EXISTS shelf (id INTEGER)")
    async with database.opened() as pool, pool.connection() as conn:
        cursor = conn.cursor()
        assert not hasattr(cursor, "callproc")
        assert await cursor.tables(table="shelf") is cursor
        assert (await cursor.fetchone()).table_name == "shelf"


async def test_a_transaction_leaves_autocommit_and_comes_back_to_it(
    database: Database, items: str
) -> None:
    async with database.opened(max_size=1, autocommit=True) as pool:
        async with pool.connection() as conn:
            async with conn.transaction():
                await conn.execute("INSERT INTO items VALUES (1, 'one')")
                async with conn.transaction():
                    await conn.execute("INSERT INTO items VALUES (2, 'two')")
            assert conn.autocommit is True
            with pytest.raises(ZeroDivisionError):
                async with conn.transaction():
                    await conn.execute("INSERT INTO items VALUES (3, 'three')")
                    raise ZeroDivisionError
            await conn.execute("INSERT INTO items VALUES (4, 'four')")
            await conn.rollback()
        rows = await pool.fetch_all("SELECT id FROM items ORDER BY id")
        assert rows == [Values((n,)) for n in (1, 2, 4)]


# ------------------------------------------------------------------------------------------------
# Cancelling


@pytest.mark.parametrize("way", ["one-shot", "function", "cursor"])
async def test_a_statement_is_cancelled_whichever_way_it_runs(
    activity: Activity, way: str
) -> None:
    def fn(raw: Connection) -> Any:
        return raw.execute(activity.endless).fetchval()

    async with activity.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            work: Callable[[], Any] = {
                "one-shot": lambda: conn.fetch_val(activity.endless),
                "function": lambda: conn.run(fn),
                "cursor": lambda: on_a_cursor(pyodbc)(conn, activity.endless),
            }[way]
            task = asyncio.create_task(work())
            await activity.begins()
            task.cancel()
            await asyncio.wait([task])
            await conn.rollback()
            async with asyncio.timeout(20):
                assert await conn.fetch_val("SELECT 7") == 7
        assert (pool.stats().cancelled, pool.stats().discarded) == (1, 0)
    await activity.ends(connections=0)


async def test_sqlite_s_driver_is_cancelled_too(tmp_path: Any) -> None:
    endless = (
        "WITH RECURSIVE n(i) AS (VALUES(0) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    )
    login: dict[str, Any] = {
        "DRIVER": "SQLite3",
        "database": str(tmp_path / "shop.db"),
        "max_size": 1,
    }
    async with ConnectionPool(pyodbc, **login) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await pool.fetch_val(endless)
        assert await pool.fetch_val("SELECT 7") == 7
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)


def test_a_cancel_is_for_the_cursor_that_runs_and_makes_it_unsure_of_its_rows() -> None:
    sent: list[str] = []
    native = SimpleNamespace(cancel=lambda: sent.append("cancel"))
    connection = Connection(SimpleNamespace())
    running, other = Cursor(connection, native), Cursor(connection, native)
    connection.cancel(dict)
    assert sent == []
    connection.run(running, connection.cancel, dict)
    assert sent == ["cancel"]
    driver = PyODBCDriver(pyodbc)
    assert isinstance(driver.interrupted(running), pyodbc.OperationalError)
    assert driver.interrupted(other) is None


def test_a_late_cancel_does_not_free_the_rows_that_a_thread_may_be_reading(
    pyodbc_mariadb: Database,
) -> None:
    database = pyodbc_mariadb  # whose ODBC driver would do so
    driver = PyODBCDriver(pyodbc)
    raw = driver.connect((), database.arguments)
    with closing(raw):
        cancel = driver.canceller(raw, (), database.arguments)
        assert cancel is not None
        cursor = raw.execute(database.rows(600))
        for _ in range(3):
            assert cursor.fetchone() is not None
            raw.run(cursor, cancel, dict)
        driver.absorb_cancel(raw)
        assert len(cursor.fetchall()) == 597


# ------------------------------------------------------------------------------------------------
# Errors


def test_what_may_pass_is_told_from_what_is_wrong_for_good(database: Database) -> None:
    driver = PyODBCDriver(pyodbc)
    for change, transient in (
        ({"port": 1}, True),
        ({"password": "x"}, False),
        ({"database": "nowhere"}, False),
    ):
        with pytest.raises(pyodbc.Error) as caught:
            pyodbc.connect(**{**database.arguments, **change})
        assert driver.is_transient(caught.value) is transient
    assert driver.is_transient(pyodbc.OperationalError("HYT00", "Login timeout expired"))


def test_errors_of_mysql_are_known_by_their_numbers() -> None:
    driver, raw = PyODBCDriver(pyodbc), SimpleNamespace(closed=False)
    text = "[HY000] [ma-3.1.15][10.11.19-MariaDB]Something ({}) (SQLExecDirectW)"
    assert driver.is_disconnect(pyodbc.Error("HY000", text.format(1290)), raw)
    assert driver.has_rolled_back(pyodbc.Error("40001", text.format(1213)))
    assert not driver.is_disconnect(pyodbc.Error("23000", text.format(1062)), raw)
    assert not driver.has_rolled_back(ValueError())
