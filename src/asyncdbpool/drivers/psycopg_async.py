"""psycopg (version 3), its API for asyncio, by its class `psycopg.AsyncConnection`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from importlib import import_module
from typing import Any

import anyio

from asyncdbpool.drivers._libpq import FAILED, IDLE, Cancel, patience_of
from asyncdbpool.drivers._psycopg3 import (
    SESSION,
    Psycopg3,
    characteristics,
    is_registered,
    libpq_of,
    register_again,
    registered,
    verdict_on,
)
from asyncdbpool.drivers.native import NativeCanceller, NativeDriver
from asyncdbpool.errors import PoolError

__all__ = ["PsycopgAsyncDriver"]

_BY_METHOD = frozenset({"autocommit", "isolation_level", "read_only", "deferrable"})
"""What is set by a coroutine function, `set_autocommit()` say."""

_READING = frozenset({"fetchone", "fetchmany", "fetchall", "scroll", "__anext__"})

_KEEPING = frozenset({"copy", "notifies", "results", "stream"})
"""What keeps the connection to itself between two steps."""


class PsycopgAsyncDriver(Psycopg3, NativeDriver):
    """libpq knows the transaction's state from every answer, and psycopg cancels in the server."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        psycopg = import_module("psycopg")
        self._errors = psycopg.errors
        self._libpq = libpq_of(psycopg)
        self._streaming = psycopg.AsyncServerCursor
        self.guests = (psycopg.AsyncCursor, psycopg.AsyncPipeline, AbstractAsyncContextManager)

    # Connecting

    def terminate(self, raw: Any) -> None:
        """Have libpq close it, which waits for nothing."""
        raw.pgconn.finish()

    def is_closed(self, raw: Any) -> bool:
        """Libpq sees an end when it reads; nobody does in between, so the pool watches."""
        return bool(raw.closed)

    # Statements

    async def command(self, raw: Any, sql: str) -> None:
        """Run a statement; where a pipeline is open, have its answer, and those before it."""
        await _catch_up(raw)
        await raw.execute(sql)
        await _catch_up(raw)

    async def fetch_all(self, raw: Any, sql: Any, params: Any) -> list[Any]:
        """Run a statement and return its rows."""
        cursor = await raw.execute(sql, params)
        rows: list[Any] = await cursor.fetchall() if _gives_rows(cursor) else []
        return rows

    async def fetch_one(self, raw: Any, sql: Any, params: Any) -> Any:
        """Run a statement and return its first row, or None."""
        cursor = await raw.execute(sql, params)
        return await cursor.fetchone() if _gives_rows(cursor) else None

    async def execute(self, raw: Any, sql: Any, params: Any) -> int:
        """Run a statement and return its rowcount."""
        cursor = await raw.execute(sql, params)
        return int(cursor.rowcount)

    async def execute_many(self, raw: Any, sql: Any, params: Any) -> int:
        """Run a statement for each set of parameters, in a pipeline."""
        cursor = raw.cursor()
        await cursor.executemany(sql, params)
        return int(cursor.rowcount)

    # Transactions

    def in_transaction(self, raw: Any) -> bool | None:
        """In a pipeline the answers come later."""
        return None if raw.pgconn.pipeline_status else super().in_transaction(raw)

    async def begin(self, raw: Any, **options: Any) -> None:
        """Begin by hand in autocommit, as psycopg does elsewhere."""
        await _catch_up(raw)
        if raw.autocommit and raw.info.transaction_status == IDLE:
            await self.command(raw, " ".join(["BEGIN", *characteristics(raw)]))

    async def confirm(self, raw: Any) -> None:
        """Have a failed transaction raise its error; COMMIT would be answered with ROLLBACK."""
        await _catch_up(raw)
        if raw.info.transaction_status == FAILED:
            await self.command(raw, "SELECT 1")

    async def commit(self, raw: Any) -> None:
        """Commit."""
        await raw.commit()

    async def rollback(self, raw: Any) -> None:
        """Roll back."""
        await raw.rollback()

    async def rollback_savepoint(self, raw: Any, name: str) -> None:
        """Undo also what a pipeline has not told yet, whatever it has to tell."""
        with suppress(self._errors.Error):
            await _catch_up(raw)
        await super().rollback_savepoint(raw, name)

    # Sessions

    async def ping(self, raw: Any) -> None:
        """Ask with an empty statement, in one round trip."""
        autocommit = raw.autocommit
        await raw.set_autocommit(True)
        try:
            await self.command(raw, "")
        finally:
            await raw.set_autocommit(autocommit)

    def is_unread(self, raw: Any) -> bool:
        """A pipeline that was left open has answers to come."""
        return bool(raw.pgconn.pipeline_status)

    def remember(self, raw: Any) -> Any:
        """Take down also what is registered: adapters, and who is called back."""
        return _attributes(raw), registered(raw)

    def is_altered(self, raw: Any, memory: Any) -> bool:
        """Compare with how it was."""
        attributes, before = memory
        return _attributes(raw) != attributes or not is_registered(raw, before)

    async def restore(self, raw: Any, memory: Any) -> None:
        """Set the attributes again, and take back what was registered."""
        attributes, before = memory
        for name, value in attributes.items():
            if getattr(raw, name) != value:
                if name in _BY_METHOD:
                    await getattr(raw, f"set_{name}")(value)
                else:
                    setattr(raw, name, value)
        register_again(raw, before)

    async def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """`DISCARD ALL`, then a rollback, with which psycopg forgets its prepared statements."""
        await raw.rollback()
        await raw.set_autocommit(True)
        await self.command(raw, "DISCARD ALL")
        await self.command(raw, "BEGIN")
        await raw.rollback()

    # Cancelling

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> NativeCanceller | None:
        """`cancel_safe()`, which waits for the server to have sent its signal.

        With a libpq older than 17 its `PQcancel()`, on a thread, as for the blocking API.
        """
        patience = patience_of(kwargs)
        if self._libpq is not None:
            by_libpq = Cancel(self._libpq, raw.pgconn.pgconn_ptr, patience)

            async def cancel_on_a_thread(_ask: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
                cancel, apart = partial(by_libpq, dict), anyio.CapacityLimiter(1)
                await anyio.to_thread.run_sync(cancel, abandon_on_cancel=True, limiter=apart)

            return cancel_on_a_thread

        async def cancel(_ask: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
            try:
                await raw.cancel_safe(timeout=patience)
            except self._errors.OperationalError as error:
                raise verdict_on(error) from error

        return cancel

    # Cursors

    def reads_ahead(self, owner: Any) -> bool:
        """An iteration moves the cursor itself, with psycopg 3.2 also by a generator."""
        return False

    def loses_rows(self, owner: Any, name: str) -> bool:
        """What is read from the server's own cursor is gone with its reader."""
        return isinstance(owner, self._streaming) and name in _READING

    def takes_turn(self, owner: Any, name: str) -> bool:
        """A cursor of the ordinary kind has its rows in memory, unless in a pipeline.

        Raises:
            PoolError: The method would keep the connection from whose turn is next.
        """
        if name in _KEEPING:
            raise PoolError(
                f"{name}() keeps psycopg's connection to itself; use it in a function for run()"
            )
        if name in _READING and not isinstance(owner, self._streaming):
            return bool(owner.connection.pgconn.pipeline_status)
        return super().takes_turn(owner, name)


def _gives_rows(cursor: Any) -> bool:
    """Tell whether there are rows; in a pipeline that is not known yet."""
    return cursor.description is not None or bool(cursor.connection.pgconn.pipeline_status)


def _attributes(raw: Any) -> dict[str, Any]:
    return {name: getattr(raw, name) for name in SESSION}


async def _catch_up(raw: Any) -> None:
    """Where a pipeline is open, wait for what is still to come; one in it ends with that."""
    if raw.pgconn.pipeline_status:
        async with raw.pipeline():
            pass
