"""ADBC: databases that give their results as Arrow tables; here SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, MutableSequence
from functools import partial
from itertools import islice
from types import MethodType
from typing import Any, ClassVar, Self
from urllib.parse import quote, urlencode

from asyncdbpool.drivers import _postgres
from asyncdbpool.drivers._libpq import LibpqDriver
from asyncdbpool.drivers.base import error_text
from asyncdbpool.drivers.dbapi import Canceller, Driver

__all__ = ["ADBCDriver", "ADBCPostgreSQLDriver", "ADBCSQLiteDriver", "Connection", "Cursor"]

_OWN = frozenset({"db_kwargs", "conn_kwargs", "autocommit", "backend"})
"""What the module's `connect()` for PostgreSQL takes beside the URI."""

_INVALID_STATE = 6  # AdbcStatusCode.INVALID_STATE

_RUNS = frozenset(
    {
        "adbc_execute_partitions",
        "adbc_execute_schema",
        "adbc_ingest",
        "adbc_prepare",
        "adbc_read_partition",
        "executemany",
        "executescript",
    }
)
"""Methods of a cursor that run a statement, beside `execute()`."""

_HANDS_OUT = frozenset({"fetch_arrow", "fetch_record_batch"})
"""Methods of a cursor whose results go on reading from the connection."""


class ADBCDriver(Driver):
    """Any database by ADBC, whose rows come in batches, as Arrow has them."""

    def new_error(self, kind: type[Exception], words: str) -> Exception:
        """Make an error of ADBC's, which wants a status, too."""
        return kind(words, status_code=_INVALID_STATE)  # type: ignore[call-arg] # a class of ADBC's

    def reads_ahead(self, cursor_class: type) -> bool:
        """Leave the rows to `fetch_arrow_table()` and its like."""
        return False

    def gives_rows(self, cursor: Any) -> bool:
        """A statement without rows has a description without columns."""
        return bool(cursor.description)

    def fetch(self, cursor: Any, count: int, into: MutableSequence[Any]) -> type:
        """Take row by row, so that an error in the middle loses none of the rows before it."""
        into.extend(islice(iter(cursor.fetchone, None), count))
        return list


class ADBCSQLiteDriver(ADBCDriver):
    """ADBC's SQLite cannot be cancelled, and does not tell whether a transaction is open.

    Outside of autocommit one always is.
    """

    host_keyword: ClassVar[str | None] = None
    database_keyword: ClassVar[str] = "uri"

    def autocommits(self, raw: Any) -> bool:
        """Tell whether each statement commits by itself."""
        return bool(raw.adbc_connection.get_option("adbc.connection.autocommit") == "true")

    def remember(self, raw: Any) -> Any:
        """Autocommit is an option of ADBC's own connection."""
        return self.autocommits(raw)

    def restore(self, raw: Any, memory: Any) -> None:
        """Set autocommit as it was."""
        if self.autocommits(raw) != memory:
            raw.adbc_connection.set_autocommit(memory)

    def begin(self, raw: Any) -> None:
        """Begin in autocommit, unless a statement has done so; else a transaction is open."""
        if self.autocommits(raw):
            self._say(raw, "BEGIN", unless="within a transaction")

    def commit(self, raw: Any) -> None:
        """Commit; in autocommit what a statement has begun."""
        if self.autocommits(raw):
            self._say(raw, "COMMIT", unless="no transaction is active")
        else:
            raw.adbc_connection.commit()

    def rollback(self, raw: Any) -> None:
        """Roll back, also where a statement has ended the transaction, which ADBC fails at."""
        self._say(raw, "ROLLBACK", unless="no transaction is active")
        if not self.autocommits(raw):
            self.command(raw, "BEGIN")

    def has_rolled_back(self, error: BaseException) -> bool:
        """SQLite does where it can neither finish a statement nor undo it."""
        text = error_text(error)
        return any(words in text for words in _ROLLED_BACK)

    def _say(self, raw: Any, sql: str, *, unless: str) -> None:
        try:
            self.command(raw, sql)
        except self.module.OperationalError as error:
            if unless not in error_text(error):
                raise


_ROLLED_BACK = ("database or disk is full", "disk i/o error", "out of memory")


class ADBCPostgreSQLDriver(ADBCDriver, LibpqDriver):
    """ADBC's PostgreSQL is libpq, which tells its state, but not its socket."""

    database_aliases: ClassVar[tuple[str, ...]] = ("database",)
    dsn_keyword: ClassVar[str] = "uri"
    code_attribute: ClassVar[str] = "sqlstate"
    session_attributes: ClassVar[tuple[str, ...]] = ("autocommit",)
    asking_attributes: ClassVar[frozenset[str]] = frozenset({"adbc_current_db_schema"})

    def connect(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Connect by a URI, a connection string or libpq's keywords, which add to either."""
        own = {name: value for name, value in kwargs.items() if name in _OWN}
        words = {name: value for name, value in kwargs.items() if name not in {*_OWN, "uri"}}
        uri = args[0] if args else kwargs.get("uri", "")
        autocommit = own.pop("autocommit", False)
        native = self.module.connect(_joined(str(uri), words), *args[1:], **own, autocommit=True)
        return Connection(self.module, native, autocommit=autocommit)

    def in_transaction(self, raw: Any) -> bool | None:
        """Libpq tracks the state; anything but idle wants a rollback."""
        status = raw.status
        return None if status == "unknown" else bool(status != "idle")

    def confirm(self, raw: Any) -> None:
        """Have a failed transaction raise its error; COMMIT would be answered with ROLLBACK."""
        if raw.status == "inerror":
            self.command(raw, "SELECT 1")

    def command(self, raw: Any, sql: str) -> None:
        """Run a statement in one round trip; `execute()` would prepare it first."""
        cursor = raw.cursor()
        try:
            cursor.executemany(sql, None)
        finally:
            cursor.close()

    def ping(self, raw: Any) -> None:
        """Prove by a round trip that the server answers."""
        self.command(raw, "SELECT 1")
        self.rollback(raw)

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        """`adbc_cancel()`, which is libpq's and waits for the server to have sent its signal."""
        cancel = raw.adbc_cancel
        return lambda _ask: cancel()

    def cursor_kind(self, cursor: Any) -> type:
        """The class of ADBC's own, which has the methods."""
        return type(cursor.native)

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """A lost connection, an administrator's shutdown, or a server that became read-only."""
        return _postgres.is_lost(self._code(error)) or raw.status == "unknown"


class Connection:
    """A connection to PostgreSQL as PEP 249 has it; else it is ADBC's.

    It begins transactions itself: ADBC would refuse every statement after one that has failed,
    `ROLLBACK TO SAVEPOINT` included. And its cursors do not read each other's rows: a result is
    read from the connection as its rows are fetched, and ADBC would go on reading whatever
    statement has run since. So a cursor that is half read takes the rest of its rows into memory
    before another one runs a statement.

    Attributes:
        native: ADBC's own connection.
        module: The module that made it.
        autocommit: Whether each statement commits by itself.
    """

    native: Any
    module: Any
    autocommit: bool
    _reader: Cursor | None
    _cancelling: threading.Lock

    def __init__(self, module: Any, native: Any, *, autocommit: bool) -> None:
        own = self.__dict__
        own.update(native=native, module=module, autocommit=autocommit)
        own["_reader"] = None  # the cursor that may have rows left to read
        own["_cancelling"] = threading.Lock()  # it must not be closed under a cancel

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.native, name)
        return MethodType(partial(_ask, value), self) if name.startswith("adbc_get") else value

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "autocommit":
            self.__dict__[name] = value
        else:
            setattr(self.native, name, value)

    @property
    def status(self) -> str:
        """What libpq calls the transaction's status."""
        status: str = self.native.adbc_connection.get_option("adbc.postgresql.transaction_status")
        return status

    def cursor(self, **kwargs: Any) -> Cursor:
        """Make a cursor."""
        return Cursor(self, self.native.cursor(**kwargs))

    def execute(self, sql: Any, params: Any = None, **kwargs: Any) -> Cursor:
        """Run a statement on a cursor of its own."""
        return self.cursor(**kwargs).execute(sql, params)

    def commit(self) -> None:
        """Commit, if there is something to commit."""
        self._end("COMMIT")

    def rollback(self) -> None:
        """Roll back, if there is something to roll back."""
        self._end("ROLLBACK")

    def _end(self, sql: str) -> None:
        self.keep_rows()
        if self.status != "idle":
            self._say(sql)

    def _say(self, sql: str) -> None:
        with self.native.cursor() as cursor:
            cursor.executemany(sql, None)

    def adbc_cancel(self) -> None:
        """Cancel what runs; on any thread."""
        with self._cancelling:
            self.native.adbc_cancel()

    def close(self) -> None:
        """Close it, once no cancel is under way."""
        with self._cancelling:
            self.native.close()

    def keep_rows(self) -> None:
        """Have the cursor that is half read take its rows along."""
        reader = self._reader
        if reader is not None and not reader.has_handed_out:
            self.__dict__["_reader"] = None
            reader.take_along()

    def read_by(self, cursor: Cursor) -> None:
        """Note that a cursor runs a statement, whose rows it may leave on the connection."""
        reader = self._reader
        if reader is not cursor:
            if reader is not None and reader.has_handed_out:
                raise self.module.NotSupportedError(
                    "an Arrow stream may still read from this connection; close its cursor first"
                )
            self.keep_rows()
        if not self.autocommit and self.status == "idle":
            self._say("BEGIN")
        self.__dict__["_reader"] = cursor

    def forget(self, cursor: Cursor) -> None:
        """Note that a cursor has no rows left on the connection."""
        if self._reader is cursor:
            self.__dict__["_reader"] = None


class Cursor:
    """A cursor whose rows are its own, whatever runs on its connection; else it is ADBC's.

    Attributes:
        connection: What it was made by.
        native: ADBC's own cursor.
        has_handed_out: Whether something else may read its rows from the connection.
    """

    connection: Connection
    native: Any
    has_handed_out: bool

    def __init__(self, connection: Connection, native: Any) -> None:
        own = self.__dict__
        own.update(connection=connection, native=native, has_handed_out=False)
        own["_rest"] = None  # rows in memory; None: the native cursor has them
        own["_error"] = None  # what came in place of the next ones

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.native, name)
        if name in _RUNS:
            return MethodType(partial(_run, value), self)
        if name.startswith("fetch"):
            return MethodType(partial(_hand_out, value), self)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.native, name, value)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    next = __next__

    @property
    def rownumber(self) -> int | None:
        """The position in the result, if there is one."""
        number: int | None = self.native.rownumber
        return number if number is None else number - len(self._rest or ())

    def execute(self, sql: Any, params: Any = None) -> Cursor:
        """Run a statement."""
        self.run(self.native.execute, sql, params)
        return self

    def run(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method that runs a statement."""
        self.connection.read_by(self)
        self.__dict__.update(has_handed_out=False, _rest=None, _error=None)
        return method(*args, **kwargs)

    def hand_out(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method that fetches rows in a form of ADBC's own."""
        if self._rest is not None:
            raise self.connection.module.NotSupportedError(
                "another statement has run since, so these rows can be fetched as rows only"
            )
        self.__dict__["has_handed_out"] = method.__name__ in _HANDS_OUT
        return method(*args, **kwargs)

    def take_along(self) -> None:
        """Take the rest of the rows into memory."""
        rest = self.__dict__["_rest"] = deque()
        if self.native.description:
            try:
                rest.extend(iter(self.native.fetchone, None))
            except Exception as error:  # noqa: BLE001 - raised where the reader gets to it
                self.__dict__["_error"] = error

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        if self._rest is None:
            return self.native.fetchone()
        if self._rest:
            return self._rest.popleft()
        error, self.__dict__["_error"] = self._error, None
        if error is not None:
            raise error
        return None

    def fetchmany(self, size: int | None = None) -> Any:
        """Return the next rows, fewer at the end."""
        size = self.native.arraysize if size is None else size
        return self.native.fetchmany(size) if self._rest is None else list(islice(self, size))

    def fetchall(self) -> Any:
        """Return the rows that are left."""
        return self.native.fetchall() if self._rest is None else list(self)

    def adbc_cancel(self) -> None:
        """Cancel what runs; on any thread."""
        self.connection.adbc_cancel()

    def close(self) -> None:
        """Close it."""
        self.connection.forget(self)
        self.native.close()


def _ask(method: Callable[..., Any], connection: Connection, *args: Any, **kwargs: Any) -> Any:
    connection.keep_rows()
    return method(*args, **kwargs)


def _run(method: Callable[..., Any], cursor: Cursor, *args: Any, **kwargs: Any) -> Any:
    return cursor.run(method, *args, **kwargs)


def _hand_out(method: Callable[..., Any], cursor: Cursor, *args: Any, **kwargs: Any) -> Any:
    return cursor.hand_out(method, *args, **kwargs)


def _joined(uri: str, words: Mapping[str, Any]) -> str:
    """Add libpq's keywords to a URI or a connection string, where the last word counts.

    None leaves a keyword out, as with libpq's other modules.
    """
    given = {name: str(value) for name, value in words.items() if value is not None}
    named = {"dbname" if name == "database" else name: given[name] for name in given}
    if "://" in uri.partition("=")[0]:
        return uri + ("&" if "?" in uri else "?") * bool(named) + urlencode(named, quote_via=quote)
    return " ".join([uri, *(f"{name}='{_escaped(value)}'" for name, value in named.items())])


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")
