"""A network in between that fails: a TCP proxy that delays, swallows, resets and heals."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Literal, Self, TypeVar, cast

from support.databases import Database
from support.servers import Server

__all__ = ["Proxy", "Trap", "Way"]

T = TypeVar("T")

Way = Literal["requests", "answers"]
"""From the client to the server, and back."""

Trap = Callable[[Way, bytes], bool]
"""Looks at what comes by, and tells whether something is to happen to its link."""

BOTH: tuple[Way, ...] = ("requests", "answers")

_LINGER_NOT = struct.pack("ii", 1, 0)  # a close sends a reset


class Proxy:
    """Stands before a server, on a thread and an event loop of its own.

    Attributes:
        server: The server.
        latency: Seconds that everything takes, in each direction.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.latency = 0.0
        self._swallowed: frozenset[Way] = frozenset()  # of every link, also of those to come
        self._refuses = False
        self._links: set[_Link] = set()
        self._trap: Trap | None = None
        self._fate: Callable[[_Link], None] = _Link.reset
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="the network")

    def __enter__(self) -> Self:
        self._thread.start()
        self._listener = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.host, self.port = self._listener.sockets[0].getsockname()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def before(self, database: Database) -> Database:
        """Return the same database, to be reached through here."""
        there = {"host": self.host, "port": self.port}
        return replace(database, arguments={**database.arguments, **there})

    @property
    def links(self) -> int:
        """How many connections go through here."""
        return self._do(lambda: len(self._links))

    def silence(self, *ways: Way) -> None:
        """Have the links that there are swallow what comes, as if the other end had vanished."""
        self._with_each(lambda link: link.silence(*ways))

    def blackhole(self, *ways: Way) -> None:
        """Have every link swallow what comes, new ones too: a network that drops all packets."""
        self._swallowed = frozenset(ways or BOTH)
        self.silence(*ways)

    def reset(self) -> None:
        """Reset every link, to both sides."""
        self._with_each(_Link.reset)

    def reset_at(self, trap: Trap) -> None:
        """Reset the first link by which something comes that `trap(way, data)` is true for."""
        self._trap, self._fate = trap, _Link.reset

    def silence_at(self, trap: Trap) -> None:
        """Silence that link, and swallow what came."""
        self._trap, self._fate = trap, _Link.silence

    def heal(self) -> None:
        """Let everything through again; a link that has lost something stays as it is."""
        self.latency, self._swallowed, self._trap = 0.0, frozenset(), None
        self._with_each(_Link.heal)

    # On its own thread

    def _do(self, work: Callable[[], T]) -> T:
        done: Future[T] = Future()
        self._loop.call_soon_threadsafe(lambda: done.set_result(work()))
        return done.result(10)

    def _with_each(self, work: Callable[["_Link"], None]) -> None:
        def with_each() -> None:
            for link in tuple(self._links):
                work(link)

        self._do(with_each)

    async def _listen(self) -> asyncio.Server:
        return await self._loop.create_server(lambda: _Link(self).client, self.server.host, 0)

    async def _end(self) -> None:
        self._listener.close()
        for link in tuple(self._links):
            link.reset()
        await asyncio.sleep(0.01)  # the transports close in the loop's next turns

    def opened(self, link: "_Link") -> None:
        """Take in a new link, and connect it to the server unless that is swallowed."""
        self._links.add(link)
        link.silent |= self._swallowed
        if "requests" in link.silent:
            link.lossy = True
        else:
            link.connecting = self._loop.create_task(self._connect(link))

    async def _connect(self, link: "_Link") -> None:
        try:
            await self._loop.create_connection(
                lambda: link.server, self.server.host, self.server.port
            )
        except OSError:
            link.reset()

    def closed(self, link: "_Link") -> None:
        """Forget a link."""
        self._links.discard(link)

    def look_at(self, link: "_Link", way: Way, data: bytes) -> None:
        """See whether this is what the trap was set for, which then is gone."""
        if self._trap is not None and self._trap(way, data):
            self._trap = None
            self._fate(link)

    def after(self, delay: float, work: Callable[[], object]) -> None:
        """Do something later."""
        self._loop.call_later(delay, work)


class _Link:
    """One connection through the proxy: an end towards the client, one towards the server.

    Attributes:
        silent: The ways by which nothing gets through.
        lossy: True once something was swallowed, so that it can never be whole again.
    """

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.client = _End(self, "requests")
        self.server = _End(self, "answers")
        self.client.other, self.server.other = self.server, self.client
        self.silent: set[Way] = set()
        self.lossy = False
        self.connecting: asyncio.Task[None] | None = None

    def swallows(self, way: Way) -> bool:
        """Tell whether what comes this way is lost, and note that it is."""
        lost = way in self.silent
        self.lossy = self.lossy or lost
        return lost

    def silence(self, *ways: Way) -> None:
        """Let nothing through any more."""
        self.silent.update(ways or BOTH)

    def reset(self) -> None:
        """End it at once, with a reset to both sides."""
        self.silence()
        if self.connecting is not None:
            self.connecting.cancel()
        for end in (self.client, self.server):
            end.reset()
        self.proxy.closed(self)

    def heal(self) -> None:
        """Go on, if nothing was lost; forget what one side has given up already."""
        if not self.lossy:
            self.silent.clear()
        elif self.client.gone or self.server.gone:
            self.reset()


class _End(asyncio.Protocol):
    """One end of a link; what comes in here goes out at the other."""

    other: "_End"

    def __init__(self, link: _Link, way: Way) -> None:
        self._link = link
        self._way: Way = way
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []  # what came before this end was connected
        self._under_way: deque[Callable[[], object]] = deque()
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._way == "requests":
            self._link.proxy.opened(self._link)
        for data in self._early:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._link.proxy.look_at(self._link, self._way, data)
        if not self._link.swallows(self._way):
            self._later(lambda: self.other.write(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if not self.other.connected:
            self._link.reset()
        elif not self._link.swallows(self._way):
            self._later(self.other.close)
        if self.other.gone:
            self._link.proxy.closed(self._link)

    @property
    def connected(self) -> bool:
        """Whether there is, or was, somebody at this end."""
        return self._transport is not None

    def write(self, data: bytes) -> None:
        """Send, once there is somebody at this end."""
        if self._transport is None:
            self._early.append(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close, after what was sent."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Close at once, with a reset."""
        if self._transport is not None and not self.gone:
            handle: Any = self._transport.get_extra_info("socket")
            with contextlib.suppress(OSError):  # the peer was faster
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self._transport.abort()

    def _later(self, work: Callable[[], object]) -> None:
        """Do something after the latency, but never ahead of what came before."""
        proxy = self._link.proxy
        if proxy.latency or self._under_way:
            self._under_way.append(work)
            proxy.after(proxy.latency, self._arrive)
        else:
            work()

    def _arrive(self) -> None:
        self._under_way.popleft()()
