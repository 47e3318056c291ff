"""aiomysql on a real MariaDB: its cursors while lent, and a session as it was after the return."""

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import aiomysql
import pytest

from asyncdbpool import Connection, ConnectionPool, ConnectionReturned, PoolError
from support.access import backend, connections, eventually, kill
from support.databases import Database, expected
from support.servers import MariaDBServer

SLOW_ROWS = "SELECT seq, SLEEP(0.3), REPEAT('x', 40000) FROM seq_1_to_1000"
"""One row after the other: each is longer than what the server gathers before it sends."""


@pytest.fixture
def database(aiomysql_database: Database) -> Database:
    return aiomysql_database


@pytest.fixture
async def single(database: Database) -> AsyncIterator[ConnectionPool]:
    """A pool of one connection, so that the next lease is of the same one."""
    async with database.pool(max_size=1) as pool:
        yield pool
        assert pool.stats().created == 1, "nothing of this costs a connection"


@pytest.fixture
def two_results(database: Database) -> Iterator[str]:
    """A procedure with two results; its name."""
    database.change(
        "DROP PROCEDURE IF EXISTS two_results",
        "CREATE PROCEDURE two_results() BEGIN SELECT 1; SELECT 2, 3; END",
    )
    yield "two_results"
    database.change("DROP PROCEDURE two_results")


class Sent:
    """What the connections send to the server while it is watched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._commands: list[str] = []
        execute_command = aiomysql.Connection._execute_command

        async def watched(raw: Any, command: int, sql: Any) -> Any:
            self._commands.append(sql.decode() if isinstance(sql, bytes) else sql)
            return await execute_command(raw, command, sql)

        monkeypatch.setattr(aiomysql.Connection, "_execute_command", watched)

    def since(self) -> list[str]:
        """Give what was sent since the last time."""
        commands, self._commands = self._commands, []
        return commands


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    return Sent(monkeypatch)


def returned() -> Any:
    return pytest.raises(ConnectionReturned, match="this connection was returned")


# ------------------------------------------------------------------------------------------------
# Cursors


async def test_a_cursor_is_awaited_or_entered_as_in_aiomysql(
    items: str, conn: Any, database: Database
) -> None:
    cursor = await conn.cursor()
    assert await cursor.execute("INSERT INTO items VALUES (%s, %s)", (1, "one")) == 1
    assert await cursor.executemany("INSERT INTO items VALUES (%s, 'many')", [(2,), (3,)]) == 2
    assert await cursor.execute("SELECT id FROM items ORDER BY id") == 3
    assert await cursor.fetchone() == (1,)
    assert list(await cursor.fetchmany(1)) == [(2,)]
    assert list(await cursor.fetchall()) == [(3,)]
    assert cursor.rowcount == 3
    assert [column[0] for column in cursor.description] == ["id"]
    assert cursor.connection is conn
    await cursor.scroll(0, "absolute")
    assert await cursor.fetchone() == (1,)
    cursor.arraysize = 2
    assert list(await cursor.fetchmany()) == [(2,), (3,)]
    await cursor.close()
    assert cursor.closed
    async with await conn.cursor() as cursor, cursor as again:
        assert again is cursor
    with pytest.raises(aiomysql.ProgrammingError, match="Cursor closed"):
        await cursor.execute("SELECT 1")
    async with conn.cursor() as cursor:
        await cursor.execute(database.rows(300))
        assert [row async for row in cursor] == expected(300)
        assert "Cursor" in repr(cursor)
        assert cursor
    assert cursor.closed


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("Cursor", expected(3)),
        ("SSCursor", expected(3)),
        ("DictCursor", [{"n": n, "label": label} for n, label in expected(3)]),
        ("SSDictCursor", [{"n": n, "label": label} for n, label in expected(3)]),
    ],
)
async def test_each_kind_of_cursor_gives_its_own_rows(
    conn: Any, database: Database, kind: str, rows: list[Any]
) -> None:
    async with conn.cursor(getattr(aiomysql, kind)) as cursor:
        await cursor.execute(database.rows(3))
        assert [row async for row in cursor] == rows
        await cursor.execute(database.rows(3))
        assert await cursor.fetchone() == rows[0]
        assert list(await cursor.fetchall()) == rows[1:]
        assert await cursor.fetchone() is None
    mixed = await conn.cursor(aiomysql.DictCursor, aiomysql.SSCursor)
    await mixed.execute("SELECT 1 AS one")
    assert await mixed.fetchone() == {"one": 1}


async def test_execute_on_the_connection_gives_a_cursor(items: str, conn: Any) -> None:
    cursor = await conn.executemany("INSERT INTO items VALUES (%s, 'x')", [(1,), (2,)])
    assert cursor.rowcount == 2
    cursor = await conn.execute("SELECT id FROM items WHERE id > %s", (1,))
    assert await cursor.fetchall() == ((2,),)
    async with conn.execute("SELECT id FROM items ORDER BY id") as cursor:
        assert [row async for row in cursor] == [(1,), (2,)]
    with pytest.raises(aiomysql.ProgrammingError, match="nowhere"):
        await conn.execute("SELECT * FROM nowhere")


async def test_what_asks_the_server_nothing_needs_no_await(conn: Any, database: Database) -> None:
    assert conn.closed is False
    assert conn.get_autocommit() is False
    assert conn.charset == "utf8mb4"
    assert conn.db == database.arguments["db"]
    assert conn.escape("it's") == r"'it\'s'"
    assert conn.thread_id() == await conn.fetch_val("SELECT CONNECTION_ID()")
    assert conn.OperationalError is aiomysql.OperationalError
    cursor = await conn.cursor()
    assert cursor.mogrify("SELECT %s", ("a",)) == "SELECT 'a'"
    with pytest.raises(AttributeError, match="no_such_thing"):
        conn.no_such_thing  # noqa: B018 - the look-up is the test
    with pytest.raises(AttributeError, match="no_such_thing"):
        cursor.no_such_thing  # noqa: B018 - as above
    with pytest.raises(AttributeError, match="__no_such_thing__"):
        cursor.__no_such_thing__  # noqa: B018 - as above


async def test_several_results_are_read_one_after_the_other(conn: Any, two_results: str) -> None:
    cursor = await conn.cursor()
    await cursor.callproc(two_results)
    assert await cursor.fetchall() == ((1,),)
    assert await cursor.nextset()
    assert await cursor.fetchall() == ((2, 3),)
    await cursor.execute("SELECT 4; SELECT 5")
    assert await cursor.fetchone() == (4,)
    assert await cursor.nextset()
    assert await cursor.fetchone() == (5,)
    assert not await cursor.nextset()


async def test_the_warnings_of_a_statement_are_the_drivers(conn: Any) -> None:
    with pytest.warns(aiomysql.Warning, match="Unknown table"):
        await conn.execute("DROP TABLE IF EXISTS nowhere")
    async with conn.cursor() as cursor:
        with pytest.warns(aiomysql.Warning, match="Unknown table"):
            await cursor.execute("DROP TABLE IF EXISTS nowhere")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(aiomysql.Warning, match="Unknown table"):
            await conn.execute("DROP TABLE IF EXISTS nowhere")
    assert await conn.fetch_val("SELECT 1") == 1


async def test_statements_of_several_tasks_take_turns(conn: Any) -> None:
    async def ask(number: int) -> tuple[int, ...]:
        async with conn.cursor() as cursor:
            await cursor.execute("SELECT %s, SLEEP(0.002)", (number,))
            row: tuple[int, ...] = await cursor.fetchone()
            return row

    assert await asyncio.gather(*map(ask, range(20))) == [(number, 0) for number in range(20)]


# ------------------------------------------------------------------------------------------------
# One-shots


@pytest.mark.usefixtures("items")
async def test_execute_tells_the_rowcount(pool: ConnectionPool) -> None:
    for sql, count in {
        "INSERT INTO items SELECT seq, 'new' FROM seq_1_to_5": 5,
        "UPDATE items SET name = 'changed' WHERE id > 3": 2,
        "SELECT * FROM items WHERE id < 4": 3,
        "DELETE FROM items WHERE id = 1": 1,
        "DELETE FROM items WHERE id = 1 -- again": 0,
        "SET @mine = 1": 0,
    }.items():
        assert await pool.execute(sql) == count, sql
    many = [(6,), (7,), (8,)]
    assert await pool.execute_many("INSERT INTO items VALUES (%s, 'x')", many) == 3
    assert await pool.execute("DELETE FROM items WHERE id = %(id)s", {"id": 6}) == 1
    assert await pool.fetch_val("SELECT count(*) FROM items") == 6


async def test_one_shots_work_with_any_kind_of_cursor(database: Database) -> None:
    async with database.pool(cursorclass=aiomysql.SSCursor) as pool:
        assert await pool.execute(database.rows(3)) == -1, "it has not counted its rows"
        assert await pool.fetch_all(database.rows(3)) == expected(3)
        assert await pool.fetch_one(database.rows(3)) == (1, "row 1")
        assert await pool.fetch_val(database.rows(3), column=1) == "row 1"
    async with database.pool(cursorclass=aiomysql.DictCursor) as pool:
        assert await pool.fetch_all(database.rows(1)) == [{"n": 1, "label": "row 1"}]
        assert await pool.fetch_val(database.rows(1)) == 1
        assert await pool.fetch_val(database.rows(1), column="label") == "row 1"
        assert await pool.fetch_one(database.rows(0)) is None
        assert await pool.fetch_val(database.rows(0)) is None


async def test_this_drivers_transactions_take_no_options(conn: Connection) -> None:
    with pytest.raises(TypeError, match="transactions take no isolation, readonly"):
        conn.transaction(isolation="serializable", readonly=True)


# ------------------------------------------------------------------------------------------------
# After the return


async def test_all_that_was_made_from_a_connection_is_revoked_with_it(
    pool: ConnectionPool, database: Database
) -> None:
    conn: Any = await pool.get()
    cursor = await conn.cursor()
    await cursor.execute(database.rows(5))
    stream = await conn.cursor(aiomysql.SSCursor)
    awaited = conn.cursor()
    execution = conn.execute("SELECT 1")
    fetchone, fetchmany, mogrify = cursor.fetchone, stream.fetchmany, cursor.mogrify
    commit, thread_id = conn.commit, conn.thread_id
    await pool.put(conn)

    before = pool.stats()
    awaiting: list[Callable[[], Awaitable[Any]]] = [
        *(fetchmany, commit, lambda: anext(cursor), lambda: awaited),
        *(cursor.__aenter__, awaited.__aenter__, lambda: execution),
    ]
    for use in awaiting:
        with returned():
            await use()
    calls: list[Callable[[], Any]] = [
        *(fetchone, lambda: mogrify("SELECT 1"), thread_id, lambda: aiter(cursor)),
        *(lambda: cursor.rowcount, lambda: cursor.execute, lambda: stream.fetchone),
        *(lambda: conn.charset, lambda: conn.execute("SELECT 1"), conn.cursor),
    ]
    for call in calls:
        with returned():
            call()
    with returned():
        cursor.arraysize = 5
    for thing in (conn, cursor, stream, awaited):
        assert not thing
        assert "returned" in repr(thing)
    await cursor.__aexit__(None, None, None)
    assert pool.stats() == before, "nothing has touched the connection"
    assert await pool.fetch_val("SELECT 1") == 1


# ------------------------------------------------------------------------------------------------
# Answers that nobody has read


async def test_the_rows_of_a_half_read_stream_never_reach_the_next_borrower(
    single: ConnectionPool, database: Database
) -> None:
    async with single.connection() as conn:
        stream: Any = await conn.cursor(aiomysql.SSCursor)
        await stream.execute(database.rows(5000))
        assert await stream.fetchone() == (1, "row 1")
    async with single.connection() as conn:
        assert await conn.fetch_all("SELECT 'mine'") == [("mine",)]
        with returned():
            await stream.fetchone()


async def test_a_stream_that_is_left_early_makes_way_for_the_next_statement(
    single: ConnectionPool, database: Database
) -> None:
    async with single.connection() as conn:
        async with conn.cursor(aiomysql.SSCursor) as stream:
            await stream.execute(database.rows(5000))
            async for row in stream:
                assert row == (1, "row 1")
                break
        assert await conn.fetch_val("SELECT 'mine'") == "mine"


async def test_results_that_nobody_has_read_never_reach_the_next_borrower(
    single: ConnectionPool, database: Database, two_results: str
) -> None:
    for kind in (aiomysql.Cursor, aiomysql.SSCursor):
        for sql in (f"CALL {two_results}()", "SELECT 1; SELECT 2; SELECT 3"):
            async with single.connection() as conn:
                cursor: Any = await conn.cursor(kind)
                await cursor.execute(sql)
                assert await cursor.fetchone() == (1,)
            async with single.connection() as conn:
                assert await conn.fetch_all("SELECT 'mine'") == [("mine",)]


async def test_an_error_among_the_results_that_nobody_has_read_costs_the_connection_at_most(
    pool: ConnectionPool,
) -> None:
    async with pool.connection() as conn:
        await conn.execute("SELECT 1; SELECT * FROM nowhere; SELECT 2")
    assert await pool.fetch_val("SELECT 'mine'") == "mine"
    assert pool.size == 1


async def test_a_cancelled_read_of_a_stream_is_told_and_the_cursor_can_be_used_again(
    single: ConnectionPool,
) -> None:
    async with single.connection() as conn:
        stream: Any = await conn.cursor(aiomysql.SSCursor)
        await stream.execute(SLOW_ROWS)
        assert (await stream.fetchone())[0] == 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await stream.fetchall()
        for read in (stream.fetchone, stream.fetchmany, stream.fetchall, stream.__anext__):
            with pytest.raises(PoolError, match="rows of this cursor went with a call"):
                await read()
        await stream.execute("SELECT 'again'")
        assert await stream.fetchall() == [("again",)]
        await stream.close()
    assert await single.fetch_val("SELECT 1") == 1


async def test_a_stream_whose_read_was_cancelled_can_be_closed(single: ConnectionPool) -> None:
    async with single.connection() as conn:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), conn.cursor(aiomysql.SSCursor) as stream:
                await stream.execute(SLOW_ROWS)
                await stream.fetchall()
        other: Any = await conn.cursor(aiomysql.SSCursor)
        await other.execute(SLOW_ROWS)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await other.fetchone()
                await other.fetchone()
        await other.close()
        assert await conn.fetch_val("SELECT 1") == 1


async def test_rows_in_memory_outlive_a_cancelled_statement(
    single: ConnectionPool, database: Database
) -> None:
    async with single.connection() as conn:
        cursor: Any = await conn.execute(database.rows(3))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await conn.execute("SELECT SLEEP(60)")
        assert await cursor.fetchall() == tuple(expected(3))


# ------------------------------------------------------------------------------------------------
# Transactions and snapshots


async def test_no_lease_sees_the_snapshot_of_an_earlier_one(
    single: ConnectionPool, database: Database, items: str
) -> None:
    count = "SELECT count(*) FROM items"
    async with single.connection() as conn:
        assert await conn.fetch_val(count) == 0
        database.change("INSERT INTO items VALUES (1, 'news')")
        assert await conn.fetch_val(count) == 0, "it is a snapshot"
    async with single.connection() as conn:
        assert await conn.fetch_val(count) == 1
        cursor: Any = await conn.cursor()
        await cursor.execute("SELECT 1")
    for number in (2, 3):
        database.change("INSERT INTO items VALUES (2, 'news')")
        assert await single.fetch_val(count) == number


async def test_what_nobody_committed_is_gone_on_the_next_lease(
    single: ConnectionPool, items: str
) -> None:
    async with single.connection() as conn:
        await conn.execute("INSERT INTO items VALUES (1, 'lost')")
    async with single.connection() as conn:
        assert await conn.fetch_val("SELECT count(*) FROM items") == 0
        await conn.begin()
        await conn.execute("INSERT INTO items VALUES (1, 'lost')")
        await conn.rollback()
        await conn.execute("INSERT INTO items VALUES (2, 'kept')")
        await conn.commit()
    assert await single.fetch_all("SELECT id FROM items") == [(2,)]


async def test_the_return_asks_the_server_nothing_where_no_transaction_is_open(
    database: Database, items: str, sent: Sent
) -> None:
    async with database.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            async with conn.transaction():
                await conn.execute("INSERT INTO items VALUES (1, 'x')")
            sent.since()
        assert sent.since() == [], "it was committed"
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")
            sent.since()
        assert sent.since() == ["ROLLBACK"], "a snapshot may be open"
        async with pool.connection():
            pass
        assert await pool.fetch_val("SELECT 2") == 2
        assert sent.since() == ["SELECT 2", "COMMIT"]

    async with database.pool(max_size=1, autocommit=True) as pool:
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")
            sent.since()
        assert sent.since() == [], "in autocommit there is none"
        assert await pool.fetch_val("SELECT 2") == 2
        assert sent.since() == ["SELECT 2"]
        async with pool.connection() as conn:
            await conn.execute("BEGIN")
            sent.since()
        assert sent.since() == ["ROLLBACK"]


async def test_a_function_in_run_is_one_transaction_but_in_autocommit(
    database: Database, items: str
) -> None:
    async def work(raw: Any, *, fail: bool) -> None:
        async with raw.cursor() as cursor:
            await cursor.execute("INSERT INTO items VALUES (1, 'x')")
            if fail:
                await cursor.execute("SELECT * FROM nowhere")

    for autocommit in (False, True):
        async with database.pool(autocommit=autocommit) as pool:
            with pytest.raises(aiomysql.ProgrammingError):
                await pool.run(work, fail=True)
            assert await pool.execute("DELETE FROM items") == autocommit
            await pool.run(work, fail=False)
            assert await pool.execute("DELETE FROM items") == 1


async def test_execute_many_does_all_or_nothing_also_in_autocommit(
    database: Database, items: str
) -> None:
    database.change("ALTER TABLE items ADD UNIQUE (id)")
    for autocommit in (False, True):
        async with database.pool(autocommit=autocommit) as pool:
            with pytest.raises(aiomysql.IntegrityError):
                await pool.execute_many("INSERT items SELECT %s, 'x'", [(1,), (2,), (1,)])
            assert await pool.fetch_val("SELECT count(*) FROM items") == 0


async def test_savepoints_undo_their_own_part(items: str, conn: Any) -> None:
    async with conn.transaction():
        await conn.execute("INSERT INTO items VALUES (1, 'outer')")
        with pytest.raises(LookupError):
            async with conn.transaction():
                await conn.execute("INSERT INTO items VALUES (2, 'inner')")
                raise LookupError
        async with conn.transaction():
            await conn.execute("INSERT INTO items VALUES (3, 'inner')")
    assert await conn.fetch_all("SELECT id FROM items ORDER BY id") == [(1,), (3,)]


# ------------------------------------------------------------------------------------------------
# What a borrower changes in the session


async def test_autocommit_is_as_it_was_after_the_return(
    single: ConnectionPool, database: Database
) -> None:
    for change in ("by method", "by statement"):
        async with single.connection() as conn:
            if change == "by method":
                await conn.autocommit(True)
            else:
                await conn.execute("SET autocommit = 1")
            assert conn.get_autocommit()
        async with single.connection() as conn:
            assert not conn.get_autocommit()
            assert await conn.fetch_val("SELECT @@autocommit") == 0
    async with database.pool(max_size=1, autocommit=True) as pool:
        async with pool.connection() as conn:
            await conn.autocommit(False)
        assert await pool.fetch_val("SELECT @@autocommit") == 1


async def test_another_database_is_left_on_return(
    single: ConnectionPool, database: Database
) -> None:
    async with single.connection() as conn:
        await conn.select_db("information_schema")
        await conn.select_db(db="information_schema")
        assert await conn.fetch_val("SELECT DATABASE()") == "information_schema"
    assert await single.fetch_val("SELECT DATABASE()") == database.arguments["db"]


async def test_without_a_database_there_is_no_way_back_to_none(database: Database) -> None:
    async with database.pool(max_size=1, db=None) as pool:
        async with pool.connection() as conn:
            first = await conn.fetch_val("SELECT CONNECTION_ID()")
            await conn.select_db("information_schema")
        async with pool.connection() as conn:
            assert await conn.fetch_val("SELECT DATABASE()") is None
            assert await conn.fetch_val("SELECT CONNECTION_ID()") != first


async def test_another_character_set_is_left_on_return(single: ConnectionPool) -> None:
    async with single.connection() as conn:
        await conn.set_charset("latin1")
        await conn.set_charset("cp1251")
        assert conn.charset == "cp1251"
        assert await conn.fetch_val("SELECT @@character_set_client") == "cp1251"
    async with single.connection() as conn:
        assert conn.charset == "utf8mb4"
        assert await conn.fetch_val("SELECT @@character_set_client") == "utf8mb4"
        assert await conn.fetch_val("SELECT '☃'") == "☃"


async def test_assigned_attributes_are_undone_on_return(single: ConnectionPool) -> None:
    async with single.connection() as conn:
        conn.cursorclass = aiomysql.DictCursor
        conn.cursorclass = aiomysql.SSDictCursor
        conn.of_my_own = 7
        assert conn.of_my_own == 7
        assert await conn.fetch_all("SELECT 1 AS one") == [{"one": 1}]
        with pytest.raises(AttributeError):
            conn.charset = "latin1"
    async with single.connection() as conn:
        assert conn.cursorclass is aiomysql.Cursor
        assert not hasattr(conn, "of_my_own")
        assert await conn.fetch_all("SELECT 1 AS one") == [(1,)]


LOOK = (
    "SELECT @mine IS NOT NULL, @@max_statement_time = 99,"
    " IS_USED_LOCK('seven') <=> CONNECTION_ID(), @@sql_mode LIKE '%ANSI%',"
    " @@innodb_lock_wait_timeout <> 10, DATABASE() <> 'shop',"
    " @@character_set_client <> 'utf8mb4', @@autocommit <> 0"
)


async def test_a_reset_is_a_new_session_on_the_old_connection(database: Database) -> None:
    async with database.pool(max_size=1, sql_mode="'TRADITIONAL'") as pool:
        async with pool.connection() as conn:
            for sql in (
                *("SET @mine = 1", "SET SESSION max_statement_time = 99"),
                *("CREATE TEMPORARY TABLE scratch (n integer)", "SELECT GET_LOCK('seven', 0)"),
                *("SET SESSION sql_mode = 'ANSI'", "SET innodb_lock_wait_timeout = 20"),
                *("USE information_schema", "SET autocommit = 1", "SET NAMES latin1"),
            ):
                await conn.execute(sql)
        async with pool.connection(cleanup="reset") as conn:
            row = await conn.fetch_one(LOOK)
            assert all(row[:-1]), f"a rollback is no reset: {row}"
            assert await conn.fetch_val("SELECT count(*) FROM shop.scratch") == 0
        async with pool.connection() as conn:
            row = await conn.fetch_one(LOOK)
            assert not any(row), f"left behind: {row}"
            with pytest.raises(aiomysql.ProgrammingError, match="scratch"):
                await conn.execute("SELECT * FROM shop.scratch")
            mode = await conn.fetch_val("SELECT @@sql_mode")
            assert "TRADITIONAL" in mode, "what the connect asked for"
        assert pool.stats().created == 1, "a reset is no reconnect"


async def test_a_reset_ends_the_transaction_and_the_stream(database: Database, items: str) -> None:
    async with database.pool(max_size=1, cleanup="reset") as pool:
        async with pool.connection() as conn:
            await conn.execute("INSERT INTO items VALUES (1, 'lost')")
            stream: Any = await conn.cursor(aiomysql.SSCursor)
            await stream.execute(database.rows(5000))
            await stream.fetchone()
        assert await pool.fetch_val("SELECT count(*) FROM items") == 0
        assert pool.stats().created == 1


async def test_a_reset_follows_the_connects_wishes_and_not_the_borrowers(
    database: Database,
) -> None:
    async with database.pool(max_size=1, cleanup="reset") as pool:
        async with pool.connection() as conn:
            conn.init_command = "SET @mine = 1"
            conn.sql_mode = "'ANSI'"
            await conn.set_charset("latin1")
            await conn.autocommit(True)
        async with pool.connection() as conn:
            assert not any(await conn.fetch_one(LOOK))
            assert conn.charset == "utf8mb4"


# ------------------------------------------------------------------------------------------------
# Connections that are lost


@pytest.mark.parametrize("way", ["close", "ensure_closed", "server"])
async def test_a_connection_that_was_ended_is_not_lent_again(
    mariadb: MariaDBServer, database: Database, way: str
) -> None:
    async with database.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            number = conn.thread_id()
            if way == "server":
                kill(mariadb, number)
            elif way == "close":
                await conn.run(close)
            else:
                await conn.ensure_closed()
            with pytest.raises((aiomysql.InterfaceError, aiomysql.OperationalError)):
                await conn.execute("SELECT 1")
            assert conn, "it is still lent"
        async with pool.connection() as conn:
            assert conn.thread_id() != number
            assert await conn.fetch_val("SELECT 1") == 1
        assert (pool.size, pool.free) == (1, 1)


async def close(raw: Any) -> None:
    raw.close()


async def test_an_idle_connection_that_the_server_has_closed_is_not_lent_again(
    mariadb: MariaDBServer, pool: ConnectionPool
) -> None:
    number = await backend(mariadb, pool)
    kill(mariadb, number)
    await eventually(lambda: connections(mariadb) == 0)
    assert await backend(mariadb, pool) != number


async def test_a_ping_tells_of_a_lost_connection_unless_it_shall_reconnect(
    mariadb: MariaDBServer, database: Database
) -> None:
    async with database.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.ping()
            number = conn.thread_id()
            kill(mariadb, number)
            with pytest.raises(aiomysql.OperationalError):
                await conn.ping()
        assert await backend(mariadb, pool) != number


async def test_a_connection_that_a_ping_has_made_anew_is_set_up_or_not_lent_again(
    mariadb: MariaDBServer, database: Database
) -> None:
    async def name(raw: Any) -> None:
        async with raw.cursor() as cursor:
            await cursor.execute("SET @name = 'set up'")

    async with database.pool(max_size=1, setup=name) as pool:
        async with pool.connection() as conn:
            number = conn.thread_id()
            kill(mariadb, number)
            await asyncio.sleep(0.05)
            await conn.ping(reconnect=True)
            assert conn.thread_id() != number
            assert await conn.fetch_val("SELECT 1") == 1
        assert await pool.fetch_val("SELECT @name") == "set up"


async def test_a_statement_of_a_connection_that_was_made_anew_is_cancelled_like_any_other(
    mariadb: MariaDBServer, database: Database
) -> None:
    async with database.pool(max_size=1, cancel_grace=20) as pool:
        async with pool.connection() as conn:
            kill(mariadb, conn.thread_id())
            await asyncio.sleep(0.05)
            await conn.ping(reconnect=True)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await conn.execute("SELECT SLEEP(60)")
        async with asyncio.timeout(10):
            assert await pool.fetch_val("SELECT 1") == 1


async def test_close_returns_a_connection_and_leaves_it_open(
    mariadb: MariaDBServer, single: ConnectionPool
) -> None:
    async with single.connection() as conn:
        number = await backend(mariadb, conn)
        await conn.close()
        await conn.close()
        with returned():
            await conn.fetch_val("SELECT 1")
    assert await backend(mariadb, single) == number


# asyncio tells of its transports, too, when they are collected.
@pytest.mark.filterwarnings("ignore:.*unclosed:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_pool_whose_loop_was_closed_starts_afresh_on_the_next(
    mariadb: MariaDBServer, database: Database
) -> None:
    pool = database.pool()
    before = connections(mariadb)

    async def borrow() -> int:
        async with pool.connection() as conn:
            number: int = conn.thread_id()
        return number

    first = asyncio.run(borrow())

    async def again() -> None:
        with pytest.warns(ResourceWarning, match="was not closed before its event loop"):
            assert await borrow() != first
        await pool.close()
        await eventually(lambda: connections(mariadb) == before)

    asyncio.run(again())
    gc.collect()
