"""The cursor of a borrowed connection, and the statement that is about to run on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from asyncdbpool._cursor import END, CursorCore
from asyncdbpool._lease import Lease
from asyncdbpool.errors import PoolError
from asyncdbpool.proxies._members import is_method

if TYPE_CHECKING:
    from asyncdbpool.proxies.connection import Connection

__all__ = ["Cursor", "Execution", "undisguised"]

Method = TypeVar("Method", bound=Callable[..., Any])


class _Optional:
    """A method that is there where the driver's cursor has it; PEP 249 leaves that open."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, cursor: Cursor | None, owner: type) -> Any:
        name = self._method.__name__
        if cursor is not None and not cursor._core.may_have(name):  # noqa: SLF001 - the same room
            raise AttributeError(name)  # so that Cursor.__getattr__() is asked, and says it better
        return self._method.__get__(cursor, owner)


def _optional(method: Method) -> Method:
    return cast("Method", _Optional(method))


class Cursor:
    """A cursor of a borrowed connection: PEP 249's `Cursor` with awaitable methods.

    Rows come ahead: a statement brings the first batch along in its hop, and the rest follows in
    batches. What `fetchone()`, iteration, `rownumber` and `scroll()` show is the driver's own
    result, as if nothing had been read ahead.

    Other attributes and assignments work as on `Connection`. Before its first statement PEP 249's
    defaults answer, since the driver's cursor is not born yet.
    """

    __slots__ = ("__weakref__", "_connection", "_core", "_lease")

    _connection: Connection
    _core: CursorCore
    _lease: Lease

    def __init__(self, connection: Connection, lease: Lease, core: CursorCore) -> None:
        object.__setattr__(self, "_connection", connection)
        object.__setattr__(self, "_lease", lease)
        object.__setattr__(self, "_core", core)

    # Statements

    def execute(self, sql: Any, *args: Any, **kwargs: Any) -> Execution:
        """Run a statement: `await` gives this cursor, `async with` closes it in the end."""
        self._open()
        return Execution(self._statement("execute", sql, args, kwargs))

    def executemany(self, sql: Any, *args: Any, **kwargs: Any) -> Execution:
        """Run a statement once for each set of parameters."""
        self._open()
        return Execution(self._statement("executemany", sql, args, kwargs))

    @_optional
    async def callproc(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a stored procedure; returns what the driver returns."""
        self._lease.statement = name
        return await self._on_thread(self._core.call, "callproc", (name, *args), kwargs)

    @_optional
    async def nextset(self) -> Any:
        """Go to the next result set; None at the end."""
        return await self._on_thread(self._core.next_result)

    @_optional
    async def setinputsizes(self, *sizes: Any) -> Any:
        """Tell the driver of the parameters that will come, as far as it minds."""
        return await self._call("setinputsizes", *sizes)

    @_optional
    async def setoutputsize(self, *size: Any) -> Any:
        """Tell the driver of the columns that will come, as far as it minds."""
        return await self._call("setoutputsize", *size)

    async def _statement(
        self, method: str, sql: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Cursor:
        lease, core = self._lease, self._open()
        lease.statement = sql
        await lease.call(core.call, method, (sql, *args), kwargs, core=core)
        return self

    # Rows

    async def fetchone(self) -> Any:
        """Return the next row, or None at the end."""
        if self._open().can_serve(1):
            return self._core.fetchone()
        return await self._on_thread(self._core.fetchone)

    async def fetchmany(self, size: int | None = None) -> Any:
        """Return up to `size` rows (`arraysize` by default), in the driver's own container."""
        core = self._open()
        if core.can_serve(core.arraysize if size is None else size):
            return core.fetchmany(size)
        return await self._on_thread(self._core.fetchmany, size)

    async def fetchall(self) -> Any:
        """Return the rows that are left, in the driver's own container."""
        if self._open().can_serve(None):
            return self._core.fetchall()
        return await self._on_thread(self._core.fetchall)

    async def __aiter__(self) -> AsyncIterator[Any]:
        core, lease = self._open(), self._lease
        rows = core.rows
        while True:
            while rows and not core.pending and lease.ended is None:
                yield rows.popleft()
            if (row := await self._next()) is END:
                return
            yield row

    async def __anext__(self) -> Any:
        if (row := await self._next()) is END:
            raise StopAsyncIteration
        return row

    async def _next(self) -> Any:
        if self._open().can_serve(1):
            return self._core.next()
        return await self._on_thread(self._core.next)

    @_optional
    async def scroll(self, value: int, mode: str = "relative") -> None:
        """Move the position in the result; a failed move changes nothing."""
        await self._on_thread(self._core.scroll, value, mode)

    # Facts

    @property
    def connection(self) -> Connection:
        """The connection that this cursor was made from."""
        self._lease.check()
        return self._connection

    @property
    def description(self) -> Any:
        """The result's columns, as the driver describes them."""
        return self._born_or_not().description

    @property
    def rowcount(self) -> Any:
        """Rows that the last statement found or changed, -1 where that is not known."""
        return self._born_or_not().rowcount

    @property
    def lastrowid(self) -> Any:
        """The last inserted row's id, where the driver tells it."""
        return self._born_or_not().lastrowid

    if TYPE_CHECKING:
        arraysize: Any  # it can be assigned, like everything that goes through __setattr__
    else:

        @property
        def arraysize(self) -> Any:
            """Rows that `fetchmany()` returns unless told."""
            return self._born_or_not().arraysize

    @property
    def rownumber(self) -> Any:
        """The position in the result, where the driver tells it; None before the first one."""
        core = self._born_or_not()
        return None if core.raw is None else core.rownumber

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in Cursor.__slots__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        core = self._born_or_not()
        if name in core.kept:
            return core.kept[name]
        if core.raw is not None:
            value = getattr(core.raw, name)
            method = is_method(core.raw, name, value)
        else:
            value = getattr(core.kind, name)
            method = callable(value) and not isinstance(value, type)
            if not method and hasattr(value, "__get__"):
                raise AttributeError(
                    f"{name!r} is not known yet: the driver's cursor is born with its first "
                    "statement, so run that first"
                )
        return partial(self._call, name) if method else value

    def __setattr__(self, name: str, value: Any) -> None:
        self._born_or_not().kept[name] = value

    async def _call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        value = await self._on_thread(self._core.invoke, name, args, kwargs)
        if value is self._core:
            return self
        return undisguised(self._connection, self._lease, value)

    # The end

    async def close(self) -> None:
        """Close the cursor; where no row is left with the driver, without a hop."""
        core = self._born_or_not()
        if core.closed:
            return
        if self._lease.record.orphans:  # a cancelled statement is still ending: do not wait
            core.leave()
        elif core.pending or not core.finished:
            await self._on_thread(self._core.close, must_run=True)
        elif core.raw is not None:
            core.leave()
        else:
            core.closed = True

    def __await__(self) -> Generator[Any, Any, Self]:
        """Give the cursor itself: `cur = await conn.cursor()` works too."""
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        self._born_or_not()
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        if self._connection:
            # An error that is on its way counts more than one from here.
            with suppress(*(() if error is None else (Exception,))):
                await self.close()

    def __bool__(self) -> bool:
        """Tell whether the cursor can still be used."""
        return bool(self._connection) and not self._core.closed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._connection!r}>"

    def __del__(self) -> None:
        try:
            core = self._core
        except AttributeError:  # an __init__ that failed
            return
        if core.raw is not None and not core.closed and self._lease.ended is None:
            core.leave()

    def _born_or_not(self) -> CursorCore:
        self._lease.check()
        return self._core

    def _open(self) -> CursorCore:
        self._lease.check()
        core = self._core
        if core.closed:
            driver = self._lease.session.driver
            general = getattr(driver.module, "Error", PoolError)
            kind = getattr(driver.module, "InterfaceError", general)
            raise driver.new_error(kind, "this cursor is closed")
        return core

    async def _on_thread(
        self, operation: Callable[..., Any], *args: Any, must_run: bool = False
    ) -> Any:
        core = self._open()
        return await self._lease.call(operation, *args, core=core, must_run=must_run)


class Execution(Coroutine[Any, Any, Cursor]):
    """A statement about to run: await it, or enter it to have its cursor closed in the end."""

    __slots__ = ("_coroutine", "_cursor")

    def __init__(self, coroutine: Coroutine[Any, Any, Cursor]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Cursor]:
        return self._coroutine.__await__()

    async def __aenter__(self) -> Cursor:
        self._cursor = await self._coroutine
        return self._cursor

    async def __aexit__(self, *exc_info: object) -> None:
        await self._cursor.__aexit__(*exc_info)

    def send(self, value: Any) -> Any:
        """Be a coroutine, so that `asyncio.create_task()` takes it."""
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        """Be a coroutine."""
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """Be a coroutine."""
        self._coroutine.close()


def undisguised(connection: Connection, lease: Lease, value: Any) -> Any:
    """Give a proxy where a driver's method has returned its own connection or a cursor."""
    if isinstance(value, CursorCore):
        return Cursor(connection, lease, value)
    return connection if value is lease.session else value
