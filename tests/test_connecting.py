"""Connecting: limits, failures, retries, credentials and set-up."""

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, ClassVar
from unittest import mock

import pytest

from asyncdbpool import ConnectionPool, ConnectTimeout, PoolError, PoolTimeout
from asyncdbpool._connect import ConnectArguments, backoff
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


class Strange(BaseException):
    """Neither an `Exception` nor anything that asyncio knows."""


@virtual_time
async def test_connects_under_way_are_limited() -> None:
    fake = Fake()
    fake.connect.always(1.0)
    async with fake.pool(max_size=6, connect_limit=2) as pool:
        began = now()
        gets = [asyncio.create_task(pool.get()) for _ in range(6)]
        await asyncio.sleep(0.5)
        assert pool.stats().connecting == 2
        for get in gets:
            await pool.put(await get)
        assert now() - began < 3.5


@virtual_time
async def test_a_failed_connect_goes_to_the_first_waiter_and_the_others_wait_on() -> None:
    fake = Fake()
    async with fake.pool(max_size=2) as pool:
        lent = await pool.get()
        fake.connect.once(fake.OperationalError("password authentication failed"))
        first = asyncio.create_task(pool.get())
        await settle()
        with pytest.raises(fake.OperationalError, match="password authentication failed"):
            await first
        fake.connect.once(NEVER)
        second, third = (asyncio.create_task(pool.get()) for _ in range(2))
        await settle()
        assert not second.done()
        await pool.put(lent)

        await pool.put(await second)
        await pool.put(await third)
        assert pool.stats().connect_errors == 1


@virtual_time
async def test_with_one_failure_for_many_waiters_only_one_of_them_fails() -> None:
    fake = Fake()
    fake.connect.once(fake.OperationalError("no"))
    async with fake.pool(max_size=5) as pool:
        results = await asyncio.gather(*(pool.get() for _ in range(5)), return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        assert [type(error) for error in failed] == [fake.OperationalError]
        assert failed[0] is results[0], "the first to come is the first to hear"
        check_invariants(pool)
        for conn in results:
            if not isinstance(conn, BaseException):
                await pool.put(conn)


@pytest.mark.parametrize(
    "error",
    [ValueError("odd"), Strange("odder"), asyncio.CancelledError(), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
@virtual_time
async def test_capacity_is_unchanged_whatever_connect_raises(error: BaseException) -> None:
    fake = Fake()
    fake.connect.once(*[error] * 3)
    async with fake.pool(max_size=1, timeout=2) as pool:
        for _ in range(3):
            with pytest.raises(BaseException) as caught:
                await pool.get()
            assert not isinstance(caught.value, PoolTimeout)
            await settle()
            assert (pool.size, pool.free) == (0, 1)
        await pool.put(await pool.get())


@virtual_time
async def test_a_connect_that_gives_none_costs_no_capacity() -> None:
    class Empty:
        connect = staticmethod(lambda: None)

    async with ConnectionPool(Empty(), max_size=1) as pool:
        for _ in range(2):
            with pytest.raises(PoolError, match="returned None"):
                await pool.get()
        assert (pool.size, pool.free) == (0, 1)


@virtual_time
async def test_a_transient_failure_is_retried_inside_the_deadline() -> None:
    fake = Fake()
    fake.connect.once(*[fake.Lost("refused")] * 4)
    async with fake.pool(retry_connect=20) as pool:
        began = now()
        await pool.put(await pool.get())

        assert fake.connect.calls == 5
        assert 0.75 <= now() - began <= 1.6  # 0.1 + 0.2 + 0.4 + 0.8, less half of it by jitter
        assert pool.stats().connect_errors == 4


@virtual_time
async def test_a_transient_failure_is_told_when_the_time_for_retries_is_over() -> None:
    fake = Fake()
    fake.connect.always(fake.Lost("refused"))
    async with fake.pool(retry_connect=5) as pool:
        began = now()
        with pytest.raises(fake.Lost, match="refused"):
            await pool.get()
        assert 2 < now() - began <= 5
        fake.connect.open()
        await pool.put(await pool.get())


@virtual_time
async def test_a_timeout_while_retrying_has_the_last_connect_error_as_its_cause() -> None:
    fake = Fake()
    fake.connect.always(fake.Lost("refused"))
    async with fake.pool(retry_connect=60, timeout=3) as pool:
        with pytest.raises(PoolTimeout, match="connecting 1; waiting 1") as caught:
            await pool.get()
        assert isinstance(caught.value.__cause__, fake.Lost)
        await asyncio.sleep(5)
        assert pool.size == 0, "nobody wants it any more"


@virtual_time
async def test_a_permanent_failure_is_never_retried() -> None:
    fake = Fake()
    fake.connect.always(fake.OperationalError("unknown database"))
    async with fake.pool(retry_connect=60) as pool:
        began = now()
        with pytest.raises(fake.OperationalError, match="unknown database"):
            await pool.get()
        assert (now(), fake.connect.calls) == (began, 1)


@virtual_time
async def test_the_pool_lives_again_after_an_outage() -> None:
    fake = Fake()
    async with fake.pool(max_size=3, min_size=2) as pool:
        lent = await asyncio.gather(*(pool.get() for _ in range(3)))
        for gate in (fake.execute, fake.ping):
            gate.always(fake.Lost("terminated"))
        fake.connect.always(fake.Lost("refused"))
        for conn in lent:
            with pytest.raises(fake.Lost):
                await conn.execute("SELECT n")
            await pool.put(conn)
        for _ in range(10):
            with pytest.raises(fake.Lost, match="refused"):
                await pool.get()
        await settle()  # no connect of the outage is under way any more
        fake.release()

        assert await pool.fetch_val("SELECT n") == 1


@virtual_time
@pytest.mark.parametrize("hangs", [False, True])
async def test_a_connect_that_began_in_an_outage_fails_nobody_who_came_later(hangs: bool) -> None:
    fake = Fake()

    def fail() -> None:
        sleep(3)
        raise fake.OperationalError("it was down")

    fake.connect.once(NEVER if hangs else fail)
    async with fake.pool(max_size=2, connect_timeout=5) as pool:
        with pytest.raises(PoolTimeout):
            await pool.get(timeout=1)
        began = now()
        conn = await pool.get()  # where that one ends, which is not his
        assert (fake.connect.calls, now() - began) == (2, 4.0 if hangs else 2.0)
        await pool.put(conn)
        fake.connect.release()
        await settle()
        check_invariants(pool)


@virtual_time
async def test_who_has_come_in_an_outage_is_told_of_a_connect_that_has_begun_since() -> None:
    fake = Fake()

    def fail() -> None:
        sleep(2)
        raise fake.OperationalError("it is down")

    fake.connect.always(fail)
    async with fake.pool(max_size=2) as pool:
        with pytest.raises(PoolTimeout):
            await pool.get(timeout=0.5)
        began = now()
        with pytest.raises(fake.OperationalError):
            await pool.get()
        assert (fake.connect.calls, now() - began) == (2, 3.5)


@virtual_time
async def test_a_hung_connect_gives_its_capacity_back_as_soon_as_it_ends() -> None:
    fake = Fake()
    fake.connect.once(NEVER)
    async with fake.pool(max_size=1, connect_timeout=5, timeout=8) as pool:
        began = now()
        with pytest.raises(ConnectTimeout):
            await pool.get()
        assert now() - began == pytest.approx(5)
        with pytest.raises(PoolTimeout, match="connecting 1") as caught:
            await pool.get()
        assert isinstance(caught.value.__cause__, ConnectTimeout)
        fake.connect.once(fake.Lost("in the end"))
        fake.connect.release()
        await pool.put(await pool.get())


@virtual_time
async def test_a_late_failure_of_a_connect_is_not_told_twice() -> None:
    fake = Fake()

    def late() -> None:
        sleep(9)
        raise fake.Lost("in the end")

    fake.connect.once(late, None)
    async with fake.pool(max_size=1, connect_timeout=5) as pool:
        with pytest.raises(ConnectTimeout):
            await pool.get()
        began = now()
        conn = await pool.get()

        assert now() - began == pytest.approx(4)
        assert pool.stats().connect_errors == 1
        await pool.put(conn)


@virtual_time
async def test_the_driver_is_given_the_connect_timeout_too() -> None:
    fake = Fake()

    class Timed(FakeDriver):
        timeout_keyword: ClassVar[str | None] = "patience"

    cases: list[tuple[dict[str, Any], int]] = [({}, 3), ({"patience": 99}, 99)]
    for given, expected in cases:
        async with fake.pool(driver=Timed(fake), connect_timeout=3, **given) as pool:
            await pool.fetch_val("SELECT n")
            assert fake.asked[-1] == {"patience": expected}


@pytest.mark.parametrize("kind", ["sync", "async", "awaitable"])
@virtual_time
async def test_credentials_are_asked_once_per_connect_and_win(kind: str) -> None:
    fake = Fake()
    tokens = iter(range(100))

    def sync() -> Mapping[str, Any]:
        return {"token": next(tokens), "user": "rotating"}

    async def coroutine() -> Mapping[str, Any]:
        await asyncio.sleep(0.1)
        return sync()

    ask: Any = {"sync": sync, "async": coroutine, "awaitable": partial(coroutine)}[kind]
    async with fake.pool(credentials=ask, user="fixed", host="db") as pool:
        conns = [await pool.get(), await pool.get()]
        assert fake.asked == [
            {"token": 0, "user": "rotating", "host": "db"},
            {"token": 1, "user": "rotating", "host": "db"},
        ]
        for conn in conns:
            await pool.put(conn)
        await pool.put(await pool.get())
        assert next(tokens) == 2, "an idle connection needs no credentials"


@virtual_time
async def test_credentials_that_raise_fail_the_get() -> None:
    fake = Fake()

    def ask() -> Mapping[str, Any]:
        raise LookupError("no vault")

    async with fake.pool(credentials=ask, max_size=1) as pool:
        for _ in range(2):
            with pytest.raises(LookupError, match="no vault"):
                await pool.get()
        assert (pool.size, pool.free) == (0, 1)


@virtual_time
async def test_credentials_that_hang_are_bounded_and_do_not_outlive_the_pool() -> None:
    fake = Fake()

    async def ask() -> Mapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("never")

    async with fake.pool(credentials=ask, max_size=1, connect_timeout=2) as pool:
        with pytest.raises(ConnectTimeout):
            await pool.get()
        await pool.close()
        left = [task.get_name() for task in asyncio.all_tasks() if "connect" in task.get_name()]
        assert not left, "nothing is left: no connection, thread or task"


@virtual_time
async def test_setup_runs_once_per_connection_and_is_committed() -> None:
    fake = Fake()

    def setup(raw: Any) -> None:
        raw.cursor().execute("SET time_zone = 'UTC'")

    async with fake.pool(setup=setup) as pool:
        for _ in range(3):
            await pool.put(await pool.get())
        assert fake.statements == ["SET time_zone = 'UTC'"]
        assert (fake.commit.calls, fake.connections[0].in_transaction) == (1, False)


@virtual_time
async def test_setup_that_raises_closes_the_connection() -> None:
    fake = Fake()

    def setup(raw: Any) -> None:
        raise LookupError("no such schema")

    async with fake.pool(setup=setup, max_size=1) as pool:
        for _ in range(2):
            with pytest.raises(LookupError, match="no such schema"):
                await pool.get()
        assert (fake.open, pool.size, pool.free) == (0, 0, 1)


@virtual_time
async def test_setup_that_does_nothing_needs_no_commit() -> None:
    fake = Fake()
    async with fake.pool(setup=lambda raw: None) as pool:
        await pool.put(await pool.get())
        assert fake.commit.calls == 0


@virtual_time
async def test_every_message_of_a_connect_names_the_pool() -> None:
    fake = Fake()
    fake.connect.once(NEVER)
    async with fake.pool(name="orders", connect_timeout=1) as pool:
        with pytest.raises(PoolError, match="pool 'orders'"):
            await pool.get()


@virtual_time
async def test_a_thread_that_cannot_be_started_costs_no_capacity() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        with mock.patch(
            "threading.Thread.start", side_effect=RuntimeError("can't start new thread")
        ):
            for _ in range(2):
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    await pool.get()
        assert (pool.size, pool.free) == (0, 1)
        await pool.put(await pool.get())


@virtual_time
async def test_a_pools_own_task_that_is_cancelled_by_others_leaks_nothing() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        fake.connect.once(NEVER)
        waiter = asyncio.create_task(pool.get())
        await settle()
        for task in asyncio.all_tasks() - {asyncio.current_task(), waiter}:
            task.cancel()  # as a server does that ends by cancelling whatever it finds
        with pytest.raises(PoolError, match="connecting was cancelled"):
            await waiter
        fake.connect.release()
        await settle()
        assert (pool.size, pool.free, fake.open, len(fake.connections)) == (0, 1, 0, 1)


@virtual_time
async def test_giving_up_before_a_thread_was_started() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        waiter = asyncio.create_task(pool.get())
        await asyncio.sleep(0)
        assert pool._engine is not None
        pool._engine.abandon()
        await asyncio.wait([waiter])
        assert waiter.exception() is not None


@pytest.mark.parametrize("predicate", ["is_transient", "is_disconnect", "has_rolled_back"])
@virtual_time
async def test_a_driver_that_cannot_judge_an_error_does_not_hide_it(predicate: str) -> None:
    def cannot_judge(*args: object) -> bool:
        raise TypeError("unhashable type: 'dict'")

    fake = Fake()
    driver = FakeDriver(fake)
    setattr(driver, predicate, cannot_judge)
    fake.connect.once(fake.Error({"strange": "argument"}))
    fake.execute.once(fake.Error({"strange": "argument"}))
    async with fake.pool(driver=driver, retry_connect=60, max_size=1) as pool:
        with pytest.raises(fake.Error, match="strange"):
            await pool.get()
        with pytest.raises(fake.Error, match="strange"):
            await pool.execute("UPDATE t")
        assert await pool.execute("UPDATE t") == 1
        assert pool.stats().discarded == (predicate == "is_disconnect"), "unknown means closed"
        check_invariants(pool)


@virtual_time
async def test_a_setup_that_hangs_is_cut_off_after_connect_timeout() -> None:
    fake = Fake(sockets=True)

    def setup(raw: Any) -> None:
        raw.cursor().execute("SET search_path TO shop")

    fake.execute.once(NEVER)
    async with fake.pool(max_size=1, setup=setup, connect_timeout=5, timeout=20) as pool:
        with pytest.raises(ConnectTimeout, match="the attempt was given up"):
            await pool.get()
        await settle()
        assert (pool.size, pool.free, fake.open) == (0, 1, 0)
        await pool.put(await pool.get())


@virtual_time
async def test_a_connect_that_hangs_has_nothing_to_cut_off_after_a_setup_that_failed() -> None:
    fake = Fake(sockets=True)
    fake.connect.once(None, 9.0)
    fake.execute.once(fake.Lost("in the middle of the setup"))

    def setup(raw: Any) -> None:
        raw.cursor().execute("SET search_path TO shop")

    options: dict[str, Any] = {"setup": setup, "connect_timeout": 5, "retry_connect": 3}
    async with fake.pool(max_size=1, **options) as pool:
        with pytest.raises(ConnectTimeout, match="goes on and joins the pool"):
            await pool.get()
        await asyncio.sleep(6)
        assert (pool.size, pool.idle) == (1, 1), "and so it does"


@virtual_time
async def test_a_setup_that_ends_as_it_is_cut_off_makes_no_connection_for_anybody() -> None:
    fake = Fake(sockets=True)
    async with fake.pool(max_size=1, setup=lambda _raw: sleep(6), connect_timeout=5) as pool:
        with pytest.raises(ConnectTimeout):
            await pool.get()
        await asyncio.sleep(2)
        assert (pool.size, pool.free, fake.open) == (0, 1, 0)
        assert pool.stats().discarded == 1


def test_secrets_are_taken_out_of_a_text_whole_and_nothing_else_is() -> None:
    arguments = ConnectArguments(
        ("postgres://me:zab@here", 5432),
        {
            "host": "here.example",
            "password": "zab",
            "api_token": "azabc",
            "sslkey": "",
            "user": "m",
        },
    )
    arguments.note({"passwd": "azabcd"})
    told = arguments.redact("me at here.example with zab, azabc, azabcd; postgres://me:zab@here")
    assert told == "me at here.example with ***, ***, ***; ***"


def test_what_a_keyword_calls_a_key_is_redacted() -> None:
    arguments = ConnectArguments((), {"encryption_key": "hush", "SSLKEY": "shy"})
    assert arguments.redact("neither hush nor shy") == "neither *** nor ***"


def test_a_dsn_is_redacted_whatever_its_keyword_is() -> None:
    arguments = ConnectArguments((), {"uri": "postgres://me:zab@here/shop", "host": "here"})
    told = 'malformed: "postgres://me:zab@here/shop", with zab, at here'
    assert arguments.redact(told) == 'malformed: "***", with ***, at here'


def test_what_is_in_a_dsn_is_kept_out_of_texts_too_however_it_is_written() -> None:
    arguments = ConnectArguments(("postgres://me:z%40b%2Fc@here/shop",), {})
    for told in ("z@b/c", "z%40b%2Fc", "z%40b/c"):
        assert arguments.redact(f"no entry for {told}, user me") == "no entry for ***, user me"


@virtual_time
async def test_credentials_that_are_no_mapping_are_refused_in_words() -> None:
    fake = Fake()
    async with fake.pool(name="shop", credentials=lambda: ["me"]) as pool:
        with pytest.raises(
            TypeError, match="pool 'shop': credentials must return a mapping of"
        ) as caught:
            await pool.get()
        assert str(caught.value).endswith("connect keywords, not list")


def test_delays_double_up_to_the_most_and_are_half_fixed_half_random(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def delays(luck: float) -> list[float]:
        monkeypatch.setattr(random, "uniform", lambda low, high: low + luck * (high - low))
        return list(islice(backoff(first=1.0, most=5.0), 5))

    assert delays(0) == [0.5, 1, 2, 2.5, 2.5]
    assert delays(1) == [1, 2, 4, 5, 5]


@virtual_time
async def test_a_connect_that_fills_up_to_min_size_is_retried_though_nobody_waits() -> None:
    fake = Fake()
    fake.connect.once(None, fake.Lost("not yet"), fake.Lost("not yet"))
    async with fake.pool(min_size=2, retry_connect=60) as pool:
        await pool.put(await pool.get())
        await asyncio.sleep(0.4)  # two delays, of at most 0.1 and 0.2 s
        assert (pool.idle, fake.connect.calls) == (2, 4)


@virtual_time
async def test_a_connect_that_is_late_stands_in_nobodys_way() -> None:
    fake = Fake()
    fake.connect.once(NEVER)
    async with fake.pool(max_size=2, connect_timeout=5) as pool:
        with pytest.raises(ConnectTimeout, match="goes on and joins the pool if it succeeds"):
            await pool.get()
        began = now()
        async with pool.connection():
            assert now() == began


@virtual_time
async def test_a_timeout_of_the_credentials_own_comes_out_as_it_is() -> None:
    async def credentials() -> Mapping[str, Any]:
        raise TimeoutError("the vault does not answer")

    async with Fake().pool(credentials=credentials) as pool:
        with pytest.raises(TimeoutError, match="the vault does not answer"):
            await pool.get()


@virtual_time
async def test_credentials_that_take_too_long_are_called_by_their_name() -> None:
    async def credentials() -> Mapping[str, Any]:
        await asyncio.sleep(60)
        return {}

    async with Fake().pool(credentials=credentials, connect_timeout=2) as pool:
        with pytest.raises(ConnectTimeout, match=r"(credentials|connecting) took longer than"):
            await pool.get()


@virtual_time
async def test_every_attempt_that_fails_and_every_second_of_connecting_counts() -> None:
    fake = Fake()
    fake.connect.once(ConnectionRefusedError(), ConnectionRefusedError(), 2.0, 3.0)
    async with fake.pool(max_size=4, retry_connect=20, connect_timeout=5) as pool:
        async with pool.connection(), pool.connection():
            stats = pool.stats()
            fake.connect.once(NEVER, NEVER)
            for _ in range(2):
                with pytest.raises(ConnectTimeout):
                    await pool.get()
            assert pool.stats().connect_errors == 4
        assert stats.connect_errors == 2
        assert stats.connect_seconds == pytest.approx(5.0, abs=0.01)


@virtual_time
async def test_an_open_whose_connect_takes_too_long_is_told_so() -> None:
    fake = Fake()
    fake.connect.once(9.0)
    async with fake.pool(min_size=1, connect_timeout=5) as pool:
        with pytest.raises(ConnectTimeout, match="goes on"):
            await pool.open()


@virtual_time
async def test_the_driver_is_asked_for_a_timeout_with_all_the_arguments() -> None:
    asked: list[tuple[Any, ...]] = []

    class Asked(FakeDriver):
        def with_timeout(self, args: Any, kwargs: Any, seconds: float) -> dict[str, Any]:
            asked.append((args, dict(kwargs), seconds))
            return dict(kwargs)

    fake = Fake()
    async with fake.pool("dsn", user="me", driver=Asked(fake), connect_timeout=7) as pool:
        assert await pool.fetch_val("SELECT n") == 1
    assert asked == [(("dsn",), {"user": "me"}, 7)]


@virtual_time
async def test_a_setup_that_took_too_long_says_nothing_of_other_connections() -> None:
    fake = Fake(sockets=True)

    def setup(raw: Any) -> None:
        with suppress(fake.Lost):  # so that the connection looks as if it were of use
            raw.cursor().execute("SET search_path TO shop")

    async with fake.pool(max_size=2, setup=setup, connect_timeout=5, timeout=20) as pool:
        async with pool.connection():
            fake.execute.once(NEVER)
            with pytest.raises(ConnectTimeout):
                await pool.get()
        await settle()
        assert (pool.idle, pool.stats().created) == (1, 2)


@virtual_time
async def test_a_server_that_was_never_there_is_asked_again_and_again_for_min_size() -> None:
    fake = Fake()
    fake.connect.always(ConnectionRefusedError())
    async with fake.pool(min_size=1) as pool:
        with pytest.raises(ConnectionRefusedError):
            await pool.get()
        await asyncio.sleep(20)
        assert 4 <= fake.connect.calls <= 20
        fake.connect.always(None)
        await asyncio.sleep(31)
        assert pool.idle == 1


def test_only_so_many_answers_of_the_credentials_are_remembered() -> None:
    arguments = ConnectArguments((), {})
    for number in range(200):
        arguments.note({"password": f"secret-{number:03}"})
    assert arguments.redact("secret-199 secret-000") == "*** secret-000"
