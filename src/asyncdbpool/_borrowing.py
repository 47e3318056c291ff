"""The `async with` forms of borrowing: a connection, or a transaction, for a block."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from types import TracebackType

from asyncdbpool._lease import Lease
from asyncdbpool.proxies import Connection

__all__ = ["Borrowing", "Transacting", "give_back"]


class Borrowing:
    """What `ConnectionPool.connection()` returns: borrow on entry, return on exit."""

    __slots__ = ("_borrow", "_conn")

    def __init__(self, borrow: Callable[[], Awaitable[Connection]]) -> None:
        self._borrow = borrow

    async def __aenter__(self) -> Connection:
        self._conn = await self._borrow()
        return self._conn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await give_back(_lease_of(self._conn), error)


class Transacting(Borrowing):
    """What `ConnectionPool.transaction()` returns: a transaction for the whole loan."""

    __slots__ = ("_transaction",)

    async def __aenter__(self) -> Connection:
        conn = await super().__aenter__()
        try:
            self._transaction = await conn.transaction().start()
        except BaseException as error:
            await give_back(_lease_of(conn), error)
            raise
        return conn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._transaction.__aexit__(kind, error, traceback)
        except BaseException as raised:
            await give_back(_lease_of(self._conn), raised)
            raise
        await give_back(_lease_of(self._conn), error)


async def give_back(lease: Lease, error: BaseException | None) -> None:
    """End a lease, if it has not ended; a caller who was cancelled does not wait for more."""
    if lease.ended:
        return
    if isinstance(error, CancelledError):
        lease.give_back(lease.cleanup)
        return
    lease.use()
    settled = lease.give_back(lease.cleanup)
    if settled is not None:
        await settled


def _lease_of(conn: Connection) -> Lease:
    return conn._lease  # noqa: SLF001 - borrowed here
