"""MySQLdb (mysqlclient): MySQL and MariaDB through their C library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from asyncdbpool.drivers._mysql import IN_TRANSACTION
from asyncdbpool.drivers._mysql_kin import MySQLKin

__all__ = ["MySQLdbDriver"]

_SERVER_STATUS = 30  # enum mariadb_value: MARIADB_CONNECTION_SERVER_STATUS

_CAPSULE = b"_mysql.connection.native_connection"


class MySQLdbDriver(MySQLKin):
    """mysqlclient tells autocommit and its socket.

    Whether a transaction is open, the server tells with every answer; the module keeps that to
    itself, but MariaDB's C library can be asked for it. With MySQL's own library nobody knows.
    """

    streaming: ClassVar[str] = "CursorUseResultMixIn"

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._server_status = _server_status(module)

    def in_transaction(self, raw: Any) -> bool | None:
        """Read the flag that came with the server's last answer."""
        if self._server_status is None:
            return None
        return bool(self._server_status(raw) & IN_TRANSACTION)

    def ping(self, raw: Any) -> None:
        """Ask with `COM_PING`."""
        raw.ping()

    def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """`COM_CHANGE_USER` to the same user, and what the module does after a connect."""
        asked = {
            **dict(zip(("host", "user", "password", "database"), args, strict=False)),
            **kwargs,
        }
        name = asked.get("database", asked.get("db"))
        raw.change_user(
            asked.get("user") or "",
            asked.get("password", asked.get("passwd")) or "",
            *([name] if name else []),  # None is refused there
        )
        self.command(raw, "DO 0")  # the library learns autocommit and the like with an answer only
        if asked.get("init_command"):
            self.command(raw, asked["init_command"])
        if asked.get("sql_mode"):
            raw.set_sql_mode(asked["sql_mode"])

    def numbering(self, raw: Any) -> Callable[[], int]:
        """Ask for the number once, now: the module refuses it while a statement runs."""
        number: int = raw.thread_id()
        return lambda: number


def _server_status(module: Any) -> Callable[[Any], int] | None:
    """Find MariaDB's `mariadb_get_infov()` in the library that the module is linked with."""
    try:
        library = ctypes.PyDLL(module._mysql.__file__)  # noqa: SLF001 - it has no other name
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
