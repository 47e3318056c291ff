"""A lent connection: statements, transactions, the driver's own attributes, and its revocation."""

import asyncio
import sqlite3
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import MySQLdb.cursors
import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest

from asyncdbpool import (
    Connection,
    ConnectionPool,
    ConnectionReturned,
    PoolError,
    Transaction,
    WrongEventLoop,
)
from support.databases import Database, expected

INSERT = "INSERT INTO items VALUES (?, ?)"
COUNT = "SELECT COUNT(*) FROM items"


async def insert(conn: Connection, database: Database, *ids: int) -> None:
    for number in ids:
        await conn.execute(database.sql(INSERT), (number, f"item {number}"))


def stored(database: Database) -> list[int]:
    """What another client sees in the table."""
    raw = database.connect()
    try:
        cursor = raw.cursor()
        cursor.execute("SELECT id FROM items ORDER BY id")
        found = [row[0] for row in cursor.fetchall()]
        cursor.close()
        return found
    finally:
        raw.close()


def identity(raw: Any) -> int:
    """Stands for a driver's connection, for comparisons."""
    return id(raw)


# ------------------------------------------------------------------------------------------------
# Statements


async def test_a_statement_gives_a_cursor_with_its_rows(
    database: Database, conn: Connection
) -> None:
    cursor = await conn.execute(database.rows(3))
    assert list(await cursor.fetchall()) == expected(3)


async def test_parameters_go_to_the_driver_as_they_are(
    database: Database, items: str, conn: Connection
) -> None:
    await conn.execute(database.sql(INSERT), (1, "O'Hara; --"))
    found = await conn.fetch_one(database.sql("SELECT name FROM items WHERE id = ?"), (1,))
    assert found == ("O'Hara; --",)


async def test_named_parameters_go_to_the_driver_as_they_are(
    database: Database, conn: Connection
) -> None:
    named = ":name" if database.module is sqlite3 else "%(name)s"
    assert await conn.fetch_val(f"SELECT {named}", {"name": "Ada"}) == "Ada"


async def test_executemany_runs_once_for_each_set_of_parameters(
    database: Database, items: str, conn: Connection
) -> None:
    cursor = await conn.executemany(database.sql(INSERT), [(n, "x") for n in range(5)])
    assert cursor.rowcount == 5
    await conn.commit()
    assert stored(database) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1200])
async def test_fetch_all_gives_a_list_of_every_row(
    database: Database, conn: Connection, count: int
) -> None:
    assert await conn.fetch_all(database.rows(count)) == expected(count)


async def test_fetch_one_gives_the_first_row_or_none(database: Database, conn: Connection) -> None:
    assert await conn.fetch_one(database.rows(3)) == (1, "row 1")
    assert await conn.fetch_one(database.rows(0)) is None


async def test_fetch_val_gives_a_column_of_the_first_row_or_none(
    database: Database, conn: Connection
) -> None:
    assert await conn.fetch_val(database.rows(3)) == 1
    assert await conn.fetch_val(database.rows(3), column=1) == "row 1"
    assert await conn.fetch_val(database.rows(0)) is None


async def test_fetch_val_finds_columns_of_dictionaries_by_number_and_by_name(
    postgresql: Database,
) -> None:
    async with postgresql.pool(cursor_factory=psycopg2.extras.RealDictCursor) as pool:
        assert await pool.fetch_one(postgresql.rows(1)) == {"n": 1, "label": "row 1"}
        assert await pool.fetch_val(postgresql.rows(1), column=1) == "row 1"
        assert await pool.fetch_val(postgresql.rows(1), column="label") == "row 1"


async def test_a_fetch_leaves_no_cursor_that_is_in_the_way(
    database: Database, conn: Connection
) -> None:
    for _ in range(3):
        assert await conn.fetch_one(database.rows(2000)) == (1, "row 1")
    assert await conn.fetch_val(database.rows(1)) == 1


async def test_run_gives_the_drivers_connection_on_its_own_thread(
    database: Database, conn: Connection
) -> None:
    def work(raw: Any, *args: Any, **kwargs: Any) -> Any:
        cursor = raw.cursor()
        cursor.execute(database.rows(1))
        row = cursor.fetchone()
        cursor.close()
        return row, args, kwargs, threading.current_thread()

    row, args, kwargs, thread = await conn.run(work, 1, 2, key="value")
    assert (row, args, kwargs) == ((1, "row 1"), (1, 2), {"key": "value"})
    assert thread is not threading.current_thread()
    assert await conn.run(lambda raw: threading.current_thread()) is thread


async def test_run_raises_what_its_function_raises(conn: Connection) -> None:
    def fail(raw: Any) -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        await conn.run(fail)


async def test_the_drivers_errors_pass_unchanged(database: Database, conn: Connection) -> None:
    raw = database.connect()
    with pytest.raises(database.module.Error) as plain:
        raw.cursor().execute("SELECT nonsense FROM nowhere")
    raw.close()
    with pytest.raises(database.module.Error) as pooled:
        await conn.execute("SELECT nonsense FROM nowhere")
    assert type(pooled.value) is type(plain.value)
    assert str(pooled.value) == str(plain.value)


async def test_a_failed_statement_does_not_spoil_the_next(
    database: Database, conn: Connection
) -> None:
    with pytest.raises(conn.Error):
        await conn.execute("SELECT nonsense FROM nowhere")
    await conn.rollback()
    assert await conn.fetch_val(database.rows(1)) == 1


async def test_statements_of_several_tasks_run_in_the_order_they_were_issued(
    database: Database, items: str, conn: Connection
) -> None:
    statement = database.sql(
        "INSERT INTO items SELECT COUNT(*), ? FROM items"
        if database.module is not psycopg2
        else "INSERT INTO items SELECT COUNT(*), ?::text FROM items"
    )
    await asyncio.gather(*(conn.execute(statement, (f"{n}",)) for n in range(50)))
    rows = await conn.fetch_all("SELECT name FROM items ORDER BY id")
    assert [row[0] for row in rows] == [str(n) for n in range(50)]


async def test_tasks_that_share_a_connection_do_not_mix_up_their_rows(
    database: Database, conn: Connection
) -> None:
    async def read(count: int) -> list[Any]:
        cursor = await conn.execute(database.rows(count))
        return [row async for row in cursor]

    counts = [300, 1, 700, 0, 256]
    assert await asyncio.gather(*map(read, counts)) == [expected(count) for count in counts]


# ------------------------------------------------------------------------------------------------
# Transactions


async def test_a_commit_is_seen_by_others_and_a_rollback_is_not(
    database: Database, items: str, conn: Connection
) -> None:
    await insert(conn, database, 1)
    await conn.commit()
    await insert(conn, database, 2)
    await conn.rollback()
    assert stored(database) == [1]
    assert await conn.fetch_val(COUNT) == 1


async def test_commit_and_rollback_without_a_transaction_are_harmless(
    database: Database, conn: Connection
) -> None:
    await conn.commit()
    await conn.rollback()
    await conn.rollback()
    assert await conn.fetch_val(database.rows(1)) == 1


async def test_what_was_not_committed_is_rolled_back_on_return(
    database_in_mode: Database, items: str
) -> None:
    async with database_in_mode.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            transaction = await conn.transaction().start()
            await insert(conn, database_in_mode, 1)
            del transaction
        assert await pool.fetch_val(COUNT) == 0
    assert stored(database_in_mode) == []


async def test_a_transaction_commits_on_success(database_in_mode: Database, items: str) -> None:
    async with database_in_mode.pool() as pool, pool.connection() as conn:
        async with conn.transaction():
            await insert(conn, database_in_mode, 1, 2)
            assert stored(database_in_mode) == []
        assert stored(database_in_mode) == [1, 2]


async def test_a_transaction_rolls_back_on_an_exception(
    database_in_mode: Database, items: str
) -> None:
    async with database_in_mode.pool() as pool, pool.connection() as conn:
        with pytest.raises(LookupError):
            async with conn.transaction():
                await insert(conn, database_in_mode, 1)
                raise LookupError
        assert await conn.fetch_val(COUNT) == 0
    assert stored(database_in_mode) == []


async def test_a_transaction_rolls_back_when_a_statement_fails(
    database_in_mode: Database, items: str
) -> None:
    async with database_in_mode.pool() as pool, pool.connection() as conn:
        with pytest.raises(conn.Error):
            async with conn.transaction():
                await insert(conn, database_in_mode, 1)
                await conn.execute("SELECT nonsense FROM nowhere")
        assert await conn.fetch_val(COUNT) == 0


async def test_a_transaction_rolls_back_when_its_task_is_cancelled(
    database_in_mode: Database, items: str
) -> None:
    async with database_in_mode.pool() as pool, pool.connection() as conn:
        inside = asyncio.Event()

        async def work() -> None:
            async with conn.transaction():
                await insert(conn, database_in_mode, 1)
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await conn.fetch_val(COUNT) == 0


async def test_an_inner_transaction_that_fails_keeps_the_outer_ones_work(
    database_in_mode: Database, items: str
) -> None:
    async with database_in_mode.pool() as pool, pool.connection() as conn:
        async with conn.transaction():
            await insert(conn, database_in_mode, 1)
            with pytest.raises(LookupError):
                async with conn.transaction():
                    await insert(conn, database_in_mode, 2)
                    async with conn.transaction():
                        await insert(conn, database_in_mode, 3)
                    raise LookupError
            async with conn.transaction():
                await insert(conn, database_in_mode, 4)
            assert stored(database_in_mode) == []
        assert stored(database_in_mode) == [1, 4]


async def test_an_outer_transaction_that_fails_undoes_the_inner_ones_too(
    database_in_mode: Database, items: str
) -> None:
    async with database_in_mode.pool() as pool, pool.connection() as conn:
        with pytest.raises(LookupError):
            async with conn.transaction():
                async with conn.transaction():
                    await insert(conn, database_in_mode, 1)
                raise LookupError
        assert await conn.fetch_val(COUNT) == 0
    assert stored(database_in_mode) == []


async def test_an_inner_transaction_recovers_from_a_failed_statement(
    database_in_mode: Database, items: str
) -> None:
    async with database_in_mode.pool() as pool, pool.connection() as conn:
        async with conn.transaction():
            await insert(conn, database_in_mode, 1)
            with pytest.raises(conn.Error):
                async with conn.transaction():
                    await conn.execute("SELECT nonsense FROM nowhere")
            await insert(conn, database_in_mode, 2)
        assert stored(database_in_mode) == [1, 2]


async def test_transactions_follow_one_another(database_in_mode: Database, items: str) -> None:
    async with database_in_mode.pool() as pool, pool.connection() as conn:
        for number in range(3):
            async with conn.transaction():
                await insert(conn, database_in_mode, number)
        assert stored(database_in_mode) == [0, 1, 2]


async def test_a_transaction_is_started_and_ended_by_hand(
    database_in_mode: Database, items: str
) -> None:
    async with database_in_mode.pool() as pool, pool.connection() as conn:
        outer = await conn.transaction().start()
        await insert(conn, database_in_mode, 1)
        inner = await conn.transaction().start()
        await insert(conn, database_in_mode, 2)
        await inner.rollback()
        await outer.commit()
        assert stored(database_in_mode) == [1]


async def test_a_transaction_that_was_ended_by_hand_lets_its_block_end_quietly(
    database_in_mode: Database, items: str
) -> None:
    async with database_in_mode.pool() as pool, pool.connection() as conn:
        async with conn.transaction() as transaction:
            await insert(conn, database_in_mode, 1)
            await transaction.rollback()
        assert await conn.fetch_val(COUNT) == 0


async def test_the_outermost_transaction_ends_what_was_begun_before_it(
    database: Database, items: str, conn: Connection
) -> None:
    await insert(conn, database, 1)
    async with conn.transaction():
        await insert(conn, database, 2)
    assert stored(database) == [1, 2]


async def test_a_transaction_of_the_pool_lasts_as_long_as_the_lease(
    database_in_mode: Database, items: str
) -> None:
    async with database_in_mode.pool(max_size=1) as pool:
        async with pool.transaction() as conn:
            await insert(conn, database_in_mode, 1)
            async with conn.transaction():
                await insert(conn, database_in_mode, 2)
        assert stored(database_in_mode) == [1, 2]
        with pytest.raises(LookupError):
            async with pool.transaction() as conn:
                await insert(conn, database_in_mode, 3)
                raise LookupError
        assert stored(database_in_mode) == [1, 2]


async def test_a_transaction_starts_only_once(conn: Connection) -> None:
    async with conn.transaction() as transaction:
        with pytest.raises(PoolError, match="started already"):
            await transaction.start()


async def test_a_transaction_that_is_not_under_way_does_not_end(conn: Connection) -> None:
    transaction = conn.transaction()
    with pytest.raises(PoolError, match="not under way"):
        await transaction.commit()
    with pytest.raises(PoolError, match="not under way"):
        await transaction.rollback()


async def test_transactions_end_in_the_reverse_order_of_their_beginnings(
    database: Database, items: str, conn: Connection
) -> None:
    outer = await conn.transaction().start()
    inner = await conn.transaction().start()
    with pytest.raises(PoolError, match="reverse order"):
        await outer.commit()
    await insert(conn, database, 1)
    await inner.commit()
    await conn.commit()
    assert stored(database) == [1]


async def test_a_transaction_is_shown_with_its_pool(pool: ConnectionPool) -> None:
    async with pool.transaction() as conn, conn.transaction() as inner:
        assert "(transaction)" in repr(conn.transaction())
        assert "(savepoint)" in repr(inner)
        assert pool.name in repr(inner)


# ------------------------------------------------------------------------------------------------
# The driver's own attributes and methods


@pytest.mark.parametrize(
    "name",
    [
        "Warning",
        "Error",
        "InterfaceError",
        "DatabaseError",
        "DataError",
        "OperationalError",
        "IntegrityError",
        "InternalError",
        "ProgrammingError",
        "NotSupportedError",
    ],
)
async def test_the_exception_classes_are_those_of_the_driver(
    database: Database, conn: Connection, name: str
) -> None:
    assert getattr(conn, name) is getattr(database.module, name)


async def test_a_missing_attribute_is_an_attribute_error(conn: Connection) -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = conn.no_such_thing
    assert not hasattr(conn, "no_such_thing")
    assert getattr(conn, "no_such_thing", 5) == 5
    assert not hasattr(conn, "__no_such_thing__")


async def test_values_of_sqlites_connection_are_there(sqlite: Database) -> None:
    async with sqlite.pool() as pool, pool.connection() as conn:
        assert conn.in_transaction is False
        assert conn.isolation_level == ""
        assert conn.row_factory is None
        assert conn.text_factory is str
        await conn.execute("CREATE TABLE t (x)")
        before = conn.total_changes
        await conn.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
        assert conn.total_changes == before + 2
        assert conn.in_transaction is True


async def test_methods_of_sqlites_connection_are_awaitable(sqlite: Database) -> None:
    def shout(text: str) -> str:
        return text.upper()

    async with sqlite.pool() as pool, pool.connection() as conn:
        await conn.create_function("shout", 1, shout, deterministic=True)
        assert await conn.fetch_val("SELECT shout('ada')") == "ADA"
        assert await conn.getlimit(sqlite3.SQLITE_LIMIT_ATTACHED) > 0


async def test_values_of_psycopg2s_connection_are_there(postgresql: Database) -> None:
    async with postgresql.pool() as pool, pool.connection() as conn:
        assert conn.info.dbname == postgresql.arguments["database"]
        assert conn.server_version > 90000
        assert conn.status == psycopg2.extensions.STATUS_READY
        assert conn.encoding == "UTF8"
        assert conn.autocommit is False
        await conn.execute("SELECT 1")
        assert conn.status == psycopg2.extensions.STATUS_BEGIN


async def test_methods_of_psycopg2s_connection_are_awaitable(postgresql: Database) -> None:
    async with postgresql.pool() as pool, pool.connection() as conn:
        pid = await conn.get_backend_pid()
        assert await conn.fetch_val("SELECT pg_backend_pid()") == pid
        assert await conn.get_transaction_status() == (
            psycopg2.extensions.TRANSACTION_STATUS_INTRANS
        )
        assert await conn.get_parameter_status("server_encoding") == "UTF8"


async def test_methods_of_mysqldbs_connection_are_awaitable(mysql: Database) -> None:
    async with mysql.pool() as pool, pool.connection() as conn:
        assert await conn.fetch_val("SELECT CONNECTION_ID()") == await conn.thread_id()
        assert "MariaDB" in await conn.get_server_info()
        assert await conn.get_autocommit() is False
        assert await conn.escape_string("it's") == b"it\\'s"


async def test_values_of_mysqldbs_connection_are_there(mysql: Database) -> None:
    async with mysql.pool() as pool, pool.connection() as conn:
        assert conn.cursorclass is MySQLdb.cursors.Cursor
        assert conn.port == mysql.arguments["port"]
        assert conn.open


async def test_an_error_of_a_drivers_method_surfaces(postgresql: Database) -> None:
    async with postgresql.pool() as pool, pool.connection() as conn:
        await conn.execute("SELECT 1")
        with pytest.raises(conn.ProgrammingError, match="set_session"):
            await conn.set_session(autocommit=True)
        assert await conn.fetch_val("SELECT 2") == 2


class Familiar(sqlite3.Connection):
    """A connection whose methods hand out what belongs to the driver."""

    def myself(self) -> "Familiar":
        return self

    def ask(self, sql: str) -> sqlite3.Cursor:
        return self.execute(sql)


async def test_a_method_never_gives_the_drivers_own_connection_or_cursor(
    sqlite: Database,
) -> None:
    async with sqlite.pool(factory=Familiar) as pool, pool.connection() as conn:
        assert await conn.myself() is conn
        cursor = await conn.ask(sqlite.rows(600))
        assert type(cursor) is type(conn.cursor())
        assert cursor.connection is conn
        assert [row async for row in cursor] == expected(600)
        script = await conn.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1);")
        assert type(script) is type(cursor)
        assert await script.fetchone() is None
    for proxy in (cursor, script):
        with pytest.raises(ConnectionReturned):
            await proxy.fetchone()


async def test_a_method_of_a_cursor_never_gives_the_drivers_own_cursor(sqlite: Database) -> None:
    async with sqlite.pool() as pool, pool.connection() as conn:
        cursor = conn.cursor()
        assert await cursor.executescript("CREATE TABLE t (x);") is cursor


# ------------------------------------------------------------------------------------------------
# Assignments


async def test_a_row_factory_takes_effect_ahead_of_the_next_statement(sqlite: Database) -> None:
    async with sqlite.pool() as pool, pool.connection() as conn:
        conn.row_factory = sqlite3.Row
        assert conn.row_factory is sqlite3.Row
        row = await conn.fetch_one("SELECT 1 AS one")
        assert isinstance(row, sqlite3.Row)
        assert row["one"] == 1
        conn.row_factory = dictionary
        assert conn.row_factory is dictionary
        assert await conn.fetch_one("SELECT 1 AS one") == {"one": 1}
        assert await (await conn.execute("SELECT 2 AS two")).fetchall() == [{"two": 2}]
        assert conn.row_factory is dictionary


def dictionary(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    names = [column[0] for column in cursor.description]
    return dict(zip(names, row, strict=True))


def as_new(raw: Any) -> dict[str, Any]:
    """How a driver's connection is set up."""
    names = (
        "row_factory",
        "text_factory",
        "isolation_level",
        "autocommit",
        "readonly",
        "deferrable",
        "cursor_factory",
        "cursorclass",
        "encoders",
    )
    state = {name: getattr(raw, name) for name in names if hasattr(raw, name)}
    if hasattr(raw, "get_autocommit"):
        state["autocommit"] = raw.get_autocommit()
    return state


@pytest.mark.parametrize("then", ["a statement", "nothing", "an error", "a commit"])
async def test_assignments_never_reach_the_next_borrower(database: Database, then: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "sqlite3": {"row_factory": sqlite3.Row, "text_factory": bytes, "isolation_level": None},
        "psycopg2": {
            "autocommit": True,
            "readonly": True,
            "deferrable": True,
            "isolation_level": psycopg2.extensions.ISOLATION_LEVEL_SERIALIZABLE,
            "cursor_factory": psycopg2.extras.RealDictCursor,
        },
        "MySQLdb": {"cursorclass": MySQLdb.cursors.DictCursor},
    }
    if sys.version_info >= (3, 12):
        changes["sqlite3"]["autocommit"] = True
    async with database.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            before = await conn.run(lambda raw: (identity(raw), as_new(raw)))
        async with pool.connection() as conn:
            for name, value in changes[database.name].items():
                setattr(conn, name, value)
            if then == "a statement":
                await conn.execute(database.rows(1))
            elif then == "a commit":
                await conn.commit()
            elif then == "an error":
                with pytest.raises(conn.Error):
                    await conn.execute("SELECT nonsense FROM nowhere")
        async with pool.connection() as conn:
            assert await conn.run(lambda raw: (identity(raw), as_new(raw))) == before
            assert await conn.fetch_all(database.rows(1)) == expected(1)


async def test_autocommit_assigned_by_one_borrower_ends_with_the_lease(
    postgresql: Database,
) -> None:
    async with postgresql.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            conn.autocommit = True
            await conn.execute("SELECT 1")
            assert conn.autocommit is True
            assert conn.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
        async with pool.connection() as conn:
            assert conn.autocommit is False
            await conn.execute("SELECT 1")
            assert conn.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_INTRANS


async def test_autocommit_turned_on_by_mysqldbs_method_ends_with_the_lease(
    mysql: Database,
) -> None:
    async with mysql.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.autocommit(True)
            assert await conn.fetch_val("SELECT @@autocommit") == 1
        async with pool.connection() as conn:
            assert await conn.fetch_val("SELECT @@autocommit") == 0
            assert await conn.get_autocommit() is False


async def test_a_session_set_by_psycopg2s_method_ends_with_the_lease(
    postgresql: Database,
) -> None:
    async with postgresql.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.set_session(isolation_level="SERIALIZABLE", readonly=True, autocommit=True)
            assert conn.autocommit is True
            assert conn.readonly is True
            assert await conn.fetch_val("SHOW transaction_isolation") == "serializable"
        async with pool.connection() as conn:
            assert (conn.autocommit, conn.readonly, conn.isolation_level) == (False, None, None)
            assert await conn.fetch_val("SHOW transaction_isolation") == "read committed"


async def test_what_run_did_to_the_session_ends_with_the_lease(sqlite: Database) -> None:
    def change(raw: sqlite3.Connection) -> None:
        raw.row_factory = sqlite3.Row
        raw.isolation_level = None

    async with sqlite.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.run(change)
            assert conn.row_factory is sqlite3.Row
        async with pool.connection() as conn:
            assert conn.row_factory is None
            assert conn.isolation_level == ""


async def test_an_attribute_that_a_borrower_adds_ends_with_the_lease(mysql: Database) -> None:
    async with mysql.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            conn.remark = "mine"
            assert conn.remark == "mine"
            await conn.execute("SELECT 1")
            assert conn.remark == "mine"
        async with pool.connection() as conn:
            assert not hasattr(conn, "remark")


async def test_an_assigned_value_reads_as_the_driver_has_it_once_a_statement_has_run(
    postgresql: Database,
) -> None:
    async with postgresql.pool() as pool, pool.connection() as conn:
        conn.isolation_level = "SERIALIZABLE"
        await conn.execute("SELECT 1")
        assert conn.isolation_level == psycopg2.extensions.ISOLATION_LEVEL_SERIALIZABLE


async def test_a_method_may_change_what_was_assigned(postgresql: Database) -> None:
    async with postgresql.pool() as pool, pool.connection() as conn:
        conn.autocommit = True
        await conn.execute("SELECT 1")
        await conn.set_session(autocommit=False)
        assert conn.autocommit is False


BAD: dict[str, tuple[str, Any]] = {
    "sqlite3": ("isolation_level", "nonsense"),
    "psycopg2": ("isolation_level", "nonsense"),
    "MySQLdb": ("open", 5),
}


async def test_a_bad_assignments_error_surfaces_and_nothing_is_lost(
    database: Database, items: str, conn: Connection
) -> None:
    name, value = BAD[database.name]
    good = getattr(conn, name)
    setattr(conn, name, value)
    with pytest.raises((ValueError, AttributeError, TypeError)):
        await insert(conn, database, 1)
    assert getattr(conn, name) == good
    await insert(conn, database, 2)
    await conn.commit()
    assert stored(database) == [2]


async def test_assignments_after_a_bad_one_take_effect(sqlite: Database) -> None:
    async with sqlite.pool() as pool, pool.connection() as conn:
        conn.isolation_level = "nonsense"
        conn.row_factory = sqlite3.Row
        with pytest.raises(ValueError, match="isolation_level"):
            await conn.execute("SELECT 1")
        assert isinstance(await conn.fetch_one("SELECT 1"), sqlite3.Row)


async def test_a_bad_assignment_does_not_keep_a_transaction_from_its_rollback(
    database: Database, items: str, pool: ConnectionPool
) -> None:
    name, value = BAD[database.name]
    async with pool.connection() as conn:
        with pytest.raises(LookupError):
            async with conn.transaction():
                await insert(conn, database, 1)
                setattr(conn, name, value)
                raise LookupError
        with pytest.raises((ValueError, AttributeError, TypeError)):
            await insert(conn, database, 2)
        async with conn.transaction():
            await insert(conn, database, 3)
        assert stored(database) == [3]


async def test_an_assignment_of_an_attribute_that_the_driver_lacks_fails_with_the_next_statement(
    sqlite: Database,
) -> None:
    async with sqlite.pool() as pool, pool.connection() as conn:
        conn.no_such_thing = 1
        with pytest.raises(AttributeError, match="no_such_thing"):
            await conn.execute("SELECT 1")
        assert await conn.fetch_val("SELECT 2") == 2
        assert not hasattr(conn, "no_such_thing")


# ------------------------------------------------------------------------------------------------
# The return


async def test_a_connection_tells_whether_it_is_lent(pool: ConnectionPool) -> None:
    async with pool.connection() as conn:
        assert conn
        assert repr(conn) == f"<Connection of pool {pool.name!r}, lent>"
    assert not conn
    assert repr(conn) == f"<Connection of pool {pool.name!r}, returned>"


async def test_closing_twice_is_harmless(pool: ConnectionPool) -> None:
    async with pool.connection() as conn:
        await conn.close()
        assert not conn
        assert pool.idle == 1
        await conn.close()
    await conn.close()
    assert pool.stats().in_use == 0
    assert pool.stats().acquired == 1


async def test_a_connection_that_closed_itself_is_not_put_again(pool: ConnectionPool) -> None:
    conn = await pool.get()
    await conn.close()
    with pytest.raises(ConnectionReturned):
        await pool.put(conn)
    assert pool.idle == 1


async def test_a_discarded_connection_is_not_lent_again(
    database: Database, items: str, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn:
        await insert(conn, database, 1)
        await conn.discard()
        assert not conn
        assert pool.size == 0
        await conn.close()
    assert pool.stats().discarded == 1
    assert await pool.fetch_val(COUNT) == 0
    assert pool.stats().created == 2
    with pytest.raises(ConnectionReturned, match="discarded"):
        await conn.discard()


CONNECTION_USES: dict[str, Callable[[Connection], Any]] = {
    "cursor": lambda conn: conn.cursor(),
    "execute": lambda conn: conn.execute("SELECT 1"),
    "executemany": lambda conn: conn.executemany("SELECT 1", []),
    "commit": lambda conn: conn.commit(),
    "rollback": lambda conn: conn.rollback(),
    "transaction": lambda conn: conn.transaction(),
    "fetch_all": lambda conn: conn.fetch_all("SELECT 1"),
    "fetch_one": lambda conn: conn.fetch_one("SELECT 1"),
    "fetch_val": lambda conn: conn.fetch_val("SELECT 1"),
    "run": lambda conn: conn.run(identity),
    "discard": lambda conn: conn.discard(),
    "an exception class": lambda conn: conn.Error,
    "a missing attribute": lambda conn: conn.no_such_thing,
    "hasattr": lambda conn: hasattr(conn, "autocommit"),
    "an assignment": lambda conn: setattr(conn, "remark", 1),
}


@pytest.mark.parametrize("use", CONNECTION_USES.values(), ids=CONNECTION_USES)
async def test_every_use_of_a_returned_connection_fails(
    pool: ConnectionPool, use: Callable[[Connection], Any]
) -> None:
    async with pool.connection() as conn:
        pass
    with pytest.raises(ConnectionReturned, match=pool.name):
        await awaited(use(conn))
    assert pool.idle == 1


async def awaited(outcome: Any) -> Any:
    return await outcome if isinstance(outcome, Awaitable) else outcome


async def test_a_method_taken_from_a_connection_ends_with_the_lease(mysql: Database) -> None:
    async with mysql.pool() as pool:
        async with pool.connection() as conn:
            thread_id, execution = conn.thread_id, conn.execute("SELECT 1")
        with pytest.raises(ConnectionReturned):
            await thread_id()
        with pytest.raises(ConnectionReturned):
            await execution


TRANSACTION_USES: dict[str, Callable[[Transaction], Any]] = {
    "start": lambda transaction: transaction.start(),
    "commit": lambda transaction: transaction.commit(),
    "rollback": lambda transaction: transaction.rollback(),
    "enter": lambda transaction: transaction.__aenter__(),
}


@pytest.mark.parametrize("use", TRANSACTION_USES.values(), ids=TRANSACTION_USES)
@pytest.mark.parametrize("state", ["made", "started", "ended"])
async def test_every_use_of_a_returned_connections_transaction_fails(
    pool: ConnectionPool, use: Callable[[Transaction], Any], state: str
) -> None:
    async with pool.connection() as conn:
        transaction = conn.transaction()
        if state != "made":
            await transaction.start()
        if state == "ended":
            await transaction.commit()
    for _ in range(2):
        with pytest.raises(ConnectionReturned, match=pool.name):
            await use(transaction)
    assert "returned" in repr(transaction)


async def test_a_block_that_succeeds_after_its_connection_was_returned_tells_so(
    database: Database, items: str, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn:
        with pytest.raises(ConnectionReturned):
            async with conn.transaction():
                await insert(conn, database, 1)
                await conn.close()
    with pytest.raises(LookupError):
        async with pool.connection() as conn, conn.transaction():
            await conn.close()
            raise LookupError
    assert stored(database) == []


async def test_a_statement_that_has_not_started_when_its_connection_returns_never_runs(
    database: Database, items: str, pool: ConnectionPool
) -> None:
    started, gate = threading.Event(), threading.Event()

    def stay(raw: Any) -> None:
        started.set()
        gate.wait(10)

    conn = await pool.get()
    running = asyncio.create_task(conn.run(stay))
    late = asyncio.create_task(conn.execute(database.sql(INSERT), (1, "late")))
    await asyncio.to_thread(started.wait, 10)
    returning = asyncio.create_task(pool.put(conn))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(running, returning, return_exceptions=True)
    with pytest.raises(ConnectionReturned):
        await late
    assert stored(database) == []


LOOP_USES: dict[str, Callable[[ConnectionPool, Connection], Any]] = {
    "execute": lambda pool, conn: conn.execute("SELECT 1"),
    "commit": lambda pool, conn: conn.commit(),
    "rollback": lambda pool, conn: conn.rollback(),
    "transaction": lambda pool, conn: conn.transaction().start(),
    "fetch_all": lambda pool, conn: conn.fetch_all("SELECT 1"),
    "run": lambda pool, conn: conn.run(identity),
    "close": lambda pool, conn: conn.close(),
    "discard": lambda pool, conn: conn.discard(),
    "put": lambda pool, conn: pool.put(conn),
}


@pytest.mark.parametrize("use", LOOP_USES.values(), ids=LOOP_USES)
async def test_a_connection_is_good_on_its_own_loop_only(
    sqlite: Database, use: Callable[[ConnectionPool, Connection], Any]
) -> None:
    async with sqlite.pool() as pool, pool.connection() as conn:

        async def elsewhere() -> None:
            with pytest.raises(WrongEventLoop, match=pool.name):
                await use(pool, conn)

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert conn
        assert await conn.fetch_val("SELECT 1") == 1
