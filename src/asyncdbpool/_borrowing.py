"""The `async with` forms of borrowing: a connection, or a transaction, for a block."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from asyncdbpool._engine import Engine
from asyncdbpool._lease import Lease
from asyncdbpool._options import Cleanup
from asyncdbpool.errors import PoolError
from asyncdbpool.proxies import Connection, proxy_for

__all__ = ["Borrowing", "Transacting"]


class Borrowing:
    """What `ConnectionPool.connection()` returns: borrow on entry, return on exit."""

    __slots__ = ("_cleanup", "_conn", "_entered", "_opened", "_timeout")

    def __init__(
        self, opened: Callable[[], Engine], timeout: float | None, cleanup: Cleanup
    ) -> None:
        self._opened = opened
        self._timeout = timeout
        self._cleanup: Cleanup = cleanup
        self._entered = False

    async def __aenter__(self) -> Connection:
        if self._entered:
            raise PoolError("this loan is under way already; call connection() for each block")
        self._entered = True
        try:
            engine, cleanup = self._opened(), self._cleanup
            lease = engine.lend_idle(cleanup, certain=True)
            lease = lease or await engine.acquire(self._timeout, cleanup, certain=True)
        except BaseException:
            self._entered = False
            raise
        self._conn = proxy_for(lease)
        return self._conn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered = False
        await _lease_of(self._conn).close(error)


class Transacting(Borrowing):
    """What `ConnectionPool.transaction()` returns: a transaction for the whole loan."""

    __slots__ = ("_transaction",)

    async def __aenter__(self) -> Connection:
        conn = await super().__aenter__()
        try:
            self._transaction = await conn.transaction().start()
        except BaseException as error:
            self._entered = False
            await _lease_of(conn).close(error)
            raise
        return conn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        conn, self._entered = self._conn, False
        try:
            await self._transaction.__aexit__(kind, error, traceback)
        except BaseException as raised:
            await _lease_of(conn).close(raised)
            raise
        await _lease_of(conn).close(error)


def _lease_of(conn: Connection) -> Lease:
    return conn._lease  # noqa: SLF001 - borrowed here
