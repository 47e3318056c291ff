"""psycopg2: PostgreSQL through libpq."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from asyncdbpool.drivers._libpq import (
    IDLE,
    UNKNOWN,
    Cancel,
    LibpqDriver,
    functions_of,
    patience_of,
)
from asyncdbpool.drivers.dbapi import Canceller

__all__ = ["Psycopg2Driver"]


class Psycopg2Driver(LibpqDriver):
    """psycopg2 leaves a transaction alone that a statement began in autocommit."""

    database_aliases: ClassVar[tuple[str, ...]] = ("database",)
    dsn_keyword: ClassVar[str] = "dsn"
    code_attribute: ClassVar[str] = "pgcode"
    session_attributes: ClassVar[tuple[str, ...]] = (
        "autocommit",
        "isolation_level",
        "readonly",
        "deferrable",
        "cursor_factory",
    )

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._libpq = functions_of(getattr(module, "_psycopg", None))

    def in_transaction(self, raw: Any) -> bool | None:
        """Libpq tracks the state; the module's own method is the fastest way to it."""
        status = raw.get_transaction_status()
        return None if status == UNKNOWN else bool(status != IDLE)

    def commit(self, raw: Any) -> None:
        """Commit; in autocommit the module's own `commit()` ignores what a statement began."""
        if raw.autocommit and raw.info.transaction_status != IDLE:
            self.command(raw, "COMMIT")
        raw.commit()

    def rollback(self, raw: Any) -> None:
        """Roll back, as in `commit()`."""
        if raw.autocommit and raw.info.transaction_status != IDLE:
            self.command(raw, "ROLLBACK")
        raw.rollback()

    def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Reset, and set again what the module relies on (`DateStyle`)."""
        super().reset(raw, args, kwargs)
        raw.reset()

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        """Call libpq's own `PQcancel()`.

        The module's `cancel()` does the same, but holds the GIL during the round trip, and
        `pg_cancel_backend()` on a side connection would fail behind PgBouncer.
        """
        if self._libpq is None:
            return None
        return Cancel(self._libpq, raw.pgconn_ptr, patience_of(kwargs))

    def gives_rows(self, cursor: Any) -> bool:
        """A named cursor has its description only after the first fetch."""
        return cursor.description is not None or cursor.name is not None

    def goes_behind(self, cursor: Any) -> bool:
        """A named cursor's position is the server's own."""
        return cursor.name is not None

    def holds_rows(self, cursor: Any) -> bool:
        """All rows come with the statement, but for those of a named cursor."""
        return not self.goes_behind(cursor)

    def close_cursor(self, cursor: Any) -> None:
        """Close; a named cursor that has ended with its transaction says so by an error."""
        try:
            cursor.close()
        except self.module.ProgrammingError:
            if cursor.name is None or cursor.withhold:
                raise
