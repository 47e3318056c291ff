"""A pool in plain Python: what should become of permits, waiters, leases and connections.

It knows nothing of tasks, threads or drivers: it is told what is asked of the pool and what time
it is, and says who gets which connection. Connections are numbered in the order in which they are
made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["CHECK_AFTER", "CLOSING", "CONNECT", "MAX_IDLE", "MAX_USES", "Lent", "Model", "Refused"]

CONNECT = 0.3  # seconds that a connect takes
CHECK_AFTER = 1.0
MAX_IDLE = 60.0
MAX_USES = 5
CLOSING = 5.0  # the timeout of a `close()`


@dataclass(eq=False)
class Conn:
    """One connection."""

    number: int
    made_at: float
    idle_since: float = 0.0
    pinged_at: float = 0.0
    uses: int = 0
    retired: bool = False
    discarded: bool = False


@dataclass(eq=False)
class Waiter:
    """Somebody who waits, with a permit already or without one."""

    number: int
    deadline: float | None
    permit: bool = False


@dataclass(frozen=True)
class Lent:
    """A waiter was served with this connection."""

    waiter: int
    conn: int


@dataclass(frozen=True)
class Refused:
    """A waiter got an error instead."""

    waiter: int
    why: str


@dataclass
class Model:
    """What the pool should be like.

    Attributes:
        now: The time.
        max_size: As in the pool.
        max_waiting: As in the pool.
        state: "open", "closing" or "closed".
        paused: Nobody gets a connection.
        waiters: Those who wait, the first first.
        leases: Which connection is lent to which waiter, by the waiter's number.
        idle: The connections that nobody uses, the least recently used first.
        connecting: What is being made; `made_at` tells when it will be done.
        failing: So many connects and pings to come fail at once.
        news: Who was served or refused since somebody looked.
        pings: How many connections were pinged since then.
        counters: As in `PoolStats`.
    """

    now: float
    max_size: int
    max_waiting: int
    state: str = "open"
    paused: bool = False
    waiters: list[Waiter] = field(default_factory=list)
    leases: dict[int, Conn] = field(default_factory=dict)
    idle: list[Conn] = field(default_factory=list)
    connecting: list[Conn] = field(default_factory=list)
    failing: Counter[str] = field(default_factory=Counter)
    news: list[Lent | Refused] = field(default_factory=list)
    pings: int = 0
    counters: Counter[str] = field(default_factory=Counter)
    _made: int = 0
    _waited: int = 0
    _closed_by: float = 0.0

    # What is asked of it

    def get(self, timeout: float | None) -> int:
        """Ask for a connection; return the waiter's number."""
        self._waited += 1
        waiter = Waiter(self._waited, None if timeout is None else self.now + timeout)
        without = sum(not waiting.permit for waiting in self.waiters)
        if self.state != "open":
            self.news.append(Refused(waiter.number, "PoolClosed"))
        elif self._taken >= self.max_size and without >= self.max_waiting:
            self.news.append(Refused(waiter.number, "TooManyWaiters"))
        else:
            self.waiters.append(waiter)
            self._serve()
        return waiter.number

    def cancel(self, number: int) -> None:
        """Send a waiter away."""
        self.waiters = [waiter for waiter in self.waiters if waiter.number != number]
        self._serve()

    def put(self, number: int, *, discard: bool = False) -> None:
        """Take a connection back."""
        conn = self.leases.pop(number)
        conn.discarded = conn.discarded or discard
        self._take_back(conn)
        self._serve()

    def lose(self, number: int) -> None:
        """A statement finds its connection lost: that one, and all that there are, must go."""
        self.leases[number].discarded = True
        if not self.leases[number].retired:
            self._retire()
        self._serve()

    def resize(self, max_size: int) -> None:
        """Change the size; what is too much of the idle goes, the least recently used first."""
        self.max_size = max_size
        for conn in self.idle[: max(0, self.size - max_size)]:
            self._close(conn)
        self._serve()

    def clear(self) -> None:
        """Close what there is."""
        if self.state == "open":
            self._retire()
            self._serve()

    def pause(self) -> None:
        """Lend nothing."""
        self.paused = True

    def resume(self) -> None:
        """Lend again."""
        self.paused = False
        self._serve()

    def close(self) -> None:
        """Lend nothing for ever; borrowers have some time left."""
        self.state = "closing"
        self._closed_by = self.now + CLOSING
        self.news += [Refused(waiter.number, "PoolClosed") for waiter in self.waiters]
        self.waiters.clear()
        for conn in tuple(self.idle):
            self._close(conn)
        self._end_if_empty()

    def open(self) -> None:
        """Be a pool again."""
        self.state, self.paused = "open", False

    def tell(self, seen: set[Lent | Refused]) -> set[Lent | Refused]:
        """Tell the news, given those that were seen in the pool.

        Several pings at once end in any order; then who gets which of the connections is learnt
        from the pool.
        """
        told = set(self.news)
        served = {news.waiter: news.conn for news in seen if isinstance(news, Lent)}
        expected = {news.waiter: news.conn for news in told if isinstance(news, Lent)}
        if self.pings > 1 and sorted(served.values()) == sorted(expected.values()):
            conns = {self.leases[waiter].number: self.leases[waiter] for waiter in expected}
            self.leases.update({waiter: conns[served[waiter]] for waiter in expected})
            told = {news for news in told if isinstance(news, Refused)}
            told |= {Lent(waiter, served[waiter]) for waiter in expected}
        self.news.clear()
        self.pings = 0
        return told

    # What time does

    def advance(self, to: float) -> None:
        """Let everything happen that is due by then, in its order."""
        while True:
            due = min(self._due(), default=None)
            if due is None or due[0] > to:
                break
            self.now = max(self.now, due[0])
            what, which = due[1], due[2]
            getattr(self, what)(which)
            self._serve()
        self.now = to

    def _due(self) -> Iterator[tuple[float, str, int]]:
        for index, conn in enumerate(self.connecting):
            yield conn.made_at, "_connected", index
        for waiter in self.waiters:
            if waiter.deadline is not None:
                yield waiter.deadline, "_time_out", waiter.number
        for index, conn in enumerate(self.idle):
            yield conn.idle_since + MAX_IDLE, "_expire", index
        if self.state == "closing":
            yield self._closed_by, "_take_away", 0

    def _connected(self, index: int) -> None:
        conn = self.connecting.pop(index)
        self._made += 1
        self.counters["created"] += 1
        conn.number, conn.pinged_at = self._made, self.now
        self._keep_or_close(conn)

    def _time_out(self, number: int) -> None:
        self.counters["timeouts"] += 1
        self.news.append(Refused(number, "PoolTimeout"))
        self.cancel(number)

    def _expire(self, index: int) -> None:
        self._close(self.idle[index])

    def _take_away(self, _: int) -> None:
        self._closed_by = float("inf")
        for number in tuple(self.leases):
            self.put(number, discard=True)
        self._end_if_empty()

    # How it decides

    @property
    def size(self) -> int:
        """How many connections there are."""
        return len(self.idle) + len(self.leases) + len(self.connecting)

    @property
    def _taken(self) -> int:
        return len(self.leases) + sum(waiter.permit for waiter in self.waiters)

    @property
    def free(self) -> int:
        """How many could be served at once."""
        if self.state != "open" or self.paused or any(not w.permit for w in self.waiters):
            return 0
        return max(0, self.max_size - self._taken)

    def _serve(self) -> None:
        for waiter in self.waiters:
            if not waiter.permit and self._taken < self.max_size:
                waiter.permit = True
        while self.state == "open" and not self.paused and self._serve_one():
            pass

    def _serve_one(self) -> bool:
        """Do what can be done for those with a permit; False where that is nothing."""
        claims = [waiter for waiter in self.waiters if waiter.permit]
        if claims and self.idle:
            conn = self.idle[-1]
            if self.now - max(conn.idle_since, conn.pinged_at) > CHECK_AFTER:
                self._ping(conn)
            else:
                self._lend(self.idle.pop(), claims[0])
            return True
        if len(claims) > len(self.connecting) and self.size < self.max_size:
            if self.failing["connect"]:
                self.failing["connect"] -= 1
                self.counters["connect_errors"] += 1
                self.news.append(Refused(claims[0].number, "Lost"))
                self.cancel(claims[0].number)
            else:
                self.connecting.append(Conn(0, made_at=self.now + CONNECT))
            return True
        return False

    def _ping(self, conn: Conn) -> None:
        self.pings += 1
        conn.pinged_at = self.now
        if self.failing["ping"]:
            self.failing["ping"] -= 1
            conn.discarded = True
            self._retire()

    def _lend(self, conn: Conn, waiter: Waiter) -> None:
        self.waiters.remove(waiter)
        self.leases[waiter.number] = conn
        conn.uses += 1
        self.counters["acquired"] += 1
        self.news.append(Lent(waiter.number, conn.number))

    def _take_back(self, conn: Conn) -> None:
        if conn.uses >= MAX_USES:
            self._close(conn)
        else:
            self._keep_or_close(conn)

    def _keep_or_close(self, conn: Conn) -> None:
        too_many = self.size + 1 > self.max_size
        if self.state != "open" or conn.discarded or conn.retired or too_many:
            self._close(conn)
        else:
            conn.idle_since = self.now
            self.idle.append(conn)

    def _retire(self) -> None:
        for conn in (*self.leases.values(), *self.connecting):
            conn.retired = True
        for conn in tuple(self.idle):
            self._close(conn)

    def _close(self, conn: Conn) -> None:
        if conn in self.idle:
            self.idle.remove(conn)
        self.counters["closed"] += 1
        self.counters["discarded"] += conn.discarded
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if self.state == "closing" and not self.size:
            self.state = "closed"
