"""What the blocking drivers of MySQL and MariaDB have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSequence
from itertools import islice
from typing import Any, ClassVar

from asyncdbpool.drivers import _mysql
from asyncdbpool.drivers.base import Unanswered
from asyncdbpool.drivers.dbapi import Canceller, Driver

__all__ = ["MySQLKin", "kill_query"]


class MySQLKin(Driver):
    """The server tells its state with an answer, and a cancel is a `KILL`.

    Autocommit is a pair of methods, unless a class says otherwise.

    Attributes:
        streaming: The module's class for cursors that take their rows from the wire, one by one.
        container: What their `fetchmany()` gives.
    """

    database_keyword: ClassVar[str] = "database"
    database_aliases: ClassVar[tuple[str, ...]] = ("db",)
    timeout_keyword: ClassVar[str | None] = "connect_timeout"
    can_reset: ClassVar[bool] = True
    streaming: ClassVar[str] = "SSCursor"
    container: ClassVar[type] = tuple

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
        if self.commits_each(raw) and not self.in_transaction(raw):
            self.command(raw, "BEGIN")

    def commits_each(self, raw: Any) -> bool:
        """Tell whether the connection is in autocommit."""
        return bool(raw.get_autocommit())

    def remember(self, raw: Any) -> Any:
        """Autocommit is a method here, and the server tells its state with every answer."""
        return raw.get_autocommit()

    def restore(self, raw: Any, memory: Any) -> None:
        """Set autocommit again; the module skips the round trip where it is right already."""
        raw.autocommit(memory)

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        """`KILL QUERY` on a side connection, which is closed again."""
        number = self.numbering(raw)
        patience = kwargs.get("connect_timeout", 10)
        bounds = {"read_timeout": patience, "write_timeout": patience}

        def kill(ask: Callable[[], Mapping[str, Any]]) -> None:
            side = self.connect(args, {**kwargs, **ask(), **bounds, **self.side_keywords(raw)})
            kill_query(self, side, number())

        return kill

    def numbering(self, raw: Any) -> Callable[[], int]:
        """Return what tells the server's number for a connection while a statement runs."""
        number: Callable[[], int] = raw.thread_id
        return number

    def side_keywords(self, raw: Any) -> Mapping[str, Any]:
        """Return what makes a side connection cheaper than one like this."""
        return {}

    def absorb_cancel(self, raw: Any) -> None:
        """Let a kill that came too late hit a statement that does nothing."""
        try:
            self.command(raw, "DO 0")
        except self.module.Error as error:
            if _mysql.number(error, self.module) != _mysql.INTERRUPTED:
                raise
            self.command(raw, "DO 0")

    def streams(self, cursor: Any) -> bool:
        """Tell whether a cursor takes its rows from the wire, one by one."""
        return isinstance(cursor, getattr(self.module.cursors, self.streaming))

    def interrupted(self, cursor: Any) -> BaseException | None:
        """A kill ends a streamed result, and one that was late must not wait behind it."""
        if not self.streams(cursor):
            return None
        return self.error(_mysql.INTERRUPTED, "Query execution was interrupted")

    def error(self, number: int, text: str) -> BaseException:
        """Make an error like one of the module's own."""
        error: BaseException = self.module.OperationalError(number, text)
        return error

    def fetch(self, cursor: Any, count: int, into: MutableSequence[Any]) -> type:
        """Take a streamed result row by row, so that an error loses none of the rows before it."""
        if not self.streams(cursor):
            return super().fetch(cursor, count, into)
        into.extend(islice(iter(cursor.fetchone, None), count))
        return self.container

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """A lost or killed connection, or a server that became read-only.

        `(0, "")` is what the modules raise for a connection that is closed already.
        """
        return _mysql.number(error, self.module) in _mysql.LOST or error.args == (0, "")

    def is_transient(self, error: BaseException) -> bool:
        """Refused, lost while connecting, too many connections, shutting down."""
        return _mysql.number(error, self.module) in _mysql.SOON


def kill_query(driver: Driver, side: Any, number: int) -> None:
    """Cancel what runs on the connection of that number; close the side connection after it.

    Raises:
        Unanswered: The side connection was lost meanwhile.
    """
    try:
        driver.command(side, f"KILL QUERY {number}")
    except Exception as error:
        if driver.is_disconnect(error, side):
            raise Unanswered(f"KILL QUERY {number} had no answer") from error
        raise
    finally:
        side.close()
