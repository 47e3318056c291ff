"""aiomysql: MySQL and MariaDB, natively asynchronous."""

from __future__ import annotations

from typing import Any, ClassVar

from asyncdbpool.drivers._aiomysql_kin import AiomysqlKin

__all__ = ["AiomysqlDriver"]


class AiomysqlDriver(AiomysqlKin):
    """aiomysql sees the server's flags with some answers only.

    With those that are no rows, that is; so outside of autocommit every `SELECT` may have begun a
    transaction that it does not know of.
    """

    database_keyword: ClassVar[str] = "db"

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.guests = (module.cursors.Cursor, module.utils._ContextManager)  # noqa: SLF001 - no other name

    def is_closed(self, raw: Any) -> bool:
        """Look also for an end that has come in and was not read yet."""
        reader = raw._reader  # noqa: SLF001 - what aiomysql's own pool looks at
        return bool(
            raw.closed
            or reader.at_eof()
            or reader.exception() is not None
            or getattr(reader, "eof_received", False)
        )

    def fileno(self, raw: Any) -> int | None:
        """Ask the transport."""
        writer = raw._writer  # noqa: SLF001 - it has no other name
        handle = None if writer is None else writer.transport.get_extra_info("socket")
        return None if handle is None else handle.fileno()

    def in_transaction(self, raw: Any) -> bool | None:
        """Believe in a yes; a no is certain in autocommit only."""
        if raw.get_transaction_status():
            return True
        return False if raw.get_autocommit() else None

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """For a connection that was reset uvloop raises a `RuntimeError`, which gets out."""
        reset = isinstance(error, RuntimeError) and self.is_closed(raw)
        return reset or super().is_disconnect(error, raw)
