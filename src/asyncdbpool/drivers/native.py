"""The base of the native drivers: modules whose connections are asyncio's own."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

from asyncdbpool.drivers.base import BaseDriver
from asyncdbpool.errors import PoolError

__all__ = ["Left", "NativeCanceller", "NativeDriver", "no_way_back"]

NativeCanceller = Callable[[Callable[[], Awaitable[Mapping[str, Any]]]], Awaitable[None]]
"""Cancels what runs on one connection; takes a coroutine function that gives the credentials."""

Left = dict[object, Callable[[], Any]]
"""What a borrower has left in a session, and how to take it back."""


def no_way_back() -> None:
    """Stand in `Left` for what cannot be taken back: the connection is closed."""
    raise PoolError("what a borrower has left in this session cannot be taken back")


class NativeDriver(BaseDriver, ABC):
    """What the pool has to know about a driver whose methods are coroutines.

    Subclass it for an asyncio driver that the library does not know, and give or register it like
    a `Driver`. Its coroutines run in tasks of the pool's own, one after the other on each
    connection. They are cancelled only where the connection is cut off, or where they wait for
    code of the user's whose caller has gone.

    Attributes:
        survives_cancellation: Whether a connection is of use after one of the driver's coroutines
            was cancelled.
        calls_users_code: The connection's methods that await what the user gives them.
        defaults: Keywords that the connection's methods get where they are called without any.
        noted: The connection's methods that `note()` wants to hear of.
        calls_back: The connection's methods whose callback is given the connection.
        guests: The classes of what is made from a connection and goes with it: cursors,
            statements and the like.
    """

    native: ClassVar[bool] = True
    survives_cancellation: ClassVar[bool] = False
    calls_users_code: ClassVar[frozenset[str]] = frozenset()
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    noted: ClassVar[frozenset[str]] = frozenset()
    calls_back: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.guests: tuple[type, ...] = ()
        self._turns: dict[tuple[type, str], bool] = {}

    # Connecting

    async def connect(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Make a connection.

        Raises:
            PoolError: The module is a blocking one.
        """
        pending = self.module.connect(*args, **kwargs)
        if inspect.isawaitable(pending):
            return await pending
        with suppress(Exception):  # whatever it is, nobody else would close it
            pending.close()
        raise PoolError(
            f"connect() of {self.module!r} returned {type(pending).__name__}, which cannot be "
            f"awaited; {type(self).__name__} is for asyncio's drivers, a blocking one needs "
            "a Driver"
        )

    async def close(self, raw: Any) -> None:
        """Close the connection, taking leave of the server."""
        await raw.close()

    @abstractmethod
    def terminate(self, raw: Any) -> None:
        """Close the connection at once."""

    @abstractmethod
    def is_closed(self, raw: Any) -> bool:
        """Tell without I/O whether the connection is known to be closed, by either side."""

    # Statements

    @abstractmethod
    async def command(self, raw: Any, sql: str) -> None:
        """Run a statement for its effect."""

    @abstractmethod
    async def fetch_all(self, raw: Any, sql: Any, params: Any) -> list[Any]:
        """Run a statement and return all of its rows."""

    @abstractmethod
    async def fetch_one(self, raw: Any, sql: Any, params: Any) -> Any:
        """Run a statement and return its first row, or None."""

    @abstractmethod
    async def execute(self, raw: Any, sql: Any, params: Any) -> int:
        """Run a statement and return its rowcount, -1 where it is not known."""

    @abstractmethod
    async def execute_many(self, raw: Any, sql: Any, params: Any) -> int:
        """Run a statement once for each set of parameters and return the rowcount."""

    # Transactions

    async def begin(self, raw: Any, **options: Any) -> None:
        """Open a transaction."""
        await self.command(raw, "BEGIN")

    async def learn(self, raw: Any) -> bool | None:
        """Ask the server whether a transaction is open, where an error may have hidden it."""
        return None

    async def begin_once(self, raw: Any, work: str) -> None:
        """Open the transaction of a one-shot of several statements, as `Driver.begin_once()`."""
        if work == "execute_many":
            await self.begin(raw)

    async def confirm(self, raw: Any) -> None:
        """Raise where the open transaction has failed, as `Driver.confirm()`."""

    async def commit(self, raw: Any) -> None:
        """Commit."""
        await self.command(raw, "COMMIT")

    async def rollback(self, raw: Any) -> None:
        """Roll back."""
        await self.command(raw, "ROLLBACK")

    async def savepoint(self, raw: Any, name: str) -> None:
        """Set a savepoint."""
        await self.command(raw, f"SAVEPOINT {name}")

    async def release_savepoint(self, raw: Any, name: str) -> None:
        """Keep what was done since the savepoint."""
        await self.command(raw, f"RELEASE SAVEPOINT {name}")

    async def rollback_savepoint(self, raw: Any, name: str) -> None:
        """Undo what was done since the savepoint, and forget it."""
        await self.command(raw, f"ROLLBACK TO SAVEPOINT {name}")
        await self.command(raw, f"RELEASE SAVEPOINT {name}")

    # Sessions

    async def ping(self, raw: Any) -> None:
        """Prove by a round trip that the server answers, or raise."""
        await self.command(raw, "SELECT 1")

    def is_unread(self, raw: Any) -> bool:
        """Tell whether an answer is half read."""
        return False

    async def drain(self, raw: Any) -> None:
        """Read the rest of an answer."""

    def note(self, raw: Any, name: str, arguments: Mapping[str, Any], left: Left) -> None:
        """Note what a call of one of the `noted` methods will leave behind, or take back.

        Args:
            raw: The driver's connection.
            name: The method.
            arguments: What it was called with, by the names of its parameters.
            left: What to add to, under a key of one's own; the value takes it back when it is
                called, and may be a coroutine function.
        """

    def remember(self, raw: Any) -> Any:
        """Take down what `restore()` has to bring back: how the session is set up."""

    def is_altered(self, raw: Any, memory: Any) -> bool:
        """Tell without I/O whether the session is set up otherwise than remembered."""
        return False

    async def restore(self, raw: Any, memory: Any) -> None:
        """Set up the session as it was."""

    async def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Reset the whole session in the database's own way, as `Driver.reset()` does."""
        raise NotImplementedError

    # Cancelling

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> NativeCanceller | None:
        """Make a coroutine function that cancels in the database what runs on a connection.

        It is called while a statement runs, perhaps several times, and must have done its work
        when it ends: whatever comes next on the connection must not be hit. Where it cannot
        know that, it raises `Unanswered`.

        Returns:
            The function, or None where there is no way.
        """

    def is_cancelling(self, raw: Any) -> bool:
        """Tell whether the driver is still ending a statement that nobody waits for."""
        return False

    async def await_cancelling(self, raw: Any) -> None:
        """Wait until it has."""

    async def absorb_cancel(self, raw: Any) -> None:
        """Make sure that a cancel that came too late does not hit the next statement."""

    # What the driver's own objects offer

    def reads_ahead(self, owner: Any) -> bool:
        """Tell whether an iteration over a guest may take several rows in one turn.

        Asked where the guest gives an iterator of its own. Not where that moves the guest itself,
        whose other methods would miss the rows taken and not yet used.
        """
        return True

    def loses_rows(self, owner: Any, name: str) -> bool:
        """Tell whether rows of a guest are gone where a call of this method is cancelled.

        Then it is of no use until one of its methods `execute...` or `callproc` is called.
        """
        return False

    def takes_turn(self, owner: Any, name: str) -> bool:
        """Tell whether a method talks to the server, so that it has to wait for its turn.

        Args:
            owner: The driver's connection, or one of its guests.
            name: The method.
        """
        key = type(owner), name
        if key not in self._turns:
            method = inspect.unwrap(getattr(owner, name))
            self._turns[key] = inspect.iscoroutinefunction(method)
        return self._turns[key]
