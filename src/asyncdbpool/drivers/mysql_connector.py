"""MySQL Connector/Python: MySQL and MariaDB in pure Python."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from asyncdbpool.drivers import _mysql
from asyncdbpool.drivers._mysql_kin import MySQLKin

__all__ = ["MySQLConnectorDriver"]

_KEPT = ("sql_mode", "time_zone")  # what the module sets again after each reset

_POOLING = frozenset({"pool_name", "pool_size", "pool_reset_session"})


class MySQLConnectorDriver(MySQLKin):
    """The module tells the server's flags, as they came with its last answer.

    Its `autocommit` asks the server each time, and its `cursor()` pings; both are avoided here.
    """

    asking_attributes: ClassVar[frozenset[str]] = frozenset(
        {"autocommit", "database", "sql_mode", "time_zone"}
    )
    container: ClassVar[type] = list

    def connect(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Have results read at once, unless the user wants otherwise, and by Python.

        With one that is unread, the module refuses whatever comes next, even a commit. The C
        extension hides its socket, and the module's own pool what becomes of a connection.
        """
        asked = {"buffered": True, "use_pure": True, **kwargs}
        if not asked["use_pure"]:
            raise self.module.NotSupportedError("only mysql.connector's pure Python can be used")
        if asked.keys() & _POOLING:
            raise self.module.NotSupportedError(
                "mysql.connector's own pool cannot be used in this one"
            )
        return super().connect(args, asked)

    def fileno(self, raw: Any) -> int | None:
        """Ask the socket, which has no public name."""
        return super().fileno(raw._socket.sock)  # noqa: SLF001 - as said

    def command(self, raw: Any, sql: str) -> None:
        """Send it without a cursor, which would ping first."""
        raw.cmd_query(sql)

    # Transactions

    def in_transaction(self, raw: Any) -> bool | None:
        """Read the flag that came with the last answer; one half read is for a rollback to end."""
        if raw.in_transaction:
            return True
        return None if raw.unread_result or raw.have_next_result else False

    def commits_each(self, raw: Any) -> bool:
        """Nobody knows without asking; and a `BEGIN` does no harm where nothing is open."""
        return True

    def commit(self, raw: Any) -> None:
        """Commit, behind the results that nobody asked for."""
        self._skip_results(raw)
        raw.commit()

    def rollback(self, raw: Any) -> None:
        """Roll back, behind what is left of all results."""
        raw.consume_results()
        self._skip_results(raw)
        raw.rollback()

    def _skip_results(self, raw: Any) -> None:
        cursor = self.module.cursor.MySQLCursorBuffered(raw)  # since `raw.cursor()` would ping
        while raw.have_next_result:
            cursor.nextset()

    # Sessions

    def ping(self, raw: Any) -> None:
        """Ask with `COM_PING`."""
        raw.ping(reconnect=False)

    def remember(self, raw: Any) -> Any:
        """Take down what the module was told to set, and the number: a ping may connect anew."""
        return raw._autocommit, (raw.charset, raw.collation), raw.connection_id  # noqa: SLF001

    def restore(self, raw: Any, memory: Any) -> None:
        """Set them again, without I/O where nothing has changed."""
        autocommit, charset, number = memory
        if raw.connection_id != number:
            raise self.module.InterfaceError("this is another connection, which nobody has set up")
        if raw._autocommit != autocommit:  # noqa: SLF001 - the public one asks the server
            raw.autocommit = autocommit
        if (raw.charset, raw.collation) != charset:
            raw.set_charset_collation(*charset)

    def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """`COM_RESET_CONNECTION`, and what the module does after a connect."""
        if not raw.cmd_reset_connection():
            raise self.module.OperationalError("the connection could not be reset")
        for name in _KEPT:
            asked, told = kwargs.get(name), getattr(raw, f"_{name}")
            if asked and asked != told:
                setattr(raw, name, asked)
            elif told and not asked:
                self.command(raw, f"SET SESSION {name} = DEFAULT")
        database = kwargs.get("database", kwargs.get("db"))
        if database:
            raw.cmd_init_db(database)

    # Cancelling

    def numbering(self, raw: Any) -> Callable[[], int]:
        """Read the number, which costs nothing."""
        return lambda: int(raw.connection_id)

    def side_keywords(self, raw: Any) -> Mapping[str, Any]:
        """Set nothing up."""
        return {"init_command": None, "sql_mode": None, "time_zone": None}

    def absorb_cancel(self, raw: Any) -> None:
        """Read what is left of all results first, which may be where the kill has hit.

        The module would take one that it has not asked for yet for the answer to the next command.
        """
        try:
            raw.consume_results()
            self._skip_results(raw)
        except self.module.Error as error:
            if _mysql.number(error, self.module) != _mysql.INTERRUPTED:
                raise
        super().absorb_cancel(raw)

    # Rows

    def reads_ahead(self, cursor_class: type) -> bool:
        """Its `fetchwarnings` and `fetchsets` take no rows from a result that is being read."""
        return True

    def streams(self, cursor: Any) -> bool:
        """Buffered cursors have their rows in memory."""
        return not hasattr(cursor, "_next_row")

    def close_cursor(self, cursor: Any) -> None:
        """Read what is left of the cursor's own results: the next statement would fail."""
        raw = cursor._connection  # noqa: SLF001 - it has no other name
        if raw is not None and cursor._executed == raw._query:  # noqa: SLF001 - as above
            if cursor._nextrow[0] is not None or cursor.rowcount == -1:  # noqa: SLF001 - as above
                raw.consume_results()
            while raw.have_next_result:
                cursor.nextset()
                raw.consume_results()
        cursor.close()

    def error(self, number: int, text: str) -> BaseException:
        """The number is the second argument here."""
        error: BaseException = self.module.OperationalError(text, number)
        return error

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """Also one of the module's own timeouts, whose answer is still to come.

        The module says that it closes the connection then, and does not.
        """
        errors = self.module.errors
        timeouts = (errors.ReadTimeoutError, errors.WriteTimeoutError)
        return isinstance(error, timeouts) or super().is_disconnect(error, raw)

    def is_transient(self, error: BaseException) -> bool:
        """A host without an address has the number of one that refuses; a timeout has another."""
        if isinstance(error, self.module.errors.ConnectionTimeoutError):
            return True
        cause = getattr(error, "__cause__", None)
        return super().is_transient(error) and not isinstance(cause, socket.gaierror)
