"""asyncmy: what its file knows beyond what every driver is tested for."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncmy as module
import asyncmy.cursors
import asyncmy.errors
import pytest

from asyncdbpool.drivers.asyncmy import AsyncmyDriver
from support.access import backend, kill
from support.databases import Database, expected
from support.servers import MariaDBServer
from support.subjects.asyncmy import SUBJECT

WARES = "CREATE OR REPLACE TABLE goods (id INTEGER PRIMARY KEY) ENGINE=InnoDB"


@pytest.fixture
def database(mariadb: MariaDBServer) -> Database:
    return SUBJECT.database(mariadb)


# ------------------------------------------------------------------------------------------------
# Transactions


async def test_the_flag_comes_with_rows_too(database: Database) -> None:
    database.change(WARES)
    driver = AsyncmyDriver(module)

    async def look(raw: Any) -> list[bool | None]:
        found = [driver.in_transaction(raw)]
        async with raw.cursor() as cursor:
            await cursor.execute("SELECT id FROM goods")
            found.append(driver.in_transaction(raw))
        async with raw.cursor(asyncmy.cursors.SSCursor) as cursor:
            await cursor.execute("SELECT seq FROM seq_1_to_9")
            found.append(driver.in_transaction(raw))
        return [*found, await driver.learn(raw)]

    async with database.opened(max_size=1) as pool, pool.connection() as conn:
        assert await conn.run(look) == [False, True, None, True]
    async with database.opened(max_size=1, autocommit=True) as pool, pool.connection() as conn:
        assert await conn.run(look) == [False, False, None, False]
        await conn.execute("BEGIN")
        assert await conn.run(look) == [True, True, None, True]


async def test_a_prepared_statement_goes_with_its_lease(database: Database) -> None:
    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            statement = await conn.prepare("SELECT ? + 1")
            assert (await statement.execute((6,))).rows == ((7,),)
        with pytest.raises(Exception, match="returned"):
            await statement.execute((6,))
        assert await pool.fetch_val("SELECT 7") == 7


# ------------------------------------------------------------------------------------------------
# Sessions

SESSION = (
    "SELECT DATABASE(), @@sql_mode, @@character_set_client, @@autocommit, @@lock_wait_timeout, 'é'"
)


@pytest.mark.parametrize("cleanup", ["rollback", "reset"])
async def test_what_a_borrower_does_to_his_session_ends_with_his_lease(
    database: Database, cleanup: Any
) -> None:
    async with database.opened(max_size=1, sql_mode="'ANSI'", cleanup=cleanup) as pool:
        async with pool.connection() as conn:
            before = await conn.fetch_one(SESSION)
            await conn.autocommit(True)
            await conn.select_db("information_schema")
            assert await conn.fetch_one(SESSION) != before
            if cleanup == "reset":
                await conn.execute("SET lock_wait_timeout = 77, sql_mode = ''")
                await conn.execute("SET NAMES latin1")
        async with pool.connection() as conn:
            assert await conn.fetch_one(SESSION) == before
        assert pool.stats().created == 1
    assert before[2:] == ("utf8mb4", 0, 10, "é")
    assert "ANSI_QUOTES" in before[1]


async def test_without_a_database_there_is_no_way_back_to_none(database: Database) -> None:
    bare = {**database.arguments, "database": None, "init_command": None}
    async with database.opened(**bare, max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.select_db("information_schema")
        assert await pool.fetch_val("SELECT DATABASE()") is None
        assert pool.stats().created == 2


async def test_a_connection_that_a_ping_has_made_anew_is_not_lent_again(
    database: Database, mariadb: MariaDBServer
) -> None:
    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            first = await backend(mariadb, conn)
            kill(mariadb, first)
            await asyncio.sleep(0.05)
            await conn.ping(reconnect=True)
            second = await backend(mariadb, conn)
            assert second != first
        assert await backend(mariadb, pool) not in (first, second)


async def test_a_ping_tells_a_killed_connection_and_makes_no_other(
    database: Database, mariadb: MariaDBServer
) -> None:
    async with database.opened(max_size=1) as pool, pool.connection() as conn:
        kill(mariadb, await backend(mariadb, conn))
        with pytest.raises(asyncmy.errors.OperationalError):
            await conn.ping()


# ------------------------------------------------------------------------------------------------
# Cancelling


STREAM = "SELECT seq, REPEAT('x', 20000), IF(seq > 300, SLEEP(0.01), 0) FROM seq_1_to_1000"


async def test_a_cancelled_read_of_a_stream_is_told_and_the_cursor_can_be_used_again(
    database: Database,
) -> None:
    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            cursor = await conn.cursor(asyncmy.cursors.SSCursor)
            await cursor.execute(STREAM)
            assert (await cursor.fetchone())[0] == 1
            task = asyncio.create_task(cursor.fetchall())
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            with pytest.raises(Exception, match="cancelled"):
                await cursor.fetchone()
            await cursor.execute(database.rows(3))
            assert list(await cursor.fetchall()) == expected(3)
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)


async def test_a_half_read_stream_never_reaches_the_next_borrower(database: Database) -> None:
    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            cursor = await conn.cursor(asyncmy.cursors.SSCursor)
            await cursor.execute(database.rows(5000))
            assert await cursor.fetchone() == (1, "row 1")
        assert await pool.fetch_val("SELECT 7") == 7
        assert pool.stats().created == 1


async def test_a_stream_does_not_tell_how_many_rows_there_are(database: Database) -> None:
    async with database.opened(cursor_cls=asyncmy.cursors.SSCursor) as pool:
        assert await pool.execute(database.rows(3)) == -1
        assert await pool.fetch_all(database.rows(3)) == expected(3)


# ------------------------------------------------------------------------------------------------
# Errors


async def test_what_may_pass_is_told_from_what_is_wrong_for_good(database: Database) -> None:
    driver = AsyncmyDriver(module)
    for change, transient in (
        ({"port": 1}, True),
        ({"host": "nowhere.invalid"}, False),
        ({"password": "x"}, False),
        ({"database": "nowhere"}, False),
    ):
        with pytest.raises(asyncmy.errors.OperationalError) as caught:
            await module.connect(**{**database.arguments, **change})
        assert driver.is_transient(caught.value) is transient


async def test_a_connection_that_is_closed_has_no_descriptor(database: Database) -> None:
    driver = AsyncmyDriver(module)
    raw = await driver.connect((), database.arguments)
    assert driver.fileno(raw) is not None
    driver.terminate(raw)
    assert driver.is_closed(raw)
    assert driver.fileno(raw) is None
    async with database.opened() as pool, pool.connection() as conn:
        kept = conn.get_host_info()
        assert str(database.arguments["port"]) in kept
