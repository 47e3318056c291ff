"""What the natively asynchronous drivers of MySQL and MariaDB have in common."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from asyncdbpool.drivers import _mysql
from asyncdbpool.drivers.base import Unanswered
from asyncdbpool.drivers.native import Left, NativeCanceller, NativeDriver, no_way_back

__all__ = ["AiomysqlKin"]

_RESET_CONNECTION = 0x1F  # COM_RESET_CONNECTION
_UNKNOWN = 2**64 - 1  # the rowcount of a result that is not read yet

_READING = frozenset({"fetchone", "fetchmany", "fetchall", "scroll", "__anext__", "nextset"})
_IN_MEMORY = _READING - {"nextset"}


class AiomysqlKin(NativeDriver):
    """The server tells its state with an answer, and a cancel is a `KILL`.

    Attributes:
        prefix: What the names of the connect's wishes begin with, as a connection keeps them.
    """

    prefix: ClassVar[str] = ""
    can_reset: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"ping": {"reconnect": False}}
    noted: ClassVar[frozenset[str]] = frozenset({"select_db", "set_charset"})

    # Connecting

    async def close(self, raw: Any) -> None:
        """Say goodbye, then close."""
        await raw.ensure_closed()

    def terminate(self, raw: Any) -> None:
        """Close without a word."""
        raw.close()

    # Statements

    async def command(self, raw: Any, sql: str) -> None:
        """Run a statement on a cursor of the plain kind."""
        async with raw.cursor(self.module.cursors.Cursor) as cursor:
            await cursor.execute(sql)

    async def fetch_all(self, raw: Any, sql: Any, params: Any) -> list[Any]:
        """Run a statement and return its rows."""
        async with raw.cursor() as cursor:
            await cursor.execute(sql, params)
            return list(await cursor.fetchall())

    async def fetch_one(self, raw: Any, sql: Any, params: Any) -> Any:
        """Run a statement and return its first row, or None."""
        async with raw.cursor() as cursor:
            await cursor.execute(sql, params)
            return await cursor.fetchone()

    async def execute(self, raw: Any, sql: Any, params: Any) -> int:
        """Run a statement and return its rowcount."""
        async with raw.cursor() as cursor:
            await cursor.execute(sql, params)
            return _count(cursor)

    async def execute_many(self, raw: Any, sql: Any, params: Any) -> int:
        """Run a statement for each set of parameters; inserts go together."""
        async with raw.cursor() as cursor:
            await cursor.executemany(sql, params)
            return _count(cursor)

    # Transactions

    def is_blind_after_error(self, raw: Any) -> bool:
        """An error comes without flags, and a statement that fails may have begun something."""
        return True

    async def learn(self, raw: Any) -> bool | None:
        """Run a statement that does nothing, whose answer brings the flags."""
        await self.command(raw, "DO 0")
        return bool(raw.get_transaction_status())

    def has_rolled_back(self, error: BaseException) -> bool:
        """A deadlock does, say."""
        return _mysql.number(error, self.module) in _mysql.ROLLED_BACK

    async def begin(self, raw: Any, **options: Any) -> None:
        """Begin by hand in autocommit only: elsewhere it would commit what went before."""
        if raw.get_autocommit() and not self.in_transaction(raw):
            await raw.begin()

    async def commit(self, raw: Any) -> None:
        """Commit."""
        await raw.commit()

    async def rollback(self, raw: Any) -> None:
        """Roll back."""
        await raw.rollback()

    # Sessions

    async def ping(self, raw: Any) -> None:
        """Ask with `COM_PING`."""
        await raw.ping(reconnect=False)

    def is_unread(self, raw: Any) -> bool:
        """A streamed result is read row by row, and there may be another one behind it."""
        result = raw._result  # noqa: SLF001 - it has no other name
        return result is not None and bool(result.unbuffered_active or result.has_next)

    async def drain(self, raw: Any) -> None:
        """Read what is left of it."""
        while self.is_unread(raw):
            if raw._result.unbuffered_active:  # noqa: SLF001 - as above
                await raw._result._finish_unbuffered_query()  # noqa: SLF001 - as above
            else:
                await raw.next_result()

    def note(self, raw: Any, name: str, arguments: Mapping[str, Any], left: Left) -> None:
        """Note another database and another character set."""
        if name == "set_charset":
            left.setdefault(name, partial(raw.set_charset, self.told(raw, "charset")))
        elif self.told(raw, "db"):
            left.setdefault(name, partial(raw.select_db, self.told(raw, "db")))
        else:
            left.setdefault(name, no_way_back)

    def remember(self, raw: Any) -> Any:
        """Autocommit is a method here; and `ping()` may put another connection in its place."""
        return raw.get_autocommit(), raw.thread_id()

    def is_altered(self, raw: Any, memory: Any) -> bool:
        """Compare with what the server has told last."""
        return bool(self.remember(raw) != memory)

    async def restore(self, raw: Any, memory: Any) -> None:
        """Set autocommit again."""
        autocommit, number = memory
        if raw.thread_id() != number:
            no_way_back()
        await raw.autocommit(autocommit)

    async def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """`COM_RESET_CONNECTION`, and what the module does after a connect."""
        await raw._execute_command(_RESET_CONNECTION, "")  # noqa: SLF001 - it has no other name
        await raw._read_ok_packet()  # noqa: SLF001 - as above
        await self.set_charset(raw, self.told(raw, "charset"))
        if self.told(raw, "db"):
            await raw.select_db(self.told(raw, "db"))
        if self.told(raw, "sql_mode") is not None:
            await self.command(raw, f"SET sql_mode={self.told(raw, 'sql_mode')}")
        if self.told(raw, "init_command") is not None:
            await self.command(raw, self.told(raw, "init_command"))
            await raw.commit()

    async def set_charset(self, raw: Any, charset: str) -> None:
        """Set the character set of the session."""
        await raw.set_charset(charset)

    def told(self, raw: Any, name: str) -> Any:
        """Return one of the connect's wishes, or what a borrower's method has put there."""
        return getattr(raw, self.prefix + name)

    # Cancelling

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> NativeCanceller | None:
        """`KILL QUERY` on a side connection, which is closed again."""
        plainly = {"init_command": None, "sql_mode": None, "autocommit": None}

        async def kill(ask: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
            side = await self.connect(args, {**kwargs, **await ask(), **plainly})
            try:
                await self.command(side, f"KILL QUERY {raw.thread_id()}")
            except Exception as error:
                if self.is_disconnect(error, side):
                    raise Unanswered(f"KILL QUERY {raw.thread_id()} had no answer") from error
                raise
            finally:
                side.close()

        return kill

    async def absorb_cancel(self, raw: Any) -> None:
        """Let a kill that came too late hit a statement that does nothing."""
        do_nothing = partial(self.command, raw, "DO 0")
        for work in (partial(self.drain, raw), do_nothing):
            try:
                await work()
            except self.module.OperationalError as error:
                if _mysql.number(error, self.module) != _mysql.INTERRUPTED:
                    raise
        await do_nothing()

    # Errors

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """A lost or killed connection, or a server that became read-only."""
        return _mysql.number(error, self.module) in _mysql.LOST

    def is_transient(self, error: BaseException) -> bool:
        """Refused, lost while connecting, too many connections, shutting down.

        A host without an address has the number of one that refuses.
        """
        soon = _mysql.number(error, self.module) in _mysql.SOON
        return soon and not isinstance(error.__cause__, socket.gaierror)

    # Cursors

    def loses_rows(self, owner: Any, name: str) -> bool:
        """What is read from the wire is gone with its reader."""
        return isinstance(owner, self.module.cursors.SSCursor) and name in _READING

    def takes_turn(self, owner: Any, name: str) -> bool:
        """A cursor that is not streamed has its rows in memory."""
        cursors = self.module.cursors
        if isinstance(owner, cursors.Cursor) and not isinstance(owner, cursors.SSCursor):
            return name not in _IN_MEMORY and super().takes_turn(owner, name)
        return super().takes_turn(owner, name)


def _count(cursor: Any) -> int:
    count = cursor.rowcount
    return -1 if count is None or count == _UNKNOWN else int(count)
