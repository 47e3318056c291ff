"""DuckDB: the embedded database for analysis, its cursors made to share one transaction."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MethodType
from typing import Any, ClassVar, Self

from asyncdbpool.drivers.dbapi import Canceller, Driver

__all__ = ["Connection", "Cursor", "DuckDBDriver"]

_MAY_BEGIN_OR_END = re.compile(
    r"\b(begin|start|commit|end|rollback|abort|prepare|execute|import)\b", re.IGNORECASE
)

_FORMS = frozenset(
    {
        "arrow",
        "df",
        "fetch_arrow_table",
        "fetch_df",
        "fetch_df_chunk",
        "fetch_record_batch",
        "fetchdf",
        "fetchnumpy",
        "pl",
        "tf",
        "to_arrow_reader",
        "to_arrow_table",
        "torch",
    }
)
"""Methods that give a result in a form of DuckDB's own."""


class DuckDBDriver(Driver):
    """DuckDB has no hosts, no socket, no implicit transaction and no savepoints."""

    host_keyword: ClassVar[str | None] = None

    def connect(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Connect, and present the connection as PEP 249 has it."""
        return Connection(self.module, self.module.connect(*args, **kwargs))

    def in_transaction(self, raw: Any) -> bool | None:
        """Ask the database, which is no I/O; not while a result is read, which would end it."""
        known: bool | None = raw.in_transaction
        return known

    def begin(self, raw: Any) -> None:
        """Begin, unless a statement has done so already."""
        raw.keep_rows()
        if not raw.in_transaction:
            raw.begin()

    def begin_once(self, raw: Any, work: str) -> None:
        """Begin in any case: there is no autocommit that a user would have chosen."""
        self.begin(raw)

    def confirm(self, raw: Any) -> None:
        """Have a failed transaction raise its error: COMMIT would roll it back in silence."""
        self.command(raw, "SELECT 1")

    def savepoint(self, raw: Any, name: str) -> None:
        """Refuse, by name."""
        raise self.module.NotSupportedError(
            "DuckDB has no savepoints, so there can be no transaction() inside of another one"
        )

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        """`interrupt()` may come from any thread; a statement begins by forgetting it."""
        interrupt = raw.native.interrupt
        return lambda _ask: interrupt()

    def interrupted(self, cursor: Any) -> BaseException | None:
        """An interrupt ends a result that is half read, unless its rows are in memory."""
        if cursor.has_rows_in_memory:
            return None
        error: BaseException = self.module.InterruptException("INTERRUPT Error: Interrupted!")
        return error

    def reads_ahead(self, cursor_class: type) -> bool:
        """Leave the rows to `df()` and its like."""
        return False

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """A closed connection, or a database that is of no more use until it is opened anew."""
        return isinstance(error, (self.module.ConnectionException, self.module.FatalException))


class Connection:
    """A connection of DuckDB's, as PEP 249 has it, with everything else that it has.

    DuckDB's own `cursor()` is another connection with a transaction of its own, and a connection
    has one result at a time. Here the cursors share the one connection: before it runs another
    statement, a cursor that is half read takes the rest of its rows into memory. `commit()` and
    `rollback()` do nothing where nothing is open.

    Attributes:
        native: DuckDB's own connection.
    """

    def __init__(self, module: Any, native: Any) -> None:
        self.native = native
        self._module = module
        self._reader: Cursor | None = None  # the cursor that the open result belongs to
        self._open = False
        self._unsure = False  # whether `_open` still holds

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.native, name)
        return MethodType(partial(_call, value), self) if callable(value) else value

    def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of DuckDB's connection, which may do anything."""
        self.keep_rows()
        self._unsure = True
        result = method(*args, **kwargs)
        return self if result is self.native else result

    def run(self, cursor: Cursor, method: str, *args: Any) -> None:
        """Run a statement for a cursor."""
        self.keep_rows()
        sql = args[0]
        if not isinstance(sql, str) or _MAY_BEGIN_OR_END.search(sql):
            self._unsure = True
        try:
            getattr(self.native, method)(*args)
        except BaseException:
            self._unsure = True
            raise
        self._reader = cursor

    def keep_rows(self) -> None:
        """Have the cursor that is half read take its rows along."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.take_along(self.native)

    def end_reading(self, cursor: Cursor, *, early: bool) -> None:
        """Let go of the open result, if it is this cursor's."""
        if self._reader is cursor:
            self._reader = None
            if early:
                self.native.execute("")

    def refuse_unless_reading(self, cursor: Cursor) -> None:
        """Raise where the open result is not this cursor's."""
        if self._reader is not cursor:
            raise self._module.InvalidInputException(
                "another statement has run since, so these rows can be fetched as rows only"
            )

    @property
    def in_transaction(self) -> bool | None:
        """Whether a transaction is open; None while a result is read, if a statement may have
        changed it.
        """
        if self._unsure:
            if self._reader is not None:
                return None
            self._open = self._ask()
            self._unsure = False
        return self._open

    def _ask(self) -> bool:
        """Look whether two statements have the same transaction."""
        try:
            first, second = (
                self.native.execute("SELECT txid_current()").fetchall() for _ in range(2)
            )
        except self._module.TransactionException:  # it is open, but has failed
            return True
        return bool(first == second)

    def cursor(self) -> Cursor:
        """Make a cursor on this connection."""
        return Cursor(self)

    def begin(self) -> Self:
        """Begin a transaction."""
        self.call(self.native.begin)
        return self

    def commit(self) -> None:
        """Commit, if there is something to commit."""
        self.keep_rows()
        if self.in_transaction:
            self.call(self.native.commit)

    def rollback(self) -> None:
        """Roll back, if there is something to roll back."""
        self.keep_rows()
        if self.in_transaction:
            self.call(self.native.rollback)

    def close(self) -> None:
        """Close it, with its open result."""
        self.native.close()


class Cursor:
    """One result of a connection; whatever else DuckDB has to fetch is there too."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arraysize = 1
        self.description: Any = None
        self.rowcount = -1
        self._rest: deque[Any] | None = deque()  # rows in memory; None: the connection has them
        self._error: BaseException | None = None  # what came in place of the next ones

    def __getattr__(self, name: str) -> Any:
        if name in _FORMS:
            return MethodType(partial(_fetch, getattr(self.connection.native, name)), self)
        return getattr(self.connection, name)

    def fetch(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of DuckDB's connection that gives the result in a form of its own."""
        self.connection.refuse_unless_reading(self)
        return method(*args, **kwargs)

    def execute(self, sql: Any, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Self:
        """Run a statement."""
        return self._run("execute", *([sql] if params is None else [sql, params]))

    def executemany(self, sql: Any, params: Sequence[Any]) -> Self:
        """Run a statement for each set of parameters."""
        return self._run("executemany", sql, params)

    def _run(self, method: str, *args: Any) -> Self:
        self.connection.end_reading(self, early=False)
        self._rest, self._error, self.description, self.rowcount = deque(), None, None, -1
        self.connection.run(self, method, *args)
        self._rest = None
        native = self.connection.native
        self.description, self.rowcount = native.description, native.rowcount
        return self

    @property
    def has_rows_in_memory(self) -> bool:
        """Whether the rows that are left need the connection no more."""
        return self._rest is not None

    def take_along(self, native: Any) -> None:
        """Take the rest of the rows into memory."""
        self._rest = deque()
        try:
            self._rest.extend(native.fetchall())
        except Exception as error:  # noqa: BLE001 - raised where the reader gets to it
            self._error = error

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return the next rows, fewer at the end."""
        size = self.arraysize if size is None else size
        if self._rest is None:
            rows: list[Any] = self.connection.native.fetchmany(size)
            if len(rows) < size:
                self.connection.end_reading(self, early=False)
                self._rest = deque()
            return rows
        if not self._rest:
            self._raise_late_error()
        return [self._rest.popleft() for _ in range(min(size, len(self._rest)))]

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        if self._rest is None:
            self.connection.end_reading(self, early=False)
            self._rest = deque()
            rows: list[Any] = self.connection.native.fetchall()
            return rows
        rows = list(self._rest)
        self._rest.clear()
        self._raise_late_error()
        return rows

    def _raise_late_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Let the result go."""
        self.connection.end_reading(self, early=True)
        self._rest = deque()


def _call(method: Callable[..., Any], connection: Connection, *args: Any, **kwargs: Any) -> Any:
    return connection.call(method, *args, **kwargs)


def _fetch(method: Callable[..., Any], cursor: Cursor, *args: Any, **kwargs: Any) -> Any:
    return cursor.fetch(method, *args, **kwargs)
