"""A virtual clock: an event loop whose time jumps ahead whenever nothing else can happen.

A test decorated with `@virtual_time` never sleeps: `await asyncio.sleep(3600)` returns as soon as
no callback is ready and every worker thread of a pool is idle, or stands at a gate of the fake
driver. So `await settle()` means "until all that can happen now has happened".

Only one thread runs at a time: the event loop's, or a worker's, and workers rest wherever they
would wait. So a test takes the same course whenever it runs; with a seed, a course of its own for
each seed. The idea is FoundationDB's simulation (Zhou et al., "FoundationDB: A Distributed
Unbundled Transactional Key Value Store", SIGMOD 2021).
"""

from __future__ import annotations

import asyncio
import functools
import random
import selectors
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, ParamSpec, Self, TypeVar
from unittest import mock

from asyncdbpool import _gate, _workers

__all__ = [
    "Clock",
    "now",
    "rest",
    "run_virtually",
    "settle",
    "sleep",
    "virtual_runner",
    "virtual_time",
]

P = ParamSpec("P")
T = TypeVar("T")

_START = 1000.0
_PATIENCE = 10.0  # real seconds after which a thread does not come to rest any more
_LAST_STEPS = 0.0001  # real seconds between two looks at a thread that ends


class _Resting:
    """A thread that waits for its turn."""

    def __init__(self, ready: Callable[[], bool], until: float | None) -> None:
        self.thread = threading.current_thread()
        self.ready = ready
        self.until = until
        self.turn = threading.Event()


class Clock:
    """The virtual time, and the workers, one of which at most runs.

    Attributes:
        current: The clock that counts, or None where time is real.
        now: The time in seconds.
        threads: The workers that there have been.
    """

    current: Clock | None = None

    def __init__(self, seed: int | None = None) -> None:
        self.now = _START
        self.threads: list[threading.Thread] = []
        self._random = None if seed is None else random.Random(seed)  # noqa: S311 - no secret
        self._resting: list[_Resting] = []  # in the order in which they came to rest
        self._running: set[object] = set()  # workers; a queue stands for one that has yet to come
        self._leaving: set[object] = set()  # those whose next end of a run may be their last
        self._over = False
        self._changed = threading.Condition()

    # On the workers' threads

    def rest(self, ready: Callable[[], bool], until: float | None = None) -> None:
        """Return when `ready()`, and when it is this thread's turn."""
        resting = _Resting(ready, until)
        with self._changed:
            if self._over:
                return
            self._resting.append(resting)
            self._running.discard(resting.thread)
            self._changed.notify_all()
        resting.turn.wait()

    def expect(self, queue: Jobs) -> None:
        """Wait for the thread that is on its way to a queue with its first job."""
        with self._changed:
            if not queue.served:
                self._running.add(queue)

    def arrive(self, queue: Jobs) -> None:
        """Note that this is the thread."""
        with self._changed:
            queue.served = True
            self._running.discard(queue)
            self._running.add(threading.current_thread())
            self.threads.append(threading.current_thread())

    def leave(self) -> None:
        """Note that this thread is about to end."""
        with self._changed:
            self._leaving.add(threading.current_thread())
            self._changed.notify_all()

    # On the event loop's thread

    def step(self) -> bool:
        """Let one worker run until it rests again; False where none can."""
        self._await_rest()
        ready = [resting for resting in self._resting if resting.ready()]
        if not ready:
            return False
        chosen = ready[0] if self._random is None else self._random.choice(ready)
        with self._changed:
            self._resting.remove(chosen)
            self._running.add(chosen.thread)
        chosen.turn.set()
        self._await_rest()
        return True

    def exhaust(self) -> None:
        """Let the workers run until none can any more, while the event loop stands still."""
        while self.step():
            pass

    def favours_the_loop(self) -> bool:
        """Toss a coin, where there is a seed, whether the workers have to wait."""
        return self._random is not None and self._random.getrandbits(1) == 1

    def jump(self, seconds: float | None) -> bool:
        """Go to the next timer or the next sleeper's end; False where there is neither."""
        ends = [] if seconds is None else [self.now + seconds]
        ends += [resting.until for resting in self._resting if resting.until is not None]
        if ends:
            self.now = max(self.now, min(ends))
        return bool(ends)

    def stop(self) -> None:
        """Leave the workers to themselves."""
        with self._changed:
            self._over = True
            for resting in self._resting:
                resting.turn.set()

    def _await_rest(self) -> None:
        give_up_at = time.monotonic() + _PATIENCE
        with self._changed:
            while self._running:
                about_to_end = self._leaving & self._running
                self._changed.wait(_LAST_STEPS if about_to_end else _PATIENCE)
                self._running -= {who for who in about_to_end if _has_ended(who)}
                if time.monotonic() > give_up_at:
                    raise RuntimeError("the test is stuck: a worker does not come to rest")


def _has_ended(who: object) -> bool:
    return isinstance(who, threading.Thread) and not who.is_alive()


class Jobs(SimpleQueue[Any]):
    """A worker's queue, whose thread rests between two jobs; it stands in for `SimpleQueue`."""

    def __init__(self, clock: Clock) -> None:
        self.served = False
        self._clock = clock

    def __new__(cls, clock: Clock) -> Self:  # noqa: ARG004 - SimpleQueue's takes nothing
        return super().__new__(cls)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add a job."""
        self._clock.expect(self)
        super().put(item, block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the next job, when it is this thread's turn."""
        if not self.served:
            self._clock.arrive(self)
        self._clock.rest(lambda: not self.empty())
        job = super().get(block, timeout)
        if job is None:
            self._clock.leave()
        return job


class Condition(threading.Condition):
    """A condition on which a worker rests; it stands in for threading's."""

    def __init__(self, clock: Clock, lock: threading.Lock) -> None:
        super().__init__(lock)
        self._clock = clock

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until the predicate is true."""
        if not predicate():
            self.release()
            try:
                self._clock.rest(lambda: bool(predicate()))
            finally:
                self.acquire()
        return super().wait_for(predicate, timeout)


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own event loop on a virtual clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__(VirtualSelector(clock))

    def time(self) -> float:
        """Return the virtual time."""
        return self._clock.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for its threads without a limit: they live in real time."""
        await super().shutdown_default_executor()


class VirtualSelector(selectors.DefaultSelector):
    """Lets the workers run where the loop would wait, and moves the clock where none can."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what has come in; with nothing else to do, the time moves on."""
        clock = self._clock
        in_haste = timeout is not None and timeout <= 0  # callbacks are ready
        while True:
            stepped = not (in_haste and clock.favours_the_loop()) and clock.step()
            events = super().select(0)
            if events or in_haste:
                return events
            if stepped:
                continue
            if clock.jump(timeout):
                return []
            if events := super().select(0.2):  # a thread of somebody else's
                return events
            raise RuntimeError("the test is stuck: nothing is left that could ever happen")


def rest(ready: Callable[[], bool]) -> None:
    """In virtual time, let others run until `ready()`; for a blocking call of a fake driver."""
    if Clock.current is not None:
        Clock.current.rest(ready)


def sleep(seconds: float) -> None:
    """Block this thread, in virtual seconds inside of a virtual test and in real ones outside."""
    clock = Clock.current
    if clock is None:
        time.sleep(seconds)
    else:
        until = clock.now + seconds
        clock.rest(lambda: clock.now >= until, until)


def now() -> float:
    """Tell the running loop's time in seconds."""
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Wait until all that can happen now has happened."""
    await asyncio.sleep(0.001)


@contextmanager
def _virtual_clock(seed: int | None) -> Iterator[Clock]:
    """Give a virtual clock to everything that happens meanwhile."""
    clock = Clock(seed)
    queues = mock.patch.object(_workers, "SimpleQueue", functools.partial(Jobs, clock))
    conditions = mock.patch.object(_gate, "Condition", functools.partial(Condition, clock))
    Clock.current = clock
    try:
        with queues, conditions:
            yield clock
    finally:
        Clock.current = None
        clock.stop()


@contextmanager
def virtual_runner(seed: int | None = None) -> Iterator[asyncio.Runner]:
    """Give a runner in virtual time, for a test of many steps, each of which is a `run()`.

    Args:
        seed: As for `run_virtually()`.

    Yields:
        The runner, which lasts as long as the block.

    Raises:
        AssertionError: When the block ends, a task, a worker thread or an unhandled error is left.
    """
    errors: list[str] = []
    with (
        _virtual_clock(seed) as clock,
        asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner,
    ):
        runner.get_loop().set_exception_handler(
            lambda _, context: errors.append(f"{context['message']}: {context!r}")
        )
        yield runner
        runner.run(_leave_no_task())
    for thread in clock.threads:
        thread.join(_PATIENCE)
        if thread.is_alive():
            raise AssertionError(f"a thread is left: {thread.name}")
    if errors:
        raise AssertionError(f"errors that nobody has handled: {errors}")


async def _leave_no_task() -> None:
    await settle()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        raise AssertionError(f"tasks are left: {left}")


def run_virtually(main: Callable[[], Coroutine[Any, Any, T]], *, seed: int | None = None) -> T:
    """Run a coroutine function in virtual time; whatever it leaves behind is an error.

    Args:
        main: The coroutine function.
        seed: Decides, by chance but the same for the same seed, in which order the threads and
            the event loop have their turns; None: the threads one after the other, in the order in
            which they came to rest.

    Returns:
        What it returns.

    Raises:
        AssertionError: A task, a worker thread or an unhandled error is left.
        RuntimeError: It waits for something that can never happen.
    """
    with virtual_runner(seed) as runner:
        return runner.run(main())


def virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make of a coroutine function a plain one, which runs it as `run_virtually()` does."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_virtually(functools.partial(test, *args, **kwargs))

    return run
