"""pyodbc: any database that has an ODBC driver."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import MethodType
from typing import Any, ClassVar

from asyncdbpool.drivers import _mysql, _postgres
from asyncdbpool.drivers._mysql_kin import kill_query
from asyncdbpool.drivers.base import error_text, system_says
from asyncdbpool.drivers.dbapi import Canceller, Driver

__all__ = ["Connection", "Cursor", "PyODBCDriver"]

_TIMEOUTS = frozenset({"HYT00", "HYT01"})

_KILLING = frozenset({"MariaDB", "MySQL"})

_NUMBER_OF_MYSQL = re.compile(r"\[(?:ma-|mysql).*\((\d+)\) \(SQL\w+\)", re.IGNORECASE | re.DOTALL)


class PyODBCDriver(Driver):
    """ODBC tells neither the transaction's state nor the socket; it cancels by the cursor.

    Which one runs has to be known, so the connection is presented by one that notes it.
    """

    host_keyword: ClassVar[str | None] = "server"
    timeout_keyword: ClassVar[str | None] = "timeout"
    session_attributes: ClassVar[tuple[str, ...]] = ("autocommit", "timeout", "maxwrite")

    def connect(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Connect, and present the connection by one that knows which cursor runs."""
        return Connection(self.module.connect(*args, **kwargs))

    def begin(self, raw: Any) -> None:
        """Leave autocommit until the transaction ends: each database has words of its own."""
        raw.leave_autocommit()

    def commit(self, raw: Any) -> None:
        """Commit, and go back to autocommit where it was left."""
        raw.commit()
        raw.resume_autocommit()

    def rollback(self, raw: Any) -> None:
        """Roll back, as in `commit()`."""
        raw.rollback()
        raw.resume_autocommit()

    def has_rolled_back(self, error: BaseException) -> bool:
        """A deadlock does in MySQL, say."""
        return _number(error) in _mysql.ROLLED_BACK

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        """`Cursor.cancel()`, which is `SQLCancel()` and may be called on any thread.

        For MariaDB and MySQL it is `KILL QUERY` on a side connection. Their ODBC drivers do the
        same while the server is at work; else they free the rows of the cursor, which the
        connection's thread may be reading, and the process crashes.
        """
        if raw.getinfo(self.module.SQL_DBMS_NAME) not in _KILLING:
            cancel: Canceller = raw.cancel
            return cancel
        number = raw.execute("SELECT CONNECTION_ID()").fetchval()

        def kill(ask: Callable[[], Mapping[str, Any]]) -> None:
            kill_query(self, self.connect(args, {**kwargs, **ask()}), number)

        return kill

    def absorb_cancel(self, raw: Any) -> None:
        """Let a cancel that came too late hit a statement that nobody minds, with any answer."""
        with suppress(self.module.Error):
            self.command(raw, "SELECT 1")

    def interrupted(self, cursor: Any) -> BaseException | None:
        """A cancel may close the cursor that it has just missed."""
        if not cursor.was_cancelled:
            return None
        error: BaseException = self.module.OperationalError("HY008", "Operation canceled")
        return error

    def cursor_kind(self, cursor: Any) -> type:
        """The class of pyodbc's own, which has the methods."""
        return type(cursor.native)

    def reads_ahead(self, cursor_class: type) -> bool:
        """Leave the first row to `fetchval()`."""
        return False

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """A closed connection, a shutdown, or a server that became read-only."""
        return (
            bool(getattr(raw, "closed", False))
            or _postgres.is_lost(_state(error))
            or _number(error) in _mysql.LOST
        )

    def is_transient(self, error: BaseException) -> bool:
        """Refused, timed out, starting up, too many connections."""
        if _state(error) in _postgres.SOON | _TIMEOUTS or _number(error) in _mysql.SOON:
            return True
        text = error_text(error)
        return system_says(error) or any(words in text for words in _postgres.SOON_IN_ENGLISH)


class Connection:
    """A connection of pyodbc's that notes which of its cursors runs; else it is the same.

    Attributes:
        native: pyodbc's own connection.
    """

    native: Any

    def __init__(self, native: Any) -> None:
        own = self.__dict__
        own["native"] = native
        own["running"] = None  # what a cancel is meant for; the connection's thread writes it
        own["cancelling"] = threading.Lock()  # a cursor must not be closed under a cancel
        own["left"] = False  # autocommit, for a transaction

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.native, name, value)

    def cursor(self) -> Cursor:
        """Make a cursor."""
        return Cursor(self, self.native.cursor())

    def execute(self, sql: Any, *params: Any) -> Cursor:
        """Run a statement on a cursor of its own."""
        return self.cursor().execute(sql, *params)

    def leave_autocommit(self) -> None:
        """Have the next statement begin a transaction."""
        if self.native.autocommit:
            self.native.autocommit = False
            self.__dict__["left"] = True

    def resume_autocommit(self) -> None:
        """Go back to autocommit, if it was left."""
        if self.__dict__["left"]:
            self.__dict__["left"] = False
            self.native.autocommit = True

    def run(self, cursor: Cursor, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of a cursor's, which can be cancelled meanwhile."""
        self.__dict__["running"] = cursor
        try:
            return method(*args, **kwargs)
        finally:
            with self.cancelling:
                self.__dict__["running"] = None

    def cancel(self, _ask: Callable[[], Mapping[str, Any]]) -> None:
        """Cancel what runs; on any thread."""
        with self.cancelling:
            cursor = self.running
            if cursor is not None:
                cursor.was_cancelled = True
                cursor.native.cancel()


class Cursor:
    """A cursor of pyodbc's whose connection knows when it runs; else it is the same.

    Attributes:
        connection: What it was made by.
        native: pyodbc's own cursor.
        was_cancelled: True where a cancel was sent since the last `execute()`.
    """

    connection: Connection
    native: Any
    was_cancelled: bool

    def __init__(self, connection: Connection, native: Any) -> None:
        self.__dict__.update(connection=connection, native=native, was_cancelled=False)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.native, name)
        return MethodType(partial(_run, value), self) if callable(value) else value

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "was_cancelled":
            self.__dict__[name] = value
        else:
            setattr(self.native, name, value)

    def execute(self, sql: Any, *params: Any) -> Cursor:
        """Run a statement."""
        self.was_cancelled = False
        self.connection.run(self, self.native.execute, sql, *params)
        return self

    def close(self) -> None:
        """Close it."""
        self.native.close()

    def __iter__(self) -> Cursor:
        return self

    def __next__(self) -> Any:
        return self.connection.run(self, self.native.__next__)


def _run(method: Callable[..., Any], cursor: Cursor, *args: Any, **kwargs: Any) -> Any:
    result = cursor.connection.run(cursor, method, *args, **kwargs)
    return cursor if result is cursor.native else result


def _state(error: BaseException) -> Any:
    """Return the SQLSTATE of an error of pyodbc's."""
    return error.args[0] if error.args else None


def _number(error: BaseException) -> int | None:
    """Return the number of an error that comes from a driver for MySQL or MariaDB."""
    found = _NUMBER_OF_MYSQL.search(str(error))
    return None if found is None else int(found[1])
