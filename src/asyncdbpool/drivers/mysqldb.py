"""MySQLdb (mysqlclient): MySQL and MariaDB through their C library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from asyncdbpool.drivers.dbapi import Driver

__all__ = ["MySQLdbDriver"]

_LOST = frozenset(
    {
        2006,  # server has gone away
        2013,  # lost connection during query
        2014,  # commands out of sync
        2055,  # lost connection, system error
        1053,  # server shutdown in progress
        1927,  # connection was killed (MariaDB)
        4031,  # disconnected for inactivity (MySQL)
        1290,  # read-only after a failover (--read-only)
        1836,  # read-only after a failover
    }
)

_SOON = frozenset(
    {
        2002,  # cannot connect through the socket
        2003,  # cannot connect
        2006,
        2013,  # lost connection while connecting
        2055,
        1040,  # too many connections
        1053,
        1203,  # too many connections of this user
    }
)


class MySQLdbDriver(Driver):
    """mysqlclient tells autocommit and its socket, but not whether a transaction is open."""

    database_keyword: ClassVar[str] = "database"
    timeout_keyword: ClassVar[str | None] = "connect_timeout"
    can_reset: ClassVar[bool] = True

    def begin(self, raw: Any) -> None:
        """Begin by hand in autocommit only: elsewhere it would commit what went before."""
        if raw.get_autocommit():
            self.run(raw, "BEGIN")

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
        if asked.get("init_command"):
            self.run(raw, asked["init_command"])
        if asked.get("sql_mode"):
            raw.set_sql_mode(asked["sql_mode"])

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """A lost or killed connection, or a server that became read-only.

        `(0, "")` is what the module raises for a connection that is closed already.
        """
        return _number(error) in _LOST or error.args == (0, "")

    def is_transient(self, error: BaseException) -> bool:
        """Refused, lost while connecting, too many connections, shutting down."""
        return _number(error) in _SOON


def _number(error: BaseException) -> object:
    return error.args[0] if error.args else None
