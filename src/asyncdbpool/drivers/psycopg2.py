"""psycopg2: PostgreSQL through libpq."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from asyncdbpool.drivers import _postgres
from asyncdbpool.drivers.base import error_text, system_says
from asyncdbpool.drivers.dbapi import Canceller, Driver

__all__ = ["Psycopg2Driver"]

_IDLE = 0  # psycopg2.extensions.TRANSACTION_STATUS_IDLE
_FAILED = 3
_UNKNOWN = 4

_SOON_IN_ENGLISH = (
    "timeout expired",
    "server closed the connection unexpectedly",
    "the database system is starting up",
    "the database system is shutting down",
    "the database system is in recovery mode",
    "the database system is not yet accepting connections",
    "too many clients already",
    "remaining connection slots are reserved",
    "too many connections for",
)
"""psycopg2's connect errors carry no SQLSTATE; a server that speaks another language is treated
as failing for good."""


class Psycopg2Driver(Driver):
    """psycopg2 knows its transaction's state from every answer, and its socket."""

    database_keyword: ClassVar[str] = "dbname"
    database_aliases: ClassVar[tuple[str, ...]] = ("database",)
    can_reset: ClassVar[bool] = True
    session_attributes: ClassVar[tuple[str, ...]] = (
        "autocommit",
        "isolation_level",
        "readonly",
        "deferrable",
        "cursor_factory",
    )

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._libpq = _libpq(module)

    def with_timeout(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], seconds: float
    ) -> dict[str, Any]:
        """Give libpq a timeout of its own: whole seconds, two at least."""
        asked = dict(kwargs)
        dsn = str(args[0] if args else kwargs.get("dsn", ""))
        is_set = "connect_timeout" in dsn or "PGCONNECT_TIMEOUT" in os.environ
        if not is_set and math.isfinite(seconds):
            asked.setdefault("connect_timeout", max(2, math.ceil(seconds)))
        return asked

    def in_transaction(self, raw: Any) -> bool | None:
        """Libpq tracks the state; anything but idle wants a rollback."""
        status = raw.info.transaction_status
        return None if status == _UNKNOWN else bool(status != _IDLE)

    def begin(self, raw: Any) -> None:
        """Begin by hand in autocommit; otherwise the first statement does."""
        if raw.autocommit:
            self.command(raw, "BEGIN")

    def confirm(self, raw: Any) -> None:
        """Have a failed transaction raise its error; COMMIT would be answered with ROLLBACK."""
        if raw.info.transaction_status == _FAILED:
            self.command(raw, "SELECT 1")

    def commit(self, raw: Any) -> None:
        """Commit; in autocommit the module's own `commit()` ignores what a statement began."""
        if raw.autocommit and raw.info.transaction_status != _IDLE:
            self.command(raw, "COMMIT")
        raw.commit()

    def rollback(self, raw: Any) -> None:
        """Roll back, as in `commit()`."""
        if raw.autocommit and raw.info.transaction_status != _IDLE:
            self.command(raw, "ROLLBACK")
        raw.rollback()

    def reset(
        self,
        raw: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        """`DISCARD ALL`, which wants to be outside of a transaction, and the module's own reset.

        The latter sets again what the module relies on (`DateStyle`).
        """
        self.rollback(raw)
        raw.autocommit = True
        self.command(raw, "DISCARD ALL")
        raw.reset()

    def canceller(
        self,
        raw: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Canceller | None:
        """Call libpq's own `PQcancel()`.

        The module's `cancel()` does the same, but holds the GIL during the round trip, and
        `pg_cancel_backend()` on a side connection would fail behind PgBouncer. `PQcancel()`
        returns once the server has sent its signal, so it cannot hit a later statement.
        """
        return None if self._libpq is None else _Cancel(self._libpq, raw.pgconn_ptr)

    def gives_rows(self, cursor: Any) -> bool:
        """A named cursor has its description only after the first fetch."""
        return cursor.description is not None or cursor.name is not None

    def goes_behind(self, cursor: Any) -> bool:
        """A named cursor's position is the server's own."""
        return cursor.name is not None

    def close_cursor(self, cursor: Any) -> None:
        """Close; a named cursor that has ended with its transaction says so by an error."""
        try:
            cursor.close()
        except self.module.ProgrammingError:
            if cursor.name is None or cursor.withhold:
                raise

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """A closed connection, an administrator's shutdown, or a server that became read-only."""
        return bool(raw.closed) or _postgres.is_lost(getattr(error, "pgcode", None))

    def is_transient(self, error: BaseException) -> bool:
        """Refused, reset, timed out, starting up, in recovery, too many connections."""
        code = getattr(error, "pgcode", None)
        if code is not None:
            return code in _postgres.SOON
        text = error_text(error)
        return system_says(error) or any(words in text for words in _SOON_IN_ENGLISH)


class _Cancel:
    """One connection's cancel handle; it stays good, and is thread-safe, whatever happens."""

    def __init__(self, libpq: ctypes.CDLL, connection: int) -> None:
        self._libpq = libpq
        self._handle = libpq.PQgetCancel(connection)

    def __call__(self, ask: Callable[[], Mapping[str, Any]]) -> None:
        reason = ctypes.create_string_buffer(256)
        if not self._libpq.PQcancel(self._handle, reason, len(reason)):
            raise OSError(reason.value.decode(errors="replace").strip())

    def __del__(self) -> None:
        self._libpq.PQfreeCancel(self._handle)


def _libpq(module: Any) -> ctypes.CDLL | None:
    """Find libpq's functions in the library that the module is linked with."""
    try:
        library = ctypes.CDLL(module._psycopg.__file__)  # noqa: SLF001 - it has no other name
        library.PQgetCancel.argtypes = [ctypes.c_void_p]
        library.PQgetCancel.restype = ctypes.c_void_p
        library.PQcancel.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
        library.PQfreeCancel.argtypes = [ctypes.c_void_p]
    except (AttributeError, OSError):  # an implementation without libpq
        return None
    return library
