"""The line of all who wait for a permit, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from asyncdbpool._record import Record
from asyncdbpool.errors import PoolDeadlock

__all__ = ["Line", "Turn", "Waiter"]

_FEW = 16  # who have left and may be in the queue all the same


class Waiter(Protocol):
    """Who stands in line, and ends its future with what it is served with.

    Attributes:
        future: Ends with the connection that comes for it, or with an error.
        permit: True once it has one; it waits for a connection then, if it still does.
        timeout: Seconds that it waits at most; None waits without end.
        since: Loop time at which it joined.
        waiting: True while it is counted.
    """

    future: asyncio.Future[Any]
    permit: bool
    timeout: float | None
    since: float
    waiting: bool


class Turn:
    """A `get()` in line."""

    __slots__ = ("future", "permit", "since", "timeout", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float | None) -> None:
        self.future: asyncio.Future[Record | BaseException] = loop.create_future()
        self.permit = False
        self.timeout = timeout
        self.since = 0.0
        self.waiting = False


class Judge(Protocol):
    """Who says how long somebody may wait."""

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
        disturbed: True where a thread has put somebody back, who was not to be seen meanwhile.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, judge: Judge, timeout: float | None
    ) -> None:
        self._loop = loop
        self._judge = judge
        self._timeout = timeout  # most have this one; they come to it in their order
        self._queue: deque[Waiter] = deque()
        self._dead = 0  # who have left, and may still be in the queue
        self._timer: asyncio.Handle | None = None
        self._timers: dict[Waiter, asyncio.TimerHandle] = {}  # of those with another timeout
        self.waiting = 0
        self.disturbed = False

    def join(self, waiter: Waiter) -> None:
        """Stand behind everybody else."""
        waiter.waiting = True
        self.waiting += 1
        self._queue.append(waiter)
        if waiter.timeout != self._timeout:
            self.watch(waiter)
        elif self._timer is None:
            self._look_later(waiter)

    def leave(self, waiter: Waiter, *, permit: bool = False) -> None:
        """Be counted no more, and be refused no more; with a permit, or because one has gone."""
        waiter.permit = waiter.permit or permit
        if waiter in self._timers:
            self._timers.pop(waiter).cancel()
        if waiter.waiting:
            waiter.waiting = False
            self.waiting -= 1
            if not waiter.permit:
                self._dead += 1
                if self._dead > self.waiting + _FEW:
                    self._bury()

    def _bury(self) -> None:
        """Take those out of the queue who have left."""
        self._dead = 0
        alive: list[Waiter] = []
        while (waiter := self.first()) is not None:
            alive.append(waiter)
        self._queue.extend(alive)

    # On any thread

    def __bool__(self) -> bool:
        """Tell whether somebody may stand here, who may have left as well."""
        return bool(self._queue)

    def peek(self) -> Waiter | None:
        """Look at the head of the line; it may be somebody who has just left."""
        try:
            return self._queue[0]
        except IndexError:
            return None

    def first(self) -> Waiter | None:
        """Take the first who still waits out of the line."""
        while self._queue:
            try:
                waiter = self._queue.popleft()
            except IndexError:  # somebody else was faster
                break
            if not waiter.future.done():
                return waiter
        return None

    def put_back(self, waiter: Waiter) -> None:
        """Let the one that was first be it again."""
        self._queue.appendleft(waiter)
        self.disturbed = True

    # Those who wait too long

    def watch(self, waiter: Waiter) -> None:
        """Give somebody a timer of his own."""
        due = self._judge.next_look(waiter.since, waiter.timeout)
        self._timers[waiter] = self._loop.call_at(due, self._look_at, waiter)

    def _look_at(self, waiter: Waiter) -> None:
        if not waiter.future.done() and self._refuse(waiter) is None:
            self.watch(waiter)

    def rearm(self) -> None:
        """See to it that somebody looks."""
        waiter = self.peek()
        if self._timer is None and waiter is not None:
            self._look_later(waiter)

    def _look_later(self, waiter: Waiter) -> None:
        due = self._judge.next_look(waiter.since, self._timeout)
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        """Refuse those who have waited too long, from the first to one who has not."""
        self._timer = None
        seen: list[Waiter] = []
        while (waiter := self.first()) is not None:
            seen.append(waiter)
            if waiter.timeout != self._timeout:
                continue
            error = self._refuse(waiter)
            if error is None:
                self._look_later(waiter)
                break
            if isinstance(error, PoolDeadlock):  # which may be over with this
                self._timer = self._loop.call_soon(self._look)
                break
        self._queue.extendleft(waiter for waiter in reversed(seen) if not waiter.future.done())

    def _refuse(self, waiter: Waiter) -> BaseException | None:
        error = self._judge.refusal(waiter.since, waiter.timeout)
        if error is not None:
            waiter.future.set_result(error)
        return error

    def disband(self, error: Callable[[], BaseException]) -> None:
        """Refuse everybody."""
        while (waiter := self.first()) is not None:
            waiter.future.set_result(error())
        if self._timer is not None:
            self._timer.cancel()
