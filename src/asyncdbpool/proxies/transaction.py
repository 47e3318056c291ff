"""The transaction of a borrowed connection."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from asyncdbpool._lease import Lease
from asyncdbpool.errors import PoolError

if TYPE_CHECKING:
    from asyncdbpool.proxies.connection import Connection

__all__ = ["Transaction"]


class Transaction:
    """A transaction, or a savepoint inside of one, as an `async with` block.

    It commits on success and rolls back on an exception, cancellation included; the rollback runs
    to its end even if the caller is cancelled once more.
    """

    __slots__ = ("_connection", "_depth", "_lease", "_options", "_token")

    def __init__(self, connection: Connection, lease: Lease, options: Mapping[str, Any]) -> None:
        unknown = sorted(options.keys() - set(lease.session.driver.transaction_options))
        if unknown:
            raise TypeError(
                f"pool {lease.lender.name!r}: this driver's transactions take no "
                f"{', '.join(unknown)}"
            )
        self._connection = connection
        self._lease = lease
        self._options = options
        self._depth = 0  # 1 for the outermost, 0 while it is not under way
        self._token = object()  # stands for this block on the connection's thread

    async def start(self) -> Self:
        """Begin; what `async with` does first."""
        self._lease.check()
        if self._depth:
            raise PoolError(f"{self!r} has been started already; make another one")
        self._depth = await self._call(self._lease.session.begin, self._options)
        return self

    async def commit(self) -> None:
        """Commit, or release the savepoint."""
        await self._end(self._lease.session.commit)

    async def rollback(self) -> None:
        """Roll back, or to the savepoint."""
        await self._end(self._lease.session.rollback, must_run=True)

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
            await self._undo(error)

    async def _undo(self, error: BaseException) -> None:
        """Roll back for an error that is on its way, which counts more than one from here."""
        lease = self._lease
        if isinstance(error, CancelledError) or lease.record.orphans:  # do not wait for it
            self._depth = 0
            lease.post(lease.session.withdraw, self._token)
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

    async def _call(
        self, operation: Callable[..., Any], *args: Any, must_run: bool = False
    ) -> Any:
        lease = self._lease
        try:
            return await lease.call(
                operation, self._token, *args, must_run=must_run, cancel=not must_run
            )
        except CancelledError:
            if lease.ended is None:  # otherwise the return rolls back
                lease.post(lease.session.withdraw, self._token)
            raise
