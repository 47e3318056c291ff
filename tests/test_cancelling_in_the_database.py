"""With each of the five drivers: what nobody waits for any more is cancelled in the database."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, MutableSequence
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import MySQLdb.cursors
import pytest

from asyncdbpool import ConnectionPool, ConnectionReturned, Cursor
from asyncdbpool.drivers.dbapi import Canceller
from asyncdbpool.drivers.mysqldb import MySQLdbDriver
from asyncdbpool.testing import check_invariants
from support.access import eventually, frozen, left_of
from support.activity import Activity, Embedded
from support.databases import Database
from support.fixtures import EVERY, SERVED, described, with_blocking_drivers
from support.servers import Server
from support.ways import in_a_function, on_a_cursor

pytestmark = pytest.mark.realtime

SOON = 10.0  # seconds; an endless query lasts a minute at least

A_WHILE = 0.05  # long enough for a statement to begin, most of the time

Work = Callable[[], Coroutine[Any, Any, object]]


@pytest.fixture(params=EVERY)
def database(request: pytest.FixtureRequest) -> Database:
    return described(request, request.param)


async def timed(work: Coroutine[Any, Any, None]) -> float:
    began = asyncio.get_running_loop().time()
    await work
    return asyncio.get_running_loop().time() - began


async def is_as_before(activity: Activity, pool: ConnectionPool, size: int = 1) -> None:
    """Wait until nothing is left of what was cancelled, and every connection can be used."""
    await eventually(lambda: pool.free == pool.max_size)
    await activity.ends(connections=size)
    check_invariants(pool)
    stats = pool.stats()
    assert (stats.size, stats.idle, stats.created, stats.discarded) == (size, size, size, 0)


# ------------------------------------------------------------------------------------------------
# Ways to be cancelled, and calls that are


async def by_cancel(work: Work, running: Work) -> None:
    task = asyncio.ensure_future(work())
    await running()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_two_cancels(work: Work, running: Work) -> None:
    task = asyncio.ensure_future(work())
    await running()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_timeout(work: Work, running: Work) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(A_WHILE):
            await work()


async def by_wait_for(work: Work, running: Work) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work(), A_WHILE)


async def by_anyio_scope(work: Work, running: Work) -> None:
    """A scope that cancels every await inside of it, those of the cleanup included."""
    with anyio.move_on_after(A_WHILE) as scope:
        await work()
    assert scope.cancelled_caught


async def by_the_end_of_a_task_group(work: Work, running: Work) -> None:
    with suppress(LookupError):
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await running()
            group.cancel_scope.cancel()


MEANS = [
    by_cancel,
    by_two_cancels,
    by_timeout,
    by_wait_for,
    by_anyio_scope,
    by_the_end_of_a_task_group,
]


async def in_a_block(pool: ConnectionPool, sql: str) -> None:
    async with pool.connection() as conn:
        await conn.execute(sql)


async def in_a_transaction(pool: ConnectionPool, sql: str) -> None:
    async with pool.transaction() as conn, conn.transaction():
        await conn.execute(sql)


async def by_hand(pool: ConnectionPool, sql: str) -> None:
    conn = await pool.get()
    try:
        await on_a_cursor(pool.module)(conn, sql)
    finally:
        await pool.put(conn)


async def in_one_hop(pool: ConnectionPool, sql: str) -> None:
    async with pool.connection() as conn:
        await conn.fetch_val(sql)


async def as_a_one_shot(pool: ConnectionPool, sql: str) -> None:
    await pool.fetch_all(sql)


async def by_a_function(pool: ConnectionPool, sql: str) -> None:
    await pool.run(in_a_function(pool.module), sql)


USES = [in_a_block, in_a_transaction, by_hand, in_one_hop, as_a_one_shot, by_a_function]


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("cancel", MEANS)
async def test_a_cancelled_statement_ends_in_the_database_and_its_connection_is_reused(
    activity: Activity, cancel: Callable[[Work, Work], Coroutine[Any, Any, None]]
) -> None:
    async with activity.pool(max_size=1) as pool:
        await pool.fetch_val("SELECT 1")
        for number, use in enumerate(USES, 1):
            work = partial(use, pool, activity.endless)
            assert await timed(cancel(work, activity.begins)) < SOON
            assert await pool.fetch_val("SELECT 7") == 7
            await is_as_before(activity, pool)
            assert pool.stats().cancelled == number, "what cleans up does not count"


async def test_a_block_under_a_timeout_lasts_as_long_as_the_timeout(activity: Activity) -> None:
    async def half_a_second() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), pool.connection() as conn:
                await conn.execute(activity.endless)

    async with activity.pool(max_size=1) as pool:
        assert 0.4 < await timed(half_a_second()) < 5
        await is_as_before(activity, pool)


async def test_many_statements_that_are_cancelled_at_once_all_end(activity: Activity) -> None:
    async with activity.pool(max_size=8) as pool:
        tasks = [asyncio.create_task(pool.fetch_all(activity.endless)) for _ in range(8)]
        await activity.begins(8)
        await eventually(lambda: pool.stats().in_use == 8)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

        assert all(task.cancelled() for task in tasks)
        await is_as_before(activity, pool, size=8)
        assert pool.stats().cancelled == 8


async def test_a_statement_cancelled_again_and_again_leaves_a_usable_connection(
    activity: Activity,
) -> None:
    async with activity.pool(max_size=1) as pool:
        for delay in range(30):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(delay / 1000):
                    await pool.fetch_all(activity.endless)
            assert await pool.fetch_val("SELECT 7") == 7
        await is_as_before(activity, pool)


@with_blocking_drivers
async def test_a_function_cancelled_in_a_blocking_call_gets_the_drivers_own_error(
    activity: Activity,
) -> None:
    raised: list[BaseException] = []

    def fn(raw: Any) -> None:
        try:
            raw.cursor().execute(activity.endless)
        except BaseException as error:
            raised.append(error)
            raise

    async with activity.pool(max_size=1) as pool:
        await by_cancel(lambda: pool.run(fn), activity.begins)
        await is_as_before(activity, pool)
        (error,) = raised
        assert isinstance(error, activity.database.module.OperationalError)


# ------------------------------------------------------------------------------------------------
# A borrower who goes on


async def test_a_borrower_whose_statement_was_cancelled_goes_on_after_a_rollback(
    activity: Activity, items: str
) -> None:
    async with activity.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(A_WHILE):
                        await conn.execute(activity.endless)
                await conn.rollback()
                await conn.execute(f"INSERT INTO {items} VALUES (1, 'kept')")
                await conn.commit()
        assert await pool.fetch_val(f"SELECT count(*) FROM {items}") == 3
        await is_as_before(activity, pool)


async def test_outside_of_a_transaction_no_rollback_is_needed(activity: Activity) -> None:
    ways: dict[str, dict[str, Any]] = {
        "sqlite3": {"isolation_level": None},
        "psycopg2": {"setup": lambda raw: setattr(raw, "autocommit", True)},
        "MySQLdb": {"autocommit": True},
        "asyncpg": {},
        "aiomysql": {"autocommit": True},
    }
    own = ways[activity.database.name]
    async with activity.pool(max_size=1, **own) as pool:
        async with pool.connection() as conn:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(A_WHILE):
                    await conn.execute(activity.endless)
            assert await conn.fetch_val("SELECT 7") == 7
        await is_as_before(activity, pool)


async def test_a_cancelled_block_is_rolled_back_and_the_outer_one_goes_on(
    activity: Activity, items: str
) -> None:
    async with activity.pool(max_size=1) as pool:
        async with pool.transaction() as conn:
            await conn.execute(f"INSERT INTO {items} VALUES (1, 'outer')")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(A_WHILE), conn.transaction():
                    await conn.execute(f"INSERT INTO {items} VALUES (2, 'inner')")
                    await conn.execute(activity.endless)
            await conn.execute(f"INSERT INTO {items} VALUES (3, 'outer')")
        found = await pool.fetch_all(f"SELECT id FROM {items} ORDER BY id")
        assert [row[0] for row in found] == [1, 3]
        await is_as_before(activity, pool)


async def test_cancelling_inside_of_a_transaction_rolls_it_back(
    activity: Activity, items: str
) -> None:
    async with activity.pool(max_size=1) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(A_WHILE), pool.transaction() as conn:
                await conn.execute(f"INSERT INTO {items} VALUES (1, 'lost')")
                await conn.execute(activity.endless)
        assert await pool.fetch_val(f"SELECT count(*) FROM {items}") == 0
        await is_as_before(activity, pool)


@with_blocking_drivers
async def test_a_cancelled_one_shot_writes_nothing(activity: Activity, items: str) -> None:
    def write(raw: Any) -> None:
        cursor = raw.cursor()
        cursor.execute(f"INSERT INTO {items} VALUES (1, 'lost')")
        cursor.execute(activity.endless)

    async with activity.pool(max_size=1) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(A_WHILE):
                await pool.run(write)
        assert await pool.fetch_val(f"SELECT count(*) FROM {items}") == 0
        await is_as_before(activity, pool)


@with_blocking_drivers
async def test_a_cancelled_function_commits_nothing_even_if_it_succeeds(
    activity: Activity, items: str
) -> None:
    def go_on(raw: Any) -> None:
        cursor = raw.cursor()
        with suppress(activity.database.module.OperationalError):
            cursor.execute(activity.endless)
        raw.rollback()
        cursor.execute(f"INSERT INTO {items} VALUES (1, 'lost')")

    async with activity.pool(max_size=1) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(A_WHILE):
                await pool.run(go_on)
        assert await pool.fetch_val(f"SELECT count(*) FROM {items}") == 0
        await is_as_before(activity, pool)


# ------------------------------------------------------------------------------------------------
# Several tasks on one connection


async def test_a_cancelled_statement_in_the_queue_never_runs_and_the_running_one_goes_on(
    activity: Activity, items: str
) -> None:
    async with activity.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            innocent = asyncio.create_task(conn.fetch_one(activity.saying("innocent", 1.5)))
            await activity.begins()
            queued = asyncio.create_task(conn.execute(f"INSERT INTO {items} VALUES (1, 'no')"))
            await asyncio.sleep(0.02)
            queued.cancel()

            assert await innocent == activity.said("innocent")
            assert queued.cancelled()
            assert await conn.fetch_val(f"SELECT count(*) FROM {items}") == 0
        assert pool.stats().cancelled == 1
        await is_as_before(activity, pool)


async def test_the_statement_behind_a_cancelled_one_is_not_cancelled(activity: Activity) -> None:
    own = {"setup": lambda raw: setattr(raw, "autocommit", True)}
    postgres = activity.database.name == "psycopg2"
    async with activity.pool(max_size=1, **(own if postgres else {})) as pool:
        async with pool.connection() as conn:
            for number in range(10):
                doomed = asyncio.create_task(conn.fetch_val(activity.endless))
                innocent = asyncio.create_task(conn.fetch_one(activity.saying("behind", 0.05)))
                await asyncio.sleep(number / 200)
                doomed.cancel()
                assert await innocent == activity.said("behind")
        await is_as_before(activity, pool)


async def test_cancel_gives_the_other_task_the_drivers_own_error(activity: Activity) -> None:
    async with activity.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            other = asyncio.create_task(conn.fetch_val(activity.endless))
            await activity.begins()
            await conn.cancel()
            with pytest.raises(activity.database.errors):
                await other
            await conn.rollback()
            assert await conn.fetch_val("SELECT 7") == 7
        assert pool.stats().cancelled == 0
        await is_as_before(activity, pool)


async def test_cancel_where_nothing_runs_does_nothing(activity: Activity) -> None:
    async with activity.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.cancel()
            for _ in range(20):
                assert await conn.fetch_val("SELECT 7") == 7
                await conn.cancel()
        await is_as_before(activity, pool)


async def test_cancel_at_any_moment_hits_no_later_statement(activity: Activity) -> None:
    errors = activity.database.errors
    async with activity.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            for number in range(40):
                target = asyncio.create_task(conn.fetch_val("SELECT 7"))
                await asyncio.sleep(number / 40_000)
                await conn.cancel()
                with suppress(*errors):  # hit while it ran
                    assert await target == 7
                await conn.rollback()
                for _ in range(3):
                    assert await conn.fetch_val("SELECT 8") == 8
        await is_as_before(activity, pool)


async def test_putting_a_connection_cancels_what_another_task_runs_on_it(
    activity: Activity, items: str
) -> None:
    async def put() -> None:
        await pool.put(conn)

    async with activity.pool(max_size=1) as pool:
        conn = await pool.get()
        running = asyncio.create_task(conn.fetch_val(activity.endless))
        queued = asyncio.create_task(conn.execute(f"INSERT INTO {items} VALUES (1, 'no')"))
        await activity.begins()
        assert await timed(put()) < SOON

        assert pool.idle == 1, "it is clean when put() ends"
        with pytest.raises(activity.database.errors):
            await running
        with pytest.raises(ConnectionReturned):
            await queued
        assert await pool.fetch_val(f"SELECT count(*) FROM {items}") == 0
        assert pool.stats().cancelled == 0
        await is_as_before(activity, pool)


async def test_discarding_a_connection_cancels_what_another_task_runs_on_it(
    activity: Activity,
) -> None:
    async with activity.pool(max_size=1) as pool:
        conn = await pool.get()
        running = asyncio.create_task(conn.fetch_val(activity.endless))
        await activity.begins()
        assert await timed(conn.discard()) < SOON

        with pytest.raises(activity.database.errors):
            await running
        await activity.ends(connections=0)
        assert (pool.size, pool.stats().discarded) == (0, 1)


# ------------------------------------------------------------------------------------------------
# The end of the pool


async def test_closing_a_pool_cancels_what_runs(activity: Activity) -> None:
    pool = activity.pool(max_size=3)
    conn = await pool.get()
    tasks = [
        asyncio.create_task(conn.fetch_val(activity.endless)),
        asyncio.create_task(pool.fetch_val(activity.endless)),
        asyncio.create_task(in_a_transaction(pool, activity.endless)),
    ]
    await eventually(lambda: pool.stats().in_use == 3)
    await activity.begins(3)
    assert await timed(pool.close(timeout=0.2)) < SOON

    await activity.ends(connections=0)
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, activity.database.errors)
    assert not conn
    assert left_of(pool.name) == []
    check_invariants(pool)


async def test_closing_a_pool_whose_statements_have_just_been_cancelled_ends_soon(
    activity: Activity,
) -> None:
    pool = activity.pool(max_size=2)
    tasks = [asyncio.create_task(pool.fetch_val(activity.endless)) for _ in range(2)]
    await activity.begins(2)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert await timed(pool.close()) < SOON

    await activity.ends(connections=0)
    assert left_of(pool.name) == []
    assert pool.stats().discarded == 0


# ------------------------------------------------------------------------------------------------
# Half-read results


async def test_an_interrupt_ends_half_read_cursors_and_does_not_hit_the_next_statement(
    sqlite: Database,
) -> None:
    """SQLite remembers an interrupt until every statement under way has ended."""
    activity = Embedded(sqlite)
    async with activity.pool(max_size=1) as pool, pool.connection() as conn:
        async with conn.execute(sqlite.rows(100_000)) as half_read:
            assert await half_read.fetchone() == (1, "row 1")
            await by_cancel(lambda: conn.fetch_val(activity.endless), activity.begins)
            assert await conn.fetch_val("SELECT 7") == 7
            assert await half_read.fetchone() == (2, "row 2"), "it was here already"
            with pytest.raises(sqlite.module.OperationalError, match="interrupted"):
                await half_read.fetchall()
        assert await conn.fetch_val("SELECT 8") == 8


class KilledBetweenBatches(MySQLdbDriver):
    """A driver whose statements end while a cancel is on its way, having sent some rows."""

    def __init__(self) -> None:
        super().__init__(MySQLdb)
        self.fetched = threading.Event()
        self._cancelling = threading.Event()

    def fetch(self, cursor: Any, count: int, into: MutableSequence[Any]) -> type:
        kind = super().fetch(cursor, count, into)
        self.fetched.set()
        self._cancelling.wait(10)
        return kind

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        kill = super().canceller(raw, args, kwargs)
        assert kill is not None

        def later(ask: Callable[[], Mapping[str, Any]]) -> None:
            self._cancelling.set()
            kill(ask)

        return later


@pytest.mark.parametrize("rows", [1_000, 200_000])  # all of them on their way, and not
async def test_a_kill_ends_a_streamed_result_and_costs_no_other_connection(
    mysql: Database, rows: int
) -> None:
    driver = KilledBetweenBatches()
    async with mysql.pool(driver=driver, max_size=2, min_size=2) as pool:
        async with pool.connection() as conn:
            cursor = conn.cursor(MySQLdb.cursors.SSCursor)
            task = asyncio.create_task(execute(cursor, mysql.rows(rows)))
            await asyncio.to_thread(driver.fetched.wait)
            await conn.cancel()
            await task
            assert await conn.fetch_val("SELECT 7") == 7
            assert await cursor.fetchone() == (1, "row 1"), "it was here already"
            with pytest.raises(MySQLdb.OperationalError, match="interrupted"):
                await cursor.fetchall()
        await eventually(lambda: pool.free == 2)
        stats = pool.stats()
        assert (stats.created, stats.closed, stats.discarded) == (2, 0, 0)


async def execute(cursor: Cursor, sql: str) -> None:
    await cursor.execute(sql)


# ------------------------------------------------------------------------------------------------
# A server that does not answer


@pytest.mark.parametrize("database", SERVED, indirect=True)
async def test_a_cancel_that_the_server_does_not_answer_costs_no_permit(
    server: Server, activity: Activity
) -> None:
    slow = activity.saying("nobody asks", 1.5)  # since nobody can cancel it
    async with activity.pool(max_size=2, cancel_grace=0.2, connect_timeout=30) as pool:
        tasks = [asyncio.create_task(pool.fetch_one(slow)) for _ in range(2)]
        await activity.begins(2)
        with frozen(server):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await eventually(lambda: pool.free == 2, within=SOON)
        assert pool.stats().discarded == 2
        assert await pool.fetch_val("SELECT 7") == 7
    await activity.ends(connections=0)
