"""pg8000: PostgreSQL in pure Python."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from asyncdbpool.drivers import _postgres
from asyncdbpool.drivers.base import Unanswered
from asyncdbpool.drivers.dbapi import Canceller, Driver

__all__ = ["Pg8000Driver"]

_IDLE, _FAILED = b"I", b"E"  # what the server says of the transaction, when it is ready for more

_CANCEL = struct.pack(">II", 16, 80877102)  # the length and the code of PostgreSQL's CancelRequest

_PATIENCE = 10.0  # seconds that a cancel may take


class Pg8000Driver(Driver):
    """The module notes what the server says of the transaction, but keeps it to itself."""

    can_reset: ClassVar[bool] = True
    session_attributes: ClassVar[tuple[str, ...]] = ("autocommit",)

    def with_timeout(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], seconds: float
    ) -> dict[str, Any]:
        """Bound the connect, and only that: the module's own `timeout` is for every read."""
        asked = dict(kwargs)
        if seconds != float("inf"):
            asked.setdefault("timeout", _ForTheConnect(seconds))
        return asked

    def connect(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Connect, and take the timeout away again where it was for that."""
        raw = self.module.connect(*args, **kwargs)
        if isinstance(kwargs.get("timeout"), _ForTheConnect):
            raw._usock.settimeout(None)  # noqa: SLF001 - it has no other name
        return raw

    def fileno(self, raw: Any) -> int | None:
        """Ask the socket, which has no public name."""
        return super().fileno(raw._usock)  # noqa: SLF001 - as said

    def in_transaction(self, raw: Any) -> bool | None:
        """The server tells with every answer; anything but idle wants a rollback."""
        status = raw._transaction_status  # noqa: SLF001 - it has no other name
        return None if status is None else bool(status != _IDLE)

    def begin(self, raw: Any) -> None:
        """Begin by hand in autocommit; otherwise the first statement does."""
        if raw.autocommit and not self.in_transaction(raw):
            raw.execute_simple("BEGIN")

    def confirm(self, raw: Any) -> None:
        """Have a failed transaction raise its error; COMMIT would be answered with ROLLBACK."""
        if raw._transaction_status == _FAILED:  # noqa: SLF001 - it has no other name
            self.command(raw, "SELECT 1")

    def commit(self, raw: Any) -> None:
        """Commit, where something is open: else the server would warn."""
        if self.in_transaction(raw) is not False:
            raw.commit()

    def rollback(self, raw: Any) -> None:
        """Roll back, as in `commit()`."""
        if self.in_transaction(raw) is not False:
            raw.rollback()

    def ping(self, raw: Any) -> None:
        """Ask with an empty statement, which begins no transaction."""
        raw.execute_simple("")

    def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """`DISCARD ALL`, which wants to be outside of a transaction."""
        self.rollback(raw)
        raw.execute_simple("DISCARD ALL")

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        """PostgreSQL's cancel request, on a side connection.

        The server closes that once it has sent its signal, so a late cancel is over by then. It
        takes the request without TLS and without a login, as it did from libpq before 17.
        """
        place = raw._usock.getpeername()  # noqa: SLF001 - it has no other name
        request = _CANCEL + bytes(raw._backend_key_data)  # noqa: SLF001 - as above

        def cancel(_ask: Callable[[], Mapping[str, Any]]) -> None:
            with _connected(place) as side:
                side.sendall(request)
                try:
                    side.recv(1)
                except TimeoutError as error:
                    text = f"a cancel had no answer within {_PATIENCE:g} s"
                    raise Unanswered(text) from error

        return cancel

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """A closed or broken socket, a shutdown, or a server that became read-only."""
        return (
            raw._usock is None  # noqa: SLF001 - it has no other name
            or isinstance(error, (self.module.InterfaceError, OSError))
            or _postgres.is_lost(_code(error))
        )

    def is_transient(self, error: BaseException) -> bool:
        """Refused, timed out, starting up, too many connections."""
        cause = error.__cause__
        refused = cause is not None and super().is_transient(cause)
        return refused or _code(error) in _postgres.SOON or super().is_transient(error)


class _ForTheConnect(float):
    """Seconds that a connect may take."""


def _connected(place: Any) -> socket.socket:
    """Connect to where a socket's peer is: a host and a port, or a path."""
    if isinstance(place, tuple):
        return socket.create_connection(place[:2], timeout=_PATIENCE)
    side = socket.socket(socket.AF_UNIX)
    side.settimeout(_PATIENCE)
    side.connect(place)
    return side


def _code(error: BaseException) -> Any:
    """Return the SQLSTATE of an error of pg8000's."""
    told = error.args[0] if error.args else None
    return told.get("C") if isinstance(told, dict) else None
