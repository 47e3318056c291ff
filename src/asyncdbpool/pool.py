"""ConnectionPool: the pool itself, as its users see it."""

from __future__ import annotations

import asyncio
import itertools
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, NoReturn, Self

from asyncdbpool import _forks, _reports
from asyncdbpool._borrowing import Borrowing, Transacting
from asyncdbpool._connect import ConnectArguments
from asyncdbpool._engine import Engine
from asyncdbpool._options import (
    DEFAULT,
    Check,
    Cleanup,
    Credentials,
    Default,
    Options,
    checked_cleanup,
    checked_kind,
    checked_seconds,
)
from asyncdbpool._quota import Cap, Quota
from asyncdbpool._stock import Plan
from asyncdbpool.drivers import BaseDriver, find_driver
from asyncdbpool.errors import PoolClosed, PoolError, WrongEventLoop
from asyncdbpool.proxies import Connection, proxy_for
from asyncdbpool.stats import Counters, LeaseInfo, PoolStats

__all__ = ["ConnectionPool"]

_numbers = itertools.count(1)

_PATIENCE = 10.0  # seconds that borrowers have to finish


class ConnectionPool:
    """A pool of connections of any PEP 249 (DB-API 2.0) module, or of asyncpg or aiomysql.

    Making a pool does no I/O and needs no running event loop; the first `get()` opens it.

    Args:
        module: The PEP 249 module, asyncpg, aiomysql, or any object with a `connect`.
        *args: Go to `module.connect()` as they are.
        min_size: Connections kept ready.
        max_size: Connections at most, and leases at most.
        max_idle: Seconds after which an idle connection above `min_size` is closed; with 0 every
            connection is closed on return.
        max_age: Seconds after which a connection is closed, on return or while idle, never while
            lent; up to 5 % less, so that a fleet does not reconnect at once; with 0 every
            connection is closed on return.
        max_uses: Leases after which a connection is closed on return.
        timeout: Seconds for a `get()` altogether: waiting, connecting, checking and setting up;
            None waits without end.
        max_waiting: Waiting tasks at most; one more fails at once with `TooManyWaiters`.
        connect_timeout: Seconds for one physical connect.
        retry_connect: Seconds for which a transient connect failure is retried, with jittered
            backoff; a permanent one surfaces at once, as the driver raised it.
        connect_limit: Physical connects under way at once; None: up to `max_size`.
        setup: `setup(raw)`, called once for each new connection on its thread; what it did is
            committed. For a native driver this, `check` and `cleanup` are coroutine functions.
        check: Proof of life before a lease: `"auto"` (a look at the socket, and a ping after
            `check_after` seconds idle), `"always"`, None, or `check(raw)`, which raises or returns
            False for a dead connection.
        check_after: Seconds idle after which `"auto"` pings.
        check_timeout: Seconds after which a ping counts as failed.
        cleanup: What is done on return: `"rollback"`, `"reset"`, None, or `cleanup(raw)`.
        keepalive: Seconds between pings of idle connections.
        cancel_grace: Seconds that a cancelled statement, a cleanup or a close may take before the
            connection's socket is shut down.
        leak_timeout: Seconds after which a lease is reported, once, with the stack that took it.
        name: Shown in errors, logs and figures; made up if not given.
        credentials: Called once for each physical connect, sync (on a thread) or
            async; returns connect keywords, which win over the others.
        driver: What `module` does not say of itself; found by its name if not given.
        connect_kwargs: Keywords for `module.connect()` whose names are options here too.
        **kwargs: Every other keyword goes to `module.connect()`.

    Raises:
        TypeError: An option has the wrong type, or a keyword is given both ways.
        ValueError: An option has an impossible value.
    """

    def __init__(
        self,
        module: Any,
        /,
        *args: Any,
        min_size: int = 0,
        max_size: int = 10,
        max_idle: float = 600.0,
        max_age: float = 3600.0,
        max_uses: int | None = None,
        timeout: float | None = 30.0,
        max_waiting: int | None = None,
        connect_timeout: float = 5.0,
        retry_connect: float = 0.0,
        connect_limit: int | None = None,
        setup: Callable[[Any], object] | None = None,
        check: Check = "auto",
        check_after: float = 1.0,
        check_timeout: float = 5.0,
        cleanup: Cleanup = "rollback",
        keepalive: float | None = None,
        cancel_grace: float = 5.0,
        leak_timeout: float | None = None,
        name: str | None = None,
        credentials: Credentials | None = None,
        driver: BaseDriver | None = None,
        connect_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._engine: Engine | None = None
        self._ending: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closed = False
        if driver is not None and not isinstance(driver, BaseDriver):
            raise TypeError(
                f"driver must be a Driver, a NativeDriver or None, not {type(driver).__name__}"
            )
        self._driver = driver or find_driver(module)
        self._options = Options(
            min_size=min_size,
            max_size=max_size,
            max_idle=max_idle,
            max_age=max_age,
            max_uses=max_uses,
            timeout=timeout,
            max_waiting=max_waiting,
            connect_timeout=connect_timeout,
            retry_connect=retry_connect,
            connect_limit=connect_limit,
            setup=setup,
            check=check,
            check_after=check_after,
            check_timeout=check_timeout,
            cleanup=cleanup,
            keepalive=keepalive,
            cancel_grace=cancel_grace,
            leak_timeout=leak_timeout,
            credentials=credentials,
            native=self._driver.native,
        )
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str or None, not {type(name).__name__}")
        self._module = module
        label = getattr(module, "__name__", type(module).__name__)
        self._name = name or f"{label}-{next(_numbers)}"
        self._counters = Counters()
        self._plan = Plan(
            self._name,
            self._driver,
            ConnectArguments(args, _merged(kwargs, connect_kwargs)),
            self._counters,
            Quota([]),
        )

    def share(self, caps: list[Cap]) -> None:
        """Keep to caps that are shared with other pools; before the pool is opened."""
        self._plan = replace(self._plan, quota=Quota(caps))

    # Opening and closing

    async def open(self) -> Self:
        """Make `min_size` connections and return the pool; does nothing on an open one.

        A closed pool may be opened again, on any event loop.

        Raises:
            WrongEventLoop: The pool is open on another loop.
            ConnectTimeout: A connect took longer than `connect_timeout`.
            Exception: What the driver raised for a connect that failed; the pool is as it was.
        """
        if self._running() is not None and self._ending is not None:
            await self.close()  # joins the one under way, or goes on with one that was cut short
        if self._running() is None:
            engine, was_closed, self._closed = self._start(), self._closed, False
            self._opening = engine.loop.create_task(
                self._fill(engine, was_closed), name=f"{self._name}: open"
            )
            self._opening.add_done_callback(_take_note)
        if self._opening is not None and not self._opening.done():
            await asyncio.shield(self._opening)
        return self

    async def _fill(self, engine: Engine, was_closed: bool) -> None:
        try:
            await engine.stock.fill()
            engine.refusals.refuse_if_closed()
        except BaseException:
            if not engine.closing:
                self._closed = was_closed
                await self._end(engine, _PATIENCE)
            raise

    async def close(self, timeout: float | None = _PATIENCE) -> None:
        """Close the pool: nothing is left, no connection, thread or task.

        Every waiter fails with `PoolClosed` within one tick of the loop. Borrowers may finish
        until `timeout`; then their connections are taken away and closed. A cancelled `close()`
        only stops waiting for it. A thread that is still inside a driver's hung call after that
        is a daemon, is reported in the log, and ends with its call; whoever waits for the call
        gets a `PoolClosed`.

        Args:
            timeout: Seconds for the borrowers; None waits without end.
        """
        if timeout is not None:
            checked_seconds("timeout", timeout)
        self._begin_close(timeout)
        if self._ending is not None and not self._ending.done():
            await asyncio.shield(self._ending)

    def _begin_close(self, timeout: float | None) -> None:
        engine = self._running()
        self._closed = True
        if engine is not None and (self._ending is None or self._ending.done()):
            self._ending = engine.loop.create_task(
                self._end(engine, timeout), name=f"{self._name}: close"
            )

    async def _end(self, engine: Engine, timeout: float | None) -> None:
        await engine.shut_down(timeout)
        if self._engine is engine:  # otherwise somebody else's close was faster
            self._engine = None

    async def __aenter__(self) -> Self:
        try:
            return await self.open()
        except asyncio.CancelledError:
            self._begin_close(_PATIENCE)  # nobody will leave the block
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: a copy that is dropped would end what this one has."""
        raise TypeError(f"{type(self).__name__} cannot be copied or pickled")

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        with suppress(AttributeError):  # an __init__ that failed
            if self._engine is not None and self._engine.stock.records:
                try:
                    warn(
                        f"{self!r} was never closed; "
                        "use `async with pool` or `await pool.close()`",
                        ResourceWarning,
                        stacklevel=2,
                        source=self,
                    )
                finally:  # the warning may be an error
                    self._engine.abandon()

    def _running(self) -> Engine | None:
        """Return the engine on the running loop, or None where the pool is not open.

        What was left on a loop that is closed by now is dropped.
        """
        engine = self._engine
        if engine is None or engine.loop is asyncio.get_running_loop():
            return engine
        if not engine.loop.is_closed():
            raise WrongEventLoop(
                f"pool {self._name!r} is open on another event loop; "
                "close it there first, or make a pool for each loop"
            )
        left = f"{self!r} was not closed before its event loop" if engine.stock.records else None
        engine.abandon()
        self._plan.quota.forfeit()
        self._engine = self._ending = self._opening = None
        if left is not None:  # last of all: the warning may be an error
            warnings.warn(f"{left}; its connections are dropped", ResourceWarning, stacklevel=4)
        return None

    def _start(self) -> Engine:
        self._engine = Engine(self._plan, self._options)
        self._opening = self._ending = None  # they were about another one
        _forks.watch(self, ConnectionPool._disown)
        return self._engine

    def _disown(self) -> None:
        """Forget, in a forked child, what is the parent's; the next `get()` starts afresh."""
        engine, self._engine = self._engine, None
        self._ending = self._opening = None
        self._plan.quota.forfeit()
        if engine is not None:
            engine.disown()

    def _opened(self) -> Engine:
        """Return the engine, opening the pool at its first use."""
        engine = self._engine
        if engine is not None and engine.loop is asyncio.get_running_loop():
            return engine
        self._running()  # which drops what is left on a closed loop, and refuses an open one
        if self._closed:
            raise PoolClosed(
                f"pool {self._name!r} is closed; open it again with `await pool.open()`"
            )
        return self._start()

    # Borrowing

    async def get(self, timeout: float | Default | None = DEFAULT) -> Connection:
        """Borrow a connection by hand; give it back with `put()`.

        Args:
            timeout: Seconds, instead of the pool's own; None waits without end.

        Returns:
            A proxy, good until it is returned.

        Raises:
            PoolTimeout: No connection within `timeout`.
            ConnectTimeout: The connect for this task took longer than `connect_timeout`.
            TooManyWaiters: `max_waiting` tasks wait already.
            PoolDeadlock: Every lease is held by a task that waits here itself.
            PoolClosed: The pool is closed, or was closed meanwhile.
            WrongEventLoop: The pool is open on another event loop.
            Exception: What the driver raised for a connect that failed.

        A cancelled `get()` takes no connection; the next waiter is served instead.
        """
        seconds, cleanup, engine = self._seconds(timeout), self._options.cleanup, self._opened()
        lease = engine.lend_idle(cleanup, certain=False)
        return proxy_for(lease or await engine.acquire(seconds, cleanup, certain=False))

    def _seconds(self, timeout: float | Default | None) -> float | None:
        if isinstance(timeout, Default):
            return self._options.timeout
        return None if timeout is None else checked_seconds("timeout", timeout)

    async def put(self, conn: Connection, cleanup: Cleanup | Default = DEFAULT) -> None:
        """Give a connection back; it and everything made from it is useless from here on.

        It ends when the connection is clean or closed, which happens in the pool's own hands even
        if the caller is cancelled. Where a cancelled statement is still ending it returns at once,
        and the pool goes on by itself.

        Args:
            conn: What `get()` gave.
            cleanup: What is done with the connection, instead of the pool's own `cleanup`.

        Raises:
            ConnectionReturned: It has been returned already; nothing changes.
            PoolError: It is not a connection of this pool; nothing changes.
        """
        if not isinstance(conn, Connection):
            raise PoolError(
                f"pool {self._name!r}: put() takes what get() gave, not {type(conn).__name__}"
            )
        lease = conn._lease  # noqa: SLF001 - the pool made it
        lease.check_turn()
        engine = self._engine
        if engine is None or lease.lender is not engine:
            raise PoolError(
                f"pool {self._name!r}: this connection belongs to pool {lease.lender.name!r}; "
                "put it there"
            )
        settled = engine.give_back(lease, self._cleanup(cleanup))
        if settled is not None:
            await settled

    def _cleanup(self, cleanup: Cleanup | Default) -> Cleanup:
        if isinstance(cleanup, Default):
            return self._options.cleanup
        checked_cleanup(cleanup, native=self._driver.native)
        return cleanup

    def connection(
        self, *, timeout: float | Default | None = DEFAULT, cleanup: Cleanup | Default = DEFAULT
    ) -> Borrowing:
        """Borrow a connection for an `async with` block.

        Args:
            timeout: Seconds for the `get()`, instead of the pool's own.
            cleanup: What is done on return, instead of the pool's own; None means nothing.

        Returns:
            An async context manager that gives a `Connection`; see `get()` for its errors.
        """
        return Borrowing(self._opened, self._seconds(timeout), self._cleanup(cleanup))

    def transaction(
        self, *, timeout: float | Default | None = DEFAULT, cleanup: Cleanup | Default = DEFAULT
    ) -> Transacting:
        """Borrow a connection for a block that commits on success and rolls back on an exception.

        Args:
            timeout: As for `connection()`.
            cleanup: As for `connection()`.

        Returns:
            An async context manager that gives a `Connection`.
        """
        return Transacting(self._opened, self._seconds(timeout), self._cleanup(cleanup))

    async def provide(self) -> AsyncIterator[Connection]:
        """Yield one connection, for FastAPI's `Depends(pool.provide)` and DI containers."""
        async with self.connection() as conn:
            yield conn

    # One-shots

    async def fetch_all(self, sql: Any, params: Any = None) -> list[Any]:
        """Run a statement in a transaction of its own and return all of its rows.

        Borrows, runs, fetches, commits (rolls back on an error) and returns, in one hop.

        Args:
            sql: The statement, with the driver's own parameter style.
            params: A sequence or mapping of parameters, or None.

        Raises:
            PoolError: As `get()` does.
            Exception: What the driver raises.

        A cancelled call gives its connection back by itself; a statement that has not started is
        never run.
        """
        rows: list[Any] = await self._once("fetch_all", sql, params)
        return rows

    async def fetch_one(self, sql: Any, params: Any = None) -> Any:
        """Run a statement like `fetch_all()` and return its first row, or None."""
        return await self._once("fetch_one", sql, params)

    async def fetch_val(self, sql: Any, params: Any = None, column: Any = 0) -> Any:
        """Run a statement like `fetch_all()` and return one column of its first row, or None."""
        return await self._once("fetch_val", sql, params, column)

    async def execute(self, sql: Any, params: Any = None) -> int:
        """Run a statement like `fetch_all()` and return its rowcount, -1 where it is unknown."""
        count: int = await self._once("execute", sql, params)
        return count

    async def execute_many(self, sql: Any, params: Any) -> int:
        """Run a statement for each set of parameters, in one transaction; return the rowcount."""
        count: int = await self._once("execute_many", sql, params)
        return count

    async def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run `fn(raw, *args, **kwargs)` with the driver's own connection, like a one-shot.

        Args:
            fn: A blocking function (a coroutine function for a native driver) that gets the
                driver's own connection; nothing of the connection may outlive it. What
                it did is committed on success and rolled back on an error. Where the caller is
                cancelled, the statement that runs is cancelled in the database, and nothing is
                committed after it. A blocking function itself cannot be stopped; a coroutine
                function is cancelled, too.
            *args: Passed on.
            **kwargs: Passed on.

        Returns:
            What `fn` returns.
        """
        checked_kind("fn", fn, native=self._driver.native)
        name = getattr(fn, "__qualname__", type(fn).__name__)
        return await self._once("apply", fn, args, kwargs, statement=name)

    def _once(self, work: str, *args: Any, statement: Any = None) -> Awaitable[Any]:
        """Have one of the session's operations done as a one-shot."""
        engine = self._opened()
        engine.refusals.refuse_if_closed()
        return engine.relay.run(work, args, statement or args[0])

    # Live changes

    async def clear(self) -> None:
        """Close the idle connections, and the lent ones when they return.

        The next lease is on a fresh connection. A cancelled call only stops waiting.
        """
        engine = self._running()
        if engine is not None:
            await engine.clear()

    async def resize(self, *, min_size: int | None = None, max_size: int | None = None) -> None:
        """Change the sizes; what is too much is closed, lent connections when they return.

        Args:
            min_size: The new one, or None to keep it.
            max_size: The new one, or None to keep it.

        Raises:
            TypeError: A size is not an int.
            ValueError: A size is impossible; nothing changes.
        """
        options = replace(
            self._options,
            min_size=self._options.min_size if min_size is None else min_size,
            max_size=self._options.max_size if max_size is None else max_size,
        )
        engine = self._running()
        self._options = options
        if engine is not None:
            await engine.resize(options)

    async def pause(self) -> None:
        """Lend nothing until `resume()`, and wait until everything lent is back.

        Tasks that want a connection wait meanwhile, within their timeouts. A cancelled call stops
        waiting; the pool stays paused.
        """
        await self._opened().pause()

    def resume(self) -> None:
        """Lend again after `pause()`.

        Raises:
            WrongEventLoop: The pool is open on another event loop.
        """
        engine = self._running()
        if engine is not None:
            engine.resume()

    # Figures

    def stats(self) -> PoolStats:
        """Take the figures of this moment; `size == idle + in_use + connecting` always."""
        engine = self._engine
        stock, waiting = (None, 0) if engine is None else (engine.stock, len(engine.waiters))
        return _reports.figures(self._name, self._options, self._counters, stock, waiting)

    def dump(self) -> list[LeaseInfo]:
        """Tell who holds what now; print the entries to read them.

        The oldest lease comes first; what is still being cleaned or closed after its return comes
        last, marked so.
        """
        return [] if self._engine is None else self._engine.holders()

    @property
    def module(self) -> Any:
        """The driver's module."""
        return self._module

    @property
    def name(self) -> str:
        """The pool's name."""
        return self._name

    @property
    def closed(self) -> bool:
        """True from `close()` until the pool is opened again."""
        return self._closed

    @property
    def min_size(self) -> int:
        """Connections kept ready."""
        return self._options.min_size

    @property
    def max_size(self) -> int:
        """Connections at most."""
        return self._options.max_size

    @property
    def size(self) -> int:
        """Connections that there are now, in any state."""
        return self.stats().size

    @property
    def idle(self) -> int:
        """Connections that wait for a borrower."""
        return self.stats().idle

    @property
    def waiting(self) -> int:
        """Tasks that wait in `get()`."""
        return self.stats().waiting

    @property
    def free(self) -> int:
        """How many `get()`s would be served now without waiting for somebody else's return."""
        engine = self._engine
        if engine is None:
            return 0 if self._closed else self._plan.quota.room(self._options.max_size)
        return engine.free

    def __repr__(self) -> str:
        s = self.stats()
        state = "closed" if self._closed else "open" if self._engine is not None else "not open"
        return (
            f"<{type(self).__name__} {self._name!r}, {state}: size {s.size} of {s.max_size}, "
            f"idle {s.idle}, in use {s.in_use}, waiting {s.waiting}>"
        )


def _take_note(task: asyncio.Task[None]) -> None:
    """Look at an error that nobody may be waiting for any more; the connects have logged it."""
    _ = task.cancelled() or task.exception()


def _merged(kwargs: dict[str, Any], connect_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Join the connect keywords given in both ways."""
    if connect_kwargs is None:
        return kwargs
    if not isinstance(connect_kwargs, Mapping):
        raise TypeError(f"connect_kwargs must be a mapping, not {type(connect_kwargs).__name__}")
    twice = sorted(kwargs.keys() & connect_kwargs.keys())
    if twice:
        raise TypeError(f"given both directly and in connect_kwargs: {', '.join(twice)}")
    return {**kwargs, **connect_kwargs}
