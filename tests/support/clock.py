"""A virtual clock: an event loop whose time jumps ahead whenever nothing else can happen.

A test decorated with `@virtual_time` never sleeps: `await asyncio.sleep(3600)` returns as soon as
no callback is ready and every worker thread of a pool is idle, or stands at a gate of the fake
driver (see `fake.py`). So `await settle()` means "until all that can happen now has happened".
"""

import asyncio
import functools
import heapq
import itertools
import selectors
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, ParamSpec, Self
from unittest import mock

from asyncdbpool import _workers

__all__ = ["Clock", "VirtualLoop", "now", "settle", "sleep", "standing", "virtual_time"]

P = ParamSpec("P")

START = 1000.0
_POLL = 0.0005  # real seconds between two looks at busy threads
_PATIENCE = 10.0  # real seconds after which a test is stuck


class Clock:
    """The time, who sleeps until when, and which worker threads have something to do.

    Attributes:
        now: The virtual time in seconds; only the loop's thread moves it.
        queues: The job queues of all worker threads.
    """

    current: "Clock | None" = None

    def __init__(self) -> None:
        self.now = START
        self.queues: list[Jobs] = []
        self.loop: VirtualLoop | None = None
        self._standing: dict[threading.Thread, Callable[[], bool]] = {}
        self._sleepers: list[tuple[float, int, threading.Event]] = []
        self._numbers = itertools.count()

    @property
    def quiet(self) -> bool:
        """True where no worker thread can do anything before the time moves on."""
        return not any(
            queue.busy and not self._stands(queue.thread) for queue in tuple(self.queues)
        )

    def _stands(self, thread: threading.Thread | None) -> bool:
        still = None if thread is None else self._standing.get(thread)
        return still is not None and still()

    @contextmanager
    def standing(self, still: Callable[[], bool]) -> Iterator[None]:
        thread = threading.current_thread()
        self._standing[thread] = still
        self.nudge()
        try:
            yield
        finally:
            del self._standing[thread]

    def sleep(self, seconds: float) -> None:
        over = threading.Event()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._numbers), over))
        with self.standing(lambda: not over.is_set()):
            over.wait()

    def nudge(self) -> None:
        """Make the loop look again; on any thread."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(lambda: None)

    def jump(self, seconds: float | None) -> bool:
        """Go to the next timer or the next sleeper's end; False where there is neither."""
        until = [] if seconds is None else [self.now + seconds]
        until += [self._sleepers[0][0]] if self._sleepers else []
        if not until:
            return False
        self.now = max(self.now, min(until))
        self.wake(self.now)
        return True

    def wake(self, now: float) -> None:
        """Wake the threads that sleep until now."""
        while self._sleepers and self._sleepers[0][0] <= now:
            heapq.heappop(self._sleepers)[2].set()


class Jobs(SimpleQueue[Any]):
    """A worker's queue that knows whether its thread is busy; it stands in for `SimpleQueue`."""

    def __init__(self, clock: Clock) -> None:
        self.thread: threading.Thread | None = None
        self._given = 0  # changed where jobs are put
        self._done = 0  # changed by the worker's thread
        clock.queues.append(self)

    def __new__(cls, clock: Clock) -> Self:
        return super().__new__(cls)

    @property
    def busy(self) -> bool:
        if self.thread is not None and not self.thread.is_alive():
            return False
        return self._given > self._done

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._given += 1
        super().put(item, block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if self.thread is not None:
            self._done += 1  # the job before this one; the loop has been told of its end
        self.thread = threading.current_thread()
        return super().get(block, timeout)


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own event loop on a virtual clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        super().__init__(VirtualSelector(clock))
        clock.loop = self

    def time(self) -> float:
        return self.clock.now


class VirtualSelector(selectors.DefaultSelector):
    """Waits for the worker threads only, and moves the clock where they are quiet."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        give_up_at = time.monotonic() + _PATIENCE
        while True:
            quiet = self._clock.quiet
            # In this order: a thread tells the loop of its job's end before it becomes quiet.
            events = super().select(0 if quiet else _POLL)
            if events or (quiet and self._clock.jump(timeout)):
                return events
            if quiet and (events := super().select(0.2)):
                return events
            if quiet:
                raise RuntimeError("the test is stuck: nothing is left that could ever happen")
            if time.monotonic() > give_up_at:
                raise RuntimeError("the test is stuck: a worker thread does not come to rest")


def sleep(seconds: float) -> None:
    """Block this thread, in virtual seconds inside of a virtual test and in real ones outside."""
    clock = Clock.current
    if clock is None:
        time.sleep(seconds)
    else:
        clock.sleep(seconds)


@contextmanager
def standing(still: Callable[[], bool]) -> Iterator[None]:
    """Tell the clock that this thread waits for something while `still()` is true."""
    clock = Clock.current
    if clock is None:
        yield
    else:
        with clock.standing(still):
            yield


def now() -> float:
    """Tell the running loop's time."""
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Wait until all that can happen now has happened."""
    await asyncio.sleep(0.001)


@contextmanager
def virtual_clock() -> Iterator[Clock]:
    """Give the virtual clock to everything that happens meanwhile."""
    clock = Clock()
    Clock.current = clock
    try:
        with mock.patch.object(_workers, "SimpleQueue", functools.partial(Jobs, clock)):
            yield clock
    finally:
        Clock.current = None
        clock.wake(float("inf"))


def virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in virtual time; it fails if it leaves a task, a thread or an error."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        errors: list[str] = []

        async def whole() -> None:
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: errors.append(f"{context['message']}: {context!r}")
            )
            await test(*args, **kwargs)
            await settle()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks are left: {left}"

        with (
            virtual_clock() as clock,
            asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner,
        ):
            runner.run(whole())
        for queue in clock.queues:
            if queue.thread is not None:
                queue.thread.join(5)
                assert not queue.thread.is_alive(), f"a thread is left: {queue.thread.name}"
        assert not errors, errors

    return run
