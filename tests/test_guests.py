"""What is made from a native driver's connection: passed through, in turn, and revoked with it.

The driver is one of our own with an object of every kind: cursors that iterate over themselves as
aiomysql's do, statements and portals as asyncpg's, callbacks of both sorts.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import pytest

from asyncdbpool import ConnectionPool, ConnectionReturned, NativeDriver, PoolError
from asyncdbpool.proxies.native import Guest, NativeConnection
from asyncdbpool.testing import settle, virtual_time

Call = tuple[object, ...]


class Raw:
    """A connection that notes every call, the arguments included."""

    version = (1, 2)

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.closed = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.busy = False
        self.callbacks: list[Callable[..., Any]] = []
        self.last: Cursor | None = None
        self.factory: Callable[[int], int] = lambda number: number + 1

    async def turn(self, *call: object) -> None:
        """Take one turn, alone, once the gate is open."""
        assert not self.busy, f"{call} while another call runs"
        self.busy = True
        self.calls.append(call)
        try:
            await self.gate.wait()
        finally:
            self.busy = False

    def since(self) -> list[Call]:
        calls, self.calls = self.calls, []
        return calls

    async def close(self) -> None:
        self.closed = True

    @property
    def handler(self) -> Callable[[Call], None]:
        return self.calls.append

    # At once

    def cursor(self, *args: Any, **kwargs: Any) -> "Cursor":
        self.last = Cursor(self, args, kwargs)
        return self.last

    def portal(self, rows: int, error: Exception | None = None) -> "Portal":
        return Portal(self, rows, error)

    def itself(self) -> "Raw":
        return self

    def listen(self, channel: str, callback: Any, *, other: Any = None) -> None:
        self.callbacks += [callback, other]
        self.calls.append(("listen", channel))

    def unlisten(self, callback: Any) -> None:
        self.callbacks.remove(callback)

    # In turn

    async def prepare(self, sql: str) -> "Cursor":
        await self.turn("prepare", sql)
        return self.cursor(sql)

    async def myself(self) -> "Raw":
        await self.turn("myself")
        return self

    async def subscribe(self, callback: Any, *, other: Any = None) -> None:
        self.callbacks += [callback, other]

    async def fetch(self, *args: Any, **kwargs: Any) -> int:
        await self.turn("fetch", args, kwargs)
        return 42


class Talking(Raw):
    """A connection that runs statements itself."""

    async def execute(self, *args: Any, **kwargs: Any) -> str:
        await self.turn("execute", args, kwargs)
        return "done"

    async def executemany(self, *args: Any, **kwargs: Any) -> str:
        await self.turn("executemany", args, kwargs)
        return "all done"


class Cursor:
    """A guest that runs statements, iterates over itself, and closes itself at a block's end."""

    kind = "cursor"

    def __init__(self, raw: Raw, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.raw = raw
        self.given = args, kwargs
        self.size = 1
        self.left = 2
        self.failure: Exception | None = None

    async def execute(self, *args: Any, **kwargs: Any) -> "Cursor":
        await self.raw.turn("cursor.execute", args, kwargs)
        return self

    async def executemany(self, *args: Any, **kwargs: Any) -> None:
        await self.raw.turn("cursor.executemany", args, kwargs)

    async def callproc(self, *args: Any) -> None:
        await self.raw.turn("cursor.callproc", args)

    async def fetchone(self) -> int:
        await self.raw.turn("cursor.fetchone")
        return 7

    async def peek(self, *args: Any, **kwargs: Any) -> Raw:
        await self.raw.turn("cursor.peek", args, kwargs)
        return self.raw

    def describe(self, *args: Any, **kwargs: Any) -> tuple[object, ...]:
        return (*args, kwargs)

    def owner(self) -> Raw:
        return self.raw

    def __await__(self) -> Generator[Any, Any, "Cursor"]:
        return self._itself().__await__()

    async def _itself(self) -> "Cursor":
        return self

    def __aiter__(self) -> "Cursor":
        return self

    async def __anext__(self) -> int:
        await self.raw.turn("cursor.next")
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return self.left

    async def __aenter__(self) -> Self:
        await self.raw.turn("cursor.enter")
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.raw.turn("cursor.exit", *error)
        if self.failure is not None:
            raise self.failure


class Portal:
    """A guest to be awaited or to be iterated over, by somebody else than itself."""

    def __init__(self, raw: Raw, rows: int, error: Exception | None) -> None:
        self.raw = raw
        self.rows = rows
        self.error = error
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[int]:
        for number in range(self.rows):
            await self.raw.turn("portal.next")
            self.taken += 1
            yield number
        if self.error is not None:
            raise self.error

    def __await__(self) -> Generator[Any, Any, Cursor]:
        return self._cursor().__await__()

    async def _cursor(self) -> Cursor:
        await self.raw.turn("portal.await")
        return self.raw.cursor("of a portal")


class Strolling:
    """A guest that is its own iterator, without asking anybody for the next item."""

    def __init__(self) -> None:
        self.left = 3

    def __aiter__(self) -> "Strolling":
        return self

    def __anext__(self) -> asyncio.Future[int]:
        answer = asyncio.get_running_loop().create_future()
        self.left -= 1
        if self.left:
            answer.set_result(self.left)
        else:
            answer.set_exception(StopAsyncIteration())
        return answer


class Hosting(NativeDriver):
    """What the pool has to know about these, and no more."""

    calls_back: ClassVar[frozenset[str]] = frozenset({"listen", "unlisten", "subscribe"})

    def __init__(self, kind: type[Raw] = Raw) -> None:
        super().__init__(SimpleNamespace(connect=self.make))
        self.kind = kind
        self.made: list[Raw] = []
        self.guests = (Cursor, Portal, Strolling)

    async def make(self) -> Raw:
        self.made.append(self.kind())
        return self.made[-1]

    def terminate(self, raw: Any) -> None:
        raw.closed = True

    def is_closed(self, raw: Any) -> bool:
        return bool(raw.closed)

    def in_transaction(self, raw: Any) -> bool | None:
        return False

    def loses_rows(self, owner: Any, name: str) -> bool:
        return isinstance(owner, Cursor) and name in {"fetchone", "__anext__"}

    async def command(self, raw: Any, sql: str) -> None:
        raise NotImplementedError

    fetch_all = fetch_one = execute = execute_many = command  # type: ignore[assignment]


def pool_of(driver: Hosting) -> ConnectionPool:
    return ConnectionPool(driver.module, driver=driver, name="host", max_size=1)


def shown(value: object) -> Guest:
    assert isinstance(value, Guest)
    return value


# ------------------------------------------------------------------------------------------------
# Passed through


@virtual_time
async def test_a_guest_has_what_the_drivers_own_object_has() -> None:
    driver = Hosting()
    async with pool_of(driver) as pool, pool.connection() as conn:
        cursor = shown(conn.cursor("big", unread=True))
        raw = driver.made[0].last
        assert raw is not None
        assert raw.given == (("big",), {"unread": True})
        assert cursor.kind == "cursor"
        assert cursor.size == 1
        cursor.size = 9
        assert raw.size == 9
        assert cursor.describe(1, two=2) == (1, {"two": 2})
        assert await cursor.fetchone() == 7
        assert repr(cursor) == f"<Guest (Cursor) of {conn!r}>"
        assert not hasattr(cursor, "missing")
        with pytest.raises(AttributeError, match="'Guest' object has no attribute '__len__'"):
            cursor.__len__  # noqa: B018 - it raises
        with pytest.raises(
            AttributeError, match="'NativeConnection' object has no attribute '__len__'"
        ):
            conn.__len__  # noqa: B018 - it raises
        assert conn.version == (1, 2)


@virtual_time
async def test_proxies_come_in_place_of_the_drivers_own_objects_wherever_they_appear() -> None:
    async with pool_of(Hosting()) as pool, pool.connection() as conn:
        cursor = shown(conn.cursor())
        assert await cursor.execute("ONE") is cursor
        assert await cursor.peek() is conn
        assert cursor.owner() is conn
        assert cursor.raw is conn
        assert await conn.myself() is conn
        assert conn.itself() is conn
        last = shown(conn.last)
        assert last.owner() is conn
        prepared = shown(await conn.prepare("TWO"))
        assert prepared.owner() is conn
        opened = shown(await conn.portal(0))
        assert opened.given == (("of a portal",), {})
        assert opened.owner() is conn
        assert await opened.fetchone() == 7


@virtual_time
async def test_a_guests_calls_take_their_turn_with_what_they_are_given() -> None:
    driver = Hosting()
    async with pool_of(driver) as pool, pool.connection() as conn:
        cursor = shown(conn.cursor())
        async with asyncio.TaskGroup() as group:
            group.create_task(cursor.execute("ONE", (1,), size=2))
            group.create_task(conn.fetch(3, four=4))
            group.create_task(cursor.peek(5, six=6))
        assert driver.made[0].since() == [
            ("cursor.execute", ("ONE", (1,)), {"size": 2}),
            ("fetch", (3,), {"four": 4}),
            ("cursor.peek", (5,), {"six": 6}),
        ]


@virtual_time
async def test_the_last_statement_is_told_whoever_ran_it() -> None:
    async with pool_of(Hosting(Talking)) as pool, pool.connection() as conn:

        def told() -> object:
            return pool.dump()[0].statement

        cursor = shown(conn.cursor())
        await cursor.execute("ONE", "not this")
        assert told() == "ONE"
        await cursor.fetchone()
        assert told() == "ONE"
        await cursor.callproc("TWO")
        assert told() == "TWO"
        await cursor.execute()
        assert told() is None
        await cursor.executemany("THREE")
        assert told() == "THREE"
        await cursor.execute(b"no text")
        assert told() is None
        await conn.fetch("FOUR", "not this")
        assert told() == "FOUR"
        await conn.fetch()
        await conn.fetch(5)
        assert told() == "FOUR"


@virtual_time
async def test_statements_go_to_the_driver_where_it_runs_them() -> None:
    driver = Hosting(Talking)
    async with pool_of(driver) as pool, pool.connection() as conn:
        assert await conn.execute("ONE", 1, two=2) == "done"  # type: ignore[comparison-overlap]
        assert await conn.executemany("TWO", 3, four=4) == "all done"  # type: ignore[comparison-overlap]
        assert driver.made[0].since() == [
            ("execute", ("ONE", 1), {"two": 2}),
            ("executemany", ("TWO", 3), {"four": 4}),
        ]


@virtual_time
async def test_statements_run_on_a_cursor_where_the_driver_has_only_cursors() -> None:
    driver = Hosting()
    async with pool_of(driver) as pool, pool.connection() as conn:
        assert isinstance(conn, NativeConnection)
        cursor = shown(await conn.execute("ONE", 1, two=2))
        assert await cursor.fetchone() == 7
        async with conn.executemany("TWO", 3, four=4) as other:
            shown(other)
        assert driver.made[0].since() == [
            ("cursor.execute", ("ONE", 1), {"two": 2}),
            ("cursor.fetchone",),
            ("cursor.executemany", ("TWO", 3), {"four": 4}),
            ("cursor.exit", None, None, None),
        ]


# ------------------------------------------------------------------------------------------------
# Rows


@virtual_time
async def test_a_cursor_that_is_its_own_iterator_takes_a_turn_for_each_row() -> None:
    driver = Hosting()
    async with pool_of(driver) as pool, pool.connection() as conn:
        cursor = shown(conn.cursor())
        assert cursor.__aiter__() is cursor
        assert [row async for row in cursor] == [1, 0]
        assert driver.made[0].since() == [("cursor.next",)] * 3


@virtual_time
async def test_an_iterator_that_asks_nobody_needs_no_turn() -> None:
    driver = Hosting()
    async with pool_of(driver) as pool, pool.connection() as conn:
        driver.made[0].strolling = Strolling  # type: ignore[attr-defined]
        stroll = Guest(conn, conn._lease, Strolling())  # type: ignore[arg-type]
        driver.made[0].gate.clear()
        busy = asyncio.create_task(conn.fetch())
        await settle()
        assert [row async for row in stroll] == [2, 1]
        driver.made[0].gate.set()
        await busy


@virtual_time
async def test_rows_come_ahead_fifty_in_a_turn() -> None:
    driver = Hosting()
    async with pool_of(driver) as pool, pool.connection() as conn:
        portal = shown(conn.portal(120))
        seen, taken = [], set()
        async for row in portal:
            seen.append(row)
            taken.add(portal.taken)
        assert seen == list(range(120))
        assert taken == {50, 100, 120}


@virtual_time
async def test_rows_come_one_by_one_where_somebody_else_may_reach_what_is_iterated_over() -> None:
    class Wary(Hosting):
        def reads_ahead(self, owner: Any) -> bool:
            return not isinstance(owner, Portal)

    driver = Wary()
    async with pool_of(driver) as pool, pool.connection() as conn:
        portal = shown(conn.portal(3))
        assert [(row, portal.taken) async for row in portal] == [(0, 1), (1, 2), (2, 3)]


@virtual_time
async def test_an_error_in_the_middle_comes_after_the_rows_before_it() -> None:
    async with pool_of(Hosting()) as pool, pool.connection() as conn:
        seen = []
        with pytest.raises(LookupError, match="the rest is lost"):
            async for row in conn.portal(60, LookupError("the rest is lost")):
                seen.append(row)  # noqa: PERF401 - it ends with an error
        assert seen == list(range(60))


@virtual_time
async def test_rows_that_went_with_a_cancelled_call_are_not_skipped_in_silence() -> None:
    driver = Hosting()
    async with pool_of(driver) as pool, pool.connection() as conn:
        cursor, raw = shown(conn.cursor()), driver.made[0]
        await cursor.execute("ONE")
        raw.gate.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await cursor.peek()  # which takes no rows along
        raw.gate.set()
        assert await cursor.fetchone() == 7

        raw.gate.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await cursor.fetchone()
        raw.gate.set()
        for _ in range(2):
            with pytest.raises(PoolError, match="pool 'host': rows of this cursor went"):
                await cursor.fetchone()
            assert await cursor.peek() is conn

        raw.gate.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await cursor.peek()  # which brings nothing back
        raw.gate.set()
        with pytest.raises(PoolError):
            await cursor.fetchone()
        await cursor.execute("TWO")
        assert await cursor.fetchone() == 7


# ------------------------------------------------------------------------------------------------
# Blocks


@virtual_time
async def test_a_guests_block_begins_and_ends_in_its_turn() -> None:
    driver = Hosting()
    async with pool_of(driver) as pool, pool.connection() as conn:
        async with shown(conn.cursor()) as cursor:
            assert shown(cursor).owner() is conn
        assert driver.made[0].since() == [("cursor.enter",), ("cursor.exit", None, None, None)]


@virtual_time
async def test_a_guests_block_is_told_of_the_error_that_ends_it() -> None:
    driver = Hosting()
    async with pool_of(driver) as pool, pool.connection() as conn:
        error = LookupError("inside")
        with pytest.raises(LookupError) as caught:
            async with shown(conn.cursor()):
                raise error
        assert driver.made[0].since()[1:] == [
            ("cursor.exit", LookupError, error, caught.value.__traceback__)
        ]


@virtual_time
async def test_an_error_of_a_blocks_end_comes_out_unless_another_one_is_on_its_way() -> None:
    driver = Hosting()
    async with pool_of(driver) as pool, pool.connection() as conn:
        cursor = shown(conn.cursor())
        assert driver.made[0].last is not None
        driver.made[0].last.failure = OSError("at the end")
        with pytest.raises(OSError, match="at the end"):
            async with cursor:
                pass
        with pytest.raises(LookupError):
            async with cursor:
                raise LookupError


@virtual_time
async def test_a_cancelled_block_does_not_wait_for_its_end() -> None:
    driver = Hosting()
    async with pool_of(driver) as pool, pool.connection() as conn:
        raw = driver.made[0]

        async def work() -> None:
            async with shown(conn.cursor()):
                raw.since()
                raw.gate.clear()
                await asyncio.sleep(3600)

        task = asyncio.create_task(work())
        await settle()
        task.cancel()
        await settle()
        assert task.cancelled(), "although the gate is shut"
        assert raw.since() == [("cursor.exit", None, None, None)]
        raw.gate.set()


@virtual_time
async def test_a_block_does_not_wait_for_a_cancelled_call_either() -> None:
    driver = Hosting()
    async with pool_of(driver) as pool, pool.connection() as conn:
        raw, left = driver.made[0], False
        async with asyncio.timeout(5):
            async with shown(conn.cursor()) as cursor:
                raw.since()
                raw.gate.clear()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1):
                        await cursor.fetchone()
            left = True
        assert left
        raw.gate.set()
        await settle()
        assert raw.since() == [("cursor.fetchone",), ("cursor.exit", None, None, None)]


@virtual_time
async def test_guests_go_with_their_connection() -> None:
    driver = Hosting()
    async with pool_of(driver) as pool:
        conn = await pool.get()
        cursor, portal = shown(conn.cursor()), shown(conn.portal(3))
        rows = portal.__aiter__()
        assert await anext(rows) == 0
        entered = shown(conn.cursor())
        await entered.__aenter__()
        assert cursor
        await conn.close()
        driver.made[0].since()

        assert not cursor
        for use in (
            lambda: cursor.kind,
            lambda: setattr(cursor, "size", 2),
            lambda: cursor.fetchone,
            cursor.__aiter__,
            conn.cursor,
            lambda: conn.version,
            lambda: setattr(conn, "version", 3),
        ):
            with pytest.raises(ConnectionReturned):
                use()
        for wait in (cursor.__anext__(), cursor.__aenter__(), anext(rows), portal):
            with pytest.raises(ConnectionReturned):
                await wait
        await entered.__aexit__(None, None, None)
        assert driver.made[0].since() == []
        assert "returned" in repr(cursor)


# ------------------------------------------------------------------------------------------------
# Callbacks


class Unhashable:
    """A callback that cannot be a key."""

    __hash__ = None  # type: ignore[assignment]
    __name__ = "unhashable"

    def __init__(self, seen: list[object]) -> None:
        self.seen = seen

    def __call__(self, *args: object) -> None:
        self.seen += args


@virtual_time
async def test_callbacks_are_given_the_proxy_in_place_of_the_drivers_connection() -> None:
    driver = Hosting()
    seen: list[object] = []

    def called(*args: object) -> None:
        seen.extend(args)

    async def called_later(*args: object) -> None:
        seen.extend(("later", *args))

    async with pool_of(driver) as pool:
        conn = await pool.get()
        raw = driver.made[0]
        conn.listen("news", called, other=called_later)
        await conn.subscribe(called_later, other=called)
        assert raw.since() == [("listen", "news")], "what is no callback is passed on"
        first, other, later, again = raw.callbacks
        assert (first, other) == (again, later), "the same ones, so that they can be removed"
        assert first(raw, "event") is None
        assert await later(raw, "more") is None
        assert seen == [conn, "event", "later", conn, "more"]
        assert first.__name__ == "called"
        conn.unlisten(called)
        assert raw.callbacks == [other, later, again]
        conn.listen("news", seen.append)
        conn.unlisten(seen.append)  # another object, and the same method
        assert raw.callbacks == [other, later, again, None]

        await conn.close()
        seen.clear()
        first(raw, "too late")
        await later(raw, "too late")
        assert seen == []


@virtual_time
async def test_a_callback_may_be_unhashable_and_several_are_told_apart() -> None:
    driver = Hosting()
    one: list[object] = []
    two: list[object] = []
    callbacks = [Unhashable(one), Unhashable(two)]
    async with pool_of(driver) as pool, pool.connection() as conn:
        raw = driver.made[0]
        for callback in (*callbacks, *callbacks):
            conn.listen("news", callback)
        first, second, third, fourth = raw.callbacks[::2]
        assert (first, second) == (third, fourth)
        first(raw, 1)
        second(2)
        assert one == [conn, 1]
        assert two == [2]


@virtual_time
async def test_what_is_callable_but_no_method_is_a_value() -> None:
    driver = Hosting()
    async with pool_of(driver) as pool, pool.connection() as conn:
        assert conn.factory is driver.made[0].factory
        assert conn.factory(1) == 2
        assert conn.handler == driver.made[0].handler
