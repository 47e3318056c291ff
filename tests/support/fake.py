"""A fake PEP 249 module with a gate at every step: open, failing, slow, or shut until released.

    fake = Fake()
    fake.connect.always(2.0)                  # every connect takes two (virtual) seconds
    fake.execute.once(fake.Error("no"), NEVER)  # the next one fails, the one after it hangs
    async with fake.pool(max_size=3) as pool:
        ...

It counts connections, notes which thread called what, and collects every violation of a driver's
rules: a call on a foreign thread, two calls at once, a use after the close.
"""

import select
import socket
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar, Final

from asyncdbpool import ConnectionPool, Driver
from asyncdbpool.drivers.dbapi import Canceller
from support import clock
from support.invariants import check_invariants

__all__ = ["NEVER", "Fake", "FakeConnection", "FakeCursor", "FakeDriver", "Gate"]


class Never:
    """Stands for a call that does not come back until somebody lets it."""


NEVER: Final = Never()

Act = None | float | BaseException | Never | Callable[[], object]
"""What a gate does to a call: nothing, delay it, fail it, hold it, or call something."""


class Gate:
    """One step of the driver, such as `execute`.

    Attributes:
        calls: How many calls have come to the gate.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._lock = threading.Lock()
        self._always: Act = None
        self._next: deque[Act] = deque()
        self._held: list[Held] = []

    def always(self, act: Act) -> None:
        """Do this to every call from now on."""
        with self._lock:
            self._always = act

    def once(self, *acts: Act) -> None:
        """Do this to the next call, that to the one after it, and so on."""
        with self._lock:
            self._next.extend(acts)

    @property
    def held(self) -> int:
        """How many calls stand at the gate."""
        return len(self._held)

    def release(self) -> None:
        """Let those through that stand at the gate."""
        with self._lock:
            held, self._held = self._held, []
        for call in held:
            call.release()

    def open(self) -> None:
        """Let everybody through from now on."""
        with self._lock:
            self._always = None
            self._next.clear()
        self.release()

    def enter(self, wire: "Wire | None" = None) -> None:
        """Pass the gate, on a worker's thread."""
        with self._lock:
            self.calls += 1
            act = self._next.popleft() if self._next else self._always
            if isinstance(act, Never):
                held = Held(wire)
                self._held.append(held)
        if act is None:
            return
        if isinstance(act, Never):
            try:
                held.wait()
            finally:
                self._leave(held)
        elif isinstance(act, BaseException):
            raise type(act)(*act.args)
        elif isinstance(act, (int, float)):
            clock.sleep(act)
        else:
            act()

    def _leave(self, held: "Held") -> None:
        with self._lock:
            if held in self._held:  # nobody has let it through
                self._held.remove(held)


class Held:
    """A call that stands at a gate; with a wire, it also ends when the socket is shut down."""

    def __init__(self, wire: "Wire | None") -> None:
        self._wire = wire
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()
        if self._wire is not None:
            self._wire.answer()

    def wait(self) -> None:
        if self._wire is None:
            with clock.standing(lambda: not self._released.is_set()):
                self._released.wait()
        else:
            with clock.standing(self._wire.is_silent):
                self._wire.wait()
            self._wire.read()


class Wire:
    """A connection's socket and the server's end of it."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()

    def is_silent(self) -> bool:
        poller = select.poll()
        poller.register(self.near, select.POLLIN)
        return not poller.poll(0)

    def answer(self) -> None:
        """Send the client something, from the server's end."""
        self.far.send(b"!")

    def wait(self) -> None:
        """Block until there is something to read."""
        self.near.recv(1, socket.MSG_PEEK)

    def read(self) -> None:
        if not self.near.recv(1):
            raise Lost("server closed the connection unexpectedly")

    def close(self) -> None:
        self.near.close()
        self.far.close()


class Warning(Exception):  # noqa: A001 - PEP 249's name
    """PEP 249's."""


class Error(Exception):
    """PEP 249's."""


class InterfaceError(Error):
    """PEP 249's."""


class DatabaseError(Error):
    """PEP 249's."""


class OperationalError(DatabaseError):
    """PEP 249's."""


class ProgrammingError(DatabaseError):
    """PEP 249's."""


class Lost(OperationalError, ConnectionError):
    """The connection is lost, or could not be made just now."""


class ReadOnly(OperationalError):
    """The server has become read-only, which only `FakeDriver` knows to be a disconnect."""


class Fake:
    """The module: `connect` is a gate as well as PEP 249's function.

    Attributes:
        connections: All that were ever made, the oldest first.
        open: Connections that are open now.
        most: The most that were ever open at once.
        violations: What no caller may do to a driver, in words; ends up empty.
        cancels: Whether `FakeDriver` can cancel a statement that hangs; takes `sockets`, too.
        lost_cancels: So many cancels have no effect.
        rows: The result of every SELECT.
        asked: The keywords of every connect.
    """

    apilevel = "2.0"
    threadsafety = 1
    paramstyle = "qmark"
    Warning = Warning
    Error = Error
    InterfaceError = InterfaceError
    DatabaseError = DatabaseError
    OperationalError = OperationalError
    ProgrammingError = ProgrammingError
    Lost = Lost
    ReadOnly = ReadOnly

    def __init__(self, *, sockets: bool = False, cancels: bool = False, rows: int = 1) -> None:
        self.connect = ConnectGate(self)
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
        self.rows: list[tuple[int, ...]] = [(number,) for number in range(1, rows + 1)]
        self.connections: list[FakeConnection] = []
        self.asked: list[Mapping[str, Any]] = []
        self.open = 0
        self.most = 0
        self.violations: list[str] = []
        self._lock = threading.Lock()

    def opened(self, connection: "FakeConnection") -> None:
        with self._lock:
            self.connections.append(connection)
            self.open += 1
            self.most = max(self.most, self.open)

    def closed(self) -> None:
        with self._lock:
            self.open -= 1

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
        """Make a pool of this module and, when the block ends, prove that all of it is gone."""
        options.setdefault("driver", FakeDriver(self))
        pool = ConnectionPool(self, *args, **options)
        try:
            yield pool
            check_invariants(pool)
        finally:
            self.release()
            await pool.close()
        self.check(pool)

    def check(self, pool: ConnectionPool) -> None:
        """Prove that a closed pool has left nothing, and has broken none of the driver's rules."""
        check_invariants(pool)
        assert not self.violations, self.violations
        assert not self.open, f"{self.open} connections are still open"


class ConnectGate(Gate):
    """The gate of `connect`, which is the module's function at the same time."""

    def __init__(self, fake: Fake) -> None:
        super().__init__()
        self._fake = fake

    def __call__(self, *args: Any, **kwargs: Any) -> "FakeConnection":
        self._fake.asked.append(kwargs)
        self.enter()
        return FakeConnection(self._fake)


class FakeConnection:
    """A driver's connection that knows its rules."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.thread = threading.get_ident()
        self.calls: Counter[str] = Counter()
        self.statements: list[str] = []
        self.in_transaction = False
        self.closed = False
        self.autocommit = False
        self.cursors = 0
        self.wire = Wire() if fake.sockets else None
        self.interrupted = False
        self._busy = False
        fake.opened(self)

    def __repr__(self) -> str:
        return f"<FakeConnection {self.fake.connections.index(self)}>"

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
        gate: Gate = getattr(self.fake, name)
        with self.alone(name):
            gate.enter(self.wire)

    def interrupt(self) -> None:
        """Cancel what runs, or else what runs next; on any thread."""
        self.fake.cancel.enter()
        if self.fake.lost_cancels:
            self.fake.lost_cancels -= 1
            return
        self.interrupted = True
        if self.wire is not None and self.fake.execute.held:
            self.wire.answer()

    def fileno(self) -> int:
        return -1 if self.wire is None else self.wire.near.fileno()

    def cursor(self) -> "FakeCursor":
        self.step("cursor")
        return FakeCursor(self)

    def commit(self) -> None:
        self.step("commit")
        self.in_transaction = False

    def rollback(self) -> None:
        self.step("rollback")
        self.in_transaction = False

    def ping(self) -> None:
        self.step("ping")

    def reset(self) -> None:
        self.step("reset")
        self.in_transaction = False

    def close(self) -> None:
        try:
            self.step("close")
        finally:
            self.closed = True
            if self.wire is not None:
                self.wire.close()
            self.fake.closed()


class FakeCursor:
    """A driver's cursor; every SELECT finds the same rows."""

    def __init__(self, connection: FakeConnection) -> None:
        self.connection = connection
        self.description: Any = None
        self.rowcount = -1
        self.arraysize = 1
        self.lastrowid: int | None = None
        self._rows: deque[tuple[int, ...]] = deque()
        connection.cursors += 1

    def execute(self, sql: str, params: Any = ()) -> None:
        self.connection.step("execute")
        if self.connection.interrupted:
            self.connection.interrupted = False
            raise OperationalError("interrupted")
        self.connection.statements.append(sql)
        self.connection.in_transaction = not self.connection.autocommit
        if sql.startswith("SELECT"):
            self.description = (("n", int, None, None, None, None, None),)
            self._rows = deque(self.connection.fake.rows)
            self.rowcount = len(self._rows)
        else:
            self.description = None
            self.rowcount = 1

    def executemany(self, sql: str, params: Any) -> None:
        self.execute(sql)
        self.rowcount = len(params)

    def fetchone(self) -> Any:
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int | None = None) -> list[tuple[int, ...]]:
        self.connection.step("fetch")
        count = min(self.arraysize if size is None else size, len(self._rows))
        return [self._rows.popleft() for _ in range(count)]

    def fetchall(self) -> list[tuple[int, ...]]:
        return self.fetchmany(len(self._rows))

    def close(self) -> None:
        self.connection.step("cursor_close")
        self._rows.clear()
        self.connection.cursors -= 1


class FakeDriver(Driver):
    """What a driver file would say about the fake; the generic `Driver` assumes less."""

    can_reset: ClassVar[bool] = True
    session_attributes: ClassVar[tuple[str, ...]] = ("autocommit",)

    def in_transaction(self, raw: Any) -> bool | None:
        return bool(raw.in_transaction)

    def ping(self, raw: Any) -> None:
        raw.ping()

    def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        raw.reset()

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        return (lambda _given: raw.interrupt()) if raw.fake.cancels else None

    def absorb_cancel(self, raw: Any) -> None:
        raw.interrupted = False

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        return isinstance(error, (ConnectionError, ReadOnly))
