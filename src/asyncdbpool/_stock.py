"""The connections that there are: made, checked, retired and closed, whoever may have them."""

from __future__ import annotations

import asyncio
import bisect
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from asyncdbpool._cancelling import Cancelling
from asyncdbpool._connect import ConnectArguments, Connecting, backoff
from asyncdbpool._options import Options
from asyncdbpool._quota import Quota
from asyncdbpool._record import BaseSession, Record, State
from asyncdbpool._ways import way_of
from asyncdbpool._workers import Done, Executor, Job, raise_interrupt
from asyncdbpool.drivers import BaseDriver
from asyncdbpool.errors import ConnectTimeout
from asyncdbpool.stats import Counters

__all__ = ["Keeper", "Plan", "Stock", "session_of"]

log = logging.getLogger("asyncdbpool")

_JITTER = 0.05  # of max_age, so that a fleet does not reconnect at once


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pool consists of, on whatever event loop it is open."""

    name: str
    driver: BaseDriver
    arguments: ConnectArguments
    counters: Counters
    quota: Quota


class Keeper(Protocol):
    """Who decides what becomes of a connection."""

    closing: bool

    def fit(self, record: Record) -> None:
        """Decide about a connection that has been made, checked or cleaned."""

    def refuse(self, error: BaseException, began: float) -> bool:
        """Tell the first waiter that a connect has failed; False where it concerns nobody."""
        ...

    def due_earlier(self) -> None:
        """Set upkeep's timer anew: something may be due earlier than it thinks."""

    def wanted(self) -> bool:
        """Tell whether somebody waits for a connection that is being made."""
        ...

    def settled(self, record: Record) -> None:
        """Note that a connection is idle, handed over or gone."""

    def dispatch(self) -> None:
        """Look again who can be served."""


class Stock:
    """Every connection of one open pool, and what is done with it besides lending.

    Attributes:
        records: Every connection that there is, in any state but closed, the oldest first.
        idle: Those that wait for a borrower, the least recently used first.
        under_way: Those that are made or checked, and good for a waiter soon.
        generation: Moves on when all that there are have to be closed.
        connect_error: Why the last connect failed, or None after one that succeeded.
        refill_at: Loop time before which no connection is made that nobody waits for.
        cancelling: Cancels statements in the database.
        filling: True while `open()` waits, which raises what would otherwise be logged.
    """

    def __init__(self, keeper: Keeper, plan: Plan, options: Options) -> None:
        self.name = plan.name
        self.driver = plan.driver
        self.arguments = plan.arguments
        self.counters = plan.counters
        self.quota = plan.quota
        self.options = options
        self._checks = options.check is not None
        self._checks_always = self._checks and (
            options.check != "auto" or options.check_after == 0
        )
        self.loop = asyncio.get_running_loop()
        self.way = way_of(plan.driver)
        self.executor = Executor(self.loop, options.max_size, plan.name, self.way.hand)
        self.records: dict[Record, None] = {}
        self.idle: list[Record] = []
        self.under_way: set[Record] = set()
        self.generation = 0
        self.connect_error: BaseException | None = None
        self.refill_at = 0.0
        self.filling = False
        self._keeper = keeper
        self._refill_delays = backoff(first=1.0, most=30.0)
        self._connecting: dict[Record, Connecting] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watches: dict[Record, asyncio.TimerHandle] = {}
        self.cancelling = Cancelling(self)

    def count(self, *states: State) -> int:
        """Count the connections in these states."""
        return sum(record.state in states for record in self.records)

    def spare(self) -> int:
        """Tell how many connections there are above `min_size`, those about to go left out."""
        return len(self.records) - self.count(State.CLOSING) - self.options.min_size

    def surplus(self) -> int:
        """Tell how many connections there are above `max_size`, those about to go left out."""
        surplus = len(self.records) - self.options.max_size
        return surplus - self.count(State.CLOSING) if surplus > 0 else surplus

    # The idle

    def take(self) -> Record | None:
        """Take the idle connection used last, unless a check is due first."""
        idle, now = self.idle, self.loop.time()
        while idle:
            record = idle[-1]
            if record.expires_at <= now:
                self.expire([record], "max_age")
            elif self._checks and self._is_doubtful(record, now):
                return None
            else:
                return idle.pop()
        return None

    def keep(self, record: Record, now: float) -> None:
        """Put a connection among the idle."""
        checked = record.state is State.CHECKING
        record.move(State.IDLE)
        if checked:  # a ping is no use
            bisect.insort(self.idle, record, key=_idle_since)
            self._keeper.due_earlier()
        else:
            record.idle_since = record.proven_at = now
            self.idle.append(record)

    def _is_doubtful(self, record: Record, now: float) -> bool:
        """Tell whether a proof of life is due; looks at the socket, without I/O."""
        return (
            self._checks_always
            or now - record.proven_at >= self.options.check_after
            or not session_of(record).silent
        )

    def wants_check(self, record: Record) -> bool:
        """Tell whether a connection that comes back has to be checked before it is lent again.

        Its borrower may have had it for long without a word to the server.
        """
        return self._checks and (self._checks_always or not session_of(record).silent)

    # Making and checking

    def may_connect(self, *, for_waiter: bool) -> bool:
        """Tell whether one more connection is allowed; if so, `connect()` must follow."""
        limit = self.options.connect_limit
        if limit is not None and len(self._connecting) >= limit:
            return False
        return len(self.records) < self.options.max_size and self.quota.take(for_waiter=for_waiter)

    def refill(self) -> None:
        """Make what is missing to `min_size`, unless that has just failed."""
        if self.loop.time() >= self.refill_at and not self._keeper.closing:
            while self.spare() < 0 and self.may_connect(for_waiter=False):
                self.connect()

    async def fill(self) -> None:
        """Make `min_size` connections, as far as shared caps allow, or raise the first error."""
        self.filling = True
        try:
            while len(self.records) - len(self._connecting) < self.options.min_size:
                self.refill()
                if not self._connecting:
                    return
                for connecting in tuple(self._connecting.values()):
                    error = await connecting.outcome
                    if error is not None:
                        raise error
        finally:
            self.filling = False

    def connect(self) -> None:
        """Start making a connection."""
        record = Record()
        self.records[record] = None
        self.under_way.add(record)
        connecting = self._connecting[record] = Connecting(self, record)
        task = self.loop.create_task(connecting.run(), name=f"{self.name}: connect")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def attempt(self, record: Record) -> None:
        """Note that a connect begins; what is retired meanwhile is closed when it is made."""
        record.generation = self.generation

    def wanted(self) -> bool:
        """Tell whether somebody still wants a connection that is being made."""
        return not self._keeper.closing and (self._keeper.wanted() or self.spare() <= 0)

    def connected(self, record: Record, session: BaseSession) -> None:
        """Take a new connection over."""
        now = self.loop.time()
        self.under_way.discard(record)
        del self._connecting[record]
        record.session = session
        record.made_at = record.proven_at = now
        age = self.options.max_age * (1 - random.uniform(0, _JITTER))  # noqa: S311 - no secret
        record.expires_at = now + age if age else float("inf")
        self.counters.created += 1
        self.connect_error = None
        self._refill_delays = backoff(first=1.0, most=30.0)
        if session.hung_up:
            self.condemn(record, "its setup took longer than connect_timeout", others=False)
        self._keeper.fit(record)

    def connect_late(self, record: Record, error: ConnectTimeout) -> None:
        """Tell the first waiter; the attempt counts no more as one that will serve somebody."""
        self.under_way.discard(record)
        self._refuse(error, self._connecting[record].began)
        self._keeper.dispatch()

    def connect_failed(self, record: Record, error: BaseException, *, known: bool) -> None:
        """Tell the first waiter, and let the others wait on."""
        self.under_way.discard(record)
        began = self._connecting.pop(record).began
        record.move(State.CLOSED)
        self._forget(record)
        if not known:
            self._refuse(error, began)
        self._keeper.dispatch()
        if known:
            raise_interrupt(error)  # the caller has been told of something else

    def _refuse(self, error: BaseException, began: float) -> None:
        self.connect_error = error
        if self._keeper.refuse(error, began):
            return
        raise_interrupt(error)
        self.refill_at = self.loop.time() + next(self._refill_delays)
        self._keeper.due_earlier()
        if not self.filling:
            text = self.arguments.redact(str(error)).strip()
            log.warning("pool %r: connect failed: %s: %s", self.name, type(error).__name__, text)

    def check(self, record: Record) -> None:
        """Ask an idle connection for a proof of life."""
        self.idle.remove(record)
        record.move(State.CHECKING)
        self.under_way.add(record)
        check = self.options.check
        timer = self.loop.call_later(self.options.check_timeout, self._check_timed_out, record)
        self.submit(
            record,
            partial(session_of(record).ping, check if callable(check) else None),
            partial(self._checked, record, timer),
        )

    def _checked(
        self,
        record: Record,
        timer: asyncio.TimerHandle,
        value: None,
        error: BaseException | None,
    ) -> None:
        timer.cancel()
        self.under_way.discard(record)
        if error is None:
            record.proven_at = self.loop.time()
        else:
            self.condemn(record, "it failed its check", others=not callable(self.options.check))
        self._keeper.fit(record)
        raise_interrupt(error)

    def _check_timed_out(self, record: Record) -> None:
        self.under_way.discard(record)
        self.condemn(record, "its check timed out", others=True)
        session_of(record).hang_up()
        self._keeper.dispatch()

    # Closing

    def expire(self, records: Iterable[Record], why: str) -> None:
        """Close idle connections."""
        for record in tuple(records):
            log.debug("pool %r: closing an idle connection: %s", self.name, why)
            self.idle.remove(record)
            self.close(record)

    def condemn(self, record: Record, why: str, *, others: bool) -> None:
        """Have a connection closed as soon as it can be, and those made before it with it."""
        if record.discard is None:
            record.discard = why
            log.info("pool %r: discarding a connection: %s", self.name, why)
        if others and record.generation == self.generation:
            self.retire()

    def retire(self) -> None:
        """Close every connection made so far: the idle now, the lent ones on return."""
        self.generation += 1
        self.expire(self.idle, "retired")

    def close(self, record: Record) -> None:
        """Close a connection, behind whatever is queued for it."""
        record.move(State.CLOSING)
        if record.discard is not None:
            self.counters.discarded += 1
            if record.tokens and session_of(record).canceller is None:
                session_of(record).hang_up()  # nothing else ends what runs
        self.watch(record)
        self.submit(record, session_of(record).close, partial(self._gone, record))

    def _gone(self, record: Record, value: None, error: BaseException | None) -> None:
        self.unwatch(record)
        self.counters.closed += 1
        record.move(State.CLOSED)
        self._forget(record)
        self._keeper.dispatch()
        raise_interrupt(error)

    def _forget(self, record: Record) -> None:
        self.records.pop(record, None)
        if record.worker is not None:
            record.worker.dismiss()
        self._keeper.settled(record)
        self.quota.give()

    def watch(self, record: Record) -> None:
        """Give a return or a close `cancel_grace` seconds; then its socket is shut down."""
        if record not in self._watches:
            self._watches[record] = self.loop.call_later(
                self.options.cancel_grace, self._out_of_patience, record
            )

    def unwatch(self, record: Record) -> None:
        """Stop the watch: it has come to rest."""
        timer = self._watches.pop(record, None)
        if timer is not None:
            timer.cancel()

    def _out_of_patience(self, record: Record) -> None:
        self.unwatch(record)
        self.condemn(record, "it did not come to rest in time", others=False)
        if not session_of(record).hang_up():
            log.warning(
                "pool %r: a connection is stuck in a call of its driver, which tells no socket to "
                "shut down; it stays in use until the call ends",
                self.name,
            )

    def submit(
        self,
        record: Record,
        work: Callable[[], Any],
        done: Done,
    ) -> Job:
        """Give a connection's worker something to do."""
        job = Job(work, partial(self._done, record, done))
        self.put(record, job)
        return job

    def put(self, record: Record, job: Job) -> None:
        """Give a connection's worker a job, whose end tells of itself by `job_ended()`."""
        assert record.worker is not None  # noqa: S101 - hired before the first job
        record.pending += 1
        record.worker.put(job)

    def _done(
        self,
        record: Record,
        done: Done,
        value: Any,
        error: BaseException | None,
    ) -> None:
        self.job_ended(record)
        done(value, error)

    def job_ended(self, record: Record) -> None:
        """Look what a job has told about its connection."""
        record.pending -= 1
        session = record.session
        if session is not None and session.lost:
            self.condemn(record, "it was lost", others=not session.hung_up)
        elif session is not None and session.doubtful:
            self.condemn(record, "nobody can say what state it is in", others=False)

    def hang_up(self) -> bool:
        """Shut every socket down; False where there is none."""
        hung_up = False
        for record in self.records:
            if record.session is not None:
                hung_up = record.session.hang_up() or hung_up
        return hung_up

    def abandon(self) -> None:
        """Let every worker close its connection and end, without waiting for it."""
        self.cancelling.stop()
        for record in tuple(self.records):
            if record.worker is not None:
                record.worker.dismiss()
        self.executor.dismiss_side()

    def stop_retrying(self) -> None:
        """Give up the connects that wait for their next attempt."""
        for connecting in tuple(self._connecting.values()):
            connecting.stop_retrying()


def session_of(record: Record) -> BaseSession:
    """Return the session of a connection that has been made."""
    assert record.session is not None  # noqa: S101 - it is connected
    return record.session


def _idle_since(record: Record) -> float:
    return record.idle_since
