"""A network that delays, swallows and resets, between a pool and each server."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiomysql
import MySQLdb
import psycopg2
import pytest

from asyncdbpool import ConnectionPool, ConnectTimeout, PoolTimeout
from asyncdbpool.testing import check_invariants
from support.access import eventually, kill_all, left_of
from support.activity import Activity
from support.databases import Database, expected
from support.figures import Note
from support.fixtures import SERVED, described
from support.lines import on_a_cursor, on_a_thread, on_the_connection
from support.proxy import Proxy, Trap, Way
from support.servers import Server
from support.ways import iterated

pytestmark = [pytest.mark.realtime, pytest.mark.proof]

GRACE = 0.2
SOON = 5.0  # seconds; what would not end by itself takes a minute at least

HALF_OPEN = pytest.mark.parametrize("way", ["requests", "answers"])


@pytest.fixture(params=SERVED)
def database(request: pytest.FixtureRequest) -> Database:
    return described(request, request.param)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server) as proxy:
        yield proxy
    kill_all(server)  # what a test that failed has left


@asynccontextmanager
async def opened(
    proxy: Proxy, activity: Activity, *, orphans: bool = False, **options: Any
) -> AsyncIterator[ConnectionPool]:
    """A pool behind the proxy, which is whole once the network has healed, and leaves nothing.

    Nothing but orphans, that is: a server that runs a statement does not see its client go.
    """
    limits = {"check_timeout": GRACE, "cancel_grace": GRACE, "connect_timeout": SOON}
    far = proxy.before(activity.database)
    async with far.pool(**{"max_size": 3, **limits, **options}) as pool:
        async with asyncio.timeout(2 * SOON):
            yield pool
        proxy.heal()
        await eventually(lambda: pool.free == pool.max_size, within=SOON)
        check_invariants(pool)
        await answered(pool)
    await eventually(lambda: left_of(pool.name) == [], within=SOON)
    check_invariants(pool)
    proxy.heal()
    await eventually(lambda: proxy.links == 0, within=SOON)
    if orphans:
        kill_all(proxy.server)
    await activity.ends(connections=0)


async def answered(pool: ConnectionPool) -> None:
    """Ask until there is an answer: what began before the network healed may fail once more.

    A slow machine may also want longer for a connect than these tests give it.
    """
    async with asyncio.timeout(SOON):
        while True:
            try:
                assert await pool.fetch_val("SELECT 7") == 7
            except (ConnectTimeout, PoolTimeout):
                continue
            return


async def timed(work: Awaitable[object]) -> float:
    """Wait for something; the seconds that it took."""
    began = asyncio.get_running_loop().time()
    await work
    return asyncio.get_running_loop().time() - began


async def given_up(work: Awaitable[object], after: float) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(after):
            await work


async def fill(pool: ConnectionPool, count: int) -> None:
    """Have so many connections idle."""
    conns = [await pool.get() for _ in range(count)]
    for conn in conns:
        await pool.put(conn)
    assert pool.idle == pool.size == count


def reset(database: Database) -> tuple[type[Exception], ...]:
    """What a driver raises when its connection is reset: its own error, or the system's."""
    return *database.errors, OSError


# ------------------------------------------------------------------------------------------------
# Networks that swallow


@HALF_OPEN
async def test_half_open_idle_connections_cost_one_check_within_the_same_deadline(
    proxy: Proxy, activity: Activity, way: Way, note: Note
) -> None:
    async with opened(proxy, activity, check_after=0, timeout=SOON) as pool:
        await fill(pool, 3)
        proxy.silence(way)
        await asyncio.sleep(0.01)  # longer than `check_after` by any clock
        took = await timed(pool.fetch_val("SELECT 7"))
        assert GRACE * 0.9 < took < SOON
        await eventually(lambda: pool.size == 1, within=SOON)
        stats = pool.stats()
        assert (stats.created, stats.discarded, stats.timeouts) == (4, 1, 0)
        note("three half-open connections cost", f"{took:.3f} s, check_timeout is {GRACE} s")


@HALF_OPEN
async def test_a_statement_on_a_half_open_connection_costs_its_permit_for_the_grace_only(
    proxy: Proxy, activity: Activity, way: Way, note: Note
) -> None:
    async def work() -> None:
        async with pool.transaction() as conn:  # so that the return has something to ask for
            await conn.fetch_val(activity.endless)

    grace = 0.4  # in which the cancel has to get through, by a connection of its own
    async with opened(proxy, activity, max_size=1, cancel_grace=grace) as pool:
        statement = asyncio.create_task(work())
        await activity.begins()
        await asyncio.sleep(0.05)  # PostgreSQL counts one as active that is being prepared
        proxy.silence(way)
        began = asyncio.get_running_loop().time()
        statement.cancel()
        with pytest.raises(asyncio.CancelledError):
            await statement
        assert asyncio.get_running_loop().time() - began < grace, "its caller goes at once"

        back = await timed(eventually(lambda: pool.free == 1, within=SOON))
        note("permit back after", f"{back:.3f} s, cancel_grace is {grace} s")
        assert pool.stats().discarded == 1
        async with asyncio.timeout(SOON):
            while await activity.running():  # noqa: ASYNC110 - the cancel went another way
                await asyncio.sleep(0.01)
        assert await pool.fetch_val("SELECT 7") == 7


async def test_an_outage_of_the_network_costs_everybody_no_more_than_his_own_timeout(
    proxy: Proxy, activity: Activity
) -> None:
    async def ask(number: int) -> None:
        seconds = 0.1 + number / 50
        took = await timed(given_up(pool.fetch_val(activity.endless), seconds))
        assert took < seconds + SOON

    async with opened(
        proxy, activity, orphans=True, max_size=2, check_after=0, connect_timeout=1.0
    ) as pool:
        await fill(pool, 2)
        tasks = [asyncio.create_task(ask(number)) for number in range(2)]
        await activity.begins(2)
        proxy.blackhole()
        tasks += [asyncio.create_task(ask(number)) for number in range(2, 10)]
        await asyncio.gather(*tasks)
        await eventually(lambda: pool.free == 2, within=SOON)
        proxy.heal()
        await answered(pool)


async def test_statements_are_cancelled_in_the_database_again_once_the_network_has_healed(
    proxy: Proxy, activity: Activity
) -> None:
    async def give_up() -> bool:
        """Give up on a statement; tell whether it cost its connection."""
        before = pool.stats().discarded
        await given_up(pool.fetch_one(activity.saying("nobody asks", 0.8)), after=0.1)
        await eventually(lambda: pool.free == 3, within=SOON)
        async with asyncio.timeout(SOON):
            while await activity.running():  # noqa: ASYNC110 - a server sets no events
                await asyncio.sleep(0.01)
        return pool.stats().discarded > before

    async with opened(proxy, activity, connect_timeout=1.5) as pool:
        await pool.fetch_val("SELECT 7")
        proxy.blackhole("answers")  # takes the cancel, too
        assert await give_up()
        proxy.heal()
        # The first ones may have to wait for the end of the cancel that nobody answers.
        for _ in range(4):
            if not await give_up():
                break
        else:
            pytest.fail("the statements were cancelled by nobody")


async def test_a_connect_into_a_black_hole_is_bounded_and_the_pool_recovers_at_once(
    proxy: Proxy, activity: Activity, note: Note
) -> None:
    async with opened(proxy, activity, connect_timeout=1.5) as pool:
        proxy.blackhole()
        with pytest.raises(ConnectTimeout):
            await pool.get()
        assert pool.free == 3
        proxy.heal()
        took = await timed(answered(pool))  # the one that hangs is in nobody's way
        note("first answer after the network has healed", f"{took:.3f} s")


async def test_a_pool_whose_every_connect_is_swallowed_recovers_with_the_drivers_own_timeout(
    proxy: Proxy, activity: Activity, note: Note
) -> None:
    """A thread in a connect cannot be stopped: psycopg2's comes back after two seconds."""

    async def ask() -> None:
        with pytest.raises((ConnectTimeout, PoolTimeout)):
            await pool.get()

    async with opened(proxy, activity, max_size=2, connect_timeout=1.5, timeout=0.7) as pool:
        proxy.blackhole()
        for took in await asyncio.gather(*(timed(ask()) for _ in range(6))):
            assert took < 0.7 + SOON
        assert pool.free == 2
        proxy.heal()
        took = await timed(answered(pool))
        note("first answer after the network has healed", f"{took:.3f} s")


def at(word: bytes) -> Trap:
    """Wait for a request with this word."""
    return lambda way, data: way == "requests" and word in data


async def test_a_setup_that_hears_nothing_costs_connect_timeout_and_no_more(
    proxy: Proxy, activity: Activity
) -> None:
    saying = {"asyncpg": on_the_connection, "aiomysql": on_a_cursor}
    setup = saying.get(activity.database.name, on_a_thread)("SELECT 'last words'")
    async with opened(proxy, activity, max_size=1, setup=setup, connect_timeout=1.5) as pool:
        proxy.silence_at(at(b"last words"))
        with pytest.raises(ConnectTimeout):
            await pool.get()
        proxy.heal()
        await answered(pool)


# ------------------------------------------------------------------------------------------------
# Networks that reset


async def test_a_reset_while_idle_is_seen_before_the_next_borrower_gets_anything(
    proxy: Proxy, activity: Activity
) -> None:
    async with opened(proxy, activity) as pool:  # no ping is due: the look at the socket tells
        await fill(pool, 3)
        proxy.reset()
        await eventually(lambda: proxy.links == 0)
        assert await pool.fetch_val("SELECT 7") == 7
        await eventually(lambda: pool.size == 1, within=SOON)
        assert pool.stats().created == 4


async def test_a_reset_in_mid_statement_retires_every_connection_made_before(
    proxy: Proxy, activity: Activity
) -> None:
    async with opened(proxy, activity, max_size=4) as pool:
        lent = await pool.get()
        await fill_beside(pool, 3)
        proxy.reset_at(at(b"ominous"))
        with pytest.raises(reset(activity.database)):
            await pool.fetch_val("SELECT 'ominous'")
        await eventually(lambda: pool.size == 1, within=SOON)
        assert await lent.fetch_val("SELECT 7") == 7, "a lent one may finish"
        assert await pool.fetch_val("SELECT 7") == 7
        await pool.put(lent)
        await eventually(lambda: pool.size == 1, within=SOON)
        stats = pool.stats()
        assert (stats.created, stats.closed, stats.discarded) == (5, 4, 1)


async def fill_beside(pool: ConnectionPool, count: int) -> None:
    """Have so many connections idle, beside those that are lent."""
    conns = [await pool.get() for _ in range(count)]
    for conn in conns:
        await pool.put(conn)
    assert pool.idle == count


def after_bytes(count: int) -> Trap:
    """Wait for so many bytes of answers."""
    seen = 0

    def trap(way: Way, data: bytes) -> bool:
        nonlocal seen
        seen += len(data) if way == "answers" else 0
        return seen > count

    return trap


async def streamed(conn: Any, module: Any, sql: str) -> list[Any]:
    """Read a result row by row from the server."""
    cursor: Any
    if module is psycopg2:
        cursor = conn.cursor(name="streamed")
    elif module in (MySQLdb, aiomysql):
        cursor = conn.cursor(module.cursors.SSCursor)
    else:
        return await iterated(module)(conn, sql)
    async with cursor as reader:
        await reader.execute(sql)
        return [row async for row in reader]


async def test_a_reset_in_the_middle_of_rows_is_an_error_and_never_a_shorter_result(
    proxy: Proxy, activity: Activity
) -> None:
    database = activity.database
    async with opened(proxy, activity) as pool:
        await fill(pool, 3)
        proxy.reset_at(after_bytes(20_000))
        with pytest.raises(reset(database)):
            await pool.fetch_all(database.rows(5_000))
        await eventually(lambda: pool.size == 0, within=SOON)
        assert [tuple(row) for row in await pool.fetch_all(database.rows(9))] == expected(9)

        proxy.reset_at(after_bytes(20_000))
        with pytest.raises(reset(database)):
            async with pool.connection() as conn:
                await streamed(conn, database.module, database.rows(5_000))
        await eventually(lambda: pool.size == 0, within=SOON)
        assert [tuple(row) for row in await pool.fetch_all(database.rows(9))] == expected(9)
        assert pool.free == 3


def commit_on_its_way() -> Trap:
    """Wait for a commit, which the server will never see."""
    return at(b"COMMIT")


def commit_answered() -> Trap:
    """Wait for the answer to a commit, which the client will never see."""
    asked = False

    def trap(way: Way, data: bytes) -> bool:
        nonlocal asked
        asked = asked or (way == "requests" and b"COMMIT" in data)
        return asked and way == "answers"

    return trap


@pytest.mark.parametrize(
    ("trap", "rows"), [(commit_on_its_way, 0), (commit_answered, 1)], ids=["asked", "answered"]
)
async def test_a_reset_in_a_commit_is_an_error_whether_or_not_it_was_done(
    proxy: Proxy, activity: Activity, items: str, trap: Callable[[], Trap], rows: int
) -> None:
    async with opened(proxy, activity) as pool:
        await fill(pool, 2)
        with pytest.raises(reset(activity.database)):
            async with pool.transaction() as conn:
                await conn.execute(f"INSERT INTO {items} VALUES (1, 'perhaps')")
                proxy.reset_at(trap())
        await eventually(lambda: pool.size == 0, within=SOON)
        await activity.ends(connections=0)  # the server has rolled back what it had to
        assert await pool.fetch_val(f"SELECT count(*) FROM {items}") == rows
        assert pool.stats().discarded == 1


async def test_a_reset_while_connecting_is_a_reason_to_try_again(
    proxy: Proxy, activity: Activity
) -> None:
    async with opened(proxy, activity, retry_connect=SOON, timeout=2 * SOON) as pool:
        proxy.reset_at(lambda way, data: way == "answers")
        assert await pool.fetch_val("SELECT 7") == 7
        assert (pool.stats().connect_errors, pool.free) == (1, 3)


# ------------------------------------------------------------------------------------------------
# Networks that are slow


async def test_over_a_long_way_a_cancel_hits_its_own_statement_and_no_other(
    proxy: Proxy, activity: Activity
) -> None:
    tasks, rounds = 3, 2
    rng = random.Random(random.getrandbits(32))  # noqa: S311 - seeded by pytest-randomly

    async def pairs(who: int) -> None:
        for number in range(rounds):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(rng.uniform(0.05, 0.25)):
                    await pool.fetch_one(activity.saying("victim", 0.5))
            token = f"{who}, {number}"
            assert await pool.fetch_one(activity.saying(token, 0.02)) == activity.said(token)

    patience = {"cancel_grace": 2 * SOON, "check_timeout": SOON, "connect_timeout": SOON}
    async with opened(proxy, activity, orphans=False, **patience) as pool:
        await fill(pool, 3)
        proxy.latency = 0.05
        await asyncio.gather(*(pairs(who) for who in range(tasks)))
        await eventually(lambda: pool.free == 3, within=2 * SOON)
        stats = pool.stats()
        assert (stats.created, stats.discarded) == (3, 0)
        assert stats.cancelled > 0
