"""psycopg (version 3), its blocking API: PostgreSQL through libpq."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from asyncdbpool.drivers._libpq import IDLE, Cancel, LibpqDriver, patience_of
from asyncdbpool.drivers._psycopg3 import (
    SESSION,
    Psycopg3,
    characteristics,
    libpq_of,
    register_again,
    registered,
    verdict_on,
)
from asyncdbpool.drivers.dbapi import Canceller

__all__ = ["PsycopgDriver"]


class PsycopgDriver(Psycopg3, LibpqDriver):
    """psycopg begins with the transaction's characteristics, and cancels without the GIL."""

    session_attributes: ClassVar[tuple[str, ...]] = SESSION

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._libpq = libpq_of(module)

    def begin(self, raw: Any) -> None:
        """Begin by hand in autocommit, as the module does elsewhere."""
        if raw.autocommit and raw.info.transaction_status == IDLE:
            self.command(raw, " ".join(["BEGIN", *characteristics(raw)]))

    def ping(self, raw: Any) -> None:
        """Ask with an empty statement, in one round trip."""
        autocommit = raw.autocommit
        raw.autocommit = True
        try:
            self.command(raw, "")
        finally:
            raw.autocommit = autocommit

    def remember(self, raw: Any) -> Any:
        """Take down also what is registered: adapters, and who is called back."""
        return super().remember(raw), registered(raw)

    def restore(self, raw: Any, memory: Any) -> None:
        """Set the attributes again, and take back what was registered.

        Raises:
            OperationalError: A pipeline was left open, whose answers are still to come.
        """
        if raw.pgconn.pipeline_status:
            raise self.module.OperationalError("a pipeline was left open")
        attributes, before = memory
        super().restore(raw, attributes)
        register_again(raw, before)

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
            except self.module.OperationalError as error:
                raise verdict_on(error) from error

        return cancel

    def goes_behind(self, cursor: Any) -> bool:
        """A named cursor's position is the server's own."""
        return hasattr(cursor, "name")

    def holds_rows(self, cursor: Any) -> bool:
        """All rows come with the statement, but for those of a named cursor."""
        return not self.goes_behind(cursor)
