"""The one checker of what must hold for a pool at any moment, whatever happened before."""

import gc
import threading
from typing import Any

from asyncdbpool import Connection, ConnectionPool, ConnectionReturned
from asyncdbpool._engine import Engine
from asyncdbpool._lease import Lease
from asyncdbpool._record import State

__all__ = ["check_invariants", "join_threads", "threads_of"]

HELD = (State.LENT, State.RETURNING, State.CLOSING)
"""The states in which a connection's last lease may still have its permit."""


def check_invariants(pool: ConnectionPool, *, stuck: int = 0, proxies: bool = True) -> None:
    """Assert everything that DESIGN calls an invariant and that can be seen from here.

    It may be called at any time on the pool's event loop, and after the pool's close.

    Args:
        pool: The pool, over any driver.
        stuck: Threads that a closed pool has left inside a hung call of the driver.
        proxies: Look for proxies of past leases, too; that takes some milliseconds.
    """
    stats = pool.stats()
    assert stats.size == stats.idle + stats.in_use + stats.connecting, stats
    assert min(stats.idle, stats.in_use, stats.connecting, stats.waiting) >= 0, stats
    assert stats.closed <= stats.created, stats
    engine = pool._engine
    if engine is None:
        assert stats.size == 0, stats
        assert pool.free == 0 if pool._closed else pool.free <= pool.max_size
        assert len(threads_of(pool)) <= stuck, f"threads are left: {threads_of(pool)}"
    else:
        _check_permits(pool, engine)
        _check_states(engine)
        _check_threads(pool, engine)
        _check_module(pool, engine)
    if proxies:
        _check_proxies(pool, engine)


def threads_of(pool: ConnectionPool) -> list[threading.Thread]:
    """The pool's worker threads that are alive."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{pool.name}-")]


def join_threads(pool: ConnectionPool) -> None:
    """Wait for the pool's worker threads, where no event loop is left to do it."""
    for thread in threads_of(pool):
        thread.join(5)
        assert not thread.is_alive(), f"{thread.name} does not end"


def _check_permits(pool: ConnectionPool, engine: Engine) -> None:
    permits = engine.permits
    out = sum(record.permit for record in engine.stock.records)
    assert len(engine.leases) <= out, f"{len(engine.leases)} leases, but {out} permits are out"
    if engine.closing:
        return
    # A task that waits for a connection may hold its permit already.
    assert out <= permits.taken <= out + len(engine.waiters), f"{permits.taken} taken, {out} out"
    if not engine.waiters:
        assert permits.taken == out
        assert permits.free == max(0, pool.max_size - out), "leases + free permits = max_size"
    if not permits._owed:
        assert permits.taken <= permits.size == pool.max_size
        assert len(engine.stock.records) <= pool.max_size, "more connections than max_size"


def _check_states(engine: Engine) -> None:
    by_state: dict[State, set[Any]] = {state: set() for state in State}
    for record in engine.stock.records:
        by_state[record.state].add(record)
        assert record.orphans <= record.tokens.keys()
        assert len(record.tokens) <= record.pending
        assert not record.permit or record.state in HELD
        assert record not in engine.returns or record.state in (State.RETURNING, State.CLOSING)
    assert not by_state[State.CLOSED], "a closed connection is still counted"
    assert set(engine.stock.idle) == by_state[State.IDLE]
    assert len(engine.stock.idle) == len(by_state[State.IDLE])
    assert [r.idle_since for r in engine.stock.idle] == sorted(
        r.idle_since for r in engine.stock.idle
    )
    for record in engine.stock.idle:
        session = record.session
        assert session is not None
        standing = session.standing
        assert session.clean or getattr(session, "litter", None), (
            f"an idle connection is not clean: transaction={standing.open}, "
            f"blocks={standing.blocks}, {vars(session)}"
        )
        assert record.discard is None, f"an idle connection is condemned: {record.discard}"
        assert record.generation == engine.stock.generation, (
            "an idle connection should have retired"
        )
        assert not record.permit
    lent = [lease.record for lease in engine.leases]
    assert len(set(lent)) == len(lent), "one connection serves two leases"
    on_the_way = by_state[State.LENT] - set(lent)  # handed over in this very tick
    assert set(lent) <= by_state[State.LENT]
    assert len(on_the_way) <= len(engine.waiters)
    for lease in engine.leases:
        assert lease.ended is None


def _check_threads(pool: ConnectionPool, engine: Engine) -> None:
    serving = [record.worker for record in engine.stock.records if record.worker is not None]
    assert len(set(serving)) == len(serving), "one thread serves two connections"
    assert set(serving) == engine.stock.executor.workers, "a thread serves nobody"
    most = len(serving) + len(engine.stock.executor.leaving)
    most += any(thread.name == f"{pool.name}-aside" for thread in threads_of(pool))
    assert len(threads_of(pool)) <= most, f"orphan threads: {threads_of(pool)}"


def _check_module(pool: ConnectionPool, engine: Engine) -> None:
    """Compare with what the driver says, where it counts (as the fake one does)."""
    is_open = getattr(pool.module, "open", None)
    if isinstance(is_open, int) and not any(
        r.state is State.CLOSING for r in engine.stock.records
    ):
        connected = len(engine.stock.records) - engine.stock.count(State.CONNECTING)
        assert connected <= is_open <= len(engine.stock.records), f"{is_open} connections are open"


def _check_proxies(pool: ConnectionPool, engine: Engine | None) -> None:
    """No proxy of a past lease reaches a connection."""
    for thing in gc.get_objects():
        if isinstance(thing, Lease) and thing.lender.name == pool.name:
            assert (thing.ended is None) == (engine is not None and thing in engine.leases)
        elif isinstance(thing, Connection) and thing._lease.lender.name == pool.name and not thing:
            try:
                thing.cursor()
            except ConnectionReturned:
                continue
            raise AssertionError(f"{thing!r} can still be used")
