"""asyncpg on a real PostgreSQL: its own API while lent, nothing of it after the return."""

import asyncio
import gc
import io
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from asyncdbpool import ConnectionPool, ConnectionReturned, PoolError
from asyncdbpool.drivers.asyncpg import AsyncpgDriver, _Request
from support.access import backend, connections, eventually, kill, tell
from support.activity import Activity
from support.cancelling import cancelled_behind_a_reset
from support.databases import Database
from support.servers import PostgresServer


@pytest.fixture
def database(asyncpg_database: Database) -> Database:
    return asyncpg_database


def returned() -> Any:
    return pytest.raises(ConnectionReturned, match="this connection was returned")


class Sent:
    """What a pool's connections have asked the server, asyncpg's own statements included."""

    def __init__(self) -> None:
        self.queries: list[str] = []

    async def watch(self, raw: Any) -> None:
        """Be a pool's `setup`."""
        raw.add_query_logger(lambda record: self.queries.append(record.query))

    async def since(self) -> list[str]:
        """Give what has been asked since the last time."""
        await asyncio.sleep(0)  # asyncpg calls its loggers soon
        queries, self.queries = self.queries, []
        return queries


# ------------------------------------------------------------------------------------------------
# The driver's own API


async def test_statements_give_what_asyncpg_gives(conn: Any, items: str) -> None:
    assert await conn.execute("INSERT INTO items VALUES ($1, $2)", 1, "one") == "INSERT 0 1"
    assert await conn.executemany("INSERT INTO items VALUES ($1, 'many')", [(2,), (3,)]) is None
    records = await conn.fetch("SELECT id, name FROM items ORDER BY id")
    assert all(isinstance(record, asyncpg.Record) for record in records)
    assert [record["id"] for record in records] == [1, 2, 3]
    row = await conn.fetchrow("SELECT id, name FROM items WHERE id = $1", 1)
    assert dict(row) == {"id": 1, "name": "one"}
    assert await conn.fetchval("SELECT name FROM items WHERE id = 2", column=0) == "many"
    assert await conn.execute("SELECT 1; CREATE TEMPORARY TABLE scratch ()") == "CREATE TABLE"
    with pytest.raises(asyncpg.UndefinedTableError):
        await conn.fetch("SELECT * FROM nowhere")


async def test_the_drivers_own_timeout_ends_a_statement_and_spares_the_connection(
    pool: ConnectionPool, conn: Any
) -> None:
    number = await conn.fetchval("SELECT pg_backend_pid()")
    with pytest.raises(TimeoutError):
        await conn.fetch("SELECT pg_sleep(60)", timeout=0.05)
    assert await conn.fetchval("SELECT pg_backend_pid()") == number
    assert pool.stats().cancelled == 0, "it was no caller's cancellation"


async def test_what_asks_the_server_nothing_needs_no_await(conn: Any) -> None:
    assert conn.is_closed() is False
    assert conn.is_in_transaction() is False
    assert conn.get_settings().server_encoding == "UTF8"
    assert conn.get_server_version().major >= 12
    assert conn.get_server_pid() == await conn.fetchval("SELECT pg_backend_pid()")
    with pytest.raises(AttributeError, match="no_such_thing"):
        conn.no_such_thing  # noqa: B018 - the look-up is the test


async def test_a_prepared_statement_can_do_what_asyncpgs_can(conn: Any) -> None:
    statement = await conn.prepare("SELECT $1::int + n AS sum FROM generate_series(1, 3) n")
    assert "PreparedStatement" in repr(statement)
    assert statement
    assert await statement.fetchval(10) == 11
    assert [record["sum"] for record in await statement.fetch(20)] == [21, 22, 23]
    assert statement.get_statusmsg() == "SELECT 3"
    assert (await statement.fetchrow(30))["sum"] == 31
    assert statement.get_query().startswith("SELECT")
    assert [parameter.name for parameter in statement.get_parameters()] == ["int4"]
    assert "Plan" in (await statement.explain(1))[0]
    async with conn.transaction():
        assert [record["sum"] async for record in statement.cursor(40)] == [41, 42, 43]
        cursor = await statement.cursor(50)
        assert (await cursor.fetchrow())["sum"] == 51


async def test_a_prepared_statement_outlives_a_cancelled_call(conn: Any) -> None:
    statement = await conn.prepare("SELECT pg_sleep($1::int), 'rows' AS given")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await statement.fetch(60)
    assert (await statement.fetchrow(0))["given"] == "rows"


async def test_a_cursor_is_awaited_or_iterated_over_as_in_asyncpg(
    database: Database, conn: Any
) -> None:
    async with conn.transaction():
        numbers = [record["n"] async for record in conn.cursor(database.rows(120))]
        assert numbers == list(range(1, 121))
        some = conn.cursor("SELECT generate_series(1, $1) AS n", 7, prefetch=2)
        assert [record["n"] async for record in some] == list(range(1, 8))
        cursor = await conn.cursor(database.rows(20))
        assert (await cursor.fetchrow())["n"] == 1
        assert await cursor.forward(3) == 3
        assert [record["n"] for record in await cursor.fetch(2)] == [5, 6]
        assert len(await cursor.fetch(100)) == 14
        assert await cursor.fetchrow() is None


async def test_two_iterations_over_one_cursor_both_see_all_rows(
    database: Database, conn: Any
) -> None:
    async with conn.transaction():
        cursor = conn.cursor(database.rows(60))
        pairs = [
            (one["n"], two["n"])
            async for one in cursor
            if one["n"] > 58
            async for two in cursor
            if two["n"] > 59
        ]
    assert pairs == [(59, 60), (60, 60)]


async def test_the_rows_ahead_of_an_error_come_before_it(conn: Any) -> None:
    async with conn.transaction():
        pass
    seen: list[int] = []
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with conn.transaction():
            sql = "SELECT 12 / (5 - n) AS share FROM generate_series(1, 9) AS n"
            async for record in conn.cursor(sql, prefetch=1):
                seen.append(record["share"])  # noqa: PERF401 - it does not come to its end
    assert seen == [3, 4, 6, 12]


async def test_a_cursor_outside_of_a_transaction_is_asyncpgs_error(conn: Any) -> None:
    with pytest.raises(asyncpg.NoActiveSQLTransactionError):
        await conn.cursor("SELECT 1")
    with pytest.raises(asyncpg.NoActiveSQLTransactionError):
        async for _ in conn.cursor("SELECT 1"):
            pytest.fail("there is no transaction")
    async with conn.transaction():
        with pytest.raises(asyncpg.InterfaceError, match="prefetch"):
            await conn.cursor("SELECT 1", prefetch=5)


async def test_copies_pass_through(conn: Any, items: str) -> None:
    records = [(number, f"row {number}") for number in range(1, 4)]
    status = await conn.copy_records_to_table("items", records=records)
    assert status == "COPY 3"

    async def lines() -> AsyncIterator[bytes]:
        yield b"4\trow 4\n"
        yield b"5\trow 5\n"

    assert await conn.copy_to_table("items", source=lines()) == "COPY 2"
    output = io.BytesIO()
    assert (
        await conn.copy_from_query("SELECT name FROM items WHERE id > $1", 3, output=output)
        == "COPY 2"
    )
    assert output.getvalue() == b"row 4\nrow 5\n"
    parts: list[bytes] = []

    async def take(data: bytes) -> None:
        parts.append(data)

    await conn.copy_from_table("items", columns=["id"], output=take)
    assert b"".join(parts) == b"1\n2\n3\n4\n5\n"


async def test_statements_of_several_tasks_take_turns_where_asyncpg_would_refuse(
    conn: Any,
) -> None:
    async def ask(number: int) -> int:
        answer: int = await conn.fetchval("SELECT $1::int FROM pg_sleep(0.002)", number)
        return answer

    assert await asyncio.gather(*map(ask, range(20))) == list(range(20))


# ------------------------------------------------------------------------------------------------
# One-shots


@pytest.mark.usefixtures("items")
async def test_execute_tells_the_rowcount_where_the_command_tag_does(pool: ConnectionPool) -> None:
    for sql, count in {
        "INSERT INTO items SELECT n, 'new' FROM generate_series(1, 5) AS n": 5,
        "UPDATE items SET name = 'changed' WHERE id > 3": 2,
        "SELECT * FROM items WHERE id < 4": 3,
        "DELETE FROM items WHERE id = 1": 1,
        "DELETE FROM items WHERE id = 1 -- again": 0,
        "CREATE TEMPORARY TABLE scratch ()": -1,
        "SET application_name = 'mine'": -1,
    }.items():
        assert await pool.execute(sql) == count, sql
    assert await pool.execute_many("DELETE FROM items WHERE id = $1", [(2,), (3,)]) == -1
    assert await pool.fetch_val("SELECT count(*) FROM items") == 2


async def test_params_are_a_sequence_or_a_mapping_whose_order_counts(
    pool: ConnectionPool,
) -> None:
    sql = "SELECT $1::text || $2::text"
    for params in (("a", "b"), ["a", "b"], {"first": "a", "second": "b"}):
        assert await pool.fetch_val(sql, params) == "ab"
    assert await pool.fetch_all("SELECT 1 AS one", ()) == [(1,)]
    assert (await pool.fetch_one("SELECT 1 AS one"))["one"] == 1
    assert await pool.fetch_val("SELECT 1 AS one, 2 AS two", column="two") == 2
    assert await pool.fetch_one("SELECT 1 WHERE false") is None


@pytest.mark.parametrize("params", ["ab", b"ab"])
async def test_a_string_is_no_sequence_of_params(pool: ConnectionPool, params: Any) -> None:
    sql = "SELECT $1::text || $2::text"
    for ask in (pool.fetch_all, pool.fetch_one, pool.fetch_val, pool.execute):
        with pytest.raises(TypeError, match="params must be a sequence or a mapping, not"):
            await ask(sql, params)
    with pytest.raises(TypeError, match="params must be a sequence or a mapping, not"):
        await pool.execute_many("SELECT $1::text", [("a",), params])
    assert (pool.idle, pool.size) == (1, 1)


async def test_a_wrong_parameter_does_not_cost_the_connection(pool: ConnectionPool) -> None:
    async with pool.connection() as conn:
        with pytest.raises(asyncpg.DataError):
            await conn.fetch("SELECT $1::int", "no number")
        with pytest.raises(asyncpg.InterfaceError, match="expects 1 argument"):
            await conn.fetch("SELECT $1::int")
    with pytest.raises(asyncpg.InterfaceError, match="expects 1 argument"):
        await pool.fetch_val("SELECT $1::int", (1, 2))
    assert await pool.fetch_val("SELECT $1::int", (7,)) == 7
    assert (pool.stats().created, pool.stats().discarded) == (1, 0)


@pytest.mark.usefixtures("items")
async def test_execute_many_does_all_or_nothing(pool: ConnectionPool) -> None:
    with pytest.raises(asyncpg.DataError):
        await pool.execute_many("INSERT INTO items VALUES ($1, 'x')", [(1,), (2,), ("three",)])
    assert await pool.fetch_val("SELECT count(*) FROM items") == 0


# ------------------------------------------------------------------------------------------------
# After the return


async def test_all_that_was_made_from_a_connection_is_revoked_with_it(
    pool: ConnectionPool, database: Database
) -> None:
    conn: Any = await pool.get()
    statement = await conn.prepare("SELECT 1")
    fetch_it = statement.fetch
    block = conn.transaction()
    await block.start()
    factory = conn.cursor(database.rows(200))
    cursor = await conn.cursor(database.rows(200))
    rows = aiter(factory)
    assert (await anext(rows))["n"] == 1, "more of them are here already"
    fetch, is_closed, fetchrow = conn.fetch, conn.is_closed, cursor.fetchrow
    get_query = statement.get_query
    await pool.put(conn)

    before = pool.stats()
    awaiting: list[Callable[[], Awaitable[Any]]] = [
        *(lambda: fetch("SELECT 1"), fetchrow, lambda: anext(rows), lambda: anext(aiter(factory))),
        *(block.commit, block.rollback, block.start),
        *(fetch_it, lambda: cursor.fetch(1), lambda: cursor.forward(1)),
    ]
    for use in awaiting:
        with returned():
            await use()
    with returned():
        await factory
    calls: list[Callable[[], Any]] = [
        *(is_closed, get_query, conn.transaction, lambda: conn.fetch, lambda: conn.is_closed),
        *(lambda: conn.cursor("SELECT 1"), lambda: conn.execute("SELECT 1")),
        *(lambda: statement.get_query, lambda: statement.cursor, lambda: aiter(factory)),
    ]
    for call in calls:
        with returned():
            call()
    with returned():
        conn.name = "mine"
    for thing in (conn, statement, factory, cursor):
        assert not thing
        assert "returned" in repr(thing)
    assert pool.stats() == before, "nothing has touched the connection"
    assert await pool.fetch_val("SELECT 1") == 1


async def test_a_cursor_that_is_used_by_the_next_borrower_is_not_the_last_ones(
    pool: ConnectionPool, database: Database
) -> None:
    async with pool.connection() as first, first.transaction():
        rows = aiter(first.cursor(database.rows(200)))
        await anext(rows)
    async with pool.connection() as second, second.transaction():
        cursor: Any = await second.cursor(database.rows(3))
        with returned():
            [record async for record in rows]
        assert [record["n"] for record in await cursor.fetch(9)] == [1, 2, 3]


# ------------------------------------------------------------------------------------------------
# Listeners and loggers


async def test_a_listener_is_given_the_proxy_and_is_gone_after_the_return(
    pool: ConnectionPool, database: Database
) -> None:
    heard: list[tuple[Any, ...]] = []
    arrived = asyncio.Event()

    def plain(*args: Any) -> None:
        heard.append(("plain", *args))

    async def later(*args: Any) -> None:
        heard.append(("async", *args))
        arrived.set()

    async with pool.connection() as conn:
        number = await conn.fetchval("SELECT pg_backend_pid()")
        await conn.add_listener("news", plain)
        await conn.add_listener("news", later)
        await conn.add_listener("more news", plain)
        database.change("NOTIFY news, 'hello'")
        async with asyncio.timeout(10):
            await arrived.wait()
        assert {word for word, *_ in heard} == {"plain", "async"}
        for _, given, _pid, channel, payload in heard:
            assert given is conn
            assert (channel, payload) == ("news", "hello")
    heard.clear()
    database.change("NOTIFY news, 'too late'")
    async with pool.connection() as conn:
        assert await conn.fetchval("SELECT pg_backend_pid()") == number
        assert await conn.fetch("SELECT pg_listening_channels()") == []
    assert heard == []


async def test_a_listener_that_is_removed_by_the_same_function_needs_no_cleanup(
    database: Database,
) -> None:
    heard: list[str] = []
    sent = Sent()

    def hear(conn: Any, pid: int, channel: str, payload: str) -> None:
        heard.append(payload)

    async with database.pool(setup=sent.watch) as pool:
        async with pool.connection() as conn:
            await conn.add_listener("news", hear)
            await conn.remove_listener("news", callback=hear)
            database.change("NOTIFY news, 'unheard'")
            assert await conn.fetch("SELECT pg_listening_channels()") == []
            await sent.since()
        assert await sent.since() == []
    assert heard == []


async def test_a_notification_that_is_under_way_at_the_return_reaches_nobody(
    pool: ConnectionPool, database: Database
) -> None:
    heard: list[str] = []

    async def hear(conn: Any, pid: int, channel: str, payload: str) -> None:
        heard.append(payload)

    conn = await pool.get()
    await conn.add_listener("news", hear)
    database.change("NOTIFY news, 'just now'")  # the loop has not read it yet
    await pool.put(conn)
    await asyncio.sleep(0.05)
    assert heard == []


async def test_a_listener_does_not_keep_a_dropped_proxy_alive(
    pool: ConnectionPool, database: Database
) -> None:
    heard: list[str] = []
    conn: Any = await pool.get()
    await conn.add_listener("news", lambda *args: heard.append(args[-1]))
    with pytest.warns(ResourceWarning, match="dropped without being returned"):
        del conn
    async with asyncio.timeout(10):
        while pool.stats().in_use:  # noqa: ASYNC110 - it comes back by itself
            await asyncio.sleep(0.01)
    assert pool.stats().reclaimed == 1
    database.change("NOTIFY news, 'unheard'")
    async with pool.connection() as conn:
        assert await conn.fetch("SELECT pg_listening_channels()") == []
    assert heard == []


async def test_log_listeners_and_query_loggers_end_with_the_lease(pool: ConnectionPool) -> None:
    notices: list[Any] = []
    queries: list[str] = []

    class Notices:
        def __call__(self, conn: Any, message: Any) -> None:
            notices.append((conn, message.message))

    notice = "DO $$ BEGIN RAISE NOTICE 'look here'; END $$"
    async with pool.connection() as conn:
        listener = Notices()
        conn.add_log_listener(listener)
        conn.add_query_logger(lambda record: queries.append(record.query))
        await conn.execute(notice)
        await asyncio.sleep(0)
        assert notices == [(conn, "look here")]
        assert queries == [notice]
        conn.remove_log_listener(listener)
        await conn.execute(notice)
        await asyncio.sleep(0)
        assert len(notices) == 1
        conn.add_log_listener(listener)
    async with pool.connection() as conn:
        await conn.execute(notice)
        await asyncio.sleep(0)
    assert len(notices) == 1
    assert queries == [notice, notice]


async def test_what_is_called_back_may_be_anything_that_can_be_called(
    pool: ConnectionPool, database: Database
) -> None:
    heard: list[str] = []

    class Station:
        __hash__ = None  # type: ignore[assignment] # which asyncpg itself would ask for

        def __call__(self, conn: Any, pid: int, channel: str, payload: str) -> None:
            heard.append(f"called: {payload}")

        def method(self, conn: Any, pid: int, channel: str, payload: str) -> None:
            heard.append(f"method: {payload}")

    station = Station()
    async with pool.connection() as conn:
        await conn.add_listener("news", station)
        await conn.add_listener("news", partial(Station.method, station))
        database.change("NOTIFY news, 'one'")
        await eventually(lambda: sorted(heard) == ["called: one", "method: one"])
        await conn.remove_listener("news", station)
        database.change("NOTIFY news, 'two'")
        await eventually(lambda: heard[2:] == ["method: two"])
    async with pool.connection() as conn:
        assert await conn.fetch("SELECT pg_listening_channels()") == []


@pytest.mark.parametrize("cleanup", ["rollback", "reset"])
async def test_who_listens_since_setup_listens_on_whatever_a_borrower_does(
    database: Database, cleanup: Any
) -> None:
    heard: list[str] = []

    def hear(raw: Any, pid: int, channel: str, payload: str) -> None:
        heard.append(f"{channel}: {payload}")

    async def listen(raw: Any) -> None:
        await raw.add_listener("news", hear)
        raw.add_log_listener(ignore)
        raw.add_query_logger(ignore)

    async def change(raw: Any) -> None:
        await raw.remove_listener("news", hear)
        await raw.add_listener("gossip", hear)
        raw.remove_query_logger(ignore)

    async def look(raw: Any) -> None:
        raw.remove_log_listener(other)  # which is not there
        assert [callback.cb for callback in raw._log_listeners] == [ignore]
        assert [callback.cb for callback in raw._query_loggers] == [ignore]

    def ignore(*args: Any) -> None:
        pass

    def other(*args: Any) -> None:
        pass

    async with database.pool(max_size=1, setup=listen, cleanup=cleanup) as pool:
        async with pool.connection() as conn:
            await conn.run(change)
        async with pool.connection() as conn:
            await conn.run(look)
            assert await conn.fetch("SELECT pg_listening_channels()") == [("news",)]
            database.change("NOTIFY gossip, 'unheard'", "NOTIFY news, 'heard'")
            await eventually(lambda: bool(heard))
        assert heard == ["news: heard"]
        assert pool.stats().created == 1


async def test_a_query_logger_for_a_block_is_asyncpgs_own(pool: ConnectionPool) -> None:
    queries: list[str] = []
    async with pool.connection() as conn:
        with conn.query_logger(lambda record: queries.append(record.query)):
            await conn.execute("SELECT 1")
        await conn.execute("SELECT 2")
        await asyncio.sleep(0)
    assert queries == ["SELECT 1"]


async def test_a_termination_listener_hears_of_an_end_during_its_lease_only(
    database: Database,
) -> None:
    ends: list[str] = []

    async def watched(pool: ConnectionPool, name: str, *, end: bool) -> None:
        async with pool.connection() as conn:

            async def hear(given: Any) -> None:
                ends.append(name)
                assert given is conn

            conn.add_termination_listener(hear)
            if end:
                conn.terminate()
                await asyncio.sleep(0.01)

    async with database.pool(max_size=1) as pool:
        await watched(pool, "returned", end=False)
        await watched(pool, "ended", end=True)
    await asyncio.sleep(0)
    assert ends == ["ended"]


async def test_a_callback_that_comes_just_after_the_return_is_not_called(
    pool: ConnectionPool,
) -> None:
    ends: list[Any] = []

    async def hear(given: Any) -> None:
        ends.append(given)

    conn: Any = await pool.get()
    conn.add_termination_listener(hear)
    conn.add_termination_listener(ends.append)
    conn.terminate()  # which calls them soon
    await pool.put(conn)
    await asyncio.sleep(0.01)
    assert ends == []


async def test_a_callback_that_cannot_be_called_is_asyncpgs_error(
    pool: ConnectionPool, conn: Any
) -> None:
    with pytest.raises(asyncpg.InterfaceError, match="callable"):
        await conn.add_listener("news", "no function")
    with pytest.raises(TypeError):
        conn.add_log_listener()
    with pytest.raises(TypeError):
        await conn.add_listener("news")
    assert await conn.fetchval("SELECT 1") == 1
    await conn.close()
    assert await pool.fetch_all("SELECT pg_listening_channels()") == []


# ------------------------------------------------------------------------------------------------
# Codecs


async def as_json(conn: Any, **options: Any) -> None:
    options = {"encoder": json.dumps, "decoder": json.loads, **options}
    await conn.set_type_codec("json", schema="pg_catalog", **options)


async def test_a_type_codec_is_gone_after_the_return(pool: ConnectionPool) -> None:
    sql = """SELECT '{"a": 1}'::json"""
    async with pool.connection() as conn:
        await as_json(conn)
        assert await conn.fetchval(sql) == {"a": 1}
    async with pool.connection() as conn:
        assert await conn.fetchval(sql) == '{"a": 1}'
        await as_json(conn)
        await conn.reset_type_codec("json", schema="pg_catalog")
        assert await conn.fetchval(sql) == '{"a": 1}'
    assert await pool.fetch_val(sql) == '{"a": 1}'


async def test_a_builtin_codec_is_gone_after_the_return(
    postgres: PostgresServer, pool: ConnectionPool
) -> None:
    sql = "SELECT 'a => 1'::hstore"
    tell(postgres, "CREATE EXTENSION IF NOT EXISTS hstore")
    async with pool.connection() as conn:
        await conn.set_builtin_type_codec("hstore", codec_name="pg_contrib.hstore")
        assert await conn.fetchval(sql) == {"a": "1"}
    assert await pool.fetch_val(sql) == '"a"=>"1"'


async def test_a_codec_for_a_type_that_there_is_not_is_asyncpgs_error(
    pool: ConnectionPool,
) -> None:
    async with pool.connection() as conn:
        with pytest.raises(ValueError, match="unknown type"):
            await conn.set_type_codec("nothing", encoder=str, decoder=str)
        assert await conn.fetchval("SELECT 1") == 1
    assert await pool.fetch_val("SELECT 1") == 1


@pytest.mark.parametrize("change", ["another one", "none"])
async def test_the_codec_of_setup_outlives_a_borrowers_own(
    database: Database, change: str
) -> None:
    sql = """SELECT '{"a": 1}'::json"""
    async with database.pool(setup=as_json) as pool:
        assert await pool.fetch_val(sql) == {"a": 1}
        async with pool.connection() as conn:
            if change == "none":
                await conn.reset_type_codec("json", schema="pg_catalog")
                assert await conn.fetchval(sql) == '{"a": 1}'
            else:
                await as_json(conn, decoder=len)
                assert await conn.fetchval(sql) == 8
        assert await pool.fetch_val(sql) == {"a": 1}


# ------------------------------------------------------------------------------------------------
# Transactions


async def setting(conn: Any, name: str) -> str:
    value: str = await conn.fetchval("SELECT current_setting($1)", name)
    return value


async def test_a_transaction_takes_asyncpgs_options(pool: ConnectionPool, conn: Any) -> None:
    async with conn.transaction(isolation="serializable", readonly=True, deferrable=True):
        assert await setting(conn, "transaction_isolation") == "serializable"
        assert await setting(conn, "transaction_read_only") == "on"
        assert await setting(conn, "transaction_deferrable") == "on"
    assert await setting(conn, "transaction_read_only") == "off"
    async with pool.transaction() as other:
        assert await setting(other, "transaction_isolation") == "read committed"


async def test_a_savepoint_takes_no_options_but_those_of_its_transaction(
    conn: Any, items: str
) -> None:
    async with conn.transaction(isolation="serializable"):
        await conn.execute("INSERT INTO items VALUES (1, 'outer')")
        with pytest.raises(PoolError, match="give them to the outermost"):
            async with conn.transaction(isolation="repeatable_read"):
                pytest.fail("it has begun")
        with pytest.raises(LookupError):
            async with conn.transaction(isolation="serializable"):
                await conn.execute("INSERT INTO items VALUES (2, 'inner')")
                raise LookupError
        async with conn.transaction():
            await conn.execute("INSERT INTO items VALUES (3, 'inner')")
    assert [number for (number,) in await conn.fetch("SELECT id FROM items ORDER BY id")] == [1, 3]
    async with conn.transaction(), conn.transaction():
        assert await setting(conn, "transaction_isolation") == "read committed"


async def test_an_isolation_that_there_is_not_is_asyncpgs_error(conn: Any) -> None:
    with pytest.raises(ValueError, match="isolation is expected to be either of"):
        async with conn.transaction(isolation="chaos"):
            pytest.fail("it has begun")
    assert not conn.is_in_transaction()
    with pytest.raises(TypeError, match="take no chaos, level"):
        conn.transaction(level=1, chaos=2)


async def test_a_function_in_run_may_nest_asyncpgs_own_transactions(
    pool: ConnectionPool, items: str
) -> None:
    async def work(raw: Any, *, fail: bool) -> str:
        assert raw.is_in_transaction()
        await raw.execute("INSERT INTO items VALUES (1, 'outer')")
        try:
            async with raw.transaction():
                await raw.execute("INSERT INTO items VALUES (2, 'inner')")
                raise LookupError
        except LookupError:
            pass
        async with raw.transaction():
            await raw.execute("INSERT INTO items VALUES (3, 'inner')")
        if fail:
            raise KeyError("at last")
        return "done"

    count = "SELECT array_agg(id ORDER BY id) FROM items"
    with pytest.raises(KeyError, match="at last"):
        await pool.run(work, fail=True)
    assert await pool.fetch_val(count) is None
    assert await pool.run(work, fail=False) == "done"
    assert await pool.fetch_val(count) == [1, 3]
    async with pool.connection() as conn:
        async with conn.transaction():
            await conn.run(work, fail=False)
        assert not conn.is_in_transaction()


async def start(raw: Any) -> None:
    await raw.transaction().start()


async def enter(raw: Any) -> None:
    await raw.transaction().__aenter__()


async def begin(raw: Any) -> None:
    await raw.execute("BEGIN")


async def fail(raw: Any) -> None:
    await raw.transaction().start()
    await raw.execute("INSERT INTO items VALUES (1, 'x')")
    with pytest.raises(asyncpg.UndefinedTableError):
        await raw.execute("SELECT * FROM nowhere")


@pytest.mark.parametrize("leave_open", [start, enter, begin, fail])
@pytest.mark.parametrize("cleanup", ["rollback", "reset"])
async def test_a_transaction_that_was_left_open_on_the_raw_connection_is_undone(
    database: Database, items: str, leave_open: Callable[[Any], Awaitable[None]], cleanup: Any
) -> None:
    async with database.pool(max_size=1, cleanup=cleanup) as pool:
        async with pool.connection() as conn:
            await conn.run(leave_open)
            if leave_open is not fail:
                await conn.execute("INSERT INTO items VALUES (1, 'x')")
        async with pool.connection() as conn:
            assert not conn.is_in_transaction()
            assert await conn.fetchval("SELECT count(*) FROM items") == 0
            async with conn.transaction(), conn.transaction():
                await conn.execute("INSERT INTO items VALUES (2, 'y')")
        assert await pool.fetch_val("SELECT count(*) FROM items") == 1
        assert pool.stats().created == 1


@pytest.mark.parametrize("leave_open", [start, enter, begin])
async def test_commit_and_rollback_end_whatever_transaction_is_open(
    pool: ConnectionPool, items: str, leave_open: Callable[[Any], Awaitable[None]]
) -> None:
    async with pool.connection() as conn:
        for end in (conn.commit, conn.rollback):
            await conn.run(leave_open)
            await conn.execute("INSERT INTO items VALUES (1, 'x')")
            await end()
            assert not conn.is_in_transaction()
            assert await conn.fetchval("SELECT count(*) FROM items") == 1
            async with conn.transaction():
                await conn.execute("SELECT 1")


async def test_a_commit_that_fails_leaves_a_connection_that_works(
    pool: ConnectionPool, items: str
) -> None:
    async with pool.connection() as conn:
        await conn.execute("ALTER TABLE items ADD UNIQUE (id) DEFERRABLE INITIALLY DEFERRED")
        with pytest.raises(asyncpg.UniqueViolationError):
            async with conn.transaction():
                await conn.execute("INSERT INTO items VALUES (1, 'x'), (1, 'y')")
        assert not conn.is_in_transaction()
        async with conn.transaction():
            await conn.execute("INSERT INTO items VALUES (1, 'z')")
    assert await pool.fetch_val("SELECT name FROM items") == "z"


# ------------------------------------------------------------------------------------------------
# The return


async def test_an_error_that_is_swallowed_inside_of_a_block_is_told_at_its_end(
    pool: ConnectionPool, items: str
) -> None:
    async with pool.connection() as conn:
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            async with conn.transaction():
                await conn.execute("INSERT INTO items VALUES (1, 'x')")
                with pytest.raises(asyncpg.UndefinedTableError):
                    await conn.execute("SELECT * FROM nowhere")
        async with conn.transaction():
            await conn.execute("INSERT INTO items VALUES (2, 'y')")
            with pytest.raises(asyncpg.UndefinedTableError):
                async with conn.transaction():
                    await conn.execute("SELECT * FROM nowhere")
    assert await pool.fetch_all("SELECT id FROM items") == [(2,)]


async def test_the_return_asks_the_server_nothing_where_no_transaction_is_open(
    database: Database, items: str
) -> None:
    sent = Sent()
    async with database.pool(setup=sent.watch, max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.fetch("SELECT 1")
            async with conn.transaction():
                await conn.execute("INSERT INTO items VALUES (1, 'x')")
            statement: Any = await conn.prepare("SELECT 2")
            await statement.fetch()
            with pytest.raises(asyncpg.UndefinedTableError):
                await conn.fetch("SELECT * FROM nowhere")
            await sent.since()
        assert await sent.since() == []
        assert await pool.fetch_val("SELECT 3") == 3
        assert await sent.since() == ["SELECT 3"], "a one-shot is one round trip"
        async with pool.connection() as conn:
            await conn.execute("BEGIN")
            await sent.since()
        assert await sent.since() == ["ROLLBACK"]


async def test_a_reset_takes_settings_locks_and_listeners_along(
    database: Database, items: str
) -> None:
    heard: list[Any] = []
    async with database.pool(cleanup="reset", max_size=1) as pool:
        async with pool.connection() as conn:
            number = conn.get_server_pid()
            await conn.execute("SET application_name = 'mine'")
            await conn.execute("SELECT pg_advisory_lock(7)")
            await conn.execute("LISTEN gossip")
            await conn.add_listener("news", heard.append)
            conn.add_log_listener(heard.append)
            conn.add_query_logger(heard.append)
            await conn.execute("BEGIN; INSERT INTO items VALUES (1, 'x')")
        await asyncio.sleep(0)
        heard.clear()  # the logger's
        async with pool.connection() as conn:
            assert conn.get_server_pid() == number
            assert await setting(conn, "application_name") != "mine"
            assert await setting(conn, "lock_timeout") == "10s", "what the connect asked for"
            assert await conn.fetch("SELECT pg_listening_channels()") == []
            locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            assert await conn.fetchval(locks) == 0
            assert await conn.fetchval("SELECT count(*) FROM items") == 0
    assert heard == []


async def test_by_default_settings_outlive_the_lease(pool: ConnectionPool) -> None:
    async with pool.connection() as conn:
        await conn.execute("SET application_name = 'mine'")
    assert await pool.fetch_val("SELECT current_setting('application_name')") == "mine"


async def test_a_cleanup_of_ones_own_is_given_the_raw_connection(database: Database) -> None:
    cleaned: list[Any] = []

    async def clean(raw: Any) -> None:
        cleaned.append(raw)
        await raw.reset()

    async with database.pool(cleanup=clean, max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.execute("SET application_name = 'mine'")
        assert await pool.fetch_val("SELECT current_setting('application_name')") != "mine"
    assert all(isinstance(raw, asyncpg.Connection) for raw in cleaned)


@pytest.mark.parametrize("way", ["borrower", "server"])
async def test_a_connection_that_was_ended_is_not_lent_again(
    postgres: PostgresServer, database: Database, way: str
) -> None:
    async with database.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            number = conn.get_server_pid()
            if way == "borrower":
                conn.terminate()
            else:
                kill(postgres, number)
            await eventually(conn.is_closed)
            with pytest.raises((asyncpg.InterfaceError, asyncpg.PostgresError)):
                await conn.fetch("SELECT 1")
            assert conn, "it is still lent"
        async with pool.connection() as conn:
            assert conn.get_server_pid() != number
            assert await conn.fetchval("SELECT 1") == 1
        assert (pool.size, pool.free) == (1, 1)


async def test_a_transaction_block_of_a_lost_connection_ends_with_the_loss(
    postgres: PostgresServer, pool: ConnectionPool
) -> None:
    with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
        async with pool.transaction() as conn:
            statement = asyncio.ensure_future(conn.fetchval("SELECT pg_sleep(60)"))
            await asyncio.sleep(0.05)
            kill(postgres, conn.get_server_pid())
            await statement
    assert await pool.fetch_val("SELECT 1") == 1
    assert pool.stats().closed == 1


async def test_close_returns_a_connection_and_leaves_it_open(
    postgres: PostgresServer, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn:
        number = await backend(postgres, conn)
        await conn.close()
        await conn.close()
        with returned():
            await conn.fetchval("SELECT 1")
    assert await backend(postgres, pool) == number


# ------------------------------------------------------------------------------------------------
# Attributes, and the loss of the loop


async def test_an_attribute_that_asyncpg_does_not_have_cannot_be_assigned(conn: Any) -> None:
    with pytest.raises(AttributeError):
        conn.no_such_thing = 7
    assert await conn.fetchval("SELECT 1") == 1


# asyncio tells of its transports, too, when they are collected.
@pytest.mark.filterwarnings("ignore:.*unclosed:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_pool_whose_loop_was_closed_starts_afresh_on_the_next(
    postgres: PostgresServer, database: Database
) -> None:
    pool = database.pool()
    before = connections(postgres)

    async def borrow() -> int:
        async with pool.connection() as conn:
            number: int = conn.get_server_pid()
        return number

    first = asyncio.run(borrow())

    async def again() -> None:
        with pytest.warns(ResourceWarning, match="was not closed before its event loop"):
            assert await borrow() != first
        await pool.close()
        await eventually(lambda: connections(postgres) == before)

    asyncio.run(again())
    gc.collect()


async def test_a_function_in_run_cannot_wait_for_its_own_end(pool: ConnectionPool) -> None:
    async with pool.connection() as conn:

        async def directly(raw: Any) -> None:
            await conn.fetchval("SELECT 1")

        async def in_a_task(raw: Any) -> None:
            await asyncio.gather(conn.fetchval("SELECT 1"))

        async def by_returning(raw: Any) -> None:
            await pool.put(conn)

        for function in (directly, in_a_task, by_returning):
            with pytest.raises(PoolError, match="has the driver's connection to itself"):
                await conn.run(function)
        assert await conn.fetchval("SELECT 2") == 2


async def test_a_function_that_outlives_its_cancelled_caller_commits_nothing(
    pool: ConnectionPool,
) -> None:
    await pool.execute("DROP TABLE IF EXISTS stubborn")
    await pool.execute("CREATE TABLE stubborn (n integer)")
    inserted = asyncio.Event()

    async def swallow(raw: Any) -> None:
        await raw.execute("INSERT INTO stubborn VALUES (1)")
        inserted.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    task = asyncio.create_task(pool.run(swallow))
    await inserted.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await eventually(lambda: pool.free == pool.max_size)
    assert await pool.fetch_val("SELECT count(*) FROM stubborn") == 0
    await pool.execute("DROP TABLE stubborn")


async def test_rows_that_came_before_an_error_are_read_before_it(conn: Any) -> None:
    seen: list[int] = []
    falling = "SELECT 10 / (3 - n) FROM generate_series(1, 9) n"
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with conn.transaction():
            async for (quotient,) in conn.cursor(falling, prefetch=1):
                seen.append(quotient)
    assert seen == [5, 10]


async def test_an_error_that_an_iteration_has_not_come_to_fails_the_block(
    pool: ConnectionPool,
) -> None:
    rows = "SELECT 1 / (20 - n) FROM generate_series(1, 100) AS n"
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        async with pool.transaction() as conn:
            async for _ in conn.cursor(rows, prefetch=5):
                break


async def test_a_function_whose_caller_has_gone_before_it_began_is_never_called(
    pool: ConnectionPool,
) -> None:
    gone = False
    late: list[int] = []

    async def function(raw: Any, steps: int) -> None:
        if gone:
            late.append(steps)
        await asyncio.sleep(60)

    for steps in range(12):  # of the loop, in which it may have begun or not
        gone = False
        task = asyncio.create_task(pool.run(function, steps))
        for _ in range(steps):
            await asyncio.sleep(0)
        gone = True
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await eventually(lambda: pool.free == pool.max_size)
    assert late == []
    assert pool.stats().discarded == 0


async def test_what_is_said_of_a_lease_shows_no_parameters(
    pool: ConnectionPool, conn: Any
) -> None:
    statement = await conn.prepare("SELECT $1::text")
    await statement.executemany([("secret",)])
    await conn.fetch("SELECT $1::text", "secret")
    assert "secret" not in str(pool.dump()[0])


async def test_a_statement_that_waits_for_another_ones_end_never_runs_where_its_caller_has_gone(
    pool: ConnectionPool, conn: Any
) -> None:
    await conn.execute("DROP TABLE IF EXISTS waited")
    await conn.execute("CREATE TABLE waited (n integer)")
    await conn.execute(
        # The server sends its signal to the process and to its group, so it may come twice.
        "CREATE FUNCTION pg_temp.stubborn(seconds float) RETURNS void LANGUAGE plpgsql AS $$"
        " BEGIN PERFORM pg_sleep(seconds);"
        " EXCEPTION WHEN query_canceled THEN"
        "  BEGIN PERFORM pg_sleep(0.2); EXCEPTION WHEN query_canceled THEN NULL; END;"
        "  PERFORM pg_sleep(5);"
        " END $$"
    )
    await conn.execute("SELECT pg_temp.stubborn(0)")  # compiled from here on
    with pytest.raises(TimeoutError):
        await conn.execute("SELECT pg_temp.stubborn(60)", timeout=0.5)
    task = asyncio.create_task(conn.execute("INSERT INTO waited VALUES (1)"))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert await conn.fetchval("SELECT count(*) FROM waited") == 0
    await conn.execute("DROP TABLE waited")
    await pool.put(conn)
    assert pool.stats().discarded == 0


# ------------------------------------------------------------------------------------------------
# Cancelling


@pytest.mark.realtime
async def test_a_cancel_that_is_reset_hits_no_later_statement(
    database: Database, postgres: PostgresServer
) -> None:
    await cancelled_behind_a_reset(database, postgres, ssl="disable")


@pytest.mark.usefixtures("secured")
@pytest.mark.parametrize("mode", ["require", "prefer"])
async def test_a_cancel_goes_by_tls_as_its_connection_does(activity: Activity, mode: str) -> None:
    async with activity.pool(max_size=1, ssl=mode) as pool:
        task = asyncio.create_task(pool.fetch_val(activity.endless))
        await activity.begins()
        task.cancel()
        await asyncio.wait([task])
        assert await pool.fetch_val("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert (pool.stats().cancelled, pool.stats().created) == (1, 1)


async def test_a_cancel_goes_by_a_unix_socket_as_its_connection_does(tmp_path: Path) -> None:
    """Its peer is one that listens there, takes the request and closes."""
    place, asked = str(tmp_path / "socket"), asyncio.Queue[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.put_nowait(await reader.readexactly(16))
        writer.close()

    told = SimpleNamespace(backend_pid=7, backend_secret=-1)
    raw = SimpleNamespace(_cancel=None, _addr=place, _params=None, _protocol=told)

    async def ask() -> dict[str, Any]:
        return {}

    cancel = AsyncpgDriver(asyncpg).canceller(raw, (), {})
    assert cancel is not None
    async with await asyncio.start_unix_server(serve, place):
        await cancel(ask)
    assert await asked.get() == struct.pack("!4i", 16, 80877102, 7, -1)


def test_the_end_of_a_request_that_nobody_waits_for_is_no_error() -> None:
    async def end() -> None:
        request = _Request()
        request.ended.cancel()
        request.connection_lost(None)

    asyncio.run(end())
