"""One physical connection as the pool sees it: its state, its times, its generation."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncdbpool._session import Session
    from asyncdbpool._workers import Worker

__all__ = ["Record", "State"]


class State(Enum):
    """Where a connection is in its life."""

    CONNECTING = "connecting"
    IDLE = "idle"
    CHECKING = "checking"
    LENT = "lent"
    RETURNING = "returning"
    CLOSING = "closing"
    CLOSED = "closed"


MOVES: dict[State, frozenset[State]] = {
    State.CONNECTING: frozenset({State.IDLE, State.LENT, State.CLOSING, State.CLOSED}),
    State.IDLE: frozenset({State.CHECKING, State.LENT, State.CLOSING}),
    State.CHECKING: frozenset({State.IDLE, State.LENT, State.CLOSING}),
    State.LENT: frozenset({State.RETURNING}),
    State.RETURNING: frozenset({State.IDLE, State.LENT, State.CLOSING}),
    State.CLOSING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}
"""Every legal move; `docs/architecture.md` draws it."""


class Record:
    """One connection, from the decision to make it until it is closed.

    Everything here belongs to the event loop's thread; what belongs to the connection's own
    thread is in `session`.

    Attributes:
        state: Changed by `move()` alone.
        worker: The thread that owns the driver's connection; None until the first connect.
        session: The driver's connection and what happens to it; None until it is made.
        generation: The pool's generation when it was made; an older one is closed on return.
        made_at: Loop time of the end of the connect.
        expires_at: Loop time from which it is too old to be lent again.
        idle_since: Loop time at which it became idle.
        pinged_at: Loop time of the last proof of life.
        uses: Leases so far.
        pending: Jobs handed to the worker and not yet back.
        tokens: One for each call of a borrower's under way, the first first.
        orphans: Those of them that run although their caller was cancelled.
        permit: True while its lease's permit is out.
        discard: Why it must be closed when it comes back, or None.
    """

    __slots__ = (
        "discard",
        "expires_at",
        "generation",
        "idle_since",
        "made_at",
        "orphans",
        "pending",
        "permit",
        "pinged_at",
        "session",
        "state",
        "tokens",
        "uses",
        "worker",
    )

    def __init__(self) -> None:
        self.state = State.CONNECTING
        self.worker: Worker | None = None
        self.session: Session | None = None
        self.generation = 0
        self.made_at = 0.0
        self.expires_at = 0.0
        self.idle_since = 0.0
        self.pinged_at = 0.0
        self.uses = 0
        self.pending = 0
        self.tokens: dict[object, None] = {}
        self.orphans: set[object] = set()
        self.permit = False
        self.discard: str | None = None

    def __repr__(self) -> str:
        return f"<Record {self.state.value} uses={self.uses} pending={self.pending}>"

    @property
    def proven_at(self) -> float:
        """Loop time at which it was last known to be alive."""
        return max(self.idle_since, self.pinged_at)

    def move(self, state: State) -> None:
        """Enter another state; an illegal move is a bug of the pool's and raises."""
        if state not in MOVES[self.state]:
            raise RuntimeError(f"a connection cannot go from {self.state} to {state}")
        self.state = state
