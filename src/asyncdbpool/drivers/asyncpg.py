"""asyncpg: PostgreSQL, natively asynchronous."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from asyncdbpool.drivers import _postgres
from asyncdbpool.drivers.base import TRANSIENT, Unanswered
from asyncdbpool.drivers.native import Left, NativeCanceller, NativeDriver, no_way_back

__all__ = ["AsyncpgDriver"]

_CALLBACKS = ("log_listener", "termination_listener", "query_logger")
_CODECS = ("set_type_codec", "set_builtin_type_codec", "reset_type_codec")

_SOON = _postgres.SOON | {"08001", "08003", "08006"}
"""Also a server that goes away while it is connected to."""


class AsyncpgDriver(NativeDriver):
    """It is in autocommit; it knows its transaction, and cancels in the server."""

    transaction_options: ClassVar[tuple[str, ...]] = ("isolation", "readonly", "deferrable")
    can_reset: ClassVar[bool] = True
    survives_cancellation: ClassVar[bool] = True
    calls_users_code: ClassVar[frozenset[str]] = frozenset(
        {"copy_from_table", "copy_from_query", "copy_to_table", "copy_records_to_table"}
    )
    noted: ClassVar[frozenset[str]] = frozenset(_CODECS)
    calls_back: ClassVar[frozenset[str]] = frozenset(
        f"{do}_{kind}" for do in ("add", "remove") for kind in ("listener", *_CALLBACKS)
    )

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.guests = (module.connresource.ConnectionResource,)

    # Connecting

    def with_timeout(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], seconds: float
    ) -> dict[str, Any]:
        """Leave the time to the pool, which ends a connect from outside."""
        return {"timeout": None, **kwargs}

    def terminate(self, raw: Any) -> None:
        """Abort the transport."""
        raw.terminate()

    def is_closed(self, raw: Any) -> bool:
        """The transport tells as soon as the loop has seen it."""
        return bool(raw.is_closed())

    def fileno(self, raw: Any) -> int | None:
        """Ask the transport, which asyncpg keeps to itself."""
        transport = getattr(raw, "_transport", None)
        handle = None if transport is None else transport.get_extra_info("socket")
        return None if handle is None else handle.fileno()

    # Statements

    async def command(self, raw: Any, sql: str) -> None:
        """Run a statement with the simple protocol."""
        await raw.execute(sql)

    async def fetch_all(self, raw: Any, sql: Any, params: Any) -> list[Any]:
        """Run a statement and return its records."""
        records: list[Any] = await raw.fetch(sql, *_spread(params))
        return records

    async def fetch_one(self, raw: Any, sql: Any, params: Any) -> Any:
        """Run a statement and return its first record, or None."""
        return await raw.fetchrow(sql, *_spread(params))

    async def execute(self, raw: Any, sql: Any, params: Any) -> int:
        """Run a statement; its command tag ends with the rowcount, if it has one."""
        count = str(await raw.execute(sql, *_spread(params))).rpartition(" ")[2]
        return int(count) if count.isdecimal() else -1

    async def execute_many(self, raw: Any, sql: Any, params: Any) -> int:
        """Run a statement for each set; all or nothing, and the rowcount is not told."""
        await raw.executemany(sql, [_spread(each) for each in params])
        return -1

    # Transactions

    def in_transaction(self, raw: Any) -> bool | None:
        """The server tells with every answer; asyncpg's own transaction has to be ended, too."""
        if raw.is_closed() or raw._protocol._is_cancelling():  # noqa: SLF001 - as below
            return None
        return raw.is_in_transaction() or _own(raw) is not None

    async def begin(self, raw: Any, **options: Any) -> None:
        """Begin with asyncpg's own transaction, so that a function in `run()` can nest another.

        What was begun before is taken over, as with every driver.
        """
        if options or not self.in_transaction(raw):
            await raw.transaction(**options).start()

    async def begin_once(self, raw: Any, work: str) -> None:
        """Begin for a function: asyncpg would commit each of its statements by itself."""
        if work == "apply":
            await self.begin(raw)

    async def confirm(self, raw: Any) -> None:
        """Ask the server: asyncpg does not tell that PostgreSQL answers COMMIT with ROLLBACK."""
        await self.command(raw, "SELECT 1")

    async def commit(self, raw: Any) -> None:
        """Commit asyncpg's own transaction, also one that was left behind, or a statement's."""
        own = _own(raw)
        await (raw.execute("COMMIT") if own is None else own.__aexit__(None, None, None))

    async def rollback(self, raw: Any) -> None:
        """Roll back, as in `commit()`, also one whose `async with` block was left behind."""
        own = _own(raw)
        if own is None:
            await raw.execute("ROLLBACK")
        else:
            await own.__aexit__(asyncio.CancelledError, None, None)

    # Sessions

    def note(self, raw: Any, name: str, arguments: Mapping[str, Any], left: Left) -> None:
        """Note codecs: nobody can tell what they have replaced."""
        left["codec"] = no_way_back

    def remember(self, raw: Any) -> Any:
        """Take down who is called back, which asyncpg keeps to itself."""
        channels = {channel: set(fns) for channel, fns in _listeners(raw).items()}
        return channels, {kind: set(_called_back(raw, kind)) for kind in _CALLBACKS}

    def is_altered(self, raw: Any, memory: Any) -> bool:
        """Compare with who was called back then."""
        channels, others = memory
        return _listeners(raw) != channels or any(
            _called_back(raw, kind) != fns for kind, fns in others.items()
        )

    async def restore(self, raw: Any, memory: Any) -> None:
        """Remove who was added, and add who was removed."""
        channels, others = memory
        now = {channel: set(fns) for channel, fns in _listeners(raw).items()}
        for channel in now.keys() | channels.keys():
            before, after = channels.get(channel, set()), now.get(channel, set())
            if channel in now and not after:  # asyncpg listens for a callback that it has refused
                await raw.add_listener(channel, _nobody)
                await raw.remove_listener(channel, _nobody)
            for callback in after - before:
                await raw.remove_listener(channel, callback.cb)
            for callback in before - after:
                await raw.add_listener(channel, callback.cb)
        for kind, before in others.items():
            after = set(_called_back(raw, kind))
            for callback in after - before:
                getattr(raw, f"remove_{kind}")(callback.cb)
            for callback in before - after:
                getattr(raw, f"add_{kind}")(callback.cb)

    async def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Reset as asyncpg does: advisory locks, cursors, LISTENs and settings."""
        await raw.reset()

    # Cancelling

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> NativeCanceller | None:
        """Send what asyncpg sends for a task that is cancelled: PostgreSQL's cancel request.

        The server closes its connection once it has sent the signal, and that is waited for, so it
        cannot hit a later statement. asyncpg takes a connection that is reset for one that was
        closed, so it is not left to asyncpg.
        """
        if not hasattr(raw, "_cancel"):
            return None

        async def cancel(_ask: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
            transport, request = await _beside(raw, self.module.connect_utils)
            try:
                told = raw._protocol  # noqa: SLF001 - it has no other name
                transport.write(_postgres.cancel_request(told.backend_pid, told.backend_secret))
                error = await request.ended
            finally:
                transport.close()
            if error is not None:
                raise Unanswered("the cancel request had no answer") from error

        return cancel

    def is_cancelling(self, raw: Any) -> bool:
        """Asyncpg sends its own cancel after a timeout of its own, and goes on at once."""
        return not raw.is_closed() and bool(raw._protocol._is_cancelling())  # noqa: SLF001

    async def await_cancelling(self, raw: Any) -> None:
        """Wait for the server's answer to it."""
        await raw._protocol._wait_for_cancellation()  # noqa: SLF001 - it has no other name

    # Errors

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """A lost connection, an administrator's shutdown, or a server that became read-only.

        Also statements that were prepared before the schema has changed, on every connection; but
        not a connection that this side has aborted.
        """
        module = self.module
        stale = (module.InvalidCachedStatementError, module.OutdatedSchemaCacheError)
        own = (module.PostgresError, module.InterfaceError, module.InternalClientError)
        if not isinstance(error, own):
            return False
        code = getattr(error, "sqlstate", None)  # an InterfaceError has none
        gone = raw.is_closed() and not getattr(raw, "_aborted", False)
        return gone or isinstance(error, stale) or _postgres.is_lost(code)

    def is_transient(self, error: BaseException) -> bool:
        """Refused, reset, timed out, starting up, in recovery, too many connections."""
        code = getattr(error, "sqlstate", None)
        if code is not None:
            return code in _SOON
        numbers = {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))}
        refused = isinstance(error, OSError) and bool(numbers) and numbers <= set(TRANSIENT)
        return refused or super().is_transient(error)


class _Request(asyncio.Protocol):
    """The connection of a request to cancel.

    Attributes:
        ended: Ends with its end, and with the error if it did not end well.
    """

    def __init__(self) -> None:
        self.ended: asyncio.Future[Exception | None]
        self.ended = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell."""
        if not self.ended.done():
            self.ended.set_result(exc)


async def _beside(raw: Any, asyncpg: Any) -> tuple[asyncio.Transport, _Request]:
    """Connect to where a connection goes, in the way that it has gone."""
    loop = asyncio.get_running_loop()
    address, params = raw._addr, raw._params  # noqa: SLF001 - they have no other names
    made: Any
    if isinstance(address, str):
        made = await loop.create_unix_connection(_Request, address)
    elif params.ssl and params.sslmode != asyncpg.SSLMode.allow:
        made = await asyncpg._create_ssl_connection(  # noqa: SLF001 - as above
            _Request,
            *address,
            loop=loop,
            ssl_context=params.ssl,
            ssl_is_advisory=params.sslmode == asyncpg.SSLMode.prefer,
        )
    else:
        made = await loop.create_connection(_Request, *address)
    transport, request = made
    return transport, request


def _own(raw: Any) -> Any:
    """Return asyncpg's transaction that is open, or None."""
    return getattr(raw, "_top_xact", None)


def _nobody(*args: Any) -> None:
    """Stand for a callback."""


def _listeners(raw: Any) -> dict[str, set[Any]]:
    return getattr(raw, "_listeners", {})


def _called_back(raw: Any, kind: str) -> set[Any]:
    return getattr(raw, f"_{kind}s", set())


def _spread(params: Any) -> tuple[Any, ...]:
    """Make arguments of parameters; a mapping's go by their order, since asyncpg has no names."""
    if params is None:
        return ()
    if isinstance(params, (str, bytes)):
        raise TypeError(f"params must be a sequence or a mapping, not {type(params).__name__}")
    return tuple(params.values() if isinstance(params, Mapping) else params)
