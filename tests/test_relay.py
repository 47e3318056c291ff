"""One-shots go from hand to hand: a connection that ends one takes the next, unharmed."""

import asyncio
import gc
import logging
import os
import random
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any
from unittest import mock

import pytest

from asyncdbpool import ConnectionPool, PoolClosed, PoolDeadlock, PoolTimeout, TooManyWaiters
from asyncdbpool._engine import Engine
from asyncdbpool._line import Line
from asyncdbpool._relay import Shot
from asyncdbpool.testing import (
    NEVER,
    Clock,
    Fake,
    FakeDriver,
    NativeFake,
    check_invariants,
    now,
    run_virtually,
    settle,
    virtual_time,
)
from asyncdbpool.testing.invariants import join_threads

Asking = asyncio.Task[Any]
Kind = type[Fake]

with_both_kinds = pytest.mark.parametrize("kind", [Fake, NativeFake])


class Asked:
    """A fake driver whose every statement is a token, and the order in which they were run.

    Attributes:
        fake: The driver.
        order: The tokens, in the order in which they came to the database.
    """

    def __init__(self, kind: Kind = Fake, *, sockets: bool = False, cancels: bool = False) -> None:
        self.order: list[Any] = []
        self.fake = kind(sockets=sockets, cancels=cancels, rows=self._answer)

    def _answer(self, sql: str, params: Any) -> list[tuple[Any, ...]]:
        self.order.append(params[0])
        return [tuple(params)]


def ask(pool: ConnectionPool, token: Any) -> Asking:
    """Have a one-shot fetch its own token."""
    name = f"asks {token}"
    return asyncio.create_task(pool.fetch_val("SELECT ?", (token,)), name=name)


async def lined_up(pool: ConnectionPool, *tokens: Any) -> list[Asking]:
    """Let one-shots come, one after the other."""
    tasks = [ask(pool, token) for token in tokens]
    await settle()
    return tasks


def engine_of(pool: ConnectionPool) -> Engine:
    assert pool._engine is not None
    return pool._engine


def running_in(pool: ConnectionPool) -> Shot:
    """Find the only one-shot that has a connection."""
    (lease,) = engine_of(pool).leases
    (shot,) = lease.record.tokens
    assert isinstance(shot, Shot)
    return shot


def line_of(pool: ConnectionPool) -> Line:
    return engine_of(pool).line


def let_the_threads_run() -> None:
    """Let them do what they can, while the event loop stands still and hears of nothing."""
    assert Clock.current is not None
    Clock.current.exhaust()


async def taken_along(asked: Asked, pool: ConnectionPool, *tokens: Any) -> list[Asking]:
    """End the first on its thread and let the second hang, before the event loop hears of it."""
    asked.fake.execute.once(NEVER, NEVER)
    tasks = await lined_up(pool, *tokens)
    asked.fake.execute.release()
    let_the_threads_run()
    assert asked.order == [tokens[0]]
    assert asked.fake.execute.held == 1
    assert not tasks[0].done()
    return tasks


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def outcomes(*tasks: Awaitable[Any]) -> list[Any]:
    """Tell what each gives, or the text of what it raises."""
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [str(result) if isinstance(result, Exception) else result for result in results]


async def comes_to_rest(pool: ConnectionPool) -> None:
    """Prove that nothing is left of it all."""
    await settle()
    assert pool.waiting == line_of(pool).waiting == 0, pool.stats()
    assert pool.free == pool.max_size, pool.stats()
    check_invariants(pool, proxies=False)  # those are looked at when the pool is closed


async def goes_on(pool: ConnectionPool) -> None:
    """Prove it, and that the pool still serves whoever comes."""
    await comes_to_rest(pool)
    assert await asyncio.gather(*(ask(pool, n) for n in range(4))) == [*range(4)]
    await comes_to_rest(pool)


# ------------------------------------------------------------------------------------------------
# From hand to hand


@virtual_time
async def test_a_connection_serves_the_line_while_the_event_loop_stands_still() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1) as pool:
        conn = await pool.get()
        tasks = await lined_up(pool, 1, 2, 3, 4, 5)
        assert (pool.waiting, line_of(pool).waiting) == (5, 5)
        pool_gets_it_back = pool.put(conn)
        with suppress(StopIteration):
            pool_gets_it_back.send(None)
        let_the_threads_run()
        assert asked.order == [1, 2, 3, 4, 5]
        assert not any(task.done() for task in tasks)
        assert await asyncio.gather(*tasks) == [1, 2, 3, 4, 5]
        assert pool.stats().acquired == 6
        await goes_on(pool)


@pytest.mark.parametrize(
    ("options", "relays"),
    [
        ({}, True),
        ({"cleanup": None}, True),
        ({"check": None}, True),
        ({"cleanup": "reset"}, False),
        ({"cleanup": lambda _raw: None}, False),
        ({"check": "always"}, False),
        ({"check": lambda _raw: None}, False),
        ({"max_uses": 100}, False),
        ({"max_idle": 0}, False),
        ({"max_age": 0}, False),
    ],
)
@virtual_time
async def test_what_has_to_happen_between_two_borrowers_happens_between_two_one_shots(
    options: dict[str, Any], relays: bool
) -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1, **options) as pool:
        asked.fake.execute.once(NEVER)
        tasks = await lined_up(pool, 1, 2, 3)
        asked.fake.execute.release()
        let_the_threads_run()
        assert asked.order == ([1, 2, 3] if relays else [1])
        assert await asyncio.gather(*tasks) == [1, 2, 3]
        await goes_on(pool)


@pytest.mark.virtual
@with_both_kinds
def test_one_shots_and_leases_are_served_in_the_order_in_which_they_came(kind: Kind) -> None:
    async def lease(pool: ConnectionPool, token: int) -> None:
        async with pool.connection() as conn:
            await conn.fetch_val("SELECT ?", (token,))

    async def scenario(seed: int) -> None:
        asked = Asked(kind)
        asked.fake.execute.always(0.1)
        async with asked.fake.pool(max_size=1) as pool:
            conn = await pool.get()
            tasks: list[Asking] = []
            for token in range(12):
                is_lease = (seed >> token) & 1
                tasks.append(
                    asyncio.create_task(lease(pool, token)) if is_lease else ask(pool, token)
                )
                await ticks(seed % 3)
            await settle()
            assert pool.waiting == 12
            check_invariants(pool, proxies=False)
            await pool.put(conn)
            await asyncio.gather(*tasks)
            assert asked.order == [*range(12)]
            await goes_on(pool)

    for seed in (0b000111000111, 0b101010101010, 0b010101010101, 0b111111000000, 0b000000111111):
        run_virtually(partial(scenario, seed), seed=seed)


@with_both_kinds
@virtual_time
async def test_every_one_shot_counts_and_waiting_and_use_add_up(kind: Kind) -> None:
    asked = Asked(kind)
    asked.fake.execute.always(1.0)
    async with asked.fake.pool(max_size=1) as pool:
        tasks = [ask(pool, token) for token in "abcd"]
        await asyncio.sleep(2.5)
        stats = pool.stats()
        assert (stats.acquired, stats.waiting, stats.in_use, stats.size) == (3, 1, 1, 1)
        assert await asyncio.gather(*tasks) == [*"abcd"]
        stats = pool.stats()
        assert (stats.acquired, stats.created, stats.cancelled, stats.timeouts) == (4, 1, 0, 0)
        assert stats.wait_seconds == pytest.approx(1 + 2 + 3)
        assert stats.use_seconds == pytest.approx(4)
        (record,) = engine_of(pool).stock.records
        assert record.uses == 4
        await goes_on(pool)


@with_both_kinds
@virtual_time
async def test_dump_names_the_follower_and_its_own_time_and_statement(kind: Kind) -> None:
    asked = Asked(kind)
    asked.fake.execute.always(2.0)
    async with asked.fake.pool(max_size=1) as pool:
        conn = await pool.get()  # so that all of them stand in line

        async def the_second() -> None:
            await pool.fetch_val("SELECT second ?", (2,))

        first = ask(pool, 1)
        second = asyncio.create_task(the_second(), name="second")
        await settle()
        await pool.put(conn)
        await asyncio.sleep(2.5)
        (info,) = pool.dump()
        assert (info.task, info.statement, info.returning) == ("second", "SELECT second ?", False)
        assert info.age == pytest.approx(0.5, abs=0.01)
        assert 'await pool.fetch_val("SELECT second ?", (2,))' in info.stack
        assert f"{os.sep}_relay.py" not in info.stack
        await asyncio.gather(first, second)
        assert pool.dump() == []


@virtual_time
async def test_dump_of_a_one_shot_whose_task_is_gone_has_no_stack() -> None:
    asked = Asked()
    asked.fake.execute.once(None, NEVER)
    async with asked.fake.pool(max_size=1) as pool:
        conn = await pool.get()
        tasks = await lined_up(pool, 1, 2)
        await pool.put(conn)
        await settle()
        (lease,) = engine_of(pool).leases
        lease.forget_user()
        (info,) = pool.dump()
        assert (info.task, info.stack) == ("?", "")
        asked.fake.execute.release()
        await asyncio.gather(*tasks)


@virtual_time
async def test_a_line_on_one_connection_is_no_leak_but_a_slow_one_in_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = Asked()
    asked.fake.execute.once(1.0, 1.0, 1.0, 4.0, 1.0)
    async with asked.fake.pool(max_size=1, leak_timeout=2.5) as pool:
        await asyncio.gather(*(ask(pool, token) for token in range(5)))
    (report,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "task 'asks 3': held for" in report.getMessage()


@with_both_kinds
@virtual_time
async def test_a_failed_one_shot_costs_the_next_one_nothing(kind: Kind) -> None:
    asked = Asked(kind)
    no = asked.fake.Error("no")
    asked.fake.execute.once(0.1, no, None, no)
    async with asked.fake.pool(max_size=1) as pool:
        assert await outcomes(*await lined_up(pool, 1, 2, 3, 4, 5)) == [1, "no", 3, "no", 5]
        assert asked.order == [1, 3, 5]
        await goes_on(pool)


@with_both_kinds
@virtual_time
async def test_a_commit_that_fails_is_the_error_of_its_own_one_shot(kind: Kind) -> None:
    asked = Asked(kind)
    no = asked.fake.Error("no")
    asked.fake.execute.once(0.1)
    asked.fake.commit.once(None, no)
    async with asked.fake.pool(max_size=1) as pool:
        assert await outcomes(*await lined_up(pool, 1, 2, 3)) == [1, "no", 3]
        assert not any(raw.in_transaction for raw in asked.fake.connections)
        await goes_on(pool)


@with_both_kinds
@virtual_time
async def test_every_kind_of_one_shot_stands_in_line(kind: Kind) -> None:
    async def natively(raw: Any, n: int) -> int:
        await raw.query("SELECT ?", (n,))
        return n

    def blocking(raw: Any, n: int) -> int:
        raw.cursor().execute("SELECT ?", (n,))
        return n

    asked = Asked(kind)
    fn = natively if kind is NativeFake else blocking
    async with asked.fake.pool(max_size=1) as pool:
        conn = await pool.get()
        work = [
            pool.fetch_all("SELECT ?", (1,)),
            pool.run(fn, 2),
            pool.fetch_one("SELECT ?", (3,)),
            pool.run(fn, 4),
            pool.run(fn, 5),
            pool.execute("INSERT ?", (6,)),
            pool.execute_many("INSERT ?", [(7,), (8,)]),
            pool.fetch_val("SELECT ?", (8, 9), column=1),
        ]
        tasks = [asyncio.create_task(one) for one in work]
        await settle()
        assert pool.waiting == len(tasks)
        await pool.put(conn)
        assert await asyncio.gather(*tasks) == [[(1,)], 2, (3,), 4, 5, 1, 2, 9]
        assert asked.order == [1, 2, 3, 4, 5, 8]
        assert pool.stats().created == 1
        await goes_on(pool)


@virtual_time
async def test_a_native_function_runs_in_a_task_of_its_own_and_takes_nobody_along() -> None:
    tasks: list[Any] = []

    async def note(raw: Any) -> None:
        tasks.append(asyncio.current_task())
        await raw.query("INSERT")

    fake = NativeFake()
    async with fake.pool(max_size=1) as pool:
        conn = await pool.get()
        runs = [asyncio.create_task(pool.run(note)) for _ in range(3)]
        await settle()
        assert pool.waiting == 3
        await pool.put(conn)
        await asyncio.gather(*runs)
        assert len(set(tasks)) == 3
        fake.execute.once(NEVER)
        running = asyncio.create_task(pool.run(note))
        await settle()
        after = await lined_up(pool, 1)
        assert pool.waiting == 1
        fake.execute.release()
        await asyncio.gather(running, *after)
        await comes_to_rest(pool)


# ------------------------------------------------------------------------------------------------
# Cancelled


@with_both_kinds
@virtual_time
async def test_a_cancelled_one_shot_in_line_costs_the_next_one_nothing(kind: Kind) -> None:
    asked = Asked(kind)
    asked.fake.execute.once(NEVER)
    async with asked.fake.pool(max_size=1) as pool:
        tasks = await lined_up(pool, 0, 1, 2, 3, 4)
        for n in (1, 2, 4):
            tasks[n].cancel()
        await settle()
        assert pool.waiting == 1
        asked.fake.execute.release()
        await asyncio.wait(tasks)
        assert asked.order == [0, 3]
        assert [task.cancelled() for task in tasks] == [False, True, True, False, True]
        assert pool.stats().cancelled == 0
        assert pool.stats().acquired == 2
        await goes_on(pool)


@pytest.mark.sweep
@pytest.mark.virtual
@with_both_kinds
@pytest.mark.parametrize("cancels", [False, True])
@pytest.mark.parametrize("victims", ["a", "b", "c", "ab", "bc", "ac", "abc"])
def test_a_cancel_in_any_tick_hits_nobody_else(kind: Kind, cancels: bool, victims: str) -> None:
    async def scenario(tick: int) -> None:
        asked = Asked(kind, cancels=cancels)
        async with asked.fake.pool(max_size=1) as pool:
            asked.fake.execute.once(NEVER)
            tasks = dict(zip("abcd", await lined_up(pool, *"abcd"), strict=True))
            asked.fake.execute.release()
            await ticks(tick)
            hit = [token for token in victims if tasks[token].cancel()]
            await asyncio.wait(tasks.values())
            for token, task in tasks.items():
                if token in hit:
                    assert task.cancelled()
                else:
                    assert task.result() == token
            assert asked.order == sorted(set(asked.order)), "twice, or in another order"
            await goes_on(pool)

    for tick in range(16):
        run_virtually(partial(scenario, tick))


@pytest.mark.sweep
@pytest.mark.virtual
@with_both_kinds
@pytest.mark.parametrize("sockets", [False, True])
def test_a_cancel_at_any_time_hits_nobody_else(kind: Kind, sockets: bool) -> None:
    async def scenario(seed: int) -> None:
        asked = Asked(kind, sockets=sockets, cancels=True)
        asked.fake.execute.always(0.01)
        asked.fake.cancel.always(0.005 * (seed % 3))
        async with asked.fake.pool(max_size=1 + seed % 2) as pool:
            tasks = [ask(pool, token) for token in range(8)]
            await asyncio.sleep(0.001 * (seed % 25))
            await ticks(seed % 7)
            hit = [n for n in (seed % 8, (seed // 3) % 8) if tasks[n].cancel()]
            await asyncio.wait(tasks)
            left = [task.result() for n, task in enumerate(tasks) if n not in hit]
            assert left == [n for n in range(8) if n not in hit]
            await asyncio.sleep(1)
            await goes_on(pool)

    for seed in range(60):
        run_virtually(partial(scenario, seed), seed=seed)


@virtual_time
async def test_a_follower_is_cancelled_in_the_database_once_the_loop_hears_of_it() -> None:
    asked = Asked(cancels=True)
    async with asked.fake.pool(max_size=1) as pool:
        a, b, c = await taken_along(asked, pool, *"abc")
        b.cancel()
        assert asked.fake.cancel.calls == 0
        assert await outcomes(a, c) == ["a", "c"]
        assert b.cancelled()
        assert (pool.stats().cancelled, asked.fake.cancel.calls) == (1, 1)
        assert asked.order == [*"ac"]
        await goes_on(pool)


@virtual_time
async def test_a_follower_that_has_ended_and_gone_on_before_the_loop_hears_needs_no_cancel() -> (
    None
):
    asked = Asked(cancels=True)
    async with asked.fake.pool(max_size=1) as pool:
        a, b, c = await taken_along(asked, pool, *"abc")
        asked.fake.execute.once(NEVER)
        asked.fake.execute.release()
        let_the_threads_run()  # b has ended, too, and c hangs
        b.cancel()
        await asyncio.wait([b])
        await settle()
        asked.fake.execute.release()
        assert await outcomes(a, c) == ["a", "c"]
        assert b.cancelled()
        assert asked.order == [*"abc"]
        assert asked.fake.cancel.calls == 0
        await goes_on(pool)


@virtual_time
async def test_the_first_is_cancelled_before_the_loop_hears_of_its_end() -> None:
    asked = Asked(cancels=True)
    async with asked.fake.pool(max_size=1, cancel_grace=1.0) as pool:
        a, b, c = await taken_along(asked, pool, *"abc")
        a.cancel()
        await asyncio.sleep(5)  # nothing is watched any more: b may take its time
        assert a.cancelled()
        assert asked.fake.cancel.calls == 0
        asked.fake.execute.release()
        assert await outcomes(b, c) == ["b", "c"]
        assert pool.stats().discarded == 0
        await goes_on(pool)


@virtual_time
async def test_one_that_is_cancelled_before_its_connection_gets_to_it_is_never_run() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1) as pool:
        assert await pool.fetch_val("SELECT ?", (0,)) == 0
        (record,) = engine_of(pool).stock.records
        assert record.session is not None
        asked.fake.ping.once(NEVER)
        engine_of(pool).submit(record, record.session.raw.ping, lambda _value, _error: None)
        tasks = await lined_up(pool, 1, 2)
        tasks[0].cancel()
        await settle()
        assert tasks[0].cancelled()
        asked.fake.ping.release()
        assert await tasks[1] == 2
        assert asked.order == [0, 2]
        assert asked.fake.cancel.calls == 0
        await goes_on(pool)


@with_both_kinds
@virtual_time
async def test_a_permit_that_comes_in_the_tick_of_the_cancel_goes_to_the_next(kind: Kind) -> None:
    asked = Asked(kind)
    async with asked.fake.pool(max_size=1) as pool:
        conn = await pool.get()
        tasks = await lined_up(pool, 1, 2)
        await pool.resize(max_size=2)  # hands a permit to the first, which has yet to notice
        tasks[0].cancel()
        assert await tasks[1] == 2
        assert tasks[0].cancelled()
        await pool.put(conn)
        await goes_on(pool)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@with_both_kinds
@virtual_time
async def test_an_interrupt_comes_out_of_its_own_call_and_the_line_goes_on(
    kind: Kind, error: type[BaseException]
) -> None:
    asked = Asked(kind)

    async def interrupted() -> str:
        try:
            await pool.fetch_val("SELECT ?", ("interrupted",))
        except error:
            return "interrupted"
        return "not interrupted"

    async with asked.fake.pool(max_size=1) as pool:
        conn = await pool.get()
        asked.fake.execute.once(None, error())
        tasks = [ask(pool, 1), asyncio.create_task(interrupted()), ask(pool, 3)]
        await settle()
        await pool.put(conn)
        assert await asyncio.gather(*tasks) == [1, "interrupted", 3]
        await goes_on(pool)


@pytest.mark.virtual
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@with_both_kinds
def test_an_interrupt_whose_caller_has_gone_comes_out_of_the_loop(
    kind: Kind, error: type[BaseException]
) -> None:
    asked = Asked(kind)

    @virtual_time
    async def scenario() -> None:
        def interrupt() -> None:
            raise error

        async with asked.fake.pool(max_size=1) as pool:
            asked.fake.execute.once(NEVER)
            asked.fake.commit.once(interrupt)
            (task,) = await lined_up(pool, 1)
            task.cancel()
            await asyncio.wait([task])
            asked.fake.execute.release()
            await asyncio.sleep(60)

    with pytest.raises((error, AssertionError)):
        scenario()


@pytest.mark.virtual
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_that_ends_a_one_shot_in_the_tick_of_its_cancel_is_not_swallowed(
    error: type[BaseException],
) -> None:
    asked = Asked()

    @virtual_time
    async def scenario() -> None:
        async with asked.fake.pool(max_size=1) as pool:
            await pool.fetch_val("SELECT ?", (0,))
            asked.fake.execute.once(error())
            task = ask(pool, 1)
            await asyncio.sleep(0)
            let_the_threads_run()
            # It is told in the next tick, and so is the task; both before the task goes on.
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.wait([task])

    with pytest.raises(error):
        scenario()


@pytest.fixture
def without_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@with_both_kinds
@pytest.mark.parametrize("ends", ["failing", "following and failing", "cancelled"])
@pytest.mark.usefixtures("without_garbage_collection")
@virtual_time
async def test_a_one_shot_that_fails_leaves_nothing_for_the_garbage_collector(
    kind: Kind, ends: str
) -> None:
    async def play() -> None:
        if ends == "failing":
            fake.execute.once(fake.Error("no"))
            await ended(pool.fetch_val("SELECT ?", (1,)))
        elif ends == "cancelled":
            fake.execute.once(NEVER)
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await pool.fetch_val("SELECT ?", (1,))
        else:
            fake.execute.once(0.1, fake.Error("no"))
            one = asyncio.create_task(pool.fetch_val("SELECT ?", (1,)))
            two = asyncio.create_task(ended(pool.fetch_val("SELECT ?", (2,))))
            await asyncio.wait([one, two])
        await asyncio.sleep(1)

    async def ended(one_shot: Awaitable[Any]) -> None:
        with pytest.raises(fake.Error, match="no"):
            await one_shot

    fake = Asked(kind, cancels=True).fake
    async with fake.pool(max_size=1) as pool:
        await pool.fetch_val("SELECT ?", (0,))
        gc.collect()
        await play()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [thing for thing in gc.garbage if isinstance(thing, (Shot, BaseException))]
        gc.set_debug(0)
        gc.garbage.clear()
        assert not left


# ------------------------------------------------------------------------------------------------
# Waiting in vain


@with_both_kinds
@virtual_time
async def test_each_in_line_has_its_own_deadline(kind: Kind) -> None:
    asked = Asked(kind)
    ends: list[float] = []

    async def timed(token: int) -> Any:
        try:
            return await pool.fetch_val("SELECT ?", (token,))
        except PoolTimeout as error:
            ends.append(now() - began)
            return error

    async with asked.fake.pool(max_size=1, timeout=10.0) as pool:
        conn = await pool.get()
        began = now()
        tasks = []
        for token in range(3):
            tasks.append(asyncio.create_task(timed(token)))
            await asyncio.sleep(3)
        await asyncio.sleep(5)
        late = await lined_up(pool, 3)
        assert (pool.waiting, pool.stats().timeouts) == (2, 2)
        await asyncio.sleep(6)
        assert ends == pytest.approx([10, 13, 16])
        error = tasks[0].result()
        assert str(error).startswith(f"pool {pool.name!r}: no connection within 10 s; size 1 of ")
        assert "oldest lease 1: task" in str(error)
        assert (pool.waiting, pool.stats().timeouts) == (1, 3)
        await pool.put(conn)
        assert await late[0] == 3
        assert asked.order == [3]
        assert pool.stats().wait_seconds == pytest.approx(30 + 6, abs=0.01)
        await goes_on(pool)


@virtual_time
async def test_a_timer_that_finds_the_line_empty_is_set_again_by_the_next_in_line() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1, timeout=10.0) as pool:
        conn = await pool.get()
        tasks = await lined_up(pool, 1)
        await pool.put(conn)
        assert await asyncio.gather(*tasks) == [1]
        await asyncio.sleep(20)
        assert line_of(pool)._timer is None
        conn = await pool.get()
        began = now()
        (task,) = await lined_up(pool, 2)
        await asyncio.wait([task])
        assert isinstance(task.exception(), PoolTimeout)
        assert now() - began == pytest.approx(10)
        await pool.put(conn)
        await goes_on(pool)


@virtual_time
async def test_without_a_timeout_the_line_waits_for_ever() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1, timeout=None) as pool:
        conn = await pool.get()
        (task,) = await lined_up(pool, 1)
        await asyncio.sleep(100_000)
        assert not task.done()
        await pool.put(conn)
        assert await task == 1
        await goes_on(pool)


@pytest.mark.parametrize(("timeout", "after"), [(10.0, 5.0), (None, 15.0)])
@virtual_time
async def test_a_probable_deadlock_in_line_is_taken_for_one_after_a_while(
    timeout: float | None, after: float
) -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1, timeout=timeout) as pool:
        conn = await pool.get()  # it may be on its way to another task
        began = now()
        with pytest.raises(PoolDeadlock, match="all 1 connections are held by tasks that wait"):
            await pool.fetch_val("SELECT ?", (1,))
        assert now() - began == pytest.approx(after)
        await pool.put(conn)
        await goes_on(pool)


@virtual_time
async def test_a_sure_deadlock_is_refused_at_the_door_of_the_line() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1) as pool:
        async with pool.connection():
            with pytest.raises(PoolDeadlock):
                await pool.fetch_val("SELECT ?", (1,))
            assert (pool.waiting, line_of(pool).waiting) == (0, 0)
        await goes_on(pool)


@virtual_time
async def test_a_task_that_waits_in_line_counts_for_the_deadlock_of_another() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=2, timeout=100) as pool:

        async def greedy() -> Any:
            async with pool.connection() as conn:
                await conn.fetch_val("SELECT ?", (0,))
                await asyncio.sleep(1)
                return await pool.fetch_val("SELECT ?", (1,))

        tasks = [asyncio.create_task(greedy()) for _ in range(2)]
        await asyncio.wait(tasks)
        first, second = tasks
        assert isinstance(second.exception(), PoolDeadlock)
        assert first.result() == 1
        await goes_on(pool)


@virtual_time
async def test_a_running_follower_is_no_deadlock() -> None:
    asked = Asked()
    asked.fake.execute.always(20.0)
    async with asked.fake.pool(max_size=1, timeout=100) as pool:
        assert await outcomes(*(ask(pool, n) for n in range(4))) == [0, 1, 2, 3]
        await goes_on(pool)


@virtual_time
async def test_max_waiting_counts_the_line_and_the_leases_together() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1, max_waiting=4) as pool:
        conn = await pool.get()
        tasks: list[Asking] = await lined_up(pool, 1, 2)
        leases = [asyncio.create_task(pool.get()) for _ in range(2)]
        await settle()
        with pytest.raises(TooManyWaiters, match="4 tasks wait already"):
            await pool.fetch_val("SELECT ?", (4,))
        with pytest.raises(TooManyWaiters):
            await pool.get()
        tasks[0].cancel()
        await settle()
        assert pool.waiting == 3
        tasks += await lined_up(pool, 5)
        assert pool.waiting == 4
        await pool.put(conn)
        for lease in leases:
            await pool.put(await lease)
        assert await asyncio.gather(*tasks[1:]) == [2, 5]
        assert asked.order == [2, 5]
        await goes_on(pool)


@virtual_time
async def test_max_waiting_refuses_who_would_join_the_line() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1, max_waiting=1) as pool:
        conn = await pool.get()
        tasks = await lined_up(pool, 1, 2)
        assert [task.done() for task in tasks] == [False, True]
        assert isinstance(tasks[1].exception(), TooManyWaiters)
        assert (pool.waiting, line_of(pool).waiting) == (1, 1)
        await pool.put(conn)
        assert await tasks[0] == 1
        await comes_to_rest(pool)


# ------------------------------------------------------------------------------------------------
# The pool's own doings


@with_both_kinds
@virtual_time
async def test_growth_serves_the_line(kind: Kind) -> None:
    asked = Asked(kind)
    async with asked.fake.pool(max_size=1) as pool:
        conn = await pool.get()
        asked.fake.execute.always(1.0)
        tasks = await lined_up(pool, 1, 2, 3)
        await pool.resize(max_size=3)
        await asyncio.sleep(1.5)
        assert (pool.size, [task.done() for task in tasks]) == (3, [True, True, False])
        assert await asyncio.gather(*tasks) == [1, 2, 3]
        await pool.put(conn)
        await goes_on(pool)


@with_both_kinds
@virtual_time
async def test_a_shrink_under_load_closes_what_is_too_much_and_loses_nobody(kind: Kind) -> None:
    asked = Asked(kind)
    asked.fake.execute.always(1.0)
    async with asked.fake.pool(max_size=3) as pool:
        tasks = [ask(pool, n) for n in range(12)]
        await asyncio.sleep(0.5)
        await pool.resize(max_size=1)
        await asyncio.sleep(1.0)
        assert (pool.size, asked.fake.open) == (1, 1)
        check_invariants(pool, proxies=False)  # those are looked at when the pool is closed
        assert await asyncio.gather(*tasks) == [*range(12)]
        assert asked.order[3:] == [*range(3, 12)]
        await goes_on(pool)


@virtual_time
async def test_a_connection_that_is_too_much_takes_nobody_along() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=2) as pool:
        asked.fake.execute.once(NEVER, NEVER)
        tasks = await lined_up(pool, 1, 2, 3)
        await pool.resize(max_size=1)
        asked.fake.execute.release(asked.fake.connections[0])
        let_the_threads_run()
        assert asked.order == [1]  # but for the shrink, 3 would have come next
        await settle()
        assert (pool.size, pool.waiting) == (1, 1)
        asked.fake.execute.release()
        assert await asyncio.gather(*tasks) == [1, 2, 3]
        await goes_on(pool)


@with_both_kinds
@virtual_time
async def test_pause_holds_the_line_up_and_resume_lets_it_go_on(kind: Kind) -> None:
    asked = Asked(kind)
    asked.fake.execute.always(1.0)
    async with asked.fake.pool(max_size=2) as pool:
        tasks = [ask(pool, n) for n in range(8)]
        await asyncio.sleep(1.5)
        await pool.pause()
        assert asked.order == [0, 1, 2, 3]
        await asyncio.sleep(5)
        assert (asked.order, pool.waiting, pool.free) == ([0, 1, 2, 3], 4, 0)
        check_invariants(pool, proxies=False)  # those are looked at when the pool is closed
        tasks[4].cancel()
        pool.resume()
        await asyncio.wait(tasks)
        assert asked.order == [0, 1, 2, 3, 5, 6, 7]
        await goes_on(pool)


@virtual_time
async def test_the_deadline_of_one_that_has_a_permit_is_still_its_own() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1, timeout=10.0, connect_timeout=60.0) as pool:
        conn = await pool.get()
        began = now()
        (task,) = await lined_up(pool, 1)
        await asyncio.sleep(4)
        asked.fake.connect.once(NEVER)
        await conn.discard()  # and so the permit is its own, but there is no connection
        await settle()
        assert (pool.waiting, line_of(pool).waiting) == (1, 0)
        with pytest.raises(PoolTimeout):
            await task
        assert now() - began == pytest.approx(10, abs=0.01)
        assert pool.stats().wait_seconds == pytest.approx(10, abs=0.01)
        asked.fake.connect.release()
        await settle()
        await goes_on(pool)


@with_both_kinds
@virtual_time
async def test_clear_lets_every_one_after_it_run_on_a_fresh_connection(kind: Kind) -> None:
    asked = Asked(kind)
    asked.fake.execute.always(1.0)
    async with asked.fake.pool(max_size=1) as pool:
        tasks = [ask(pool, n) for n in range(6)]
        await asyncio.sleep(2.5)
        await pool.clear()
        assert await asyncio.gather(*tasks) == [*range(6)]
        assert [len(raw.statements) for raw in asked.fake.connections] == [3, 3]
        assert pool.stats().closed == 1
        await goes_on(pool)


@virtual_time
async def test_an_old_connection_takes_nobody_along() -> None:
    asked = Asked()
    asked.fake.execute.always(4.0)
    async with asked.fake.pool(max_size=1, max_age=10.0) as pool:
        assert await asyncio.gather(*(ask(pool, n) for n in range(6))) == [*range(6)]
        assert [len(raw.statements) for raw in asked.fake.connections] == [3, 3]
        await goes_on(pool)


@with_both_kinds
@virtual_time
async def test_nothing_is_pending_once_all_have_ended(kind: Kind) -> None:
    asked = Asked(kind)
    async with asked.fake.pool(max_size=1) as pool:
        assert await asyncio.gather(*(ask(pool, n) for n in range(4))) == [*range(4)]
        assert pool._engine is not None
        (record,) = pool._engine.stock.records
        assert (record.pending, record.tokens) == (0, {})


@virtual_time
async def test_a_cancelled_one_shot_has_the_pool_s_own_cleanup() -> None:
    asked = Asked()
    cleaned: list[object] = []
    async with asked.fake.pool(max_size=1, cleanup=cleaned.append) as pool:
        await pool.execute("UPDATE t")
        asked.fake.execute.once(2.0)
        task = asyncio.create_task(pool.execute("UPDATE t"))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.sleep(5)
        assert len(cleaned) == 2
        assert pool.idle == 1


@with_both_kinds
@pytest.mark.parametrize("error", [Fake.Lost("lost"), Fake.ReadOnly("read-only")])
@virtual_time
async def test_the_permit_of_a_lost_connection_goes_to_the_head_of_the_line(
    kind: Kind, error: BaseException
) -> None:
    asked = Asked(kind)
    async with asked.fake.pool(max_size=1) as pool:
        conn = await pool.get()
        tasks = await lined_up(pool, 1, 2, 3, 4)
        asked.fake.execute.once(None, error)
        await pool.put(conn)
        assert await outcomes(*tasks) == [1, str(error), 3, 4]
        assert [len(raw.statements) for raw in asked.fake.connections] == [1, 2]
        assert (pool.stats().created, pool.stats().discarded) == (2, 1)
        await goes_on(pool)


@with_both_kinds
@virtual_time
async def test_one_lost_connection_retires_the_others_that_go_on_with_the_line(
    kind: Kind,
) -> None:
    asked = Asked(kind)
    asked.fake.execute.once(1.0, 1.5, asked.fake.Lost("lost"))  # the third follows the first
    async with asked.fake.pool(max_size=2) as pool:
        tasks = await lined_up(pool, *range(6))
        assert await outcomes(*tasks) == [0, 1, "lost", 3, 4, 5]
        first, second = asked.fake.connections[:2]
        assert (first.closed, second.closed) == (True, True)
        assert [len(raw.statements) for raw in asked.fake.connections[:2]] == [1, 1]
        await goes_on(pool)


@with_both_kinds
@virtual_time
async def test_a_failed_connect_goes_to_the_head_of_the_line_and_the_others_wait_on(
    kind: Kind,
) -> None:
    asked = Asked(kind)
    refused = asked.fake.OperationalError("refused")
    async with asked.fake.pool(max_size=1) as pool:
        conn = await pool.get()
        tasks = await lined_up(pool, 1, 2, 3, 4)
        asked.fake.connect.once(refused, refused)
        await conn.discard()
        assert await outcomes(*tasks) == ["refused", "refused", 3, 4]
        assert pool.stats().connect_errors == 2
        await goes_on(pool)


@virtual_time
async def test_an_idle_connection_that_needs_a_check_serves_the_line_after_it() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=2, check_after=1.0) as pool:
        first, second = await pool.get(), await pool.get()
        await pool.put(second)
        await asyncio.sleep(5)
        second = await pool.get()  # checked
        assert asked.fake.ping.calls == 1
        tasks = await lined_up(pool, 1, 2)
        await pool.put(first)
        assert await asyncio.gather(*tasks) == [1, 2]
        await pool.put(second)
        await goes_on(pool)


def condemn(engine: Engine, record: Any, session: Any) -> None:
    record.discard = "for a test"


def retire(engine: Engine, record: Any, session: Any) -> None:
    engine.stock.generation += 1


def grow_old(engine: Engine, record: Any, session: Any) -> None:
    record.expires_at = engine.loop.time()


def pause(engine: Engine, record: Any, session: Any) -> None:
    engine.paused = True


def owe(engine: Engine, record: Any, session: Any) -> None:
    engine.permits.owed = 1


def lose(engine: Engine, record: Any, session: Any) -> None:
    session.lost = True


def doubt(engine: Engine, record: Any, session: Any) -> None:
    session.doubtful = True


def hang_up(engine: Engine, record: Any, session: Any) -> None:
    session.hung_up = True


def leave_open(engine: Engine, record: Any, session: Any) -> None:
    session.standing.open = True


@pytest.mark.parametrize(
    "ail", [condemn, retire, grow_old, pause, owe, lose, doubt, hang_up, leave_open]
)
@virtual_time
async def test_what_is_wrong_with_a_connection_keeps_it_from_going_on(
    ail: Callable[[Engine, Any, Any], None],
) -> None:
    asked = Asked()
    pool = ConnectionPool(asked.fake, driver=FakeDriver(asked.fake), max_size=1)
    conn = await pool.get()
    engine = engine_of(pool)
    (record,) = engine.stock.records
    assert engine.goes_on(record)
    ail(engine, record, record.session)
    assert not engine.goes_on(record)
    await conn.discard()
    await pool.close(0)
    assert not engine.goes_on(record)


# ------------------------------------------------------------------------------------------------
# Closed, dropped, left behind


@with_both_kinds
@virtual_time
async def test_close_refuses_the_line_within_a_tick_and_lets_what_runs_finish(kind: Kind) -> None:
    asked = Asked(kind)
    asked.fake.execute.always(1.0)
    async with asked.fake.pool(max_size=2) as pool:
        tasks = [ask(pool, n) for n in range(8)]
        await asyncio.sleep(1.5)
        began = now()
        closing = asyncio.create_task(pool.close())
        await ticks(4)
        assert [task.done() for task in tasks] == [True] * 2 + [False] * 2 + [True] * 4
        await closing
        assert now() - began == pytest.approx(0.5, abs=0.01)
        assert [task.result() for task in tasks[:4]] == [0, 1, 2, 3]
        assert all(isinstance(task.exception(), PoolClosed) for task in tasks[4:])
        assert (asked.order, asked.fake.open) == ([0, 1, 2, 3], 0)
        assert pool.stats().waiting == 0
        await pool.open()
        await goes_on(pool)


@virtual_time
async def test_close_without_patience_ends_what_follows_in_line_and_leaves_nothing() -> None:
    asked = Asked(cancels=True)
    async with asked.fake.pool(max_size=1) as pool:
        tasks = await taken_along(asked, pool, 1, 2, 3)
        await pool.close(0)
        await asyncio.wait(tasks)
        assert tasks[0].result() == 1
        assert isinstance(tasks[1].exception(), asked.fake.OperationalError)
        assert isinstance(tasks[2].exception(), PoolClosed)
        assert (asked.fake.open, asked.order) == (0, [1])


@virtual_time
async def test_a_follower_of_one_whose_lease_the_pool_has_ended_is_ended_too() -> None:
    asked = Asked(cancels=True)
    async with asked.fake.pool(max_size=1) as pool:
        a, b, c = await taken_along(asked, pool, *"abc")
        (lease,) = engine_of(pool).leases
        lease.give_back(None, discard="its pool was closed")
        assert await outcomes(a, b, c) == ["a", "interrupted", "c"]
        assert len(asked.fake.connections) == 2
        await goes_on(pool)


@with_both_kinds
def test_a_loop_that_is_closed_with_a_line_leaves_nothing_behind(kind: Kind) -> None:
    asked = Asked(kind)
    asked.fake.execute.always(0.02)
    pool = ConnectionPool(asked.fake, driver=asked.fake.driver(), max_size=1)

    async def leave() -> None:
        tasks = [ask(pool, n) for n in range(50)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    with asyncio.Runner() as runner:
        runner.run(leave())

    async def again() -> None:
        assert await asyncio.gather(*(ask(pool, n) for n in range(100, 105))) == [*range(100, 105)]
        await pool.close()

    with pytest.warns(ResourceWarning, match="was not closed before its event loop"):
        asyncio.run(again())
    threads_end(pool)
    assert (asked.fake.open, asked.fake.violations) == (0, [])
    assert len(asked.order) == len(set(asked.order)) < 50


def threads_end(pool: ConnectionPool) -> None:
    if not engine_is_native(pool):
        join_threads(pool)


def engine_is_native(pool: ConnectionPool) -> bool:
    return pool._driver.native


def test_a_pool_that_is_dropped_with_a_line_takes_its_threads_along() -> None:
    asked = Asked()
    pools = [ConnectionPool(asked.fake, driver=FakeDriver(asked.fake), max_size=1, name="dropped")]
    loop = asyncio.new_event_loop()

    async def line_up() -> list[Asking]:
        asked.fake.execute.always(0.01)
        return await lined_up(pools[0], *range(20))

    tasks = loop.run_until_complete(line_up())
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.wait(tasks))
    loop.run_until_complete(asyncio.sleep(0.1))  # what runs ends
    workers = list(engine_of(pools[0]).stock.executor.workers)
    del task, tasks
    with pytest.warns(ResourceWarning, match=r"'dropped'.* was never closed"):
        drop(pools)
    loop.close()
    for worker in workers:
        assert_ends(worker)
    assert (asked.fake.open, asked.fake.violations) == (0, [])


def drop(holder: list[Any]) -> None:
    """Forget what a list holds, and whatever hangs together with it."""
    holder.clear()
    gc.collect()


def assert_ends(worker: Any) -> None:
    worker._thread.join(5)
    assert not worker.alive


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no os.fork() here")
def test_a_child_has_no_line_and_the_parents_goes_on() -> None:
    asked = Asked()
    pool = ConnectionPool(asked.fake, driver=FakeDriver(asked.fake), max_size=1)

    async def in_the_child() -> None:
        assert (pool.waiting, pool.size) == (0, 0)
        assert await asyncio.gather(*(ask(pool, n) for n in range(5))) == [*range(5)]
        await pool.close()

    async def in_the_parent() -> int:
        conn = await pool.get()
        tasks = await lined_up(pool, *range(5))
        child = os.fork()
        if not child:
            code = 1
            with suppress(BaseException):
                asyncio.events._set_running_loop(None)
                signal.alarm(20)
                asyncio.run(in_the_child())
                code = 0
            os._exit(code)
        await pool.put(conn)
        assert await asyncio.gather(*tasks) == [*range(5)]
        await goes_on(pool)
        await pool.close()
        return child

    child = asyncio.run(in_the_parent())
    assert os.waitpid(child, 0)[1] == 0


# ------------------------------------------------------------------------------------------------
# Leases in the same line


@virtual_time
async def test_a_lease_in_line_may_have_a_timeout_of_its_own() -> None:
    asked = Asked()
    ends: dict[float | None, float] = {}

    async def timed(timeout: float | None) -> None:
        try:
            await pool.put(await pool.get(timeout=timeout))
        except PoolTimeout:
            ends[timeout] = now() - began

    async with asked.fake.pool(max_size=1, timeout=10.0) as pool:
        conn = await pool.get()
        began = now()
        tasks = [asyncio.create_task(timed(seconds)) for seconds in (20.0, 10.0, 2.0, None, 5.0)]
        await settle()
        shots = await lined_up(pool, 1, 2)
        await asyncio.wait([*tasks[:3], tasks[4]])
        assert ends == pytest.approx({2.0: 2, 5.0: 5, 10.0: 10, 20.0: 20}, abs=0.01)
        assert [type(shot.exception()) for shot in shots] == [PoolTimeout] * 2
        await asyncio.sleep(100)
        assert (pool.waiting, pool.stats().timeouts, tasks[3].done()) == (1, 6, False)
        await pool.put(conn)
        await tasks[3]
        assert line_of(pool)._timers == {}
        await goes_on(pool)


@virtual_time
async def test_a_lease_with_a_timeout_of_its_own_is_served_within_it() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1, timeout=10.0) as pool:
        conn = await pool.get()
        lease = asyncio.create_task(pool.get(timeout=4.0))
        await asyncio.sleep(3)  # half of it is over
        assert not lease.done()
        await pool.put(conn)
        await pool.put(await lease)
        await asyncio.sleep(20)
        assert pool.stats().timeouts == 0
        await goes_on(pool)


@virtual_time
async def test_a_lease_cancelled_in_the_tick_in_which_it_is_served_passes_on_what_it_got() -> None:
    for with_a_connection in (True, False):
        asked = Asked()
        async with asked.fake.pool(max_size=1) as pool:
            conn = await pool.get()
            lease = asyncio.create_task(pool.get())
            await settle()
            (shot,) = await lined_up(pool, 1)
            if with_a_connection:
                with suppress(StopIteration):
                    pool.put(conn).send(None)
            else:
                await pool.resize(max_size=2)
            lease.cancel()
            assert await shot == 1
            assert lease.cancelled()
            if not with_a_connection:
                await pool.put(conn)
            await goes_on(pool)


@virtual_time
async def test_a_lease_cancelled_in_the_tick_in_which_it_is_refused_costs_nothing() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1, timeout=10.0) as pool:
        conn = await pool.get()
        lease = asyncio.create_task(pool.get())
        await settle()
        line_of(pool).disband(lambda: LookupError("refused"))
        lease.cancel()
        await asyncio.wait([lease])
        assert lease.cancelled()
        await pool.put(conn)
        await goes_on(pool)


@virtual_time
async def test_a_lease_that_is_served_in_the_tick_of_the_close_is_refused_all_the_same() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1) as pool:
        conn = await pool.get()
        lease = asyncio.create_task(pool.get())
        await settle()
        with suppress(StopIteration):
            pool.put(conn).send(None)
        engine_of(pool).closing = True  # as a close that begins now does
        with pytest.raises(PoolClosed):
            await lease
        await settle()
        assert (pool.size, asked.fake.open) == (0, 0)
        engine_of(pool).closing = False
        await goes_on(pool)


# ------------------------------------------------------------------------------------------------
# Races between the threads and the loop, move by move


@virtual_time
async def test_one_that_is_put_back_is_the_next() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1) as pool:
        asked.fake.execute.once(NEVER)
        tasks = await lined_up(pool, 1, 2, 3)
        relay = engine_of(pool).relay
        running = running_in(pool)
        second = relay.next_for(running)
        assert second is not None
        assert (second.record, len(line_of(pool)._queue)) == (running.record, 1)
        relay.put_back(second)
        assert (second.record, len(line_of(pool)._queue)) == (None, 2)
        asked.fake.execute.release()
        assert await asyncio.gather(*tasks) == [1, 2, 3]
        assert asked.order == [1, 2, 3]
        await goes_on(pool)


@virtual_time
async def test_one_in_hand_goes_back_where_its_connection_has_been_retired_meanwhile() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1) as pool:
        asked.fake.execute.once(NEVER)
        tasks = await lined_up(pool, 1, 2, 3)
        engine = engine_of(pool)
        running = running_in(pool)
        with mock.patch.object(engine, "goes_on", side_effect=[True, False]) as asks:
            assert engine.relay.next_for(running) is None
        assert asks.call_count == 2
        assert len(line_of(pool)._queue) == 2
        asked.fake.execute.release()
        assert await asyncio.gather(*tasks) == [1, 2, 3]
        assert asked.order == [1, 2, 3]
        await goes_on(pool)


@with_both_kinds
@virtual_time
async def test_a_one_shot_may_be_cancelled_while_its_connection_is_reset(kind: Kind) -> None:
    asked = Asked(kind)
    asked.fake.reset.always(1.0)
    async with asked.fake.pool(max_size=1, cleanup="reset") as pool:
        task = ask(pool, 1)
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert (pool.free, asked.order) == (0, [1])
        await asyncio.sleep(1)
        assert pool.stats().discarded == 0
        await goes_on(pool)


@virtual_time
async def test_one_that_loses_its_caller_while_it_takes_another_along_puts_that_back() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1) as pool:
        asked.fake.execute.once(NEVER)
        tasks = await lined_up(pool, 1, 2, 3)
        running = running_in(pool)
        tasks[0].cancel()
        await ticks(2)  # the loop has dropped it
        assert running.dropped
        assert running.successor() is None
        assert len(line_of(pool)._queue) == 2
        asked.fake.execute.release()
        assert await asyncio.gather(*tasks[1:]) == [2, 3]
        await goes_on(pool)


@virtual_time
async def test_one_that_loses_its_caller_in_the_midst_of_that_puts_the_other_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1) as pool:
        asked.fake.execute.once(NEVER)
        tasks = await lined_up(pool, 1, 2, 3)
        engine = engine_of(pool)
        running = running_in(pool)

        def lose_the_caller(_record: object) -> bool:
            running.dropped = True  # as the event loop may do, while a thread asks
            return True

        with monkeypatch.context() as patch:
            patch.setattr(engine, "goes_on", lose_the_caller)
            assert running.successor() is None
        assert (running.following, len(line_of(pool)._queue)) == (None, 2)
        running.dropped = False
        asked.fake.execute.release()
        assert await asyncio.gather(*tasks) == [1, 2, 3]
        assert asked.order == [1, 2, 3]
        await goes_on(pool)


@virtual_time
async def test_one_that_has_failed_takes_nobody_along() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1) as pool:
        asked.fake.execute.once(NEVER)
        tasks = await lined_up(pool, 1, 2)
        running = running_in(pool)
        running.error = LookupError()
        assert running.successor() is None
        running.error = None
        asked.fake.execute.release()
        assert await asyncio.gather(*tasks) == [1, 2]
        await goes_on(pool)


@virtual_time
async def test_a_thread_that_comes_second_to_the_last_in_line_finds_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Emptied(deque[Any]):
        """Somebody else takes the last one between the look and the grasp."""

        def popleft(self) -> Any:
            self.clear()
            return super().popleft()

    asked = Asked()
    async with asked.fake.pool(max_size=1) as pool:
        assert await pool.fetch_val("SELECT ?", (1,)) == 1
        with monkeypatch.context() as patch:
            patch.setattr(line_of(pool), "_queue", Emptied("1"))
            assert line_of(pool).first() is None
        await goes_on(pool)


@virtual_time
async def test_an_empty_line_has_no_first() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1) as pool:
        assert await pool.fetch_val("SELECT ?", (1,)) == 1
        assert line_of(pool).first() is None
        conn = await pool.get()
        tasks = await lined_up(pool, 1, 2)
        for task in tasks:
            task.cancel()
        assert line_of(pool).first() is None
        await pool.put(conn)
        await goes_on(pool)


# ------------------------------------------------------------------------------------------------
# By chance


@pytest.mark.parametrize("max_size", [1, 3])
async def test_threads_that_take_turns_as_they_like_lose_nobody(max_size: int) -> None:
    chance = random.Random(max_size)  # noqa: S311 - no secret
    asked = Asked(cancels=True)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        async with asked.fake.pool(max_size=max_size) as pool:
            for _ in range(10):
                tasks = [ask(pool, token) for token in range(60)]
                await asyncio.sleep(chance.uniform(0, 0.005))
                hit = [n for n in chance.sample(range(60), 20) if tasks[n].cancel()]
                await asyncio.wait(tasks)
                for token, task in enumerate(tasks):
                    assert task.cancelled() if token in hit else task.result() == token
            while pool.free < max_size:  # noqa: ASYNC110 - what was cancelled comes to rest
                await asyncio.sleep(0.01)
            assert pool.waiting == line_of(pool).waiting == 0
            check_invariants(pool)
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.sweep
@pytest.mark.virtual
@pytest.mark.usefixtures("without_garbage_collection")
@pytest.mark.parametrize("first", range(0, 200, 50))
def test_no_token_is_lost_or_foreign_whatever_happens(first: int) -> None:
    for seed in range(first, first + 50):
        run_virtually(Storm(seed).run, seed=seed)


class Storm:
    """Many one-shots, and everything that could come between them, on few connections."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = chance = random.Random(seed)  # noqa: S311 - no secret
        kind = chance.choice([Fake, NativeFake])
        self.asked = Asked(kind, sockets=chance.random() < 0.5, cancels=chance.random() < 0.7)
        fake = self.asked.fake
        self.gates = fake.execute, fake.fetch, fake.commit
        self.pool = ConnectionPool(
            fake,
            driver=fake.driver(),
            timeout=60.0,
            cancel_grace=1.0,
            max_size=chance.randint(1, 3),
            check=chance.choice(["auto", None]),
        )

    async def run(self) -> None:
        chance, pool, tasks = self.chance, self.pool, list[asyncio.Task[None]]()
        for gate in self.gates:
            gate.always(self.befall)
        for token in range(25):
            work = chance.choice([self.one_shot, self.one_shot, self.one_shot, self.lease])
            tasks.append(asyncio.create_task(self.fated(work(token))))
            await ticks(chance.randrange(3))
            await self.disturb()
        await asyncio.wait(tasks)
        for task in tasks:
            task.result()
        for gate in self.gates:
            gate.always(None)
        await asyncio.sleep(5)
        assert len(self.asked.order) == len(set(self.asked.order)), "one was run twice"
        assert pool.stats().in_use == 0, (self.seed, pool.stats())
        await goes_on(pool)
        await pool.close()
        self.asked.fake.check(pool)

    def befall(self) -> Any:
        """Decide what a step of the driver does."""
        chance, fake = self.chance, self.asked.fake
        fate = chance.random()
        if fate < 0.4:
            return None
        if fate < 0.9:
            return chance.uniform(0, 0.02)
        return chance.choice([fake.Error("no"), fake.Lost("lost"), fake.ReadOnly("read-only")])

    async def one_shot(self, token: int) -> None:
        assert await self.pool.fetch_val("SELECT ?", (token,)) == token

    async def lease(self, token: int) -> None:
        async with self.pool.connection() as conn:
            assert await conn.fetch_val("SELECT ?", (token,)) == token

    async def fated(self, work: Awaitable[None]) -> None:
        """Do it, or give up on it; only the driver's own faults may end it otherwise."""
        chance, task = self.chance, asyncio.ensure_future(work)
        if chance.random() < 0.3:
            await asyncio.sleep(chance.uniform(0, 0.1))
            await ticks(chance.randrange(5))
            task.cancel()
        await asyncio.wait([task])
        error = None if task.cancelled() else task.exception()
        if error is not None and str(error) not in {"no", "lost", "read-only"}:
            raise AssertionError(f"seed {self.seed}: {error!r}") from error

    async def disturb(self) -> None:
        """Change the pool now and then, and look at it."""
        chance, pool = self.chance, self.pool
        fate = chance.random()
        if fate < 0.1:
            await pool.resize(max_size=chance.randint(1, 3))
        elif fate < 0.13 and pool.size:
            engine_of(pool).stock.retire()
        elif fate > 0.8 and pool.size <= pool.max_size:
            check_invariants(pool, proxies=False)


# ------------------------------------------------------------------------------------------------
# Those who are passed over, put back, or gone


@with_both_kinds
@virtual_time
async def test_who_waits_for_a_connection_with_a_permit_comes_before_the_line(kind: Kind) -> None:
    asked = Asked(kind)
    asked.fake.connect.once(None, 4.0)
    asked.fake.execute.always(0.1)
    async with asked.fake.pool(max_size=2, connect_timeout=3.0) as pool:
        tasks = [ask(pool, n) for n in range(20)]
        await asyncio.sleep(2.5)
        assert asked.order == [*range(20)]
        assert await asyncio.gather(*tasks) == [*range(20)]
        await asyncio.sleep(2)


@with_both_kinds
@virtual_time
async def test_dump_shows_the_stack_of_the_follower_of_one_that_found_a_permit(kind: Kind) -> None:
    asked = Asked(kind)
    asked.fake.execute.always(1.0)
    async with asked.fake.pool(max_size=1) as pool:

        async def alpha() -> None:
            await pool.fetch_val("SELECT ?", ("alpha",))

        async def beta() -> None:
            await pool.fetch_val("SELECT ?", ("beta",))

        tasks = [asyncio.create_task(work()) for work in (alpha, beta)]
        await asyncio.sleep(1.5)
        (info,) = pool.dump()
        await asyncio.gather(*tasks)
        assert '("beta",)' in info.stack
        assert '("alpha",)' not in info.stack


@pytest.mark.parametrize("closed", ["fetch", "get"])
@virtual_time
async def test_a_coroutine_that_is_closed_in_line_costs_nothing(closed: str) -> None:
    asked = Asked()
    pool = ConnectionPool(asked.fake, driver=FakeDriver(asked.fake), max_size=1)
    conn = await pool.get()

    async def begin_and_close() -> None:
        waiting = pool.get() if closed == "get" else pool.fetch_val("SELECT ?", (1,))
        waiting.send(None)
        waiting.close()

    await asyncio.create_task(begin_and_close())
    await conn.discard()
    await settle()
    waiting, taken = pool.waiting, engine_of(pool).permits.taken
    await pool.close(0)
    assert (waiting, taken, asked.order) == (0, 0, [])


@pytest.mark.parametrize("permit", ["comes back", "is out"])
@virtual_time
async def test_one_that_is_put_back_after_the_close_is_sent_away_like_the_others(
    permit: str,
) -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=2, timeout=None) as pool:
        conn = await pool.get()
        asked.fake.execute.once(NEVER)
        running, in_hand, behind = await lined_up(pool, 1, 2, 3)
        (shot,) = (token for lease in engine_of(pool).leases for token in lease.record.tokens)
        assert isinstance(shot, Shot)
        following = shot._relay.next_for(shot)
        assert following is not None
        closing = asyncio.create_task(pool.close())
        await ticks(4)
        assert not in_hand.done()
        assert isinstance(behind.exception(), PoolClosed)
        running.cancel()  # so a thread that has taken another one along puts that back
        await ticks(2)
        shot._relay.put_back(following)
        if permit == "comes back":
            await pool.put(conn)
        asked.fake.execute.release()
        await settle()
        assert in_hand.done()
        assert isinstance(in_hand.exception(), PoolClosed)
        if conn:
            await pool.put(conn)
        await closing
        assert (pool.stats().waiting, asked.order) == (0, [1])


@virtual_time
async def test_one_that_is_put_back_still_has_its_deadline() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1, timeout=10.0) as pool:
        conn = await pool.get()
        (task,) = await lined_up(pool, 1)
        in_hand = line_of(pool).first()
        assert in_hand is not None
        await asyncio.sleep(6)  # the timer goes off while a thread decides about it
        line_of(pool).put_back(in_hand)
        engine_of(pool).look_after_line()  # as the end of the one before does
        await asyncio.sleep(20)
        ended = task.done()
        await pool.put(conn)
        await asyncio.wait([task])
        assert ended
        assert isinstance(task.exception(), PoolTimeout)


@virtual_time
async def test_one_that_is_put_back_gets_the_permit_that_has_come_back_meanwhile() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=2) as pool:
        conn = await pool.get()
        asked.fake.execute.once(NEVER)
        running, waiting = await lined_up(pool, 1, 2)
        (lease,) = [lease for lease in engine_of(pool).leases if lease.record.pending]
        (shot,) = lease.record.tokens
        assert isinstance(shot, Shot)
        following = shot._relay.next_for(shot)
        assert following is not None
        with suppress(StopIteration):
            pool.put(conn).send(None)
        shot._relay.put_back(following)
        asked.fake.close.once(4.0)
        engine_of(pool).stock.condemn(lease.record, "it is of no more use", others=False)
        asked.fake.execute.release()
        began = now()
        assert await waiting == 2
        took = now() - began
        assert await running == 1
        assert took < 1


@virtual_time
async def test_a_native_one_shot_from_the_line_runs_in_its_own_context() -> None:
    who: ContextVar[str] = ContextVar("who")
    seen: list[tuple[Any, str]] = []

    def rows(sql: str, params: Any) -> list[tuple[Any, ...]]:
        seen.append((params[0], who.get("nobody")))
        return [tuple(params)]

    async def lend(pool: ConnectionPool) -> None:
        who.set("lessee")
        async with pool.connection():
            await asyncio.sleep(1)

    async def fetch(pool: ConnectionPool) -> None:
        who.set("one-shot")
        await pool.fetch_val("SELECT ?", (1,))

    async with NativeFake(rows=rows).pool(max_size=1) as pool:
        await asyncio.gather(lend(pool), fetch(pool))
    assert seen == [(1, "one-shot")]


@virtual_time
async def test_those_who_were_cancelled_in_line_are_forgotten() -> None:
    asked = Asked()
    async with asked.fake.pool(max_size=1, timeout=None) as pool:
        conn = await pool.get()
        (patient,) = await lined_up(pool, 0)
        for _ in range(100):
            (task,) = await lined_up(pool, 1)
            task.cancel()
            await settle()
        length = len(line_of(pool)._queue)
        await pool.put(conn)
        assert await patient == 0
        assert length < 50


@virtual_time
async def test_a_deadlock_that_ends_with_one_refusal_costs_nobody_else_anything() -> None:
    asked = Asked()
    now_both = asyncio.Event()

    async def culprit() -> None:
        conn = await pool.get()
        now_both.set()
        try:
            with pytest.raises(PoolDeadlock):
                await pool.fetch_val("SELECT ?", (1,))
        finally:
            await pool.put(conn)

    async def innocent() -> Any:
        await now_both.wait()
        return await pool.fetch_val("SELECT ?", (2,))

    async with asked.fake.pool(max_size=1, timeout=10.0) as pool:
        tasks = [asyncio.create_task(culprit()), asyncio.create_task(innocent())]
        await asyncio.wait(tasks)
        tasks[0].result()
        assert tasks[1].result() == 2


def test_a_one_shot_that_was_taken_along_unheard_is_left_to_who_has_taken_it() -> None:
    """Its caller goes after a thread has taken it, and before the event loop has heard of that."""

    async def forsake() -> None:
        async with Fake().pool(max_size=1) as pool:
            await pool.fetch_val("SELECT n")
            relay = engine_of(pool).relay
            shot = Shot(relay, "fetch_val", ("SELECT n", None), "SELECT n")
            (shot.record,) = engine_of(pool).stock.records
            relay._forsake(shot, shot.future)
            assert (shot.dropped, shot.future.cancelled()) == (True, True)
            assert pool.stats().cancelled == 1

    run_virtually(forsake)


@virtual_time
async def test_what_a_cancelled_one_shot_leaves_is_cleaned_as_the_pool_was_told() -> None:
    fake = Fake(cancels=True)
    cleaned: list[Any] = []
    async with fake.pool(max_size=1, cleanup=cleaned.append) as pool:
        fake.execute.once(NEVER)
        task = ask(pool, 1)
        await settle()
        task.cancel()
        await asyncio.wait([task])
        await settle()
        assert (len(cleaned), pool.idle) == (1, 1)


@with_both_kinds
def test_nothing_is_pending_where_one_shots_have_gone_from_hand_to_hand(kind: Kind) -> None:
    async def relay() -> None:
        asked = Asked(kind)
        async with asked.fake.pool(max_size=1) as pool:
            assert await asyncio.gather(*(ask(pool, n) for n in range(6))) == list(range(6))
            assert [record.pending for record in engine_of(pool).stock.records] == [0]

    run_virtually(relay)


@virtual_time
async def test_an_empty_line_has_nobody_to_look_after() -> None:
    async with Fake().pool(max_size=1) as pool:
        await pool.fetch_val("SELECT n")
        line = line_of(pool)
        line.rearm()
        assert line._timer is None


def test_a_one_shot_whose_loop_is_closed_is_left_alone() -> None:
    left: list[Shot] = []

    async def leave() -> None:
        async with Fake().pool(max_size=1) as pool:
            await pool.fetch_val("SELECT n")
            left.append(Shot(engine_of(pool).relay, "fetch_val", ("SELECT n", None), "SELECT n"))
            (left[0].record,) = engine_of(pool).stock.records

    run_virtually(leave)
    (shot,) = left
    shot._relay._forsake(shot, shot.future)
    assert (shot.dropped, shot.future.cancelled()) == (True, False)
