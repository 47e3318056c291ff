"""The borrowed connection of a blocking driver, and what every borrowed connection has."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from asyncdbpool._cursor import CursorCore
from asyncdbpool._lease import Lease
from asyncdbpool._options import checked_kind
from asyncdbpool.errors import PoolError
from asyncdbpool.proxies._members import is_method
from asyncdbpool.proxies.cursor import Cursor, Execution, undisguised
from asyncdbpool.proxies.transaction import Transaction

if TYPE_CHECKING:
    from asyncdbpool._session import Session

__all__ = ["Connection"]


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
        return Cursor(self, self._lease, CursorCore(self._session, args, kwargs))

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
        rows: list[Any] = await self._query(self._lease.session.fetch_all, sql, params)
        return rows

    async def fetch_one(self, sql: Any, params: Any = None) -> Any:
        """Run a statement and return its first row or None, in one hop."""
        return await self._query(self._lease.session.fetch_one, sql, params)

    async def fetch_val(self, sql: Any, params: Any = None, column: Any = 0) -> Any:
        """Run a statement and return one column of its first row or None, in one hop."""
        return await self._query(self._lease.session.fetch_val, sql, params, column)

    async def execute_many(self, sql: Any, params: Any) -> int:
        """Run a statement once for each set of parameters and return the rowcount, in one hop."""
        count: int = await self._query(self._lease.session.execute_many, sql, params)
        return count

    async def _query(self, query: Callable[..., Any], sql: Any, *args: Any) -> Any:
        self._lease.statement = sql
        return await self._lease.call(query, sql, *args)

    async def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run `fn(raw, *args, **kwargs)` with the driver's own connection, in its turn.

        You commit. A cancelled call ends at once, and the statement that runs is cancelled in the
        database; a coroutine function is cancelled, too, a blocking one cannot be stopped.

        Args:
            fn: A blocking function, or for a native driver a coroutine function; nothing of what
                it is given may outlive it.
            *args: Passed on.
            **kwargs: Passed on.

        Returns:
            What `fn` returns.
        """
        self._lease.check()
        session = self._lease.session
        checked_kind("fn", fn, native=session.driver.native)
        return await self._lease.call(session.apply, fn, args, kwargs)

    # Transactions

    async def commit(self) -> None:
        """Commit the open transaction."""
        await self._lease.call(self._lease.session.commit)

    async def rollback(self) -> None:
        """Roll the open transaction back; it runs even if the caller is cancelled meanwhile."""
        await self._lease.call(self._lease.session.rollback, must_run=True, cancel=False)

    def transaction(self, **options: Any) -> Transaction:
        """Make an `async with` block that commits on success and rolls back on an exception.

        The outermost block ends the connection's whole transaction, also what was begun before
        it; blocks inside of it are savepoints.

        Args:
            **options: What the driver can begin a transaction with; asyncpg's are `isolation`,
                `readonly` and `deferrable`.

        Raises:
            TypeError: The driver knows no such option.
        """
        self._lease.check()
        return Transaction(self, self._lease, options)

    async def cancel(self) -> None:
        """Cancel in the database the statement that another task runs on this connection.

        That task gets the driver's own error for a cancelled statement. Where nothing runs,
        nothing happens; the next statement is never hit. To be cancelled with its task, a
        statement needs no call: that is done by itself.

        Raises:
            PoolError: The driver has no way to cancel.
            Exception: Whatever the driver raises for the attempt.
        """
        self._lease.check_here()
        if self._lease.session.canceller is None:
            raise PoolError(
                f"pool {self._lease.lender.name!r}: this driver cannot cancel a statement"
            )
        await self._lease.lender.cancel(self._lease.record)

    # The end

    async def close(self) -> None:
        """Return the connection to the pool; a second call does nothing."""
        await self._lease.close()

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
        try:
            lease = self._lease
        except AttributeError:  # an __init__ that failed
            return
        if lease.ended is None:
            try:
                warn(
                    f"{self!r} was dropped without being returned; use "
                    "`async with pool.connection()` or `await pool.put(conn)`",
                    ResourceWarning,
                    stacklevel=2,
                    source=self,
                )
            finally:  # the warning may be an error
                lease.lender.reclaim(lease)

    # Everything else that the driver's connection has

    @property
    def _session(self) -> Session:
        return cast("Session", self._lease.session)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in Connection.__slots__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        lease = self._lease
        lease.check()
        for wished, value in reversed(self._session.wishes.copy()):  # the thread may take one
            if wished == name:
                return value
        if name in self._session.driver.asking_attributes:  # it would stop the event loop
            raise PoolError(
                f"pool {lease.lender.name!r}: {name} asks the server when it is read; "
                "read it in a function for run()"
            )
        value = getattr(lease.session.raw, name)
        return partial(self._call, name) if is_method(lease.session.raw, name, value) else value

    def __setattr__(self, name: str, value: Any) -> None:
        self._lease.check()
        self._session.wishes.append((name, value))

    async def _call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        value = await self._lease.call(self._session.call, name, args, kwargs)
        return undisguised(self, self._lease, value)
