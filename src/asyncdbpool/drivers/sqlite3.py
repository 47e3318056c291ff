"""sqlite3: the embedded database of the standard library."""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence
from itertools import islice
from typing import Any, ClassVar

from asyncdbpool.drivers.dbapi import Canceller, Driver

__all__ = ["SQLite3Driver"]


class SQLite3Driver(Driver):
    """sqlite3 has no hosts, no socket and no session to reset; it knows its transaction."""

    host_keyword: ClassVar[str | None] = None
    session_attributes: ClassVar[tuple[str, ...]] = (
        "isolation_level",
        "row_factory",
        "text_factory",
        "autocommit",  # Python >= 3.12
    )

    def connect(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Connect so that attributes can be read on the event loop's thread.

        Statements run on the connection's own thread all the same.
        """
        if len(args) > 4:  # noqa: PLR2004 - check_same_thread is the fifth parameter
            return self.module.connect(*args, **kwargs)
        return self.module.connect(*args, **{"check_same_thread": False, **kwargs})

    def in_transaction(self, raw: Any) -> bool | None:
        """SQLite always knows; with `autocommit=False` a transaction is open by definition."""
        if getattr(raw, "autocommit", None) is False:
            return None
        return bool(raw.in_transaction)

    def begin(self, raw: Any) -> None:
        """Begin explicitly: the module does so by itself only ahead of some statements."""
        if not raw.in_transaction:
            raw.execute(f"BEGIN {raw.isolation_level or ''}")

    def commit(self, raw: Any) -> None:
        """Commit also what was begun by a statement, which `commit()` ignores in autocommit."""
        raw.commit()
        if getattr(raw, "autocommit", None) is True and raw.in_transaction:
            raw.execute("COMMIT")

    def rollback(self, raw: Any) -> None:
        """Roll back also what was begun by a statement, as in `commit()`."""
        raw.rollback()
        if getattr(raw, "autocommit", None) is True and raw.in_transaction:
            raw.execute("ROLLBACK")

    def canceller(
        self,
        raw: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Canceller | None:
        """`interrupt()` may be called on any thread, and does nothing where nothing runs."""
        return lambda _ask: raw.interrupt()

    def interrupted(self, cursor: Any) -> BaseException | None:
        """An interrupt stays in force until every cursor of the connection is done."""
        error: BaseException = self.module.OperationalError("interrupted")
        return error

    def fetch(self, cursor: Any, count: int, into: MutableSequence[Any]) -> type:
        """Step row by row, so that an error in the middle loses none of the rows before it."""
        into.extend(islice(cursor, count))
        return list
