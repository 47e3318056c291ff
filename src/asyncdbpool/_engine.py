"""The open pool on its event loop: who gets which connection, and what becomes of it afterwards.

Every decision is made and recorded without an `await`; the input and output it asks for is done by
workers and the pool's own tasks, whose ends come back as calls of the methods here. So there is no
point at which a cancelled caller could leave something half done.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from asyncdbpool._connect import ConnectArguments, Connecting, backoff
from asyncdbpool._lease import Lease
from asyncdbpool._options import Cleanup, Options
from asyncdbpool._permits import Permits
from asyncdbpool._quota import Quota
from asyncdbpool._record import Record, State
from asyncdbpool._session import Session
from asyncdbpool._upkeep import Upkeep
from asyncdbpool._workers import Executor, Job
from asyncdbpool.drivers import Driver
from asyncdbpool.errors import (
    ConnectTimeout,
    PoolClosed,
    PoolDeadlock,
    PoolTimeout,
    TooManyWaiters,
)
from asyncdbpool.stats import Counters, LeaseInfo, PoolStats

__all__ = ["Engine"]

log = logging.getLogger("asyncdbpool")

_JITTER = 0.05  # of max_age, so that a fleet does not reconnect at once
_DOUBT = 15.0  # seconds of an endless wait after which an uncertain deadlock is taken for one
_SHOWN = 3  # holders named in an error's message


class Engine:
    """What `ConnectionPool` is while it is open; a closed pool that is opened again gets another.

    Attributes:
        records: Every connection that there is, in any state but closed.
        idle: Those that wait for a borrower, the least recently used first.
        leases: What is lent, the oldest first.
        permits: The limit; a lease holds one permit until its connection is idle or closed.
        waiters: The tasks that wait in `acquire()`, and since when, the first first.
        closing: True once nobody gets a connection any more.
        paused: True while nobody gets one.
    """

    def __init__(
        self,
        name: str,
        driver: Driver,
        options: Options,
        arguments: ConnectArguments,
        counters: Counters,
        quota: Quota,
    ) -> None:
        self.name = name
        self.driver = driver
        self.options = options
        self.arguments = arguments
        self.counters = counters
        self.loop = asyncio.get_running_loop()
        self.executor = Executor(self.loop, options.max_size, name)
        self.records: set[Record] = set()
        self.idle: list[Record] = []
        self.leases: dict[Lease, None] = {}
        self.permits = Permits(options.max_size)
        self.waiters: dict[object, float] = {}
        self.closing = False
        self.paused = False
        self.connect_error: BaseException | None = None
        self.refill_at = 0.0
        self._refill_delays = backoff(first=1.0, most=30.0)
        self._claims: deque[asyncio.Future[Record | BaseException]] = deque()
        self._under_way: set[Record] = set()  # connecting or checked, and good for a claim soon
        self._generation = 0
        self._quota = quota
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watches: dict[Record, asyncio.TimerHandle] = {}
        self._settled: dict[Record, asyncio.Future[None]] = {}
        self._changed: set[asyncio.Future[None]] = set()
        quota.join(self)
        self.upkeep = Upkeep(self)

    # Borrowing

    async def acquire(self, timeout: float | None, cleanup: Cleanup, *, certain: bool) -> Lease:
        """Lend a connection: an idle one, a returned one or a new one, whatever comes first."""
        if self.closing:
            raise self._closed()
        if not self.permits.locked():
            await self.permits.acquire()  # does not suspend
            record = self._take_idle()
            if record is not None:
                return self._lend(record, cleanup, certain=certain)
            return self._lend(await self._wait(timeout, permit=True), cleanup, certain=certain)
        return self._lend(await self._wait(timeout, permit=False), cleanup, certain=certain)

    async def _wait(self, timeout: float | None, *, permit: bool) -> Record:
        """Wait for a permit, unless there is one already, and then for a connection."""
        task = asyncio.current_task()
        began = self.loop.time()
        self.waiters[task] = began
        deadline = None if timeout is None else began + timeout
        suspicion: asyncio.TimerHandle | None = None
        deadlock: list[PoolDeadlock] = []
        try:
            async with asyncio.timeout_at(deadline) as limit:
                try:
                    if not permit:
                        self._refuse_if_hopeless()
                        doubt = _DOUBT if timeout is None else timeout / 2
                        suspicion = self.loop.call_later(doubt, self._suspect, limit, deadlock)
                        await self.permits.acquire()
                        permit = True
                    if self.closing:
                        raise self._closed()
                    return self._take_idle() or await self._claim()
                except BaseException:
                    if permit:
                        self.permits.release()
                    raise
        except TimeoutError as error:
            if not (limit.expired() and isinstance(error.__cause__, asyncio.CancelledError)):
                raise  # a driver's own
            if deadlock:
                raise deadlock[0] from None
            self.counters.timeouts += 1
            raise PoolTimeout(
                f"pool {self.name!r}: no connection within {timeout:g} s; {self._figures()}"
                f"{self._oldest_holders()}"
            ) from self.connect_error
        finally:
            if suspicion is not None:
                suspicion.cancel()
            del self.waiters[task]
            self.counters.wait_seconds += self.loop.time() - began

    async def _claim(self) -> Record:
        """Wait, with a permit, for a connection: a returned one, a checked one or a new one."""
        claim: asyncio.Future[Record | BaseException] = self.loop.create_future()
        self._claims.append(claim)
        self.dispatch()
        try:
            given = await claim
        except asyncio.CancelledError:
            if claim.cancelled():
                with suppress(ValueError):  # passed over already
                    self._claims.remove(claim)
            elif isinstance(served := claim.result(), Record):  # in the very tick of the cancel
                served.move(State.RETURNING)
                self._available(served)
            raise
        if isinstance(given, BaseException):
            raise given
        if self.closing:
            given.move(State.RETURNING)
            self._close(given)
            raise self._closed()
        return given

    def _lend(self, record: Record, cleanup: Cleanup, *, certain: bool) -> Lease:
        assert record.session is not None  # noqa: S101 - it is connected
        record.uses += 1
        record.permit = True
        self.counters.acquired += 1
        lease = Lease(self, record, record.session, cleanup, certain=certain)
        self.leases[lease] = None
        return lease

    def _take_idle(self) -> Record | None:
        """Take the connection used last, if it may be lent without a check and nobody is first."""
        if self.paused or self._claims:
            return None
        record = self._fit_record()
        if record is not None:
            record.move(State.LENT)
        return record

    def _fit_record(self) -> Record | None:
        now = self.loop.time()
        while self.idle:
            record = self.idle[-1]
            if record.expires_at <= now:
                self.expire([record])
            elif self._is_doubtful(record, now):
                return None
            else:
                return self.idle.pop()
        return None

    def _is_doubtful(self, record: Record, now: float) -> bool:
        """Tell whether a proof of life is due; looks at the socket, without I/O."""
        check = self.options.check
        if check is None:
            return False
        if check != "auto":
            return True
        seen = max(record.idle_since, record.pinged_at)
        return now - seen > self.options.check_after or not _session(record).silent

    # Matching claims with connections

    def dispatch(self) -> None:
        """Serve those who wait: from the idle, else by a check or a connect for each of them."""
        if self.closing:
            return
        if not self.paused:
            while self._head_claim() and (record := self._fit_record()) is not None:
                self._hand_over(record)
            missing = sum(not claim.done() for claim in self._claims) - len(self._under_way)
            while missing > 0:
                if self.idle:
                    self.check(self.idle[-1])
                elif self._may_connect(for_waiter=True):
                    self.connect()
                else:
                    break
                missing -= 1
        if self.loop.time() >= self.refill_at:
            while len(self.records) < self.options.min_size and self._may_connect(for_waiter=False):
                self.connect()

    def _head_claim(self) -> asyncio.Future[Record | BaseException] | None:
        while self._claims and self._claims[0].done():
            self._claims.popleft()
        return self._claims[0] if self._claims else None

    def _hand_over(self, record: Record) -> None:
        record.move(State.LENT)
        self._claims.popleft().set_result(record)

    def _may_connect(self, *, for_waiter: bool) -> bool:
        limit = self.options.connect_limit
        if limit is not None and sum(r.state is State.CONNECTING for r in self.records) >= limit:
            return False
        return len(self.records) < self.options.max_size and self._quota.take(
            for_waiter=for_waiter
        )

    def _available(self, record: Record) -> None:
        """Decide about a connection that is fit: for the head claim, for the idle, or too many."""
        if (
            self.closing
            or record.discard is not None
            or record.generation != self._generation
            or len(self.records) > self.options.max_size
            or self._quota.claims_room()
        ):
            self._close(record)
            return
        if not self.paused and self._head_claim():
            self._hand_over(record)
        else:
            if record.state is not State.CHECKING:  # a ping is no use
                record.idle_since = self.loop.time()
            record.move(State.IDLE)
            bisect.insort(self.idle, record, key=_idle_since)
        self._settle(record)
        self.dispatch()

    # Making and checking

    def connect(self) -> asyncio.Future[BaseException | None]:
        """Start making a connection; the future tells the error, or None."""
        record = Record()
        self.records.add(record)
        self._under_way.add(record)
        connecting = Connecting(self, record)
        task = self.loop.create_task(connecting.run(), name=f"{self.name}: connect")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return connecting.outcome

    def wanted(self, record: Record) -> bool:  # noqa: ARG002 - one is as good as the other
        """Tell whether somebody still wants a connection that is being made."""
        return self._head_claim() is not None or len(self.records) <= self.options.min_size

    def connected(self, record: Record, session: Session) -> None:
        """Take a new connection over."""
        now = self.loop.time()
        self._under_way.discard(record)
        record.session = session
        record.generation = self._generation
        record.made_at = record.pinged_at = now
        age = self.options.max_age * (1 - random.uniform(0, _JITTER))  # noqa: S311 - no secret
        record.expires_at = now + age if age else float("inf")
        self.counters.created += 1
        self.connect_error = None
        self._refill_delays = backoff(first=1.0, most=30.0)
        self._available(record)

    def connect_late(self, record: Record, error: ConnectTimeout) -> None:
        """Tell the head claim; the attempt counts no more as one that will serve somebody."""
        self._under_way.discard(record)
        self._refuse_head(error)
        self.dispatch()

    def connect_failed(self, record: Record, error: BaseException, *, known: bool) -> None:
        """Tell the head claim, and let the others wait on."""
        self._under_way.discard(record)
        record.move(State.CLOSED)
        self._forget(record)
        if not known:
            self._refuse_head(error)
        self.dispatch()

    def _refuse_head(self, error: BaseException) -> None:
        self.connect_error = error
        claim = self._head_claim()
        if claim is not None:
            self._claims.popleft()
            claim.set_result(error)
            return
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        self.refill_at = self.loop.time() + next(self._refill_delays)
        self.upkeep.arm()
        text = self.arguments.redact(str(error)).strip()
        log.warning("pool %r: connect failed: %s: %s", self.name, type(error).__name__, text)

    def check(self, record: Record) -> None:
        """Ask an idle connection for a proof of life."""
        self.idle.remove(record)
        record.move(State.CHECKING)
        self._under_way.add(record)
        check = self.options.check
        timer = self.loop.call_later(self.options.check_timeout, self._check_timed_out, record)
        self.submit(
            record,
            partial(_session(record).ping, check if callable(check) else None),
            partial(self._checked, record, timer),
        )

    def _checked(
        self,
        record: Record,
        timer: asyncio.TimerHandle,
        value: None,  # noqa: ARG002 - a ping has no result
        error: BaseException | None,
    ) -> None:
        timer.cancel()
        self._under_way.discard(record)
        if error is None:
            record.pinged_at = self.loop.time()
        else:
            self._condemn(record, "it failed its check", others=not callable(self.options.check))
        self._available(record)
        _raise_interrupt(error)

    def _check_timed_out(self, record: Record) -> None:
        self._under_way.discard(record)
        self._condemn(record, "its check timed out", others=True)
        self._hang_up(record)
        self.dispatch()

    # Taking back

    def give_back(
        self, lease: Lease, cleanup: Cleanup, *, discard: str | None = None
    ) -> asyncio.Future[None] | None:
        """End a lease; the future, if any, ends when the connection is clean or closed.

        There is none where it is clean already, and none where a statement whose caller was
        cancelled is still ending: the pool goes on by itself then.
        """
        record, session = lease.record, lease.session
        lease.ended = "was returned" if discard is None else f"is gone: {discard}"
        del self.leases[lease]
        self.counters.use_seconds += self.loop.time() - lease.taken_at
        record.move(State.RETURNING)
        record.discard = record.discard or discard
        worn_out = record.discard is not None or self._is_worn_out(record)
        if not (worn_out or record.pending or callable(cleanup) or cleanup == "reset"):
            if session.clean:
                self._sweep(record)
                self._available(record)
                return None
        settled = self._settled[record] = self.loop.create_future()
        if worn_out:
            self._close(record)
        else:
            self._watch(record)
            self.submit(
                record, partial(session.clean_up, cleanup), partial(self._cleaned, record)
            )
        return None if record.orphans else settled

    def _is_worn_out(self, record: Record) -> bool:
        options = self.options
        return (
            not options.max_idle
            or not options.max_age
            or record.expires_at <= self.loop.time()
            or (options.max_uses is not None and record.uses >= options.max_uses)
        )

    def _sweep(self, record: Record) -> None:
        """Close the finished cursors ahead of the next borrower's first statement."""
        session = _session(record)
        if session.cursors:
            session.litter.extend(session.cursors)
            self.submit(record, session.sweep, partial(self._swept, record))

    def _swept(self, record: Record, value: None, error: BaseException | None) -> None:  # noqa: ARG002
        if error is not None:
            self._condemn(record, "a cursor could not be closed", others=False)
            if record.state is State.IDLE:
                self.expire([record])
            _raise_interrupt(error)

    def _cleaned(self, record: Record, value: bool | None, error: BaseException | None) -> None:  # noqa: FBT001
        self._unwatch(record)
        if error is not None:
            self._condemn(record, f"its cleanup raised {type(error).__name__}", others=False)
        elif not value:
            self._condemn(record, "its cleanup left a transaction open", others=False)
        self._available(record)
        _raise_interrupt(error)

    def reclaim(self, lease: Lease) -> None:
        """Take back a lease that was dropped; on any thread, for the garbage collector calls it."""
        self.counters.reclaimed += 1
        with suppress(RuntimeError):  # the loop is closed, and the pool gone with it
            self.loop.call_soon_threadsafe(self._reclaim, lease)

    def _reclaim(self, lease: Lease) -> None:
        if lease.ended is None:
            self.give_back(lease, lease.cleanup)

    # Closing connections

    def expire(self, records: Iterable[Record], why: str = "") -> None:
        """Close idle connections."""
        for record in tuple(records):
            if why:
                log.debug("pool %r: closing an idle connection: %s", self.name, why)
            self.idle.remove(record)
            self._close(record)

    def _condemn(self, record: Record, why: str, *, others: bool) -> None:
        """Have a connection closed as soon as it can be, and those made before it with it."""
        if record.discard is None:
            record.discard = why
            log.info("pool %r: discarding a connection: %s", self.name, why)
        if others and record.generation == self._generation:
            self.retire()

    def retire(self) -> None:
        """Close every connection made so far: the idle now, the lent ones on return."""
        self._generation += 1
        self.expire(self.idle, "retired")

    def _close(self, record: Record) -> None:
        record.move(State.CLOSING)
        if record.discard is not None:
            self.counters.discarded += 1
            if record.pending:
                self._hang_up(record)
        self._watch(record)
        self.submit(record, _session(record).close, partial(self._gone, record))

    def _gone(self, record: Record, value: None, error: BaseException | None) -> None:  # noqa: ARG002
        self._unwatch(record)
        self.counters.closed += 1
        record.move(State.CLOSED)
        self._forget(record)
        self.dispatch()
        _raise_interrupt(error)

    def _forget(self, record: Record) -> None:
        self.records.discard(record)
        if record.worker is not None:
            record.worker.dismiss()
        self._settle(record)
        self._quota.give()

    def _settle(self, record: Record) -> None:
        """Note that a connection is idle, handed over or gone: its last lease's permit is free."""
        if record.permit:
            record.permit = False
            self.permits.release()
        settled = self._settled.pop(record, None)
        if settled is not None and not settled.done():
            settled.set_result(None)
        for future in self._changed:
            if not future.done():
                future.set_result(None)

    def _watch(self, record: Record) -> None:
        """Give a return or a close `cancel_grace` seconds; then its socket is shut down."""
        self._unwatch(record)
        self._watches[record] = self.loop.call_later(
            self.options.cancel_grace, self._out_of_patience, record
        )

    def _unwatch(self, record: Record) -> None:
        timer = self._watches.pop(record, None)
        if timer is not None:
            timer.cancel()

    def _out_of_patience(self, record: Record) -> None:
        self._condemn(record, "it did not come to rest in time", others=False)
        self._hang_up(record)

    def _hang_up(self, record: Record) -> None:
        if not _session(record).hang_up():
            log.warning(
                "pool %r: a connection is stuck in a call of its driver, which tells no socket to "
                "shut down; it stays in use until the call ends",
                self.name,
            )

    def submit(
        self,
        record: Record,
        work: Callable[[], Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> Job:
        """Hand a job to a connection's worker."""
        assert record.worker is not None  # noqa: S101 - hired before the first job
        record.pending += 1
        return record.worker.submit(work, partial(self._done, record, done))

    def _done(
        self,
        record: Record,
        done: Callable[[Any, BaseException | None], None],
        value: Any,
        error: BaseException | None,
    ) -> None:
        record.pending -= 1
        if record.session is not None and record.session.lost:
            self._condemn(record, "it was lost", others=True)
        done(value, error)

    # The whole pool

    async def fill(self) -> None:
        """Make `min_size` connections, or raise the first error."""
        missing = self.options.min_size - len(self.records)
        made = [self.connect() for _ in range(missing) if self._may_connect(for_waiter=False)]
        for error in [await outcome for outcome in made]:
            if error is not None:
                raise error

    async def resize(self, options: Options) -> None:
        """Take new sizes over; what is too much is closed, the lent ones on return."""
        self.options = options
        await self.permits.resize(options.max_size)
        self.executor.limit = max(options.max_size, len(self.records))
        self.expire(self.idle[: max(0, len(self.records) - options.max_size)], "resized")
        self.dispatch()
        self.upkeep.arm()

    async def clear(self) -> None:
        """Retire every connection, and wait until the idle ones are closed."""
        idle = set(self.idle)
        self.retire()
        await self._until(lambda: not idle & self.records)

    async def pause(self) -> None:
        """Lend nothing from now on, and wait until everything lent is back."""
        self.paused = True
        await self._until(lambda: not any(record.permit for record in self.records))

    def resume(self) -> None:
        """Lend again."""
        self.paused = False
        self.dispatch()

    async def shut_down(self, timeout: float | None) -> None:
        """Send the waiters away, wait for the borrowers, then close whatever is left."""
        self.closing = True
        self.upkeep.stop()
        while (claim := self._head_claim()) is not None:
            self._claims.popleft()
            claim.set_result(self._closed())
        self.permits.disband()
        self.expire(self.idle, "the pool closes")
        deadline = None if timeout is None else self.loop.time() + timeout
        if not await self._until(lambda: not self.records, deadline):
            for lease in tuple(self.leases):
                self.give_back(lease, None, discard="its pool was closed")
            for record in self.records:
                if record.session is not None:
                    self._hang_up(record)
            grace = self.loop.time() + self.options.cancel_grace
            if not await self._until(lambda: not self.records, grace):
                log.warning(
                    "pool %r: closed, but %d threads are still inside a call of the driver; they "
                    "are daemons and end with it",
                    self.name,
                    len(self.records),
                )
                self.abandon()
        await self.executor.wind_up()

    def abandon(self) -> None:
        """Let every thread close its connection and end, without waiting for it."""
        self.closing = True
        for lease in tuple(self.leases):
            lease.ended = "is gone: its pool was given up"
        for record in tuple(self.records):
            if record.worker is not None:
                record.worker.dismiss()

    async def _until(self, condition: Callable[[], bool], deadline: float | None = None) -> bool:
        """Wait until something about the connections is so; False if it is not by the deadline."""
        while not condition():
            change: asyncio.Future[None] = self.loop.create_future()
            self._changed.add(change)
            try:
                async with asyncio.timeout_at(deadline):
                    await change
            except TimeoutError:
                return condition()
            finally:
                self._changed.discard(change)
        return True

    # What other pools under the same cap ask

    def oldest_wait(self) -> float | None:
        """Tell since when the first waiter waits, or None."""
        return next(iter(self.waiters.values()), None)

    def idle_since(self) -> float | None:
        """Tell since when the least recently used connection is idle, or None."""
        return self.idle[0].idle_since if self.idle else None

    def make_room(self) -> None:
        """Close that connection."""
        self.expire(self.idle[:1], "another pool needs the room")

    def spare(self) -> int:
        """Tell how many connections there are above `min_size`."""
        return len(self.records) - self.options.min_size

    # Figures and errors

    def count(self, *states: State) -> int:
        """Count the connections in these states."""
        return sum(record.state in states for record in self.records)

    def _figures(self) -> str:
        idle, connecting = self.count(State.IDLE), self.count(State.CONNECTING)
        in_use = len(self.records) - idle - connecting
        text = (
            f"size {len(self.records)} of max_size {self.options.max_size}: in use {in_use}, "
            f"idle {idle}, connecting {connecting}; waiting {len(self.waiters)}"
        )
        return f"{text}; paused" if self.paused else text

    def holders(self) -> list[LeaseInfo]:
        """Tell who holds what, the oldest lease first; also who is not through with returning."""
        return [lease.info() for lease in self.leases]

    def _oldest_holders(self) -> str:
        oldest = itertools.islice(self.leases, _SHOWN)
        return "".join(f"\noldest lease {n}: {lease.info()}" for n, lease in enumerate(oldest, 1))

    def _closed(self) -> PoolClosed:
        return PoolClosed(f"pool {self.name!r} is closed; open it again with `await pool.open()`")

    def _refuse_if_hopeless(self) -> None:
        limit = self.options.max_waiting
        if limit is not None and self.permits.waiting >= limit:
            raise TooManyWaiters(
                f"pool {self.name!r}: {self.permits.waiting} tasks wait already, as many as "
                f"max_waiting allows; {self._figures()}"
            )
        if self._is_deadlocked(certain=True):
            raise self._deadlock()

    def _suspect(self, limit: asyncio.Timeout, deadlock: list[PoolDeadlock]) -> None:
        """Give up half-way where nothing speaks against a deadlock any more."""
        if self._is_deadlocked(certain=False):
            deadlock.append(self._deadlock())
            limit.reschedule(self.loop.time())

    def _is_deadlocked(self, *, certain: bool) -> bool:
        """Tell whether every lease is held by a task that itself waits here.

        A lease counts at once where its task surely keeps it for itself (it came from
        `connection()`, or that task has used it last); one taken by hand and not used yet may be
        on its way to another task, and counts only after half of the wait.
        """
        return len(self.leases) >= self.permits.size and all(
            lease.user in self.waiters
            and not lease.record.pending
            and (lease.certain or not certain)
            for lease in self.leases
        )

    def _deadlock(self) -> PoolDeadlock:
        return PoolDeadlock(
            f"pool {self.name!r}: all {len(self.leases)} connections are held by tasks that wait "
            "for another one of this pool; use the one you have, or return it first"
            f"{self._oldest_holders()}"
        )


def figures(
    name: str, options: Options, counters: Counters, engine: Engine | None
) -> PoolStats:
    """Put a pool's figures together; `engine` is None while it is not open."""
    size = idle = connecting = waiting = 0
    if engine is not None:
        size, waiting = len(engine.records), len(engine.waiters)
        idle, connecting = engine.count(State.IDLE), engine.count(State.CONNECTING)
    return PoolStats(
        name=name,
        min_size=options.min_size,
        max_size=options.max_size,
        size=size,
        idle=idle,
        in_use=size - idle - connecting,
        connecting=connecting,
        waiting=waiting,
        **asdict(counters),
    )


def _session(record: Record) -> Session:
    assert record.session is not None  # noqa: S101 - it is connected
    return record.session


def _idle_since(record: Record) -> float:
    return record.idle_since


def _raise_interrupt(error: BaseException | None) -> None:
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        raise error
