"""PyMySQL: what its file knows beyond what every driver is tested for."""

from __future__ import annotations

import asyncio
import socket
import ssl
from types import SimpleNamespace
from typing import Any

import pymysql
import pytest
from pymysql.cursors import SSCursor

from asyncdbpool.drivers.pymysql import PyMySQLDriver
from support.activity import Activity
from support.cancelling import cancelled_without_an_answer
from support.databases import Database, expected
from support.servers import MariaDBServer

WARES = "CREATE OR REPLACE TABLE goods (id INTEGER PRIMARY KEY) ENGINE=InnoDB"


@pytest.fixture
def database(pymysql_database: Database) -> Database:
    return pymysql_database


# ------------------------------------------------------------------------------------------------
# Transactions


async def test_a_select_may_have_begun_a_transaction_that_the_module_does_not_know_of(
    database: Database,
) -> None:
    database.change(WARES)
    driver = PyMySQLDriver(pymysql)

    def look(raw: Any) -> list[bool | None]:
        cursor = raw.cursor()
        cursor.execute("SELECT id FROM goods")
        return [driver.in_transaction(raw), driver.learn(raw), driver.in_transaction(raw)]

    async with database.opened(max_size=1) as pool:
        assert await pool.run(look) == [None, True, True]
    async with database.opened(max_size=1, autocommit=True) as pool, pool.connection() as conn:
        assert await conn.run(look) == [False, False, False]
        await conn.execute("BEGIN")
        assert await conn.run(look) == [True, True, True]


async def test_the_server_is_asked_where_an_error_may_have_hidden_a_transaction(
    database: Database,
) -> None:
    database.change(WARES, "INSERT INTO goods VALUES (1)")
    async with database.opened(max_size=2, autocommit=True) as pool:
        async with pool.connection() as conn:
            await conn.execute("BEGIN")
            with pytest.raises(pymysql.IntegrityError):
                await conn.execute("INSERT INTO goods VALUES (1)")
            async with conn.transaction():
                await conn.execute("INSERT INTO goods VALUES (2)")
        assert await pool.fetch_all("SELECT id FROM goods") == [(1,), (2,)]


# ------------------------------------------------------------------------------------------------
# Sessions

SESSION = (
    "SELECT DATABASE(), @@sql_mode, @@character_set_client, @@autocommit, @@lock_wait_timeout, 'é'"
)


@pytest.mark.parametrize("cleanup", ["rollback", "reset"])
async def test_what_a_borrower_does_to_his_session_ends_with_his_lease(
    database: Database, cleanup: Any
) -> None:
    def alter(raw: Any) -> None:
        raw.autocommit(True)
        raw.set_character_set("latin1")

    async with database.opened(max_size=1, sql_mode="ANSI", cleanup=cleanup) as pool:
        async with pool.connection() as conn:
            before = await conn.fetch_one(SESSION)
            await conn.run(alter)
            assert await conn.fetch_one(SESSION) != before
            if cleanup == "reset":
                await conn.select_db("information_schema")
                await conn.execute("SET lock_wait_timeout = 77, sql_mode = ''")
        async with pool.connection() as conn:
            assert await conn.fetch_one(SESSION) == before
        assert pool.stats().created == 1
    assert before[2:] == ("utf8mb4", 0, 10, "é")
    assert "ANSI_QUOTES" in before[1]


async def test_a_connection_that_was_made_anew_is_not_lent_again(database: Database) -> None:
    def anew(raw: Any) -> None:
        raw._force_close()
        raw.connect()

    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.run(anew)
            assert await conn.fetch_val("SELECT 1") == 1
        assert (pool.size, pool.stats().discarded) == (0, 1)


# ------------------------------------------------------------------------------------------------
# Cancelling


@pytest.mark.realtime
async def test_a_cancel_that_the_server_does_not_answer_holds_nobody_up(
    activity: Activity, mariadb: MariaDBServer
) -> None:
    await cancelled_without_an_answer(activity, mariadb)


async def test_the_number_that_is_killed_is_that_of_today(activity: Activity) -> None:
    def anew(raw: Any) -> None:
        raw._force_close()
        raw.connect()

    async with activity.pool(max_size=1) as pool, pool.connection() as conn:
        await conn.run(anew)
        task = asyncio.create_task(conn.fetch_one(activity.endless))
        await activity.begins()
        task.cancel()
        await asyncio.wait([task])
        async with asyncio.timeout(20):
            assert await conn.fetch_val("SELECT 7") == 7


STREAM = "SELECT seq, REPEAT('x', 20000), IF(seq > 300, SLEEP(0.01), 0) FROM seq_1_to_1000"


@pytest.mark.parametrize("again", [False, True], ids=["fetched", "executed"])
async def test_a_kill_ends_a_streamed_result_and_not_its_connection(
    activity: Activity, *, again: bool
) -> None:
    async with activity.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            cursor = conn.cursor(SSCursor)
            await cursor.execute(STREAM)
            assert (await cursor.fetchone())[0] == 1
            task = asyncio.create_task(cursor.fetchall())
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.wait([task])
            if again:
                await cursor.execute(activity.database.rows(3))
                assert await cursor.fetchall() == expected(3)
            else:
                with pytest.raises(pymysql.OperationalError, match="interrupted"):
                    await cursor.fetchall()
            await conn.rollback()
            assert await conn.fetch_val("SELECT 7") == 7
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)


def test_a_side_connection_shares_the_tls_context_and_sets_nothing_up() -> None:
    driver = PyMySQLDriver(pymysql)
    context, secured = object(), ssl.SSLSocket.__new__(ssl.SSLSocket)
    with socket.socket() as plain:
        without = driver.side_keywords(SimpleNamespace(_sock=plain))
    shared = driver.side_keywords(SimpleNamespace(_sock=secured, ctx=context))
    assert (without["ssl_disabled"], shared["ssl"]) == (True, context)
    assert without["init_command"] is shared["ssl_verify_cert"] is None


# ------------------------------------------------------------------------------------------------
# Errors


async def test_a_socket_that_the_module_has_closed_is_a_lost_connection(
    activity: Activity,
) -> None:
    async with activity.pool(max_size=1, read_timeout=0.3) as pool, pool.connection() as conn:
        with pytest.raises(pymysql.OperationalError, match=r"2013|timed out"):
            await conn.execute(activity.saying("too late", 0.5))
        with pytest.raises(pymysql.InterfaceError):
            await conn.execute("SELECT 1")
        await conn.close()
        assert (pool.size, pool.stats().discarded) == (0, 1)
    await activity.ends(connections=0)


def test_what_may_pass_is_told_from_what_is_wrong_for_good(database: Database) -> None:
    driver = PyMySQLDriver(pymysql)
    for change, transient in (
        ({"port": 1}, True),
        ({"host": "nowhere.invalid"}, False),
        ({"password": "x"}, False),
        ({"database": "nowhere"}, False),
    ):
        with pytest.raises(pymysql.OperationalError) as caught:
            pymysql.connect(**{**database.arguments, **change})
        assert driver.is_transient(caught.value) is transient
    assert driver.is_transient(pymysql.OperationalError(1040, "Too many connections"))
    assert driver.is_disconnect(pymysql.OperationalError(1290, ""), SimpleNamespace(open=True))
    assert not driver.is_disconnect(pymysql.IntegrityError(1062, ""), SimpleNamespace(open=True))


def test_a_connection_that_is_closed_has_no_descriptor() -> None:
    assert PyMySQLDriver(pymysql).fileno(SimpleNamespace(_sock=None)) is None
