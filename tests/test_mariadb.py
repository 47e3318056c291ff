"""MariaDB Connector/Python: what its file knows beyond what every driver is tested for."""

from __future__ import annotations

import asyncio
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import mariadb as module
import pytest

from asyncdbpool.drivers.mariadb import MariaDBDriver
from support.access import backend, kill, tell
from support.activity import Activity
from support.databases import Database, expected
from support.servers import MariaDBServer
from support.subjects.mariadb import SUBJECT

WARES = "CREATE OR REPLACE TABLE goods (id INTEGER PRIMARY KEY) ENGINE=InnoDB"


@pytest.fixture
def database(mariadb: MariaDBServer) -> Database:
    return SUBJECT.database(mariadb)


# ------------------------------------------------------------------------------------------------
# Connecting


async def test_the_modules_own_pool_cannot_be_used(database: Database) -> None:
    async with database.opened(max_size=1, connect_kwargs={"pool_name": "own"}) as pool:
        with pytest.raises(module.NotSupportedError, match="own pool"):
            await pool.fetch_val("SELECT 1")
        assert (pool.size, pool.stats().created) == (0, 0)


async def test_no_session_is_used_that_nobody_has_set_up(
    database: Database, mariadb: MariaDBServer
) -> None:
    def set_up(raw: Any) -> None:
        with closing(raw.cursor()) as cursor:
            cursor.execute("SET @mark = 5")

    async with database.opened(max_size=1, reconnect=True, setup=set_up) as pool:
        async with pool.connection() as conn:
            kill(mariadb, await backend(mariadb, conn))
            with pytest.raises(module.Error, match=r"Lost connection|gone away"):
                for _ in range(3):
                    assert await conn.fetch_val("SELECT @mark") == 5
        assert await pool.fetch_val("SELECT @mark") == 5
        assert (pool.stats().created, pool.stats().discarded) == (2, 1)


# ------------------------------------------------------------------------------------------------
# Transactions


async def test_the_flag_comes_with_rows_too(database: Database) -> None:
    database.change(WARES)
    driver = MariaDBDriver(module)

    def look(raw: Any) -> list[bool | None]:
        found = [driver.in_transaction(raw)]
        raw.cursor().execute("SELECT id FROM goods")
        return [*found, driver.in_transaction(raw), driver.learn(raw)]

    async with database.opened(max_size=1) as pool, pool.connection() as conn:
        assert await conn.run(look) == [False, True, True]
    async with database.opened(max_size=1, autocommit=True) as pool, pool.connection() as conn:
        assert await conn.run(look) == [False, False, False]
        await conn.execute("BEGIN")
        assert await conn.run(look) == [True, True, True]


# ------------------------------------------------------------------------------------------------
# Sessions

SESSION = (
    "SELECT DATABASE(), @@sql_mode, @@character_set_client, @@autocommit, @@lock_wait_timeout, 'é'"
)


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("cleanup", ["rollback", "reset"])
async def test_what_a_borrower_does_to_his_session_ends_with_his_lease(
    database: Database, cleanup: Any, *, autocommit: bool
) -> None:
    def alter(raw: Any) -> None:
        raw.autocommit = not autocommit
        raw.auto_reconnect = True

    async with database.opened(max_size=1, autocommit=autocommit, cleanup=cleanup) as pool:
        async with pool.connection() as conn:
            before = await conn.fetch_one(SESSION)
            await conn.run(alter)
            assert await conn.fetch_one(SESSION) != before
            if cleanup == "reset":
                await conn.execute("SET lock_wait_timeout = 77, sql_mode = ''")
                await conn.execute("USE information_schema")
        async with pool.connection() as conn:
            assert await conn.fetch_one(SESSION) == before
            assert not conn.auto_reconnect
        assert pool.stats().created == 1
    assert before[2:] == ("utf8mb4", autocommit, 10, "é")


async def test_a_connection_that_was_made_anew_is_not_lent_again(
    database: Database, mariadb: MariaDBServer
) -> None:
    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            conn.auto_reconnect = True
            kill(mariadb, await backend(mariadb, conn))
            await conn.run(ping)
            assert await conn.fetch_val("SELECT 1") == 1
        assert (pool.size, pool.stats().discarded) == (0, 1)


def ping(raw: Any) -> None:
    for _ in range(2):
        try:
            raw.ping()
        except module.Error:
            continue


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
            assert task.cancelled()
            with pytest.raises(module.OperationalError, match="interrupted") as caught:
                await cursor.fetchall()
            await conn.rollback()
            assert await conn.fetch_val("SELECT 7") == 7
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)
    error: Any = caught.value
    assert error.errno == 1317


# ------------------------------------------------------------------------------------------------
# Cursors


@pytest.mark.parametrize("how", ["KILL QUERY", "KILL"])
async def test_a_streamed_result_that_is_cut_short_is_no_short_result(
    database: Database, mariadb: MariaDBServer, how: str
) -> None:
    async with database.opened(max_size=1) as pool, pool.connection() as conn:
        number = await backend(mariadb, conn)
        async with conn.cursor(buffered=False) as cursor:
            await cursor.execute(STREAM)
            task = asyncio.create_task(cursor.fetchall())
            await asyncio.sleep(0.05)
            await asyncio.to_thread(tell, mariadb, f"{how} {number}")
            with pytest.raises(module.Error, match=r"interrupted|gone away|Lost connection"):
                await task


async def test_several_streamed_results_are_read_one_after_the_other(database: Database) -> None:
    async with database.opened(max_size=1, **SUBJECT.several) as pool, pool.connection() as conn:
        cursor = await conn.cursor(buffered=False)
        await cursor.execute("SELECT 1; SELECT 2")
        assert await cursor.fetchall() == [(1,)]
        assert await cursor.nextset()
        assert await cursor.fetchall() == [(2,)]
        assert not await cursor.nextset()


async def test_a_streamed_result_is_read_row_by_row(database: Database) -> None:
    async with database.opened(max_size=1) as pool, pool.connection() as conn:
        async with conn.cursor(buffered=False) as cursor:
            await cursor.execute(database.rows(900))
            rows = [await cursor.fetchone(), *await cursor.fetchmany(700)]
            assert isinstance(await cursor.fetchmany(1), list)
            assert rows == expected(701)
        assert await conn.fetch_val("SELECT 7") == 7


@pytest.mark.parametrize("buffered", [False, True])
async def test_a_cursor_behind_its_last_result_is_still_of_use(
    database: Database, *, buffered: bool
) -> None:
    async with database.opened(max_size=1) as pool, pool.connection() as conn:
        cursor = await conn.cursor(buffered=buffered)
        assert not await cursor.nextset()
        await cursor.execute(database.rows(600))
        assert await cursor.fetchone() == (1, "row 1")
        assert not await cursor.nextset()
        assert await cursor.fetchall() == []
        await cursor.execute("SELECT 7")
        assert await cursor.fetchall() == [(7,)]


# ------------------------------------------------------------------------------------------------
# Errors


def test_what_may_pass_is_told_from_what_is_wrong_for_good(database: Database) -> None:
    driver, there = MariaDBDriver(module), SimpleNamespace(_closed=False)
    for change, transient in (
        ({"port": 1}, True),
        ({"host": "nowhere.invalid"}, False),
        ({"password": "x"}, False),
        ({"database": "nowhere"}, False),
    ):
        with pytest.raises(module.OperationalError) as caught:
            module.connect(**{**database.arguments, **change})
        assert driver.is_transient(caught.value) is transient
        assert not driver.is_disconnect(caught.value, there)


def test_a_connection_that_is_closed_has_no_descriptor(database: Database) -> None:
    raw = module.connect(**database.arguments)
    raw.close()
    assert MariaDBDriver(module).fileno(raw) is None
