"""firebird-driver: Firebird through its client library."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from asyncdbpool.drivers.dbapi import Canceller, Driver

__all__ = ["FirebirdDriver"]

_LOST = frozenset(
    {
        335544726,  # error reading data from the connection
        335544727,  # error writing data to the connection
        335544741,  # connection lost to database
        335544856,  # connection shutdown
        335544324,  # invalid database handle: the attachment has gone
        335544528,  # database shutdown
    }
)
_NOTHING_TO_CANCEL = 335544933

_NO_SUCH_HOST = 335544704

_SOON = frozenset(
    {
        335544721,  # unable to complete network request to host
        335544722,  # failed to establish a connection
        335544726,
        335544528,
        335544744,  # too many connections
    }
)

_loading = threading.Lock()


class FirebirdDriver(Driver):
    """The module knows its transaction, which the first statement begins.

    The host is a part of the database's name, `host/port:path`, so there is no keyword for it.
    """

    host_keyword: ClassVar[str | None] = None

    def connect(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Connect; the first one loads the client library, which the module does not guard.

        Another thread would be given what is not whole yet.
        """
        with _loading:
            self.module.get_api()
        return super().connect(args, kwargs)

    def close(self, raw: Any) -> None:
        """Close; the module fails once where `COMMIT` by SQL has taken its transaction away."""
        try:
            super().close(raw)
        except ValueError:
            super().close(raw)

    def in_transaction(self, raw: Any) -> bool | None:
        """The module's own calls begin and end it; what SQL has ended still counts, and closes."""
        return bool(raw.main_transaction.is_active())

    def commit(self, raw: Any) -> None:
        """Commit, where something is open: the module minds if nothing is."""
        if raw.main_transaction.is_active():
            raw.commit()

    def rollback(self, raw: Any) -> None:
        """Roll back, as in `commit()`."""
        if raw.main_transaction.is_active():
            raw.rollback()

    def ping(self, raw: Any) -> None:
        """Ask with the protocol's own call, which wants no transaction."""
        raw.ping()

    def savepoint(self, raw: Any, name: str) -> None:
        """Set a savepoint, which wants to be inside of a transaction."""
        if not raw.main_transaction.is_active():
            raw.begin()
        super().savepoint(raw, name)

    def remember(self, raw: Any) -> Any:
        """Take down how transactions begin, and the managers of them that there are."""
        managers = {m: (m.default_tpb, m.default_action) for m in raw.transactions}
        return raw.default_tpb, managers

    def restore(self, raw: Any, memory: Any) -> None:
        """Set that again, and undo what was begun beside the main transaction."""
        raw.default_tpb, managers = memory
        for manager in raw.transactions:
            if manager is not raw.main_transaction and manager.is_active():
                manager.rollback()
            if manager in managers:
                manager.default_tpb, manager.default_action = managers[manager]
            else:
                manager.close()

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        """`fb_cancel_operation()`, which may be called on any thread and waits for nothing.

        It goes along the connection itself. The library refuses it where nothing runs, which is
        as well: it is repeated until the statement has ended.
        """
        attachment = raw._att  # noqa: SLF001 - it has no other name

        def cancel(_ask: Callable[[], Mapping[str, Any]]) -> None:
            try:
                attachment.cancel_operation(self.module.CancelType.RAISE)
            except self.module.DatabaseError as error:
                if _NOTHING_TO_CANCEL not in _codes(error):
                    raise

        return cancel

    def absorb_cancel(self, raw: Any) -> None:
        """Let a cancel that came too late hit a statement that nobody minds.

        The server meets the cancel first, since both go along the same connection.
        """
        active = raw.main_transaction.is_active()
        with suppress(self.module.Error):
            self.command(raw, "SELECT 1 FROM RDB$DATABASE")
        if not active:
            self.rollback(raw)

    def reads_ahead(self, cursor_class: type) -> bool:
        """The methods that this would get in the way of want a cursor from `open()`."""
        return True

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """A connection that was closed, killed or lost."""
        return bool(raw.is_closed()) or not _LOST.isdisjoint(_codes(error))

    def is_transient(self, error: BaseException) -> bool:
        """Refused, lost while connecting, shut down for a while, too many connections.

        A host without an address has also the code of one that refuses.
        """
        codes = _codes(error)
        return _NO_SUCH_HOST not in codes and not _SOON.isdisjoint(codes)


def _codes(error: BaseException) -> tuple[int, ...]:
    """Return the error codes of Firebird's own in an error of the module's."""
    return tuple(getattr(error, "gds_codes", None) or ())
