"""Servers that hang, functions that never end and callers that go away, with native drivers."""

import asyncio
import gc
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

from asyncdbpool import (
    Connection,
    ConnectionPool,
    ConnectionReturned,
    ConnectTimeout,
    NativeDriver,
    PoolError,
)
from asyncdbpool.drivers import find_driver
from asyncdbpool.testing import check_invariants
from support.access import backend, connections, eventually, frozen, kill_all
from support.activity import Activity
from support.databases import Database
from support.fixtures import with_native_drivers
from support.loops import run
from support.mistakes import SECRET, keeps_the_secret
from support.servers import Server

pytestmark = [pytest.mark.realtime, with_native_drivers]

GRACE = 0.2
HALF = 1.0  # seconds; for a connect that hangs, and one that does not on a slow machine
SOON = 5.0  # seconds; what would not end by itself lasts a minute at least


@asynccontextmanager
async def opened(
    activity: Activity, *, orphans: Server | None = None, **options: Any
) -> AsyncIterator[ConnectionPool]:
    """A pool that is whole at its end, and leaves nothing, neither here nor in the database.

    Nothing but orphans, that is: a server may not see that its client has gone.
    """
    limits = {"connect_timeout": SOON, "check_timeout": GRACE, "cancel_grace": GRACE}
    async with activity.database.opened(**{"max_size": 2, **limits, **options}) as pool:
        async with asyncio.timeout(2 * SOON):
            yield pool
        await eventually(lambda: pool.free == pool.max_size)
        check_invariants(pool)
    if orphans is not None:
        kill_all(orphans)
    await activity.ends(connections=0)


async def forever(*_: object) -> None:
    await asyncio.Event().wait()


async def given_up(work: Awaitable[object], after: float = 0.3) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(after):
            await work


async def left_alone(pool: ConnectionPool, discarded: int) -> None:
    """Wait until nothing is in use any more, and see that the next one is served."""
    await eventually(lambda: pool.free == pool.max_size)
    assert pool.stats().discarded == discarded
    assert await pool.fetch_val("SELECT 7") == 7


# ------------------------------------------------------------------------------------------------
# Servers that hang


async def test_a_connect_to_a_server_that_hangs_is_given_up(
    server: Server, activity: Activity
) -> None:
    async with opened(activity, connect_timeout=HALF) as pool:
        with frozen(server):
            for errors in (1, 2):
                with pytest.raises(ConnectTimeout, match="was given up"):
                    await pool.get()
                await eventually(lambda: pool.size == 0)
                assert (pool.free, pool.stats().connect_errors) == (2, errors)
        assert await pool.fetch_val("SELECT 7") == 7


async def test_a_connect_that_hangs_is_given_up_where_its_caller_has_gone(
    server: Server, activity: Activity
) -> None:
    async with opened(activity, connect_timeout=GRACE) as pool:
        with frozen(server):
            await given_up(pool.get(), after=0.05)
            await eventually(lambda: pool.size == 0)
        assert pool.free == 2


async def test_a_return_to_a_server_that_hangs_ends_within_the_grace(
    server: Server, activity: Activity
) -> None:
    async with opened(activity) as pool:
        conn = await pool.get()
        number = await backend(server, conn)
        await conn.transaction().start()
        with frozen(server, number):
            await pool.put(conn)  # which has to roll back
            assert (pool.size, pool.free, pool.stats().discarded) == (0, 2, 1)


async def test_a_ping_that_is_not_answered_means_a_dead_connection(
    server: Server, activity: Activity
) -> None:
    async with opened(activity, check="always", max_size=1, connect_timeout=HALF) as pool:
        number = await backend(server, pool)
        with frozen(server, number):
            with pytest.raises(ConnectTimeout):
                await pool.get()  # neither the old one nor a new one
            assert pool.stats().discarded == 1
            await eventually(lambda: pool.size == 0)
        await left_alone(pool, discarded=1)


async def test_closing_a_pool_whose_server_hangs_leaves_nothing(
    server: Server, activity: Activity
) -> None:
    async with opened(activity, orphans=server) as pool:
        conn = await pool.get()
        number = await backend(server, conn)
        statement = asyncio.create_task(conn.fetch_val(activity.endless))
        await activity.begins()
        with frozen(server, number):
            await pool.close(timeout=0.05)
            assert pool.size == 0
            with pytest.raises((PoolError, OSError, *activity.database.errors)):
                await statement
        await pool.open()


# ------------------------------------------------------------------------------------------------
# Functions that never end


async def test_a_setup_that_hangs_ends_with_connect_timeout(activity: Activity) -> None:
    async with opened(activity, setup=forever, connect_timeout=GRACE) as pool:
        for _ in range(2):
            with pytest.raises(ConnectTimeout):
                await pool.get()
            await eventually(lambda: pool.size == 0)


async def test_a_check_that_hangs_costs_its_connection_and_the_borrower_only_time(
    server: Server, activity: Activity
) -> None:
    async with opened(activity, check=forever) as pool:
        first = await backend(server, pool)
        assert await backend(server, pool) != first
        await eventually(lambda: pool.stats().discarded == 1)


async def test_a_cleanup_that_hangs_ends_with_the_grace(activity: Activity) -> None:
    async with opened(activity, cleanup=forever) as pool:
        conn = await pool.get()
        await pool.put(conn)
        assert (pool.size, pool.free, pool.stats().discarded) == (0, 2, 1)


async def test_a_function_that_hangs_ends_with_its_caller(activity: Activity) -> None:
    driver = find_driver(activity.database.module)
    assert isinstance(driver, NativeDriver)
    cost = 0 if driver.survives_cancellation else 1
    async with opened(activity, cancel_grace=SOON, min_size=1) as pool:
        await given_up(pool.run(forever))
        await left_alone(pool, discarded=cost)
        async with pool.connection() as conn:
            await given_up(conn.run(forever))
            assert await conn.fetch_val("SELECT 7") == 7, "it is of use until it is returned"
        await left_alone(pool, discarded=2 * cost)


async def test_a_function_that_heeds_no_cancel_is_cut_off_after_the_grace(
    activity: Activity,
) -> None:
    async def heedless(raw: Any) -> None:
        with suppress(asyncio.CancelledError):
            await forever()
        await forever()

    async with opened(activity, min_size=1) as pool:
        await given_up(pool.run(heedless))
        await left_alone(pool, discarded=1)
        async with pool.connection() as conn:
            await given_up(conn.run(heedless))
            with pytest.raises((PoolError, *activity.database.errors)):
                await conn.fetch_val("SELECT 7")  # waits behind it, in vain
        await left_alone(pool, discarded=2)


async def test_a_function_that_hangs_ends_with_its_pool(activity: Activity) -> None:
    async with opened(activity) as pool:
        hanging = asyncio.create_task(pool.run(forever))
        await eventually(lambda: pool.stats().in_use == 1)
        await pool.close(timeout=0.05)
        with pytest.raises(PoolError, match="cut off"):
            await hanging
        await pool.open()


async def test_credentials_that_hang_end_with_connect_timeout(activity: Activity) -> None:
    async with opened(activity, credentials=forever, connect_timeout=GRACE) as pool:
        with pytest.raises(ConnectTimeout):
            await pool.get()
        await eventually(lambda: pool.size == 0)


@pytest.mark.usefixtures("unhurried")
async def test_a_function_commits_nothing_for_a_caller_who_has_gone(
    activity: Activity, items: str
) -> None:
    heard: list[BaseException] = []
    ends: tuple[type[BaseException], ...] = asyncio.CancelledError, *activity.database.errors
    driver = find_driver(activity.database.module)
    assert isinstance(driver, NativeDriver)

    async def go_on(raw: Any) -> None:
        try:
            await driver.command(raw, activity.endless)
        except ends as error:
            heard.append(error)
        with suppress(*activity.database.errors):  # PostgreSQL refuses it, MariaDB does it
            await driver.command(raw, f"INSERT INTO {items} VALUES (1, 'lost')")

    async with opened(activity, cancel_grace=SOON, min_size=1) as pool:
        await given_up(pool.run(go_on))
        await left_alone(pool, discarded=0)
        assert len(heard) == 1
        assert await pool.fetch_val(f"SELECT count(*) FROM {items}") == 0


# ------------------------------------------------------------------------------------------------
# Scopes that cancel every await inside of them, as Starlette's do when a client hangs up


Step = Callable[[], Coroutine[Any, Any, object]]


async def hangs_up(work: Step, when: Step) -> None:
    """Do some work in a task group that is cancelled at a certain point, and wait for its end."""
    async with asyncio.timeout(SOON), anyio.create_task_group() as group:
        group.start_soon(work)
        await when()
        group.cancel_scope.cancel()


async def refused(work: Awaitable[object]) -> None:
    """See that an await in a cancelled scope is cancelled once more."""
    with pytest.raises(asyncio.CancelledError):
        await work


async def test_a_scope_that_ends_while_its_task_waits_for_a_connection(activity: Activity) -> None:
    async with opened(activity, max_size=1) as pool:

        async def work() -> None:
            try:
                await pool.get()
            finally:
                await refused(pool.get())

        conn = await pool.get()
        await hangs_up(work, lambda: eventually(lambda: pool.waiting == 1))
        assert pool.waiting == 0
        await pool.put(conn)
        await left_alone(pool, discarded=0)


async def test_a_scope_that_ends_in_the_middle_of_a_statement(activity: Activity) -> None:
    async with opened(activity, max_size=1, cancel_grace=SOON) as pool:

        async def work() -> None:
            async with pool.connection() as conn:
                try:
                    await conn.fetch_val(activity.endless)
                finally:
                    await refused(conn.fetch_val(activity.endless))
                    await refused(conn.rollback())

        await hangs_up(work, activity.begins)
        await left_alone(pool, discarded=0)


async def test_a_scope_that_ends_in_the_middle_of_nested_transactions(
    activity: Activity, items: str
) -> None:
    async with opened(activity, max_size=1, cancel_grace=SOON) as pool:

        async def work() -> None:
            async with pool.transaction() as conn:
                await conn.execute(f"INSERT INTO {items} VALUES (1, 'lost')")
                try:
                    async with conn.transaction():
                        await conn.execute(f"INSERT INTO {items} VALUES (2, 'lost')")
                        await conn.fetch_val(activity.endless)
                finally:
                    await refused(conn.execute(f"INSERT INTO {items} VALUES (3, 'lost')"))

        await hangs_up(work, activity.begins)
        await left_alone(pool, discarded=0)
        assert await pool.fetch_val(f"SELECT count(*) FROM {items}") == 0


async def test_a_scope_that_ends_during_a_return_does_not_end_the_cleanup(
    activity: Activity,
) -> None:
    begun, over, cleaned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def clean(raw: Any) -> None:
        begun.set()
        await over.wait()
        cleaned.set()

    async with opened(activity, max_size=1, cleanup=clean, cancel_grace=SOON) as pool:

        async def work() -> None:
            try:
                async with pool.connection():
                    pass
            finally:
                await refused(asyncio.sleep(1))

        await hangs_up(work, begun.wait)
        assert pool.stats().in_use == 1
        over.set()
        await left_alone(pool, discarded=0)
        assert cleaned.is_set()


async def test_a_scope_that_has_ended_already_lends_nothing_and_leaves_nothing(
    activity: Activity,
) -> None:
    async with opened(activity, max_size=1) as pool:
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with pool.connection() as conn:
                await conn.fetch_val(activity.endless)
        assert scope.cancelled_caught
        await left_alone(pool, discarded=0)


# ------------------------------------------------------------------------------------------------
# Cancels


@pytest.mark.parametrize("on_one_lease", [False, True], ids=["one-shots", "one lease"])
async def test_a_late_cancel_never_hits_the_next_statement(
    activity: Activity, on_one_lease: bool
) -> None:
    rng = random.Random(random.getrandbits(32))  # noqa: S311 - seeded by pytest-randomly
    rounds, tasks = 60, 4

    async def pairs(who: int, fetch_one: Callable[[str], Awaitable[object]]) -> int:
        hits = 0
        for number in range(rounds):
            seconds = rng.uniform(0, 0.002)
            victim = asyncio.ensure_future(fetch_one(activity.saying("victim", seconds)))
            await asyncio.sleep(rng.uniform(0, 0.003))
            hits += victim.cancel()
            token = f"{who}, {number}"
            assert await fetch_one(activity.saying(token, 0.0005)) == activity.said(token)
            assert victim.cancelled() or victim.result() == activity.said("victim")
        return hits

    async def on_a_lease(who: int) -> int:
        async with pool.connection() as conn:
            return await pairs(who, conn.fetch_one)

    options: dict[str, Any] = {"autocommit": True} if activity.database.name == "aiomysql" else {}
    async with opened(activity, max_size=tasks, cancel_grace=SOON, **options) as pool:
        hits = await asyncio.gather(
            *(
                on_a_lease(who) if on_one_lease else pairs(who, pool.fetch_one)
                for who in range(tasks)
            )
        )
        assert sum(hits) > rounds * tasks / 10
        await left_alone(pool, discarded=0)


def cancelling_by(cancel: Callable[[], Awaitable[None]], database: Database) -> NativeDriver:
    """The driver, with another way to cancel in the database."""
    family: Any = type(find_driver(database.module))

    class Otherwise(family):  # type: ignore[misc]
        def canceller(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            return lambda ask: cancel()

    driver: NativeDriver = Otherwise(database.module)
    return driver


async def nobody_there() -> None:
    raise ConnectionRefusedError("nobody there")


@pytest.mark.parametrize("cancel", [forever, nobody_there])
async def test_a_cancel_that_comes_to_nothing_costs_no_permit_beyond_the_grace(
    server: Server, activity: Activity, cancel: Callable[[], Awaitable[None]]
) -> None:
    driver = cancelling_by(cancel, activity.database)
    async with opened(activity, orphans=server, driver=driver, min_size=2) as pool:
        both = [pool.fetch_val(activity.endless) for _ in range(2)]
        await given_up(asyncio.gather(*both))
        await left_alone(pool, discarded=2)


async def test_a_cancel_that_fails_is_logged(
    server: Server, activity: Activity, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asyncdbpool")
    driver = cancelling_by(nobody_there, activity.database)
    async with opened(activity, orphans=server, driver=driver, min_size=1) as pool:
        await given_up(pool.fetch_val(activity.endless))
        await left_alone(pool, discarded=1)
    assert "cancelling failed: ConnectionRefusedError: nobody there" in caplog.text


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_cancel_connects_with_the_credentials(activity: Activity, kind: str) -> None:
    password = activity.database.arguments["password"]

    def at_once() -> dict[str, Any]:
        return {"password": password}

    async def later() -> dict[str, Any]:
        await asyncio.sleep(0)
        return at_once()

    credentials = at_once if kind == "sync" else later
    asked: dict[str, Any] = {
        "credentials": credentials,
        "password": "stale",
        "connect_timeout": SOON,
    }
    async with opened(activity, cancel_grace=SOON, **asked) as pool:
        await given_up(pool.fetch_val(activity.endless))
        await left_alone(pool, discarded=0)


# ------------------------------------------------------------------------------------------------
# What is wrong for good


def mistakes(database: Database) -> dict[str, Mapping[str, Any]]:
    arguments = {name: database.arguments[name] for name in ("host", "port", "user")}
    keyword = find_driver(database.module).database_keyword
    found: dict[str, Mapping[str, Any]] = {
        "password": {**arguments, "password": SECRET},
        "database": {**database.arguments, keyword: "nowhere"},
        "keyword": {**arguments, "password": SECRET, "pasword": SECRET},
    }
    if database.name == "asyncpg":
        nobody = f"nobody:{SECRET}@{arguments['host']}"
        found |= {
            "dsn": {"dsn": f"postgresql://nobody:{SECRET}@[::1/shop"},
            "scheme": {"dsn": f"mysql://{nobody}/shop"},
            "port": {"dsn": f"postgresql://{nobody}:first/shop"},
            "user": {"dsn": f"postgresql://{nobody}:{arguments['port']}/shop"},
        }
    return found


async def test_what_is_wrong_for_good_surfaces_at_once_and_shows_no_password(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for mistake in mistakes(database).values():
        with pytest.raises((*database.errors, OSError, ValueError, TypeError)) as raised:
            await database.module.connect(**mistake)
        own = raised.value
        pool = ConnectionPool(database.module, retry_connect=60, **mistake)
        with pytest.raises(type(own)) as caught:
            async with asyncio.timeout(SOON):
                await pool.get()
        assert str(caught.value) == str(own), "as the driver raises it"
        assert keeps_the_secret(pool, caught.value)
        assert (pool.size, pool.free, pool.stats().connect_errors) == (0, 10, 1)
        with pytest.raises(type(own)) as caught:
            await ConnectionPool(database.module, min_size=2, **mistake).open()
        assert keeps_the_secret(pool, caught.value)
        await pool.close()
    assert SECRET not in caplog.text


# ------------------------------------------------------------------------------------------------
# Loops that are closed


# The drivers' transports cannot be closed without their loop, only shut down; so they warn, too.
their_own_warnings = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore:loop is closed:ResourceWarning"
)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Has what is left of a test go while the test's own filters for warnings hold."""
    yield
    gc.collect()


async def use_and_close(pool: ConnectionPool) -> object:
    try:
        return await pool.fetch_val("SELECT 7")
    finally:
        await pool.close()


@their_own_warnings
@pytest.mark.usefixtures("forgotten")
def test_a_loop_that_is_closed_while_a_statement_runs(activity: Activity) -> None:
    pool = activity.database.pool(max_size=3)

    async def leave() -> Connection:
        conn, other = await pool.get(), await pool.get()
        await pool.fetch_val("SELECT 7")
        statement = asyncio.ensure_future(conn.fetch_val(activity.saying("nobody asks", 0.6)))
        await activity.begins()
        await pool.put(other)
        assert not statement.done()
        return conn

    async def begin_again(conn: Connection) -> None:
        with pytest.warns(ResourceWarning, match="was not closed before its event loop"):
            assert await pool.fetch_val("SELECT 7") == 7
        with pytest.raises(ConnectionReturned, match="given up"):
            await conn.fetch_val("SELECT 7")
        assert pool.size == 1
        check_invariants(pool)
        await pool.close()
        await activity.ends(connections=0)

    run(begin_again(run(leave())))


@their_own_warnings
@pytest.mark.usefixtures("forgotten")
def test_a_pool_that_is_dropped_after_its_loop_warns_and_closes_its_connections(
    activity: Activity,
) -> None:
    async def leave() -> list[ConnectionPool]:
        pool = activity.database.pool(max_size=3)
        async with pool.connection(), pool.connection():
            pass
        await given_up(pool.fetch_val(activity.saying("nobody asks", 0.6)))
        return [pool]

    pools = run(leave())
    with pytest.warns(ResourceWarning, match="was never closed"):
        pools.clear()
    run(activity.ends(connections=0))


def test_a_pool_that_is_closed_in_each_loop_needs_no_warning(
    server: Server, database: Database
) -> None:
    pool = database.pool(min_size=2)
    assert [run(use_and_close(pool))] * 3 == [7] * 3
    run(eventually(lambda: connections(server) == 0))
