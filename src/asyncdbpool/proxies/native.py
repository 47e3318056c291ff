"""What is lent of a native driver: its own API, passed through until it is revoked."""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

from asyncdbpool._lease import Lease
from asyncdbpool.errors import PoolError
from asyncdbpool.proxies._members import is_method
from asyncdbpool.proxies.connection import Connection
from asyncdbpool.proxies.cursor import Execution

if TYPE_CHECKING:
    from asyncdbpool._native import NativeSession

__all__ = ["Guest", "NativeConnection"]

_AHEAD = 50  # rows that an iteration takes in one turn, as asyncpg fetches them unless told


class Guest:
    """A cursor, a statement or the like, made from a borrowed connection and revoked with it.

    It has what the driver's own object has. Methods that talk to the server take their turn on
    the connection; a cancelled one raises `CancelledError` at once and is cancelled in the
    database.
    """

    __slots__ = ("__weakref__", "_connection", "_lease", "_raw", "_torn")

    _connection: NativeConnection
    _lease: Lease
    _raw: Any
    _torn: bool

    def __init__(self, connection: NativeConnection, lease: Lease, raw: Any) -> None:
        for name, value in (("_connection", connection), ("_lease", lease), ("_raw", raw)):
            object.__setattr__(self, name, value)
        self._tear(False)

    def _tear(self, torn: bool) -> None:
        """Note whether rows have gone with a call that was cancelled."""
        object.__setattr__(self, "_torn", torn)

    def __setattr__(self, name: str, value: Any) -> None:
        self._lease.check()
        setattr(self._raw, name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._lease.check()
        return _passed(self._connection, self._lease, self._raw, name, self._call)

    async def _call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        driver = self._lease.session.driver
        if name.startswith(("execute", "callproc")):
            self._tear(False)
            self._lease.statement = args[0] if args and isinstance(args[0], str) else None
        elif self._torn and driver.loses_rows(self._raw, name):
            raise PoolError(
                f"pool {self._lease.lender.name!r}: rows of this cursor went with a call that was "
                "cancelled; execute its statement again"
            )
        call = _session(self._lease).call
        try:
            result = await self._lease.call(call, self._raw, name, args, kwargs)
        except CancelledError:
            self._tear(self._torn or driver.loses_rows(self._raw, name))
            raise
        if result is self._raw:
            return self
        return _shown(self._connection, self._lease, result)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        if not inspect.isawaitable(self._raw):  # a cursor that is there already
            self._lease.check()
            return self
        result = await self._lease.call(_session(self._lease).wait_for, self._raw)
        return _shown(self._connection, self._lease, result)

    def __aiter__(self) -> AsyncIterator[Any]:
        self._lease.check()
        raw = self._raw.__aiter__()
        return self if raw is self._raw else self._rows(raw)

    async def _rows(self, iterator: Any) -> AsyncIterator[Any]:
        """Iterate, with rows that come ahead where nobody else can reach what is iterated over."""
        lease = self._lease
        count = _AHEAD if lease.session.driver.reads_ahead(self._raw) else 1
        rows: deque[Any] = deque()
        end: BaseException | None = None
        while True:
            if not rows and end is None:
                taken, end = await lease.call(_session(lease).take, iterator, count)
                rows.extend(taken)
            lease.check()
            if not rows:
                if isinstance(end, StopAsyncIteration):
                    return
                assert end is not None  # noqa: S101 - otherwise there would be rows
                raise end
            yield rows.popleft()

    async def __anext__(self) -> Any:
        self._lease.check()
        if self._lease.session.driver.takes_turn(self._raw, "__anext__"):
            return await self._call("__anext__")
        return await self._raw.__anext__()

    async def __aenter__(self) -> Any:
        return await self._call("__aenter__")

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        if not self._connection:
            return
        if isinstance(error, CancelledError) or self._lease.record.orphans:  # do not wait for it
            self._lease.post(_session(self._lease).call, self._raw, "__aexit__", (None,) * 3, {})
            return
        # An error that is on its way counts more than one from here.
        with suppress(*(() if error is None else (Exception,))):
            await self._call("__aexit__", kind, error, traceback)

    def __bool__(self) -> bool:
        """Tell whether it can still be used, so far as the pool knows."""
        return bool(self._connection)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} ({type(self._raw).__name__}) of {self._connection!r}>"


class NativeConnection(Connection):
    """A borrowed connection of a native driver: the driver's own API, until it is returned.

    `fetch_all`, `fetch_one`, `fetch_val`, `execute_many`, `transaction`, `run`, `commit`,
    `rollback`, `cancel` and `discard` are there for every driver. `execute`, `executemany` and
    `cursor` are the driver's, if it has them; otherwise `execute` gives a cursor, as it does
    with a blocking driver. Statements that several tasks issue run one after the other, in
    their order.
    """

    __slots__ = ("_callbacks",)

    _callbacks: dict[Any, Any]

    def __init__(self, lease: Lease) -> None:
        super().__init__(lease)
        object.__setattr__(self, "_callbacks", {})

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Make a cursor as the driver does; to be awaited, iterated over or entered likewise."""
        return self.__getattr__("cursor")(*args, **kwargs)

    def execute(self, sql: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a statement as the driver does; where it cannot, on a new cursor."""
        return self._execute("execute", sql, *args, **kwargs)

    def executemany(self, sql: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a statement for each set of parameters; see `execute()`."""
        return self._execute("executemany", sql, *args, **kwargs)

    def _execute(self, method: str, sql: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._lease.check()
        if hasattr(self._lease.session.raw, method):
            return self._call(method, sql, *args, **kwargs)
        return Execution(self._on_cursor(method, sql, *args, **kwargs))

    async def _on_cursor(self, method: str, sql: Any, /, *args: Any, **kwargs: Any) -> Any:
        cursor = await self.cursor()
        await getattr(cursor, method)(sql, *args, **kwargs)
        return cursor

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in Connection.__slots__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._lease.check()
        return _passed(self, self._lease, self._lease.session.raw, name, self._call)

    def __setattr__(self, name: str, value: Any) -> None:
        self._lease.check()
        _session(self._lease).assign(name, value)

    async def _call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        lease = self._lease
        if args and isinstance(args[0], str):
            lease.statement = args[0]
        session = _session(lease)
        if name in session.driver.calls_back:
            args, kwargs = self._disguised(args, kwargs)
        return _shown(self, lease, await lease.call(session.call, session.raw, name, args, kwargs))

    def _disguised(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Have the driver's callbacks given this proxy in place of the driver's connection."""
        return (
            tuple(self._callback(value) for value in args),
            {name: self._callback(value) for name, value in kwargs.items()},
        )

    def _callback(self, value: Any) -> Any:
        if not callable(value):
            return value
        try:
            return self._callbacks.setdefault(value, _callback(ref(self), value))
        except TypeError:  # it has no hash
            return self._callbacks.setdefault(id(value), _callback(ref(self), value))


def _callback(proxy: ref[NativeConnection], fn: Callable[..., Any]) -> Callable[..., Any]:
    """Make a callback that is given the proxy, and not called once that is gone."""

    def given(args: tuple[Any, ...]) -> list[Any]:
        connection = proxy()
        if not connection:
            return []
        raw = connection._lease.session.raw  # noqa: SLF001 - the same room
        return [connection if value is raw else value for value in args]

    if inspect.iscoroutinefunction(fn):

        @wraps(fn)
        async def call_later(*args: Any) -> None:
            if shown := given(args):
                await fn(*shown)

        return call_later

    @wraps(fn)
    def call(*args: Any) -> None:
        if shown := given(args):
            fn(*shown)

    return call


def _passed(
    connection: NativeConnection,
    lease: Lease,
    owner: Any,
    name: str,
    call: Callable[..., Any],
) -> Any:
    """Give an attribute of the driver's own object: a method in its turn, a value as it is."""
    value = getattr(owner, name)
    if not is_method(owner, name, value):
        return _shown(connection, lease, value)
    if lease.session.driver.takes_turn(owner, name):
        return partial(call, name)

    def call_at_once(*args: Any, **kwargs: Any) -> Any:
        lease.use()
        if name in lease.session.driver.calls_back:
            args, kwargs = connection._disguised(args, kwargs)  # noqa: SLF001 - the same room
        result = _session(lease).call_at_once(owner, name, args, kwargs)
        return _shown(connection, lease, result)

    return call_at_once


def _shown(connection: NativeConnection, lease: Lease, value: Any) -> Any:
    """Give a proxy in place of the driver's own connection or of a guest."""
    if value is lease.session.raw:
        return connection
    if isinstance(value, lease.session.driver.guests):
        return Guest(connection, lease, value)
    return value


def _session(lease: Lease) -> NativeSession:
    return cast("NativeSession", lease.session)
