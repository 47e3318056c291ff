"""A whole pool under random load, faults and cancellations, in virtual time: a course a seed.

Everything that happens is decided by the seed: which task does what and when it is cancelled, how
long each step of the driver takes and whether it fails, hangs or loses the connection, when the
pool is resized, paused, cleared or closed, and in which order threads and event loop have their
turns. So a seed that finds something finds it again.
"""

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any
from unittest import mock

import anyio

from asyncdbpool import ConnectionPool, PoolError
from asyncdbpool.testing import (
    NEVER,
    Clock,
    Fake,
    Gate,
    NativeFake,
    check_invariants,
    run_virtually,
    settle,
)

__all__ = ["simulate"]

STEPS = (
    *("connect", "cursor", "execute", "fetch", "cursor_close", "commit", "rollback"),
    *("ping", "reset", "close", "cancel"),
)
LENGTH = 40.0  # virtual seconds in which tasks begin
RUSH = 2.0  # the same where all come at once
GRACE = 3.0  # cancel_grace
PATIENCE = 30.0  # virtual seconds after which everybody gives up


def simulate(seed: int) -> str:
    """Run one simulation; return what has happened in it, in words.

    Raises:
        AssertionError: A promise was broken.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    simulation = Simulation(chance)
    gc.disable()  # it would come at any time
    try:
        with mock.patch("random.uniform", chance.uniform):
            run_virtually(simulation.run, seed=seed)
    except BaseException as error:
        error.add_note("\n".join(simulation.journal))
        raise
    finally:
        gc.enable()
    return "\n".join(simulation.journal)


def echo(sql: str, params: Any) -> list[tuple[Any, ...]]:
    """Answer with the parameters: a token of the caller's own, so that a foreign one shows."""
    return [tuple(params)]


Work = Callable[[], Coroutine[Any, Any, None]]


async def within(work: Work, seconds: float) -> None:
    """Give up by asyncio's timeout."""
    try:
        async with asyncio.timeout(seconds) as limit:
            await work()
    except TimeoutError:
        if not limit.expired():
            raise


async def inside_of(work: Work, seconds: float) -> None:
    """Give up by a scope of anyio's, which cancels every further await, too."""
    with anyio.move_on_after(seconds):
        await work()


async def until(work: Work, seconds: float) -> None:
    """Give up by a cancel."""
    task = asyncio.create_task(work())
    timer = asyncio.get_running_loop().call_later(seconds, task.cancel)
    await asyncio.wait([task])
    timer.cancel()
    if not task.cancelled():
        task.result()


class Simulation:
    """One pool over the fake driver, those who use it, and those who disturb it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        kind = chance.choice([Fake, NativeFake])
        self.fake = kind(sockets=chance.random() < 0.7, cancels=chance.random() < 0.8, rows=echo)
        self.journal: list[str] = []
        self.tokens = 0
        self.closes = 0
        self.quiet = False  # the faults are over
        self.rush = chance.random() < 0.5  # many one-shots at once, which have to stand in line

    async def run(self) -> None:
        """Do it all."""
        chance, fake = self.chance, self.fake
        options = self.options()
        self.note(f"{type(fake).__name__} sockets={fake.sockets} cancels={fake.cancels} {options}")
        async with fake.pool(**options) as pool:
            for name in STEPS:
                gate: Gate = getattr(fake, name)
                gate.always(partial(self.befall, name))
            users = chance.randint(10, 25) if self.rush else chance.randint(3, 20)
            tasks = [asyncio.create_task(self.use(pool, n)) for n in range(users)]
            tasks += [asyncio.create_task(self.disturb(pool)) for _ in range(chance.randint(0, 2))]
            await asyncio.wait(tasks)
            for task in tasks:
                task.result()  # raises what has gone wrong
            await self.recover(pool)

    def note(self, text: str) -> None:
        """Write a line of the journal."""
        assert Clock.current is not None
        self.journal.append(f"{Clock.current.now:.6f} {text}")

    def options(self) -> dict[str, Any]:
        """Choose the pool's options."""
        chance = self.chance
        max_size = chance.randint(1, 3 if self.rush else 5)
        options = {
            "name": "simulated",
            "max_size": max_size,
            "min_size": chance.randint(0, max_size) if chance.random() < 0.3 else 0,
            "timeout": 10.0,
            "connect_timeout": 2.0,
            "retry_connect": chance.choice([0.0, 3.0]),
            "connect_limit": chance.choice([None, None, 1, 2]),
            "check": chance.choice(["auto", "auto", "always", None]),
            "check_timeout": 1.0,
            "cleanup": chance.choice(["rollback", "rollback", "reset"]),
            "cancel_grace": GRACE,
            "keepalive": chance.choice([None, 5.0]),
            "max_idle": chance.choice([600.0, 4.0, 0.0]),
            "max_age": chance.choice([3600.0, 10.0]),
            "max_uses": chance.choice([None, None, 3]),
        }
        if self.rush:  # nothing keeps a connection from going from hand to hand
            options |= {"check": "auto", "cleanup": "rollback", "max_idle": 4.0, "max_uses": None}
        return options

    # What befalls the driver

    def befall(self, step: str) -> Any:
        """Decide what a gate does to a call."""
        chance, fake = self.chance, self.fake
        if self.quiet:
            return None
        fate = chance.random()
        if fate < 0.55:
            return None
        if fate < (0.97 if self.rush else 0.85):
            return chance.uniform(0.001, 0.3)
        if fate < (0.98 if self.rush else 0.92):
            return chance.uniform(0.3, 4.0)
        self.note(f"{step} meets a fault")
        return chance.choice(
            [
                fake.OperationalError("a fault"),
                fake.OperationalError("a fault"),
                fake.Lost("lost"),
                fake.ReadOnly("read-only"),
                NEVER,
            ]
        )

    # Those who use the pool

    async def use(self, pool: ConnectionPool, number: int) -> None:
        """Come at some time, and do some things, some of them not to their ends."""
        chance = self.chance
        await asyncio.sleep(chance.uniform(0, RUSH if self.rush else LENGTH))
        uses = [self.one_shot, self.block, self.transaction, self.by_hand, self.function]
        if self.rush:
            uses += [
                self.one_shot
            ] * 60  # one that waits otherwise makes the later ones do so, too
        for _ in range(chance.randint(1, 5)):
            what = chance.choice(uses)
            closes = -1 if pool.closed else self.closes  # one under way counts, too
            error = await self.fated(partial(what, pool))
            self.note(f"{number} {what.__name__}: {error!r}")
            if error is not None and not self.is_excusable(error, closed=self.closes != closes):
                raise AssertionError(f"{what.__name__} ended with {error!r}") from error
            self.look(pool)
            if not self.rush:
                await asyncio.sleep(chance.choice([0.0, chance.uniform(0, 2)]))

    async def fated(self, work: Work) -> BaseException | None:
        """Do something, or give up on it, soon or late, in one of three ways; return its error."""
        chance = self.chance
        soon = chance.choice([0.0, chance.uniform(0, 0.5), chance.uniform(0, 6)])
        after = chance.choice([soon, PATIENCE])
        task = asyncio.create_task(chance.choice([within, inside_of, until])(work, after))
        try:
            await task
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - looked at by all
            return error
        return None

    def is_excusable(self, error: BaseException, *, closed: bool) -> bool:
        """Tell whether a fault explains an error; a cancel of somebody else's statement never."""
        if isinstance(error, self.fake.Error):
            return closed or str(error) != "interrupted"
        return isinstance(error, PoolError)

    async def ask(self, fetch: Callable[..., Awaitable[Any]]) -> None:
        """Fetch one's own token."""
        self.tokens += 1
        token = self.tokens
        answer = await fetch("SELECT ?", (token,))
        assert answer == token, f"{token} was asked, and {answer} came"

    async def one_shot(self, pool: ConnectionPool) -> None:
        await self.ask(pool.fetch_val)

    async def block(self, pool: ConnectionPool) -> None:
        async with pool.connection() as conn:
            await self.find_it_clean(conn)
            for _ in range(self.chance.randint(0, 3)):
                await self.ask(conn.fetch_val)
                if self.chance.random() < 0.2:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self.chance.uniform(0, 1)):
                            await self.ask(conn.fetch_val)

    async def transaction(self, pool: ConnectionPool) -> None:
        async with pool.transaction() as conn:
            await self.ask(conn.fetch_val)
            if self.chance.random() < 0.3:
                async with conn.transaction():
                    await self.ask(conn.fetch_val)

    async def by_hand(self, pool: ConnectionPool) -> None:
        conn = await pool.get()
        try:
            await self.ask(conn.fetch_val)
            if self.chance.random() < 0.2:
                await conn.discard()
        finally:
            if conn:
                await pool.put(conn)

    async def function(self, pool: ConnectionPool) -> None:
        async def natively(raw: Any, token: int) -> Any:
            return (await raw.query("SELECT ?", (token,)))[0][0]

        def blocking(raw: Any, token: int) -> Any:
            cursor = raw.cursor()
            cursor.execute("SELECT ?", (token,))
            return cursor.fetchone()[0]

        fn = natively if isinstance(self.fake, NativeFake) else blocking
        await self.ask(lambda _sql, params: pool.run(fn, *params))

    async def find_it_clean(self, conn: Any) -> None:
        """See that the borrower before has left nothing."""
        assert not conn.in_transaction, "a transaction of somebody else's is open"
        assert not conn.autocommit, "somebody else's autocommit is set"
        if self.chance.random() < 0.3 and not isinstance(self.fake, NativeFake):
            conn.autocommit = True

    # Those who disturb it

    async def disturb(self, pool: ConnectionPool) -> None:
        """Change the pool while it is used."""
        chance = self.chance
        for _ in range(chance.randint(1, 6)):
            await asyncio.sleep(chance.uniform(0, RUSH if self.rush else LENGTH / 4))
            change = chance.choice([self.resize, self.pause, self.clear, self.reopen])
            self.note(change.__name__)
            with suppress(PoolError, self.fake.Error):
                await change(pool)
            self.look(pool)

    async def resize(self, pool: ConnectionPool) -> None:
        max_size = self.chance.randint(1, 6)
        await pool.resize(min_size=self.chance.randint(0, max_size), max_size=max_size)

    async def pause(self, pool: ConnectionPool) -> None:
        try:
            with anyio.move_on_after(self.chance.uniform(0, 3)):
                await pool.pause()
                await asyncio.sleep(self.chance.uniform(0, 2))
        finally:
            pool.resume()

    async def clear(self, pool: ConnectionPool) -> None:
        with anyio.move_on_after(self.chance.uniform(0, 5)):
            await pool.clear()

    async def reopen(self, pool: ConnectionPool) -> None:
        self.closes += 1
        with anyio.move_on_after(self.chance.uniform(0, 5)):
            await pool.close(timeout=self.chance.choice([0, 2, 60]))
        await asyncio.sleep(self.chance.choice([0.0, 1.0]))
        while pool.closed:
            with suppress(PoolError, self.fake.Error):
                await pool.open()

    # What must hold

    def look(self, pool: ConnectionPool) -> None:
        """Check what must hold at any moment; a shrinking `resize()` takes its time."""
        if pool.size <= pool.max_size:
            check_invariants(pool, proxies=False, stuck=10 * self.closes)

    async def recover(self, pool: ConnectionPool) -> None:
        """Check that nothing is left of all this once the faults are over."""
        self.note("the faults are over")
        self.quiet = True
        self.fake.release()
        await asyncio.sleep(2 * GRACE)
        await pool.open()
        await settle()
        size = pool.max_size
        assert pool.free == size, f"{pool.free} of {size} are free: {pool.stats()} {pool.dump()}"
        check_invariants(pool)
        leases = await asyncio.gather(*(pool.get() for _ in range(size)))
        assert (pool.free, pool.stats().in_use, self.fake.open) == (0, size, size)
        for conn in leases:
            await self.find_it_clean(conn)
            await self.ask(conn.fetch_val)
            await pool.put(conn)
        await settle()
        assert pool.free == size, pool.stats()
        assert not any(raw.in_transaction for raw in self.fake.connections if not raw.closed)
        self.note(f"{pool.stats()}")


if __name__ == "__main__":
    import sys

    for seed in sys.argv[1:]:
        print(simulate(int(seed)))  # noqa: T201 - it is a command, too
