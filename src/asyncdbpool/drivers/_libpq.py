"""What psycopg2 and psycopg have from libpq: the transaction's state, the words, the cancel."""

from __future__ import annotations

import ctypes
import math
import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from asyncdbpool.drivers import _postgres
from asyncdbpool.drivers.base import BaseDriver, Unanswered, error_text, system_says
from asyncdbpool.drivers.dbapi import Driver

__all__ = [
    "FAILED",
    "IDLE",
    "UNKNOWN",
    "Cancel",
    "Libpq",
    "LibpqDriver",
    "functions_of",
    "patience_of",
]

_PATIENCE = 10.0  # seconds that a cancel may take, where no connect timeout is set

IDLE = 0  # enum PGTransactionStatusType
FAILED = 3
UNKNOWN = 4


class Libpq(BaseDriver):
    """libpq knows the transaction's state from every answer, and its socket.

    Attributes:
        dsn_keyword: The keyword of `connect()` for what may also be its first argument.
        code_attribute: The attribute of the module's errors that holds the SQLSTATE.
    """

    database_keyword: ClassVar[str] = "dbname"
    can_reset: ClassVar[bool] = True
    dsn_keyword: ClassVar[str]
    code_attribute: ClassVar[str]

    def with_timeout(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], seconds: float
    ) -> dict[str, Any]:
        """Give libpq a timeout of its own: whole seconds, two at least."""
        asked = dict(kwargs)
        dsn = str(args[0] if args else kwargs.get(self.dsn_keyword, ""))
        is_set = "connect_timeout" in dsn or "PGCONNECT_TIMEOUT" in os.environ
        if not is_set and math.isfinite(seconds):
            asked.setdefault("connect_timeout", max(2, math.ceil(seconds)))
        return asked

    def in_transaction(self, raw: Any) -> bool | None:
        """Libpq tracks the state; anything but idle wants a rollback."""
        status = raw.info.transaction_status
        return None if status == UNKNOWN else bool(status != IDLE)

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """A closed connection, an administrator's shutdown, or a server that became read-only."""
        return bool(raw.closed) or _postgres.is_lost(self._code(error))

    def is_transient(self, error: BaseException) -> bool:
        """Refused, reset, timed out, starting up, in recovery, too many connections."""
        code = self._code(error)
        if code is not None:
            return code in _postgres.SOON
        text = error_text(error)
        return system_says(error) or any(words in text for words in _postgres.SOON_IN_ENGLISH)

    def _code(self, error: BaseException) -> Any:
        return getattr(error, self.code_attribute, None)


class LibpqDriver(Libpq, Driver):
    """What blocking modules do with it."""

    def begin(self, raw: Any) -> None:
        """Begin by hand in autocommit; otherwise the first statement does."""
        if raw.autocommit:
            self.command(raw, "BEGIN")

    def confirm(self, raw: Any) -> None:
        """Have a failed transaction raise its error; COMMIT would be answered with ROLLBACK."""
        if raw.info.transaction_status == FAILED:
            self.command(raw, "SELECT 1")

    def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """`DISCARD ALL`, which wants to be outside of a transaction."""
        self.rollback(raw)
        raw.autocommit = True
        self.command(raw, "DISCARD ALL")


class Cancel:
    """libpq's own cancel for one connection.

    Its handle stays good whatever happens to the connection. It returns once the server has sent
    its signal, so it cannot hit a later statement. libpq 17 has one whose waiting can be bounded;
    before that, a network that swallows packets may hold the thread for long.
    """

    def __init__(self, libpq: ctypes.CDLL, connection: int, patience: float) -> None:
        self._libpq = libpq
        self._patience = patience
        self._one_at_a_time = threading.Lock()
        self._bounded = hasattr(libpq, "PQcancelCreate")
        make = libpq.PQcancelCreate if self._bounded else libpq.PQgetCancel
        self._handle = make(connection)

    def __call__(self, ask: Callable[[], Mapping[str, Any]]) -> None:
        """Cancel what runs; blocking, without the GIL."""
        if self._bounded:
            with self._one_at_a_time:
                self._cancel_in_time()
            return
        reason = ctypes.create_string_buffer(256)
        if not self._libpq.PQcancel(self._handle, reason, len(reason)):
            raise OSError(reason.value.decode(errors="replace").strip())

    def _cancel_in_time(self) -> None:
        libpq, handle = self._libpq, self._handle
        give_up_at = time.monotonic() + self._patience
        libpq.PQcancelReset(handle)
        waits_for, asked = _WRITING if libpq.PQcancelStart(handle) else _FAILURE, False
        while waits_for in _EVENTS:
            asked = asked or waits_for == _READING
            poll = select.poll()
            poll.register(libpq.PQcancelSocket(handle), _EVENTS[waits_for])
            left = max(0.0, give_up_at - time.monotonic())
            if not poll.poll(left * 1000):
                libpq.PQcancelReset(handle)
                raise Unanswered(f"a cancel had no answer within {self._patience:g} s")
            waits_for = libpq.PQcancelPoll(handle)
        if waits_for == _FAILURE:
            reason = libpq.PQcancelErrorMessage(handle).decode(errors="replace").strip()
            raise Unanswered(reason) if asked else OSError(reason)

    def __del__(self) -> None:
        if self._bounded:
            self._libpq.PQcancelFinish(self._handle)
        else:
            self._libpq.PQfreeCancel(self._handle)


_FAILURE, _READING, _WRITING = 0, 1, 2  # enum PostgresPollingStatusType
_EVENTS = {_READING: select.POLLIN, _WRITING: select.POLLOUT}


def patience_of(kwargs: Mapping[str, Any]) -> float:
    """Tell how long a cancel may take, in seconds: as long as a connect."""
    try:
        return float(kwargs.get("connect_timeout", _PATIENCE)) or _PATIENCE
    except ValueError:
        return _PATIENCE


def functions_of(extension: Any) -> ctypes.CDLL | None:
    """Find libpq's functions in the library that an extension module is linked with."""
    pointer = ctypes.c_void_p
    try:
        library = ctypes.CDLL(extension.__file__)
        library.PQgetCancel.argtypes, library.PQgetCancel.restype = [pointer], pointer
        library.PQcancel.argtypes = [pointer, ctypes.c_char_p, ctypes.c_int]
        library.PQfreeCancel.argtypes = [pointer]
    except (AttributeError, OSError):  # an implementation without libpq
        return None
    with suppress(AttributeError):  # libpq before 17
        library.PQcancelCreate.argtypes, library.PQcancelCreate.restype = [pointer], pointer
        for name in ("Reset", "Start", "Poll", "Socket", "Finish"):
            getattr(library, f"PQcancel{name}").argtypes = [pointer]
        library.PQcancelErrorMessage.argtypes = [pointer]
        library.PQcancelErrorMessage.restype = ctypes.c_char_p
    return library
