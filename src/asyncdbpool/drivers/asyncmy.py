"""asyncmy: MySQL and MariaDB, natively asynchronous, in Cython."""

from __future__ import annotations

from typing import Any, ClassVar

from asyncdbpool.drivers._aiomysql_kin import AiomysqlKin

__all__ = ["AsyncmyDriver"]


class AsyncmyDriver(AiomysqlKin):
    """asyncmy is written after aiomysql, and sees the server's flags with every answer."""

    database_aliases: ClassVar[tuple[str, ...]] = ("db",)
    prefix: ClassVar[str] = "_"

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.guests = (
            module.cursors.Cursor,
            module.connection.PreparedStatement,
            module.contexts._ContextManager,  # noqa: SLF001 - no other name
        )

    def is_closed(self, raw: Any) -> bool:
        """Look also for an end that has come in and was not read yet."""
        return bool(raw._stream_broken)  # noqa: SLF001 - what asyncmy's own pool looks at

    def fileno(self, raw: Any) -> int | None:
        """Ask the transport."""
        transport = raw._transport  # noqa: SLF001 - it has no other name
        handle = None if transport is None else transport.get_extra_info("socket")
        return None if handle is None else handle.fileno()

    def in_transaction(self, raw: Any) -> bool | None:
        """Read the flag that came with the server's last answer, rows or not."""
        return None if self.is_unread(raw) else bool(raw.get_transaction_status())

    async def set_charset(self, raw: Any, charset: str) -> None:
        """Do without the module's own, which fails ahead of asking the server."""
        await self.command(raw, f"SET NAMES {charset}")
