"""What psycopg's two APIs have in common, the blocking one and asyncio's."""

from __future__ import annotations

import ctypes
import sys
from typing import Any, ClassVar

from asyncdbpool.drivers._libpq import Libpq, functions_of

__all__ = ["SESSION", "Psycopg3", "characteristics", "libpq_of"]

SESSION = (
    "autocommit",
    "isolation_level",
    "read_only",
    "deferrable",
    "row_factory",
    "cursor_factory",
    "server_cursor_factory",
    "prepare_threshold",
    "prepared_max",
)
"""The connection's attributes that set up its session."""


class Psycopg3(Libpq):
    """The words of psycopg's."""

    dsn_keyword: ClassVar[str] = "conninfo"
    code_attribute: ClassVar[str] = "sqlstate"


def characteristics(raw: Any) -> list[str]:
    """Return the words of `BEGIN` for what is set on the connection; None leaves it open."""
    words: list[str] = []
    if raw.isolation_level is not None:
        words.append("ISOLATION LEVEL " + raw.isolation_level.name.replace("_", " "))
    if raw.read_only is not None:
        words.append("READ ONLY" if raw.read_only else "READ WRITE")
    if raw.deferrable is not None:
        words.append("DEFERRABLE" if raw.deferrable else "NOT DEFERRABLE")
    return words


def libpq_of(module: Any) -> ctypes.CDLL | None:
    """Return libpq, to be called past the module where its own cancel would hold the GIL.

    That is with a libpq older than 17; not where the module calls it by ctypes.
    """
    if module.pq.__impl__ == "python" or module.capabilities.has_cancel_safe():
        return None
    return functions_of(sys.modules.get(f"psycopg_{module.pq.__impl__}.pq"))
