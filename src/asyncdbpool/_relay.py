"""One-shots: a connection that has ended one takes the next in line, without the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from asyncdbpool._workers import Job, raise_interrupt

if TYPE_CHECKING:
    from asyncdbpool._lease import Lease
    from asyncdbpool._options import Options
    from asyncdbpool._permits import Permits
    from asyncdbpool._record import Record
    from asyncdbpool.stats import Counters

__all__ = ["Relay", "Shot"]


class Outcome(NamedTuple):
    """How a one-shot has ended.

    Attributes:
        value: What it gives.
        error: What it raises.
        settled: Ends when its connection is clean or closed; None where it is already.
    """

    value: Any
    error: BaseException | None
    settled: asyncio.Future[None] | None = None


class Shot(Job):
    """One one-shot, from its call to its end.

    Attributes:
        task: Whose call it is.
        statement: What it is about, for those who ask who holds what.
        passes_on: True where its connection may go on to another one.
        future: Ends with the outcome; or with None at the head of the line, where there is a
            permit for it but no connection at hand.
        since: Loop time at which it joined the line.
        waiting: True while it stands there, as far as the event loop knows.
        record: The connection that runs it; set by whoever decides that, on any thread.
        lease: The loan of that connection, once the event loop knows of it.
        following: The one-shot that its connection has taken along.
    """

    __slots__ = (
        "_args",
        "_operation",
        "_relay",
        "following",
        "future",
        "lease",
        "passes_on",
        "record",
        "since",
        "statement",
        "task",
        "waiting",
    )

    def __init__(
        self, relay: Relay, operation: str, args: tuple[Any, ...], statement: Any
    ) -> None:
        super().__init__()
        self._relay = relay
        # The user's own coroutine function wants its caller's context, and so a task of its own.
        self.passes_on = not (relay.native and operation == "apply")
        self._operation = operation
        self._args = args
        self.statement = statement
        self.task = asyncio.current_task()
        self.future: asyncio.Future[Outcome | None] = relay.loop.create_future()
        self.since = 0.0
        self.waiting = False
        self.record: Record | None = None
        self.lease: Lease | None = None
        self.following: Shot | None = None

    def take_to(self, record: Record) -> None:
        """Settle which connection runs it."""
        session = record.session
        assert session is not None  # noqa: S101 - it is connected
        self.work = partial(session.perform, session.once, (self._operation, *self._args), self)
        self.record = record

    def successor(self) -> Shot | None:
        """Take the next in line along, unless this has failed or its caller has gone.

        The event loop drops a one-shot first and then looks for its follower; here it is the other
        way round, so that one of the two sees the other.
        """
        if self.error is None:
            self.following = self._relay.next_for(self)
            if self.following is not None and self.dropped:
                self._relay.put_back(self.following)
                self.following = None
        return self.following

    def tell(self) -> None:
        """Tell how it has ended, on the event loop."""
        value, error = self.value, self.error
        self.value = self.error = None
        self._relay.ended(self, value, error)


class Pool(Protocol):
    """What the relay asks of the open pool."""

    loop: asyncio.AbstractEventLoop
    options: Options
    counters: Counters
    permits: Permits
    waiters: dict[asyncio.Task[Any] | None, float]

    async def acquire_for(self, shot: Shot) -> Lease:
        """Lend a connection for a one-shot, which may have a permit already."""
        ...

    def goes_on(self, record: Record) -> bool:
        """Tell, on any thread, whether a lent connection may serve one more."""
        ...

    def job_ended(self, record: Record) -> None:
        """Look what a job has told about its connection."""

    def orphaned(self, record: Record, token: object, *, cancel: bool) -> None:
        """Note that what runs has lost its caller, and cancel it in the database."""

    def answered(self, record: Record) -> None:
        """Note that such a call has ended."""

    def refuse_if_hopeless(self) -> None:
        """Raise where nobody else may wait."""

    def refusal(self, since: float) -> BaseException | None:
        """Make the error for who waits in vain, too long or for ever; None for who may go on."""
        ...

    def next_look(self, since: float) -> float:
        """Tell when to look again at who waits."""
        ...


class Relay:
    """The line of one-shots that wait for a connection, the first first.

    All permits are out while somebody stands in it, and one that comes back goes to it first;
    nobody joins while a `get()` waits. So first come, first served holds between one-shots and
    leases, and any connection that ends a one-shot may take the next. It does so on its own
    thread; the event loop hears of it with the end of the one before, and passes the lease on.

    Attributes:
        waiting: How many stand in line.
        native: Whether the driver is asyncio's own.
    """

    def __init__(self, pool: Pool, *, enabled: bool) -> None:
        self._pool = pool
        self._enabled = enabled
        self._line: deque[Shot] = deque()  # the connections' threads take from it, too
        self._timer: asyncio.TimerHandle | None = None
        self.loop = pool.loop
        self.native = pool.options.native
        self.waiting = 0

    async def run(self, operation: str, args: tuple[Any, ...], statement: Any) -> Any:
        """Borrow, have one of a session's operations done as a one-shot, and return."""
        shot = Shot(self, operation, args, statement)
        outcome = None
        if self._admits(shot):
            self._join(shot)
            outcome = await self._outcome_of(shot)
        if outcome is None:
            lease = await self._pool.acquire_for(shot)
            if shot.future.done():
                shot.future = self.loop.create_future()
            self.begin(shot, lease)
            outcome = await self._outcome_of(shot)
            assert outcome is not None  # noqa: S101 - only who stands in line is told so
        value, error, settled = outcome
        if settled is not None:
            await settled
        if error is not None:
            try:
                raise error
            finally:
                del error, outcome, shot  # no cycle of exception, traceback and frame
        return value

    async def _outcome_of(self, shot: Shot) -> Outcome | None:
        try:
            return await shot.future
        except asyncio.CancelledError:
            self._forsake(shot)
            raise

    def _forsake(self, shot: Shot) -> None:
        """See to a one-shot whose caller was cancelled."""
        if not shot.future.cancelled():  # it has ended in this very tick
            outcome = shot.future.result()
            if outcome is None:
                self.leave_line(shot)
                self._pool.permits.release()
            else:
                raise_interrupt(outcome.error)
            return
        shot.dropped = True
        if shot.record is None:
            self.leave_line(shot)
            return
        self._pool.counters.cancelled += 1
        if shot.lease is not None:
            self._orphan(shot, shot.lease)
        # Otherwise a connection has taken it along, of which the event loop is about to hear.

    def _orphan(self, shot: Shot, lease: Lease) -> None:
        """Cancel what runs for nobody, and give the connection back, unless another one has it."""
        if shot.started and shot in lease.record.tokens:
            self._pool.orphaned(lease.record, shot, cancel=True)
        if shot.following is None and lease.ended is None:
            lease.give_back(lease.cleanup)

    # The line

    def _admits(self, shot: Shot) -> bool:
        """Tell whether a one-shot may stand in line; otherwise it waits like a `get()`."""
        permits = self._pool.permits
        return self._enabled and permits.locked() and not permits.waiting and shot.passes_on

    def _join(self, shot: Shot) -> None:
        pool = self._pool
        shot.since = pool.waiters[shot.task] = self.loop.time()
        try:
            pool.refuse_if_hopeless()
        except BaseException:
            del pool.waiters[shot.task]
            raise
        shot.waiting = True
        self.waiting += 1
        self._line.append(shot)
        if self._timer is None:
            self._timer = self.loop.call_at(pool.next_look(shot.since), self._look)

    def leave_line(self, shot: Shot) -> None:
        """Count one less, if it has not been done yet."""
        if shot.waiting:
            shot.waiting = False
            self.waiting -= 1
            del self._pool.waiters[shot.task]
            self._pool.counters.wait_seconds += self.loop.time() - shot.since

    def _look(self) -> None:
        """Refuse those who wait in vain; the first in line has waited longest."""
        self._timer = None
        while (shot := self.first()) is not None:
            error = self._pool.refusal(shot.since)
            if error is None:
                self._line.appendleft(shot)
                self._timer = self.loop.call_at(self._pool.next_look(shot.since), self._look)
                return
            self._refuse(shot, error)

    def _refuse(self, shot: Shot, error: BaseException) -> None:
        self.leave_line(shot)
        shot.future.set_result(Outcome(None, error))

    def disband(self, error: Callable[[], BaseException]) -> None:
        """Refuse everybody."""
        while (shot := self.first()) is not None:
            self._refuse(shot, error())
        if self._timer is not None:
            self._timer.cancel()

    def first(self) -> Shot | None:
        """Take the first who still wants a connection out of the line; on any thread."""
        try:
            while (shot := self._line.popleft()).future.done():
                pass
        except IndexError:
            return None
        return shot

    # From one to the next

    def begin(self, shot: Shot, lease: Lease) -> None:
        """Have a one-shot run on a connection that was lent for it."""
        record = lease.record
        self._take_over(shot, lease)
        lease.statement = shot.statement
        shot.take_to(record)
        assert record.worker is not None  # noqa: S101 - it is connected
        record.worker.put(shot)

    def _take_over(self, shot: Shot, lease: Lease) -> None:
        self.leave_line(shot)
        shot.lease = lease
        lease.record.tokens[shot] = None
        lease.record.pending += 1

    def next_for(self, shot: Shot) -> Shot | None:
        """Take the next in line for the connection of one that has ended; on any thread."""
        record = shot.record
        assert record is not None  # noqa: S101 - it has run there
        following = self.first() if shot.passes_on else None
        if following is None:
            return None
        if not self._pool.goes_on(record):  # asked second, so that the answer holds for this one
            self.put_back(following)
            return None
        following.take_to(record)
        return following

    def put_back(self, shot: Shot) -> None:
        """Let a one-shot stand at the head of the line again; on any thread.

        The event loop serves it at the latest when it hears of the one that has ended.
        """
        shot.record = None
        self._line.appendleft(shot)

    def ended(self, shot: Shot, value: Any, error: BaseException | None) -> None:
        """Note the end of a one-shot: its lease goes on to the next one, or ends, too."""
        pool, record, lease, following = self._pool, shot.record, shot.lease, shot.following
        assert record is not None  # noqa: S101 - it has run there
        assert lease is not None  # noqa: S101 - the one before has passed it on
        shot.lease = shot.following = None
        record.tokens.pop(shot, None)
        record.orphans.discard(shot)
        pool.job_ended(record)
        settled = None
        if following is not None:
            self._pass_on(lease, following)
        elif lease.ended is None:
            settled = lease.give_back(lease.cleanup)
        if shot.future.cancelled():
            pool.answered(record)
            raise_interrupt(error)
        else:
            shot.future.set_result(Outcome(value, error, settled))

    def _pass_on(self, lease: Lease, following: Shot) -> None:
        self._take_over(following, lease)
        lease.record.uses += 1
        self._pool.counters.acquired += 1
        if lease.ended is None:
            lease.pass_on(following.task, following.statement)
        if following.dropped or lease.ended is not None:  # before it was known where it runs
            self._orphan(following, lease)
