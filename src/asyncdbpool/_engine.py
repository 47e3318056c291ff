"""The open pool on its event loop: who gets which connection, and what becomes of it afterwards.

Every decision is made and recorded without an `await`; the input and output it asks for is done by
workers and the pool's own tasks, whose ends come back as calls of the methods here. So there is no
point at which a cancelled caller could leave something half done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from asyncdbpool import _forks, _stacks
from asyncdbpool._claims import Claims
from asyncdbpool._lease import Lease
from asyncdbpool._line import Line, Turn, Waiter
from asyncdbpool._options import Cleanup, Options, always_runs
from asyncdbpool._permits import Permits
from asyncdbpool._record import Record, State
from asyncdbpool._refusals import Refusals
from asyncdbpool._relay import Relay, Shot
from asyncdbpool._stacks import Stack
from asyncdbpool._stock import Plan, Stock, session_of
from asyncdbpool._upkeep import Upkeep
from asyncdbpool._workers import raise_interrupt
from asyncdbpool.stats import LeaseInfo

__all__ = ["Engine"]

log = logging.getLogger("asyncdbpool")

_TO_NOTICE = 0.5  # seconds that what runs may take to see that its socket was shut down
_SOON = 0.05  # seconds for which cursors may stay open on a connection that nobody uses


class Engine:
    """What `ConnectionPool` is while it is open; a closed pool that is opened again gets another.

    Attributes:
        stock: The connections.
        permits: The limit; a lease holds one permit until its connection is idle or closed.
        line: Those who wait for a permit.
        relay: The one-shots.
        refusals: The errors for those who wait in vain.
        leases: What is lent, the oldest first.
        returns: What is being cleaned or closed after a lease, and the future that waits for it.
        waiters: The tasks that wait in `acquire()`, and since when, the first first.
        closing: True once nobody gets a connection any more.
        paused: True while nobody gets one.
    """

    def __init__(self, plan: Plan, options: Options) -> None:
        self.name = plan.name
        self.counters = plan.counters
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.stock = Stock(self, plan, options)
        # What leases and one-shots ask of the pool, and the stock does.
        self.submit, self.put = self.stock.submit, self.stock.put
        self.job_ended = self.stock.job_ended
        self.permits = Permits(options.max_size, self._serve_line)
        self.leases: dict[Lease, None] = {}
        self.returns: dict[Record, tuple[Lease, asyncio.Future[None]]] = {}
        self.waiters: dict[asyncio.Task[Any] | None, float] = {}
        self.closing = False
        self.paused = False
        self._claims = Claims()
        self._changes: dict[asyncio.Future[None], None] = {}
        self._given_up = False  # closed, and what is left does not come back
        self._sweeps: dict[Record, Callable[[], Any]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._keeps = bool(options.max_idle and options.max_age)
        self._quota = plan.quota
        self._quota.join(self)
        self._shares = self._quota.shared
        self.refusals = Refusals(self)
        self.line = Line(self.loop, self.refusals, options.timeout)
        self.relay = Relay(self, enabled=_lets_relay(options) and not self._shares)
        self.upkeep = Upkeep(self)

    # Borrowing

    def lend_idle(self, cleanup: Cleanup, *, certain: bool) -> Lease | None:
        """Lend an idle connection at once, where nobody waits and one needs no check."""
        record = self._take_free()
        if record is None:
            return None
        task, stack = asyncio.current_task(self.loop), _stacks.capture(skip=1)
        return self._lend(record, cleanup, task=task, stack=stack, certain=certain)

    async def acquire(self, timeout: float | None, cleanup: Cleanup, *, certain: bool) -> Lease:
        """Lend a connection: an idle one, a returned one or a new one, whatever comes first."""
        self.refusals.refuse_if_closed()
        task, turn = asyncio.current_task(self.loop), Turn(self.loop, timeout)
        self._queue_up(turn, task)
        try:
            served = await turn.future
        except BaseException:
            self.withdraw(turn)
            raise
        finally:
            self.leave(turn, task)
        try:
            record = self.accept(turn, served)
        finally:
            del turn, served  # no cycle of exception, traceback and frame
        stack = _stacks.capture(skip=1)
        return self._lend(record, cleanup, task=task, stack=stack, certain=certain)

    def enter(self, shot: Shot) -> None:
        """Begin a one-shot at once, or let it wait."""
        record = self._take_free()
        if record is None:
            self._queue_up(shot, shot.task)
        else:
            self.relay.begin(shot, self.lend_for(shot, record))

    def _take_free(self) -> Record | None:
        """Take an idle connection and a permit for it, where nobody waits."""
        if self.waiters or self.permits.locked():
            return None
        record = self._take_idle()
        if record is not None:
            self.permits.take()
        return record

    # Waiting

    def _queue_up(self, waiter: Waiter, task: asyncio.Task[Any] | None) -> None:
        """Let somebody wait for a permit, unless one is free, and for a connection."""
        waiter.since = self.waiters[task] = self.loop.time()
        if self.permits.take():
            self._claim(waiter)
            return
        try:
            self.refusals.refuse_if_hopeless()
        except BaseException:
            del self.waiters[task]
            raise
        self.line.join(waiter)

    def leave(self, waiter: Waiter, task: asyncio.Task[Any] | None) -> None:
        """Note that somebody waits no more."""
        self.line.leave(waiter)
        del self.waiters[task]
        self.counters.wait_seconds += self.loop.time() - waiter.since

    def _claim(self, waiter: Waiter) -> None:
        """Let somebody who has a permit wait for a connection."""
        waiter.permit = True
        self._claims.stake(waiter.future, self.loop.time())
        self.line.watch(waiter)
        self.dispatch()

    def accept(self, waiter: Waiter, served: Record | BaseException) -> Record:
        """Take what somebody has been served with: a connection, or an error to raise."""
        if isinstance(served, Record) and not self.closing:
            return served
        self._refund(waiter, served)
        try:
            raise served if isinstance(served, BaseException) else self.refusals.closed()
        finally:
            del served, waiter  # no cycle of exception, traceback and frame

    def withdraw(self, waiter: Waiter) -> None:
        """Take back whatever somebody has got who has gone."""
        if self.loop.is_closed():
            return
        waiter.future.cancel()
        if not waiter.future.cancelled():  # served in this very tick
            served = waiter.future.result()
            self._refund(waiter, served)
            if isinstance(served, BaseException):
                raise_interrupt(served)
        elif waiter.permit:
            self._claims.drop(waiter.future)
            self.permits.release()

    def _refund(self, waiter: Waiter, served: Record | BaseException) -> None:
        """Take back a permit, and the connection that has come with it."""
        if isinstance(served, Record):
            served.move(State.RETURNING)
            self.fit(served)
        if waiter.permit:
            self.permits.release()

    def _serve_line(self) -> bool:
        """Give a permit that has become free to the first in line, if there is one."""
        waiter = None if self.closing else self.line.first()
        if waiter is None:
            return False
        record = self._take_idle()
        if record is None:
            self.line.leave(waiter, permit=True)
            self._claim(waiter)
        else:
            self._serve(waiter, record)
        return True

    def _serve(self, waiter: Waiter, record: Record) -> None:
        """Give the first in line a connection, and the permit for it."""
        self.line.leave(waiter, permit=True)
        if isinstance(waiter, Shot):
            self.relay.begin(waiter, self.lend_for(waiter, record))
        else:
            waiter.future.set_result(record)

    def look_after_line(self) -> None:
        """Serve those whom a permit has missed, since a thread had them in its hand."""
        if self.line.disturbed:
            self.line.disturbed = False
            if self.closing:  # which could not send them away
                self.line.disband(self.refusals.closed)
            while self.line and self.permits.take():
                self.permits.release()
            self.line.rearm()

    def goes_on(self, record: Record) -> bool:
        """Tell, on any thread, whether a lent connection may serve the first in line next."""
        return (
            record.state is State.LENT
            and record.discard is None
            and record.generation == self.stock.generation
            and not (self.paused or self.permits.owed or self._claims.staked)
            and record.expires_at > self.loop.time()
            and session_of(record).passes_on
        )

    def _lend(
        self,
        record: Record,
        cleanup: Cleanup,
        *,
        task: asyncio.Task[Any] | None,
        stack: Stack | None,
        certain: bool,
    ) -> Lease:
        record.uses += 1
        record.permit = True
        self.counters.acquired += 1
        lease = Lease(
            self, record, session_of(record), cleanup, task=task, stack=stack, certain=certain
        )
        self.leases[lease] = None
        return lease

    def lend_for(self, shot: Shot, record: Record) -> Lease:
        """Lend a connection to a one-shot, whose task shows where it waits."""
        return self._lend(record, self.options.cleanup, task=shot.task, stack=None, certain=True)

    def _take_idle(self) -> Record | None:
        """Take an idle connection, if nobody is first."""
        if self.paused or self._claims:
            return None
        record = self.stock.take()
        if record is not None:
            record.move(State.LENT)
        return record

    # Matching those who wait with connections

    def dispatch(self) -> None:
        """Serve those who wait: from the idle, else by a check or a connect for each of them."""
        if self.closing:
            return
        stock = self.stock
        if not self.paused:
            while self._claims and (record := stock.take()) is not None:
                self._claims.serve(record)
            missing = len(self._claims) - len(stock.under_way)
            while missing > 0:
                if stock.idle:
                    stock.check(stock.idle[-1])
                elif stock.may_connect(for_waiter=True):
                    stock.connect()
                else:
                    break
                missing -= 1
        stock.refill()

    def fit(self, record: Record) -> None:
        """Decide about a connection that has been made, checked or cleaned."""
        if self._is_unwanted(record):
            self.stock.close(record)
        else:
            self._place(record, self.loop.time())

    def _place(self, record: Record, now: float) -> None:
        """Let a connection go to the first who waits for one, or be idle."""
        if self.paused or not self._claims:
            self._hand_on(record, now)
            return
        if record.state is State.RETURNING and self.stock.wants_check(record):
            self.stock.keep(record, now)
            self.stock.check(record)
        else:
            self._claims.serve(record)
        self.settled(record)
        self.dispatch()

    def _hand_on(self, record: Record, now: float) -> None:
        """Let a connection go to the first in line, with the permit it was lent by, or be idle."""
        waiter = self.line.first() if self.line and self._goes_straight(record, now) else None
        if waiter is None:
            self.stock.keep(record, now)
            self.settled(record)
            return
        record.permit = False  # it goes along
        record.move(State.LENT)
        self.settled(record)
        self._serve(waiter, record)

    def _goes_straight(self, record: Record, now: float) -> bool:
        """Tell whether a connection may have its next borrower without being idle before."""
        return (
            record.permit
            and record.expires_at > now
            and not (self.paused or self.permits.owed or self.stock.wants_check(record))
        )

    def _is_unwanted(self, record: Record) -> bool:
        stock = self.stock
        return (
            self.closing
            or record.discard is not None
            or record.generation != stock.generation
            or (len(stock.records) > self.permits.size and stock.surplus() > 0)
            or (self._shares and self._quota.claims_room())
        )

    def refuse(self, error: BaseException, began: float) -> bool:
        """Tell the first waiter that a connect has failed; False where it concerns nobody."""
        return self._claims.refuse(error, began)

    def due_earlier(self) -> None:
        """See to it that upkeep looks again when it has to."""
        self.upkeep.arm()

    def wanted(self) -> bool:
        """Tell whether somebody waits for a connection that is being made."""
        return bool(self._claims)

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
        now = self.loop.time()
        self.counters.use_seconds += now - lease.taken_at
        record.move(State.RETURNING)
        record.discard = record.discard or discard
        worn_out = self._is_worn_out(record, now) or self._is_unwanted(record)
        if not (worn_out or record.pending or always_runs(cleanup)) and session.clean:
            sweep = session.let_go()
            if sweep is not None:
                self._sweep_soon(record, sweep)
            self._place(record, now)
            return None
        for token in record.tokens:
            self.stock.cancelling.until_ended(record, token)
            session.forsake(token)
        settled = self.loop.create_future()
        self.returns[record] = lease, settled
        if worn_out:
            self.stock.close(record)
        else:
            self.stock.watch(record)
            self.submit(record, partial(session.clean_up, cleanup), partial(self._cleaned, record))
        return None if record.orphans else settled

    def _is_worn_out(self, record: Record, now: float) -> bool:
        options = self.options
        return (
            not self._keeps
            or record.expires_at <= now
            or (options.max_uses is not None and record.uses >= options.max_uses)
        )

    def _sweep_soon(self, record: Record, sweep: Callable[[], Any]) -> None:
        """Note what is left to be closed: the next statement does so, or else a sweep soon."""
        self._sweeps[record] = sweep
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(_SOON, self._sweep_idle)

    def _sweep_idle(self) -> None:
        """Have idle connections close the cursors that their last borrowers have left."""
        self._sweeper = None
        sweeps, self._sweeps = self._sweeps, {}
        for record, sweep in sweeps.items():
            if record.state is State.IDLE:
                self.submit(record, sweep, partial(self._swept, record))

    def _swept(self, record: Record, value: None, error: BaseException | None) -> None:
        if error is not None:
            self.stock.condemn(record, "a cursor could not be closed", others=False)
            if record.state is State.IDLE:
                self.stock.expire([record], "a cursor could not be closed")
            raise_interrupt(error)

    def _cleaned(self, record: Record, clean: bool | None, error: BaseException | None) -> None:
        self.stock.unwatch(record)
        if error is not None:
            self.stock.condemn(record, f"its cleanup raised {type(error).__name__}", others=False)
        elif not clean:
            self.stock.condemn(record, "its cleanup could not make it clean", others=False)
        self.fit(record)
        raise_interrupt(error)

    def settled(self, record: Record) -> None:
        """Note that a connection is idle, handed over or gone: its last lease's permit is free."""
        if record.permit:
            record.permit = False
            self.permits.release()
        if record in self.returns:
            _, settled = self.returns.pop(record)
            if not settled.done():
                settled.set_result(None)
        for change in self._changes:
            if not change.done():
                change.set_result(None)

    def orphaned(self, record: Record, token: object, *, cancel: bool) -> None:
        """Cancel in the database what runs for nobody, and bound the time that it may take."""
        record.orphans.add(token)
        if cancel:
            self.stock.cancelling.until_ended(record, token)
            session_of(record).forsake(token)
        self.stock.watch(record)

    def answered(self, record: Record) -> None:
        """Stop watching a lent connection once nothing runs for nobody any more."""
        if record.state is State.LENT and not record.orphans:
            self.stock.unwatch(record)

    def cancel(self, record: Record) -> asyncio.Future[None]:
        """Cancel in the database what runs on a connection."""
        return self.stock.cancelling.by_hand(record)

    def reclaim(self, lease: Lease) -> None:
        """Take back a lease that was dropped; the garbage collector calls it on any thread."""
        self.counters.reclaimed += 1
        lease.forget_user()
        with suppress(RuntimeError):  # the loop is closed, and the pool gone with it
            self.loop.call_soon_threadsafe(self._reclaim, lease)

    def _reclaim(self, lease: Lease) -> None:
        if lease.ended is None:
            self.give_back(lease, lease.cleanup)

    # The whole pool

    async def resize(self, options: Options) -> None:
        """Take new sizes over; what is too much is closed, the lent ones on return."""
        stock = self.stock
        self.options = stock.options = options
        # Ahead of the permits: with an eager task factory, a connect begins as one is given.
        stock.executor.limit = max(options.max_size, len(stock.records))
        self.permits.resize(options.max_size)
        stock.expire(stock.idle[: max(0, stock.surplus())], "resized")
        self.dispatch()
        self.upkeep.arm()

    async def clear(self) -> None:
        """Retire every connection, and wait until the idle ones are closed."""
        idle = set(self.stock.idle)
        self.stock.retire()
        await self._until(lambda: idle.isdisjoint(self.stock.records))

    async def pause(self) -> None:
        """Lend nothing from now on, and wait until everything lent is back."""
        self.paused = True
        await self._until(lambda: not self.stock.count(State.LENT) and not self.returns)

    def resume(self) -> None:
        """Lend again."""
        self.paused = False
        self.dispatch()

    async def shut_down(self, timeout: float | None) -> None:
        """Send the waiters away, wait for the borrowers, then close whatever is left."""
        stock = self.stock
        self.closing = True
        self.upkeep.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
        while self.refuse(self.refusals.closed(), self.loop.time()):
            pass
        self.line.disband(self.refusals.closed)
        stock.stop_retrying()
        stock.expire(stock.idle, "the pool closes")
        if not await self._until(lambda: not stock.records, timeout):
            for lease in tuple(self.leases):
                self.give_back(lease, None, discard="its pool was closed")
            if not await self._until(lambda: not stock.records, self.options.cancel_grace):
                patience = _TO_NOTICE if stock.hang_up() else 0.0
                if not await self._until(lambda: not stock.records, patience):
                    stock.abandon()
                    self._give_up()
        stock.cancelling.give_up()
        stuck = await stock.executor.wind_up()
        if stuck:
            log.warning(
                "pool %r: closed, but %d calls of the driver have not ended; they are left "
                "alone, and threads are daemons",
                self.name,
                stuck,
            )

    def _give_up(self) -> None:
        """Let nobody wait for calls of the driver that do not come back."""
        for record in self.stock.records:
            for token in record.tokens:
                token.give_up(self.refusals.given_up())
        self._given_up = True
        for waiting in (*(settled for _, settled in self.returns.values()), *self._changes):
            if not waiting.done():
                waiting.set_result(None)

    def abandon(self) -> None:
        """Give up without a loop: each connection is closed by its thread, or at once."""
        self.closing = True
        for lease in tuple(self.leases):
            lease.ended = "is gone: its pool was given up"
        self.stock.abandon()

    def disown(self) -> None:
        """Leave everything to the process that this one was forked from."""
        for lease in self.leases:
            lease.ended = "was borrowed by the parent process"
        for session in [record.session for record in self.stock.records if record.session]:
            session.disown()
        _forks.keep_for_ever(self)

    async def _until(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until something about the connections is so; False if it is not within seconds."""
        deadline = None if timeout is None else self.loop.time() + timeout
        while not (condition() or self._given_up):
            change: asyncio.Future[None] = self.loop.create_future()
            self._changes[change] = None
            left = None if deadline is None else max(0.0, deadline - self.loop.time())
            try:
                done, _ = await asyncio.wait({change}, timeout=left)
            finally:
                del self._changes[change]
            if not done:
                return condition()
        return True

    def holders(self) -> list[LeaseInfo]:
        """Tell who holds what, and whose return is still under way."""
        return [lease.info() for lease in self.out()]

    def out(self) -> Iterator[Lease]:
        """Go through what is lent, and what is on its way back."""
        yield from self.leases
        for lease, _ in self.returns.values():
            yield lease

    # What the pools under the same cap ask

    def oldest_wait(self) -> float | None:
        """Tell since when the first waiter waits, or None."""
        return next(iter(self.waiters.values()), None)

    def idle_since(self) -> float | None:
        """Tell since when the least recently used connection is idle, or None."""
        idle = self.stock.idle
        return idle[0].idle_since if idle else None

    def idle_count(self) -> int:
        """Tell how many connections are idle."""
        return len(self.stock.idle)

    def make_room(self) -> None:
        """Close that connection."""
        self.stock.expire(self.stock.idle[:1], "another pool needs the room")

    @property
    def free(self) -> int:
        """How many tasks would be served now without waiting for somebody else's return."""
        if self.closing or self.paused:
            return 0
        return min(self.permits.free, len(self.stock.idle) + self._quota.room(self.permits.size))


def _lets_relay(options: Options) -> bool:
    """Tell whether a connection may go from one borrower to the next with nothing in between."""
    return bool(
        not always_runs(options.cleanup)
        and options.check in ("auto", None)
        and options.max_uses is None
        and options.max_idle
        and options.max_age
    )
