"""A native driver of one's own: what the base class brings along, what the pool makes of it."""

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import aiomysql
import asyncpg
import pytest

from asyncdbpool import ConnectionPool, Driver, NativeDriver, PoolError, PoolTimeout
from asyncdbpool.drivers.aiomysql import AiomysqlDriver
from asyncdbpool.drivers.asyncpg import AsyncpgDriver
from asyncdbpool.drivers.native import NativeCanceller
from asyncdbpool.testing import now, settle, virtual_time


class Raw:
    """A connection that notes what it is asked; `SLEEP` takes an hour, unless it is woken."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.closed = ""
        self.broken = False
        self.unread = 0
        self.woken = asyncio.Event()

    async def ask(self, sql: str) -> list[tuple[str]]:
        self.asked.append(sql)
        if self.broken:
            raise ConnectionResetError("it is broken")
        if sql == "SLEEP":
            with suppress(TimeoutError):
                async with asyncio.timeout(3600):
                    await self.woken.wait()
        await asyncio.sleep(0)
        return [(sql,)]

    async def close(self) -> None:
        self.closed = "politely"

    def since(self) -> list[str]:
        asked, self.asked = self.asked, []
        return asked


class Simple(NativeDriver):
    """What a driver must bring, and no more."""

    def __init__(self) -> None:
        super().__init__(SimpleNamespace(connect=self.make))
        self.made: list[Raw] = []

    async def make(self) -> Raw:
        self.made.append(Raw())
        return self.made[-1]

    @property
    def raw(self) -> Raw:
        """The connection that was made last."""
        return self.made[-1]

    def terminate(self, raw: Any) -> None:
        raw.closed = raw.closed or "at once"

    def is_closed(self, raw: Any) -> bool:
        return bool(raw.closed)

    async def command(self, raw: Any, sql: str) -> None:
        await raw.ask(sql)

    async def fetch_all(self, raw: Any, sql: Any, params: Any) -> list[Any]:
        rows: list[Any] = await raw.ask(sql)
        return rows

    async def fetch_one(self, raw: Any, sql: Any, params: Any) -> Any:
        return (await raw.ask(sql))[0]

    async def execute(self, raw: Any, sql: Any, params: Any) -> int:
        return len(await raw.ask(sql))

    async def execute_many(self, raw: Any, sql: Any, params: Any) -> int:
        return sum([len(await raw.ask(sql)) for _ in params])


class Cancellable(Simple):
    """A driver whose cancel wakes a sleeper, who has slept "successfully" then.

    Attributes:
        cancels: How many were sent.
        gate: What a cancel waits for.
        failure: What is raised where the cancel is to be absorbed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cancels = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: BaseException | None = None

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> NativeCanceller:
        async def cancel(ask: Any) -> None:
            self.cancels += 1
            await self.gate.wait()
            raw.woken.set()

        return cancel

    async def absorb_cancel(self, raw: Any) -> None:
        if self.failure is not None:
            raise self.failure
        raw.asked.append("absorbed")


def pool_of(driver: NativeDriver, **options: Any) -> ConnectionPool:
    return ConnectionPool(driver.module, driver=driver, name="simple", **options)


# ------------------------------------------------------------------------------------------------
# What the base class does


@virtual_time
async def test_transactions_are_plain_sql() -> None:
    driver = Simple()
    async with pool_of(driver, max_size=1) as pool:
        async with pool.transaction() as conn:
            await conn.fetch_all("ONE")
            async with conn.transaction():
                await conn.fetch_one("TWO")
            with pytest.raises(LookupError):
                async with conn.transaction():
                    raise LookupError
        assert driver.raw.since() == [
            *("BEGIN", "ONE", "SAVEPOINT asyncdbpool_1", "TWO"),
            *("RELEASE SAVEPOINT asyncdbpool_1", "SAVEPOINT asyncdbpool_1"),
            *("ROLLBACK TO SAVEPOINT asyncdbpool_1", "RELEASE SAVEPOINT asyncdbpool_1", "COMMIT"),
        ], "and nothing more on return"
        async with pool.connection() as conn:
            await conn.fetch_val("ONE")
        assert driver.raw.since() == ["ONE", "ROLLBACK"], "nobody knows whether one was open"
        assert await pool.execute("ONE") == 1
        assert driver.raw.since() == ["ONE", "COMMIT"]
        assert await pool.execute_many("ONE", [1, 2]) == 2
        assert driver.raw.since() == ["BEGIN", "ONE", "ONE", "COMMIT"]
    assert driver.raw.closed == "politely"


@virtual_time
async def test_a_ping_is_a_statement() -> None:
    driver = Simple()
    async with pool_of(driver, max_size=1, check="always") as pool:
        async with pool.connection():
            pass
        assert driver.raw.since() == []
        async with pool.connection():
            assert driver.raw.since() == ["SELECT 1"]
        driver.raw.broken = True
        async with pool.connection() as conn:
            assert await conn.fetch_val("ONE") == "ONE"
        assert len(driver.made) == 2


@virtual_time
async def test_without_a_reset_the_connection_is_closed_instead() -> None:
    driver = Simple()
    with pytest.raises(NotImplementedError):
        await driver.reset(Raw(), (), {})
    async with pool_of(driver, cleanup="reset") as pool:
        async with pool.connection():
            pass
        assert pool.size == 0
        assert driver.raw.closed


@virtual_time
async def test_without_a_way_to_cancel_a_statement_runs_to_its_end() -> None:
    driver = Simple()
    async with pool_of(driver, max_size=1, cancel_grace=4000, timeout=5000, max_age=9000) as pool:
        async with pool.connection() as conn:
            with pytest.raises(PoolError, match="pool 'simple': this driver cannot cancel"):
                await conn.cancel()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await conn.fetch_all("SLEEP")
        assert pool.free == 0
        began = now()
        assert await pool.fetch_val("ONE") == "ONE"
        assert now() - began == pytest.approx(3599, abs=1)
        assert len(driver.made) == 1


@virtual_time
async def test_where_there_is_no_socket_a_statement_is_cut_off_after_the_grace() -> None:
    driver = Simple()
    async with pool_of(driver, max_size=1, cancel_grace=4) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), pool.connection() as conn:
                await conn.fetch_all("SLEEP")
        await asyncio.sleep(5)
        assert (pool.free, pool.size) == (1, 0)
        assert driver.raw.closed == "at once"
        assert pool.stats().discarded == 1


@virtual_time
async def test_an_answer_that_cannot_be_read_to_its_end_costs_the_connection() -> None:
    class Unread(Simple):
        def is_unread(self, raw: Any) -> bool:
            return bool(raw.unread)

    class Draining(Unread):
        async def drain(self, raw: Any) -> None:
            raw.unread -= 1

    for kind, size in ((Unread, 0), (Draining, 1)):
        driver = kind()
        async with pool_of(driver) as pool:
            async with pool.connection() as conn:
                await conn.fetch_val("ONE")
                driver.raw.unread = 1
            assert pool.size == size


@virtual_time
async def test_a_connection_that_closes_during_the_cleanup_is_not_lent_again() -> None:
    driver = Simple()

    async def clean(raw: Raw) -> None:
        raw.closed = "by the user"

    async with pool_of(driver, cleanup=clean) as pool:
        async with pool.connection() as conn:
            await conn.fetch_val("ONE")
        assert pool.size == 0


@virtual_time
async def test_what_is_no_method_is_given_as_it_is_and_methods_take_their_turn() -> None:
    driver = Simple()
    async with pool_of(driver) as pool, pool.connection() as lent:
        conn: Any = lent
        assert conn.unread == 0
        assert await conn.ask("ONE") == [("ONE",)]
        assert conn.since() == ["ONE"]
        conn.unread = 0
        with pytest.raises(AttributeError, match="no attribute 'cursor'"):
            await conn.execute("ONE")
        with pytest.raises(AttributeError, match="no_such_thing"):
            conn.no_such_thing  # noqa: B018 - the look-up is the test
        with pytest.raises(AttributeError):
            conn.__no_such_thing__  # noqa: B018 - as above


@virtual_time
async def test_a_driver_that_cannot_read_an_error_costs_the_connection_and_not_the_error() -> None:
    class Unlettered(Simple):
        def is_disconnect(self, error: BaseException, raw: Any) -> bool:
            raise LookupError("what is that?")

    driver = Unlettered()
    async with pool_of(driver) as pool:
        async with pool.connection() as conn:
            await conn.fetch_val("ONE")
            driver.raw.broken = True
            with pytest.raises(ConnectionResetError, match="it is broken"):
                await conn.fetch_val("TWO")
            driver.raw.broken = False
        assert (pool.size, pool.stats().discarded) == (0, 1)


# ------------------------------------------------------------------------------------------------
# Bad input


@virtual_time
async def test_a_connect_that_gives_nothing_is_told() -> None:
    driver = Simple()

    async def make() -> None:
        return None

    driver.module = SimpleNamespace(connect=make)
    pool = pool_of(driver)
    with pytest.raises(PoolError, match=r"pool 'simple': connect\(\) of .* returned None"):
        await pool.get()
    assert (pool.size, pool.free) == (0, 10)
    await pool.close()


@virtual_time
async def test_a_setup_that_raises_is_told_and_leaves_no_connection() -> None:
    driver = Simple()

    async def setup(raw: Raw) -> None:
        await raw.ask("SET")
        raise LookupError("no such setting")

    pool = pool_of(driver, setup=setup)
    with pytest.raises(LookupError, match="no such setting"):
        await pool.get()
    assert pool.size == 0
    assert driver.raw.closed == "at once"
    await pool.close()


@virtual_time
async def test_what_setup_did_is_committed() -> None:
    driver = Simple()

    async def setup(raw: Raw) -> None:
        await raw.ask("SET")

    async with pool_of(driver, setup=setup) as pool, pool.connection():
        assert driver.raw.since() == ["SET", "COMMIT"]


@virtual_time
async def test_a_check_that_returns_false_means_a_dead_connection() -> None:
    driver = Simple()
    alive = [True, False]

    async def check(raw: Raw) -> bool:
        await raw.ask("CHECK")
        return alive.pop(0)

    async with pool_of(driver, check=check) as pool:
        for _ in range(3):
            async with pool.connection():
                pass
        assert len(driver.made) == 2
        assert driver.made[0].asked == ["CHECK", "ROLLBACK", "CHECK"]


@pytest.mark.parametrize("driver", [Simple, AsyncpgDriver, Driver, object(), "asyncpg", asyncpg])
def test_a_driver_that_is_none_is_refused(driver: Any) -> None:
    kind = type(driver).__name__
    with pytest.raises(TypeError, match=f"a NativeDriver or None, not {kind}$"):
        ConnectionPool(asyncpg, driver=driver)


def test_a_driver_without_what_it_must_bring_cannot_be_made() -> None:
    class Half(NativeDriver):
        async def command(self, raw: Any, sql: str) -> None: ...

    with pytest.raises(TypeError, match="abstract"):
        Half(asyncpg)  # type: ignore[abstract] # which is the point
    with pytest.raises(TypeError, match=r"has no connect\(\)"):
        Driver(SimpleNamespace())


@virtual_time
async def test_a_connect_that_is_a_coroutine_needs_a_native_driver() -> None:
    async def connect(**kwargs: Any) -> Raw:
        return Raw()

    pool = ConnectionPool(SimpleNamespace(connect=connect), name="simple")
    with pytest.raises(PoolError, match=r"pool 'simple'.*coroutine.*NativeDriver"):
        async with pool.connection() as conn:
            await conn.execute("ONE")
    assert pool.free == 10
    await pool.close()


# ------------------------------------------------------------------------------------------------
# Callers that are lost


@virtual_time
async def test_statements_of_a_lost_caller_do_not_begin() -> None:
    driver = Simple()
    async with pool_of(driver, cancel_grace=4000) as pool, pool.connection() as conn:
        first = asyncio.create_task(conn.fetch_all("SLEEP"))
        second = asyncio.create_task(conn.fetch_all("TWO"))
        third = asyncio.create_task(conn.fetch_all("THREE"))
        await settle()
        second.cancel()
        await asyncio.gather(first, second, third, return_exceptions=True)
        assert second.cancelled()
        assert driver.raw.asked == ["SLEEP", "THREE"]


@virtual_time
async def test_nothing_begins_for_a_caller_who_has_been_cancelled_but_not_been_told_yet() -> None:
    driver = Simple()

    async def function(raw: Raw) -> None:
        raw.asked.append("function")

    async def cancel_at_once(call: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(call)
        asyncio.get_running_loop().call_soon(task.cancel)  # where it has asked for the call
        await asyncio.wait([task])
        assert task.cancelled()
        await settle()

    async with pool_of(driver, min_size=2, max_size=2) as pool, pool.connection() as conn:
        await settle()
        await cancel_at_once(pool.run(function))
        await cancel_at_once(pool.fetch_all("ONE"))
        await cancel_at_once(conn.fetch_all("TWO"))
        assert await conn.fetch_all("THREE")
        asked = [asked for raw in driver.made for asked in raw.asked]
        assert set(asked) <= {"THREE", "ROLLBACK"}


@virtual_time
async def test_a_function_whose_caller_goes_as_its_transaction_opens_is_never_called() -> None:
    class Opening(Simple):
        """Opens a transaction ahead of a function, when the test says so."""

        def __init__(self) -> None:
            super().__init__()
            self.opens: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def begin_once(self, raw: Any, work: str) -> None:
            await self.opens

    async def function(raw: Raw) -> None:
        raw.asked.append("function")

    driver = Opening()
    async with pool_of(driver, max_size=1) as pool:
        task = asyncio.create_task(pool.run(function))
        await settle()
        driver.opens.set_result(None)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await pool.fetch_val("ONE") == "ONE"
        assert "function" not in driver.raw.asked


@virtual_time
async def test_a_waiter_is_served_when_a_returned_connection_comes_to_rest() -> None:
    driver = Simple()
    async with pool_of(driver, max_size=1, timeout=5, cancel_grace=9) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await pool.fetch_all("SLEEP")
        with pytest.raises(PoolTimeout):
            await pool.fetch_all("ONE")
        assert await pool.fetch_val("ONE") == "ONE"


@virtual_time
async def test_a_one_shot_that_ends_successfully_after_its_cancel_commits_nothing() -> None:
    driver = Cancellable()
    async with pool_of(driver, max_size=1) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await pool.fetch_all("SLEEP")
        await settle()
        assert driver.raw.since()[:3] == ["SLEEP", "ROLLBACK", "absorbed"]
        assert await pool.fetch_val("ONE") == "ONE"
        assert driver.raw.since() == ["ONE", "COMMIT"]
        assert (driver.cancels, pool.stats().discarded) == (1, 0)


@virtual_time
async def test_a_cancel_that_cannot_be_absorbed_costs_the_connection() -> None:
    driver = Cancellable()
    driver.failure = ConnectionResetError("in the middle of it")
    async with pool_of(driver, max_size=1) as pool:
        async with pool.connection() as conn:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await conn.fetch_all("SLEEP")
        assert await pool.fetch_val("ONE") == "ONE"
        assert len(driver.made) == 2


@virtual_time
async def test_a_cancel_that_comes_after_the_end_is_not_sent() -> None:
    driver = Cancellable()
    async with pool_of(driver, max_size=2) as pool:
        async with pool.connection() as one, pool.connection() as two:
            hanging, ending = driver.made
            driver.gate.clear()  # the first cancel is on its way for long
            first = asyncio.create_task(one.fetch_all("SLEEP"))
            second = asyncio.create_task(two.fetch_all("SLEEP"))
            await asyncio.sleep(1)
            first.cancel()
            await settle()
            second.cancel()
            await settle()
            ending.woken.set()
            assert driver.cancels == 1, "the second one waits for its turn"
            await two.fetch_all("TWO")
            driver.gate.set()
            await asyncio.sleep(1)
            assert driver.cancels == 1
            assert ending.asked == ["SLEEP", "TWO"]
            assert hanging.asked == ["SLEEP", "absorbed"]
        assert (pool.idle, pool.stats().cancelled) == (2, 2)


@virtual_time
async def test_a_cancel_that_hangs_ends_with_the_grace() -> None:
    driver = Cancellable()
    driver.gate.clear()
    async with pool_of(driver, max_size=1, cancel_grace=4) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await pool.fetch_all("SLEEP")
        await asyncio.sleep(3.9)
        assert pool.free == 0
        await asyncio.sleep(0.5)
        assert (pool.free, pool.size, pool.stats().discarded) == (1, 0, 1)
        assert await pool.fetch_val("ONE") == "ONE"


@virtual_time
async def test_what_ends_the_program_comes_out_of_the_statement_that_was_cancelled() -> None:
    driver = Cancellable()
    driver.failure = KeyboardInterrupt()
    async with pool_of(driver, max_size=1) as pool:
        async with pool.connection() as conn:
            statement = asyncio.create_task(caught(conn.fetch_all("SLEEP")))
            await settle()
            await conn.cancel()
            assert await statement is driver.failure
        assert await pool.fetch_val("ONE") == "ONE"
        assert len(driver.made) == 2


async def caught(statement: Awaitable[Any]) -> KeyboardInterrupt | None:
    """Give what would end a task and its loop."""
    try:
        await statement
    except KeyboardInterrupt as error:
        return error
    return None


@virtual_time
async def test_a_function_that_hangs_ends_soon_after_its_caller_and_costs_the_connection() -> None:
    driver = Simple()
    ended: list[str] = []

    async def work(raw: Raw) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("cut off")

    async with pool_of(driver, max_size=1) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await pool.run(work)
        assert ended == []
        await asyncio.sleep(1)
        assert ended == ["cut off"]
        assert (pool.free, pool.size) == (1, 0), "nobody knows what became of the driver"


@virtual_time
async def test_a_function_that_ends_with_its_cancel_is_not_interrupted_later() -> None:
    driver = Cancellable()
    ended: list[str] = []

    async def work(raw: Raw) -> None:
        await raw.ask("SLEEP")
        ended.append("whole")

    async with pool_of(driver, max_size=1) as pool, pool.connection() as conn:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await conn.run(work)
        await settle()
        assert ended == ["whole"]
        driver.raw.woken.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await conn.fetch_all("SLEEP")
        assert pool.stats().discarded == 0


@virtual_time
async def test_a_block_whose_beginning_has_not_begun_leaves_nothing_to_undo() -> None:
    driver = Cancellable()
    async with pool_of(driver, max_size=1) as pool, pool.connection() as conn:
        busy = asyncio.create_task(conn.fetch_all("SLEEP"))
        await settle()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), conn.transaction():
                pytest.fail("it has begun")
        driver.raw.woken.set()
        await busy
        async with conn.transaction():
            await conn.fetch_all("ONE")
        assert driver.raw.since() == ["SLEEP", "BEGIN", "ONE", "COMMIT"]


@virtual_time
async def test_a_commit_by_hand_that_fails_leaves_the_rest_to_its_caller() -> None:
    driver = Simple()
    async with pool_of(driver, max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.fetch_all("ONE")
            driver.raw.broken = True
            with pytest.raises(ConnectionResetError):
                await conn.commit()
            driver.raw.broken = False
            await conn.rollback()
            assert driver.raw.since() == ["ONE", "COMMIT", "ROLLBACK"]
        assert pool.size == 0, "it was lost"


# ------------------------------------------------------------------------------------------------
# The files for asyncpg and aiomysql, with stand-ins where a case is rare


def test_what_a_driver_keeps_to_itself_may_be_missing() -> None:
    driver = AsyncpgDriver(asyncpg)
    assert driver.fileno(SimpleNamespace()) is None
    assert driver.canceller(SimpleNamespace(), (), {}) is None
    other = AiomysqlDriver(aiomysql)
    assert other.fileno(SimpleNamespace(_writer=None)) is None


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ConnectionRefusedError(111, "refused"), True),
        (OSError("Multiple exceptions: [Errno 111] refused, [Errno 111] refused"), True),
        (OSError("Multiple exceptions: [Errno 111] refused, [Errno 101] unreachable"), False),
        (OSError("no numbers"), False),
        (asyncpg.CannotConnectNowError("starting up"), True),
        (asyncpg.TooManyConnectionsError("full"), True),
        (asyncpg.InvalidPasswordError("wrong"), False),
        (asyncpg.ConnectionDoesNotExistError("gone meanwhile"), True),
        (ValueError("[Errno 111]"), False),
    ],
)
def test_asyncpg_takes_for_transient_only_what_is_certain(
    error: Exception, *, transient: bool
) -> None:
    assert AsyncpgDriver(asyncpg).is_transient(error) is transient


def test_a_timeout_of_the_users_own_for_asyncpgs_connect_is_kept() -> None:
    driver = AsyncpgDriver(asyncpg)
    asked: Mapping[str, Any] = {"host": "a"}
    assert driver.with_timeout((), asked, 5) == {"host": "a", "timeout": None}
    assert driver.with_timeout((), {"timeout": 3}, 5) == {"timeout": 3}


async def test_a_late_kill_may_hit_what_absorbs_it_and_nothing_else_may() -> None:
    driver = AiomysqlDriver(aiomysql)
    outcomes: list[Exception | None] = []

    async def command(raw: Any, sql: str) -> None:
        assert sql == "DO 0"
        if (error := outcomes.pop(0)) is not None:
            raise error

    driver.command = command  # type: ignore[method-assign] # a stand-in
    raw = SimpleNamespace(_result=None)
    outcomes += [aiomysql.OperationalError(1317, "interrupted"), None]
    await driver.absorb_cancel(raw)
    assert outcomes == []
    outcomes += [aiomysql.OperationalError(2013, "lost")]
    with pytest.raises(aiomysql.OperationalError, match="lost"):
        await driver.absorb_cancel(raw)


class Mute(Simple):
    """A driver that cannot tell any more how a connection stands."""

    mute = False

    def is_unread(self, raw: Any) -> bool:
        if self.mute:
            raise AttributeError("the driver has been renamed inside")
        return False


@virtual_time
async def test_a_driver_that_cannot_tell_proves_nothing() -> None:
    driver = Mute()
    async with pool_of(driver, max_size=1) as pool:
        async with pool.connection() as conn:
            await conn.fetch_all("ONE")
            driver.mute = True
        driver.mute = False
        assert (pool.size, pool.free, pool.stats().discarded) == (0, 1, 1)
        assert await pool.fetch_all("TWO") == [("TWO",)]
        driver.raw.closed = None  # type: ignore[assignment] # it says no more than that
        driver.is_closed = lambda raw: raw.closed.startswith("p")  # type: ignore[method-assign]
        assert await pool.fetch_all("THREE") == [("THREE",)]


@virtual_time
async def test_what_the_server_says_after_an_error_is_believed() -> None:
    driver = Simple()
    assert await driver.learn(Raw()) is None


@virtual_time
async def test_a_call_that_somebody_else_cancels_may_cost_its_connection_but_no_permit() -> None:
    driver = Simple()
    async with pool_of(driver, max_size=1) as pool:
        call = asyncio.create_task(pool.fetch_all("SLEEP"))
        await settle()
        (lane,) = (task for task in asyncio.all_tasks() if task.get_name() == "simple-1")
        lane.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await settle()
        assert (pool.free, pool.stats().discarded) == (1, 1), "nobody knows what it was about"
        assert await pool.fetch_all("ONE") == [("ONE",)]


@virtual_time
async def test_a_call_cancelled_while_it_waits_for_its_own_cancel_is_not_taken_for_clean() -> None:
    driver = Cancellable()
    async with pool_of(driver, max_size=1) as pool:
        driver.gate.clear()
        call = asyncio.create_task(pool.fetch_all("SLEEP"))
        await settle()
        call.cancel()
        await settle()
        driver.raw.woken.set()  # the statement ends, its cancel is still on its way
        await settle()
        (lane,) = (task for task in asyncio.all_tasks() if task.get_name() == "simple-1")
        lane.cancel()
        driver.gate.set()
        await settle()
        assert (pool.free, pool.stats().discarded) == (1, 1)
        assert await pool.fetch_all("ONE") == [("ONE",)]


@virtual_time
async def test_a_block_that_has_ended_already_is_not_withdrawn() -> None:
    driver = Simple()
    async with pool_of(driver) as pool, pool.connection() as conn:
        async with conn.transaction():
            lease = conn._lease
            await lease.call(lease.session.withdraw, object())
            await conn.fetch_all("ONE")
        assert driver.raw.since() == ["BEGIN", "ONE", "COMMIT"]
