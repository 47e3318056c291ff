"""The bounded executor: one hand for each connection; threads, answers delivered in batches."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Protocol

import anyio

__all__ = ["Done", "Executor", "Hand", "Job", "Worker", "raise_interrupt"]

Done = Callable[[Any, BaseException | None], None]


def _told(value: Any, error: BaseException | None) -> None:
    """Stand for whoever has been told."""


class Job:
    """One call to make for a connection, and whom to tell of its end."""

    __slots__ = ("_done", "_work", "context", "dropped", "error", "started", "value")

    def __init__(self, work: Callable[[], Any] | None = None, done: Done = _told) -> None:
        self._work = work
        self._done = done
        self.context: Context | None = None  # what a lane makes it in, if not its caller's
        self.dropped = False  # set by the loop: nobody wants it any more
        self.started = False  # set by the worker
        self.value: Any = None  # set by the worker, read by the loop once it is told
        self.error: BaseException | None = None

    @property
    def unwanted(self) -> bool:
        """True where it is for nobody; a caller who is cancelled need not know of it yet."""
        return self.dropped

    def successor(self) -> Job | None:
        """Tell, where it ends, what the same hand is to do next of all."""
        return None

    def run(self) -> None:
        """Make the call and keep its outcome, with nothing of the driver's left in the frames."""
        self.started = True
        if self.unwanted:
            self._work = None
            return
        try:
            self.value = self.make()
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is awaited
            self.error = error
            _forget_locals(error)

    def make(self) -> Any:
        """Make the call; for a native driver, return what is to be awaited."""
        work, self._work = self._work, None
        assert work is not None  # noqa: S101 - it is made once
        return work()

    def tell(self) -> None:
        """Tell how it ended, on the loop, and forget it: no cycle of error and frame stays."""
        value, error = self.value, self.error
        self.value = self.error = None
        self.end(value, error)

    def end(self, value: Any, error: BaseException | None) -> None:
        """Take note of the end."""
        done, self._done = self._done, _told
        done(value, error)


class Hand(Protocol):
    """Who makes the calls of one connection, one after the other, in their order."""

    last_will: Callable[[], object] | None
    """Closes the connection, should nobody be left to ask for it."""

    def __init__(self, executor: Executor, name: str) -> None: ...

    @property
    def alive(self) -> bool:
        """True while there is something that is not at its end."""
        ...

    def put(self, job: Job) -> None:
        """Queue a job, which is told on the event loop when it has ended."""

    def submit(self, work: Callable[[], Any], done: Done) -> Job:
        """Queue a call; `done(value, error)` runs on the event loop afterwards."""
        ...

    def encloses_caller(self) -> bool:
        """Tell whether one of its own calls is asking, directly or not."""
        ...

    def blocking(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """Make of a call that may block one that can be submitted."""
        ...

    def interrupt(self) -> bool:
        """End what runs, where that can be done from outside; tell whether it can."""
        ...

    def dismiss(self) -> None:
        """Let go once everything queued so far is done."""


class Worker:
    """A thread that makes the calls of one blocking connection.

    PEP 249 modules of `threadsafety` 0 and 1 are safe with it, and sqlite3 needs it.

    Attributes:
        brake: Cuts the connection off, from another thread, and tells whether it can; None as
            long as there is no connection.
    """

    def __init__(self, executor: Executor, name: str) -> None:
        self._executor = executor
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.last_will: Callable[[], object] | None = None
        self.brake: Callable[[], bool] | None = None
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True until the thread has ended."""
        return self._thread.is_alive()

    def put(self, job: Job) -> None:
        """Queue a job, which is told on the event loop when it has ended."""
        self._jobs.put(job)

    def submit(self, work: Callable[[], Any], done: Done) -> Job:
        """Queue a call; `done(value, error)` runs on the event loop afterwards."""
        job = Job(work, done)
        self.put(job)
        return job

    def encloses_caller(self) -> bool:
        """Say no: its calls run on the thread, and no task does."""
        return False

    def blocking(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """Return it as it is: blocking is what a thread is for."""
        return work

    def interrupt(self) -> bool:
        """Cut the connection off: a thread itself cannot be stopped."""
        return self.brake is not None and self.brake()

    def dismiss(self) -> None:
        """Let the thread end once everything queued so far is done."""
        self._executor.let_go(self)
        self._jobs.put(None)

    def _live(self) -> None:
        following: Job | None = None
        while (job := following or self._jobs.get()) is not None:
            job.run()
            following = job.successor()
            delivered = self._executor.deliver(job)
            del job  # an idle thread holds nothing of the last call
            if not delivered:
                break
        if self.last_will is not None:
            with suppress(Exception):  # nobody is left to be told
                self.last_will()


class Executor:
    """The hands of one open pool, a thread for each blocking connection; never more than `limit`.

    Attributes:
        loop: The event loop that is told of the ends of their calls.
        name: The pool's name.
        limit: Hands at most; the pool moves it when it is resized.
        workers: Those that serve a connection.
        leaving: Those that were dismissed, until they are seen to have ended.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: int,
        name: str,
        hand: Callable[[Executor, str], Hand] = Worker,
    ) -> None:
        self.loop = loop
        self.name = name
        self.limit = limit
        self._hand = hand
        self._hired = 0
        self.workers: set[Hand] = set()
        self.leaving: set[Hand] = set()
        self._side: Hand | None = None
        self._stuck: list[Hand] = []  # former ones, whose call has not come back
        self._finished: deque[Job] = deque()  # appended to by workers, emptied by the loop
        self._woken = False  # set by workers, cleared by the loop

    def hire(self) -> Hand:
        """Take on one more connection."""
        if len(self.workers) >= self.limit:
            raise RuntimeError(f"{self.name}: all {self.limit} workers are taken")
        self.leaving = {worker for worker in self.leaving if worker.alive}
        self._hired += 1
        worker = self._hand(self, f"{self.name}-{self._hired}")
        self.workers.add(worker)
        return worker

    def let_go(self, worker: Hand) -> None:
        """Note that a worker was dismissed."""
        self.workers.discard(worker)
        self.leaving.add(worker)

    def aside(self, work: Callable[[], Any], done: Done) -> None:
        """Make a call beside the connections, one after the other."""
        if self._side is None:
            try:
                self._side = self._hand(self, f"{self.name}-aside")
            except RuntimeError as error:  # no thread is to be had just now
                self.loop.call_soon(done, None, error)
                return
        self._side.submit(work, done)

    def leave_side(self) -> None:
        """Leave the call that is made aside to itself; the next one is made by another hand."""
        assert self._side is not None  # noqa: S101 - it has a call to make
        self._side.interrupt()
        self._stuck.append(self._side)
        self.dismiss_side()

    @property
    def stuck(self) -> int:
        """How many of those that were left have not ended."""
        self._stuck = [hand for hand in self._stuck if hand.alive]
        return len(self._stuck)

    def dismiss_side(self) -> None:
        """Let the hand for calls aside go."""
        if self._side is not None:
            self._side.dismiss()
            self._side = None

    async def wind_up(self, patience: float = 1.0) -> int:
        """Wait until the dismissed have ended; count those stuck in their driver."""
        self.dismiss_side()
        deadline = self.loop.time() + patience
        while (  # noqa: ASYNC110 - a thread's end cannot be awaited
            any(worker.alive for worker in self.leaving) and self.loop.time() < deadline
        ):
            await anyio.sleep(0.001)
        self.leaving = {worker for worker in self.leaving if worker.alive}
        return len(self.leaving)

    def deliver(self, job: Job) -> bool:
        """Tell the loop of a finished job, from a worker; False where the loop is closed.

        One wake-up serves all jobs that end before the loop gets to it. The order (append, then
        look; clear, then empty) makes sure that none is left behind.
        """
        self._finished.append(job)
        if not self._woken:
            self._woken = True
            try:
                self.loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                self._woken = False
                return False
        return not self.loop.is_closed()

    def _drain(self) -> None:
        self._woken = False
        while self._finished:
            job = self._finished.popleft()
            try:
                job.tell()
            except BaseException:
                if self._finished and not self._woken:  # the others must not suffer
                    self._woken = True
                    self.loop.call_soon(self._drain)
                raise


def raise_interrupt(error: BaseException | None) -> None:
    """Let `KeyboardInterrupt` and `SystemExit` out of the loop where no caller waits for them."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        raise error


def _forget_locals(error: BaseException) -> None:
    """Clear the frames of an exception that is about to leave its thread.

    A driver's cursor in a frame's locals would otherwise die on the event loop's thread, where
    sqlite3 waits for the running statement while it holds the GIL.
    """
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            _clear_frames(link.__traceback__)
            chain += [link.__cause__, link.__context__]
            if isinstance(link, BaseExceptionGroup):
                chain += link.exceptions
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    error.__traceback__ = trace  # without this module's own frames


_SUSPENDABLE = CO_ASYNC_GENERATOR | CO_COROUTINE | CO_GENERATOR


def _clear_frames(trace: TracebackType | None) -> None:
    """Clear the frames of plain functions; to clear a suspended coroutine's would close it."""
    while trace is not None:
        if not trace.tb_frame.f_code.co_flags & _SUSPENDABLE:
            with suppress(RuntimeError):  # it still runs
                trace.tb_frame.clear()
        trace = trace.tb_next
