"""Figures and words about an open pool, for `stats()`, for errors and for the log."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import fields

from asyncdbpool._lease import Lease
from asyncdbpool._options import Options
from asyncdbpool._record import State
from asyncdbpool._stock import Stock
from asyncdbpool.stats import Counters, PoolStats

__all__ = ["figures", "oldest", "situation"]

_COUNTERS = tuple(field.name for field in fields(Counters))
_SHOWN = 3  # holders named in an error's message


def figures(
    name: str, options: Options, counters: Counters, stock: Stock | None, waiting: int
) -> PoolStats:
    """Put a pool's figures together; `stock` is None while the pool is not open."""
    size, idle, connecting = (0, 0, 0) if stock is None else _sizes(stock)
    return PoolStats(
        name=name,
        min_size=options.min_size,
        max_size=options.max_size,
        size=size,
        idle=idle,
        in_use=size - idle - connecting,
        connecting=connecting,
        waiting=waiting,
        **{counter: getattr(counters, counter) for counter in _COUNTERS},
    )


def _sizes(stock: Stock) -> tuple[int, int, int]:
    """Count all, the idle and those being made, in one look: an exporter's thread may ask."""
    states = [record.state for record in tuple(stock.records)]
    return len(states), states.count(State.IDLE), states.count(State.CONNECTING)


def situation(stock: Stock, waiting: int, *, paused: bool) -> str:
    """Say how a pool stands, for a message."""
    size, idle, connecting = _sizes(stock)
    text = (
        f"size {size} of max_size {stock.options.max_size}: in use {size - idle - connecting}, "
        f"idle {idle}, connecting {connecting}; waiting {waiting}{stock.quota.situation()}"
    )
    return f"{text}; paused" if paused else text


def oldest(leases: Iterable[Lease]) -> str:
    """Name the oldest holders, for a message."""
    holders = enumerate(itertools.islice(leases, _SHOWN), 1)
    return "".join(f"\noldest lease {n}: {lease.info()}" for n, lease in holders)
