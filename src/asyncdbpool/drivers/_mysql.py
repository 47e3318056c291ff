"""What the error numbers of MySQL and MariaDB say, whatever driver brings them."""

from __future__ import annotations

__all__ = ["DEADLOCK", "INTERRUPTED", "LOST", "SOON", "number"]

INTERRUPTED = 1317  # query execution was interrupted

DEADLOCK = 1213  # which rolls back the whole transaction

LOST = frozenset(
    {
        2006,  # server has gone away
        2013,  # lost connection during query
        2014,  # commands out of sync
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
        2055,
        1040,  # too many connections
        1053,
        1203,  # too many connections of this user
    }
)


def number(error: BaseException) -> object:
    """Return an error's number, or whatever comes first in it, or None."""
    return error.args[0] if error.args else None
