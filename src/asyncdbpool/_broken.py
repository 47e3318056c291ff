"""What a broken driver gives instead of a connection or a cursor, told at once."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from asyncdbpool.drivers import Driver
from asyncdbpool.errors import PoolError

__all__ = ["refuse_if_no_connection", "refuse_if_no_cursor"]


def refuse_if_no_connection(pool: str, driver: Driver, raw: Any) -> None:
    """Say at once what `connect()` has returned instead."""
    said = f"pool {pool!r}: connect() of {driver.module!r} returned"
    if raw is None:
        raise PoolError(f"{said} None, not a connection")
    if inspect.isawaitable(raw):
        _end_quietly(raw)
        raise PoolError(
            f"{said} {type(raw).__name__}, which is to be awaited; an asyncio driver that this "
            "library does not know needs `driver=`, a NativeDriver"
        )
    if not callable(getattr(raw, "cursor", None)):
        with suppress(Exception):  # whatever it is, nobody else would close it
            driver.close(raw)
        raise PoolError(f"{said} {type(raw).__name__}, which has no cursor(), not a connection")


def refuse_if_no_cursor(pool: str, driver: Driver, cursor: Any) -> None:
    """Say so ahead of the first statement."""
    if not callable(getattr(cursor, "execute", None)):
        _end_quietly(cursor)
        raise PoolError(
            f"pool {pool!r}: cursor() of a connection of {driver.module!r} returned "
            f"{type(cursor).__name__}, which has no execute(), not a cursor"
        )


def _end_quietly(pending: Any) -> None:
    """Close a coroutine that nobody is to await."""
    if isinstance(pending, Coroutine):
        pending.close()
