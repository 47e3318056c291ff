"""pg8000: PostgreSQL in pure Python."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from asyncdbpool.drivers import _postgres
from asyncdbpool.drivers.base import TRANSIENT, Unanswered
from asyncdbpool.drivers.dbapi import Canceller, Driver

__all__ = ["Pg8000Driver"]

_PATIENCE = 10.0  # seconds that a cancel may take, where no connect timeout is set

_BEFORE_TIMEOUT = 8  # parameters of connect()

_IDLE, _FAILED = b"I", b"E"  # what the server says of the transaction, when it is ready for more


class Pg8000Driver(Driver):
    """pg8000 has the transaction's state from every answer, under a name of its own.

    It knows no way to cancel, so the request goes to the server from here. Its connections are
    made of a class that closes those whose answers nobody has read to the end.
    """

    can_reset: ClassVar[bool] = True

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._connection = type("Connection", (_InStep, module.Connection), {})

    def with_timeout(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], seconds: float
    ) -> dict[str, Any]:
        """Bound the connect, and only that: the module's own `timeout` is for every read."""
        asked = dict(kwargs)
        if seconds != float("inf") and len(args) <= _BEFORE_TIMEOUT:
            asked.setdefault("timeout", _ForTheConnect(seconds))
        return asked

    def connect(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Connect, and take the timeout away again where it was for that."""
        raw: Any = self._connection(*args, **kwargs)
        if isinstance(kwargs.get("timeout"), _ForTheConnect):
            raw._usock.settimeout(None)  # noqa: SLF001 - it has no other name
        return raw

    def fileno(self, raw: Any) -> int | None:
        """Ask the socket, which has no public name."""
        return super().fileno(raw._usock)  # noqa: SLF001 - as said

    # Transactions

    def in_transaction(self, raw: Any) -> bool | None:
        """The server tells with every answer; anything but idle wants a rollback.

        Raises:
            InterfaceError: This side has closed the connection, so its last answer proves nothing.
        """
        if raw._usock is None:  # noqa: SLF001 - it has no other name
            raise self.module.InterfaceError("connection is closed")
        status = raw._transaction_status  # noqa: SLF001 - as above
        return None if status is None else bool(status != _IDLE)

    def begin(self, raw: Any) -> None:
        """Begin by hand, as pg8000 does; but ahead of `callproc()`, too, where it does not."""
        if not self.in_transaction(raw):
            raw.execute_simple("BEGIN")

    def confirm(self, raw: Any) -> None:
        """Have a failed transaction raise its error; COMMIT would be answered with ROLLBACK."""
        if raw._transaction_status == _FAILED:  # noqa: SLF001 - it has no other name
            raw.execute_simple("SELECT 1")

    def commit(self, raw: Any) -> None:
        """Commit, in one round trip; pg8000's own takes three, also where nothing is open."""
        if self.in_transaction(raw):
            raw.execute_simple("COMMIT")

    def rollback(self, raw: Any) -> None:
        """Roll back, as in `commit()`."""
        if self.in_transaction(raw):
            raw.execute_simple("ROLLBACK")

    # Sessions

    def ping(self, raw: Any) -> None:
        """Ask with an empty statement, which begins nothing."""
        raw.execute_simple("")

    def remember(self, raw: Any) -> Any:
        """Take down also how values are converted."""
        return raw.autocommit, dict(raw.pg_types), dict(raw.py_types)

    def restore(self, raw: Any, memory: Any) -> None:
        """Set it up as it was.

        An id of a two-phase transaction would be taken for one of the next borrower's.
        """
        if raw._xid is not None:  # noqa: SLF001 - as above
            raise self.module.InterfaceError("a two-phase transaction was left behind")
        raw.autocommit, *before = memory
        for types, known in zip((raw.pg_types, raw.py_types), before, strict=True):
            if types != known:
                types.clear()
                types.update(known)

    def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """`DISCARD ALL`, which wants to be outside of a transaction."""
        self.rollback(raw)
        raw.execute_simple("DISCARD ALL")

    # Cancelling

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        """PostgreSQL's cancel request, on a connection that goes the way of the first one.

        The server closes it once it has sent its signal, so it cannot hit a later statement.
        """
        used, key = raw._usock, raw._backend_key_data  # noqa: SLF001 - they have no other names
        if key is None:  # a proxy that cannot cancel
            return None
        request = _postgres.cancel_request(*struct.unpack("!2i", key))
        family, address = used.family, used.getpeername()

        def cancel(_ask: Callable[[], Mapping[str, Any]]) -> None:
            with socket.socket(family, socket.SOCK_STREAM) as plain:
                plain.settimeout(kwargs.get("timeout") or _PATIENCE)
                plain.connect(address)
                with _as_safe_as(used, plain) as side:
                    try:
                        side.sendall(request)
                        side.recv(1)
                    except OSError as error:
                        raise Unanswered("the cancel request had no answer") from error

        return cancel

    def absorb_cancel(self, raw: Any) -> None:
        """Send what a cancel between the messages of one statement may have left in the buffer."""
        with suppress(self.module.DatabaseError):
            raw.execute_unnamed("")

    # Errors

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """A lost connection, an administrator's shutdown, or a server that became read-only.

        pg8000 says "connection is closed" only of what this side has closed.
        """
        return (
            _postgres.is_lost(_code(error))
            or self._lost_while_talking(error)
            or super().is_disconnect(error, raw)
        )

    def is_transient(self, error: BaseException) -> bool:
        """Refused, reset, timed out, starting up, in recovery, too many connections."""
        cause = error.__cause__
        return (
            _code(error) in _postgres.SOON
            or self._lost_while_talking(error)
            or (isinstance(cause, OSError) and cause.errno in TRANSIENT)
            or super().is_transient(error if cause is None else cause)
        )

    def _lost_while_talking(self, error: BaseException) -> bool:
        return isinstance(error, self.module.InterfaceError) and str(error) == "network error"


class _ForTheConnect(float):
    """Seconds that a connect may take."""


class _InStep:
    """What a connection of pg8000's lacks: it is closed where an answer was not read to its end.

    That is where a value cannot be converted, or a stream of `COPY` fails. pg8000 would take what
    is left for the answer to the next statement.
    """

    _is_answered = True

    def execute_simple(self, *args: Any, **kwargs: Any) -> Any:
        return self._kept_in_step("execute_simple", *args, **kwargs)

    def execute_unnamed(self, *args: Any, **kwargs: Any) -> Any:
        return self._kept_in_step("execute_unnamed", *args, **kwargs)

    def _kept_in_step(self, method: str, *args: Any, **kwargs: Any) -> Any:
        parent: Any = super()
        try:
            return getattr(parent, method)(*args, **kwargs)
        finally:
            if not self._is_answered:
                with suppress(Exception):  # the first error counts
                    parent.close()

    def _send_message(self, *args: Any) -> None:
        self._is_answered = False
        parent: Any = super()
        parent._send_message(*args)  # noqa: SLF001 - its own

    def send_EXECUTE(self, *args: Any) -> None:  # noqa: N802 - pg8000's name
        self._is_answered = False
        parent: Any = super()
        parent.send_EXECUTE(*args)

    def handle_READY_FOR_QUERY(self, *args: Any) -> None:  # noqa: N802 - pg8000's name
        self._is_answered = True
        parent: Any = super()
        parent.handle_READY_FOR_QUERY(*args)


def _as_safe_as(used: Any, plain: socket.socket) -> socket.socket:
    """Speak TLS on a new socket where a used one does."""
    if not isinstance(used, ssl.SSLSocket):
        return plain
    plain.sendall(_postgres.TLS_REQUEST)
    if plain.recv(1) != b"S":
        raise ConnectionError("the server refuses TLS for a cancel request")
    return used.context.wrap_socket(plain, server_hostname=used.server_hostname)


def _code(error: BaseException) -> Any:
    """Return the SQLSTATE of an error of pg8000's; its errors hold what the server has said."""
    said = error.args[0] if error.args else None
    return said.get("C") if isinstance(said, dict) else None
