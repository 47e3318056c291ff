"""The frozen figures that `ConnectionPool.stats()` and `ConnectionPool.dump()` give."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["LeaseInfo", "PoolStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """One moment of one pool; `size == idle + in_use + connecting` always.

    Attributes:
        name: The pool's name.
        min_size: Connections kept ready.
        max_size: Connections at most.
        size: Connections that there are, in any state.
        idle: Connections that wait for a borrower.
        in_use: Connections that are lent, checked, cleaned or closed just now.
        connecting: Connections being made, also those whose caller gave up.
        waiting: Tasks that wait in `get()`.
        acquired: Leases so far.
        created: Connections made so far.
        closed: Connections closed so far.
        timeouts: `get()` calls that ended with `PoolTimeout`.
        connect_errors: Connect attempts that failed.
        discarded: Connections closed because they were broken, unclean or given up.
        cancelled: Statements whose caller was cancelled.
        reclaimed: Leases that were dropped without being returned.
        wait_seconds: Time that `get()` calls have waited, summed up.
        use_seconds: Time that connections have been lent, summed up.
        connect_seconds: Time that successful connects have taken, summed up.
    """

    name: str
    min_size: int
    max_size: int
    size: int
    idle: int
    in_use: int
    connecting: int
    waiting: int
    acquired: int
    created: int
    closed: int
    timeouts: int
    connect_errors: int
    discarded: int
    cancelled: int
    reclaimed: int
    wait_seconds: float
    use_seconds: float
    connect_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseInfo:
    """Who holds one connection now.

    Attributes:
        task: Name of the task that used the connection last, `"?"` if it is gone.
        age: Seconds since the connection was lent.
        statement: The last statement's text (never its parameters), or None.
        stack: The stack of the `get()`, formatted like a traceback.
        returning: True while the pool waits for the connection to become clean or closed.
    """

    task: str
    age: float
    statement: str | None
    stack: str = field(repr=False)
    returning: bool = False

    def __str__(self) -> str:
        doing = "is being returned" if self.returning else "held"
        said = f", last statement {self.statement!r}" if self.statement else ""
        return f"task {self.task!r}: {doing} for {self.age:.1f} s{said}\n{self.stack}"


@dataclass(slots=True)
class Counters:
    """The running sums behind `PoolStats`; they outlive a close and the next open."""

    acquired: int = 0
    created: int = 0
    closed: int = 0
    timeouts: int = 0
    connect_errors: int = 0
    discarded: int = 0
    cancelled: int = 0
    reclaimed: int = 0
    wait_seconds: float = 0.0
    use_seconds: float = 0.0
    connect_seconds: float = 0.0
