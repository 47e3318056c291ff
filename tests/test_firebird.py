"""Firebird: what its file knows beyond what every driver is tested for."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import firebird.driver
import pytest
from firebird.driver import DefaultAction, Isolation, TraAccessMode, tpb

from asyncdbpool import ConnectionPool
from asyncdbpool.drivers.firebird import FirebirdDriver
from support.databases import Database
from support.servers import FirebirdServer, free_port
from support.subjects.firebird import firebird_on


@pytest.fixture
def database(firebird: FirebirdServer) -> Database:
    return firebird_on(firebird)


def test_the_client_library_is_loaded_on_one_thread_while_others_wait() -> None:
    steps: list[str] = []

    def connect() -> str:  # as the module does
        if not steps:
            steps.append("begun")
            time.sleep(0.05)
            steps.append("loaded")
        return steps[-1]

    driver = FirebirdDriver(SimpleNamespace(get_api=connect, connect=connect))
    with ThreadPoolExecutor(5) as threads:
        connections = [threads.submit(driver.connect, (), {}) for _ in range(5)]
    assert [each.result() for each in connections] == ["loaded"] * 5


async def test_a_late_cancel_leaves_the_transaction_as_it_was(database: Database) -> None:
    driver = FirebirdDriver(firebird.driver)

    def absorb(raw: Any) -> bool | None:
        driver.absorb_cancel(raw)
        return driver.in_transaction(raw)

    async with database.opened() as pool, pool.connection() as conn:
        assert await conn.run(absorb) is False
        await conn.execute(database.select(1))
        assert await conn.run(absorb) is True


async def test_a_block_may_begin_with_another(database: Database) -> None:
    def savepoint(raw: Any) -> None:
        driver = FirebirdDriver(firebird.driver)
        driver.savepoint(raw, "first")
        driver.rollback_savepoint(raw, "first")

    async with database.opened() as pool, pool.connection() as conn:
        await conn.run(savepoint)
        assert conn.is_active is not None
        assert await conn.fetch_val(database.select(7)) == 7


async def test_an_end_of_what_has_not_begun_does_no_harm(database: Database) -> None:
    async with database.opened() as pool, pool.connection() as conn:
        for _ in range(2):
            await conn.commit()
            await conn.rollback()
        assert await conn.fetch_val(database.select(7)) == 7


async def test_prepared_statements_are_a_cursor_s_own(database: Database) -> None:
    def prepared(raw: Any) -> list[Any]:
        with raw.cursor() as cursor, cursor.prepare(database.select("CAST(? AS INTEGER)")) as sql:
            return [cursor.execute(sql, (n,)).fetchone()[0] for n in (1, 2, 3)]

    async with database.opened() as pool:
        assert await pool.run(prepared) == [1, 2, 3]


async def test_a_server_that_refuses_may_come_back_and_a_wrong_path_does_not(
    database: Database,
) -> None:
    driver = FirebirdDriver(firebird.driver)
    login = {name: database.arguments[name] for name in ("user", "password")}
    for name, transient in (
        (f"127.0.0.1/{free_port()}:/nowhere.fdb", True),
        ("nowhere.invalid:/nowhere.fdb", False),
        (database.arguments["database"] + ".not", False),
    ):
        with pytest.raises(firebird.driver.DatabaseError) as caught:
            firebird.driver.connect(name, **login)
        assert driver.is_transient(caught.value) is transient
        async with ConnectionPool(firebird.driver, name, **login) as pool:
            with pytest.raises(firebird.driver.DatabaseError):
                await pool.get()
    assert not driver.is_transient(ValueError())


@pytest.mark.parametrize(("code", "transient"), [(335544744, True), (335544837, False)])
def test_too_many_connections_pass_and_a_wrong_substring_does_not(
    code: int, transient: bool
) -> None:
    error = firebird.driver.DatabaseError("why", gds_codes=(code,))
    assert FirebirdDriver(firebird.driver).is_transient(error) is transient


async def test_a_borrower_s_own_transaction_ends_with_the_loan(database: Database) -> None:
    kept: list[Any] = []

    def begin_beside(raw: Any) -> None:
        manager = raw.transaction_manager()
        kept.append(manager)  # or the garbage collector would end it
        with manager.cursor() as cursor:
            cursor.execute("UPDATE beside SET n = 2")

    def begin_to_read(raw: Any) -> None:
        raw.query_transaction.begin()

    def active(raw: Any) -> list[bool]:
        return [manager.is_active() for manager in raw.transactions]

    async with database.opened(max_size=1) as pool:
        await pool.execute("RECREATE TABLE beside (n INTEGER)")
        await pool.execute("INSERT INTO beside VALUES (1)")
        async with pool.connection() as conn:
            await conn.run(begin_beside)
            await conn.run(begin_to_read)
        async with pool.connection() as conn:
            assert await conn.run(active) == [False, False]
            assert await conn.fetch_val("SELECT n FROM beside") == 1
    assert kept[0].is_closed()


async def test_the_next_borrower_s_transactions_begin_as_ever(database: Database) -> None:
    def read_only(raw: Any) -> None:
        options = tpb(Isolation.SNAPSHOT, access_mode=TraAccessMode.READ)
        raw.default_tpb = raw.main_transaction.default_tpb = options
        raw.main_transaction.default_action = DefaultAction.ROLLBACK

    def options(raw: Any) -> tuple[Any, ...]:
        main = raw.main_transaction
        return raw.default_tpb, main.default_tpb, main.default_action

    async with database.opened(max_size=1) as pool:
        before = await pool.run(options)
        async with pool.connection() as conn:
            await conn.run(read_only)
            assert await conn.run(options) != before
        assert await pool.run(options) == before


async def test_what_setup_has_made_stays(database: Database) -> None:
    kept: list[Any] = []

    def keep(raw: Any) -> None:
        kept.append(raw.transaction_manager())

    def begin(raw: Any) -> None:
        raw.transactions[2].begin()

    async with database.opened(max_size=1, setup=keep) as pool:
        await pool.run(begin)
        assert await pool.run(lambda raw: raw.transactions[2] is kept[0])
        assert not kept[0].is_active()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the module's
@pytest.mark.parametrize("sql", ["COMMIT", "ROLLBACK"])
def test_a_transaction_that_sql_has_ended_does_not_keep_from_closing(
    database: Database, sql: str
) -> None:
    driver = FirebirdDriver(firebird.driver)
    raw = driver.connect((), database.arguments)
    driver.command(raw, database.select(1))
    driver.command(raw, sql)
    driver.close(raw)
    assert raw.is_closed()


def test_a_cancel_of_nothing_is_no_error_and_one_that_fails_is() -> None:
    def fail(_how: Any) -> None:
        raise firebird.driver.DatabaseError("why", gds_codes=(code,))

    raw = SimpleNamespace(_att=SimpleNamespace(cancel_operation=fail))
    cancel = FirebirdDriver(firebird.driver).canceller(raw, (), {})
    assert cancel is not None
    code = 335544933
    cancel(dict)
    code = 335544726
    with pytest.raises(firebird.driver.DatabaseError):
        cancel(dict)
