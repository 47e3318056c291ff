"""Any sequence of calls of a pool, by many tasks, against a simple model of what should happen.

Hypothesis makes the sequences up, and shortens one that fails. Time is virtual, and after every
step the pool's figures, its idle connections and who was served with which connection are what
`support/model.py` says. `ASYNCDBPOOL_EXAMPLES` sets how many sequences are tried.
"""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from asyncdbpool import Connection, ConnectionPool
from asyncdbpool.testing import (
    NEVER,
    Fake,
    NativeFake,
    check_invariants,
    now,
    settle,
    virtual_runner,
)
from support.model import CHECK_AFTER, CLOSING, CONNECT, MAX_IDLE, MAX_USES, Lent, Model, Refused

pytestmark = [pytest.mark.proof, pytest.mark.virtual]

EXAMPLES = int(os.environ.get("ASYNCDBPOOL_EXAMPLES", "100"))
IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}

ANY = st.integers(min_value=0, max_value=11)  # the n-th of what there is, counted around
SIZES = st.integers(min_value=1, max_value=4)
MAX_WAITING = 3
FAILURES = {"connect": 2, "ping": 1}
"""So many may be to come: of pings that run at once, it is open which of them would fail."""


def lent(machine: PoolMachine) -> bool:
    return bool(machine.model.leases)


def unoccupied(machine: PoolMachine) -> bool:
    return bool(machine.model.leases.keys() - machine.statements.keys())


def occupied(machine: PoolMachine) -> bool:
    return bool(machine.statements)


def waiting(machine: PoolMachine) -> bool:
    return bool(machine.model.waiters)


def is_open(machine: PoolMachine) -> bool:
    return machine.model.state == "open"


def is_closed(machine: PoolMachine) -> bool:
    return machine.model.state == "closed"


class PoolMachine(RuleBasedStateMachine):
    """A pool, the tasks that use it, and the model."""

    kind: ClassVar[type[Fake]] = Fake

    def __init__(self) -> None:
        super().__init__()
        self.fake = self.kind(sockets=True, cancels=True, rows=lambda _, params: [tuple(params)])
        self.fake.connect.always(CONNECT)
        self.pool = ConnectionPool(
            self.fake,
            driver=self.fake.driver(),
            max_size=2,
            max_waiting=MAX_WAITING,
            max_idle=MAX_IDLE,
            max_age=1e9,
            max_uses=MAX_USES,
            timeout=None,
            check_after=CHECK_AFTER,
        )
        self.gets: dict[int, asyncio.Task[Connection]] = {}
        self.conns: dict[int, Any] = {}
        self.statements: dict[int, asyncio.Task[Any]] = {}
        self.pauses: list[asyncio.Task[None]] = []
        self.closes: list[asyncio.Task[None]] = []
        self.failed = False
        self.scope = ExitStack()
        self.runner = self.scope.enter_context(virtual_runner())
        self.runner.run(self.pool.open())
        self.model = Model(self.runner.run(_now()), max_size=2, max_waiting=MAX_WAITING)

    # Asking for connections, and giving them back

    @initialize(max_size=SIZES, gets=st.integers(min_value=1, max_value=6))
    def begin_busy(self, max_size: int, gets: int) -> None:
        async def step() -> None:
            self.model.resize(max_size)
            await self.pool.resize(max_size=max_size)
            for _ in range(gets):
                self.ask(None)
            await asyncio.sleep(CONNECT + 0.1)

        self.do(step())

    @rule(
        gets=st.integers(min_value=1, max_value=3),
        timeout=st.sampled_from([None, None, 0.2, 2.0, 20.0]),
        wait=st.booleans(),
    )
    def get(self, gets: int, timeout: float | None, wait: bool) -> None:
        async def step() -> None:
            for _ in range(gets):
                self.ask(timeout)
            if wait:
                await asyncio.sleep(CONNECT + 0.1)

        self.do(step())

    def ask(self, timeout: float | None) -> None:
        number = self.model.get(timeout)
        self.gets[number] = asyncio.create_task(self.pool.get(timeout))

    @precondition(waiting)
    @rule(n=ANY)
    def cancel_a_waiter(self, n: int) -> None:
        async def step() -> None:
            waiter = self.model.waiters[n % len(self.model.waiters)]
            self.model.cancel(waiter.number)
            self.gets.pop(waiter.number).cancel()

        self.do(step())

    @precondition(lent)
    @rule(n=ANY, how=st.sampled_from(["put", "put", "discard", "drop"]), used=st.booleans())
    def give_back(self, n: int, how: str, used: bool) -> None:
        async def step() -> None:
            number = self.pick(self.model.leases, n)
            if used and number not in self.statements:
                await self.select(number)
            if how == "drop" and number not in self.statements:
                self.drop(number)
                return
            self.model.put(number, discard=how == "discard")
            conn = self.conns.pop(number)
            await (conn.discard() if how == "discard" else self.pool.put(conn))
            await self.expect_a_cancelled_statement(number)

        self.do(step())

    def drop(self, number: int) -> None:
        self.model.put(number)
        self.model.counters["reclaimed"] += 1
        with pytest.warns(ResourceWarning, match="dropped"):
            self.forget(number)

    def forget(self, number: int) -> None:
        dropped = weakref.ref(self.conns.pop(number))
        if dropped() is not None:  # an error of its last statement leads back to it
            gc.collect()

    # Statements

    async def select(self, number: int) -> None:
        assert await self.conns[number].fetch_all("SELECT", (number,)) == [(number,)]

    @precondition(unoccupied)
    @rule(n=ANY, long=st.booleans())
    def run_a_statement(self, n: int, long: bool) -> None:
        async def step() -> None:
            number = self.pick(self.model.leases.keys() - self.statements.keys(), n)
            if long:
                self.fake.execute.once(NEVER)
                self.statements[number] = asyncio.create_task(self.select(number))
            else:
                await self.select(number)

        self.do(step())

    @precondition(occupied)
    @rule(n=ANY, how=st.sampled_from(["by itself", "by its task", "by hand"]))
    def end_a_long_statement(self, n: int, how: str) -> None:
        async def step() -> None:
            number = self.pick(self.statements, n)
            if how == "by hand":
                await self.conns[number].cancel()
                await self.expect_a_cancelled_statement(number)
                return
            statement = self.statements.pop(number)
            if how == "by its task":
                self.model.counters["cancelled"] += 1
                statement.cancel()
            else:
                self.fake.execute.release(self.conns[number]._lease.session.raw)
            await asyncio.wait([statement])
            assert statement.cancelled() == (how == "by its task")
            assert statement.cancelled() or statement.exception() is None

        self.do(step())

    # Trouble

    @precondition(unoccupied)
    @rule(n=ANY)
    def lose_a_connection(self, n: int) -> None:
        async def step() -> None:
            number = self.pick(self.model.leases.keys() - self.statements.keys(), n)
            self.model.lose(number)
            self.fake.execute.once(self.fake.Lost("gone"))
            with pytest.raises(self.fake.Lost):
                await self.conns[number].fetch_all("SELECT")

        self.do(step())

    @rule(gate=st.sampled_from(["connect", "ping"]))
    def fail_the_next(self, gate: str) -> None:
        if self.model.failing[gate] < FAILURES[gate]:
            self.model.failing[gate] += 1
            getattr(self.fake, gate).once(self.fake.Lost("gone"))

    @rule(seconds=st.sampled_from([0.1, 0.7, 3.0, 61.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    # The whole pool

    @rule(max_size=SIZES)
    def resize(self, max_size: int) -> None:
        async def step() -> None:
            self.model.resize(max_size)
            await self.pool.resize(max_size=max_size)

        self.do(step())

    @precondition(is_open)
    @rule()
    def pause_or_resume(self) -> None:
        async def step() -> None:
            if self.model.paused:
                self.model.resume()
                self.pool.resume()
            else:
                self.model.pause()
                self.pauses.append(asyncio.create_task(self.pool.pause()))

        self.do(step())

    @rule()
    def clear(self) -> None:
        async def step() -> None:
            self.model.clear()
            await self.pool.clear()

        self.do(step())

    @precondition(lambda machine: machine.model.state != "closing")
    @rule()
    def close_or_open(self) -> None:
        async def step() -> None:
            if is_open(self):
                self.model.close()
                self.closes.append(asyncio.create_task(self.pool.close(CLOSING)))
            else:
                self.model.open()
                await self.pool.open()

        self.do(step())

    # One step

    def do(self, step: Coroutine[Any, Any, None]) -> None:
        """Take a step, let all happen that can happen now, and compare."""

        async def whole() -> None:
            self.model.advance(now())
            await step
            await settle()
            self.model.advance(now())
            if is_closed(self):  # but for the threads, which need a moment to end
                await asyncio.gather(*self.closes)
                self.model.advance(now())
            await self.compare()

        self.failed = True
        self.runner.run(whole())
        self.failed = False

    @staticmethod
    def pick(numbers: Any, n: int) -> int:
        """Choose one of several."""
        chosen: int = sorted(numbers)[n % len(numbers)]
        return chosen

    async def expect_a_cancelled_statement(self, number: int) -> None:
        """See that a statement that ran was cancelled in the database."""
        statement = self.statements.pop(number, None)
        if statement is not None:
            with pytest.raises(self.fake.OperationalError, match="interrupted"):
                await statement

    async def compare(self) -> None:
        """See that the pool is what the model says."""
        news = self.look()
        assert news == self.model.tell(news)
        for number in self.conns.keys() - self.model.leases.keys():  # the pool was closed
            assert not self.conns.pop(number)
            await self.expect_a_cancelled_statement(number)
        model, pool, stats = self.model, self.pool, self.pool.stats()
        sizes = (len(model.idle), len(model.leases), len(model.connecting), len(model.waiters))
        assert (stats.idle, stats.in_use, stats.connecting, stats.waiting) == sizes
        for counter in COUNTERS:
            assert getattr(stats, counter) == model.counters[counter], counter
        assert pool.free == model.free
        assert [self.number_of(record.session) for record in self.idle()] == [
            conn.number for conn in model.idle
        ]
        assert (pool.closed, pool._engine is None) == (not is_open(self), is_closed(self))
        assert all(task.done() for task in self.pauses) or lent(self) or not model.paused
        assert self.fake.open == len(model.idle) + len(model.leases)
        if model.size <= model.max_size:  # otherwise it shrinks only as connects come to their end
            check_invariants(pool, proxies=False)

    def look(self) -> set[Lent | Refused]:
        """Tell who was served or refused in this step."""
        news: set[Lent | Refused] = set()
        for number, task in tuple(self.gets.items()):
            if task.done():
                error = task.exception()
                if error is None:
                    conn = self.conns[number] = task.result()
                    news.add(Lent(number, self.number_of(conn._lease.session)))
                else:
                    news.add(Refused(number, type(error).__name__))
                del self.gets[number]
        return news

    def idle(self) -> list[Any]:
        """Tell which connections are idle."""
        engine = self.pool._engine
        return [] if engine is None else engine.stock.idle

    def number_of(self, session: Any) -> int:
        """Tell which connection that is."""
        index: int = self.fake.connections.index(session.raw)
        return index + 1

    def teardown(self) -> None:
        """Close the pool, and see that nothing is left."""
        try:
            self.runner.run(self.end())
            if not self.failed:
                self.scope.close()
        finally:
            if self.failed:  # that error counts
                with suppress(Exception):
                    self.scope.close()

    async def end(self) -> None:
        """Send everybody home."""
        self.fake.release()
        tasks = [*self.gets.values(), *self.statements.values(), *self.pauses]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self.closes, return_exceptions=True)
        for conn in self.conns.values():
            await conn.close()
        await self.pool.close()
        if not self.failed:
            self.fake.check(self.pool)


class NativePoolMachine(PoolMachine):
    """The same, of a native driver."""

    kind = NativeFake


COUNTERS = (
    "acquired",
    "created",
    "closed",
    "timeouts",
    "connect_errors",
    "discarded",
    "cancelled",
    "reclaimed",
)


async def _now() -> float:
    return now()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path) -> Iterator[None]:
    """Keep what Hypothesis leaves behind out of the repository."""
    set_hypothesis_home_dir(tmp_path)
    yield
    set_hypothesis_home_dir(None)


@pytest.mark.parametrize("machine", [PoolMachine, NativePoolMachine], ids=["threads", "native"])
def test_a_pool_does_what_a_simple_model_of_it_says(machine: type[PoolMachine]) -> None:
    profile = settings(
        max_examples=EXAMPLES,
        stateful_step_count=50,
        derandomize=IN_CI,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    run_state_machine_as_test(machine, settings=profile)
