"""What users test with: the fake driver's gates, the virtual clock, and the checker itself."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from asyncdbpool import ConnectionPool
from asyncdbpool._record import State
from asyncdbpool.testing import (
    NEVER,
    Fake,
    NativeFake,
    check_invariants,
    clock,
    now,
    run_virtually,
    settle,
    sleep,
    virtual_time,
)
from asyncdbpool.testing.invariants import join_threads

every_kind = pytest.mark.parametrize("kind", [Fake, NativeFake])


# ------------------------------------------------------------------------------------------------
# The fake


@every_kind
@virtual_time
async def test_a_gate_does_to_each_call_what_it_is_told(kind: type[Fake]) -> None:
    fake = kind(rows=lambda sql, params: [tuple(params)])
    fake.execute.once(None, 2.5, fake.ProgrammingError("no"), lambda: fake.Error("made up"), NEVER)
    async with fake.pool(max_size=1) as pool:
        assert await pool.fetch_val("SELECT ?", (7,)) == 7
        began = now()
        assert await pool.fetch_all("SELECT ?", (8,)) == [(8,)]
        assert now() - began == pytest.approx(2.5)
        with pytest.raises(fake.ProgrammingError, match="no"):
            await pool.fetch_all("SELECT ?", (9,))
        with pytest.raises(fake.Error, match="made up"):
            await pool.fetch_all("SELECT ?", (9,))
        task = asyncio.create_task(pool.fetch_val("SELECT ?", (10,)))
        await asyncio.sleep(60)
        assert (task.done(), fake.execute.held) == (False, 1)
        fake.execute.release()
        assert await task == 10
        assert await pool.execute_many("INSERT", [(1,), (2,)]) == 2
        assert fake.execute.calls == 6
    assert repr(NEVER) == "NEVER"


@virtual_time
async def test_a_native_gate_awaits_a_coroutine_function() -> None:
    fake = NativeFake()

    async def wait() -> float:
        await asyncio.sleep(1)
        return 2.0

    fake.ping.always(wait)
    async with fake.pool(check="always") as pool:
        await pool.put(await pool.get())
        began = now()
        await pool.put(await pool.get())
        assert now() - began == pytest.approx(3)


@virtual_time
async def test_a_native_fake_begins_and_resets_as_its_pool_asks() -> None:
    fake = NativeFake()
    async with fake.pool(max_size=1, cleanup="reset") as pool:
        async with pool.transaction() as conn, conn.transaction():
            await conn.fetch_all("SELECT 1")
        assert fake.reset.calls == 1
        savepoint, *_, release = fake.statements
        assert savepoint.startswith("SAVEPOINT ")
        assert release.startswith("RELEASE SAVEPOINT ")


def test_outside_of_virtual_time_a_slow_gate_takes_real_time() -> None:
    fake = Fake()
    fake.connect.once(0.05)
    began = time.monotonic()
    raw = fake.connect()
    assert time.monotonic() - began >= 0.04
    raw.close()


def broken_rules(raw: Any) -> list[Callable[[], object]]:
    return [raw.commit, raw.ping]


def test_every_broken_rule_of_a_driver_is_noted() -> None:
    fake = Fake()
    raw = fake.connect()
    thread = threading.Thread(target=raw.commit)
    thread.start()
    thread.join()
    fake.ping.once(raw.commit)
    raw.ping()
    pool = ConnectionPool(fake, driver=fake.driver())
    with pytest.raises(AssertionError, match="1 connections are still open"):
        Fake.check(_without_violations(fake), pool)
    raw.close()
    raw.rollback()
    assert fake.violations == [
        f"commit of {raw!r} on a foreign thread",
        f"commit of {raw!r} while another call runs",
        f"rollback of {raw!r} after its close",
    ]
    with pytest.raises(AssertionError, match="on a foreign thread"):
        fake.check(pool)


def _without_violations(fake: Fake) -> Fake:
    clean = Fake()
    clean.open = fake.open
    return clean


# ------------------------------------------------------------------------------------------------
# The clock


def test_what_a_virtual_test_returns_comes_out() -> None:
    @virtual_time
    async def tomorrow() -> float:
        began = now()
        await asyncio.sleep(86_400)
        return now() - began

    began = time.monotonic()
    assert tomorrow() == pytest.approx(86_400)
    assert time.monotonic() - began < 10


def test_a_task_that_is_left_is_an_error() -> None:
    async def leave() -> None:
        asyncio.get_running_loop().leftover = asyncio.create_task(  # type: ignore[attr-defined] # kept
            asyncio.sleep(3600), name="forgotten"
        )

    with pytest.raises(AssertionError, match=r"tasks are left: .*forgotten"):
        run_virtually(leave)


def test_an_error_that_nobody_handles_is_an_error() -> None:
    async def fail() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)

    with pytest.raises(AssertionError, match=r"nobody has handled: .*ZeroDivisionError"):
        run_virtually(fail)


def test_a_test_that_waits_for_what_never_comes_is_stuck() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="nothing is left that could ever happen"):
        run_virtually(wait)


def test_news_from_a_thread_of_somebody_elses_are_waited_for() -> None:
    def slowly() -> str:
        time.sleep(0.01)
        return "the news"

    async def ask() -> str:
        return await asyncio.to_thread(slowly)

    assert run_virtually(ask) == "the news"


def test_a_worker_that_does_not_come_to_rest_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_PATIENCE", 0.1)
    fake = Fake()
    pool = ConnectionPool(fake, driver=fake.driver())

    async def block() -> None:
        await pool.run(lambda _raw: time.sleep(0.6))

    with pytest.raises((RuntimeError, ExceptionGroup), match="does not come to rest"):
        run_virtually(block)
    give_up(pool)


def test_a_thread_that_is_left_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_PATIENCE", 0.2)
    fake = Fake()
    pool = ConnectionPool(fake, driver=fake.driver(), name="forgotten")

    async def leave() -> None:
        await pool.fetch_all("SELECT n")

    with pytest.raises(AssertionError, match="a thread is left: forgotten-1"):
        run_virtually(leave)
    with pytest.raises(AssertionError, match="does not end"):
        _join_within(pool, 0.05, monkeypatch)
    give_up(pool)


def give_up(pool: ConnectionPool) -> None:
    """Clean up behind a test that has ended in the middle."""
    assert pool._engine is not None
    pool._engine.abandon()
    pool._engine = None
    join_threads(pool)


def _join_within(pool: ConnectionPool, seconds: float, patch: pytest.MonkeyPatch) -> None:
    join = threading.Thread.join
    with patch.context() as context:
        context.setattr(threading.Thread, "join", lambda self, _timeout: join(self, seconds))
        join_threads(pool)


def test_a_clock_that_has_stopped_holds_nobody_back() -> None:
    stopped = clock.Clock()
    stopped.stop()
    stopped.rest(lambda: False)


def test_the_clock_waits_for_a_thread_that_is_on_its_way() -> None:
    virtual = clock.Clock()
    jobs = clock.Jobs(virtual)
    jobs.put(None)  # what ends a worker

    def come_late() -> None:
        time.sleep(0.05)
        jobs.get()

    thread = threading.Thread(target=come_late)
    thread.start()
    assert virtual.step()
    thread.join()
    assert not virtual.step()


def course(seed: int | None) -> list[str]:
    """Let three workers race, and return the order in which they got somewhere."""
    seen: list[str] = []

    def work(_raw: Any, number: int) -> None:
        seen.append(f"{number} begins")
        sleep(0.0)
        seen.append(f"{number} ends")

    async def race() -> None:
        fake = Fake()
        async with fake.pool(max_size=3) as pool:
            await asyncio.gather(*(pool.run(work, number) for number in range(12)))

    run_virtually(race, seed=seed)
    return seen


@virtual_time
async def test_a_thread_that_takes_its_time_to_end_is_waited_for() -> None:
    fake = Fake()
    async with fake.pool(max_size=1) as pool:
        fake.connect.once(NEVER)
        fake.close.once(2.0)
        waiter = asyncio.create_task(pool.get())
        await settle()
        await pool.close(0)
        fake.connect.release()  # its thread has nothing left to do but to close what it has made
        await asyncio.sleep(1)
        assert fake.open == 1
        await asyncio.sleep(2)
        assert fake.open == 0
        await asyncio.wait([waiter])


def test_the_same_seed_gives_the_same_course_and_others_give_others() -> None:
    courses = [course(seed) for seed in (None, 1, 2, 3, 4)]
    assert [course(seed) for seed in (None, 1, 2, 3, 4)] == courses
    assert len({tuple(seen) for seen in courses}) > 2


# ------------------------------------------------------------------------------------------------
# The checker


def lend_twice(pool: ConnectionPool) -> None:
    engine: Any = pool._engine
    (record,) = engine.stock.idle
    engine.stock.idle.append(record)


def forget_a_transaction(pool: ConnectionPool) -> None:
    engine: Any = pool._engine
    engine.stock.idle[0].session.standing.open = True


def condemn_the_idle(pool: ConnectionPool) -> None:
    engine: Any = pool._engine
    engine.stock.idle[0].discard = "worn out"


def outlive_a_generation(pool: ConnectionPool) -> None:
    engine: Any = pool._engine
    engine.stock.generation += 1


def take_a_permit(pool: ConnectionPool) -> None:
    engine: Any = pool._engine
    engine.permits._value -= 1


def lend_to_nobody(pool: ConnectionPool) -> None:
    engine: Any = pool._engine
    engine.stock.idle.pop().move(State.LENT)


def count_wrongly(pool: ConnectionPool) -> None:
    pool._counters.closed = 99


def miss_one_that_is_open(pool: ConnectionPool) -> None:
    pool.module.open = 5


@pytest.mark.parametrize(
    ("sabotage", "words"),
    [
        (lend_twice, "one connection is idle twice"),
        (forget_a_transaction, "not clean"),
        (condemn_the_idle, "condemned: worn out"),
        (outlive_a_generation, "should have retired"),
        (take_a_permit, "permits are taken"),
        (lend_to_nobody, "lent to nobody"),
        (count_wrongly, "closed=99"),
        (miss_one_that_is_open, "5 are open, 1 are known"),
    ],
)
def test_the_checker_tells_each_broken_promise(
    sabotage: Callable[[ConnectionPool], None], words: str
) -> None:
    async def look() -> None:
        fake = Fake()
        pool = ConnectionPool(fake, driver=fake.driver())
        await pool.fetch_all("SELECT n")
        check_invariants(pool)
        before = fake.open, pool._counters.closed
        sabotage(pool)
        with pytest.raises(AssertionError, match=words):
            check_invariants(pool)
        fake.open, pool._counters.closed = before
        engine: Any = pool._engine
        engine.closing = True
        for record in engine.stock.records:
            record.worker.dismiss()
        await settle()
        pool._engine = None

    run_virtually(look)


def test_the_checker_finds_a_proxy_that_reaches_a_connection_after_its_return(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def look() -> None:
        fake = Fake()
        async with fake.pool() as pool:
            conn = await pool.get()
            await pool.put(conn)
            with monkeypatch.context() as context:
                context.setattr(type(conn), "cursor", lambda _self: "a cursor")
                with pytest.raises(AssertionError, match="can still be used"):
                    check_invariants(pool)

    run_virtually(look)
