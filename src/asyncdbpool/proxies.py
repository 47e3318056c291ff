"""What is lent: Connection, Cursor and Transaction, views that are revoked on return."""

from __future__ import annotations

import warnings
from asyncio import CancelledError
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from types import BuiltinMethodType, MethodType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from asyncdbpool import _queries
from asyncdbpool._cursor import END, CursorCore
from asyncdbpool._lease import Lease
from asyncdbpool._session import Session
from asyncdbpool.errors import PoolError

__all__ = ["Connection", "Cursor", "Transaction"]


class Connection:
    """A borrowed connection: PEP 249's `Connection` with awaitable methods.

    Every other attribute of the driver's connection is there by the same name: a method as an
    awaitable that runs on the connection's thread, a value or a class as it is. An assignment
    takes effect ahead of the next statement and is undone on return.

    Once returned, every use raises `ConnectionReturned`; only `bool()`, `repr()` and `close()` are
    harmless. Statements that several tasks issue run one after the other, in their order. A
    cancelled call raises `CancelledError` at once; one that had not started never runs.
    """

    __slots__ = ("__weakref__", "_lease")

    _lease: Lease

    def __init__(self, lease: Lease) -> None:
        object.__setattr__(self, "_lease", lease)

    # Statements

    def cursor(self, *args: Any, **kwargs: Any) -> Cursor:
        """Make a cursor, without a hop: the driver's own is born with its first statement.

        Args:
            *args: What the driver's `cursor()` takes, a name or a class, say.
            **kwargs: The same, by keyword.
        """
        self._lease.check()
        return Cursor(self, self._lease, CursorCore(self._lease.session, args, kwargs))

    def execute(self, sql: Any, *args: Any, **kwargs: Any) -> Execution:
        """Run a statement on a new cursor: `cur = await ...` or `async with ... as cur`.

        Args:
            sql: The statement, with the driver's own parameter style.
            *args: Its parameters, as the driver's `execute()` takes them.
            **kwargs: What else the driver's `execute()` takes.

        Raises:
            ConnectionReturned: The connection has been returned.
            Exception: Whatever the driver raises, unchanged.
        """
        return self.cursor().execute(sql, *args, **kwargs)

    def executemany(self, sql: Any, *args: Any, **kwargs: Any) -> Execution:
        """Run a statement once for each set of parameters, on a new cursor."""
        return self.cursor().executemany(sql, *args, **kwargs)

    async def fetch_all(self, sql: Any, params: Any = None) -> list[Any]:
        """Run a statement and return all of its rows, in one hop."""
        rows: list[Any] = await self._query(_queries.fetch_all, sql, params)
        return rows

    async def fetch_one(self, sql: Any, params: Any = None) -> Any:
        """Run a statement and return its first row or None, in one hop."""
        return await self._query(_queries.fetch_one, sql, params)

    async def fetch_val(self, sql: Any, params: Any = None, column: Any = 0) -> Any:
        """Run a statement and return one column of its first row or None, in one hop."""
        return await self._query(_queries.fetch_val, sql, params, column)

    async def _query(self, query: Callable[..., Any], sql: Any, *args: Any) -> Any:
        self._lease.statement = sql
        return await self._lease.call(query, sql, *args)

    async def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `fn(raw, *args, **kwargs)` on the connection's thread with the driver's connection.

        Args:
            fn: A blocking function; nothing of what it is given may outlive it.
            *args: Passed on.
            **kwargs: Passed on.

        Returns:
            What `fn` returns.
        """
        return await self._lease.call(Session.apply, fn, args, kwargs)

    # Transactions

    async def commit(self) -> None:
        """Commit the open transaction."""
        await self._lease.call(Session.commit)

    async def rollback(self) -> None:
        """Roll the open transaction back; it runs even if the caller is cancelled meanwhile."""
        await self._lease.call(Session.rollback, must_run=True)

    def transaction(self) -> Transaction:
        """Make an `async with` block that commits on success and rolls back on an exception.

        The outermost block ends the connection's whole transaction, also what was begun before
        it; blocks inside of it are savepoints.
        """
        self._lease.check()
        return Transaction(self, self._lease)

    # The end

    async def close(self) -> None:
        """Return the connection to the pool; a second call does nothing."""
        if self:
            self._lease.use()
            settled = self._lease.give_back(self._lease.cleanup)
            if settled is not None:
                await settled

    async def discard(self) -> None:
        """Return the connection to the pool, which closes it instead of lending it again.

        Raises:
            ConnectionReturned: The connection has been returned.
        """
        self._lease.use()
        settled = self._lease.give_back(None, discard="the borrower discarded it")
        if settled is not None:
            await settled

    def __bool__(self) -> bool:
        """Tell whether the connection is still lent."""
        return self._lease.ended is None

    def __repr__(self) -> str:
        state = "lent" if self else "returned"
        return f"<{type(self).__name__} of pool {self._lease.lender.name!r}, {state}>"

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        with suppress(AttributeError):  # an __init__ that failed
            if self:
                warn(
                    f"{self!r} was dropped without being returned; use "
                    "`async with pool.connection()` or `await pool.put(conn)`",
                    ResourceWarning,
                    stacklevel=2,
                    source=self,
                )
                self._lease.lender.reclaim(self._lease)

    # Everything else that the driver's connection has

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        lease = self._lease
        lease.check()
        for wished, value in reversed(lease.session.wishes.copy()):  # the thread may take one
            if wished == name:
                return value
        value = getattr(lease.session.raw, name)
        return partial(self._call, name) if _is_method(lease.session.raw, name, value) else value

    def __setattr__(self, name: str, value: Any) -> None:
        self._lease.check()
        self._lease.session.wishes.append((name, value))

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        value = await self._lease.call(Session.call, name, args, kwargs)
        return _undisguised(self, self._lease, value)


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

    async def callproc(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a stored procedure; returns what the driver returns."""
        self._lease.statement = name
        return await self._on_thread(CursorCore.call, "callproc", (name, *args), kwargs)

    async def nextset(self) -> Any:
        """Go to the next result set; None at the end."""
        return await self._on_thread(CursorCore.call, "nextset", (), {})

    async def _statement(
        self, method: str, sql: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Cursor:
        self._lease.statement = sql
        await self._on_thread(CursorCore.call, method, (sql, *args), kwargs)
        return self

    # Rows

    async def fetchone(self) -> Any:
        """Return the next row, or None at the end."""
        if self._open().can_serve(1):
            return self._core.fetchone()
        return await self._on_thread(CursorCore.fetchone)

    async def fetchmany(self, size: int | None = None) -> Any:
        """Return up to `size` rows (`arraysize` by default), in the driver's own container."""
        core = self._open()
        if core.can_serve(core.arraysize if size is None else size):
            return core.fetchmany(size)
        return await self._on_thread(CursorCore.fetchmany, size)

    async def fetchall(self) -> Any:
        """Return the rows that are left, in the driver's own container."""
        if self._open().can_serve(None):
            return self._core.fetchall()
        return await self._on_thread(CursorCore.fetchall)

    async def __aiter__(self) -> AsyncIterator[Any]:
        core, lease = self._open(), self._lease
        while True:
            while core.rows and not core.pending:
                if lease.ended is not None:
                    lease.check()
                yield core.rows.popleft()
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
        return await self._on_thread(CursorCore.next)

    async def scroll(self, value: int, mode: str = "relative") -> None:
        """Move the position in the result; a failed move changes nothing."""
        await self._on_thread(CursorCore.scroll, value, mode)

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
        if name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        core = self._born_or_not()
        if name in core.kept:
            return core.kept[name]
        if core.raw is not None:
            value = getattr(core.raw, name)
            method = _is_method(core.raw, name, value)
        else:
            session = self._lease.session
            value = getattr(session.cursor_class, name)
            method = callable(value) and not isinstance(value, type)
            if not method and hasattr(value, "__get__"):
                raise AttributeError(
                    f"{name!r} is not known yet: the driver's cursor is born with its first "
                    "statement, so run that first"
                )
        return partial(self._call, name) if method else value

    def __setattr__(self, name: str, value: Any) -> None:
        self._born_or_not().kept[name] = value

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        value = await self._on_thread(CursorCore.invoke, name, args, kwargs)
        if value is self._core:
            return self
        return _undisguised(self._connection, self._lease, value)

    # The end

    async def close(self) -> None:
        """Close the cursor; where no row is left with the driver, without a hop."""
        core = self._born_or_not()
        if core.closed:
            return
        if core.pending or not core.finished:
            await self._on_thread(CursorCore.close, must_run=True)
        elif core.raw is not None:
            core.closed = True
            self._lease.session.litter.append(core)
        else:
            core.closed = True

    def __await__(self) -> Generator[Any, Any, Self]:
        """Give the cursor itself: `cur = await conn.cursor()` works too."""
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        self._born_or_not()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._connection:
            await self.close()

    def __bool__(self) -> bool:
        """Tell whether the cursor can still be used."""
        return bool(self._connection) and not self._core.closed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._connection!r}>"

    def __del__(self) -> None:
        with suppress(AttributeError):  # an __init__ that failed
            core = self._core
            if core.raw is not None and not core.closed and self._connection:
                core.closed = True
                self._lease.session.litter.append(core)

    def _born_or_not(self) -> CursorCore:
        self._lease.check()
        return self._core

    def _open(self) -> CursorCore:
        core = self._born_or_not()
        if core.closed:
            module = self._lease.session.driver.module
            raise getattr(module, "InterfaceError", PoolError)("this cursor is closed")
        return core

    async def _on_thread(
        self, operation: Callable[..., Any], *args: Any, must_run: bool = False
    ) -> Any:
        core = self._open()
        return await self._lease.call(
            _with_core, core, operation, args, core=core, must_run=must_run
        )


class Transaction:
    """A transaction, or a savepoint inside of one, as an `async with` block.

    It commits on success and rolls back on an exception, cancellation included; the rollback runs
    to its end even if the caller is cancelled once more.
    """

    __slots__ = ("_connection", "_depth", "_lease", "_token")

    def __init__(self, connection: Connection, lease: Lease) -> None:
        self._connection = connection
        self._lease = lease
        self._depth = 0  # 1 for the outermost, 0 while it is not under way
        self._token = object()  # stands for this block on the connection's thread

    async def start(self) -> Self:
        """Begin; what `async with` does first."""
        self._lease.check()
        if self._depth:
            raise PoolError(f"{self!r} has been started already; make another one")
        self._depth = await self._call(Session.begin)
        return self

    async def commit(self) -> None:
        """Commit, or release the savepoint."""
        await self._end(Session.commit)

    async def rollback(self) -> None:
        """Roll back, or to the savepoint."""
        await self._end(Session.rollback, must_run=True)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._depth:  # ended by hand
            return
        if error is None:
            await self.commit()
        elif self._connection:
            await self._undo()

    async def _undo(self) -> None:
        """Roll back for an error that is on its way, which counts more than one from here."""
        lease = self._lease
        if lease.record.orphans:  # a cancelled statement is still ending: do not wait for it
            self._depth = 0
            lease.post(Session.withdraw, self._token)
            return
        with suppress(Exception):
            await self.rollback()

    def __repr__(self) -> str:
        kind = "savepoint" if self._depth > 1 else "transaction"
        return f"<{type(self).__name__} ({kind}) of {self._connection!r}>"

    async def _end(self, operation: Callable[..., Any], *, must_run: bool = False) -> None:
        self._lease.check()
        if not self._depth:
            raise PoolError(f"{self!r} is not under way; start it with `async with`")
        self._depth = 0
        await self._call(operation, must_run=must_run)

    async def _call(self, operation: Callable[..., Any], *, must_run: bool = False) -> Any:
        lease = self._lease
        try:
            return await lease.call(operation, self._token, must_run=must_run)
        except CancelledError:
            if lease.ended is None:  # otherwise the return rolls back
                lease.post(Session.withdraw, self._token)
            raise


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


def _with_core(
    session: Session,  # noqa: ARG001 - every operation gets it
    core: CursorCore,
    operation: Callable[..., Any],
    args: tuple[Any, ...],
) -> Any:
    return operation(core, *args)


def _undisguised(connection: Connection, lease: Lease, value: Any) -> Any:
    """Give a proxy where a driver's method has returned its own connection or a cursor."""
    if isinstance(value, CursorCore):
        return Cursor(connection, lease, value)
    return connection if value is lease.session else value


def _is_method(raw: Any, name: str, value: Any) -> bool:
    """Tell a driver's method from a value that happens to be callable (a row factory, say)."""
    if not callable(value) or isinstance(value, type):
        return False
    declared = getattr(type(raw), name, None)
    if declared is not None:
        return callable(declared)
    owner = getattr(value, "__self__", None)
    return isinstance(value, (MethodType, BuiltinMethodType)) and not isinstance(
        owner, (ModuleType, type(None))
    )
