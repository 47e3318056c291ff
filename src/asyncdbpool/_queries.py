"""The queries in one go, on a blocking connection: from the statement to its rows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncdbpool.drivers import Driver

__all__ = ["CHUNK", "column_of", "execute", "execute_many", "fetch_all", "fetch_one"]

CHUNK = 500
"""Rows made at a time while the rest of a result is fetched; the GIL is offered in between."""


def fetch_all(driver: Driver, raw: Any, sql: Any, params: Any) -> list[Any]:
    """Run a statement and return all of its rows."""

    def rows(cursor: Any) -> list[Any]:
        if not driver.gives_rows(cursor):
            return list(cursor.fetchall())  # the driver's own answer, or its own error
        found: deque[Any] = deque()
        while True:
            before = len(found)
            driver.fetch(cursor, CHUNK, found)
            if len(found) - before < CHUNK:
                return list(found)
            time.sleep(0)  # offers the GIL to the event loop

    found: list[Any] = _run(raw, "execute", sql, params, rows)
    return found


def fetch_one(raw: Any, sql: Any, params: Any) -> Any:
    """Run a statement and return its first row, or None."""
    return _run(raw, "execute", sql, params, lambda cursor: cursor.fetchone())


def column_of(row: Any, column: Any) -> Any:
    """Return one column of a row, or None where there is no row."""
    if row is None:
        return None
    if isinstance(row, Mapping) and isinstance(column, int):
        return list(row.values())[column]
    return row[column]


def execute(raw: Any, sql: Any, params: Any) -> int:
    """Run a statement and return its rowcount, -1 where it is not known."""
    count: int = _run(raw, "execute", sql, params, _rowcount)
    return count


def execute_many(raw: Any, sql: Any, params: Any) -> int:
    """Run a statement once for each set of parameters and return the rowcount."""
    count: int = _run(raw, "executemany", sql, params, _rowcount)
    return count


def _run(raw: Any, method: str, sql: Any, params: Any, result: Callable[[Any], Any]) -> Any:
    cursor = raw.cursor()
    try:
        run = getattr(cursor, method)
        if params is None:
            run(sql)
        else:
            run(sql, params)
        answer = result(cursor)
    except BaseException:
        with suppress(Exception):  # the first error counts
            cursor.close()
        raise
    cursor.close()
    return answer


def _rowcount(cursor: Any) -> int:
    return -1 if cursor.rowcount is None else int(cursor.rowcount)
