"""A cancel takes its time: it may come late, hang, fail, or find nobody who could do it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib import import_module
from itertools import count
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest

from asyncdbpool import Connection, ConnectionReturned
from asyncdbpool.drivers import Unanswered
from asyncdbpool.drivers._libpq import Cancel, functions_of, patience_of
from asyncdbpool.drivers.dbapi import Canceller
from asyncdbpool.drivers.mysqldb import MySQLdbDriver
from asyncdbpool.drivers.psycopg2 import Psycopg2Driver
from asyncdbpool.testing import (
    NEVER,
    Clock,
    Fake,
    FakeDriver,
    Gate,
    check_invariants,
    now,
    settle,
    sleep,
    virtual_time,
)
from asyncdbpool.testing.invariants import threads_of
from support.databases import Database, postgres_on
from support.proxy import Proxy
from support.servers import PostgresServer

_CANCEL_REQUEST = (80877102).to_bytes(4, "big")  # of PostgreSQL's protocol


def cancellable() -> Fake:
    return Fake(sockets=True, cancels=True)


class Absorbing(FakeDriver):
    """A driver that has to do something after a cancel, at a gate of its own."""

    def __init__(self, fake: Fake) -> None:
        super().__init__(fake)
        self.absorb = Gate()

    def absorb_cancel(self, raw: Any) -> None:
        super().absorb_cancel(raw)
        self.absorb.enter(raw, raw.line)


async def given_up(work: Awaitable[Any], after: float = 1.0) -> None:
    """Wait for something for so long, and no longer."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(after):
            await work


async def select(conn: Connection) -> None:
    await conn.execute("SELECT n")


# ------------------------------------------------------------------------------------------------
# Late


@pytest.mark.realtime
async def test_a_cancel_on_its_way_holds_back_the_next_statement_until_it_is_over() -> None:
    fake = cancellable()
    driver = Absorbing(fake)
    order: list[str] = []
    fake.execute.once(NEVER, lambda: order.append("the next statement"))
    fake.cancel.once(NEVER)
    driver.absorb.always(lambda: order.append("the cancel is absorbed"))
    async with fake.pool(driver=driver, max_size=1) as pool, pool.connection() as conn:
        first = asyncio.create_task(select(conn))
        await reached(fake.execute)
        first.cancel()
        await reached(fake.cancel)
        following = asyncio.create_task(select(conn))
        fake.execute.release()  # the first one ends by itself, while the cancel is on its way
        await asyncio.sleep(0.05)
        assert order == []

        order.append("the cancel is over")
        fake.cancel.release()
        await following
        assert first.cancelled()
        assert order == ["the cancel is over", "the cancel is absorbed", "the next statement"]
        assert pool.stats().discarded == 0


async def reached(gate: Gate) -> None:
    async with asyncio.timeout(10):
        while not gate.held:  # noqa: ASYNC110 - a gate sets no events
            await asyncio.sleep(0.001)


@virtual_time
async def test_where_nothing_was_hit_nothing_is_absorbed() -> None:
    fake = cancellable()
    driver = Absorbing(fake)
    async with fake.pool(driver=driver, max_size=1) as pool, pool.connection() as conn:
        for _ in range(3):
            await conn.cancel()
            await select(conn)
        assert (fake.cancel.calls, driver.absorb.calls) == (0, 0)


@virtual_time
async def test_a_cancel_sent_too_late_finds_nothing_to_cancel() -> None:
    fake = cancellable()
    async with fake.pool(max_size=2, cancel_grace=60) as pool:
        one, two = await pool.get(), await pool.get()
        fake.execute.once(NEVER, 2.0, 10.0)
        fake.cancel.once(5.0)  # occupies the side thread
        await given_up(select(one))
        await given_up(select(two))  # ends before its cancel is sent
        began = now()
        await select(two)
        assert now() - began == pytest.approx(11, abs=0.1)
        await pool.put(one)
        await pool.put(two)
        await settle()
        assert (fake.cancel.calls, pool.idle, pool.stats().discarded) == (1, 2, 0)


@virtual_time
async def test_a_cancel_that_cannot_be_absorbed_closes_its_connection_alone() -> None:
    fake = cancellable()
    driver = Absorbing(fake)
    async with fake.pool(driver=driver, max_size=2, min_size=2) as pool:
        fake.execute.once(NEVER)
        driver.absorb.once(fake.OperationalError("commands out of sync"))
        async with pool.connection() as conn:
            await given_up(select(conn))
            await select(conn)  # it is of use until it is returned
        await settle()
        stats = pool.stats()
        assert (stats.discarded, stats.closed, stats.created, stats.idle) == (1, 1, 3, 2)


@virtual_time
async def test_one_cancel_of_a_statement_is_under_way_at_a_time() -> None:
    fake = cancellable()
    fake.execute.once(NEVER)
    fake.cancel.always(1.0)  # longer than the pause between two of them
    async with fake.pool(max_size=1) as pool:
        await given_up(pool.fetch_all("SELECT n"))
        await asyncio.sleep(10)
        assert (fake.cancel.calls, pool.idle) == (1, 1)


@virtual_time
async def test_the_pauses_between_the_cancels_grow_to_a_second() -> None:
    fake = cancellable()
    fake.lost_cancels = 1000
    fake.execute.once(NEVER)
    times: list[float] = []
    began = now()
    fake.cancel.always(lambda: times.append(Clock.current.now - began if Clock.current else 0))
    async with fake.pool(max_size=1, cancel_grace=60) as pool:
        await given_up(pool.fetch_all("SELECT n"))
        await asyncio.sleep(4)
        fake.execute.release()
        await asyncio.sleep(60)
        expected = [1.0, 1.05, 1.15, 1.35, 1.75, 2.55, 3.55, 4.55]
        assert times == [pytest.approx(time, abs=0.01) for time in expected]
        assert pool.stats().discarded == 0


@virtual_time
async def test_a_put_cancels_the_statement_that_runs_ahead_of_queued_ones() -> None:
    fake = cancellable()
    fake.execute.once(NEVER)
    async with fake.pool(max_size=1) as pool:
        conn = await pool.get()
        running, *queued = (asyncio.create_task(select(conn)) for _ in range(30))
        await settle()
        began = now()
        await pool.put(conn)

        assert now() - began < 1
        with pytest.raises(fake.OperationalError, match="interrupted"):
            await running
        for task in queued:
            with pytest.raises(ConnectionReturned):
                await task
        assert (pool.idle, pool.stats().discarded) == (1, 0)


# ------------------------------------------------------------------------------------------------
# Out of patience


@virtual_time
async def test_after_the_grace_the_socket_of_a_lent_connection_is_shut_down() -> None:
    fake = cancellable()
    fake.lost_cancels = 1000
    async with fake.pool(max_size=1, cancel_grace=4) as pool:
        fake.execute.once(NEVER, fake.Lost("it is closed"))
        async with pool.connection() as conn:
            await given_up(select(conn))
            began = now()
            with pytest.raises(fake.Lost):
                await select(conn)
            assert now() - began == pytest.approx(4, abs=0.1)
        await settle()
        assert (pool.size, pool.stats().discarded) == (0, 1)


@virtual_time
async def test_a_statement_that_ends_within_the_grace_costs_its_borrower_nothing() -> None:
    fake = cancellable()
    fake.lost_cancels = 1000
    async with fake.pool(max_size=1, cancel_grace=4) as pool:
        fake.execute.once(NEVER, NEVER)
        async with pool.connection() as conn:
            await given_up(select(conn))
            await asyncio.sleep(2)
            fake.execute.release()
            innocent = asyncio.create_task(select(conn))
            await asyncio.sleep(60)
            assert fake.execute.held, "nobody has hung up"
            fake.execute.release()
            await innocent
        assert (pool.idle, pool.stats().discarded) == (1, 0)


@virtual_time
async def test_the_grace_of_one_statement_does_not_end_an_innocent_one() -> None:
    fake = cancellable()
    async with fake.pool(max_size=1, cancel_grace=4) as pool:
        fake.execute.once(NEVER, NEVER)
        async with pool.connection() as conn:
            first, innocent, last = (asyncio.create_task(select(conn)) for _ in range(3))
            await settle()
            first.cancel()
            last.cancel()
            await asyncio.sleep(60)
            assert fake.execute.held, "nobody has hung up"
            fake.execute.release()
            await innocent
        assert (fake.cancel.calls, pool.idle, pool.stats().discarded) == (1, 1, 0)


@virtual_time
async def test_a_cancel_that_hangs_does_not_keep_the_permit_beyond_the_grace() -> None:
    fake = cancellable()
    fake.execute.once(NEVER)
    fake.cancel.once(60.0)
    async with fake.pool(max_size=1, cancel_grace=4) as pool:
        await given_up(pool.fetch_all("SELECT n"))
        began = now()
        assert await pool.fetch_val("SELECT n") == 1
        assert now() - began <= 4.1
        await asyncio.sleep(100)


@virtual_time
async def test_a_closed_pool_cancels_no_more() -> None:
    fake = Fake(cancels=True)
    fake.lost_cancels = 1000  # nothing ends what hangs
    fake.execute.once(NEVER)
    async with fake.pool(max_size=1, cancel_grace=2) as pool:
        await given_up(pool.fetch_all("SELECT n"))
        await pool.close(timeout=0)
        check_invariants(pool, stuck=1)
        calls = fake.cancel.calls
        await asyncio.sleep(60)
        assert fake.cancel.calls == calls
        assert len(threads_of(pool)) == 1
        fake.execute.release()
        await settle()


# ------------------------------------------------------------------------------------------------
# No way, or no success


@virtual_time
async def test_discarding_shuts_the_socket_down_where_the_driver_cannot_cancel() -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=1, cancel_grace=60) as pool:
        fake.execute.once(NEVER)
        conn = await pool.get()
        running = asyncio.create_task(select(conn))
        await settle()
        began = now()
        await conn.discard()

        assert now() - began < 1
        with pytest.raises(fake.Lost):
            await running
        assert pool.size == 0


@virtual_time
async def test_discarding_cancels_where_the_driver_can() -> None:
    fake = cancellable()
    async with fake.pool(max_size=1, cancel_grace=60) as pool:
        fake.execute.once(NEVER)
        conn = await pool.get()
        running = asyncio.create_task(select(conn))
        await settle()
        await conn.discard()
        with pytest.raises(fake.OperationalError, match="interrupted"):
            await running
        assert (pool.size, fake.cancel.calls) == (0, 1)


@virtual_time
async def test_a_cancel_that_fails_tells_no_password_and_the_statement_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = cancellable()
    fake.cancel.always(fake.OperationalError("no entry for password 's33kr1t'"))
    caplog.set_level(logging.DEBUG)
    async with fake.pool(name="orders", max_size=1, password="s33kr1t") as pool:
        fake.execute.once(3.0)
        await given_up(pool.fetch_all("SELECT n"))
        await asyncio.sleep(3)
        assert (pool.idle, pool.stats().discarded) == (1, 0)
    assert "pool 'orders': cancelling failed: OperationalError: no entry for" in caplog.text
    assert "s33kr1t" not in caplog.text


@virtual_time
async def test_cancelling_by_hand_raises_what_the_driver_raises() -> None:
    fake = cancellable()
    fake.cancel.once(fake.OperationalError("too many connections"))
    fake.execute.once(2.0)
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        running = asyncio.create_task(select(conn))
        await settle()
        with pytest.raises(fake.OperationalError, match="too many"):
            await conn.cancel()
        await running


@virtual_time
async def test_cancelling_by_hand_is_repeated_until_the_statement_has_ended() -> None:
    fake = cancellable()
    fake.lost_cancels = 2
    fake.execute.once(NEVER)
    async with fake.pool(max_size=1) as pool, pool.connection() as conn:
        running = asyncio.create_task(select(conn))
        await settle()
        await conn.cancel()
        await asyncio.sleep(1)
        assert running.done(), "the first cancels came too early"
        with pytest.raises(fake.OperationalError, match="interrupted"):
            await running
        await select(conn)
        assert fake.cancel.calls == 3


@virtual_time
async def test_a_returned_connection_cannot_be_used_to_cancel() -> None:
    fake = cancellable()
    async with fake.pool(max_size=1) as pool:
        async with pool.connection() as conn:
            pass
        fake.execute.once(NEVER)
        innocent = asyncio.create_task(pool.fetch_all("SELECT n"))
        await settle()
        with pytest.raises(ConnectionReturned):
            await conn.cancel()
        await settle()
        fake.execute.release()
        assert await innocent == [(1,)]


def test_an_interrupt_of_a_cancel_that_nobody_waits_for_comes_out_of_the_loop() -> None:
    fake = cancellable()

    def interrupt() -> None:
        sleep(2.0)
        raise KeyboardInterrupt

    fake.cancel.once(interrupt)
    fake.execute.once(NEVER)

    @virtual_time
    async def scenario() -> None:
        async with fake.pool(max_size=1) as pool, pool.connection() as conn:
            running = asyncio.create_task(select(conn))
            await settle()
            await given_up(conn.cancel())
            await running

    with pytest.raises(KeyboardInterrupt):
        scenario()


@virtual_time
async def test_a_commit_cancelled_after_its_connection_was_put_is_left_to_the_return() -> None:
    fake = cancellable()
    fake.lost_cancels = 1000
    fake.commit.once(NEVER)
    async with fake.pool(max_size=1) as pool:
        conn = await pool.get()

        async def work() -> None:
            async with conn.transaction():
                await conn.execute("INSERT")

        working = asyncio.create_task(work())
        await settle()
        putting = asyncio.create_task(pool.put(conn))
        await settle()
        working.cancel()
        await asyncio.wait([working])
        assert working.cancelled()
        fake.commit.release()
        await putting
        assert (pool.idle, fake.rollback.calls, pool.stats().discarded) == (1, 0, 0)


@virtual_time
async def test_a_cursor_block_ends_quietly_after_the_connection_has_gone() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        conn = await pool.get()
        async with conn.cursor() as cursor:
            await cursor.execute("SELECT n")
            await pool.put(conn)
        assert not cursor


class Clueless(FakeDriver):
    """A driver that can tell no transaction once a statement was cancelled."""

    def in_transaction(self, raw: Any) -> bool | None:
        if raw.fake.cancel.calls:
            raise raw.fake.OperationalError("the connection is busy")
        return super().in_transaction(raw)


@virtual_time
async def test_a_connection_that_tells_no_state_after_a_cancel_is_closed() -> None:
    fake = cancellable()
    fake.execute.once(NEVER)
    async with fake.pool(driver=Clueless(fake), max_size=1) as pool:
        async with pool.connection() as conn:
            await given_up(select(conn))
        await asyncio.sleep(1)
        assert (pool.size, pool.stats().discarded) == (0, 1)


# ------------------------------------------------------------------------------------------------
# Credentials for side connections


class Connecting(FakeDriver):
    """A driver that has to connect in order to cancel."""

    def __init__(self, fake: Fake) -> None:
        super().__init__(fake)
        self.given: list[Mapping[str, Any]] = []

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        def cancel(ask: Callable[[], Mapping[str, Any]]) -> None:
            self.given.append(ask())
            raw.interrupt()

        return cancel


def numbered() -> Callable[[], dict[str, Any]]:
    numbers = count(1)
    return lambda: {"password": f"token {next(numbers)}"}


def asynchronous() -> Callable[[], Awaitable[dict[str, Any]]]:
    ask = numbered()

    async def give() -> dict[str, Any]:
        return ask()

    return give


def half_asynchronous() -> Callable[[], Awaitable[dict[str, Any]]]:
    give = asynchronous()

    def ask() -> Awaitable[dict[str, Any]]:
        return give()

    return ask


@pytest.mark.parametrize(
    ("credentials", "given"),
    [
        pytest.param(lambda: None, {}, id="none"),
        pytest.param(numbered, {"password": "token 2"}, id="asked again"),
        pytest.param(asynchronous, {"password": "token 1"}, id="as given last"),
        pytest.param(half_asynchronous, {"password": "token 1"}, id="as given last, too"),
    ],
)
@virtual_time
async def test_a_side_connection_gets_the_credentials(
    credentials: Callable[[], Any], given: Mapping[str, Any]
) -> None:
    fake = cancellable()
    driver = Connecting(fake)
    fake.execute.once(NEVER)
    async with fake.pool(driver=driver, max_size=1, credentials=credentials()) as pool:
        await given_up(pool.fetch_all("SELECT n"))
        await asyncio.sleep(1)
        assert driver.given == [given]


@virtual_time
async def test_credentials_that_fail_for_a_side_connection_are_logged_without_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = cancellable()
    driver = Connecting(fake)
    given: Iterator[Any] = iter([{"password": "s33kr1t"}, fake.Error("no s33kr1t"), ["s33kr1t"]])

    def ask() -> Any:
        answer = next(given)
        if isinstance(answer, Exception):
            raise answer
        return answer

    fake.execute.once(NEVER)
    with caplog.at_level(logging.INFO, "asyncdbpool"):
        async with fake.pool(driver=driver, max_size=1, credentials=ask) as pool:
            await given_up(pool.fetch_all("SELECT n"))
            await asyncio.sleep(1)
            assert driver.given == [{"password": "s33kr1t"}], "what was given last"
            assert pool.idle == 1
    assert "cancelling failed: Error: no ***" in caplog.text


# ------------------------------------------------------------------------------------------------
# The drivers


NO_LIBRARIES = [
    pytest.param({}, id="not in C"),
    pytest.param({"__file__": "/nowhere.so"}, id="not to be found"),
    pytest.param({"__file__": None}, id="another one"),  # stands for the program itself
]


@pytest.mark.parametrize("attributes", NO_LIBRARIES)
def test_without_libpq_nothing_can_be_cancelled(attributes: dict[str, Any]) -> None:
    module = SimpleNamespace(connect=psycopg2.connect, _psycopg=SimpleNamespace(**attributes))
    driver = Psycopg2Driver(module)
    assert driver.canceller(SimpleNamespace(pgconn_ptr=0), (), {}) is None


@pytest.mark.parametrize("attributes", NO_LIBRARIES)
def test_without_mariadbs_library_nobody_knows_the_transaction(attributes: dict[str, Any]) -> None:
    module = SimpleNamespace(connect=psycopg2.connect, _mysql=SimpleNamespace(**attributes))
    assert MySQLdbDriver(module).in_transaction(object()) is None


def test_the_reason_why_libpq_cannot_cancel_is_told() -> None:
    freed: list[int] = []

    def refuse(handle: int, reason: Any, size: int) -> int:
        reason.value = b"connection to server failed: Connection refused\n"
        return 0

    libpq: Any = SimpleNamespace(
        PQgetCancel=lambda connection: connection + 1, PQcancel=refuse, PQfreeCancel=freed.append
    )
    cancel = Cancel(libpq, 41, 5)
    libpq.PQcancel = lambda handle, reason, size: 1
    cancel(dict)
    libpq.PQcancel = refuse
    with pytest.raises(OSError, match=r"^connection to server failed: Connection refused$"):
        cancel(dict)
    del cancel
    assert freed == [42], "the handle has gone with it"


@pytest.mark.realtime
def test_libpq_s_cancel_ends_where_the_network_swallows_it(postgres: PostgresServer) -> None:
    libpq = functions_of(import_module("psycopg2._psycopg"))
    assert libpq is not None
    with Proxy(postgres) as network:
        raw = psycopg2.connect(**network.before(postgres_on(postgres)).arguments)
        cancel = Cancel(libpq, raw.pgconn_ptr, 0.3)
        cancel(dict)
        network.blackhole()
        for _ in range(2):
            with pytest.raises(Unanswered, match=r"no answer within 0\.3 s"):
                cancel(dict)
        network.heal()
        cancel(dict)
        network.reset_at(lambda _way, data: _CANCEL_REQUEST in data)
        with pytest.raises(Unanswered):
            cancel(dict)
    with pytest.raises(OSError, match="refused"):
        cancel(dict)
    raw.close()


@pytest.mark.parametrize(
    ("keywords", "seconds"),
    [
        ({}, 10),
        ({"connect_timeout": 3}, 3),
        ({"connect_timeout": "7"}, 7),
        ({"connect_timeout": 0}, 10),
        ({"connect_timeout": "soon"}, 10),
    ],
)
def test_a_cancel_of_libpq_s_may_take_as_long_as_a_connect(
    keywords: dict[str, Any], seconds: float
) -> None:
    assert patience_of(keywords) == seconds


@pytest.mark.realtime
async def test_without_libpq_the_socket_is_shut_down(postgresql: Database) -> None:
    driver = Psycopg2Driver(psycopg2)
    driver._libpq = None
    async with postgresql.pool(driver=driver, max_size=1, cancel_grace=0.2) as pool:
        await given_up(pool.fetch_val("SELECT pg_sleep(2)"), after=0.2)
        assert await pool.fetch_val("SELECT 7") == 7
        assert pool.stats().discarded == 1


def kill_query(database: Database, raw: Any) -> None:
    side = database.connect()
    side.query(f"KILL QUERY {raw.thread_id()}")
    side.close()


def test_a_kill_that_came_too_late_is_absorbed(mysql: Database) -> None:
    driver = MySQLdbDriver(mysql.module)
    raw = mysql.connect()
    try:
        for _ in range(5):
            kill_query(mysql, raw)
            driver.absorb_cancel(raw)
            raw.query("SELECT 1")
            assert raw.store_result().fetch_row() == ((1,),)
    finally:
        raw.close()


def test_a_kill_that_hits_what_absorbs_it_is_absorbed() -> None:
    """Some servers keep a late kill for the next statement, and some do not."""
    fake = Fake()
    fake.execute.once(fake.OperationalError(1317, "Query execution was interrupted"))
    raw = fake.connect()
    MySQLdbDriver(fake).absorb_cancel(raw)
    assert raw.statements == ["DO 0"]
    assert (fake.execute.calls, raw.cursors) == (2, 0)
    raw.close()


def test_a_connection_that_is_lost_absorbs_nothing(mysql: Database) -> None:
    raw = mysql.connect()
    raw.close()
    with pytest.raises(mysql.module.OperationalError):
        MySQLdbDriver(mysql.module).absorb_cancel(raw)


class Babbling(Connecting):
    """A driver whose side connection tells in its error what it was given."""

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        def cancel(ask: Callable[[], Mapping[str, Any]]) -> None:
            raise raw.fake.OperationalError(f"no entry with {ask()['password']}")

        return cancel


@virtual_time
async def test_what_a_side_connection_was_given_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = cancellable()
    fake.execute.once(2.0)
    with caplog.at_level(logging.INFO, "asyncdbpool"):
        async with fake.pool(driver=Babbling(fake), max_size=1, credentials=numbered()) as pool:
            await given_up(pool.fetch_all("SELECT n"))
            await asyncio.sleep(2)
    assert "cancelling failed: OperationalError: no entry with ***" in caplog.text
    assert "token" not in caplog.text
