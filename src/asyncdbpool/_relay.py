"""One-shots: a connection that has ended one takes the next in line, without the event loop."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol

from asyncdbpool._workers import Job, raise_interrupt

if TYPE_CHECKING:
    from asyncdbpool._lease import Lease
    from asyncdbpool._line import Line, Waiter
    from asyncdbpool._options import Options
    from asyncdbpool._record import Record
    from asyncdbpool.stats import Counters

__all__ = ["Relay", "Shot"]

Outcome = tuple[Any, BaseException | None, asyncio.Future[None] | None]
"""What a one-shot gives, or what it raises; and what ends when its connection is clean or closed,
None where it is already."""


class Shot(Job):
    """One one-shot, from its call to its end.

    Attributes:
        task: Whose call it is.
        statement: What it is about, for those who ask who holds what.
        passes_on: True where its connection may go on to another one.
        future: Ends with the outcome; or with a connection that it is to run on, or an error of
            the wait for one.
        permit: True once there is one for it.
        timeout: Seconds that it waits at most; None waits without end.
        since: Loop time from which it waits, or 0.0.
        waiting: True while it stands in line, as far as the event loop knows.
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
        "permit",
        "record",
        "since",
        "statement",
        "task",
        "timeout",
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
        self.task = asyncio.current_task(relay.loop)
        self.future: asyncio.Future[Outcome | Record | BaseException]
        self.future = relay.loop.create_future()
        if relay.native:
            self.context = copy_context()
        self.timeout = relay.timeout
        self.permit = False
        self.since = 0.0
        self.waiting = False
        self.record: Record | None = None
        self.lease: Lease | None = None
        self.following: Shot | None = None

    @property
    def unwanted(self) -> bool:
        """True from the moment on in which its caller is cancelled."""
        return self.dropped or self.future.cancelled()

    def make(self) -> Any:
        """Make the call."""
        assert self.record is not None  # noqa: S101 - it has been settled
        session = self.record.session
        assert session is not None  # noqa: S101 - it is connected
        return session.perform(session.once, (self._operation, *self._args), self)

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

    def end(self, value: Any, error: BaseException | None) -> None:
        """Take note of the end, on the event loop."""
        self._relay.ended(self, value, error)

    def give_up(self, error: BaseException) -> None:
        """Have its caller wait for its end no longer, but raise this."""
        if not self.future.done():
            self.future.set_result((None, error, None))


class Pool(Protocol):
    """What the relay asks of the open pool."""

    loop: asyncio.AbstractEventLoop
    options: Options
    counters: Counters
    line: Line

    def enter(self, shot: Shot) -> None:
        """Begin a one-shot at once, or let it wait."""

    def accept(self, waiter: Waiter, served: Record | BaseException) -> Record:
        """Take what somebody has been served with: a connection, or an error to raise."""
        ...

    def withdraw(self, waiter: Waiter) -> None:
        """Take back whatever somebody has got who has gone."""

    def leave(self, waiter: Waiter, task: asyncio.Task[Any] | None) -> None:
        """Note that somebody waits no more."""

    def look_after_line(self) -> None:
        """Serve those whom a permit has missed, since a thread had them in its hand."""

    def lend_for(self, shot: Shot, record: Record) -> Lease:
        """Lend a connection to a one-shot."""
        ...

    def goes_on(self, record: Record) -> bool:
        """Tell, on any thread, whether a lent connection may serve one more."""
        ...

    def put(self, record: Record, job: Job) -> None:
        """Hand a job to a connection's worker, which tells of its end by `job_ended()`."""

    def job_ended(self, record: Record) -> None:
        """Look what a job has told about its connection."""

    def orphaned(self, record: Record, token: object, *, cancel: bool) -> None:
        """Note that what runs has lost its caller, and cancel it in the database."""

    def answered(self, record: Record) -> None:
        """Note that such a call has ended."""


class Relay:
    """Runs the one-shots of an open pool.

    One that finds no permit stands in line, and the connection that ends a one-shot takes the next
    one from there, if it is the first. It does so on its own thread; the event loop hears of it
    with the end of the one before, and passes the lease on.

    Attributes:
        loop: The pool's event loop.
        native: Whether the driver is asyncio's own.
        timeout: Seconds that a one-shot waits at most; None waits without end.
    """

    def __init__(self, pool: Pool, *, enabled: bool) -> None:
        self._pool = pool
        self._enabled = enabled
        self.loop = pool.loop
        self.native = pool.options.native
        self.timeout = pool.options.timeout

    async def run(self, operation: str, args: tuple[Any, ...], statement: Any) -> Any:
        """Borrow, have one of a session's operations done as a one-shot, and return."""
        shot = Shot(self, operation, args, statement)
        self._pool.enter(shot)
        outcome = await self._outcome_of(shot)
        if not isinstance(outcome, tuple):  # it comes to its connection only now, or never
            self._stop_waiting(shot)
            try:
                record = self._pool.accept(shot, outcome)
            except BaseException:
                del outcome, shot  # no cycle of exception, traceback and frame
                raise
            shot.future = self.loop.create_future()
            self.begin(shot, self._pool.lend_for(shot, record))
            outcome = await self._outcome_of(shot)
            assert isinstance(outcome, tuple)  # noqa: S101 - it has had a connection
        value, error, settled = outcome
        if settled is not None:
            try:
                await settled
            except BaseException:
                raise_interrupt(error)  # which counts more than a cancellation
                raise
        if error is not None:
            try:
                raise error
            finally:
                del error, outcome, shot  # no cycle of exception, traceback and frame
        return value

    async def _outcome_of(self, shot: Shot) -> Outcome | Record | BaseException:
        future = shot.future
        try:
            return await future
        except BaseException:
            self._forsake(shot, future)
            raise

    def _stop_waiting(self, shot: Shot) -> None:
        if shot.since:
            self._pool.leave(shot, shot.task)
            shot.since = 0.0

    def _forsake(self, shot: Shot, future: asyncio.Future[Any]) -> None:
        """See to a one-shot whose caller has gone."""
        shot.dropped = True
        self._stop_waiting(shot)
        if shot.record is None:
            self._pool.withdraw(shot)
            return
        if self.loop.is_closed():
            return
        future.cancel()
        if not future.cancelled():  # it has ended in this very tick
            raise_interrupt(future.result()[1])
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

    # From one to the next

    def begin(self, shot: Shot, lease: Lease) -> None:
        """Have a one-shot run on a connection that was lent for it."""
        record = lease.record
        self._take_over(shot, lease)
        lease.statement = shot.statement
        shot.record = record
        self._pool.put(record, shot)

    def _take_over(self, shot: Shot, lease: Lease) -> None:
        shot.permit = True
        self._stop_waiting(shot)
        shot.lease = lease
        lease.record.tokens[shot] = None

    def next_for(self, shot: Shot) -> Shot | None:
        """Take the next in line for the connection of one that has ended; on any thread.

        Asked again with him in hand, the connection's answer holds for him, too, and not only for
        those who came before him; on the event loop nothing comes in between.
        """
        pool, record = self._pool, shot.record
        assert record is not None  # noqa: S101 - it has run there
        if not (self._enabled and shot.passes_on and _follows(pool.line.peek())):
            return None
        following = pool.line.first() if pool.goes_on(record) else None
        if following is None:
            return None
        surely = self.native or pool.goes_on(record)
        if surely and isinstance(following, Shot) and following.passes_on:
            following.record = record
            return following
        pool.line.put_back(following)
        return None

    def put_back(self, shot: Shot) -> None:
        """Let one that was taken stand at the head of the line again; on any thread."""
        shot.record = None
        self._pool.line.put_back(shot)

    def ended(self, shot: Shot, value: Any, error: BaseException | None) -> None:
        """Note the end of a one-shot: its lease goes on to the next one, or ends, too."""
        pool, record, lease, following = self._pool, shot.record, shot.lease, shot.following
        assert record is not None  # noqa: S101 - it has run there
        assert lease is not None  # noqa: S101 - the one before has passed it on
        future = shot.future
        del shot.future  # a token outlives its call, and must not keep the answer alive
        shot.lease = shot.following = shot.task = None
        del record.tokens[shot]
        record.orphans.discard(shot)
        pool.job_ended(record)
        settled = None
        if following is not None:
            self._pass_on(lease, following)
        elif lease.ended is None:
            settled = lease.give_back(lease.cleanup)
        pool.look_after_line()
        if future.done():  # nobody waits for it any more
            pool.answered(record)
            raise_interrupt(error)
        else:
            future.set_result((value, error, settled))

    def _pass_on(self, lease: Lease, following: Shot) -> None:
        self._take_over(following, lease)
        lease.record.pending += 1
        lease.record.uses += 1
        self._pool.counters.acquired += 1
        if lease.ended is None:
            lease.pass_on(following.task, following.statement)
        if following.dropped or lease.ended is not None:  # before it was known where it runs
            self._orphan(following, lease)


def _follows(waiter: Waiter | None) -> bool:
    """Tell whether somebody in line is a one-shot that a connection may take along."""
    return isinstance(waiter, Shot) and waiter.passes_on
