"""A fake PEP 249 module with a gate at every step: open, failing, slow, or shut until released.

    fake = Fake()
    fake.connect.always(2.0)                  # every connect takes two (virtual) seconds
    fake.execute.once(fake.Error("no"), NEVER)  # the next one fails, the one after it hangs
    async with fake.pool(max_size=3) as pool:
        ...

It counts connections, notes which thread called what, and collects every violation of a driver's
rules: a call on a foreign thread, two calls at once, a use after the close.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar

from asyncdbpool import ConnectionPool, Driver
from asyncdbpool.drivers import BaseDriver
from asyncdbpool.drivers.dbapi import Canceller
from asyncdbpool.testing import errors
from asyncdbpool.testing.gates import Gate, Line
from asyncdbpool.testing.invariants import check_invariants

__all__ = ["Fake", "FakeConnection", "FakeCursor", "FakeDriver"]

Rows = list[tuple[Any, ...]]


class Fake:
    """The module; `connect` is a gate as well as PEP 249's function.

    Args:
        sockets: Its connections have a `fileno()`, and a call that hangs ends when the socket is
            shut down.
        cancels: What hangs in `execute` or `fetch` can be cancelled.
        rows: The result of every SELECT: so many rows, or what a function makes of the statement
            and its parameters.

    Attributes:
        connect, cursor, execute, fetch, cursor_close: Gates.
        commit, rollback, ping, reset, close, cancel: Gates, too.
        connections: All that were ever made, the oldest first.
        open: Connections that are open now.
        most: The most that were ever open at once.
        violations: What no caller may do to a driver, in words; ends up empty.
        lost_cancels: So many cancels to come have no effect.
        rows: The result of every SELECT, or the function that makes it.
        asked: The keywords of every connect.
    """

    apilevel = "2.0"
    threadsafety = 1
    paramstyle = "qmark"
    Warning = errors.Warning
    Error = errors.Error
    InterfaceError = errors.InterfaceError
    DatabaseError = errors.DatabaseError
    OperationalError = errors.OperationalError
    ProgrammingError = errors.ProgrammingError
    Lost = errors.Lost
    ReadOnly = errors.ReadOnly

    def __init__(
        self,
        *,
        sockets: bool = False,
        cancels: bool = False,
        rows: int | Callable[[str, Any], Rows] = 1,
    ) -> None:
        self.connect: ConnectGate = self.gate_of_connect()
        self.cursor = Gate()
        self.cursor_close = Gate()
        self.execute = Gate()
        self.fetch = Gate()
        self.commit = Gate()
        self.rollback = Gate()
        self.ping = Gate()
        self.reset = Gate()
        self.close = Gate()
        self.cancel = Gate()
        self.sockets = sockets
        self.cancels = cancels
        self.lost_cancels = 0
        self.rows: Rows | Callable[[str, Any], Rows] = (
            rows if callable(rows) else [(number,) for number in range(1, rows + 1)]
        )
        self.connections: list[Any] = []
        self.asked: list[Mapping[str, Any]] = []
        self.open = 0
        self.most = 0
        self.violations: list[str] = []
        self._lock = threading.Lock()

    def gate_of_connect(self) -> ConnectGate:
        """Make the gate that is `connect()`."""
        return ConnectGate(self)

    def driver(self) -> BaseDriver:
        """Make what a driver file would say about it."""
        return FakeDriver(self)

    def opened(self, connection: object) -> None:
        """Count a connection."""
        with self._lock:
            self.connections.append(connection)
            self.open += 1
            self.most = max(self.most, self.open)

    def closed(self) -> None:
        """Count its end."""
        with self._lock:
            self.open -= 1

    def result_of(self, sql: str, params: Any) -> Rows:
        """Make the rows of a SELECT."""
        return self.rows(sql, params) if callable(self.rows) else list(self.rows)

    def release(self) -> None:
        """Open every gate."""
        for gate in vars(self).values():
            if isinstance(gate, Gate):
                gate.open()

    @property
    def statements(self) -> list[str]:
        """What has been executed, on all connections."""
        return [sql for connection in self.connections for sql in connection.statements]

    @asynccontextmanager
    async def pool(self, *args: Any, **options: Any) -> AsyncIterator[ConnectionPool]:
        """Make a pool of this module and, when the block ends, prove that all of it is gone.

        Args:
            *args: For the pool.
            **options: For the pool; its `driver` is `FakeDriver` unless told otherwise, and None
                stands for the generic one.
        """
        options.setdefault("driver", self.driver())
        pool = ConnectionPool(self, *args, **options)
        try:
            yield pool
            check_invariants(pool)
        finally:
            self.release()
            await pool.close()
        self.check(pool)

    def check(self, pool: ConnectionPool) -> None:
        """Prove that a closed pool has left nothing, and has broken none of the driver's rules.

        Raises:
            AssertionError: It has.
        """
        check_invariants(pool)
        if self.violations:
            raise AssertionError(self.violations)
        if self.open:
            raise AssertionError(f"{self.open} connections are still open")


class ConnectGate(Gate):
    """The gate of `connect`, which is the module's function at the same time."""

    def __init__(self, fake: Fake) -> None:
        super().__init__()
        self.fake = fake

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.fake.asked.append(kwargs)
        self.enter()
        return FakeConnection(self.fake)


class FakeConnection:
    """A driver's connection that knows its rules.

    Attributes:
        calls: How often each step was called.
        statements: What has been executed.
        in_transaction: Whether a transaction is open.
        cursors: How many cursors are open.
    """

    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.thread = threading.get_ident()
        self.calls: Counter[str] = Counter()
        self.statements: list[str] = []
        self.in_transaction = False
        self.closed = False
        self.autocommit = False
        self.cursors = 0
        self.line = Line() if fake.sockets else None
        self.interrupted = False
        self._busy = False
        fake.opened(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.fake.connections.index(self)}>"

    @contextmanager
    def alone(self, step: str) -> Iterator[None]:
        """Note a call, and every rule that it breaks."""
        self.calls[step] += 1
        broken = self.fake.violations
        if threading.get_ident() != self.thread:
            broken.append(f"{step} of {self!r} on a foreign thread")
        if self.closed:
            broken.append(f"{step} of {self!r} after its close")
        if self._busy:
            broken.append(f"{step} of {self!r} while another call runs")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def step(self, name: str) -> None:
        """Pass a gate."""
        gate: Gate = getattr(self.fake, name)
        with self.alone(name):
            self.refuse_if_cut(name)
            gate.enter(self, self.line)

    def refuse_if_cut(self, step: str) -> None:
        """Raise where the socket has been shut down, and the step is not to close it."""
        if self.line is not None and step != "close" and self.line.is_cut():
            raise errors.Lost("server closed the connection unexpectedly")

    def interrupt(self) -> None:
        """Cancel what runs, or else what runs next; on any thread."""
        self.fake.cancel.enter(self)
        self.hit()

    def hit(self) -> None:
        """Have the effect of a cancel, unless it gets lost."""
        if self.fake.lost_cancels:
            self.fake.lost_cancels -= 1
            return
        self.interrupted = True
        self.fake.execute.release(self)
        self.fake.fetch.release(self)

    def begin_statement(self, sql: str) -> None:
        """Take note of a statement, which a cancel that came before ends."""
        if self.interrupted:
            self.interrupted = False
            raise errors.OperationalError("interrupted")
        self.statements.append(sql)
        self.in_transaction = not self.autocommit

    def fileno(self) -> int:
        """Tell the socket, -1 where there is none."""
        return -1 if self.line is None else self.line.near.fileno()

    def cursor(self) -> FakeCursor:
        """Make a cursor."""
        self.step("cursor")
        return FakeCursor(self)

    def commit(self) -> None:
        """Commit."""
        self.step("commit")
        self.in_transaction = False

    def rollback(self) -> None:
        """Roll back."""
        self.step("rollback")
        self.in_transaction = False

    def ping(self) -> None:
        """Answer."""
        self.step("ping")

    def reset(self) -> None:
        """Begin anew."""
        self.step("reset")
        self.in_transaction = False

    def close(self) -> None:
        """Close it; it is closed even where that fails."""
        try:
            self.step("close")
        finally:
            self.end()

    def end(self) -> None:
        """Be closed."""
        self.closed = True
        if self.line is not None:
            self.line.close()
        self.fake.closed()


class FakeCursor:
    """A driver's cursor."""

    def __init__(self, connection: FakeConnection) -> None:
        self.connection = connection
        self.description: Any = None
        self.rowcount = -1
        self.arraysize = 1
        self.lastrowid: int | None = None
        self._rows: deque[tuple[Any, ...]] = deque()
        connection.cursors += 1

    def execute(self, sql: str, params: Any = ()) -> None:
        """Run a statement; one that begins with SELECT has rows."""
        connection = self.connection
        connection.step("execute")
        connection.begin_statement(sql)
        if sql.startswith("SELECT"):
            self.description = (("n", int, None, None, None, None, None),)
            self._rows = deque(connection.fake.result_of(sql, params))
            self.rowcount = len(self._rows)
        else:
            self.description = None
            self.rowcount = 1

    def executemany(self, sql: str, params: Any) -> None:
        """Run a statement for all of the parameters at once."""
        self.execute(sql)
        self.rowcount = len(params)

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int | None = None) -> Rows:
        """Return the next rows."""
        self.connection.step("fetch")
        count = min(self.arraysize if size is None else size, len(self._rows))
        return [self._rows.popleft() for _ in range(count)]

    def fetchall(self) -> Rows:
        """Return all the rows that are left."""
        return self.fetchmany(len(self._rows))

    def close(self) -> None:
        """Close it, and forget its rows."""
        self.connection.step("cursor_close")
        self._rows.clear()
        self.connection.cursors -= 1


class FakeDriver(Driver):
    """What a driver file would say about the fake; the generic `Driver` assumes less."""

    can_reset: ClassVar[bool] = True
    session_attributes: ClassVar[tuple[str, ...]] = ("autocommit",)

    def in_transaction(self, raw: Any) -> bool | None:
        """Tell it without a step."""
        return bool(raw.in_transaction)

    def ping(self, raw: Any) -> None:
        """Ping, by the gate `ping`."""
        raw.ping()

    def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Reset, by the gate `reset`."""
        raw.reset()

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        """Interrupt, by the gate `cancel`."""
        return (lambda _given: raw.interrupt()) if raw.fake.cancels else None

    def absorb_cancel(self, raw: Any) -> None:
        """Forget a cancel that has hit nothing."""
        raw.interrupted = False

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """Know what is lost, and what is read-only."""
        return isinstance(error, (ConnectionError, errors.ReadOnly))
