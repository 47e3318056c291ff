"""Conformance: what the library promises for every driver alike, tried with each that it knows."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import aiomysql
import MySQLdb.cursors
import psycopg.rows
import psycopg2.extras
import pymysql.cursors
import pytest

from asyncdbpool import (
    ConnectionPool,
    ConnectionReturned,
    DatabaseConnector,
    PoolClosed,
    PoolError,
    PoolTimeout,
    UnknownHost,
    WrongEventLoop,
)
from asyncdbpool.drivers import find_driver
from asyncdbpool.testing import check_invariants
from support.access import eventually, left_of
from support.activity import Activity
from support.databases import Database, Values, expected
from support.fixtures import with_kin_too
from support.lines import Line, insert, on_a_cursor, on_the_connection, written

pytestmark = with_kin_too

# ------------------------------------------------------------------------------------------------
# What differs


def with_names(raw: sqlite3.Connection) -> None:
    raw.row_factory = sqlite3.Row


def with_keys(raw: psycopg.Connection[Any]) -> None:
    raw.row_factory = psycopg.rows.dict_row


SQLITE = "PRAGMA cache_size = 1234", "PRAGMA cache_size"
POSTGRES = "SET work_mem = 1234", "SHOW work_mem"
DUCKDB = "SET threads = 2", "SELECT current_setting('threads')"
MARIADB = "SET @left = 1234", "SELECT @left"
PREPARED = "prepare", "fetchrow"

LINES = {
    "sqlite3": Line(SQLITE, r":\1", {"setup": with_names}),
    "psycopg2": Line(POSTGRES, by_name={"cursor_factory": psycopg2.extras.DictCursor}),
    "MySQLdb": Line(MARIADB, by_name={"cursorclass": MySQLdb.cursors.DictCursor}),
    "psycopg": Line(POSTGRES, by_name={"setup": with_keys}),
    "pymysql": Line(MARIADB, by_name={"cursorclass": pymysql.cursors.DictCursor}),
    "duckdb": Line(DUCKDB, r"$\1", names=False, savepoints=False),
    "pyodbc": Line(POSTGRES, names=False, mappings=False, many=-1),
    "asyncpg": Line(POSTGRES, "?", many=-1, guest=PREPARED, saying=on_the_connection),
    "aiomysql": Line(MARIADB, by_name={"cursorclass": aiomysql.DictCursor}, saying=on_a_cursor),
}


@pytest.fixture
def line(database: Database) -> Line:
    return LINES[database.name]


# ------------------------------------------------------------------------------------------------
# What is the same

Pools = Callable[..., ConnectionPool]


@pytest.fixture
def wares(database: Database) -> str:
    """A table `wares (id, name)` that is empty and stays when the test ends; its name."""
    database.change(
        "CREATE TABLE IF NOT EXISTS wares (id INTEGER PRIMARY KEY, name VARCHAR(40))",
        "DELETE FROM wares",
    )
    return "wares"


@pytest.fixture
async def pools(
    request: pytest.FixtureRequest, database: Database, wares: str
) -> AsyncIterator[Pools]:
    """Makes pools, for which the invariants hold when the test ends."""
    watched = "activity" in request.fixturenames
    source = request.getfixturevalue("activity") if watched else database
    made: list[ConnectionPool] = []

    def make(**options: Any) -> ConnectionPool:
        made.append(source.pool(**options))
        return made[-1]

    yield make
    for pool in made:
        check_invariants(pool, proxies=False)
        await pool.close(1)
        check_invariants(pool, proxies=False)
        assert left_of(pool.name) == []


@pytest.fixture(name="pool")
def pool_of_two(pools: Pools) -> ConnectionPool:
    """A pool of two connections."""
    return pools(max_size=2)


# ------------------------------------------------------------------------------------------------
# Statements


async def test_rows_come_all_or_one_or_its_value(database: Database, pool: ConnectionPool) -> None:
    sql, nothing = database.rows(3), database.rows(0)
    async with pool.connection() as conn:
        for lender in (pool, conn):
            assert await lender.fetch_all(sql) == expected(3)
            assert await lender.fetch_one(sql) == Values((1, "row 1"))
            assert await lender.fetch_val(sql) == 1
            assert await lender.fetch_val(sql, column=1) == "row 1"
            assert await lender.fetch_all(nothing) == []
            assert await lender.fetch_one(nothing) is None
            assert await lender.fetch_val(nothing) is None


async def test_a_value_is_found_by_its_column_s_name_where_rows_have_names(
    database: Database, line: Line, pools: Pools
) -> None:
    pool = pools(**line.by_name)
    async with pool.connection() as conn:
        for lender in (pool, conn):
            if line.names:
                assert (await lender.fetch_one(database.rows(1)))["label"] == "row 1"
                assert await lender.fetch_val(database.rows(1), column="label") == "row 1"
            else:
                with pytest.raises(TypeError):
                    await lender.fetch_val(database.rows(1), column="label")
            assert await lender.fetch_val(database.rows(1), column=1) == "row 1"


async def test_parameters_are_a_sequence_or_a_mapping(
    database: Database, line: Line, pool: ConnectionPool
) -> None:
    def named(sql: str) -> str:
        return database.sql(re.sub(r":(\w+)", line.named, sql))

    by_order = database.sql("SELECT name FROM wares WHERE id = ? AND name = ?")
    by_name = named("SELECT name FROM wares WHERE id = :id AND name = :name")
    change = named("UPDATE wares SET name = :new WHERE id = :id")
    await pool.execute(database.sql("INSERT INTO wares VALUES (?, ?)"), (1, "item 1"))
    async with pool.connection() as conn:
        for lender in (pool, conn):
            assert await lender.fetch_val(by_order, (1, "item 1")) == "item 1"
            assert await lender.fetch_val(by_order, [2, "item 1"]) is None
            if line.mappings:
                assert await lender.fetch_val(by_name, {"id": 1, "name": "item 1"}) == "item 1"
                assert len(await lender.fetch_all(by_name, {"id": 1, "name": "item 1"})) == 1
    if not line.mappings:
        with pytest.raises(database.errors):
            await pool.fetch_val(by_order, {"id": 1, "name": "item 1"})
        return
    assert await pool.execute(change, {"new": "changed", "id": 1}) == 1
    assert await pool.fetch_val("SELECT name FROM wares") == "changed"


async def test_execute_counts_the_rows_that_it_changed(
    database: Database, line: Line, pool: ConnectionPool
) -> None:
    sets = [(n, f"item {n}") for n in (3, 4, 5)]
    assert await pool.execute(insert(1, 2)) == 2
    assert await pool.execute("UPDATE wares SET name = 'other' WHERE id = 2") == 1
    assert await pool.execute("DELETE FROM wares WHERE id = 7") == 0
    many = await pool.execute_many(database.sql("INSERT INTO wares VALUES (?, ?)"), sets)
    assert many == line.many
    async with pool.connection() as conn, conn.transaction():
        sql = database.sql("INSERT INTO wares VALUES (?, ?)")
        assert await conn.execute_many(sql, [(6, "six"), (7, "seven"), (8, "eight")]) == many
    assert written(database) == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_a_one_shot_that_fails_leaves_nothing_and_its_connection_goes_on(
    database: Database, pool: ConnectionPool
) -> None:
    sql = database.sql("INSERT INTO wares VALUES (?, ?)")
    with pytest.raises(database.errors):
        await pool.execute_many(sql, [(1, "one"), (2, "two"), (1, "one again")])
    with pytest.raises(database.errors):
        await pool.fetch_all("SELECT nothing FROM wares")
    assert written(database) == []
    assert await pool.execute(insert(1)) == 1
    assert (pool.stats().created, pool.stats().discarded) == (1, 0)


async def test_statements_of_several_tasks_run_one_after_the_other_in_their_order(
    database: Database, line: Line, pool: ConnectionPool
) -> None:
    async with pool.transaction() as conn:
        await conn.execute(insert(0))
        async with asyncio.TaskGroup() as tasks:
            for digit in range(1, 9):
                update = line.saying(f"UPDATE wares SET id = id * 10 + {digit}")
                tasks.create_task(conn.run(update))
    assert written(database) == [12345678]


# ------------------------------------------------------------------------------------------------
# Transactions


async def test_a_transaction_commits_on_success_and_rolls_back_on_an_error(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.transaction() as conn:
        await conn.execute(insert(1))
        assert written(database) == []
    with pytest.raises(ZeroDivisionError):
        async with pool.transaction() as conn:
            await conn.execute(insert(2))
            raise ZeroDivisionError
    async with pool.connection() as conn:
        async with conn.transaction():
            await conn.executemany(database.sql("INSERT INTO wares VALUES (?, ?)"), [(3, "three")])
        with pytest.raises(ZeroDivisionError):
            async with conn.transaction():
                await conn.execute(insert(4))
                raise ZeroDivisionError
        assert written(database) == [1, 3]


async def test_a_transaction_inside_of_another_is_a_savepoint(
    database: Database, line: Line, pool: ConnectionPool
) -> None:
    if not line.savepoints:
        async with pool.transaction() as conn:
            await conn.execute(insert(1))
            with pytest.raises(database.errors, match="savepoints"):
                await conn.transaction().start()
        assert written(database) == [1], "the error costs nothing"
        return
    async with pool.transaction() as conn:
        await conn.execute(insert(1))
        with suppress(ZeroDivisionError):
            async with conn.transaction():
                await conn.execute(insert(2))
                async with conn.transaction():
                    await conn.execute(insert(3))
                raise ZeroDivisionError
        async with conn.transaction():
            await conn.execute(insert(4))
            with pytest.raises(database.errors):
                async with conn.transaction():
                    await conn.execute(insert(1))
    assert written(database) == [1, 4]


async def test_commit_and_rollback_end_what_a_statement_has_begun(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn:
        for n, end in ((1, conn.commit), (2, conn.rollback), (3, conn.commit)):
            await conn.execute("BEGIN")
            await conn.execute(insert(n))
            assert n not in written(database)
            await end()
            await conn.rollback()  # where nothing is open, it does nothing
        assert written(database) == [1, 3]


async def test_a_transaction_ends_also_what_was_begun_before_it(
    database: Database, pool: ConnectionPool
) -> None:
    async with pool.connection() as conn:
        await conn.execute("BEGIN")
        await conn.execute(insert(1))
        async with conn.transaction():
            await conn.execute(insert(2))
        assert written(database) == [1, 2]
        await conn.execute("BEGIN")
        await conn.execute(insert(3))
        with suppress(ZeroDivisionError):
            async with conn.transaction():
                raise ZeroDivisionError
        assert written(database) == [1, 2]


@pytest.mark.parametrize("cleanup", ["rollback", "reset", None])
async def test_nothing_uncommitted_reaches_the_next_borrower(
    database: Database, pools: Pools, cleanup: Any
) -> None:
    pool = pools(max_size=1, cleanup=cleanup)
    async with pool.connection() as conn:
        await conn.execute("BEGIN")
        await conn.execute(insert(1))
    async with pool.connection() as conn:
        await conn.transaction().start()
        await conn.execute(insert(2))
    assert await pool.fetch_all("SELECT id FROM wares") == []
    assert written(database) == []
    if cleanup is None:  # unknown means closed
        assert (pool.stats().created, pool.stats().discarded) == (3, 2)


@pytest.mark.parametrize("cleanup", ["rollback", "reset", None])
async def test_the_next_borrower_sees_what_was_written_meanwhile(
    database: Database, pools: Pools, cleanup: Any
) -> None:
    pool = pools(max_size=1, cleanup=cleanup)
    async with pool.connection() as conn:
        assert await conn.fetch_all("SELECT id FROM wares") == []
    database.change(insert(1))
    assert await pool.fetch_val("SELECT id FROM wares") == 1


async def test_a_return_with_nothing_open_costs_no_statement(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pools(max_size=1)
    driver: Any = pool._driver
    original, calls = driver.rollback, []

    def rollback(raw: Any) -> Any:
        calls.append(raw)
        return original(raw)

    monkeypatch.setattr(driver, "rollback", rollback)
    await pool.fetch_val("SELECT 1")
    async with pool.connection():
        pass
    async with pool.connection() as conn:
        await conn.fetch_val("SELECT 1")
        await conn.commit()
    async with pool.transaction() as conn:
        await conn.execute(insert(1))
    assert calls == []
    async with pool.connection() as conn:
        await conn.execute("BEGIN")
        await conn.execute(insert(2))
    assert len(calls) == 1
    assert pool.stats().created == 1


# ------------------------------------------------------------------------------------------------
# The driver's own connection: functions and hooks


async def test_a_function_gets_the_driver_s_own_connection_and_does_all_or_nothing(
    database: Database, line: Line, pool: ConnectionPool
) -> None:
    await pool.run(line.saying(insert(1), insert(2)))
    with pytest.raises(database.errors):
        await pool.run(line.saying(insert(3), insert(1)))
    assert written(database) == [1, 2]
    async with pool.connection() as conn:
        async with conn.transaction():
            await conn.run(line.saying(insert(4)))
        with pytest.raises(ZeroDivisionError):
            async with conn.transaction():
                await conn.run(line.saying(insert(5)))
                raise ZeroDivisionError
        with pytest.raises(database.errors):
            await conn.run(line.saying("SELECT nothing FROM wares"))
    assert written(database) == [1, 2, 4]


async def test_setup_check_and_cleanup_are_given_the_driver_s_own_connection(
    database: Database, line: Line, pools: Pools
) -> None:
    pool = pools(
        max_size=1,
        setup=line.saying(insert(0)),
        check=line.saying("UPDATE wares SET id = id"),  # what a check leaves open is rolled back
        cleanup=line.saying("BEGIN", "UPDATE wares SET id = id + 1", "COMMIT"),
    )
    for n in range(3):
        async with pool.connection():
            assert written(database) == [n]
    async with pool.connection(cleanup=line.saying("SELECT nothing FROM wares")):
        pass
    assert (pool.stats().created, pool.stats().discarded) == (1, 1)
    assert pool.size == 0, "a cleanup that raises discards the connection"


async def test_a_check_that_fails_costs_the_connection_and_not_its_borrower(
    database: Database, line: Line, pools: Pools
) -> None:
    pool = pools(max_size=1, check=line.saying(insert(1)))
    for created in (1, 2):
        async with pool.connection():
            assert pool.stats().created == created
        database.change("DELETE FROM wares", insert(1))


async def test_a_setup_that_raises_surfaces_as_it_is_and_leaves_nothing(
    database: Database, line: Line, pools: Pools, activity: Activity
) -> None:
    pool = pools(setup=line.saying("SELECT nothing FROM wares"))
    with pytest.raises(database.errors, match="nothing"):
        await pool.get()
    assert (pool.size, pool.free) == (0, pool.max_size)
    await activity.ends(connections=0)


async def test_functions_of_the_wrong_kind_are_refused_by_name(
    database: Database, pool: ConnectionPool
) -> None:
    def plain(_raw: Any) -> None: ...
    async def later(_raw: Any) -> None: ...

    wrong: Any = plain if database.native else later
    kind = "is a plain function" if database.native else "is a coroutine function"
    for option in ("setup", "check", "cleanup"):
        with pytest.raises(TypeError, match=f"^{option} {kind}"):
            database.pool(**{option: wrong})
    with pytest.raises(TypeError, match=f"^cleanup {kind}"):
        pool.connection(cleanup=wrong)
    with pytest.raises(TypeError, match=f"^cleanup {kind}"):
        pool.transaction(cleanup=wrong)
    with pytest.raises(TypeError, match=f"^fn {kind}"):
        await pool.run(wrong)
    async with pool.connection() as conn:
        with pytest.raises(TypeError, match=f"^cleanup {kind}"):
            await pool.put(conn, cleanup=wrong)
        with pytest.raises(TypeError, match=f"^fn {kind}"):
            await conn.run(wrong)
        assert await conn.fetch_val("SELECT 1") == 1


async def test_a_reset_takes_back_what_was_done_to_the_session(line: Line, pools: Pools) -> None:
    pool = pools(max_size=1)
    change, show = line.setting
    conn = await pool.get()
    before = await conn.fetch_val(show)
    await conn.execute(change)
    assert await conn.fetch_val(show) != before
    await pool.put(conn, cleanup="reset")
    assert await pool.fetch_val(show) == before


# ------------------------------------------------------------------------------------------------
# Leases


async def test_everything_made_from_a_returned_connection_is_revoked(
    line: Line, pool: ConnectionPool
) -> None:
    make, fetch = line.guest
    async with pool.connection() as conn:
        guest = await getattr(conn, make)("SELECT 1")
        block = await conn.transaction().start()
        run = (conn.execute, conn.fetch_all, conn.fetch_one, conn.fetch_val, conn.cursor)
        uses: list[Callable[[], Any]] = [
            *(partial(method, "SELECT 1") for method in run),
            *(conn.commit, conn.rollback, conn.transaction, conn.cancel, conn.discard),
            *(block.commit, block.rollback, getattr(guest, fetch)),
            *(lambda: conn.anything, lambda: guest.anything),
            lambda: setattr(conn, "anything", 1),
            partial(conn.executemany, "SELECT 1", [()]),
            partial(conn.run, line.saying("SELECT 1")),
        ]
    async with pool.connection() as other:
        for use in uses:
            with pytest.raises(ConnectionReturned):
                await use()
        assert not conn
        assert "returned" in repr(conn)
        assert repr(guest)
        assert repr(block)
        await conn.close()
        assert await other.fetch_val("SELECT 1") == 1
    assert (pool.stats().created, pool.stats().discarded) == (1, 0)
    check_invariants(pool)


async def test_only_what_is_lent_can_be_put_and_only_once(
    pool: ConnectionPool, pools: Pools
) -> None:
    conn = await pool.get()
    foreign: list[Any] = [None, pool, object(), pools()]
    for thing in foreign:
        with pytest.raises(PoolError, match=r"put\(\) takes what get\(\) gave"):
            await pool.put(thing)
    with pytest.raises(PoolError, match="put it there"):
        await pools().put(conn)
    assert await conn.fetch_val("SELECT 1") == 1
    await pool.put(conn)
    with pytest.raises(ConnectionReturned):
        await pool.put(conn)
    assert (pool.size, pool.idle, pool.free) == (1, 1, 2)


async def test_a_connection_may_be_closed_inside_of_its_block(pool: ConnectionPool) -> None:
    async with pool.connection() as conn:
        await conn.close()
        assert (pool.idle, bool(conn)) == (1, False)
    async for provided in pool.provide():
        assert await provided.fetch_val("SELECT 1") == 1
    assert not provided
    assert (pool.stats().acquired, pool.stats().created, pool.idle) == (2, 1, 1)


async def test_a_discarded_connection_is_closed_and_not_lent_again(pool: ConnectionPool) -> None:
    async with pool.connection() as conn:
        await conn.discard()
        assert not conn
    assert (pool.size, pool.stats().discarded) == (0, 1)
    assert await pool.fetch_val("SELECT 1") == 1
    assert pool.stats().created == 2


async def test_a_dropped_connection_is_reclaimed_with_a_warning(
    database: Database, pools: Pools
) -> None:
    pool = pools(max_size=1)
    conn = await pool.get()
    await conn.execute("BEGIN")
    await conn.execute(insert(1))
    with pytest.warns(ResourceWarning, match=f"{pool.name!r}, lent> was dropped"):
        del conn
    assert await pool.fetch_all("SELECT id FROM wares") == []
    assert (pool.stats().reclaimed, pool.stats().created) == (1, 1)


async def test_the_dump_tells_who_holds_what(pool: ConnectionPool) -> None:
    async with pool.connection() as conn:
        await conn.fetch_val("SELECT 7")
        (held,) = pool.dump()
        task = asyncio.current_task()
        assert task is not None
        assert (held.task, held.statement, held.returning) == (task.get_name(), "SELECT 7", False)
        assert "test_the_dump_tells_who_holds_what" in held.stack
    assert pool.dump() == []


# ------------------------------------------------------------------------------------------------
# Cancelling


async def test_a_cancelled_statement_ends_at_once_and_its_connection_goes_on(
    pools: Pools, activity: Activity
) -> None:
    pool = pools(max_size=1)
    async with pool.connection() as conn:
        task = asyncio.create_task(conn.fetch_all(activity.endless))
        await activity.begins()
        task.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await task
            await conn.rollback()
            assert await conn.fetch_val("SELECT 1") == 1
    assert await pool.fetch_val("SELECT 2") == 2
    stats = pool.stats()
    assert (stats.cancelled, stats.created, stats.discarded) == (1, 1, 0)


async def test_a_one_shot_that_takes_too_long_leaves_its_connection_to_the_next(
    database: Database, line: Line, pools: Pools, activity: Activity
) -> None:
    pool = pools(max_size=1)
    for work in (pool.fetch_val(activity.endless), pool.run(line.saying(activity.endless))):
        task = asyncio.create_task(work)
        await activity.begins()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await pool.execute("DELETE FROM wares") == 0
    stats = pool.stats()
    assert (stats.cancelled, stats.created, stats.discarded) == (2, 1, 0)


async def test_a_cancelled_transaction_is_rolled_back(
    database: Database, pools: Pools, activity: Activity
) -> None:
    async def work() -> None:
        async with pool.transaction() as conn:
            await conn.execute(insert(1))
            await conn.fetch_all(activity.endless)

    pool = pools(max_size=1)
    task = asyncio.create_task(work())
    await activity.begins()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert await pool.fetch_all("SELECT id FROM wares") == []
    assert written(database) == []
    assert (pool.stats().created, pool.stats().discarded) == (1, 0)


async def test_a_statement_cancelled_by_hand_gives_the_driver_s_own_error(
    database: Database, pools: Pools, activity: Activity
) -> None:
    async with pools(max_size=1).connection() as conn:
        await conn.cancel()  # nothing runs, so nothing happens
        task = asyncio.create_task(conn.fetch_all(activity.endless))
        await activity.begins()
        await conn.cancel()
        with pytest.raises(database.errors, match=r"(?i)interrupt|cancel"):
            await task
        await conn.rollback()
        assert await conn.fetch_val("SELECT 1") == 1


async def test_a_return_cancels_what_runs_and_refuses_what_waits(
    database: Database, line: Line, pools: Pools, activity: Activity
) -> None:
    pool = pools(max_size=1)
    conn = await pool.get()
    running = asyncio.create_task(conn.fetch_all(activity.endless))
    waiting = asyncio.create_task(conn.run(line.saying(insert(1))))
    await activity.begins()
    await pool.put(conn)
    with pytest.raises(database.errors, match=r"(?i)interrupt|cancel"):
        await running
    with pytest.raises(ConnectionReturned):
        await waiting
    assert await pool.fetch_all("SELECT id FROM wares") == []
    assert (pool.stats().created, pool.stats().discarded) == (1, 0)


# ------------------------------------------------------------------------------------------------
# The pool


async def test_many_tasks_share_a_few_connections(pool: ConnectionPool) -> None:
    async with asyncio.TaskGroup() as tasks:
        values = [tasks.create_task(pool.fetch_val(f"SELECT {n}")) for n in range(20)]
    assert [value.result() for value in values] == list(range(20))
    assert pool.stats().created <= pool.size <= 2
    assert pool.stats().acquired == 20


async def test_who_waits_too_long_is_told_who_holds_what(pools: Pools) -> None:
    pool = pools(max_size=1)
    async with pool.connection() as conn:
        await conn.fetch_val("SELECT 7")
        with pytest.raises(PoolTimeout, match="SELECT 7"):
            await asyncio.create_task(pool.get(timeout=0.01))
    assert pool.stats().timeouts == 1
    async with pool.connection(timeout=0.01):
        pass


async def test_clear_resize_and_pause_work_on_a_pool_in_use(pool: ConnectionPool) -> None:
    async with pool.connection() as first, pool.connection() as second:
        await pool.clear()
        assert pool.size == 2
        assert await first.fetch_val("SELECT 1") == await second.fetch_val("SELECT 1") == 1
    assert pool.size == 0, "the lent ones are closed on return"

    await pool.resize(min_size=2, max_size=3)
    await pool.fetch_val("SELECT 1")
    await eventually(lambda: pool.idle == 2)
    await pool.resize(min_size=0, max_size=1)
    await eventually(lambda: pool.size == 1)

    await pool.pause()
    value = asyncio.create_task(pool.fetch_val("SELECT 7"))
    await eventually(lambda: pool.waiting == 1)
    assert pool.free == 0
    pool.resume()
    assert await value == 7


async def test_close_sends_the_waiters_away_and_lets_the_borrowers_finish(
    database: Database, pools: Pools
) -> None:
    pool = pools(max_size=1)
    async with pool.transaction() as conn:
        waiters = [asyncio.create_task(pool.get()) for _ in range(3)]
        await eventually(lambda: pool.waiting == 3)
        closing = asyncio.create_task(pool.close())
        for result in await asyncio.gather(*waiters, return_exceptions=True):
            assert isinstance(result, PoolClosed)
        await conn.execute(insert(1))
    await closing
    assert written(database) == [1]
    with pytest.raises(PoolClosed):
        await pool.fetch_val("SELECT 1")
    assert await (await pool.open()).fetch_val("SELECT 1") == 1


async def test_close_cancels_what_still_runs_in_the_end(
    database: Database, pools: Pools, activity: Activity
) -> None:
    pool = pools(max_size=2)
    conn = await pool.get()
    running = asyncio.create_task(conn.fetch_all(activity.endless))
    await activity.begins()
    await pool.close(timeout=0)
    with pytest.raises(database.errors, match=r"(?i)interrupt|cancel"):
        await running
    with pytest.raises(ConnectionReturned):
        await conn.fetch_val("SELECT 1")
    assert (pool.size, left_of(pool.name)) == (0, [])
    await activity.ends(connections=0)


def test_a_pool_is_open_on_one_loop_at_a_time(database: Database) -> None:
    async def use() -> None:
        async with pool:
            assert await pool.fetch_val("SELECT 1") == 1

    pool = database.pool(name="shop")
    for _ in range(2):
        asyncio.run(use())
    with asyncio.Runner() as runner:
        runner.run(pool.open())
        conn = runner.run(pool.get())
        for elsewhere in (pool.get, pool.open, pool.close, conn.commit):
            with pytest.raises(WrongEventLoop, match="'shop'"):
                asyncio.run(elsewhere())
        assert runner.run(conn.fetch_val("SELECT 1")) == 1
        runner.run(pool.put(conn))
        runner.run(pool.close())
    check_invariants(pool)


# ------------------------------------------------------------------------------------------------
# The connector


@pytest.fixture
def login(database: Database) -> tuple[dict[str, Any], str]:
    """The connect keywords without the database's, and its name."""
    driver = find_driver(database.module)
    entry = dict(database.arguments)
    spellings = {driver.database_keyword, *driver.database_aliases}
    (name,) = [entry.pop(spelling) for spelling in spellings & entry.keys()]
    return entry, name


async def test_a_connector_finds_a_database_by_its_host_and_name(
    database: Database, wares: str, login: tuple[dict[str, Any], str]
) -> None:
    entry, name = login

    async def later() -> dict[str, Any]:
        return entry

    entries: dict[str, Any] = {"alias": entry, "asked": lambda: entry, "asked later": later}
    async with DatabaseConnector(database.module, entries, max_size=1) as dc:
        for n, host in enumerate(entries):
            async with dc.transaction(host, name) as conn:
                await conn.execute(insert(n))
            async with dc.connection(host, name) as conn:
                assert await conn.fetch_val("SELECT max(id) FROM wares") == n
            assert dc.stats()[host, name].created == 1
        assert list(dc) == [(host, name) for host in entries]
        assert dc.get("alias", name) is dc["alias", name]
        with pytest.raises(UnknownHost, match="'alias', 'asked', 'asked later'"):
            dc.get("nowhere")
        for pool in dc.values():
            check_invariants(pool)
        await dc.clear()
        assert {stats.size for stats in dc.stats().values()} == {0}
    assert written(database) == [0, 1, 2]


async def test_the_pools_for_one_host_share_its_connections(
    database: Database, login: tuple[dict[str, Any], str]
) -> None:
    _, name = login
    entries = {"main": database.arguments}
    async with DatabaseConnector(database.module, entries, max_per_host=1, timeout=5) as dc:
        one, other = dc.get("main"), dc.get("main", name)
        async with one.connection() as conn:
            assert await conn.fetch_val("SELECT 1") == 1
            with pytest.raises(PoolTimeout):
                await other.get(timeout=0.01)
        assert (one.idle, other.free) == (1, 1)
        assert await other.fetch_val("SELECT 2") == 2, "an idle one makes room"
        assert (one.size, other.size) == (0, 1)
        for pool in (one, other):
            check_invariants(pool)
