"""The same fake as a native driver: its methods are coroutines, and it has no threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from asyncdbpool import NativeDriver
from asyncdbpool.drivers import BaseDriver
from asyncdbpool.drivers.native import NativeCanceller
from asyncdbpool.testing import errors
from asyncdbpool.testing.fake import ConnectGate, Fake, FakeConnection, Rows
from asyncdbpool.testing.gates import Gate

__all__ = ["FakeNativeDriver", "NativeFake", "NativeFakeConnection"]


class NativeFake(Fake):
    """A module like asyncpg or aiomysql, with the gates of `Fake`, cursors' ones left out."""

    def gate_of_connect(self) -> ConnectGate:
        """Make the gate that is `connect()`."""
        return NativeConnectGate(self)

    def driver(self) -> BaseDriver:
        """Make what a driver file would say about it."""
        return FakeNativeDriver(self)


class NativeConnectGate(ConnectGate):
    """The gate of `connect`, which is the module's coroutine function at the same time."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.fake.asked.append(kwargs)
        await self.pass_through()
        return NativeFakeConnection(self.fake)


class NativeFakeConnection(FakeConnection):
    """A native driver's connection that knows its rules."""

    async def turn(self, name: str) -> None:
        """Pass a gate."""
        gate: Gate = getattr(self.fake, name)
        with self.alone(name):
            self.refuse_if_cut(name)
            await gate.pass_through(self)

    async def query(self, sql: str, params: Any = ()) -> Rows:
        """Run a statement; one that begins with SELECT has rows."""
        await self.turn("execute")
        self.begin_statement(sql)
        if not sql.startswith("SELECT"):
            return []
        rows = self.fake.result_of(sql, params)
        await self.turn("fetch")
        return rows

    async def aclose(self) -> None:
        """Close it; it is closed even where that fails."""
        try:
            await self.turn("close")
        finally:
            self.terminate()

    def terminate(self) -> None:
        """Close it at once."""
        if not self.closed:
            self.end()


class FakeNativeDriver(NativeDriver):
    """What a driver file would say about the fake."""

    can_reset: ClassVar[bool] = True
    survives_cancellation: ClassVar[bool] = True

    async def close(self, raw: Any) -> None:
        """Close, by the gate `close`."""
        await raw.aclose()

    def terminate(self, raw: Any) -> None:
        """Close without a gate."""
        raw.terminate()

    def is_closed(self, raw: Any) -> bool:
        """Tell it."""
        return bool(raw.closed)

    async def command(self, raw: Any, sql: str) -> None:
        """Run a statement."""
        await raw.query(sql)

    async def fetch_all(self, raw: Any, sql: Any, params: Any) -> list[Any]:
        """Return all rows."""
        rows: Rows = await raw.query(sql, params)
        return rows

    async def fetch_one(self, raw: Any, sql: Any, params: Any) -> Any:
        """Return the first row."""
        rows = await raw.query(sql, params)
        return rows[0] if rows else None

    async def execute(self, raw: Any, sql: Any, params: Any) -> int:
        """Return a rowcount."""
        await raw.query(sql, params)
        return 1

    async def execute_many(self, raw: Any, sql: Any, params: Any) -> int:
        """Return a rowcount."""
        await raw.query(sql)
        return len(params)

    def in_transaction(self, raw: Any) -> bool | None:
        """Tell it without a step."""
        return bool(raw.in_transaction)

    async def begin(self, raw: Any, **options: Any) -> None:
        """Do nothing: every statement begins a transaction."""

    async def commit(self, raw: Any) -> None:
        """Commit, by the gate `commit`."""
        await raw.turn("commit")
        raw.in_transaction = False

    async def rollback(self, raw: Any) -> None:
        """Roll back, by the gate `rollback`."""
        await raw.turn("rollback")
        raw.in_transaction = False

    async def ping(self, raw: Any) -> None:
        """Ping, by the gate `ping`."""
        await raw.turn("ping")

    async def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Reset, by the gate `reset`."""
        await raw.turn("reset")
        raw.in_transaction = False

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> NativeCanceller | None:
        """Interrupt, by the gate `cancel`."""

        async def cancel(_ask: object) -> None:
            await raw.fake.cancel.pass_through(raw)
            raw.hit()

        return cancel if raw.fake.cancels else None

    async def absorb_cancel(self, raw: Any) -> None:
        """Forget a cancel that has hit nothing."""
        raw.interrupted = False

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """Know what is lost, and what is read-only."""
        return isinstance(error, (ConnectionError, errors.ReadOnly))
