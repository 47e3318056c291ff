"""The hand of a native connection: its calls in tasks of the pool's own, one after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from functools import partial
from inspect import isawaitable
from types import CoroutineType
from typing import Any

import anyio

from asyncdbpool._workers import Done, Executor, Job
from asyncdbpool.errors import PoolError

__all__ = ["Lane", "on_thread"]

_enclosing: ContextVar[tuple[Job, ...]] = ContextVar("enclosing", default=())
"""The jobs that a task was started from, directly or not."""


class Lane:
    """Runs coroutines of one connection where a `Worker` makes blocking calls.

    Each has a task of its own, in the context of whoever asked for it. Nothing that becomes of
    its caller reaches it, so the driver never meets a cancellation that is not the pool's.
    """

    def __init__(self, executor: Executor, name: str) -> None:
        self._executor = executor
        self._name = name
        self._waiting: deque[tuple[Job, Context]] = deque()
        self._job: Job | None = None  # what runs
        self._task: asyncio.Task[None] | None = None
        self._cut = False  # what runs has been interrupted
        self.last_will: Callable[[], object] | None = None

    @property
    def alive(self) -> bool:
        """True while something runs."""
        return self._task is not None

    def put(self, job: Job) -> None:
        """Queue a job, whose result may be awaitable; it is told when it has ended."""
        context, job.context = job.context, None
        if context is None:  # an empty one is false, too
            context = copy_context()
        self._waiting.append((job, context))
        self._go_on()

    def submit(self, work: Callable[[], Any], done: Done) -> Job:
        """Queue a call, whose result may be awaitable; `done(value, error)` is called then."""
        job = Job(work, done)
        self.put(job)
        return job

    def encloses_caller(self) -> bool:
        """Tell whether what runs has called this, and so must not wait for its own end."""
        return self._job is not None and self._job in _enclosing.get()

    def blocking(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """Have it made on a thread of anyio's."""
        return partial(on_thread, work)

    def interrupt(self) -> bool:
        """Cancel what runs; its caller gets a `PoolError`."""
        if self._task is not None:
            self._cut = True
            self._task.cancel()
        return True

    def dismiss(self) -> None:
        """Leave nothing behind that is open; what is queued still runs, and finds it closed."""
        self._executor.let_go(self)
        will, self.last_will = self.last_will, None
        if will is not None:
            try:
                self._executor.loop.call_soon_threadsafe(will)
            except RuntimeError:  # the loop is closed
                will()

    def _go_on(self) -> None:
        if self._job is None and self._waiting:
            self._job, context = self._waiting.popleft()
            self._cut = False
            # Not by `create_task()`, which may be set up to start it here and now.
            self._task = asyncio.Task(
                self._make(self._job),
                loop=self._executor.loop,
                name=self._name,
                context=context,
            )
            self._task.add_done_callback(self._task_ended)

    async def _make(self, job: Job) -> None:
        _enclosing.set((*_enclosing.get(), job))
        following: Job | None = job
        while following is not None:
            job = following
            await _run(job)
            following = self._end(job)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """End a job whose task was cancelled ahead of its first step, which leaves no trace."""
        if not task.cancelled():
            task.exception()  # an interrupt, which has come out of the loop already
        elif task is self._task and self._job is not None:
            self._job.error = asyncio.CancelledError()
            self._end(self._job)

    def _end(self, job: Job) -> Job | None:
        """Tell how a job has ended; return the one that goes on in its task, if any."""
        if self._cut and isinstance(job.error, asyncio.CancelledError):
            job.error = PoolError(
                f"pool {self._executor.name!r}: the connection was cut off while this ran"
            )
        self._job = following = job.successor()
        if following is None:
            self._task = None
            self._go_on()
        job.tell()
        return following


async def _run(job: Job) -> None:
    """Make the call and keep its outcome."""
    job.started = True
    if job.unwanted:
        return
    try:
        value = job.make()
        if type(value) is CoroutineType or isawaitable(value):
            value = await value
        job.value = value
    except BaseException as error:  # noqa: BLE001 - it is raised again where it is awaited
        job.error = error


async def on_thread(work: Callable[[], Any]) -> Any:
    """Make a blocking call on a thread that is not one of those the application waits for."""
    return await anyio.to_thread.run_sync(work, limiter=anyio.CapacityLimiter(1))
