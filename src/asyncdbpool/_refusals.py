"""Saying no: to whom a pool is closed, who waits too long, and those who wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Protocol

from asyncdbpool import _reports
from asyncdbpool._lease import Lease
from asyncdbpool._line import Line
from asyncdbpool._options import Options
from asyncdbpool._permits import Permits
from asyncdbpool._stock import Stock
from asyncdbpool.errors import (
    PoolClosed,
    PoolDeadlock,
    PoolError,
    PoolTimeout,
    TooManyWaiters,
)
from asyncdbpool.stats import Counters

__all__ = ["Refusals"]

_DOUBT = 15.0  # seconds of an endless wait after which a probable deadlock is taken for one


class Situation(Protocol):
    """What is to be known of the open pool."""

    name: str
    loop: asyncio.AbstractEventLoop
    counters: Counters
    options: Options
    stock: Stock
    permits: Permits
    line: Line
    leases: dict[Lease, None]
    waiters: dict[asyncio.Task[Any] | None, float]
    closing: bool
    paused: bool

    def out(self) -> Iterator[Lease]:
        """Go through what is lent, and what is on its way back."""
        ...


class Refusals:
    """Makes the errors of an open pool for those who get no connection."""

    def __init__(self, pool: Situation) -> None:
        self._pool = pool

    def closed(self) -> PoolClosed:
        """Make the error for who comes too late for the pool."""
        return PoolClosed(
            f"pool {self._pool.name!r} is closed; open it again with `await pool.open()`"
        )

    def given_up(self) -> PoolClosed:
        """Make the error for who waits for a call of the driver that does not come back."""
        return PoolClosed(
            f"pool {self._pool.name!r} was closed while this ran; it hangs in the driver and is "
            "left to its thread"
        )

    def refuse_if_closed(self) -> None:
        """Raise `PoolClosed` once nobody gets a connection any more."""
        if self._pool.closing:
            raise self.closed()

    def refuse_if_hopeless(self) -> None:
        """Raise where nobody else may wait, or all would wait for each other."""
        limit = self._pool.options.max_waiting
        waiting = self._pool.line.waiting
        if limit is not None and waiting >= limit:
            raise TooManyWaiters(
                f"pool {self._pool.name!r}: {waiting} tasks wait already, as many as "
                f"max_waiting allows; {self._situation()}"
            )
        if self._is_deadlocked(certain=True):
            raise self._deadlock()

    def refusal(self, since: float, timeout: float | None) -> PoolError | None:
        """Make the error for who waits in vain, too long or for ever; None for who may go on."""
        now = self._pool.loop.time()
        if timeout is not None and now >= since + timeout:
            return self._too_late(timeout)
        if now >= since + _until_doubt(timeout) and self._is_deadlocked(certain=False):
            return self._deadlock()
        return None

    def next_look(self, since: float, timeout: float | None) -> float:
        """Tell when to look again at who waits."""
        now = self._pool.loop.time()
        doubt = since + _until_doubt(timeout)
        if now < doubt:
            return doubt
        return now + _DOUBT if timeout is None else since + timeout

    def _too_late(self, timeout: float | None) -> PoolTimeout:
        self._pool.counters.timeouts += 1
        error = PoolTimeout(
            f"pool {self._pool.name!r}: no connection within {timeout:g} s; {self._situation()}"
            f"{_reports.oldest(self._pool.out())}"
        )
        error.__cause__ = self._pool.stock.connect_error
        return error

    def _is_deadlocked(self, *, certain: bool) -> bool:
        """Tell whether every lease is held by a task that itself waits here.

        A lease counts at once where its task surely keeps it for itself (it came from
        `connection()`, or that task has used it last); one taken by hand and not used yet may be
        on its way to another task, and counts only after half of the wait.
        """
        leases = self._pool.leases
        if len(leases) < self._pool.permits.size:
            return False
        for lease in leases:
            if lease.record.pending or lease.user not in self._pool.waiters:
                return False
            if certain and not lease.certain:
                return False
        return True

    def _deadlock(self) -> PoolDeadlock:
        return PoolDeadlock(
            f"pool {self._pool.name!r}: all {len(self._pool.leases)} connections are held by "
            "tasks that wait for another one of this pool; use the one you have, or return it "
            f"first{_reports.oldest(self._pool.out())}"
        )

    def _situation(self) -> str:
        pool = self._pool
        return _reports.situation(pool.stock, len(pool.waiters), paused=pool.paused)


def _until_doubt(timeout: float | None) -> float:
    """Tell after how many seconds of a wait a probable deadlock is taken for one."""
    return _DOUBT if timeout is None else timeout / 2
