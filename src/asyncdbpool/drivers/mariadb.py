"""MariaDB Connector/Python: MariaDB and MySQL through MariaDB's C library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSequence
from contextlib import closing
from typing import Any, ClassVar

from asyncdbpool.drivers._mysql import IN_TRANSACTION
from asyncdbpool.drivers._mysql_kin import MySQLKin

__all__ = ["MariaDBDriver"]

_MORE_RESULTS = 8  # SERVER_MORE_RESULTS_EXIST


class MariaDBDriver(MySQLKin):
    """The module tells the server's flags, as they came with its last answer, and its socket."""

    container: ClassVar[type] = list

    def connect(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Let the module neither pool connections nor make one anew.

        With `reconnect` it would do so without a word, outside of a transaction, and nobody would
        have set up the new session.
        """
        if "pool_name" in kwargs:
            raise self.module.NotSupportedError("mariadb's own pool cannot be used in this one")
        raw = super().connect(args, kwargs)
        raw.auto_reconnect = False
        return raw

    def fileno(self, raw: Any) -> int | None:
        """Ask below the module's `socket`, which would close it a second time in the end."""
        try:
            number: int = raw._get_socket()  # noqa: SLF001 - as said
        except self.module.Error:
            return None
        return number

    def in_transaction(self, raw: Any) -> bool | None:
        """Read the flag that came with the server's last answer."""
        return bool(raw.server_status & IN_TRANSACTION)

    def commits_each(self, raw: Any) -> bool:
        """Autocommit is an attribute here, read from the same flags."""
        return bool(raw.autocommit)

    def ping(self, raw: Any) -> None:
        """Ask with `COM_PING`."""
        raw.ping()

    def remember(self, raw: Any) -> Any:
        """Take down also the number: a borrower may have had the module connect anew."""
        return raw.autocommit, raw.auto_reconnect, raw.connection_id

    def restore(self, raw: Any, memory: Any) -> None:
        """Set them again, without I/O where nothing has changed."""
        autocommit, reconnect, number = memory
        if raw.connection_id != number:
            raise self.module.InterfaceError("this is another connection, which nobody has set up")
        raw.auto_reconnect = reconnect
        raw.autocommit = autocommit

    def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """`COM_RESET_CONNECTION`, and what the module does after a connect."""
        raw.reset()
        self.command(raw, "DO 0")  # the module learns autocommit and the like with an answer only
        database = kwargs.get("database", kwargs.get("db"))
        if database:
            raw.select_db(database)
        if kwargs.get("init_command"):
            self.command(raw, kwargs["init_command"])

    def numbering(self, raw: Any) -> Callable[[], int]:
        """Read the number, which costs nothing."""
        return lambda: int(raw.connection_id)

    def side_keywords(self, raw: Any) -> Mapping[str, Any]:
        """Set nothing up."""
        return {"init_command": None, "autocommit": True}

    def streams(self, cursor: Any) -> bool:
        """A cursor says so itself."""
        return not cursor.buffered

    def fetch(self, cursor: Any, count: int, into: MutableSequence[Any]) -> type:
        """Ask the server at the end of a streamed result: an error there looks like the end."""
        before = len(into)
        kind = super().fetch(cursor, count, into)
        if self.streams(cursor) and len(into) - before < count:
            self._check_end(cursor)
        return kind

    def _check_end(self, cursor: Any) -> None:
        raw = cursor.connection
        if cursor.description is None or raw.server_status & _MORE_RESULTS:
            return
        with closing(raw.cursor()) as asking:
            asking.execute("SHOW ERRORS")
            for _, number, text in asking.fetchall():
                raise self.error(number, text)

    def describe(self, cursor: Any) -> Any:
        """Leave a cursor alone whose connection is closed: the module would crash."""
        return None if cursor.connection._closed else cursor.description  # noqa: SLF001 - as above

    def next_result(self, cursor: Any) -> Any:
        """Stay at the end of the last result: behind it the module's cursor would crash."""
        if cursor.description is None:
            return cursor.nextset()
        cursor.fetchall()
        return cursor.nextset() if cursor.connection.server_status & _MORE_RESULTS else None

    def error(self, number: int, text: str) -> BaseException:
        """The number is an attribute here."""
        error = super().error(number, text)
        error.args = (text,)
        error.errno = number  # type: ignore[attr-defined]
        return error

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """Look also whether the module has closed the connection."""
        return bool(raw._closed) or super().is_disconnect(error, raw)  # noqa: SLF001 - as above
