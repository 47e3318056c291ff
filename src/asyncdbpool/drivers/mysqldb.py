"""MySQLdb (mysqlclient): MySQL and MariaDB through their C library."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, ClassVar

from asyncdbpool.drivers import _mysql
from asyncdbpool.drivers.base import Unanswered
from asyncdbpool.drivers.dbapi import Canceller, Driver

__all__ = ["MySQLdbDriver"]

_SERVER_STATUS = 30  # enum mariadb_value: MARIADB_CONNECTION_SERVER_STATUS
_IN_TRANSACTION = 1  # SERVER_STATUS_IN_TRANS

_CAPSULE = b"_mysql.connection.native_connection"


class MySQLdbDriver(Driver):
    """mysqlclient tells autocommit and its socket.

    Whether a transaction is open, the server tells with every answer; the module keeps that to
    itself, but MariaDB's C library can be asked for it. With MySQL's own library nobody knows.
    """

    database_keyword: ClassVar[str] = "database"
    database_aliases: ClassVar[tuple[str, ...]] = ("db",)
    timeout_keyword: ClassVar[str | None] = "connect_timeout"
    can_reset: ClassVar[bool] = True

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._server_status = _server_status(module)

    def in_transaction(self, raw: Any) -> bool | None:
        """Read the flag that came with the server's last answer."""
        if self._server_status is None:
            return None
        return bool(self._server_status(raw) & _IN_TRANSACTION)

    def is_blind_after_error(self, raw: Any) -> bool:
        """An error comes without the flag, and a statement that fails may have begun something.

        InnoDB keeps the lock that a duplicate key has taken, say; and in autocommit a procedure
        may have begun a transaction before it failed.
        """
        return True

    def learn(self, raw: Any) -> bool | None:
        """Run a statement that does nothing, whose answer brings the flag."""
        self.command(raw, "DO 0")
        return self.in_transaction(raw)

    def has_rolled_back(self, error: BaseException) -> bool:
        """A deadlock does, say."""
        return _mysql.number(error, self.module) in _mysql.ROLLED_BACK

    def begin(self, raw: Any) -> None:
        """Begin by hand in autocommit only: elsewhere it would commit what went before."""
        if raw.get_autocommit() and not self.in_transaction(raw):
            self.command(raw, "BEGIN")

    def ping(self, raw: Any) -> None:
        """Ask with `COM_PING`."""
        raw.ping()

    def remember(self, raw: Any) -> Any:
        """Autocommit is a method here, and the server tells its state with every answer."""
        return raw.get_autocommit()

    def restore(self, raw: Any, memory: Any) -> None:
        """Set autocommit again; the module skips the round trip where it is right already."""
        raw.autocommit(memory)

    def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """`COM_CHANGE_USER` to the same user, and what the module does after a connect."""
        asked = {
            **dict(zip(("host", "user", "password", "database"), args, strict=False)),
            **kwargs,
        }
        raw.change_user(
            asked.get("user") or "",
            asked.get("password", asked.get("passwd")) or "",
            asked.get("database", asked.get("db")) or None,
        )
        self.command(raw, "DO 0")  # the library learns autocommit and the like with an answer only
        if asked.get("init_command"):
            self.command(raw, asked["init_command"])
        if asked.get("sql_mode"):
            raw.set_sql_mode(asked["sql_mode"])

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        """`KILL QUERY` on a side connection, which is closed again.

        The number is asked for once, now: the module refuses it while a statement runs.
        """
        number = raw.thread_id()
        patience = kwargs.get("connect_timeout", 10)
        bounds = {"read_timeout": patience, "write_timeout": patience}

        def kill(ask: Callable[[], Mapping[str, Any]]) -> None:
            side = self.connect(args, {**kwargs, **ask(), **bounds})
            try:
                self.command(side, f"KILL QUERY {number}")
            except Exception as error:
                if self.is_disconnect(error, side):
                    raise Unanswered(f"KILL QUERY {number} had no answer") from error
                raise
            finally:
                side.close()

        return kill

    def absorb_cancel(self, raw: Any) -> None:
        """Let a kill that came too late hit a statement that does nothing."""
        try:
            self.command(raw, "DO 0")
        except self.module.OperationalError as error:
            if _mysql.number(error, self.module) != _mysql.INTERRUPTED:
                raise
            self.command(raw, "DO 0")

    def interrupted(self, cursor: Any) -> BaseException | None:
        """A kill ends a streamed result, and one that was late must not wait behind it."""
        if not isinstance(cursor, self.module.cursors.CursorUseResultMixIn):
            return None
        error: BaseException = self.module.OperationalError(
            _mysql.INTERRUPTED, "Query execution was interrupted"
        )
        return error

    def fetch(self, cursor: Any, count: int, into: deque[Any]) -> type:
        """Take a streamed result row by row, so that an error loses none of the rows before it."""
        if not isinstance(cursor, self.module.cursors.CursorUseResultMixIn):
            return super().fetch(cursor, count, into)
        into.extend(islice(iter(cursor.fetchone, None), count))
        return tuple

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """A lost or killed connection, or a server that became read-only.

        `(0, "")` is what the module raises for a connection that is closed already.
        """
        return _mysql.number(error, self.module) in _mysql.LOST or error.args == (0, "")

    def is_transient(self, error: BaseException) -> bool:
        """Refused, lost while connecting, too many connections, shutting down."""
        return _mysql.number(error, self.module) in _mysql.SOON


def _server_status(module: Any) -> Callable[[Any], int] | None:
    """Find MariaDB's `mariadb_get_infov()` in the library that the module is linked with."""
    try:
        library = ctypes.CDLL(module._mysql.__file__)  # noqa: SLF001 - it has no other name
        get_info = library.mariadb_get_infov
    except (AttributeError, OSError):  # MySQL's own library, or no C module at all
        return None
    get_info.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes, pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p

    def status(raw: Any) -> int:
        value = ctypes.c_uint()
        handle = pointer(raw._get_native_connection(), _CAPSULE)  # noqa: SLF001 - as above
        get_info(handle, _SERVER_STATUS, ctypes.byref(value))
        return value.value

    return status
