"""What a cancelled statement leaves alone: others' rows, others' secrets, and the truth."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import MySQLdb
import pytest

from asyncdbpool import PoolTimeout
from asyncdbpool.testing import NEVER, Fake, virtual_time
from support.access import eventually
from support.databases import Database
from support.servers import MariaDBServer

with_mariadb_s_drivers = pytest.mark.parametrize(
    "database",
    [
        pytest.param("MySQLdb", marks=pytest.mark.mariadb),
        pytest.param("aiomysql", marks=pytest.mark.mariadb),
    ],
    indirect=True,
)


async def test_a_result_that_the_client_holds_outlives_another_statements_cancel(
    mysql: Database,
) -> None:
    async with mysql.pool() as pool, pool.connection() as conn:
        cursor = await conn.execute("SELECT seq FROM seq_1_to_2000")
        assert await cursor.fetchone() == (1,)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await conn.fetch_val("SELECT SLEEP(20)")
        assert len(await cursor.fetchall()) == 1999


@with_mariadb_s_drivers
async def test_a_killed_statement_that_ends_successfully_is_not_committed(
    database: Database,
) -> None:
    async with database.pool() as pool, pool.connection() as holder:
        await pool.execute("CREATE OR REPLACE TABLE locks (got INT)")
        assert await holder.fetch_val("SELECT GET_LOCK('it', 1)") == 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await pool.execute("INSERT INTO locks VALUES (GET_LOCK('it', 20))")
        await eventually(lambda: pool.stats().in_use == 1)
        assert await pool.fetch_all("SELECT * FROM locks") == []
        await pool.execute("DROP TABLE locks")


@with_mariadb_s_drivers
async def test_cancelling_asks_for_the_credentials_of_the_day(
    mariadb: MariaDBServer, database: Database
) -> None:
    passwords = {"now": "first"}

    def credentials() -> dict[str, Any]:
        return {"user": "rotating", "password": passwords["now"]}

    admin = MySQLdb.connect(
        host=mariadb.host, port=mariadb.port, user=mariadb.admin, password=mariadb.password
    )
    with admin.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE USER rotating@'127.0.0.1' IDENTIFIED BY 'first'")
        cursor.execute(f"GRANT ALL ON {mariadb.database}.* TO rotating@'127.0.0.1'")
        try:
            async with database.pool(credentials=credentials, max_size=1) as pool:
                assert await pool.fetch_val("SELECT 1") == 1
                cursor.execute("SET PASSWORD FOR rotating@'127.0.0.1' = PASSWORD('second')")
                passwords["now"] = "second"
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await pool.fetch_val("SELECT SLEEP(20)")
                await eventually(lambda: pool.free == 1)
                assert pool.stats().discarded == 0, "it was killed, not hung up"
        finally:
            cursor.execute("DROP USER rotating@'127.0.0.1'")
    admin.close()  # type: ignore[no-untyped-call] # the stubs leave it so


@virtual_time
async def test_leaving_a_cursor_does_not_wait_for_its_cancelled_statement() -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=1, cancel_grace=4) as pool:
        fake.execute.once(NEVER)
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), pool.connection() as conn, conn.cursor() as cursor:
                await cursor.execute("SELECT")
        assert loop.time() - began == pytest.approx(0.5, abs=0.1)
        await asyncio.sleep(4.5)


@virtual_time
async def test_an_error_on_its_way_counts_more_than_one_of_closing_a_cursor() -> None:
    fake = Fake(rows=1000)
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        with pytest.raises(LookupError):
            async with conn.cursor() as cursor:
                await cursor.execute("SELECT")

                def fail(self: Any) -> None:
                    raise ConnectionResetError

                patch = pytest.MonkeyPatch()
                patch.setattr("asyncdbpool.testing.FakeCursor.close", fail)
                try:
                    raise LookupError
                finally:
                    asyncio.get_running_loop().call_later(1, patch.undo)
        await asyncio.sleep(2)


@virtual_time
async def test_a_finished_cursor_that_cannot_be_closed_gives_its_dead_connection_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Fake()

    def fail(self: Any) -> None:
        raise ConnectionResetError

    async with fake.pool(max_size=2) as pool:
        async with pool.connection() as conn:
            cursor = await conn.execute("SELECT")
            await cursor.close()  # lazily, since it has no rows left: ahead of the next statement
            with monkeypatch.context() as patch:
                patch.setattr("asyncdbpool.testing.FakeCursor.close", fail)
                await conn.commit()
        await asyncio.sleep(1)
        assert (pool.idle, pool.stats().discarded) == (0, 1)


@virtual_time
async def test_what_a_function_was_given_is_nobody_elses_business() -> None:
    fake = Fake()

    def log_in(raw: Any, *, password: str) -> None:
        assert password
        raw.cursor().execute("SELECT")

    async with fake.pool(max_size=1) as pool:
        fake.execute.once(NEVER)
        running = asyncio.create_task(pool.run(partial(log_in, password="s33kr1t")))
        await asyncio.sleep(1)
        with pytest.raises(PoolTimeout) as caught:
            await pool.get(timeout=1)
        assert "s33kr1t" not in str(caught.value)
        assert "s33kr1t" not in "".join(map(str, pool.dump()))
        fake.release()
        await running


@virtual_time
async def test_a_rollback_that_has_lost_its_caller_is_watched_and_not_cancelled() -> None:
    fake = Fake(sockets=True, cancels=True)
    async with fake.pool(max_size=1, cancel_grace=4) as pool:
        conn = await pool.get()
        await conn.execute("INSERT")
        fake.rollback.once(NEVER)
        rollback = asyncio.create_task(conn.rollback())
        await asyncio.sleep(1)
        rollback.cancel()
        await asyncio.wait([rollback])
        await pool.put(conn)
        assert pool.stats().in_use == 1, "put() does not wait for it"
        assert fake.cancel.calls == 0
        await asyncio.sleep(4.5)
        assert (pool.free, pool.stats().discarded) == (1, 1), "its socket was shut down"
