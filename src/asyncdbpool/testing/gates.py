"""Gates: the steps of a fake driver at which calls pass, fail, take time, or hang."""

from __future__ import annotations

import asyncio
import inspect
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from asyncdbpool.testing import clock
from asyncdbpool.testing.errors import Lost

__all__ = ["NEVER", "Act", "Gate", "Line", "Never"]


class Never:
    """The type of `NEVER`."""

    def __repr__(self) -> str:
        return "NEVER"


NEVER: Final = Never()
"""Stands for a call that does not come back until somebody lets it."""

Act = None | float | BaseException | Never | Callable[[], Any]
"""What a gate does to a call: nothing, delay it by seconds, fail it, hold it, or call something.

What is called may return another act, to be done then; with a native driver it may be a coroutine
function.
"""


class Line:
    """A connection's socket, and the server's end of it."""

    def __init__(self) -> None:
        self.near, self._far = socket.socketpair()

    def answer(self) -> None:
        """Send the client something, from the server's end."""
        with suppress(OSError):  # it is closed
            self._far.send(b"!")

    def has_answer(self) -> bool:
        """Tell whether the client could read something, or the end."""
        poll = select.poll()
        poll.register(self.near, select.POLLIN)
        return bool(poll.poll(0))

    def is_cut(self) -> bool:
        """Tell whether it has been shut down."""
        return self.has_answer() and not self.near.recv(1, socket.MSG_PEEK)

    def read(self) -> None:
        """Block until there is something to read."""
        clock.rest(self.has_answer)
        if not self.near.recv(1):
            raise Lost("server closed the connection unexpectedly")

    def close(self) -> None:
        """Close both ends."""
        self.near.close()
        self._far.close()


class _Held:
    """A call that stands at a gate; with a line, it also ends when the socket is shut down."""

    def __init__(self, caller: object, line: Line | None) -> None:
        self.caller = caller
        self._line = line
        self._released = threading.Event()
        self._awaited: asyncio.Event | None = None

    def release(self) -> None:
        self._released.set()
        if self._awaited is not None:
            self._awaited.set()
        elif self._line is not None:
            self._line.answer()

    def wait(self) -> None:
        if self._line is None:
            clock.rest(self._released.is_set)
            self._released.wait()
        else:
            self._line.read()

    async def released(self) -> None:
        self._awaited = asyncio.Event()
        await self._awaited.wait()


class Gate:
    """One step of a driver, such as `execute`; calls come to it on any thread.

    Attributes:
        calls: How many have come.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._lock = threading.Lock()
        self._always: Act = None
        self._next: deque[Act] = deque()
        self._held: list[_Held] = []

    def always(self, act: Act) -> None:
        """Do this to every call from now on."""
        with self._lock:
            self._always = act

    def once(self, *acts: Act) -> None:
        """Do this to the next call, that to the one after it, and so on."""
        with self._lock:
            self._next.extend(acts)

    @property
    def held(self) -> int:
        """How many calls stand at the gate."""
        return len(self._held)

    def release(self, caller: object = None) -> None:
        """Let those through that stand at the gate.

        Args:
            caller: The connection whose call is let through; None: all of them.
        """
        with self._lock:
            held = [call for call in self._held if caller in (None, call.caller)]
            self._held = [call for call in self._held if call not in held]
        for call in held:
            call.release()

    def open(self) -> None:
        """Let everybody through from now on."""
        with self._lock:
            self._always = None
            self._next.clear()
        self.release()

    def enter(self, caller: object = None, line: Line | None = None) -> None:
        """Pass the gate; blocking.

        Args:
            caller: The connection.
            line: Its line, if it has one.
        """
        act = self._act()
        if callable(act):
            act = act()
        if isinstance(act, Never):
            with self._holding(caller, line) as held:
                held.wait()
        elif isinstance(act, BaseException):
            raise type(act)(*act.args)
        elif isinstance(act, (int, float)):
            clock.sleep(act)

    async def pass_through(self, caller: object = None) -> None:
        """Pass the gate on the event loop.

        Args:
            caller: The connection.
        """
        act = self._act()
        if callable(act):
            act = act()
        if inspect.isawaitable(act):
            act = await act
        await asyncio.sleep(act if isinstance(act, (int, float)) else 0)
        if isinstance(act, Never):
            with self._holding(caller, None) as held:
                await held.released()
        elif isinstance(act, BaseException):
            raise type(act)(*act.args)

    def _act(self) -> Act:
        with self._lock:
            self.calls += 1
            return self._next.popleft() if self._next else self._always

    @contextmanager
    def _holding(self, caller: object, line: Line | None) -> Iterator[_Held]:
        held = _Held(caller, line)
        with self._lock:
            self._held.append(held)
        try:
            yield held
        finally:
            with self._lock, suppress(ValueError):  # somebody has let it through
                self._held.remove(held)
