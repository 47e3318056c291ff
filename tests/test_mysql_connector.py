"""MySQL Connector/Python: what its file knows beyond what every driver is tested for."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing, suppress
from typing import Any

import mysql.connector as module
import pytest

from asyncdbpool import PoolError
from asyncdbpool.drivers.mysql_connector import MySQLConnectorDriver
from support.access import backend, kill, tell
from support.activity import Activity
from support.databases import Database, expected
from support.servers import MariaDBServer
from support.subjects.mysql_connector import SUBJECT

WARES = "CREATE OR REPLACE TABLE goods (id INTEGER PRIMARY KEY) ENGINE=InnoDB"


@pytest.fixture
def database(mariadb: MariaDBServer) -> Database:
    return SUBJECT.database(mariadb)


# ------------------------------------------------------------------------------------------------
# Connecting


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_pure": False}, "only .* pure Python"),
        ({"pool_name": "own"}, "own pool"),
        ({"pool_size": 2}, "own pool"),
        ({"pool_reset_session": False}, "own pool"),
    ],
)
async def test_neither_the_modules_own_pool_nor_its_extension_can_be_used(
    database: Database, options: Any, words: str
) -> None:
    async with database.opened(max_size=1, connect_kwargs=options) as pool:
        with pytest.raises(module.NotSupportedError, match=words):
            await pool.fetch_val("SELECT 1")
        assert (pool.size, pool.stats().created) == (0, 0)


# ------------------------------------------------------------------------------------------------
# Transactions


async def test_the_flag_comes_with_rows_too(database: Database) -> None:
    database.change(WARES)
    driver = MySQLConnectorDriver(module)

    def look(raw: Any) -> list[bool | None]:
        found = [driver.in_transaction(raw)]
        with raw.cursor() as cursor:
            cursor.execute("SELECT id FROM goods")
            return [*found, driver.in_transaction(raw), driver.learn(raw)]

    async with database.opened(max_size=1) as pool, pool.connection() as conn:
        assert await conn.run(look) == [False, True, True]
    async with database.opened(max_size=1, autocommit=True) as pool, pool.connection() as conn:
        assert await conn.run(look) == [False, False, False]
        await conn.execute("BEGIN")
        assert await conn.run(look) == [True, True, True]


async def test_a_block_is_a_transaction_also_where_a_statement_has_set_autocommit(
    database: Database,
) -> None:
    database.change(WARES)
    async with database.opened(max_size=2) as pool, pool.connection() as conn:
        await conn.execute("SET autocommit = 1")
        with pytest.raises(ZeroDivisionError):
            async with conn.transaction():
                await conn.execute("INSERT INTO goods VALUES (1)")
                raise ZeroDivisionError
        assert await pool.fetch_all("SELECT id FROM goods") == []


# ------------------------------------------------------------------------------------------------
# Sessions

SESSION = (
    "SELECT DATABASE(), @@sql_mode, @@character_set_client, @@autocommit, @@lock_wait_timeout, 'é'"
)


@pytest.mark.parametrize("options", [{}, {"sql_mode": "ANSI", "autocommit": True}])
@pytest.mark.parametrize("cleanup", ["rollback", "reset"])
async def test_what_a_borrower_does_to_his_session_ends_with_his_lease(
    database: Database, cleanup: Any, options: Any
) -> None:
    def alter(raw: Any) -> None:
        raw.autocommit = not options
        raw.set_charset_collation("latin1")
        if cleanup == "reset":
            raw.sql_mode = ""
            raw.time_zone = "+03:00"
            raw.database = "information_schema"

    async with database.opened(max_size=1, cleanup=cleanup, **options) as pool:
        async with pool.connection() as conn:
            before = await conn.fetch_one(SESSION)
            zone = await conn.fetch_val("SELECT @@time_zone")
            await conn.run(alter)
            assert await conn.fetch_one(SESSION) != before
        for _ in range(2):
            async with pool.connection() as conn:
                assert await conn.fetch_one(SESSION) == before
                assert await conn.fetch_val("SELECT @@time_zone") == zone
        assert pool.stats().created == 1
    assert before[2:] == ("utf8mb4", int(bool(options)), 10, "é")


@pytest.mark.parametrize("name", ["autocommit", "database", "sql_mode", "time_zone"])
async def test_what_asks_the_server_is_not_read_on_the_loop(database: Database, name: str) -> None:
    async with database.opened(max_size=1) as pool, pool.connection() as conn:
        with pytest.raises(PoolError, match=f"{name} asks the server .* in a function for run"):
            getattr(conn, name)
        value = await conn.run(getattr, name)
        setattr(conn, name, value)
        assert getattr(conn, name) == value
        assert await conn.fetch_val("SELECT 7") == 7


async def test_a_reset_that_is_refused_costs_the_connection(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = "mysql.connector.connection.MySQLConnection.cmd_reset_connection"
    monkeypatch.setattr(refused, lambda _self: False)
    async with database.opened(max_size=1, cleanup="reset") as pool:
        async with pool.connection():
            pass
        assert (pool.size, pool.stats().discarded) == (0, 1)


async def test_a_connection_that_was_made_anew_is_not_lent_again(
    database: Database, mariadb: MariaDBServer
) -> None:
    def anew(raw: Any) -> None:
        raw.ping(reconnect=True)

    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            kill(mariadb, await backend(mariadb, conn))
            await conn.run(anew)
            assert await conn.fetch_val("SELECT 1") == 1
        assert (pool.size, pool.stats().discarded) == (0, 1)


# ------------------------------------------------------------------------------------------------
# Cancelling


STREAM = "SELECT seq, REPEAT('x', 20000), IF(seq > 300, SLEEP(0.01), 0) FROM seq_1_to_1000"


async def test_a_kill_ends_a_streamed_result_and_not_its_connection(activity: Activity) -> None:
    async with activity.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            cursor = conn.cursor(buffered=False)
            await cursor.execute(STREAM)
            assert (await cursor.fetchone())[0] == 1
            task = asyncio.create_task(cursor.fetchall())
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.wait([task])
            with pytest.raises(module.Error, match="interrupted") as caught:
                await cursor.fetchall()
            await conn.rollback()
            assert await conn.fetch_val("SELECT 7") == 7
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)
    error: Any = caught.value
    assert error.errno == 1317


@pytest.mark.parametrize("how", ["KILL QUERY", "KILL"])
def test_a_kill_that_hits_what_is_left_of_a_stream_is_absorbed(
    database: Database, mariadb: MariaDBServer, how: str
) -> None:
    driver = MySQLConnectorDriver(module)
    with closing(driver.connect((), database.arguments)) as raw:
        cursor = raw.cursor(buffered=False)
        cursor.execute(STREAM)
        tell(mariadb, f"{how} {raw.connection_id}")
        if how == "KILL":
            with pytest.raises(module.Error) as caught:
                driver.absorb_cancel(raw)
            assert driver.is_disconnect(caught.value, raw)
            return
        driver.absorb_cancel(raw)
        cursor = raw.cursor()
        cursor.execute("SELECT 7")
        assert cursor.fetchall() == [(7,)]


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2; SELECT 3", "CALL several()"])
def test_results_that_nobody_has_asked_for_are_no_answer_to_what_follows_a_cancel(
    database: Database, sql: str
) -> None:
    database.change(
        "CREATE OR REPLACE PROCEDURE several() BEGIN SELECT 1; SELECT 2; SELECT 3; END"
    )
    driver = MySQLConnectorDriver(module)
    with closing(driver.connect((), database.arguments)) as raw:
        raw.cursor().execute(sql)
        driver.absorb_cancel(raw)
        cursor = raw.cursor()
        cursor.execute("SELECT 7")
        assert cursor.fetchall() == [(7,)]


# ------------------------------------------------------------------------------------------------
# Cursors


@pytest.mark.parametrize("taken", [0, 1, 700, 900])
async def test_a_streamed_result_is_in_nobodys_way_once_its_cursor_is_closed(
    database: Database, taken: int
) -> None:
    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            async with conn.cursor(buffered=False) as cursor:
                await cursor.execute(database.rows(900))
                rows = [await cursor.fetchone() for _ in range(taken)]
                assert rows == expected(taken)
                if taken:
                    assert isinstance(await cursor.fetchmany(1), list)
            assert await conn.fetch_val("SELECT 7") == 7
            left = conn.cursor(buffered=False)
            await left.execute(database.rows(900))
        assert await pool.fetch_val("SELECT 7") == 7
        assert pool.stats().created == 1


async def test_a_cursor_that_is_closed_takes_no_rows_from_another(database: Database) -> None:
    async with database.opened(max_size=1) as pool, pool.connection() as conn:
        for statement in ("SET @a = 1", "SELECT 1"):
            other = await conn.cursor(buffered=False)
            stream = await conn.cursor(buffered=False)
            await other.execute(statement)
            if statement == "SELECT 1":
                assert await other.fetchall() == [(1,)]
            await stream.execute(database.rows(900))
            with suppress(module.InternalError):  # the module does not close it then
                await other.close()
            assert await stream.fetchall() == expected(900)


@pytest.mark.parametrize("autocommit", [False, True])
async def test_results_that_nobody_reads_are_in_nobodys_way(
    database: Database, *, autocommit: bool
) -> None:
    database.change(
        "CREATE OR REPLACE PROCEDURE several() BEGIN SELECT 1; SELECT 2; SELECT 3; END"
    )

    def leave(raw: Any) -> None:
        raw.cursor(buffered=False).execute(database.rows(900))

    async with database.opened(max_size=1, autocommit=autocommit) as pool:
        async with pool.connection() as conn:
            await conn.run(leave)
        for sql in ("CALL several()", "SELECT 1; SELECT 2"):
            assert await pool.fetch_val(sql) == 1
            assert await pool.fetch_val("SELECT 7") == 7
        async with pool.connection() as conn:
            cursor = await conn.cursor()
            await cursor.callproc("several")
            await cursor.execute("SELECT 1; SELECT 2")
            assert await cursor.fetchall() == [(1,)]
        assert await pool.fetch_val("SELECT 7") == 7
        assert pool.stats().created == 1


# ------------------------------------------------------------------------------------------------
# Errors


def test_what_may_pass_is_told_from_what_is_wrong_for_good(database: Database) -> None:
    driver = MySQLConnectorDriver(module)
    for change, transient in (
        ({"port": 1}, True),
        ({"host": "nowhere.invalid"}, False),
        ({"password": "x"}, False),
        ({"database": "nowhere"}, False),
    ):
        with pytest.raises(module.Error) as caught:
            module.connect(**{**database.arguments, **change})
        assert driver.is_transient(caught.value) is transient


async def test_an_answer_that_comes_too_late_is_not_the_next_borrower_s(
    database: Database,
) -> None:
    async with database.opened(max_size=1, read_timeout=1) as pool:
        with pytest.raises(module.errors.ReadTimeoutError):
            await pool.fetch_val("SELECT SLEEP(1.5)")
        for _ in range(2):
            assert await pool.fetch_val("SELECT 7") == 7
        assert (pool.stats().created, pool.stats().discarded) == (2, 1)


def test_a_server_that_does_not_answer_in_time_may_do_so_soon(database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        change = {"port": silent.getsockname()[1], "connection_timeout": 1}
        with pytest.raises(module.errors.ConnectionTimeoutError) as caught:
            module.connect(**{**database.arguments, **change})
    assert MySQLConnectorDriver(module).is_transient(caught.value)


def test_a_connection_that_is_closed_has_no_descriptor(database: Database) -> None:
    driver = MySQLConnectorDriver(module)
    raw = driver.connect((), database.arguments)
    assert driver.fileno(raw) is not None
    raw.close()
    assert driver.fileno(raw) is None
