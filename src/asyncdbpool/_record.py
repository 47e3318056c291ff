"""One physical connection as the pool sees it: its state, its times, its generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from asyncdbpool._options import Cleanup
    from asyncdbpool._standing import Standing
    from asyncdbpool._workers import Hand

__all__ = ["BaseSession", "Record", "State", "Token"]


class Token(Protocol):
    """One call of a borrower's, from its beginning to its end."""

    @property
    def unwanted(self) -> bool:
        """True where it is for nobody, and so must not begin."""
        ...

    def give_up(self, error: BaseException) -> None:
        """Have its caller wait for its end no longer, but raise this."""


class BaseSession(Protocol):
    """What the pool asks of a connection: `Session` on a thread, `NativeSession` on the loop.

    What takes a turn on the connection (`perform` and its operations, `clean_up`, `ping`, `close`
    and `cancel`) blocks in the one and is a coroutine in the other; a `Hand` can run either.
    """

    raw: Any
    driver: Any
    standing: Standing
    lost: bool
    doubtful: bool
    hung_up: bool
    canceller: Any

    @property
    def clean(self) -> bool:
        """True where nothing has to be undone before somebody else gets the connection."""
        ...

    @property
    def passes_on(self) -> bool:
        """True where the next one-shot may follow the last, with nothing in between."""
        ...

    @property
    def silent(self) -> bool:
        """True where nothing has come in on the socket, so far as one can look without I/O."""
        ...

    def perform(
        self, operation: Callable[..., Any], args: tuple[Any, ...], token: Token | None = None
    ) -> Any:
        """Run `operation(*args)`, and look what state it leaves."""
        ...

    def cancel(self, token: object, ask: Callable[[], Mapping[str, Any]] | None) -> Any:
        """Cancel in the database what runs for a token."""
        ...

    def fetch_all(self, sql: Any, params: Any) -> Any:
        """Run a statement and return all of its rows."""
        ...

    def fetch_one(self, sql: Any, params: Any) -> Any:
        """Run a statement and return its first row, or None."""
        ...

    def fetch_val(self, sql: Any, params: Any, column: Any) -> Any:
        """Run a statement and return one column of its first row, or None."""
        ...

    def execute_many(self, sql: Any, params: Any) -> Any:
        """Run a statement once for each set of parameters and return the rowcount."""
        ...

    def apply(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Call `fn(raw, *args, **kwargs)`."""
        ...

    def begin(self, block: object, options: Mapping[str, Any]) -> Any:
        """Open a transaction, or a savepoint inside of one; return how deep it is."""
        ...

    def commit(self, block: object = None) -> Any:
        """Commit, or release the savepoint of a nested block."""
        ...

    def rollback(self, block: object = None) -> Any:
        """Roll back, or to the savepoint of a nested block."""
        ...

    def withdraw(self, block: object) -> Any:
        """Undo a block whose beginning or end was cancelled, if it is still open."""
        ...

    def once(self, work: str, *args: Any) -> Any:
        """Run an operation, by its name, and end its transaction."""
        ...

    def forsake(self, token: object) -> None:
        """End what runs for a token whose caller has gone, so far as the database is not asked."""

    def let_go(self) -> Callable[[], Any] | None:
        """Take leave of the borrower of a clean connection; return what is to be done later."""
        ...

    def clean_up(self, cleanup: Cleanup) -> Any:
        """Undo what the borrower left; False where the connection must be closed."""
        ...

    def ping(self, check: Callable[[Any], object] | None) -> Any:
        """Prove that the server answers, or raise."""
        ...

    def close(self) -> Any:
        """Close the connection, whatever state it is in."""
        ...

    def hang_up(self) -> bool:
        """End what runs from outside; False where that cannot be done."""
        ...

    def disown(self) -> None:
        """Take the socket away, in a forked child, without a word to the server."""


class State(Enum):
    """Where a connection is in its life."""

    CONNECTING = "connecting"
    IDLE = "idle"
    CHECKING = "checking"
    LENT = "lent"
    RETURNING = "returning"
    CLOSING = "closing"
    CLOSED = "closed"

    __hash__ = object.__hash__  # an Enum's own is computed anew each time, from the name


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

    Everything here belongs to the event loop's thread; what belongs to a blocking connection's own
    thread is in `session`.

    Attributes:
        state: Changed by `move()` alone.
        worker: Who runs the driver's connection; None until the first connect.
        session: The driver's connection and what happens to it; None until it is made.
        generation: The pool's generation when it was made; an older one is closed on return.
        made_at: Loop time of the end of the connect.
        expires_at: Loop time from which it is too old to be lent again.
        idle_since: Loop time at which it became idle.
        proven_at: Loop time at which it was last known to be alive.
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
        "proven_at",
        "session",
        "state",
        "tokens",
        "uses",
        "worker",
    )

    def __init__(self) -> None:
        self.state = State.CONNECTING
        self.worker: Hand | None = None
        self.session: BaseSession | None = None
        self.generation = 0
        self.made_at = 0.0
        self.expires_at = 0.0
        self.idle_since = 0.0
        self.proven_at = 0.0
        self.uses = 0
        self.pending = 0
        self.tokens: dict[Token, None] = {}
        self.orphans: set[object] = set()
        self.permit = False
        self.discard: str | None = None

    def __repr__(self) -> str:
        return f"<Record {self.state.value} uses={self.uses} pending={self.pending}>"

    def move(self, state: State) -> None:
        """Enter another state; an illegal move is a bug of the pool's and raises."""
        if state not in MOVES[self.state]:
            raise RuntimeError(f"a connection cannot go from {self.state} to {state}")
        self.state = state
