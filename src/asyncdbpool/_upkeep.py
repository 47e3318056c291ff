"""Upkeep: expiry of idle connections, keepalive, refill, and the report of leaks."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Iterable
from typing import Protocol

from asyncdbpool._lease import Lease
from asyncdbpool._options import Options
from asyncdbpool._record import Record

__all__ = ["Upkeep"]

log = logging.getLogger("asyncdbpool")


class Kept(Protocol):
    """What upkeep asks of the pool that it keeps in order."""

    name: str
    loop: asyncio.AbstractEventLoop
    options: Options
    idle: list[Record]
    leases: dict[Lease, None]
    refill_at: float

    def spare(self) -> int:
        """Tell how many connections there are above `min_size`."""

    def expire(self, records: Iterable[Record], why: str) -> None:
        """Close idle connections."""

    def check(self, record: Record) -> None:
        """Ping an idle connection."""

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
            self._timer = kept.loop.call_at(due, _fire, weakref.ref(self))

    def tick(self) -> None:
        """Do what is due now."""
        kept = self._kept()
        if kept is None:
            return
        now = kept.loop.time()
        options = kept.options
        kept.expire([record for record in kept.idle if record.expires_at <= now], "max_age")
        if options.max_idle:
            unused = [r for r in kept.idle if r.idle_since + options.max_idle <= now]
            kept.expire(unused[: max(0, kept.spare())], "max_idle")
        if options.keepalive is not None:
            for record in tuple(kept.idle):
                if max(record.idle_since, record.pinged_at) + options.keepalive <= now:
                    kept.check(record)
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
    now, options = kept.loop.time(), kept.options
    periods = [
        period
        for period in (options.max_idle, 0.95 * options.max_age, options.keepalive, options.leak_timeout)
        if period
    ]
    due = now + min(periods, default=float("inf"))
    for record in kept.idle:
        if options.max_idle and kept.spare() > 0:
            due = min(due, record.idle_since + options.max_idle)
        due = min(due, record.expires_at)
        if options.keepalive is not None:
            due = min(due, max(record.idle_since, record.pinged_at) + options.keepalive)
    for lease in kept.leases:
        if options.leak_timeout is not None and not lease.reported:
            due = min(due, lease.taken_at + options.leak_timeout)
    if kept.refill_at > now:
        due = min(due, kept.refill_at)
    return max(due, now + 0.001)
