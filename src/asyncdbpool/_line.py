"""The line of all who wait for a permit, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from asyncdbpool._record import Record

__all__ = ["Line", "Turn", "Waiter"]


class Waiter(Protocol):
    """Who stands in line, and ends its future with what it is served with.

    Attributes:
        future: Ends with a connection; or with None, where there is a permit but none at hand.
        timeout: Seconds that it waits at most; None waits without end.
        since: Loop time at which it joined.
        waiting: True while it is counted.
    """

    future: asyncio.Future[Any]
    timeout: float | None
    since: float
    waiting: bool

    def refuse(self, error: BaseException) -> None:
        """End the wait with an error."""


class Turn:
    """A `get()` in line."""

    __slots__ = ("future", "since", "timeout", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float | None) -> None:
        self.future: asyncio.Future[Record | BaseException | None] = loop.create_future()
        self.timeout = timeout
        self.since = 0.0
        self.waiting = False

    def refuse(self, error: BaseException) -> None:
        """End the wait with an error."""
        self.future.set_result(error)


class Judge(Protocol):
    """What the line asks of the open pool."""

    loop: asyncio.AbstractEventLoop

    def refusal(self, since: float, timeout: float | None) -> BaseException | None:
        """Make the error for who waits in vain, too long or for ever; None for who may go on."""
        ...

    def next_look(self, since: float, timeout: float | None) -> float:
        """Tell when to look again at who waits."""
        ...


class Line:
    """Those who wait for a permit: all are out while somebody stands here.

    The event loop serves the first with whatever permit comes back. The threads of connections may
    take from the head, too, and put back there what they cannot serve; whoever has taken somebody
    out, and nobody else, decides about him.

    Attributes:
        waiting: How many there are.
    """

    def __init__(self, judge: Judge, timeout: float | None) -> None:
        self._judge = judge
        self._timeout = timeout  # most have this one; they come to it in their order
        self._queue: deque[Waiter] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timers: dict[Waiter, asyncio.TimerHandle] = {}  # of those with another timeout
        self.waiting = 0

    def join(self, waiter: Waiter) -> None:
        """Stand behind everybody else."""
        waiter.since = self._judge.loop.time()
        waiter.waiting = True
        self.waiting += 1
        self._queue.append(waiter)
        if waiter.timeout != self._timeout:
            self._look_later_at(waiter)
        elif self._timer is None:
            self._look_later(waiter)

    def leave(self, waiter: Waiter) -> None:
        """Be counted no more, if one still is."""
        if waiter.waiting:
            waiter.waiting = False
            self.waiting -= 1
            if waiter in self._timers:
                self._timers.pop(waiter).cancel()

    def first(self) -> Waiter | None:
        """Take the first who still waits out of the line; on any thread."""
        while self._queue:
            try:
                waiter = self._queue.popleft()
            except IndexError:  # somebody else was faster
                break
            if not waiter.future.done():
                return waiter
        return None

    def put_back(self, waiter: Waiter) -> None:
        """Let the one that was first be it again; on any thread."""
        self._queue.appendleft(waiter)

    def disband(self, error: Callable[[], BaseException]) -> None:
        """Refuse everybody."""
        while (waiter := self.first()) is not None:
            waiter.refuse(error())
        if self._timer is not None:
            self._timer.cancel()

    # Those who wait too long

    def _look_later(self, waiter: Waiter) -> None:
        due = self._judge.next_look(waiter.since, waiter.timeout)
        self._timer = self._judge.loop.call_at(due, self._look)

    def _look(self) -> None:
        """Refuse those who have waited too long, from the first to one who has not."""
        self._timer = None
        seen: list[Waiter] = []
        while (waiter := self.first()) is not None:
            seen.append(waiter)
            if waiter.timeout == self._timeout and not self._refuses(waiter):
                self._look_later(waiter)
                break
        for waiter in reversed(seen):
            self.put_back(waiter)

    def _look_later_at(self, waiter: Waiter) -> None:
        due = self._judge.next_look(waiter.since, waiter.timeout)
        self._timers[waiter] = self._judge.loop.call_at(due, self._look_at, waiter)

    def _look_at(self, waiter: Waiter) -> None:
        """Refuse one with a timeout of its own, if it is over."""
        if not waiter.future.done() and not self._refuses(waiter):
            self._look_later_at(waiter)

    def _refuses(self, waiter: Waiter) -> bool:
        error = self._judge.refusal(waiter.since, waiter.timeout)
        if error is not None:
            waiter.refuse(error)
        return error is not None
