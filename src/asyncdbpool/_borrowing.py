"""The `async with` forms of borrowing: a connection, or a transaction, for a block."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from types import TracebackType

from asyncdbpool.proxies import Connection

__all__ = ["Borrowing", "Transacting"]


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
        await _give_back(self._conn, error)


class Transacting(Borrowing):
    """What `ConnectionPool.transaction()` returns: a transaction for the whole loan."""

    __slots__ = ("_transaction",)

    async def __aenter__(self) -> Connection:
        conn = await super().__aenter__()
        try:
            self._transaction = await conn.transaction().start()
        except BaseException as error:
            await _give_back(conn, error)
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
        finally:
            await _give_back(self._conn, error)


async def _give_back(conn: Connection, error: BaseException | None) -> None:
    """Return a connection; a caller who was cancelled does not wait until it is clean."""
    if conn and isinstance(error, CancelledError):
        lease = conn._lease  # noqa: SLF001 - borrowed here
        lease.give_back(lease.cleanup)
    else:
        await conn.close()
