"""psycopg (version 3): what its file knows beyond what every driver is tested for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import psycopg
import psycopg.types.numeric
import pytest
from psycopg import IsolationLevel
from psycopg.rows import dict_row

from asyncdbpool.drivers.psycopg import PsycopgDriver
from support.access import eventually
from support.activity import Activity
from support.cancelling import cancelled_behind_a_reset, cancelled_without_an_answer
from support.databases import Database, expected
from support.servers import PostgresServer


@pytest.fixture
def database(psycopg_database: Database) -> Database:
    return psycopg_database


# ------------------------------------------------------------------------------------------------
# Sessions


async def test_a_transaction_has_the_characteristics_of_its_connection_in_autocommit_too(
    database: Database,
) -> None:
    def strict(raw: psycopg.Connection) -> None:
        raw.autocommit = True
        raw.isolation_level = IsolationLevel.REPEATABLE_READ
        raw.read_only = True
        raw.deferrable = False

    look = (
        "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
    )
    async with database.opened(setup=strict) as pool:
        assert await pool.fetch_one(look) == ("read committed", "off")
        async with pool.transaction() as conn:
            assert await conn.fetch_one(look) == ("repeatable read", "on")
            async with conn.transaction():
                assert await conn.fetch_val("SELECT 1") == 1
    async with database.opened(setup=lambda raw: setattr(raw, "autocommit", True)) as pool:
        async with pool.transaction() as conn:
            assert await conn.fetch_one(look) == ("read committed", "off")
        async with pool.connection() as conn:
            await conn.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
            async with conn.transaction():  # joins what was begun by hand
                assert await conn.fetch_val(look) == "serializable"


async def test_a_reset_keeps_what_the_connection_was_made_with_and_its_statements_work(
    database: Database,
) -> None:
    def setup(raw: psycopg.Connection) -> None:
        raw.isolation_level = IsolationLevel.SERIALIZABLE
        raw.prepare_threshold = 0

    look = (
        "SELECT pg_backend_pid(), current_setting('client_encoding'),"
        " current_setting('application_name'), current_setting('transaction_isolation'), 'é'"
    )
    asked = {"client_encoding": "latin1", "application_name": "shop", "setup": setup}
    async with database.opened(max_size=1, cleanup="reset", **asked) as pool:
        async with pool.connection() as conn:
            before = await conn.fetch_one(look)
            await conn.rollback()
            conn.autocommit = True
            await conn.execute("SET application_name = 'other'")
            await conn.execute("SET client_encoding = 'utf8'")
        for _ in range(2):
            assert await pool.fetch_one(look) == before
        async with pool.connection() as conn:
            assert conn.autocommit is False
    assert before[1:] == ("LATIN1", "shop", "serializable", "é")


async def test_what_a_borrower_sets_on_the_connection_ends_with_his_lease(
    database: Database,
) -> None:
    def alter(raw: psycopg.Connection[Any]) -> None:
        raw.row_factory = dict_row
        raw.isolation_level = IsolationLevel.SERIALIZABLE
        raw.prepare_threshold = None

    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.run(alter)
            assert await conn.fetch_one("SELECT 1 AS one") == {"one": 1}
        async with pool.connection() as conn:
            assert await conn.fetch_one("SELECT 1 AS one") == (1,)
            assert (conn.isolation_level, conn.prepare_threshold) == (None, 5)


async def test_a_ping_leaves_neither_a_transaction_nor_autocommit_behind(
    database: Database,
) -> None:
    async with database.opened(max_size=1, check="always") as pool:
        for _ in range(2):
            async with pool.connection() as conn:
                assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
                assert conn.autocommit is False
        assert pool.stats().created == 1


# ------------------------------------------------------------------------------------------------
# Cursors


async def test_a_named_cursor_is_read_in_batches_and_scrolled_as_if_nothing_were_read_ahead(
    database: Database,
) -> None:
    async with database.opened() as pool, pool.transaction() as conn:
        cursor = conn.cursor("some", scrollable=True)
        await cursor.execute(database.rows(600))
        assert cursor.description[0].name == "n"
        assert await cursor.fetchone() == (1, "row 1")
        assert [row async for row in cursor] == expected(600)[1:]
        await cursor.scroll(-2)
        assert await cursor.fetchall() == [(600, "row 600")]
        await cursor.scroll(0, "absolute")
        assert await cursor.fetchmany(2) == expected(2)
        await cursor.scroll(300)
        assert await cursor.fetchone() == (303, "row 303")
        assert await cursor.fetchmany(297) == expected(600)[303:]
        await cursor.scroll(-1)
        assert await cursor.fetchone() == (600, "row 600")


async def test_a_named_cursor_that_has_ended_with_its_transaction_can_be_closed(
    database: Database,
) -> None:
    async with database.opened() as pool, pool.connection() as conn:
        async with conn.cursor("some") as cursor:
            await cursor.execute(database.rows(600))
            await conn.commit()
        assert await conn.fetch_val("SELECT 1") == 1


# ------------------------------------------------------------------------------------------------
# Cancelling


@pytest.fixture(params=["cancel_safe", "PQcancel"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With a libpq that has the newer cancel, and as if it were an older one."""
    way: str = request.param
    monkeypatch.setattr(psycopg.capabilities, "has_cancel_safe", lambda: way == "cancel_safe")
    return way


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


async def test_a_cancel_that_is_refused_is_sent_again(
    activity: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = psycopg.Connection.cancel_safe
    refusals = [psycopg.OperationalError("cancellation failed: ... Connection refused")]

    def refused_once(raw: psycopg.Connection, *, timeout: float) -> None:
        if refusals:
            raise refusals.pop()
        cancel(raw, timeout=timeout)

    async with activity.pool(max_size=1) as pool:
        task = asyncio.create_task(pool.fetch_val(activity.endless))
        await activity.begins()
        monkeypatch.setattr(psycopg.Connection, "cancel_safe", refused_once)
        task.cancel()
        await asyncio.wait([task])
        assert await pool.fetch_val("SELECT 7") == 7
        assert (refusals, pool.stats().discarded) == ([], 0)


async def test_a_cancel_that_may_still_arrive_costs_the_connection(
    activity: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = psycopg.Connection.cancel_safe

    def answered_late(raw: psycopg.Connection, *, timeout: float) -> None:
        cancel(raw, timeout=timeout)
        raise psycopg.errors.CancellationTimeout

    async with activity.pool(max_size=1) as pool:
        task = asyncio.create_task(pool.fetch_val(activity.endless))
        await activity.begins()
        monkeypatch.setattr(psycopg.Connection, "cancel_safe", answered_late)
        task.cancel()
        await asyncio.wait([task])
        await eventually(lambda: pool.free == 1)
        assert (pool.size, pool.stats().discarded) == (0, 1)


def test_an_implementation_in_python_needs_no_help_to_cancel() -> None:
    module = SimpleNamespace(connect=psycopg.connect, pq=SimpleNamespace(__impl__="python"))
    assert PsycopgDriver(module)._libpq is None


# ------------------------------------------------------------------------------------------------
# What is left behind


async def test_what_a_borrower_registers_ends_with_his_lease(database: Database) -> None:
    heard: list[str] = []

    def register(raw: psycopg.Connection) -> None:
        raw.add_notice_handler(lambda note: heard.append(note.message_primary or ""))
        raw.adapters.register_loader("numeric", psycopg.types.numeric.FloatLoader)

    async with database.opened(max_size=1) as pool:
        for _ in range(2):
            async with pool.connection() as conn:
                assert repr(await conn.fetch_val("SELECT 1.5")) == "Decimal('1.5')"
                await conn.execute("DO $$ BEGIN RAISE NOTICE 'unheard'; END $$")
                await conn.run(register)
                await conn.execute("DO $$ BEGIN RAISE NOTICE 'heard'; END $$")
                assert repr(await conn.fetch_val("SELECT 1.5")) == "1.5"
        assert pool.stats().created == 1
    assert heard == ["heard", "heard"]


async def test_what_setup_registers_stays(database: Database) -> None:
    def setup(raw: psycopg.Connection) -> None:
        raw.adapters.register_loader("numeric", psycopg.types.numeric.FloatLoader)

    async with database.opened(max_size=1, setup=setup) as pool:
        for _ in range(2):
            assert repr(await pool.fetch_val("SELECT 1.5")) == "1.5"
            await pool.run(lambda raw: raw.adapters.register_loader("numeric", ByName))
        assert pool.stats().created == 1


class ByName(psycopg.types.numeric.NumericLoader):
    """Another one."""


async def test_a_pipeline_that_is_left_open_costs_the_connection(database: Database) -> None:
    left = []  # which would end it if nobody held it

    def leave(raw: psycopg.Connection) -> None:
        left.append(raw.pipeline())
        left[0].__enter__()
        raw.execute("SELECT 1")

    async with database.opened(max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.run(leave)
        assert await pool.fetch_val("SELECT 7") == 7
        assert (pool.stats().created, pool.stats().discarded) == (2, 1)


# ------------------------------------------------------------------------------------------------
# Errors


def test_a_read_only_server_is_as_good_as_lost_and_a_unique_key_is_not() -> None:
    driver, raw = PsycopgDriver(psycopg), SimpleNamespace(closed=False)
    assert driver.is_disconnect(psycopg.errors.ReadOnlySqlTransaction(), raw)
    assert driver.is_disconnect(psycopg.errors.AdminShutdown(), raw)
    assert not driver.is_disconnect(psycopg.errors.UniqueViolation(), raw)
    assert not driver.is_disconnect(ValueError(), raw)
    assert driver.is_disconnect(psycopg.OperationalError(), SimpleNamespace(closed=True))


def test_what_may_pass_is_told_from_what_is_wrong_for_good(database: Database) -> None:
    driver = PsycopgDriver(psycopg)
    for change, transient in (({"port": 1}, True), ({"password": "x"}, False)):
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(**{**database.arguments, **change})
        assert driver.is_transient(caught.value) is transient
    assert driver.is_transient(psycopg.errors.ConnectionTimeout("connection timeout expired"))
    assert driver.is_transient(psycopg.errors.TooManyConnections())
    assert not driver.is_transient(psycopg.errors.InvalidPassword())


def test_a_timeout_goes_to_libpq_unless_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    driver = PsycopgDriver(psycopg)
    own = {"conninfo": "connect_timeout=1"}
    assert driver.with_timeout((), {"host": "a"}, 0.5) == {"host": "a", "connect_timeout": 2}
    assert driver.with_timeout((), own, 7) == own


async def test_a_wrong_number_of_parameters_says_nothing_of_the_connection(
    database: Database,
) -> None:
    async with database.opened(max_size=1, cursor_factory=psycopg.RawCursor) as pool:
        with pytest.raises(psycopg.errors.ProtocolViolation):
            await pool.fetch_val("SELECT $1::text || $2::text", ("one",))
        assert await pool.fetch_val("SELECT $1::text", ("one",)) == "one"
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)
