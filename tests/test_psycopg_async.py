"""psycopg's API for asyncio: what its file knows beyond what every driver is tested for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import psycopg.rows
import psycopg.types.numeric
import pytest
from psycopg import AsyncConnection, IsolationLevel

from asyncdbpool import ConnectionPool, PoolError
from asyncdbpool.drivers import find_driver
from asyncdbpool.drivers.psycopg_async import PsycopgAsyncDriver
from support.access import backend, eventually, kill
from support.activity import Activity
from support.cancelling import (
    cancelled_at_any_moment,
    cancelled_behind_a_reset,
    cancelled_without_an_answer,
)
from support.databases import Database, expected
from support.servers import PostgresServer
from support.subjects.psycopg_async import SUBJECT, by_a_coroutine


@pytest.fixture
def database(postgres: PostgresServer) -> Database:
    return SUBJECT.database(postgres)


@pytest.fixture
def activity(database: Database, postgres: PostgresServer) -> Iterator[Activity]:
    with SUBJECT.activity(database, postgres) as activity:
        yield activity


async def test_a_class_is_found_by_its_own_name_and_those_it_is_derived_from(
    database: Database,
) -> None:
    class Own(AsyncConnection[Any]):
        pass

    for module in (AsyncConnection, Own, AsyncConnection[Any]):
        assert isinstance(find_driver(module), PsycopgAsyncDriver)
    assert not isinstance(find_driver(type("Other", (), {"connect": print})), PsycopgAsyncDriver)
    assert find_driver(psycopg).native is False
    async with ConnectionPool(AsyncConnection[Any], **database.arguments) as pool:
        assert await pool.fetch_val("SELECT 7") == 7


# ------------------------------------------------------------------------------------------------
# Sessions


async def test_a_transaction_has_the_characteristics_of_its_connection_in_autocommit_too(
    database: Database,
) -> None:
    async def strict(raw: AsyncConnection[Any]) -> None:
        await raw.set_autocommit(True)
        await raw.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await raw.set_read_only(True)
        await raw.set_deferrable(False)

    look = (
        "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
    )
    async with database.opened(setup=strict) as pool:
        assert await pool.fetch_one(look) == ("read committed", "off")
        async with pool.transaction() as conn:
            assert await conn.fetch_one(look) == ("repeatable read", "on")
            async with conn.transaction():
                assert await conn.fetch_val("SELECT 1") == 1


@pytest.mark.parametrize("cleanup", ["rollback", "reset"])
async def test_what_a_borrower_does_to_his_session_ends_with_his_lease(
    database: Database, cleanup: Any
) -> None:
    heard: list[str] = []

    def kept(diagnostic: Any) -> None:
        heard.append(f"kept {diagnostic.message_primary}")

    def added(diagnostic: Any) -> None:
        heard.append(f"added {diagnostic.message_primary}")

    async def setup(raw: AsyncConnection[Any]) -> None:
        raw.add_notice_handler(kept)
        await raw.set_isolation_level(IsolationLevel.SERIALIZABLE)

    async def alter(raw: AsyncConnection[Any]) -> None:
        await raw.set_autocommit(True)
        await raw.set_isolation_level(None)
        raw.prepare_threshold = 0
        raw.row_factory = psycopg.rows.dict_row
        raw.add_notice_handler(added)
        raw.adapters.register_loader("numeric", psycopg.types.numeric.FloatLoader)

    look = "SELECT pg_backend_pid(), current_setting('transaction_isolation'), 'é'"
    async with database.opened(max_size=1, setup=setup, cleanup=cleanup) as pool:
        before = await pool.fetch_one(look)
        async with pool.connection() as conn:
            await conn.run(alter)
            assert repr(await conn.fetch_one("SELECT 1.5 AS one")) == "{'one': 1.5}"
            assert await conn.fetch_all("DO $$ BEGIN RAISE NOTICE 'first'; END $$") == []
        async with pool.connection() as conn:
            await conn.fetch_one("DO $$ BEGIN RAISE NOTICE 'second'; END $$")
            assert (conn.autocommit, conn.prepare_threshold) == (False, 5)
            assert repr(await conn.fetch_val("SELECT 1.5")) == "Decimal('1.5')"
        for _ in range(2):
            assert await pool.fetch_one(look) == before
    assert before[1] == "serializable"
    assert heard == ["kept first", "added first", "kept second"]


async def test_a_ping_leaves_neither_a_transaction_nor_autocommit_behind(
    database: Database,
) -> None:
    async with database.opened(max_size=1, check="always") as pool:
        for _ in range(2):
            async with pool.connection() as conn:
                assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
                assert conn.autocommit is False
        assert pool.stats().created == 1


async def test_a_block_joins_what_was_begun_by_hand_in_autocommit(database: Database) -> None:
    async with database.opened(autocommit=True) as pool, pool.connection() as conn:
        await conn.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        async with conn.transaction():
            assert await conn.fetch_val("SHOW transaction_isolation") == "serializable"


async def test_a_commit_of_a_failed_block_gives_the_server_s_own_error(
    database: Database,
) -> None:
    async with database.opened() as pool:
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            async with pool.transaction() as conn:
                with pytest.raises(psycopg.errors.UndefinedTable):
                    await conn.execute("SELECT 1 FROM nowhere")
        async with pool.transaction() as conn:
            with pytest.raises(psycopg.errors.UndefinedTable):
                async with conn.transaction():
                    await conn.execute("SELECT 1 FROM nowhere")
        assert await pool.fetch_val("SELECT 7") == 7


# ------------------------------------------------------------------------------------------------
# Cursors and pipelines


async def test_a_server_s_cursor_is_read_in_its_turn_and_goes_with_a_cancelled_fetch(
    database: Database,
) -> None:
    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            async with conn.cursor("some", scrollable=True) as cursor:
                await cursor.execute(database.rows(600))
                assert await cursor.fetchone() == (1, "row 1")
                assert [row async for row in cursor] == expected(600)[1:]
                await cursor.scroll(0, "absolute")
                assert await cursor.fetchmany(2) == expected(2)
            slow = await conn.cursor("slow")
            await slow.execute("SELECT pg_sleep(60)")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await slow.fetchone()
            with pytest.raises(PoolError, match="rows of this cursor went"):
                await slow.fetchone()
            await conn.rollback()
            await slow.close()
            assert await conn.fetch_val("SELECT 7") == 7
        assert pool.stats().created == 1


async def test_a_cursor_is_the_connection_s_and_revoked_with_it(database: Database) -> None:
    async with database.opened() as pool:
        async with pool.connection() as conn:
            cursor = await conn.execute("SELECT 7")
            assert cursor.connection is conn
            assert await (await cursor).fetchone() == (7,)
            many = await conn.executemany("SELECT %s::int", [(1,), (2,)])
            assert many.rowcount == 2
        with pytest.raises(PoolError):
            await cursor
        with pytest.raises(PoolError):
            await cursor.fetchone()


async def test_a_pipeline_brings_its_answers_late_and_none_to_the_next_borrower(
    database: Database,
) -> None:
    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            async with conn.pipeline() as pipeline:
                first = await conn.execute("SELECT 1")
                assert await conn.fetch_val("SELECT 2") == 2
                third = await conn.execute("SELECT 3")
                await pipeline.sync()
                assert await first.fetchone() == (1,)
            assert await third.fetchone() == (3,)
        assert await pool.fetch_val("SELECT 7") == 7
        assert pool.stats().created == 1
        async with pool.connection() as conn:
            left = conn.pipeline()  # which would end it if nobody held it
            await left.__aenter__()
            await conn.execute("SELECT 1")
        assert await pool.fetch_val("SELECT 7") == 7
        assert pool.stats().created == 2, "a pipeline that is left open costs the connection"


@pytest.fixture
def goods(database: Database) -> Database:
    database.change("DROP TABLE IF EXISTS goods", "CREATE TABLE goods (id integer PRIMARY KEY)")
    return database


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_block_in_a_pipeline_is_all_or_nothing(goods: Database, autocommit: bool) -> None:
    async with goods.opened(max_size=1, autocommit=autocommit) as pool:
        async with pool.connection() as conn, conn.pipeline():
            await conn.execute("SELECT 1")
            with pytest.raises(ZeroDivisionError):
                async with conn.transaction():
                    await conn.execute("INSERT INTO goods VALUES (1)")
                    raise ZeroDivisionError
            async with conn.transaction():
                await conn.execute("INSERT INTO goods VALUES (2)")
            with pytest.raises(psycopg.errors.UniqueViolation):
                async with conn.transaction():
                    await conn.execute("INSERT INTO goods VALUES (3)")
                    await conn.execute("INSERT INTO goods VALUES (2)")
        assert await pool.fetch_all("SELECT id FROM goods") == [(2,)]


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_failed_block_in_a_pipeline_is_not_committed_in_silence(
    goods: Database, autocommit: bool
) -> None:
    async with goods.opened(max_size=1, autocommit=autocommit) as pool:
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            async with pool.connection() as conn, conn.pipeline(), conn.transaction():
                await conn.execute("INSERT INTO goods VALUES (1)")
                failing = await conn.execute("SELECT 1 FROM nowhere")
                with pytest.raises(psycopg.errors.UndefinedTable):
                    await failing.fetchone()
        assert await pool.fetch_all("SELECT id FROM goods") == []


@pytest.mark.parametrize("read", [True, False])
async def test_a_savepoint_in_a_pipeline_is_rolled_back_alone(goods: Database, read: bool) -> None:
    async with goods.opened(max_size=1, autocommit=True) as pool:
        async with pool.connection() as conn, conn.pipeline(), conn.transaction():
            await conn.execute("INSERT INTO goods VALUES (1)")
            with pytest.raises(psycopg.errors.UndefinedTable):
                async with conn.transaction():
                    await conn.execute("INSERT INTO goods VALUES (2)")
                    failing = await conn.execute("SELECT 1 FROM nowhere")
                    if read:
                        await failing.fetchone()
            await conn.execute("INSERT INTO goods VALUES (3)")
        assert await pool.fetch_all("SELECT id FROM goods ORDER BY id") == [(1,), (3,)]


async def test_an_iteration_that_ends_early_leaves_the_rest_to_its_cursor(
    database: Database,
) -> None:
    class Generating(psycopg.AsyncCursor[Any]):
        """A cursor as psycopg 3.2 has it."""

        async def __aiter__(self) -> AsyncIterator[Any]:  # type: ignore[override]
            while (row := await self.fetchone()) is not None:
                yield row

    async with database.opened(cursor_factory=Generating) as pool, pool.connection() as conn:
        cursor = await conn.execute(database.rows(600))
        async for row in cursor:
            if row == (70, "row 70"):
                break
        assert await cursor.fetchone() == (71, "row 71")
        assert [row async for row in cursor] == expected(600)[71:]


async def test_what_keeps_the_connection_to_itself_belongs_into_run(database: Database) -> None:
    async def work(raw: AsyncConnection[Any]) -> tuple[Any, ...]:
        await raw.set_autocommit(True)
        await raw.execute("LISTEN news")
        await raw.execute("NOTIFY news, 'fresh'")
        heard = [note.payload async for note in raw.notifies(timeout=5, stop_after=1)]
        async with raw.cursor() as cursor:
            streamed = [row async for row in cursor.stream("SELECT 7")]
            async with cursor.copy("COPY (SELECT 8) TO STDOUT") as copy:
                copied = [bytes(data) async for data in copy]
        return heard, streamed, copied

    async with database.opened() as pool, pool.connection() as conn:
        cursor = conn.cursor()
        for owner, name in ((conn, "notifies"), (cursor, "stream"), (cursor, "copy")):
            with pytest.raises(PoolError, match=rf"^{name}\(\) keeps .* run\(\)"):
                getattr(owner, name)
        assert await conn.run(work) == (["fresh"], [(7,)], [b"8\n"])


# ------------------------------------------------------------------------------------------------
# Cancelling


@pytest.fixture(params=["cancel_safe", "PQcancel"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With a libpq that has the newer cancel, and as if it were an older one."""
    way: str = request.param
    monkeypatch.setattr(psycopg.capabilities, "has_cancel_safe", lambda: way == "cancel_safe")
    return way


async def test_a_cancel_at_any_moment_hits_its_statement_or_none(
    activity: Activity, either_way: str
) -> None:
    async with activity.pool(max_size=1) as pool:
        driver: Any = pool._driver
        assert (driver._libpq is None) is (either_way == "cancel_safe")
        await cancelled_at_any_moment(activity, pool, 80)


@pytest.mark.realtime
async def test_a_cancel_that_the_server_does_not_answer_holds_nobody_up(
    activity: Activity, postgres: PostgresServer, either_way: str
) -> None:
    await cancelled_without_an_answer(activity, postgres)


@pytest.mark.realtime
async def test_a_cancel_that_is_reset_hits_no_later_statement(
    database: Database, postgres: PostgresServer
) -> None:
    await cancelled_behind_a_reset(database, postgres, sslmode="disable")


async def test_a_cancel_that_may_still_arrive_costs_the_connection(
    activity: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = AsyncConnection.cancel_safe

    async def answered_late(raw: AsyncConnection[Any], *, timeout: float) -> None:
        await cancel(raw, timeout=timeout)
        raise psycopg.errors.CancellationTimeout

    async with activity.pool(max_size=1) as pool:
        task = asyncio.create_task(pool.fetch_val(activity.endless))
        await activity.begins()
        monkeypatch.setattr(AsyncConnection, "cancel_safe", answered_late)
        task.cancel()
        await asyncio.wait([task])
        await eventually(lambda: pool.free == 1)
        assert (pool.size, pool.stats().discarded) == (0, 1)


async def test_a_function_that_waits_for_something_else_is_cancelled_with_its_caller(
    database: Database,
) -> None:
    async def dawdle(raw: AsyncConnection[Any]) -> None:
        await raw.execute("SELECT 1")
        await asyncio.sleep(60)

    async with database.opened(max_size=1) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await pool.run(dawdle)
        async with asyncio.timeout(10):
            assert await pool.fetch_val("SELECT 7") == 7


# ------------------------------------------------------------------------------------------------
# Errors


async def test_a_killed_backend_is_known_for_a_lost_connection(
    database: Database, postgres: PostgresServer
) -> None:
    async with database.opened(max_size=2, setup=by_a_coroutine) as pool:
        async with pool.connection() as idle, pool.connection() as conn:
            assert await idle.fetch_val("SELECT 1") == 1
            kill(postgres, await backend(postgres, conn))
            with pytest.raises(psycopg.OperationalError):
                await conn.fetch_val("SELECT 1")
        assert pool.size == 0, "all that were made before it are retired"
        assert await pool.fetch_val("SELECT 1") == 1
