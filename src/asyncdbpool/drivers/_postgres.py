"""What the SQLSTATEs of PostgreSQL say, whatever driver brings them."""

from __future__ import annotations

__all__ = ["SOON", "is_lost"]

_LOST = frozenset({"57P01", "57P02", "57P03", "25006"})
"""Shut down, crashed, cannot connect now; read-only after a failover."""

SOON = frozenset({"57P03", "53300"})
"""Starting up or in recovery; too many connections."""


def is_lost(code: object) -> bool:
    """Tell whether a connection is of no more use after an error with this SQLSTATE."""
    return isinstance(code, str) and (code in _LOST or code.startswith("08"))
