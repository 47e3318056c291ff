"""What users of connection pools complain about, line by line: each pain, and why it is none here.

The comments name the public issues in which it was reported, here or in other pools.
"""

import asyncio
import concurrent.futures
import inspect
import itertools
import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from asyncdbpool import (
    Connection,
    ConnectionPool,
    ConnectionReturned,
    DatabaseConnector,
    PoolClosed,
    PoolDeadlock,
    PoolError,
    PoolTimeout,
    WrongEventLoop,
)
from asyncdbpool._workers import Job, Worker
from asyncdbpool.testing import (
    NEVER,
    Fake,
    FakeDriver,
    check_invariants,
    now,
    settle,
    sleep,
    virtual_time,
)
from support.access import (
    backend,
    backends,
    connections,
    eventually,
    frozen,
    kill,
    tell,
    threads,
)
from support.activity import Activity
from support.databases import Database, expected
from support.fixtures import SERVED, with_blocking_drivers, with_every_driver
from support.loops import run
from support.points import MOMENTS, Moment, cancelled_at
from support.proxy import Proxy
from support.servers import PostgresServer, Server, free_port

pytestmark = pytest.mark.proof

with_served_drivers = pytest.mark.parametrize("database", SERVED, indirect=True)
every_moment = pytest.mark.parametrize("moment", MOMENTS)

Work = Callable[[], Awaitable[object]]


async def outcome(work: Awaitable[object]) -> object:
    """What it returns or raises."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - which it returns
        return error


async def hold(pool: ConnectionPool, seconds: float) -> None:
    """Borrow a connection for a while."""
    async with pool.connection():
        await asyncio.sleep(seconds)


async def by_timeout(work: Work, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await work()


async def by_wait_for(work: Work, seconds: float) -> None:
    await asyncio.wait_for(work(), seconds)


async def by_anyio(work: Work, seconds: float) -> None:
    with anyio.fail_after(seconds):
        await work()


every_deadline = pytest.mark.parametrize("limit", [by_timeout, by_wait_for, by_anyio])
"""The ways in which callers limit what they await."""


# ------------------------------------------------------------------------------------------------
# 1: a cancelled borrower leaks its connection
# https://github.com/sqlalchemy/sqlalchemy/issues/6652 and 8145,
# https://github.com/MagicStack/asyncpg/issues/97


async def a_request(pool: ConnectionPool) -> None:
    """All that a borrower does, by hand and in blocks."""
    conn = await pool.get()
    try:
        await conn.fetch_val("SELECT 1")
    finally:
        await pool.put(conn)
    async with pool.transaction() as conn:
        await conn.fetch_val("SELECT 2")
    async with pool.connection() as conn:
        await conn.execute("SELECT 3")
    await pool.fetch_all("SELECT 4")
    await pool.run(inspect_the_connection if not pool._driver.native else await_nothing)


def inspect_the_connection(raw: Any) -> None:
    raw.cursor().close()


async def await_nothing(raw: Any) -> None:
    await asyncio.sleep(0)


@every_moment
@pytest.mark.parametrize("knowing", [True, False], ids=["knowing driver", "generic driver"])
@virtual_time
async def test_pain_1_a_cancelled_borrower_leaks_no_connection(
    knowing: bool, moment: Moment
) -> None:
    fake = Fake()
    for step in ("connect", "ping", "execute", "commit", "rollback", "close"):
        getattr(fake, step).always(1.0)
    point, reached = 0, True
    options: dict[str, Any] = {} if knowing else {"driver": None}
    async with fake.pool(max_size=2, check="always", timeout=90, **options) as pool:

        def really_open() -> int:
            under_way = fake.connect.calls - len(fake.connections)
            return fake.open + under_way

        while reached:
            point += 1
            others = [asyncio.create_task(hold(pool, 3)) for _ in range(2)]
            await asyncio.sleep(0)
            reached = await cancelled_at(point, moment, lambda: a_request(pool))
            for _ in range(20):
                await asyncio.sleep(0.4)
                stats = pool.stats()
                assert stats.idle + stats.in_use + stats.connecting == really_open(), point
                check_invariants(pool, proxies=False)
            await asyncio.gather(*others)
            await asyncio.sleep(20)
            assert pool.idle == fake.open, f"something is left after await point {point}"
            assert pool.free == 2
            if point % 3 == 0:
                await pool.clear()  # so that connects are among what is cancelled
        assert point > 8


@pytest.mark.realtime
@with_every_driver
@every_moment
async def test_pain_1_a_cancelled_borrower_leaks_no_connection_of_any_driver(
    activity: Activity, moment: Moment
) -> None:
    point, reached = 0, True
    async with activity.pool(max_size=2) as pool:
        while reached:
            point += 1
            reached = await cancelled_at(point, moment, lambda: a_request(pool), within=0.0005)
            await eventually(lambda: pool.free == 2 and pool.size == pool.idle)
            await activity.ends(connections=pool.idle)
            if point % 2:
                await pool.clear()
        assert point > 5
        check_invariants(pool)


# ------------------------------------------------------------------------------------------------
# 2: anyio re-delivers cancellation during cleanup
# https://github.com/sqlalchemy/sqlalchemy/issues/12077


async def by_hand(pool: ConnectionPool) -> None:
    conn = await pool.get()
    try:
        await conn.execute("INSERT")
    finally:
        await pool.put(conn)


async def in_a_block(pool: ConnectionPool) -> None:
    async with pool.connection() as conn:
        await conn.execute("INSERT")


async def in_a_transaction(pool: ConnectionPool) -> None:
    async with pool.transaction() as conn:
        await conn.execute("INSERT")
        raise LookupError


async def in_one_go(pool: ConnectionPool) -> None:
    await pool.execute("INSERT")


@pytest.mark.parametrize("after", [0.5, 1.5], ids=["in the statement", "in the cleanup"])
@pytest.mark.parametrize("use", [by_hand, in_a_block, in_a_transaction, in_one_go])
@virtual_time
async def test_pain_2_a_return_inside_a_cancelled_anyio_scope_completes(
    use: Callable[[ConnectionPool], Awaitable[None]], after: float
) -> None:
    fake = Fake()
    for step in ("execute", "rollback", "commit"):
        getattr(fake, step).always(1.0)
    async with fake.pool(max_size=1) as pool:
        began = now()
        with anyio.move_on_after(after) as scope:
            await use(pool)
        assert scope.cancelled_caught
        assert now() - began == pytest.approx(after), "the caller does not wait for the cleanup"
        assert pool.stats().in_use == 1

        conn = await pool.get()
        assert now() - began == pytest.approx(2), "the statement, and the rollback"
        assert not conn.in_transaction
        assert (fake.open, fake.connect.calls, pool.stats().discarded) == (1, 1, 0)
        await pool.put(conn)


# ------------------------------------------------------------------------------------------------
# 3: a cancel racing the hand-over is lost
# https://github.com/psycopg/psycopg/issues/509, 1275 and 1345


async def by_a_return(pool: ConnectionPool, fake: Fake) -> Work:
    lent = [await pool.get() for _ in range(2)]

    async def put_both() -> None:
        await pool.put(lent[0])  # which does not suspend: both the hand-over and the cancel
        await asyncio.sleep(1)  # are of one tick, and the second comes back later
        await pool.put(lent[1])

    return put_both


async def by_a_connect(pool: ConnectionPool, fake: Fake) -> Work:
    fake.connect.once(1.0)
    return partial(asyncio.sleep, 1)


async def by_a_check(pool: ConnectionPool, fake: Fake) -> Work:
    await pool.put(await pool.get())
    await asyncio.sleep(2)
    fake.ping.once(1.0)
    fake.connect.once(60.0)
    return partial(asyncio.sleep, 1)


@pytest.mark.parametrize("hand_over", [by_a_return, by_a_connect, by_a_check])
@virtual_time
async def test_pain_3_a_cancel_that_races_the_hand_over_is_not_lost(
    hand_over: Callable[[ConnectionPool, Fake], Awaitable[Work]],
) -> None:
    fake = Fake()
    async with fake.pool(max_size=2, connect_limit=1) as pool:
        happens = await hand_over(pool, fake)
        first = asyncio.create_task(
            cancelled_at(1, "in the tick in which its wait is over", pool.get)
        )
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = asyncio.create_task(pool.get())
        await asyncio.sleep(0)
        assert pool.waiting == 2
        happening = asyncio.ensure_future(happens())
        await asyncio.sleep(0 if hand_over is by_a_return else 1)
        await settle()

        assert first.done()
        assert await first, "get() raises CancelledError, though it had been served"
        assert second.done(), "the next waiter gets the connection, at once"
        acquired = pool.stats().acquired
        await happening
        await pool.put(await second)
        await asyncio.sleep(60)
        assert acquired == pool.stats().acquired
        assert (pool.free, pool.idle) == (2, fake.open)


@pytest.mark.parametrize("cancel_first", [True, False])
@virtual_time
async def test_pain_3_a_cancel_and_a_return_in_one_tick_serve_the_next_waiter(
    cancel_first: bool,
) -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        lent = await pool.get()
        first, second = (asyncio.create_task(pool.get()) for _ in range(2))
        await settle()
        if cancel_first:
            first.cancel()
        await pool.put(lent)
        if not cancel_first:
            first.cancel()
        await settle()

        assert first.cancelled()
        assert second.done()
        await pool.put(second.result())


# ------------------------------------------------------------------------------------------------
# 4: wait_for cannot bound an acquire
# https://github.com/psycopg/psycopg/issues/1401


@every_deadline
@virtual_time
async def test_pain_4_a_hung_check_ends_with_the_callers_deadline(
    limit: Callable[[Work, float], Coroutine[Any, Any, None]],
) -> None:
    fake = Fake()
    async with fake.pool(max_size=1, check="always", check_timeout=3600, timeout=60) as pool:
        await pool.put(await pool.get())
        fake.ping.once(NEVER)
        began = now()
        with pytest.raises(TimeoutError) as caught:
            await limit(pool.get, 3)
        assert now() - began == 3
        assert not isinstance(caught.value, PoolError), "it was the caller's"

        with pytest.raises(PoolTimeout):
            await pool.get(timeout=4)
        assert now() - began == 7
        assert pool.waiting == 0
        fake.ping.release()
        await pool.put(await pool.get())


@pytest.mark.realtime
@with_served_drivers
async def test_pain_4_a_check_of_a_server_that_hangs_ends_with_the_callers_deadline(
    server: Server, database: Database
) -> None:
    patient = {"check_timeout": 60, "timeout": 60, "connect_timeout": 60, "cancel_grace": 60}
    async with database.opened(max_size=1, check="always", **patient) as pool:
        number = await backend(server, pool)
        with frozen(server, number):
            began = now()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.get(), 0.1)
            with pytest.raises(PoolTimeout):
                await pool.get(timeout=0.1)
            assert now() - began < 10
            assert pool.waiting == 0
        assert await backend(server, pool) == number, "it has answered in the end"
        check_invariants(pool)


# ------------------------------------------------------------------------------------------------
# 5: a timeout during connect leaks
# https://github.com/MagicStack/asyncpg/issues/464, 467 and 547


async def by_its_own_timeout(pool: ConnectionPool, seconds: float) -> None:
    await pool.put(await pool.get(timeout=seconds))


async def by_somebody_elses(pool: ConnectionPool, seconds: float) -> None:
    await pool.put(await asyncio.wait_for(pool.get(), seconds))


@pytest.mark.parametrize("seconds", [0.001, 1.0, 1.999, 2.0], ids="after {:g} s".format)
@pytest.mark.parametrize("limit", [by_its_own_timeout, by_somebody_elses])
@virtual_time
async def test_pain_5_a_connect_that_outlives_its_caller_is_pooled_or_closed(
    limit: Callable[[ConnectionPool, float], Awaitable[None]], seconds: float
) -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        fake.connect.always(2.0)
        error = await outcome(limit(pool, seconds))
        assert isinstance(error, TimeoutError) or seconds == 2
        check_invariants(pool, proxies=False)
        await asyncio.sleep(3)
        assert (pool.idle, pool.free, fake.open) == (1, 1, 1), "pooled"
        async with pool.connection():
            assert fake.connect.calls == 1

    async with fake.pool(max_size=1) as pool:
        fake.connect.always(2.0)
        await outcome(limit(pool, seconds))
        await pool.close()
        assert (fake.connect.calls, fake.open) == (2, 0), "closed"


@pytest.mark.realtime
@with_every_driver
async def test_pain_5_a_timeout_at_any_moment_of_a_connect_leaks_nothing(
    activity: Activity,
) -> None:
    async with activity.pool(max_size=3) as pool:
        lost = 0
        for step in range(12):
            with suppress(TimeoutError):
                async with asyncio.timeout(step * 0.001):
                    await pool.put(await pool.get())
                lost -= 1
            lost += 1
            await eventually(lambda: pool.size == pool.idle)
            await activity.ends(connections=pool.size)
            assert pool.size == 1 or not step
            await pool.clear()
        assert lost, "no connect is as fast as that"


# ------------------------------------------------------------------------------------------------
# 6: a non-Exception from connect leaks a slot
# https://github.com/eventlet/eventlet/issues/527


class Strange(BaseException):
    """Like eventlet's Timeout."""


@pytest.mark.parametrize("place", ["connect", "setup", "credentials"])
@pytest.mark.parametrize(
    "error", [Strange, KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]
)
@virtual_time
async def test_pain_6_whatever_connect_raises_the_capacity_is_unchanged(
    error: type[BaseException], place: str
) -> None:
    fake = Fake()
    failing = True

    def hook(*_: object) -> dict[str, Any]:
        if failing:
            raise error
        return {}

    hooks: dict[str, Any] = {place: hook}
    if place == "connect":
        fake.connect.always(hook)
        hooks = {}
    async with fake.pool(max_size=2, **hooks) as pool:
        for _ in range(5):
            with pytest.raises((error, PoolError)):
                await pool.get()
            await settle()
            assert (pool.size, pool.free, fake.open) == (0, 2, 0)
            check_invariants(pool, proxies=False)
        failing = False
        for conn in [await pool.get() for _ in range(2)]:
            await pool.put(conn)


# ------------------------------------------------------------------------------------------------
# 7: acquire waits for ever by default
# (a six-hour outage)


def wait_for_a_return(fake: Fake) -> dict[str, Any]:
    return {}


def wait_for_a_connect(fake: Fake) -> dict[str, Any]:
    fake.connect.always(fake.Lost("connection refused"))
    return {"retry_connect": 3600}


def wait_for_a_check(fake: Fake) -> dict[str, Any]:
    fake.ping.always(NEVER)
    return {"check_timeout": 3600}


def wait_for_one_after_the_other(fake: Fake) -> dict[str, Any]:
    """A return after 24 s, its check that fails after 4 s, and a connect of 4 s."""

    def die_slowly() -> None:
        sleep(4)
        raise fake.Lost("gone")

    fake.ping.always(die_slowly)
    fake.connect.always(4.0)
    return {}


@pytest.mark.parametrize(
    "wait", [wait_for_a_return, wait_for_a_connect, wait_for_a_check, wait_for_one_after_the_other]
)
@virtual_time
async def test_pain_7_the_default_deadline_is_finite_and_covers_everything_together(
    wait: Callable[[Fake], dict[str, Any]],
) -> None:
    deadline = inspect.signature(ConnectionPool).parameters["timeout"].default
    assert deadline == 30
    fake = Fake()
    options = {"check": "always"} | wait(Fake())
    async with fake.pool(max_size=1, **options) as pool:
        lent = await pool.get()
        wait(fake)
        if wait is wait_for_a_connect:
            await lent.discard()
        elif wait is wait_for_a_check:
            await pool.put(lent)
        began = now()
        waiter = asyncio.create_task(pool.get())
        if wait is wait_for_one_after_the_other:
            await asyncio.sleep(24)
            await pool.put(lent)
        with pytest.raises(PoolTimeout, match="no connection within 30 s"):
            await waiter
        assert now() - began == pytest.approx(30)
        if lent:
            await pool.put(lent)
        fake.release()
        await asyncio.sleep(60)
        await pool.put(await pool.get())


# ------------------------------------------------------------------------------------------------
# 8: no wake-up when a broken connection comes back
# https://github.com/long2ice/asyncmy/issues/154


async def lost(pool: ConnectionPool, fake: Fake, conn: Connection) -> None:
    fake.execute.once(fake.Lost("gone"))
    with pytest.raises(fake.Lost):
        await conn.execute("SELECT n")
    await pool.put(conn)


async def unclean(pool: ConnectionPool, fake: Fake, conn: Connection) -> None:
    fake.rollback.once(fake.Error("no"))
    await conn.execute("INSERT")
    await pool.put(conn)


async def discarded(pool: ConnectionPool, fake: Fake, conn: Connection) -> None:
    await conn.discard()


@pytest.mark.parametrize("broken", [lost, unclean, discarded])
@virtual_time
async def test_pain_8_a_broken_connection_that_comes_back_wakes_the_head_waiter(
    broken: Callable[[ConnectionPool, Fake, Connection], Awaitable[None]],
) -> None:
    fake = Fake()
    async with fake.pool(max_size=2) as pool:
        lent = [await pool.get() for _ in range(2)]
        waiters = [asyncio.create_task(pool.get()) for _ in range(2)]
        await settle()
        fake.connect.always(1.0)
        for number, conn in enumerate(lent):
            began = now()
            await broken(pool, fake, conn)
            fresh = await waiters[number]
            assert now() - began == pytest.approx(1), "the replacement was begun at once"
            assert waiters[1].done() == (number == 1), "the first one was served first"
            assert fake.open == 2
            await fresh.fetch_val("SELECT n")
        for waiter in waiters:
            await pool.put(await waiter)


# ------------------------------------------------------------------------------------------------
# 9: close() hangs or strands waiters
# https://github.com/encode/databases/issues/477, https://github.com/long2ice/asyncmy/issues/157


@pytest.mark.parametrize("waits_for", ["a return", "a connect", "a retry", "a check", "a resume"])
@virtual_time
async def test_pain_9_close_fails_every_waiter_within_one_tick_and_ends(waits_for: str) -> None:
    fake = Fake()
    async with fake.pool(max_size=2, check="always", retry_connect=3600, timeout=None) as pool:
        lent = await pool.get()
        if waits_for == "a return":
            other = await pool.get()
        elif waits_for == "a connect":
            fake.connect.always(NEVER)
        elif waits_for == "a retry":
            fake.connect.always(fake.Lost("refused"))
        elif waits_for == "a check":
            await pool.put(await pool.get())
            fake.ping.always(NEVER)
        pausing = asyncio.create_task(pool.pause() if waits_for == "a resume" else settle())
        waiters = [asyncio.create_task(pool.get()) for _ in range(20)]
        await asyncio.sleep(2)
        assert pool.waiting == 20
        began = now()
        closing = asyncio.create_task(pool.close())
        for _ in range(3):  # close() begins, its task tells the waiters, they raise
            await asyncio.sleep(0)
        assert all(waiter.done() for waiter in waiters)
        assert now() == began
        for waiter in waiters:
            assert isinstance(waiter.exception(), PoolClosed)
        with pytest.raises(PoolClosed):
            await pool.get()

        fake.release()  # what was under way comes too late
        await asyncio.sleep(3)
        assert await lent.fetch_val("SELECT n") == 1, "a borrower may finish"
        with pytest.raises(PoolClosed):
            await pool.get()
        if waits_for == "a return":  # or may not
            await closing
            assert now() - began == pytest.approx(10, abs=0.1), "the timeout of close()"
            assert not lent
            assert not other
        else:
            await pool.put(lent)
            await closing
            assert now() - began == pytest.approx(3, abs=0.1)
        await pausing
        assert (fake.open, pool.size) == (0, 0)
        assert pool.stats().acquired == {"a return": 2, "a check": 2}.get(waits_for, 1)


# ------------------------------------------------------------------------------------------------
# 10: a cancelled close() strands connections
# https://github.com/long2ice/asyncmy/issues/156


@every_moment
@virtual_time
async def test_pain_10_a_cancelled_close_leaves_nothing_open(moment: Moment) -> None:
    fake = Fake()
    point, reached = 0, True
    while reached:
        point += 1
        fake.connect.open()
        async with fake.pool(max_size=5, min_size=3) as pool:
            await pool.open()
            lent = [await pool.get() for _ in range(3)]
            fake.connect.always(3.0)
            late = asyncio.create_task(pool.get())
            await pool.put(lent.pop())
            late_too = asyncio.create_task(pool.get())
            await settle()
            fake.close.always(1.0)
            reached = await cancelled_at(point, moment, pool.close)
            await asyncio.sleep(1)
            with suppress(ConnectionReturned):  # a close that was not cancelled has taken it
                await pool.put(lent.pop())  # the other one never comes back
            await asyncio.sleep(30)
            assert (fake.open, pool.size) == (0, 0)
            assert threads(pool.name) == []
            for waiter in (late, late_too):
                with suppress(PoolClosed):
                    assert not await waiter
    assert point > 1


# ------------------------------------------------------------------------------------------------
# 11: the pool is dead after an outage
# https://github.com/MagicStack/asyncpg/issues/1307, https://github.com/psycopg/psycopg/issues/370
# and 1315, https://github.com/oracle/python-oracledb/issues/221


@pytest.mark.realtime
@pytest.mark.parametrize("outage", ["refused", "silent"])
@with_served_drivers
async def test_pain_11_the_first_get_after_an_outage_succeeds(
    server: Server, database: Database, outage: str
) -> None:
    limits = {"connect_timeout": 1.5, "check_timeout": 0.15, "cancel_grace": 0.15}
    nobody = free_port()
    is_down = False
    with Proxy(server) as network:

        def ask() -> dict[str, Any]:
            """Where to connect to: a port that nobody listens on while the server is down."""
            return {"port": nobody if is_down and outage == "refused" else network.port}

        options = {"max_size": 4, "check": "always", "credentials": ask, **limits}
        async with network.before(database).opened(**options) as pool, asyncio.timeout(60):
            lent = await pool.get()
            await backend(server, lent)
            await backends(server, pool, 3)
            is_down = True
            if outage == "refused":
                network.reset()
                await asyncio.sleep(0.05)  # the news arrives
            else:
                network.blackhole()
            crowd = await asyncio.gather(*(outcome(pool.get(timeout=0.25)) for _ in range(20)))
            assert all(isinstance(error, Exception) for error in crowd)
            for _ in range(3):
                with pytest.raises((*database.errors, OSError)):  # TimeoutError is one, too
                    await pool.get(timeout=0.1)
            failed = await outcome(asyncio.wait_for(backend(server, lent), 0.2))
            assert isinstance(failed, Exception)
            await pool.put(lent)
            is_down = False
            network.heal()

            async with pool.connection() as conn:  # the first one
                assert await conn.fetch_val("SELECT 1") == 1
            check_invariants(pool)
            network.reset()  # frees the threads that are still in a connect of then
            await eventually(lambda: pool.free == 4)


# ------------------------------------------------------------------------------------------------
# 12: half-open sockets hang the ping
# https://github.com/sqlalchemy/sqlalchemy/issues/6480,
# https://github.com/psycopg/psycopg/issues/1371


@virtual_time
async def test_pain_12_a_hung_ping_costs_check_timeout_once_and_then_the_next_is_lent() -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=5) as pool:  # check_timeout is 5 s, timeout 30 s
        for conn in [await pool.get() for _ in range(5)]:
            await pool.put(conn)
        await asyncio.sleep(60)
        fake.ping.always(NEVER)
        fake.connect.always(2.0)
        began = now()
        async with pool.connection() as conn:
            assert now() - began == pytest.approx(5 + 2)
            assert await conn.fetch_val("SELECT n") == 1
        assert (fake.ping.calls, fake.open, pool.stats().timeouts) == (1, 1, 0)


@pytest.mark.realtime
@with_served_drivers
async def test_pain_12_half_open_sockets_do_not_hang_the_ping(
    server: Server, database: Database
) -> None:
    limits = {"check": "always", "check_timeout": 0.2, "cancel_grace": 0.2}
    with Proxy(server) as network:
        options = {"max_size": 3, "timeout": 20, **limits}
        async with network.before(database).opened(**options) as pool, asyncio.timeout(60):
            old = await backends(server, pool, 3)
            network.silence()  # neither end is told, and new connections get through
            began = now()
            assert await backend(server, pool) not in old
            assert now() - began < 10
            assert pool.stats().timeouts == 0
            await eventually(lambda: pool.size == pool.idle == 1)
            check_invariants(pool)


# ------------------------------------------------------------------------------------------------
# 13: stale connections are served one by one
# https://github.com/aio-libs/aioodbc/issues/245, https://github.com/aio-libs/aiomysql/issues/132


async def end_all(server: Server) -> None:
    """End every backend of the ordinary user at once, as a restart does."""
    if isinstance(server, PostgresServer):
        where = f"FROM pg_stat_activity WHERE usename = '{server.user}'"
        tell(server, f"SELECT pg_terminate_backend(pid) {where}")
    else:
        tell(server, f"KILL USER '{server.user}'")
    await eventually(lambda: connections(server) == 0)


@pytest.mark.parametrize(
    ("end", "check", "failures"), [("kill", None, 1), ("reset", None, 1), ("kill", "auto", 0)]
)
@with_served_drivers
async def test_pain_13_one_disconnect_error_retires_the_whole_idle_generation(
    server: Server, database: Database, end: str, check: Any, failures: int
) -> None:
    with Proxy(server) as network:
        async with network.before(database).opened(max_size=25, check=check) as pool:
            old = await backends(server, pool, 25)
            await eventually(lambda: (pool.idle, connections(server)) == (25, 25))
            if end == "kill":
                await end_all(server)
            else:
                network.reset()
            await eventually(lambda: network.links == 0)  # the news arrives

            ends = [await outcome(backend(server, pool)) for _ in range(26)]
            errors = [error for error in ends if isinstance(error, Exception)]
            assert len(errors) == failures, errors
            # uvloop's own error for a connection that was reset comes out of aiomysql as it is.
            known = (*database.errors, OSError, RuntimeError)
            assert all(isinstance(error, known) for error in errors)
            (new,) = set(ends) - set(errors)
            assert new not in old
            await eventually(lambda: pool.size == 1)


# ------------------------------------------------------------------------------------------------
# 14: read-only primary after a failover
# https://github.com/sqlalchemy/sqlalchemy/issues/7839,
# https://github.com/brettwooldridge/HikariCP/issues/1971

REFUSALS = {
    "25006": "SET TRANSACTION READ ONLY; CREATE TABLE nowhere (n integer)",
    "1290": "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1290, MESSAGE_TEXT = 'read only'",
    "1836": "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1836, MESSAGE_TEXT = 'read only'",
}
"""How a server that is no primary any more refuses to write."""


@pytest.mark.parametrize(
    ("database", "code"),
    [
        pytest.param("psycopg2", "25006", marks=pytest.mark.postgres),
        pytest.param("asyncpg", "25006", marks=pytest.mark.postgres),
        pytest.param("MySQLdb", "1290", marks=pytest.mark.mariadb),
        pytest.param("MySQLdb", "1836", marks=pytest.mark.mariadb),
        pytest.param("aiomysql", "1290", marks=pytest.mark.mariadb),
        pytest.param("aiomysql", "1836", marks=pytest.mark.mariadb),
    ],
    indirect=["database"],
)
async def test_pain_14_a_server_that_became_read_only_retires_its_connections(
    server: Server, database: Database, code: str
) -> None:
    async with database.opened(max_size=4) as pool:
        writer, reader = await pool.get(), await pool.get()
        old = {await backend(server, writer), await backend(server, reader)}
        await writer.rollback()
        old |= set(await backends(server, pool, 2))
        with pytest.raises(database.errors) as caught:
            await writer.execute(REFUSALS[code])
        error = caught.value
        said = getattr(error, "pgcode", None), getattr(error, "sqlstate", None), *error.args[:1]
        assert code in map(str, said)
        await eventually(lambda: pool.size == 2, within=10)
        assert pool.idle == 0, "the idle ones have gone at once"

        assert await backend(server, reader) in old, "a lent one may finish"
        await pool.put(reader)
        await pool.put(writer)
        await eventually(lambda: pool.size == 0)
        fresh = await backends(server, pool, 4)
        assert not old & set(fresh)
        assert pool.free == 4


# ------------------------------------------------------------------------------------------------
# 15: stale snapshots, no rollback on return
# https://github.com/aio-libs/aiomysql/issues/121, 200 and 972

SNAPSHOTS = {
    "sqlite3": "BEGIN",
    "psycopg2": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "MySQLdb": "START TRANSACTION WITH CONSISTENT SNAPSHOT",
    "asyncpg": "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "aiomysql": "START TRANSACTION WITH CONSISTENT SNAPSHOT",
}
"""Begins a transaction that goes on to see what it has seen first."""


@with_every_driver
async def test_pain_15_a_reused_connection_sees_what_was_committed_before_it_was_lent(
    database: Database, items: str
) -> None:
    count = f"SELECT count(*) FROM {items}"
    async with database.opened(max_size=1) as pool:
        for seen in range(3):
            async with pool.connection() as conn:
                assert await conn.fetch_val(count) == seen
            async with pool.connection() as conn:
                await conn.execute(SNAPSHOTS[database.name])
                assert await conn.fetch_val(count) == seen
                await conn.execute(f"INSERT INTO {items} VALUES (99, 'forgotten')")
            database.change(f"INSERT INTO {items} VALUES ({seen}, 'new')")
        assert await pool.fetch_val(count) == 3
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)


# ------------------------------------------------------------------------------------------------
# 16: a cancelled query's answer goes to the next one
# https://github.com/long2ice/asyncmy/issues/103, https://github.com/aio-libs/aiomysql/issues/614


@pytest.mark.realtime
@pytest.mark.parametrize("keeps_it", [True, False], ids=["on the same loan", "on the next loan"])
@with_every_driver
async def test_pain_16_a_cancelled_querys_answer_never_goes_to_the_next_one(
    activity: Activity, keeps_it: bool
) -> None:
    async with activity.pool(max_size=1) as pool:
        await pool.fetch_val("SELECT 1")
        for round_, seconds in enumerate([0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.012, 0.03]):
            slow, quick = f"slow {round_}", f"quick {round_}"
            async with pool.connection() as conn:
                end: Any = None
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        end = await conn.fetch_one(activity.saying(slow, 0.01))
                assert end is None or tuple(end) == activity.said(slow)
                if keeps_it:
                    await conn.rollback()  # PostgreSQL wants it
                    assert await conn.fetch_val(f"SELECT '{quick}'") == quick
            assert await pool.fetch_val(f"SELECT '{quick}'") == quick
            check_invariants(pool, proxies=False)


@pytest.mark.parametrize("answers", ["in time", "never"])
@virtual_time
async def test_pain_16_a_connection_is_lent_again_only_when_proven_clean(answers: str) -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=1, cancel_grace=5) as pool:
        fake.execute.once(3.0 if answers == "in time" else NEVER)
        began = now()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await pool.fetch_val("SELECT slow")
        fake.rows = [(42,)]
        assert await pool.fetch_val("SELECT n") == 42
        if answers == "in time":
            assert now() - began == pytest.approx(3)
            assert not fake.connections[0].in_transaction
        else:
            assert now() - began == pytest.approx(1 + 5)
        assert fake.connect.calls == (1 if answers == "in time" else 2)


# ------------------------------------------------------------------------------------------------
# 17: use after return works by accident
# https://github.com/aio-libs/aiomysql/issues/371


def _call(thing: object, name: str, *args: Any) -> Any:
    return getattr(thing, name)(*args)


@with_every_driver
async def test_pain_17_every_proxy_of_a_returned_connection_raises(database: Database) -> None:
    async with database.opened(max_size=1) as pool:
        conn = await pool.get()
        block = await conn.transaction().start()
        if database.name == "asyncpg":
            guest = await conn.prepare("SELECT 1")
            fetch = guest.fetchrow
        else:
            guest = await conn.execute("SELECT 1")
            fetch = guest.fetchone
        await pool.put(conn)
        async with pool.connection() as other:  # the same connection, lent to somebody else
            mine = await other.fetch_val("SELECT 1")
            calls: dict[str, tuple[Any, ...]] = {
                **dict.fromkeys(("cursor", "commit", "rollback", "transaction"), ()),
                **dict.fromkeys(("cancel", "discard"), ()),
                **dict.fromkeys(("execute", "fetch_all", "fetch_one", "fetch_val"), ("SELECT 3",)),
                "executemany": ("SELECT 3", [()]),
                "run": (await_nothing if pool._driver.native else inspect_the_connection,),
            }
            uses: dict[str, Callable[[], Any]] = {
                **{name: partial(_call, conn, name, *args) for name, args in calls.items()},
                **{name: partial(getattr, conn, name) for name in ("autocommit", "Error", "what")},
                "assignment": lambda: setattr(conn, "autocommit", True),
                "put": partial(pool.put, conn),
                "guest": fetch,
                "guest's attribute": lambda: guest.anything,
                "block's commit": block.commit,
                "block's rollback": block.rollback,
            }
            for name, use in uses.items():
                with pytest.raises(ConnectionReturned):
                    pytest.fail(f"{name} gave {await use()!r}")
            assert (bool(conn), bool(other), mine) == (False, True, 1)
            assert await other.fetch_val("SELECT 2") == 2
        assert (pool.stats().created, pool.stats().discarded) == (1, 0)


# ------------------------------------------------------------------------------------------------
# 18: tasks that inherit one connection interleave
# https://github.com/encode/databases/issues/134, 230 and 456


@pytest.mark.realtime
@with_every_driver
async def test_pain_18_statements_on_one_connection_run_one_after_the_other_in_order(
    activity: Activity,
) -> None:
    done: list[int] = []
    async with activity.pool(max_size=3) as pool, pool.transaction() as conn:

        async def child(number: int) -> None:
            sql = f"SELECT {number}" if number % 4 else activity.saying(str(number), 0.02)
            assert int(await conn.fetch_val(sql)) == number
            done.append(number)

        async with asyncio.TaskGroup() as tasks:
            for number in range(12):
                tasks.create_task(child(number))
        assert pool.size == 1
    assert done == list(range(12))


# ------------------------------------------------------------------------------------------------
# 19: nested acquire deadlocks silently
# https://github.com/MagicStack/asyncpg/issues/5, https://github.com/aio-libs/aiopg/issues/113
# and 128


async def load_the_user(pool: ConnectionPool, after: float = 0.0) -> None:
    async with pool.connection():
        await asyncio.sleep(after)
        await load_the_rights(pool)


async def load_the_rights(pool: ConnectionPool) -> None:
    async with pool.connection():
        pass


@pytest.mark.parametrize("size", [1, 3])
@virtual_time
async def test_pain_19_a_nested_acquire_is_a_deadlock_that_shows_who_holds_what(size: int) -> None:
    fake = Fake()
    async with fake.pool(max_size=size) as pool:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(outcome(load_the_user(pool, 1)), name=f"request {number}")
                for number in range(size)
            ]
            began = now()
        assert now() - began == pytest.approx(1), "at once"
        *others, last = [task.result() for task in tasks]
        assert others == [None] * (size - 1), "where one gives way, the others go on"
        assert isinstance(last, PoolDeadlock)
        text = str(last)
        assert f"all {size} connections are held by tasks that wait" in text
        for number in range(size):
            assert f"task 'request {number}'" in text
        assert text.count("in load_the_user") == size, "the stacks that took the leases"
        assert pool.free == size


# ------------------------------------------------------------------------------------------------
# 20: starvation
# https://github.com/MagicStack/asyncpg/issues/1247, https://github.com/golang/go/issues/31708


@virtual_time
async def test_pain_20_first_come_is_first_served() -> None:
    fake = Fake()
    fake.connect.always(0.5)
    arrived: list[int] = []
    served: list[int] = []
    over = False

    async def request(number: int) -> None:
        arrived.append(number)
        conn = await pool.get(timeout=None)
        served.append(number)
        await asyncio.sleep(0.1)
        await (conn.discard() if number % 5 == 0 else pool.put(conn))

    async def greedy(tickets: Iterator[int]) -> None:
        while not over:
            await request(next(tickets))

    async with fake.pool(max_size=3, max_uses=4) as pool:
        tickets = itertools.count(1000)
        hogs = [asyncio.create_task(greedy(tickets)) for _ in range(3)]
        requests: list[asyncio.Task[None]] = []
        for number in range(60):
            requests.append(asyncio.create_task(request(number)))
            await asyncio.sleep(0.07)
        for task in requests[40:50]:  # those who go cost the others nothing
            task.cancel()
        await asyncio.wait(requests)
        over = True
        await asyncio.wait(hogs)
    assert set(range(60)) - set(served) <= set(range(40, 50))
    assert served == [number for number in arrived if number in served]


# ------------------------------------------------------------------------------------------------
# 21: "attached to a different loop"
# https://github.com/MagicStack/asyncpg/issues/293,
# https://github.com/sqlalchemy/sqlalchemy/issues/5626


@with_every_driver
def test_pain_21_another_loop_is_refused_before_any_io_and_a_closed_pool_reopens_there(
    database: Database,
) -> None:
    pool = database.pool(max_size=2)

    async def refused(conn: Connection) -> None:
        before = pool.stats()
        for use in (pool.get, pool.open, pool.close, pool.clear, pool.pause):
            with pytest.raises(WrongEventLoop, match="another event loop"):
                await use()
        for use in (conn.commit, partial(pool.put, conn), partial(conn.fetch_val, "SELECT 1")):
            with pytest.raises(WrongEventLoop, match="borrowed on another event loop"):
                await use()
        assert pool.stats() == before

    async def first() -> None:
        async with pool, pool.connection() as conn:
            await asyncio.to_thread(run, refused(conn))
            assert await conn.fetch_val("SELECT 1") == 1

    async def second() -> None:
        async with pool:
            assert await pool.fetch_val("SELECT 2") == 2

    run(first())
    run(second())
    assert (pool.stats().created, pool.stats().closed) == (2, 2)


# ------------------------------------------------------------------------------------------------
# 22: a thread hop per row, a shared default executor
# https://github.com/omnilib/aiosqlite/issues/34


@with_blocking_drivers
async def test_pain_22_rows_come_in_batches_on_the_pools_own_threads(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    hops: list[str] = []
    put = Worker.put

    def counted(worker: Worker, job: Job) -> None:
        hops.append(worker._thread.name)
        put(worker, job)

    monkeypatch.setattr(Worker, "put", counted)
    over = threading.Event()
    busy = concurrent.futures.ThreadPoolExecutor(1, "busy")
    asyncio.get_running_loop().set_default_executor(busy)
    busy.submit(over.wait)  # nobody else gets a thread of the shared ones
    limiter = anyio.to_thread.current_default_thread_limiter()
    total, limiter.total_tokens = limiter.total_tokens, 1
    try:
        async with (
            limiter,
            asyncio.timeout(30),
            database.opened(max_size=2) as pool,
            pool.connection() as conn,
        ):
            hops.clear()
            rows = [row async for row in await conn.execute(database.rows(5000))]
            assert rows == expected(5000)
            assert 1 < len(hops) <= 5000 / 100, "iteration"

            hops.clear()
            cursor = await conn.execute(database.rows(5000))
            while await cursor.fetchone() is not None:
                pass
            assert 1 < len(hops) <= 5000 / 100, "fetchone"

            hops.clear()
            assert len(await pool.fetch_all(database.rows(5000))) == 5000
            assert 1 <= len(hops) <= 3, "a one-shot, on a connection of its own"
            assert set(hops) <= set(threads(pool.name))
    finally:
        limiter.total_tokens = total
        over.set()


# ------------------------------------------------------------------------------------------------
# 23: the process never exits
# https://github.com/omnilib/aiosqlite/issues/290 and 299


@pytest.mark.parametrize(
    ("database", "left"),
    [
        *(("sqlite3", left) for left in ("idle", "lent", "busy")),
        pytest.param("psycopg2", "busy", marks=pytest.mark.postgres),
        pytest.param("MySQLdb", "busy", marks=pytest.mark.mariadb),
        pytest.param("asyncpg", "busy", marks=pytest.mark.postgres),
        pytest.param("aiomysql", "busy", marks=pytest.mark.mariadb),
    ],
    indirect=["database"],
)
def test_pain_23_an_unclosed_pool_warns_and_the_interpreter_exits(
    database: Database, left: str
) -> None:
    program = """
        import asyncio, importlib, json, sys, time
        from asyncdbpool import ConnectionPool

        def main(name, arguments, left):
            pool = ConnectionPool(importlib.import_module(name), name="forgotten", **arguments)

            def work(raw):
                time.sleep(3600)

            async def work_natively(raw):
                await asyncio.sleep(3600)

            async def use():
                conn = await pool.get()
                print(await conn.fetch_val("SELECT 42"))
                if left == "idle":
                    await pool.put(conn)
                elif left == "busy":
                    native = name in ("asyncpg", "aiomysql")
                    asyncio.ensure_future(conn.run(work_natively if native else work))
                    await asyncio.sleep(0.1)

            asyncio.run(use())

        main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3])
        """
    arguments = json.dumps(dict(database.arguments))
    answer = subprocess.run(  # noqa: S603 - our own interpreter
        [
            *(sys.executable, "-W", "always", "-c", textwrap.dedent(program)),
            *(database.name, arguments, left),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (answer.returncode, answer.stdout) == (0, "42\n"), answer.stderr
    assert "ResourceWarning: <" in answer.stderr
    assert "'forgotten'" in answer.stderr


# ------------------------------------------------------------------------------------------------
# 24: "pool exhausted" says nothing
# https://github.com/launchbadge/sqlx/issues/2276, https://github.com/sigp/anchor/issues/1255


async def export_the_report(pool: ConnectionPool) -> None:
    async with pool.connection() as conn:
        await conn.execute("SELECT * FROM report")
        await asyncio.sleep(3600)


@virtual_time
async def test_pain_24_a_timeout_names_figures_holders_their_stacks_and_the_last_error() -> None:
    fake = Fake()
    asked = {"user": "app", "password": "s33kr1t", "name": "orders"}
    async with fake.pool(max_size=2, retry_connect=3600, **asked) as pool:
        holder = asyncio.create_task(export_the_report(pool), name="nightly export")
        await asyncio.sleep(10)
        fake.connect.always(fake.Lost("too many clients already"))
        others = [asyncio.create_task(outcome(pool.get())) for _ in range(3)]
        with pytest.raises(PoolTimeout) as caught:
            await pool.get(timeout=20)
        text = str(caught.value)
        assert "pool 'orders': no connection within 20 s" in text
        assert "size 2 of max_size 2: in use 1, idle 0, connecting 1; waiting" in text
        assert "oldest lease 1: task 'nightly export': held for 30.0 s" in text
        assert "last statement 'SELECT * FROM report'" in text
        assert "in export_the_report" in text
        assert __file__ in text
        assert repr(caught.value.__cause__) == repr(fake.Lost("too many clients already"))
        assert "s33kr1t" not in text
        assert pool.stats().timeouts == 1

        for error in await asyncio.gather(*others):  # those before it say the same
            assert "in export_the_report" in str(error)
        holder.cancel()
        await asyncio.wait([holder])


# ------------------------------------------------------------------------------------------------
# 25: expiring passwords and tokens
# https://github.com/MagicStack/asyncpg/issues/553, https://github.com/psycopg/psycopg/issues/1042,
# https://github.com/long2ice/asyncmy/issues/139


@contextmanager
def tenant(server: Server) -> Iterator[Callable[[], str]]:
    """A role `lodger`, and what makes it another password, the only one that is good from then."""
    passwords = (f"token {number}" for number in range(1, 100))

    def renew() -> str:
        password = next(passwords)
        if isinstance(server, PostgresServer):
            tell(server, f"ALTER ROLE lodger PASSWORD '{password}'")
        else:
            tell(server, f"ALTER USER lodger IDENTIFIED BY '{password}'")
        return password

    tell(server, "CREATE ROLE lodger LOGIN" if _is_postgres(server) else "CREATE USER lodger")
    try:
        if not _is_postgres(server):
            tell(server, f"GRANT SELECT ON {server.database}.* TO lodger")
        yield renew
    finally:
        tell(server, f"DROP {'ROLE' if _is_postgres(server) else 'USER'} lodger")


def _is_postgres(server: Server) -> bool:
    return isinstance(server, PostgresServer)


@pytest.mark.parametrize("kind", ["sync", "async"])
@with_served_drivers
async def test_pain_25_credentials_are_asked_once_per_physical_connect(
    server: Server, database: Database, kind: str
) -> None:
    asked: list[str] = []
    with tenant(server) as renew:

        def at_once() -> dict[str, str]:
            asked.append(renew())
            return {"user": "lodger", "password": asked[-1]}

        async def later() -> dict[str, str]:
            return await asyncio.to_thread(at_once)

        credentials = at_once if kind == "sync" else later
        async with database.opened(
            max_size=3, password="expired", credentials=credentials
        ) as pool:
            assert asked == []
            first = await backends(server, pool, 2)
            assert len(asked) == 2, "every connect with the password of its own moment"
            for _ in range(5):
                assert await backend(server, pool) in first
            assert len(asked) == 2
            kill(server, *first)
            assert await backend(server, pool) not in first
            assert len(asked) == pool.stats().created == 3
            assert pool.stats().connect_errors == 0
            check_invariants(pool)


# ------------------------------------------------------------------------------------------------
# Also frequent


# Connects one at a time: nine of 200 ms take 1.8 s in one pool, five take 1.0 s in another.
@virtual_time
async def test_also_frequent_ten_connects_of_200_ms_take_about_one_connect_time() -> None:
    fake = Fake()
    fake.connect.always(0.2)
    async with fake.pool(max_size=10) as pool:
        began = now()
        conns = await asyncio.gather(*(pool.get() for _ in range(10)))
        assert now() - began == pytest.approx(0.2)
        for conn in conns:
            await pool.put(conn)
    async with fake.pool(max_size=10, min_size=10) as pool:
        fake.connect.always(0.2)
        began = now()
        await pool.open()
        assert now() - began == pytest.approx(0.2)
        assert pool.idle == 10


@pytest.mark.realtime
@with_served_drivers
async def test_also_frequent_connects_over_a_slow_network_go_on_side_by_side(
    server: Server, database: Database
) -> None:
    with Proxy(server) as network:
        network.latency = 0.01
        async with network.before(database).opened(max_size=10) as pool:
            began = now()
            await pool.put(await pool.get())
            one = now() - began
            assert one > 0.02
            await pool.clear()
            began = now()
            conns = await asyncio.gather(*(pool.get() for _ in range(10)))
            assert now() - began < 10 * one / 2
            for conn in conns:
                await pool.put(conn)


# A pool per tenant: https://github.com/npgsql/npgsql/issues/3685
@virtual_time
async def test_also_frequent_a_pool_per_tenant_is_bounded_by_max_total() -> None:
    fake = Fake()
    fake.connect.always(0.2)
    served: list[str] = []
    connector = DatabaseConnector(
        fake,
        {"default": {"password": "s33kr1t"}},
        driver=FakeDriver(fake),
        max_size=5,
        max_total=10,
        max_idle=60,
    )

    async def request(name: str) -> None:
        async with connector.connection("db", name) as conn:
            assert await conn.fetch_val("SELECT n") == 1
            served.append(name)
            await asyncio.sleep(0.1)

    async with connector:
        names = [f"tenant {number}" for number in range(100)]
        async with asyncio.TaskGroup() as requests:
            for name in names:
                requests.create_task(request(name))
                await asyncio.sleep(0.001)
        assert served == names, "first come, first served, across all the pools"
        assert len(connector) == 100
        assert fake.most == 10
        assert sum(stats.size for stats in connector.stats().values()) == fake.open == 10
        assert len([name for pool in connector.values() for name in threads(pool.name)]) == 10

        asked = [kwargs["database"] for kwargs in fake.asked]
        assert sorted(set(asked)) == sorted(names)
        began = now()
        await request(names[0])  # the idle connection of another one makes room at once
        assert now() - began == pytest.approx(0.2 + 0.1)
        assert (fake.open, fake.most) == (10, 10)
        await asyncio.sleep(61)
        assert fake.open == 0, "what sleeps holds nothing"
        await request(names[0])
    assert fake.open == 0
    assert not fake.violations


# The price of a session reset: https://github.com/MagicStack/asyncpg/issues/780
@virtual_time
async def test_also_frequent_a_clean_return_costs_no_round_trip() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        for _ in range(100):
            async with pool.connection() as conn:
                await conn.execute("SELECT n")
                await conn.commit()
        assert (fake.execute.calls, fake.commit.calls) == (100, 100)
        assert (fake.rollback.calls, fake.reset.calls, fake.ping.calls) == (0, 0, 0)
