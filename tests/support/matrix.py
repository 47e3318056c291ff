"""The gate matrix: one borrower, cancelled at his k-th await, and everything that must hold then.

A `Scene` says what is borrowed how, and which call of the driver fails, hangs or takes its time; a
`Strike` says where, when and by what means the borrower is cancelled. `play()` lets it happen in
virtual time, with somebody else waiting for the pool's only connection, and proves the invariants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio

from asyncdbpool import Connection, ConnectionPool, ConnectionReturned, ConnectTimeout, PoolError
from asyncdbpool._lease import Lease
from asyncdbpool._relay import Shot
from asyncdbpool.testing import NEVER, Act, Fake, Gate, NativeFake, check_invariants, now, settle
from asyncdbpool.testing.invariants import threads_of

__all__ = [
    "ACTS",
    "GATES",
    "MEANS",
    "USAGES",
    "Course",
    "Scene",
    "Strike",
    "Way",
    "play",
    "scenes",
    "strikes",
    "ways",
]

GATES = (
    "credentials",
    "connect",
    "setup",
    "cursor",
    "execute",
    "fetch",
    "cursor_close",
    "commit",
    "rollback",
    "reset",
    "ping",
    "check",
    "cleanup",
    "close",
    "cancel",
    "late cancel",
)
ACTS = ("error", "lost", "slow", "never")
MEANS = ("cancel", "timeout", "scope")

_SLOW = 0.5  # seconds
_GRACE = 2.0  # `cancel_grace`, and all the other patience of the pool's
_CURSORS = ("cursor", "cursor_close")
_HOOKS = ("credentials", "setup", "check", "cleanup")
_BEFORE_A_LEASE = ("credentials", "connect", "setup", "cursor", "cursor_close")
"""Gates at which an error may come to whoever is first in the queue, as a failed connect does."""
_CANCELS: dict[str, Act] = {"cancel": NEVER, "late cancel": _SLOW / 2}
"""What a statement does meanwhile: it hangs, or ends by itself before a slow cancel comes."""


@dataclass(frozen=True)
class Way:
    """A kind of driver.

    Attributes:
        native: Its calls are coroutines.
        sockets: A hanging call ends when its socket is shut down.
        cancels: What hangs in the database can be cancelled.
    """

    native: bool
    sockets: bool
    cancels: bool


@dataclass(frozen=True)
class Scene:
    """What happens apart from a cancellation.

    Attributes:
        way: The kind of driver.
        usage: How the connection is borrowed, a name of `USAGES`.
        gate: The step at which something is wrong.
        act: What is wrong there, one of `ACTS`, or "ok".
        nth: At which call, counted from 1.
    """

    way: Way
    usage: str
    gate: str
    act: str
    nth: int

    @property
    def is_bounded(self) -> bool:
        """Tell whether the pool can end by itself whatever hangs here."""
        if self.act != "never" or self.way.native:
            return True
        return self.way.sockets and self.gate not in ("credentials", "connect")


@dataclass(frozen=True)
class Strike:
    """A cancellation.

    Attributes:
        at: The await at which it comes, counted from 1.
        when: "at once", "later" (once nothing else can happen), or "in the tick" in which the
            answer has come.
        means: One of `MEANS`.
    """

    at: int
    when: str
    means: str


@dataclass
class Course:
    """How it went.

    Attributes:
        whens: For each await of the borrower's, when it can be cancelled.
        calls: How many calls of the borrower's came to the gate.
    """

    whens: list[list[str]] = field(default_factory=list)
    calls: int = 0


def strikes(course: Course, *, first: int, whole: bool) -> Iterator[Strike]:
    """Give for each await of a course one strike that it leaves room for; they take turns.

    Args:
        course: How the scene goes without a strike.
        first: Where to begin.
        whole: Give them all.
    """
    for turn, whens in enumerate(course.whens):
        all_of_them = [Strike(turn + 1, when, means) for when in whens for means in MEANS]
        yield from all_of_them if whole else [all_of_them[(first + turn) % len(all_of_them)]]


def ways(act: str) -> Iterator[Way]:
    """Give the kinds of driver; what can be ended from outside matters where it takes its time."""
    yield Way(native=False, sockets=True, cancels=True)
    yield Way(native=True, sockets=False, cancels=True)
    if act not in ("error", "lost"):
        yield Way(native=False, sockets=False, cancels=False)
    if act == "never":
        yield Way(native=False, sockets=True, cancels=False)
        yield Way(native=False, sockets=False, cancels=True)
        yield Way(native=True, sockets=False, cancels=False)


async def scenes(gate: str, act: str) -> list[Scene]:
    """Find every call at which something can go wrong, for all usages and kinds of driver.

    Args:
        gate: One of `GATES`.
        act: One of `ACTS`.
    """
    found = []
    for way in ways(act):
        if (gate in _CANCELS and not way.cancels) or (gate in _CURSORS and way.native):
            continue
        for usage in USAGES:
            plain = await play(Scene(way, usage, gate, "ok", 1))
            calls = 1 if gate in _CANCELS else max(1, plain.calls)  # some come with a strike only
            found += [Scene(way, usage, gate, act, nth) for nth in range(1, calls + 1)]
    return found


# ------------------------------------------------------------------------------------------------
# How a connection is used


class Borrower:
    """Who borrows, and keeps the proxies to see whether they are revoked."""

    def __init__(self, pool: ConnectionPool, *, native: bool) -> None:
        self.pool = pool
        self.native = native
        self.proxies: list[Connection] = []

    def keep(self, conn: Connection) -> Any:
        """Remember a proxy."""
        self.proxies.append(conn)
        return conn

    async def insert(self, conn: Any) -> None:
        """Run a statement without a result."""
        await (conn.query if self.native else conn.execute)("INSERT mine")

    async def select(self, conn: Any) -> None:
        """Run a statement, and see whose answer comes."""
        assert await conn.fetch_all("SELECT mine", ("mine",)) == [("mine",)]


async def by_hand(who: Borrower) -> None:
    conn = who.keep(await who.pool.get())
    try:
        await who.insert(conn)
        await who.select(conn)
    finally:
        await who.pool.put(conn)


async def in_a_block(who: Borrower) -> None:
    async with who.pool.connection() as lent:
        conn = who.keep(lent)
        if who.native:
            assert await conn.run(_natively) == [("mine",)]
        else:
            async with conn.cursor() as cursor:
                await cursor.execute("SELECT mine", ("mine",))
                assert await cursor.fetchall() == [("mine",)]


async def in_nested_transactions(who: Borrower) -> None:
    async with who.pool.transaction() as conn:
        who.keep(conn)
        await who.insert(conn)
        async with conn.transaction():
            await who.select(conn)


async def as_one_shots(who: Borrower) -> None:
    await who.select(who.pool)
    await who.pool.execute("INSERT mine")


async def in_a_function(who: Borrower) -> None:
    function = _natively if who.native else _on_a_thread
    assert await who.pool.run(function) == [("mine",)]


async def used_again(who: Borrower) -> None:
    """Keep the connection where a transaction is cancelled; the next one waits, and works."""
    async with who.pool.connection() as lent:
        conn = who.keep(lent)
        try:
            async with conn.transaction():
                await who.select(conn)
        except asyncio.CancelledError:
            with suppress(who.pool.module.Error, PoolError):  # it may have been cut off
                async with conn.transaction():
                    await who.select(conn)
            assert not any("SAVEPOINT" in sql for sql in who.pool.module.statements)
            raise


async def _natively(raw: Any, whose: str = "mine") -> Any:
    assert not raw.in_transaction, "somebody else has left a transaction"
    return await raw.query(f"SELECT {whose}", (whose,))


def _on_a_thread(raw: Any, whose: str = "mine") -> Any:
    assert not raw.in_transaction, "somebody else has left a transaction"
    cursor = raw.cursor()
    try:
        cursor.execute(f"SELECT {whose}", (whose,))
        return cursor.fetchall()
    finally:
        cursor.close()


USAGES: dict[str, Callable[[Borrower], Coroutine[Any, Any, None]]] = {
    "by hand": by_hand,
    "in a block": in_a_block,
    "in nested transactions": in_nested_transactions,
    "as one-shots": as_one_shots,
    "in a function": in_a_function,
    "used again": used_again,
    "in the queue": by_hand,  # behind somebody who has the connection
}
_GO_ON = ("by hand", "in the queue", "used again")
"""Usages in which something is awaited after a cancellation."""


# ------------------------------------------------------------------------------------------------
# The cancellation


class Watched:
    """Awaits a coroutine, and tells of what happens.

    Args:
        work: The coroutine.
        suspended: Called at every suspension with its number and what is waited for.
        interrupted: Called when an error is about to be thrown in.
    """

    def __init__(
        self,
        work: Coroutine[Any, Any, None],
        suspended: Callable[[int, Any], None],
        interrupted: Callable[[], None],
    ) -> None:
        self._work = work
        self._suspended = suspended
        self._interrupted = interrupted
        self.count = 0

    def __await__(self) -> Generator[Any, None, None]:
        error: BaseException | None = None
        try:
            while True:
                awaited = self._work.send(None) if error is None else self._work.throw(error)
                error = None
                self.count += 1
                self._suspended(self.count, awaited)
                try:
                    yield awaited
                except BaseException as caught:  # noqa: BLE001 - it is thrown in there
                    error = caught
                    self._interrupted()
        except StopIteration:
            return
        finally:
            del error  # no cycle of exception, traceback and frame


async def play(scene: Scene, strike: Strike | None = None) -> Course:
    """Let a scene happen, and prove that all goes well; where it does not, the error names it.

    Args:
        scene: What happens.
        strike: The cancellation; None: there is none.

    Returns:
        How it went.
    """
    try:
        return await _Play(scene, strike).run()
    except BaseException as error:
        error.add_note(f"in {scene}\nwith {strike}")
        raise


class _Play:
    """One scene, one strike."""

    def __init__(self, scene: Scene, strike: Strike | None) -> None:
        self.scene = scene
        self.strike = strike
        self.course = Course()
        self.fake = (NativeFake if scene.way.native else Fake)(
            sockets=scene.way.sockets,
            cancels=scene.way.cancels,
            rows=lambda _, params: [tuple(params)],
        )
        self.hooks = {name: Gate() for name in _HOOKS}
        self.pool = ConnectionPool(self.fake, driver=self.fake.driver(), **self._options())
        self.who = Borrower(self.pool, native=scene.way.native)
        self.watched = Watched(USAGES[scene.usage](self.who), self._suspended, self._interrupted)
        self.times: list[float] = []  # of each await's beginning
        self.struck_at: float | None = None
        self.running_before = False  # something ran on the connection then
        self.answered_before = False  # its answer had come by then
        self.ended_at = float("inf")
        self.met_by: str | None = None  # who was at the gate when it failed
        self.deliver: Callable[[], object] = lambda: None
        self.borrower: asyncio.Task[bool] | None = None
        self.other: asyncio.Task[None] | None = None
        self.errors: list[str] = []
        self.calls_before = 0
        self.interrupted = False
        self.statements_before = 0  # the borrower's, when he was interrupted
        self.doomed: list[Any] = []  # what must be closed, for it has been lost
        self.hits = 0  # how often the other one met what was planned

    # The scene

    def _options(self) -> dict[str, Any]:
        gate, hooks = self.scene.gate, self.hooks
        options: dict[str, Any] = {
            "max_size": 1,
            "timeout": None,
            "connect_timeout": _GRACE,
            "check_timeout": _GRACE,
            "cancel_grace": _GRACE,
        }
        if gate in ("setup", "check", "cleanup"):
            options[gate] = (
                _awaitable(hooks[gate]) if self.scene.way.native else _plain(hooks[gate])
            )
        elif gate == "credentials":
            options[gate] = (
                _asked_natively(hooks[gate]) if self.scene.way.native else _asked(hooks[gate])
            )
        elif gate == "ping":
            options["check"] = "always"
        elif gate == "reset":
            options["cleanup"] = "reset"
        elif gate == "close":
            options["max_uses"] = 1
        return options

    @property
    def gate(self) -> Gate:
        """The gate at which something is wrong."""
        name = "cancel" if self.scene.gate in _CANCELS else self.scene.gate
        gate: Gate = self.hooks[name] if name in self.hooks else getattr(self.fake, name)
        return gate

    def _arm(self) -> None:
        self.calls_before = self.gate.calls
        spared = [None] * (self.scene.nth - 1)
        if self.scene.gate in _CANCELS:
            self.fake.execute.once(*spared, _CANCELS[self.scene.gate])
            self.gate.once(self._act())
        else:
            self.gate.once(*spared, self._act())

    def _act(self) -> Act:
        acts: dict[str, Act] = {"ok": None, "slow": _SLOW, "never": NEVER}
        return acts.get(self.scene.act, self._fail)

    def _fail(self) -> None:
        """Fail, and note whom it hits; on whatever thread."""
        engine = self.pool._engine
        assert engine is not None
        users = [_user(lease) for lease in engine.leases]
        if self.other in users:
            self.met_by = "the other"
        elif self.borrower in users:
            self.met_by = "the borrower"
        else:
            self.met_by = "nobody"
        if self.scene.act == "lost" and self.scene.gate not in _CANCELS:
            self.doomed = list(self.fake.connections)
        raise self.fake.Lost("planned") if self.scene.act == "lost" else self.fake.Error("planned")

    # The course

    async def run(self) -> Course:
        loop = asyncio.get_running_loop()
        handler = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, context: self.errors.append(str(context)))
        await self._warm_up()
        ahead = await self.pool.get() if self.scene.usage == "in the queue" else None
        returning: asyncio.Task[None] | None = None
        self._arm()
        self.borrower = asyncio.create_task(self._borrow(), name="borrower")
        self.borrower.add_done_callback(self._ended)
        self.other = asyncio.create_task(self._wait_behind(), name="other")
        await self._pass(0.001)
        if ahead is not None:
            returning = asyncio.create_task(self.pool.put(ahead))
            await self._pass(0.001)
        await self._pass(_SLOW)
        await self._pass(_GRACE)
        if self.scene.is_bounded and not self._is_held_by(self.other):
            assert self.other.done() or self._may_hang(), "the next one is not served in time"
        await self._open_all()
        if returning is not None:
            await returning
        await self._close()
        loop.set_exception_handler(handler)
        assert not self.errors, self.errors
        return self.course

    def _may_hang(self) -> bool:
        """Tell whether what the borrower waits for hangs, and nobody has cancelled that."""
        if self.scene.act != "never" and self.scene.gate != "cancel":
            return False
        again = self.scene.usage == "used again" and not self.running_before
        return self.struck_at is None or again

    async def _warm_up(self) -> None:
        """Have a connection ready where the gate is behind one."""
        if self.scene.gate in ("ping", "check"):
            assert await self.pool.fetch_val("SELECT", ("warm",)) == "warm"

    async def _pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        check_invariants(self.pool, proxies=False)

    def _is_held_by(self, task: asyncio.Task[Any]) -> bool:
        engine = self.pool._engine
        assert engine is not None
        return any(lease.user is task for lease in engine.leases)

    async def _borrow(self) -> bool:
        """Borrow, and tell whether that was cancelled by its own scope."""
        if self.strike is not None and self.strike.means == "timeout":
            async with asyncio.timeout(None) as limit:
                self.deliver = limit._on_timeout  # type: ignore[attr-defined] # as a timer does
                await self.watched
        elif self.strike is not None and self.strike.means == "scope":
            with anyio.CancelScope() as scope:
                self.deliver = scope.cancel
                await self.watched
            return scope.cancelled_caught
        else:
            task = asyncio.current_task()
            assert task is not None
            self.deliver = task.cancel
            await self.watched
        return False

    async def _wait_behind(self) -> None:
        """Be next in the queue, and get an answer of its own, whatever the borrower meets."""
        for _ in range(2):
            try:
                assert await self._ask("other") == [("other",)]
            except self.fake.Error as error:
                if self.met_by != "the other" and self.scene.gate not in _BEFORE_A_LEASE:
                    raise AssertionError("somebody else's trouble") from error
                self.hits += 1
            except ConnectTimeout:
                assert self.scene.act == "never"
                assert self.scene.gate in _BEFORE_A_LEASE
                self.hits += 1
            else:
                return
        raise AssertionError("it is hit twice")

    async def _ask(self, whose: str) -> Any:
        """Have something answered in one go, on a connection that has to be clean."""
        function = _natively if self.scene.way.native else _on_a_thread
        return await self.pool.run(function, whose)

    # The strike

    def _suspended(self, at: int, awaited: Any) -> None:
        loop = asyncio.get_running_loop()
        if self.strike is None or self.struck_at is not None:  # otherwise it has been here before
            check_invariants(self.pool, proxies=False)
        began = loop.time()
        whens = ["at once"]
        self.course.whens.append(whens)
        if isinstance(awaited, asyncio.Future):
            whens.append("in the tick")
            awaited.add_done_callback(
                lambda _: whens.append("later") if loop.time() > began else None
            )
        if self.strike is None or self.strike.at != at:
            return
        if self.strike.when == "at once":
            loop.call_soon(self._strike, at, awaited)
        elif self.strike.when == "later":
            loop.call_later(0.0005, self._strike, at, awaited)
        else:
            awaited.add_done_callback(lambda _: self._strike(at, awaited))

    def _strike(self, at: int, awaited: Any) -> None:
        if self.watched.count == at and self.borrower is not None and not self.borrower.done():
            self.struck_at = now()
            self.answered_before = isinstance(awaited, asyncio.Future) and awaited.done()
            self.deliver()

    def _interrupted(self) -> None:
        """Note what has begun by the time at which the borrower learns of the cancellation."""
        if self.struck_at is not None and not self.interrupted:
            self.interrupted = True
            self.statements_before = self._statements()
            self.running_before = any(raw._busy for raw in self.fake.connections)

    def _statements(self) -> int:
        return sum("mine" in sql for sql in self.fake.statements)

    def _ended(self, borrower: asyncio.Task[bool]) -> None:
        """See how the borrower's task has ended."""
        self.ended_at = now()
        self.course.calls = self.gate.calls - self.calls_before
        check_invariants(self.pool, proxies=False)

    # The end

    async def _open_all(self) -> None:
        """Open every gate, and see that everybody is served."""
        assert self.borrower is not None
        assert self.other is not None
        self.fake.release()
        for hook in self.hooks.values():
            hook.open()
        _, late = await asyncio.wait({self.borrower, self.other}, timeout=_GRACE)
        assert not late, f"with all gates open, somebody still waits: {late}"
        self._check_outcome()
        await self.other
        async with asyncio.timeout(_GRACE):
            assert await self._ask("after") == [("after",)]
        await self._pass(_GRACE)
        pool, fake = self.pool, self.fake
        assert (pool.free, pool.waiting, pool.stats().in_use) == (1, 0, 0)
        assert pool.size == pool.idle == fake.open
        assert not any(raw.in_transaction for raw in fake.connections if not raw.closed)
        assert all(raw.closed for raw in self.doomed), "a lost connection is still there"

    def _check_outcome(self) -> None:
        assert self.borrower is not None
        if self.struck_at is None:
            self._check_answer(self.borrower)
        else:
            self._check_cancellation(self.borrower)

    def _check_answer(self, borrower: asyncio.Task[bool]) -> None:
        """See that an error was due to the borrower, who was not cancelled."""
        scene, fake = self.scene, self.fake
        error = borrower.exception()
        if isinstance(error, fake.Error):
            assert error.args == ("planned",)
        elif isinstance(error, ConnectTimeout):
            assert scene.act == "never"
        elif error is not None:
            raise error
        if self.strike is None and scene.gate in ("credentials", "connect", "setup"):
            expected = scene.act in ("ok", "slow") or scene.usage == "in the queue"
            assert (error is None) == expected, "a failed connect is the first one's"
            assert self.hits == 0 or scene.usage == "in the queue"

    def _check_cancellation(self, borrower: asyncio.Task[bool]) -> None:
        """See that it came out, at once, and that nothing was begun after it."""
        strike = self.strike
        assert strike is not None
        error = None if borrower.cancelled() else borrower.exception()
        if strike.means == "cancel":
            assert borrower.cancelled(), "a cancellation was swallowed"
        elif strike.means == "timeout":
            assert isinstance(error, TimeoutError), "a timeout was swallowed"
        elif self.answered_before:
            return  # a scope lets that pass, and cancels the next await
        elif error is None:
            assert borrower.result(), "a scope's cancellation was swallowed"
        if strike.means == "scope" or self.scene.usage not in _GO_ON:
            assert self.ended_at == self.struck_at, "it has to wait although it was cancelled"
        begun = self._statements() - self.statements_before
        most = self.running_before + (self.scene.usage == "used again")
        assert begun <= most, "a statement began after the cancellation"

    async def _close(self) -> None:
        """Close the pool, and see that nothing is left."""
        for proxy in self.who.proxies:
            with suppress(ConnectionReturned):
                proxy.cursor()
                raise AssertionError("a proxy can be used after its return")
        await self.pool.close()
        check_invariants(self.pool, proxies=False)
        figures = self.pool.stats()
        assert figures.created == figures.closed
        assert (self.fake.open, self.fake.violations) == (0, [])
        assert not threads_of(self.pool)
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}


def _plain(gate: Gate) -> Callable[[Any], None]:
    return lambda raw: gate.enter(raw, raw.line)


def _awaitable(gate: Gate) -> Callable[[Any], Awaitable[None]]:
    async def hook(raw: Any) -> None:
        await gate.pass_through(raw)

    return hook


def _asked(gate: Gate) -> Callable[[], dict[str, Any]]:
    def credentials() -> dict[str, Any]:
        gate.enter()
        return {}

    return credentials


def _asked_natively(gate: Gate) -> Callable[[], Awaitable[dict[str, Any]]]:
    async def credentials() -> dict[str, Any]:
        await gate.pass_through()
        return {}

    return credentials


def _user(lease: Lease) -> asyncio.Task[Any] | None:
    """Tell who has the connection now, also where the event loop has yet to hear of it."""
    session: Any = lease.session
    running = session._running if session.driver.native else session.gate._running
    return running.task if isinstance(running, Shot) else lease.user
