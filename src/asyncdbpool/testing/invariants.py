"""The one checker of what must hold for a pool at any moment, whatever happened before."""

from __future__ import annotations

import gc
import threading
from typing import Any

from asyncdbpool import Connection, ConnectionPool, ConnectionReturned
from asyncdbpool._engine import Engine
from asyncdbpool._lease import Lease
from asyncdbpool._record import Record, State

__all__ = ["check_invariants", "join_threads", "threads_of"]

_HOLDING = (State.LENT, State.RETURNING, State.CLOSING)
"""The states in which a connection's last lease may still have its permit."""


def check_invariants(pool: ConnectionPool, *, stuck: int = 0, proxies: bool = True) -> None:
    """Check all that the library promises of a pool and that can be seen from here.

    It may be called at any time on the pool's event loop, and after the pool's close; only a
    shrinking `resize()` has to be over.

    Args:
        pool: The pool, over any driver.
        stuck: Threads that a `close()` has left inside a hung call of the driver, at most.
        proxies: Look for proxies of past leases, too; that takes some milliseconds.

    Raises:
        AssertionError: A promise is broken; it says which.
    """
    stats = pool.stats()
    _must(stats.size == stats.idle + stats.in_use + stats.connecting, stats)
    _must(min(stats.idle, stats.in_use, stats.connecting, stats.waiting) >= 0, stats)
    _must(stats.closed <= stats.created, stats)
    engine = pool._engine  # noqa: SLF001 - this looks behind the scenes on purpose
    if engine is None:
        _must(stats.size == 0, stats)
        _must(pool.free <= (0 if pool.closed else pool.max_size), f"{pool.free} are free")
        _must(len(threads_of(pool)) <= stuck, f"threads are left: {threads_of(pool)}")
    else:
        _check_permits(pool, engine)
        _check_states(engine)
        _check_leases(engine)
        _check_threads(pool, engine, stuck)
        _check_module(pool, engine, stuck)
    if proxies:
        _check_proxies(pool, engine)


def threads_of(pool: ConnectionPool) -> list[threading.Thread]:
    """Return the pool's worker threads that are alive."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{pool.name}-")]


def join_threads(pool: ConnectionPool) -> None:
    """Wait for the pool's worker threads, where no event loop is left to do it.

    Raises:
        AssertionError: One does not end within five seconds.
    """
    for thread in threads_of(pool):
        thread.join(5)
        _must(not thread.is_alive(), f"{thread.name} does not end")


def _must(condition: object, otherwise: object) -> None:
    """Assert it, with Python's `-O`, too."""
    if not condition:
        raise AssertionError(otherwise)


def _check_permits(pool: ConnectionPool, engine: Engine) -> None:
    permits = engine.permits
    out = sum(record.permit for record in engine.stock.records)
    _must(len(engine.leases) <= out, f"{len(engine.leases)} leases, but {out} permits are out")
    if engine.closing:
        return
    # A task that waits for a connection may hold its permit already.
    most = out + len(engine.waiters)
    _must(out <= permits.taken <= most, f"{permits.taken} permits are taken, {out} are out")
    if not engine.waiters:
        free = max(0, pool.max_size - out)
        _must(permits.taken == out, f"{permits.taken} permits are taken, {out} are out")
        _must(permits.free == free, f"{permits.free} permits are free, not {free}")
    if not permits.owed:
        _must(permits.taken <= permits.size == pool.max_size, "more permits than max_size")
        _must(len(engine.stock.records) <= pool.max_size, "more connections than max_size")


def _check_states(engine: Engine) -> None:
    by_state: dict[State, set[Record]] = {state: set() for state in State}
    for record in engine.stock.records:
        by_state[record.state].add(record)
        _must(record.orphans <= record.tokens.keys(), "an orphan that does not run")
        _must(len(record.tokens) <= record.pending, "a call that nobody makes")
        _must(not record.permit or record.state in _HOLDING, f"{record} holds a permit")
        returning = record.state in (State.RETURNING, State.CLOSING)
        _must(record not in engine.returns or returning, f"{record} is not on its way back")
    idle = engine.stock.idle
    _must(not by_state[State.CLOSED], "a closed connection is still counted")
    _must(set(idle) == by_state[State.IDLE], "the idle are not those that are idle")
    _must(len(idle) == len(by_state[State.IDLE]), "one connection is idle twice")
    since = [record.idle_since for record in idle]
    _must(since == sorted(since), "the idle are not in their order")
    for record in idle:
        _check_idle(record, engine)


def _check_idle(record: Record, engine: Engine) -> None:
    session = record.session
    if session is None or not (session.clean or getattr(session, "litter", None)):
        raise AssertionError(f"an idle connection is not clean: {session and vars(session)}")
    _must(record.discard is None, f"an idle connection is condemned: {record.discard}")
    retired = record.generation != engine.stock.generation
    _must(not retired, "an idle connection should have retired")


def _check_leases(engine: Engine) -> None:
    lent = {record for record in engine.stock.records if record.state is State.LENT}
    leased = [lease.record for lease in engine.leases]
    _must(len(set(leased)) == len(leased), "one connection serves two leases")
    _must(set(leased) <= lent, "a lease of a connection that is not lent")
    on_the_way = lent - set(leased)  # handed over in this very tick
    _must(len(on_the_way) <= len(engine.waiters), "a connection is lent to nobody")
    for lease in engine.leases:
        _must(lease.ended is None, f"a lease that is counted {lease.ended}")


def _check_threads(pool: ConnectionPool, engine: Engine, stuck: int) -> None:
    executor = engine.stock.executor
    serving = [record.worker for record in engine.stock.records if record.worker is not None]
    _must(len(set(serving)) == len(serving), "one worker serves two connections")
    abandoned = engine.closing and not executor.workers
    _must(abandoned or set(serving) == executor.workers, "a worker serves nobody")
    threads = threads_of(pool)
    aside = sum(thread.name == f"{pool.name}-aside" for thread in threads)
    most = len(serving) + len(executor.leaving) + aside + stuck
    _must(len(threads) <= most, f"threads of nobody: {threads}")


def _check_module(pool: ConnectionPool, engine: Engine, stuck: int) -> None:
    """Compare with what the driver says, where it counts (as the fake one does)."""
    is_open: Any = getattr(pool.module, "open", None)
    stock = engine.stock
    if isinstance(is_open, int) and not stock.count(State.CLOSING):
        connected = len(stock.records) - stock.count(State.CONNECTING)
        most = len(stock.records) + stuck
        _must(connected <= is_open <= most, f"{is_open} are open, {connected} are known")


def _check_proxies(pool: ConnectionPool, engine: Engine | None) -> None:
    """See that no proxy of a past lease reaches a connection."""
    leases = () if engine is None else engine.leases
    for thing in gc.get_objects():
        if isinstance(thing, Lease) and thing.lender.name == pool.name:
            _must((thing.ended is None) == (thing in leases), "a lease that is not counted")
        elif isinstance(thing, Connection) and not thing:
            lease = thing._lease  # noqa: SLF001 - as above
            if lease.lender.name == pool.name:
                _check_revoked(thing)


def _check_revoked(proxy: Connection) -> None:
    try:
        proxy.cursor()
    except ConnectionReturned:
        return
    raise AssertionError(f"{proxy!r} can still be used")
