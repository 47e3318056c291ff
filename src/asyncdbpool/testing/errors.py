"""The fake driver's exceptions: PEP 249's, and two for lost connections."""

from __future__ import annotations

__all__ = [
    "DatabaseError",
    "Error",
    "InterfaceError",
    "Lost",
    "OperationalError",
    "ProgrammingError",
    "ReadOnly",
    "Warning",
]


class Warning(Exception):  # noqa: A001 - PEP 249's name
    """PEP 249's."""


class Error(Exception):
    """PEP 249's."""


class InterfaceError(Error):
    """PEP 249's."""


class DatabaseError(Error):
    """PEP 249's."""


class OperationalError(DatabaseError):
    """PEP 249's."""


class ProgrammingError(DatabaseError):
    """PEP 249's."""


class Lost(OperationalError, ConnectionError):
    """The connection is lost, or could not be made just now."""


class ReadOnly(OperationalError):
    """The server has become read-only, which only the fake's own driver files know about."""
