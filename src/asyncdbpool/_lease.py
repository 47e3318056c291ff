"""One loan of one connection to one borrower: the way from a proxy to its connection."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from asyncdbpool import _stacks
from asyncdbpool._stacks import Stack
from asyncdbpool._workers import Done, Job, raise_interrupt
from asyncdbpool.errors import ConnectionReturned, PoolError, WrongEventLoop
from asyncdbpool.stats import Counters, LeaseInfo

if TYPE_CHECKING:
    from asyncdbpool._cursor import CursorCore
    from asyncdbpool._options import Cleanup
    from asyncdbpool._record import BaseSession, Record

__all__ = ["Lease", "Lender"]


class Lender(Protocol):
    """What a lease asks of the pool that made it."""

    name: str
    loop: asyncio.AbstractEventLoop
    counters: Counters

    def submit(self, record: Record, work: Callable[[], Any], done: Done) -> Job:
        """Hand a call to the connection's worker."""
        ...

    def put(self, record: Record, job: Job) -> None:
        """Hand a job to the connection's worker."""

    def job_ended(self, record: Record) -> None:
        """Look what a job has told about its connection."""

    def give_back(
        self, lease: Lease, cleanup: Cleanup, *, discard: str | None = None
    ) -> asyncio.Future[None] | None:
        """End the lease; the future, if any, ends when the connection is clean or closed."""
        ...

    def orphaned(self, record: Record, token: object, *, cancel: bool) -> None:
        """Note that what runs has lost its caller, and cancel it in the database."""

    def answered(self, record: Record) -> None:
        """Note that such a call has ended."""

    def cancel(self, record: Record) -> asyncio.Future[None]:
        """Cancel in the database whatever runs on a connection."""
        ...

    def reclaim(self, lease: Lease) -> None:
        """End a lease that was dropped; called on any thread."""


class Lease:
    """The borrower's right to use a connection, until it is given back.

    Attributes:
        lender: Who lent it, and gets it back.
        record: The connection.
        session: What happens to it in its turn.
        cleanup: What is done on return, unless the return says otherwise.
        taken_at: Loop time of the loan.
        stack: Where it was taken; None where its user does nothing but wait, so that it is there.
        statement: The last statement, for those who ask who holds what.
        certain: True where the task surely keeps the lease for itself (deadlock detection).
        ended: Why it cannot be used any more, or None; a connection's thread reads it, too.
        reported: True once it has been reported as a leak.
    """

    __slots__ = (
        "__weakref__",
        "_user",
        "certain",
        "cleanup",
        "ended",
        "lender",
        "record",
        "reported",
        "session",
        "stack",
        "statement",
        "taken_at",
    )

    def __init__(
        self,
        lender: Lender,
        record: Record,
        session: BaseSession,
        cleanup: Cleanup,
        *,
        task: asyncio.Task[Any] | None,
        stack: Stack | None,
        certain: bool,
    ) -> None:
        self.lender = lender
        self.record = record
        self.session = session
        self.cleanup: Cleanup = cleanup
        self.certain = certain
        self.taken_at = lender.loop.time()
        self.stack = stack
        self.statement: Any = None
        self.ended: str | None = None
        self.reported = False
        self._user = _nobody if task is None else weakref.ref(task)

    def pass_on(self, task: asyncio.Task[Any] | None, statement: Any) -> None:
        """Let another task have it, for a statement of its own."""
        now = self.lender.loop.time()
        self.lender.counters.use_seconds += now - self.taken_at
        self.taken_at = now
        self.statement = statement
        self.reported = False
        self.stack = None
        self._user = _nobody if task is None else weakref.ref(task)

    @property
    def user(self) -> asyncio.Task[Any] | None:
        """The task that used the connection last, if it still lives."""
        return self._user()

    def forget_user(self) -> None:
        """Note that nobody holds the proxy any more."""
        self._user = _nobody

    def info(self) -> LeaseInfo:
        """Tell who holds the connection."""
        task = self.user
        return LeaseInfo(
            task="?" if task is None else task.get_name(),
            age=self.lender.loop.time() - self.taken_at,
            statement=_text_of(self.statement),
            stack=_stacks.render(_stacks.of_task(task) if self.stack is None else self.stack),
            returning=self.ended is not None,
        )

    def check(self) -> None:
        """Raise unless the connection may be used here and now."""
        if self.ended is not None:
            raise ConnectionReturned(
                f"pool {self.lender.name!r}: this connection {self.ended}; "
                "a proxy, its cursors and its transactions cannot be used after that, "
                "so borrow another connection"
            )

    def use(self) -> None:
        """Check, and note which task does it."""
        self.check_turn()
        task = asyncio.current_task(self.lender.loop)
        if task is not self._user():
            self._user = _nobody if task is None else weakref.ref(task)
        self.certain = True

    def check_turn(self) -> None:
        """Check, also that no function that `run()` calls does it, which would never end."""
        if self.ended is not None or asyncio.get_running_loop() is not self.lender.loop:
            self.check_here()
        worker = self.record.worker
        if worker is not None and worker.encloses_caller():
            raise PoolError(
                f"pool {self.lender.name!r}: a function that `run()` calls has the driver's "
                "connection to itself; use that one, not the pool's proxy of it"
            )

    def check_here(self) -> None:
        """Check, also that this is the right event loop."""
        self.check()
        if asyncio.get_running_loop() is not self.lender.loop:
            raise WrongEventLoop(
                f"pool {self.lender.name!r}: this connection was borrowed on another event loop; "
                "use it on the loop that borrowed it"
            )

    async def call(
        self,
        operation: Callable[..., Any],
        *args: Any,
        core: CursorCore | None = None,
        must_run: bool = False,
        cancel: bool = True,
    ) -> Any:
        """Run `operation(*args)`, one of the session's or a cursor's, in its turn.

        A call that is cancelled before it has started is never run, unless it `must_run`; one that
        runs is cancelled in the database, unless `cancel` is False. `core` is the cursor that
        belongs to the connection's thread meanwhile.

        Raises:
            ConnectionReturned: The connection went back before the operation had started.
            BaseException: Whatever the operation raises.
        """
        self.use()
        call = Call(self, operation, args, core, must_run=must_run, cancel=cancel)
        if core is not None:
            core.pending += 1
        self.record.tokens[call] = None
        self.lender.put(self.record, call)
        future = call.future
        try:
            value, error = await future
        except asyncio.CancelledError:
            if future.cancelled():
                call.dropped = not must_run
                if cancel:
                    self.lender.counters.cancelled += 1
                if call.started and call in self.record.tokens:  # it runs, for nobody
                    self.lender.orphaned(self.record, call, cancel=cancel)
            else:
                raise_interrupt(future.result()[1])
            raise
        if error is not None:
            try:
                raise error
            finally:
                del error, future  # no cycle of exception, traceback and frame
        return value

    def post(self, operation: Callable[..., Any], *args: Any) -> None:
        """Queue `operation(*args)`, to run whatever becomes of the caller."""
        self.lender.submit(
            self.record, partial(self.session.perform, operation, args), _let_interrupt_out
        )

    def give_back(
        self, cleanup: Cleanup, *, discard: str | None = None
    ) -> asyncio.Future[None] | None:
        """End the lease, as `Lender.give_back` says."""
        return self.lender.give_back(self, cleanup, discard=discard)

    async def close(self, error: BaseException | None = None) -> None:
        """End the lease, if it has not ended, and wait until the connection is clean or closed.

        Args:
            error: What ends it, if an error does. A caller who was cancelled does not wait.
        """
        if self.ended is not None:
            return
        if isinstance(error, asyncio.CancelledError):
            self.give_back(self.cleanup)
            return
        self.check_turn()
        settled = self.lender.give_back(self, self.cleanup)
        if settled is not None:
            await settled


class Call(Job):
    """One call of a borrower's on the connection, in its turn.

    Attributes:
        core: The cursor that belongs to the connection's thread meanwhile.
        future: Ends with the value and the error, one of which is None.
    """

    __slots__ = ("_args", "_cancel", "_lease", "_must_run", "_operation", "core", "future")

    def __init__(
        self,
        lease: Lease,
        operation: Callable[..., Any],
        args: tuple[Any, ...],
        core: CursorCore | None,
        *,
        must_run: bool,
        cancel: bool,
    ) -> None:
        super().__init__()
        self._lease = lease
        self._operation = operation
        self._args = args
        self._must_run = must_run
        self._cancel = cancel
        self.core = core
        self.future: asyncio.Future[tuple[Any, BaseException | None]]
        self.future = lease.lender.loop.create_future()

    @property
    def unwanted(self) -> bool:
        """True from the moment on in which its caller is cancelled, unless it must run."""
        return self.dropped or (self.future.cancelled() and not self._must_run)

    def make(self) -> Any:
        """Make the call, unless the lease has ended meanwhile."""
        if not self._must_run:
            self._lease.check()
        token = self if self._cancel else None
        return self._lease.session.perform(self._operation, self._args, token)

    def end(self, value: Any, error: BaseException | None) -> None:
        """Take note of the end, on the event loop; its caller may have gone."""
        lender, record, future = self._lease.lender, self._lease.record, self.future
        del self.future  # a token outlives its call, and must not keep the answer alive
        lender.job_ended(record)
        del record.tokens[self]
        record.orphans.discard(self)
        if self.core is not None:
            self.core.pending -= 1
        if future.done():  # nobody waits for it any more
            lender.answered(record)
            raise_interrupt(error)
        else:
            future.set_result((value, error))

    def give_up(self, error: BaseException) -> None:
        """Have its caller wait for its end no longer, but raise this."""
        if not self.future.done():
            self.future.set_result((None, error))


def _text_of(statement: Any) -> str | None:
    """Render a statement; one of the user's own kind may refuse, and must not end a timer."""
    try:
        return None if statement is None else str(statement)
    except Exception:  # noqa: BLE001 - whatever it is
        return f"<{type(statement).__name__}>"


def _nobody() -> None:
    return None


def _let_interrupt_out(value: Any, error: BaseException | None) -> None:  # noqa: ARG001
    raise_interrupt(error)
