"""What PostgreSQL says and is told beside its statements, whatever driver brings it."""

from __future__ import annotations

import struct

__all__ = ["SOON", "SOON_IN_ENGLISH", "TLS_REQUEST", "cancel_request", "is_lost"]

TLS_REQUEST = struct.pack("!2i", 8, 80877103)
"""What asks the server to speak TLS."""

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


def cancel_request(process: int, secret: int) -> bytes:
    """Return what asks the server to cancel what one of its processes runs."""
    return struct.pack("!4i", 16, 80877102, process, secret)
