"""What the error numbers of MySQL and MariaDB say, whatever driver brings them."""

from __future__ import annotations

from typing import Any

__all__ = ["INTERRUPTED", "IN_TRANSACTION", "LOST", "ROLLED_BACK", "SOON", "number"]

IN_TRANSACTION = 1  # SERVER_STATUS_IN_TRANS, a flag that the server sends with its answers

INTERRUPTED = 1317  # query execution was interrupted

ROLLED_BACK = frozenset(
    {
        1213,  # deadlock
        1206,  # too many locks
        1020,  # record has changed since last read (MariaDB's innodb_snapshot_isolation)
    }
)
"""Errors that take the whole transaction, where others take their statement."""

LOST = frozenset(
    {
        2006,  # server has gone away
        2013,  # lost connection during query
        2055,  # lost connection, system error
        1053,  # server shutdown in progress
        1927,  # connection was killed (MariaDB)
        4031,  # disconnected for inactivity (MySQL)
        1290,  # read-only after a failover (--read-only)
        1836,  # read-only after a failover
    }
)

SOON = frozenset(
    {
        2002,  # cannot connect through the socket
        2003,  # cannot connect
        2006,
        2013,  # lost connection while connecting
        1226,  # an account has all the connections that it may have
        2055,
        1040,  # too many connections
        1053,
        1203,  # too many connections of this user
    }
)


def number(error: BaseException, module: Any) -> int | None:
    """Return the number of a module's own error, None for any other.

    It comes as an attribute, or as the first argument.
    """
    if not isinstance(error, module.Error):
        return None
    found = getattr(error, "errno", error.args[0] if error.args else None)
    return found if isinstance(found, int) else None
