"""Upkeep: expiry of idle connections, keepalive, refill, and the report of leaks."""

from __future__ import annotations

import asyncio
import logging
import weakref
from typing import Protocol

from asyncdbpool._lease import Lease
from asyncdbpool._options import Options
from asyncdbpool._stock import Stock

__all__ = ["Upkeep"]

log = logging.getLogger("asyncdbpool")


class Kept(Protocol):
    """What upkeep asks of the pool that it keeps in order."""

    name: str
    loop: asyncio.AbstractEventLoop
    options: Options
    stock: Stock
    leases: dict[Lease, None]

    def dispatch(self) -> None:
        """Make what is missing."""


class Upkeep:
    """One timer for all that falls due; it keeps neither the pool nor the loop alive.

    Whatever becomes due later than now does so at least one `_period` later, so a timer that fires
    once a period, or earlier if something is known to be due, is never late.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = weakref.ref(kept)
        self._timer: asyncio.TimerHandle | None = None
        self.arm()

    def stop(self) -> None:
        """Do nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def arm(self) -> None:
        """Set the timer for what is due next; called again whenever that may come earlier."""
        self.stop()
        kept = self._kept()
        if kept is None:
            return
        due = _next_due(kept)
        if due != float("inf"):
            this: weakref.ref[Upkeep] = weakref.ref(self)
            self._timer = kept.loop.call_at(due, _fire, this)

    def tick(self) -> None:
        """Do what is due now."""
        kept = self._kept()
        if kept is None:
            return
        now, options, stock = kept.loop.time(), kept.options, kept.stock
        stock.expire([record for record in stock.idle if record.expires_at <= now], "max_age")
        if options.max_idle:
            unused = [r for r in stock.idle if r.idle_since + options.max_idle <= now]
            stock.expire(unused[: max(0, stock.spare())], "max_idle")
        if options.keepalive is not None:
            for record in tuple(stock.idle):
                if record.proven_at + options.keepalive <= now:
                    stock.check(record)
        if options.leak_timeout is not None:
            for lease in kept.leases:
                if not lease.reported and lease.taken_at + options.leak_timeout <= now:
                    lease.reported = True
                    log.warning("pool %r: a lease may have leaked: %s", kept.name, lease.info())
        kept.dispatch()
        self.arm()


def _fire(upkeep: weakref.ref[Upkeep]) -> None:
    alive = upkeep()
    if alive is not None:
        alive.tick()


def _next_due(kept: Kept) -> float:
    """Tell when something may be due, infinity if never."""
    now, options, stock = kept.loop.time(), kept.options, kept.stock
    due = now + _period(options)
    for record in stock.idle:
        due = min(due, record.expires_at)
        if options.max_idle and stock.spare() > 0:
            due = min(due, record.idle_since + options.max_idle)
        if options.keepalive is not None:
            due = min(due, record.proven_at + options.keepalive)
    if options.leak_timeout is not None:
        for lease in kept.leases:
            if not lease.reported:
                due = min(due, lease.taken_at + options.leak_timeout)
    if stock.refill_at > now:
        due = min(due, stock.refill_at)
    return max(due, now + 0.001)


def _period(options: Options) -> float:
    """Tell how long after any event something may become due at the earliest."""
    jittered = 0.95 * options.max_age
    periods = (options.max_idle, jittered, options.keepalive, options.leak_timeout)
    return min((period for period in periods if period), default=float("inf"))
