"""The queries in one go, on a blocking connection: from the statement to its rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncdbpool.drivers import Driver

__all__ = ["CHUNK", "alone", "column_of", "execute", "execute_many", "fetch_all", "fetch_one"]

CHUNK = 500
"""Rows made at a time while the rest of a result is fetched; the GIL is offered in between."""

_fetching = Lock()
_PATIENCE = 0.1  # seconds; behind a huge result, say, or in a child forked while somebody fetched


@contextmanager
def alone(driver: Driver, cursor: Any) -> Iterator[None]:
    """Have the rest of a large result fetched while no other thread does so.

    Threads that make rows need the GIL, so several at once are no faster than one after the other,
    and the event loop has to wait for its turn among all of them. Where to fetch is to wait for a
    server or a disk, nobody waits for anybody.
    """
    waited = driver.holds_rows(cursor) and _fetching.acquire(timeout=_PATIENCE)
    try:
        yield
    finally:
        if waited:
            _fetching.release()


def fetch_all(driver: Driver, raw: Any, sql: Any, params: Any) -> list[Any]:
    """Run a statement and return all of its rows."""
    rows: list[Any] = _run(driver, raw, "execute", sql, params, _all_rows)
    return rows


def fetch_one(driver: Driver, raw: Any, sql: Any, params: Any) -> Any:
    """Run a statement and return its first row, or None."""
    return _run(driver, raw, "execute", sql, params, _first_row)


def column_of(row: Any, column: Any) -> Any:
    """Return one column of a row, or None where there is no row."""
    if row is None:
        return None
    if isinstance(row, Mapping) and isinstance(column, int):
        return list(row.values())[column]
    return row[column]


def execute(driver: Driver, raw: Any, sql: Any, params: Any) -> int:
    """Run a statement and return its rowcount, -1 where it is not known."""
    count: int = _run(driver, raw, "execute", sql, params, _rowcount)
    return count


def execute_many(driver: Driver, raw: Any, sql: Any, params: Any) -> int:
    """Run a statement once for each set of parameters and return the rowcount."""
    count: int = _run(driver, raw, "executemany", sql, params, _rowcount)
    return count


def _run(  # noqa: PLR0917 - a call and its parts
    driver: Driver,
    raw: Any,
    method: str,
    sql: Any,
    params: Any,
    result: Callable[[Driver, Any], Any],
) -> Any:
    cursor = raw.cursor()
    try:
        run = getattr(cursor, method)
        if params is None:
            run(sql)
        else:
            run(sql, params)
        answer = result(driver, cursor)
    except BaseException:
        with suppress(Exception):  # the first error counts
            cursor.close()
        raise
    cursor.close()
    return answer


def _all_rows(driver: Driver, cursor: Any) -> list[Any]:
    if not driver.gives_rows(cursor):
        return list(cursor.fetchall())  # the driver's own answer, or its own error
    rows: list[Any] = []
    driver.fetch(cursor, CHUNK, rows)
    if len(rows) < CHUNK:
        return rows
    with alone(driver, cursor):
        while True:
            time.sleep(0)  # offers the GIL to the event loop
            before = len(rows)
            driver.fetch(cursor, CHUNK, rows)
            if len(rows) - before < CHUNK:
                return rows


def _first_row(driver: Driver, cursor: Any) -> Any:  # noqa: ARG001 - as the others
    return cursor.fetchone()


def _rowcount(driver: Driver, cursor: Any) -> int:  # noqa: ARG001 - as the others
    return -1 if cursor.rowcount is None else int(cursor.rowcount)
