"""What the SQLSTATEs of PostgreSQL say, and its words, whatever driver brings them."""

from __future__ import annotations

__all__ = ["SOON", "SOON_IN_ENGLISH", "is_lost"]

_LOST = frozenset({"57P01", "57P02", "57P03", "25006"})
"""Shut down, crashed, cannot connect now; read-only after a failover."""

_PARAMETERS = "08P01"
"""A protocol violation; what violates it is a wrong number of parameters, left to the server."""

SOON = frozenset({"57P03", "53300"})
"""Starting up or in recovery; too many connections."""

SOON_IN_ENGLISH = (
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
"""The connect errors of libpq's modules carry no SQLSTATE; a server that speaks another language
is treated as failing for good."""


def is_lost(code: object) -> bool:
    """Tell whether a connection is of no more use after an error with this SQLSTATE."""
    if not isinstance(code, str) or code == _PARAMETERS:
        return False
    return code in _LOST or code.startswith("08")
