"""psycopg (version 3), its blocking API: PostgreSQL through libpq."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from asyncdbpool.drivers._libpq import IDLE, Cancel, LibpqDriver, functions_of, patience_of
from asyncdbpool.drivers.base import Unanswered
from asyncdbpool.drivers.dbapi import Canceller

__all__ = ["PsycopgDriver"]


class PsycopgDriver(LibpqDriver):
    """psycopg begins with the transaction's characteristics, and cancels without the GIL."""

    dsn_keyword: ClassVar[str] = "conninfo"
    code_attribute: ClassVar[str] = "sqlstate"
    session_attributes: ClassVar[tuple[str, ...]] = (
        "autocommit",
        "isolation_level",
        "read_only",
        "deferrable",
        "row_factory",
        "cursor_factory",
        "server_cursor_factory",
        "prepare_threshold",
        "prepared_max",
    )

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._libpq = None if _cancels_safely(module) else functions_of(_extension(module))

    def begin(self, raw: Any) -> None:
        """Begin by hand in autocommit, as the module does elsewhere."""
        if raw.autocommit and raw.info.transaction_status == IDLE:
            self.command(raw, " ".join(["BEGIN", *_characteristics(raw)]))

    def ping(self, raw: Any) -> None:
        """Ask with an empty statement, in one round trip."""
        autocommit = raw.autocommit
        raw.autocommit = True
        try:
            self.command(raw, "")
        finally:
            raw.autocommit = autocommit

    def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Reset, and have the module forget the statements that it has prepared.

        It does so with every rollback; with `DISCARD ALL` only of late.
        """
        super().reset(raw, args, kwargs)
        self.command(raw, "BEGIN")
        raw.rollback()

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        """`cancel_safe()`, which waits for the server to have sent its signal.

        With a libpq older than 17 the module's C code would hold the GIL meanwhile, so it is
        called past the module, as for psycopg2.
        """
        patience = patience_of(kwargs)
        if self._libpq is not None:
            return Cancel(self._libpq, raw.pgconn.pgconn_ptr, patience)

        def cancel(_ask: Callable[[], Mapping[str, Any]]) -> None:
            try:
                raw.cancel_safe(timeout=patience)
            except self.module.errors.CancellationTimeout as error:
                raise Unanswered(f"a cancel had no answer within {patience:g} s") from error

        return cancel

    def goes_behind(self, cursor: Any) -> bool:
        """A named cursor's position is the server's own."""
        return hasattr(cursor, "name")


def _characteristics(raw: Any) -> list[str]:
    """Return the words of `BEGIN` for what is set on the connection; None leaves it open."""
    words: list[str] = []
    if raw.isolation_level is not None:
        words.append("ISOLATION LEVEL " + raw.isolation_level.name.replace("_", " "))
    if raw.read_only is not None:
        words.append("READ ONLY" if raw.read_only else "READ WRITE")
    if raw.deferrable is not None:
        words.append("DEFERRABLE" if raw.deferrable else "NOT DEFERRABLE")
    return words


def _cancels_safely(module: Any) -> bool:
    """Tell whether `cancel_safe()` releases the GIL: by libpq 17, or called by ctypes."""
    return bool(module.pq.__impl__ == "python" or module.capabilities.has_cancel_safe())


def _extension(module: Any) -> Any:
    """Return the extension module that the module reaches libpq by."""
    return sys.modules.get(f"psycopg_{module.pq.__impl__}.pq")
