"""What psycopg's two APIs have in common, the blocking one and asyncio's."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import Any, ClassVar

from asyncdbpool.drivers._libpq import Libpq, functions_of
from asyncdbpool.drivers.base import Unanswered

__all__ = [
    "SESSION",
    "Psycopg3",
    "Registered",
    "characteristics",
    "is_registered",
    "libpq_of",
    "register_again",
    "registered",
    "verdict_on",
]

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

Registered = tuple[Any, list[Any], list[Any]]
"""How a connection converts values, and whom it calls back."""


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


def registered(raw: Any) -> Registered:
    """Take down the adapters, and who is called back."""
    adapters, (notices, notifies) = raw.adapters, _handlers(raw)
    return type(adapters)(adapters), list(notices), list(notifies)


def is_registered(raw: Any, memory: Registered) -> bool:
    """Tell whether everything is as it was taken down."""
    adapters, *handlers = memory
    return [*_handlers(raw)] == handlers and _are_alike(raw.adapters, adapters)


def register_again(raw: Any, memory: Registered) -> None:
    """Bring back what was taken down."""
    adapters, *handlers = memory
    for now, before in zip(_handlers(raw), handlers, strict=True):
        now[:] = before
    if not _are_alike(raw.adapters, adapters):
        raw._adapters = type(adapters)(adapters)  # noqa: SLF001 - it has no other name


def verdict_on(error: Exception) -> Exception:
    """Tell of a cancel that failed; only one that was refused will certainly not arrive."""
    if os.strerror(errno.ECONNREFUSED) in str(error):
        return error
    return Unanswered(f"a cancel had no answer: {error}")


def _handlers(raw: Any) -> tuple[list[Any], list[Any]]:
    return raw._notice_handlers, raw._notify_handlers  # noqa: SLF001 - they have no other names


def _are_alike(some: Any, others: Any) -> bool:
    """Compare maps of adapters; one that was not written to shares its tables with its copy."""
    return _tables(some) == _tables(others)


def _tables(adapters: Any) -> list[Any]:
    """Return the tables in a list, which compares what is shared by its identity."""
    return [
        adapters.types._registry,  # noqa: SLF001 - it has no other name
        *adapters._loaders,  # noqa: SLF001 - as above
        *adapters._dumpers_by_oid,  # noqa: SLF001 - as above
        *adapters._dumpers.values(),  # noqa: SLF001 - as above
    ]
