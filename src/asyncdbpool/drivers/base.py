"""What the pool has to know about any driver, and can be told without I/O."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = ["TRANSIENT", "BaseDriver", "Unanswered", "error_text", "system_says"]

TRANSIENT = (errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.EPIPE)


class Unanswered(Exception):
    """What a canceller raises where its cancel was sent and may take effect later.

    Nobody knows then what it will hit, so the connection is cut off. Any other error means that
    nothing was sent.
    """


class BaseDriver:
    """What `Driver`, for blocking modules, and `NativeDriver`, for asyncio's own, have in common.

    Attributes:
        module: The module, or any object with a `connect`.
        native: True where the driver's methods are coroutines.
        host_keyword: The keyword of `connect()` for the host; None where there are no hosts.
        database_keyword: The keyword of `connect()` for the database's name.
        database_aliases: Other keywords for the same, which it replaces.
        timeout_keyword: The keyword of `connect()` for its own timeout in seconds, if it has one.
        can_reset: Whether `reset()` works; where not, `cleanup="reset"` closes the connection.
        transaction_options: What `begin()`, and so `transaction()`, takes by keyword.
    """

    native: ClassVar[bool] = False
    host_keyword: ClassVar[str | None] = "host"
    database_keyword: ClassVar[str] = "database"
    database_aliases: ClassVar[tuple[str, ...]] = ()
    timeout_keyword: ClassVar[str | None] = None
    can_reset: ClassVar[bool] = False
    transaction_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, module: Any) -> None:
        if not callable(getattr(module, "connect", None)):
            raise TypeError(
                f"{module!r} has no connect(); give a driver's module, such as sqlite3 or asyncpg"
            )
        self.module = module

    def with_timeout(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], seconds: float
    ) -> dict[str, Any]:
        """Add the driver's own connect timeout, unless the user has set one.

        Without it a thread stays in `connect()` long after a network that swallowed its packets
        has healed.
        """
        asked = dict(kwargs)
        if self.timeout_keyword is not None and seconds != float("inf"):
            asked.setdefault(self.timeout_keyword, max(1, round(seconds)))
        return asked

    def fileno(self, raw: Any) -> int | None:
        """Tell the connection's socket, or None where the driver does not."""
        try:
            fileno = getattr(raw, "fileno", None)
            number = fileno() if callable(fileno) else None
        except Exception:  # noqa: BLE001 - whatever it raises, there is no number to be had
            return None
        return number if isinstance(number, int) and number >= 0 else None

    def in_transaction(self, raw: Any) -> bool | None:
        """Tell without I/O whether a transaction is open; None where nobody can say."""
        return None

    def is_blind_after_error(self, raw: Any) -> bool:
        """Tell whether a failed statement may have left a transaction that nobody told of."""
        return False

    def has_rolled_back(self, error: BaseException) -> bool:
        """Tell whether the database has rolled back the whole transaction with this error."""
        return False

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """Tell whether this error means that the connection is of no more use.

        That is a lost connection, or a server that became read-only.
        """
        return isinstance(error, ConnectionError)

    def is_transient(self, error: BaseException) -> bool:
        """Tell whether a failed connect may succeed soon; what is unknown is permanent."""
        return isinstance(error, (ConnectionError, TimeoutError, socket.timeout))


def error_text(error: BaseException) -> str:
    """Return an error's message in lower case, to look for certain words."""
    return str(error).lower()


def system_says(error: BaseException) -> bool:
    """Tell whether an error repeats the operating system's words for a transient failure.

    Compared with `os.strerror`, so it holds in any language of the C library.
    """
    text = str(error)
    return any(os.strerror(number) in text for number in TRANSIENT)
