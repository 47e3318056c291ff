"""The queries in one hop: run on the connection's thread, from the statement to its rows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from asyncdbpool._cursor import CHUNK
from asyncdbpool._session import Session

__all__ = ["execute", "execute_many", "fetch_all", "fetch_one", "fetch_val"]


def fetch_all(session: Session, sql: Any, params: Any) -> list[Any]:
    """Run a statement and return all of its rows."""

    def rows(cursor: Any) -> list[Any]:
        if not session.driver.gives_rows(cursor):
            return list(cursor.fetchall())  # the driver's own answer, or its own error
        found: deque[Any] = deque()
        while True:
            before = len(found)
            session.driver.fetch(cursor, CHUNK, found)
            if len(found) - before < CHUNK:
                return list(found)
            time.sleep(0)  # offers the GIL to the event loop

    found: list[Any] = _run(session, "execute", sql, params, rows)
    return found


def fetch_one(session: Session, sql: Any, params: Any) -> Any:
    """Run a statement and return its first row, or None."""
    return _run(session, "execute", sql, params, lambda cursor: cursor.fetchone())


def fetch_val(session: Session, sql: Any, params: Any, column: Any) -> Any:
    """Run a statement and return one column of its first row, or None."""
    row = fetch_one(session, sql, params)
    if row is None:
        return None
    if isinstance(row, Mapping) and isinstance(column, int):
        return list(row.values())[column]
    return row[column]


def execute(session: Session, sql: Any, params: Any) -> int:
    """Run a statement and return its rowcount, -1 where it is not known."""
    count: int = _run(session, "execute", sql, params, _rowcount)
    return count


def execute_many(session: Session, sql: Any, params: Any) -> int:
    """Run a statement once for each set of parameters and return the rowcount."""
    count: int = _run(session, "executemany", sql, params, _rowcount)
    return count


def _run(
    session: Session, method: str, sql: Any, params: Any, result: Callable[[Any], Any]
) -> Any:
    cursor = session.raw.cursor()
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
