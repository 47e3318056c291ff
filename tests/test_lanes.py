"""Lanes: the calls of a native connection, in tasks of the pool's own, one after the other."""

import asyncio
import gc
import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from asyncdbpool import PoolError
from asyncdbpool._lanes import Lane
from asyncdbpool._workers import Executor
from asyncdbpool.testing import NativeFake, now, settle, virtual_time

waiter: ContextVar[str] = ContextVar("waiter", default="nobody")


def executor(limit: int = 3) -> Executor:
    return Executor(asyncio.get_running_loop(), limit, "test", Lane)


def hired() -> Lane:
    lane = executor().hire()
    assert isinstance(lane, Lane)
    return lane


def asked(lane: Lane, work: Callable[[], Any]) -> asyncio.Future[Any]:
    """Run a job in a lane; the future has what it returns, or raises what it raises."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def done(value: Any, error: BaseException | None) -> None:
        if answer.cancelled():
            return
        if error is None:
            answer.set_result(value)
        elif isinstance(error, Exception):
            answer.set_exception(error)
        else:
            answer.set_result(error)

    lane.submit(work, done)
    return answer


def nothing(value: Any, error: BaseException | None) -> None:
    pass


# ------------------------------------------------------------------------------------------------
# Jobs


@virtual_time
async def test_a_lane_makes_its_calls_one_after_the_other_in_their_order() -> None:
    lane = hired()
    seen: list[str] = []

    async def work(number: int) -> int:
        seen.append(f"{number} begins")
        await asyncio.sleep(5 - number)  # the later ones would be faster
        seen.append(f"{number} ends")
        return number

    answers = [asked(lane, partial(work, number)) for number in range(5)]
    assert not seen, "nothing runs in the tick of the asking"
    assert await asyncio.gather(*answers) == list(range(5))
    assert seen == [f"{number} {what}" for number in range(5) for what in ("begins", "ends")]
    assert not lane.alive


@virtual_time
async def test_a_plain_function_and_anything_awaitable_do_as_well_as_a_coroutine() -> None:
    lane = hired()
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    plain, awaited = asked(lane, lambda: 7), asked(lane, lambda: future)
    assert await plain == 7
    assert not awaited.done()
    future.set_result(8)
    assert await awaited == 8


@virtual_time
async def test_lanes_do_not_wait_for_each_other() -> None:
    lanes = executor()
    slow, fast = lanes.hire(), lanes.hire()
    assert isinstance(slow, Lane)
    assert isinstance(fast, Lane)
    first = asked(slow, partial(asyncio.sleep, 60))
    await asked(fast, partial(asyncio.sleep, 1))
    assert not first.done()
    await first


@virtual_time
async def test_a_job_runs_in_the_context_of_whoever_asked_for_it() -> None:
    lane = hired()

    async def look() -> str:
        await asyncio.sleep(1)
        return waiter.get()

    async def ask(name: str) -> str:
        waiter.set(name)
        answer: str = await asked(lane, look)
        return answer

    assert await asyncio.gather(*map(ask, ("ann", "bob", "eve"))) == ["ann", "bob", "eve"]
    assert waiter.get() == "nobody"


@virtual_time
async def test_what_a_job_raises_reaches_its_own_caller_and_the_next_one_runs() -> None:
    lane = hired()

    async def fail() -> None:
        raise LookupError("not here")

    failed, succeeded = asked(lane, fail), asked(lane, lambda: "next")
    with pytest.raises(LookupError, match="not here"):
        await failed
    assert await succeeded == "next"


@virtual_time
async def test_a_job_that_was_dropped_never_runs_and_still_tells_its_end() -> None:
    lane = hired()
    ran: list[str] = []
    ended: list[tuple[Any, BaseException | None]] = []
    first = asked(lane, partial(asyncio.sleep, 1))
    job = lane.submit(lambda: ran.append("dropped"), lambda *end: ended.append(end))
    job.dropped = True
    await asked(lane, lambda: ran.append("next"))
    assert ran == ["next"]
    assert ended == [(None, None)]
    assert job.started
    assert first.done()


@virtual_time
async def test_a_caller_that_is_cancelled_leaves_its_job_alone() -> None:
    lane = hired()
    ended: list[str] = []

    async def work() -> None:
        await asyncio.sleep(3)
        ended.append("whole")

    async def ask() -> None:
        await asked(lane, work)

    caller = asyncio.create_task(ask())
    await settle()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert caller.cancelled()
    assert lane.alive
    await asyncio.sleep(4)
    assert ended == ["whole"]


@virtual_time
async def test_a_blocking_call_is_made_on_a_thread() -> None:
    lane = hired()
    ident = await asked(lane, lane.blocking(threading.get_ident))
    assert ident != threading.get_ident()


@virtual_time
async def test_no_job_holds_up_the_next_with_what_it_does_at_its_end() -> None:
    lane = hired()
    order: list[str] = []

    def ask_again(value: Any, error: BaseException | None) -> None:
        order.append("first ends")
        lane.submit(lambda: order.append("third runs"), nothing)

    lane.submit(lambda: order.append("first runs"), ask_again)
    lane.submit(lambda: order.append("second runs"), nothing)
    await settle()
    assert order == ["first runs", "first ends", "second runs", "third runs"]


# ------------------------------------------------------------------------------------------------
# Calls from inside of a call


@virtual_time
async def test_a_lane_tells_who_would_wait_for_itself() -> None:
    one, two = hired(), hired()

    async def look() -> tuple[bool, bool]:
        await asyncio.sleep(1)
        return one.encloses_caller(), two.encloses_caller()

    async def look_in_a_task() -> tuple[bool, bool]:
        return await asyncio.create_task(look())

    async def look_through_the_other() -> tuple[bool, bool]:
        answer: tuple[bool, bool] = await asked(two, look)
        return answer

    assert await look() == (False, False)
    assert await asked(one, look) == (True, False)
    assert await asked(one, look_in_a_task) == (True, False)
    assert await asked(one, look_through_the_other) == (True, True)
    assert await look() == (False, False)


@virtual_time
async def test_a_task_that_outlives_the_call_it_was_started_from_may_ask() -> None:
    lane = hired()
    started: list[asyncio.Task[tuple[bool, bool]]] = []

    async def ask_later() -> tuple[bool, bool]:
        during = lane.encloses_caller()
        await asyncio.sleep(2)
        other = asked(lane, partial(asyncio.sleep, 2))
        await asyncio.sleep(1)
        after = lane.encloses_caller()  # what runs is another one's by now
        await other
        return during, after

    async def start() -> None:
        started.append(asyncio.create_task(ask_later()))
        await asyncio.sleep(1)

    await asked(lane, start)
    assert await started[0] == (True, False)


# ------------------------------------------------------------------------------------------------
# Interrupts


@virtual_time
async def test_an_interrupted_call_is_a_pool_error_and_the_next_one_runs() -> None:
    lane = hired()
    hanging, after = asked(lane, partial(asyncio.sleep, 60)), asked(lane, lambda: "next")
    await settle()
    assert lane.interrupt()
    with pytest.raises(PoolError, match=r"pool 'test'.* cut off while this ran"):
        await hanging
    assert await after == "next"


@virtual_time
async def test_a_call_that_is_interrupted_ahead_of_its_first_step_ends_all_the_same() -> None:
    lane = hired()
    ran: list[str] = []
    cut, after = asked(lane, lambda: ran.append("cut")), asked(lane, lambda: ran.append("next"))
    lane.interrupt()  # in the very tick in which its task was made
    with pytest.raises(PoolError, match="cut off"):
        await cut
    await after
    assert ran == ["next"]


@virtual_time
async def test_an_interrupt_where_nothing_runs_hits_nothing() -> None:
    lane = hired()
    assert lane.interrupt()
    assert await asked(lane, partial(asyncio.sleep, 1, "whole")) == "whole"
    assert lane.interrupt()


@virtual_time
async def test_an_error_that_an_interrupted_call_raises_itself_is_kept() -> None:
    lane = hired()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ConnectionResetError("the socket is gone") from None

    answer = asked(lane, work)
    await settle()
    lane.interrupt()
    with pytest.raises(ConnectionResetError, match="socket is gone"):
        await answer


@virtual_time
async def test_a_call_that_does_not_let_itself_be_interrupted_ends_with_its_value() -> None:
    lane = hired()

    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "done all the same"
        return "never"

    answer = asked(lane, stubborn)
    await settle()
    lane.interrupt()
    assert await answer == "done all the same"


@virtual_time
async def test_a_cancellation_of_its_own_making_comes_out_of_a_call_unchanged() -> None:
    lane = hired()

    async def cancel_oneself() -> None:
        raise asyncio.CancelledError

    assert isinstance(await asked(lane, cancel_oneself), asyncio.CancelledError)
    assert await asked(lane, lambda: "next") == "next"


@virtual_time
async def test_a_task_that_somebody_else_cancels_ahead_of_its_first_step_tells_its_end() -> None:
    lane = hired()
    cut, after = asked(lane, lambda: "cut"), asked(lane, lambda: "next")
    assert lane._task is not None
    lane._task.cancel()  # as `asyncio.run()` does at its end
    assert isinstance(await cut, asyncio.CancelledError)
    assert await after == "next"


@virtual_time
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_is_told_and_the_lane_goes_on(
    kind: type[BaseException],
) -> None:
    lane = hired()

    async def end() -> None:
        raise kind

    assert isinstance(await asked(lane, end), kind)
    assert await asked(lane, lambda: "next") == "next"


@virtual_time
async def test_a_cancellation_that_comes_out_of_the_end_of_a_call_harms_nobody() -> None:
    lane = hired()

    def done(value: Any, error: BaseException | None) -> None:
        raise asyncio.CancelledError

    lane.submit(lambda: None, done)
    answer = asked(lane, partial(asyncio.sleep, 1, "next"))
    assert await answer == "next"
    assert not lane.alive


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_comes_out_of_the_loop_where_nobody_waits(
    kind: type[BaseException],
) -> None:
    def done(value: Any, error: BaseException | None) -> None:
        assert error is not None
        raise error

    told: list[dict[str, Any]] = []

    async def end() -> None:
        raise kind

    async def main() -> None:
        # It is not told a second time when the lane's task is collected.
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        hired().submit(end, done)
        await asyncio.sleep(60)

    with pytest.raises(kind):
        asyncio.run(main())
    gc.collect()
    assert told == []


# ------------------------------------------------------------------------------------------------
# The end


@virtual_time
async def test_a_dismissed_lane_does_what_was_asked_before_it_is_gone() -> None:
    lanes = executor(limit=1)
    lane = lanes.hire()
    assert isinstance(lane, Lane)
    ended: list[str] = []
    answer = asked(lane, partial(asyncio.sleep, 0.5, "done"))
    lane.last_will = partial(ended.append, "closed")
    lane.dismiss()
    assert lanes.hire() is not lane, "there is room for another one at once"
    assert await lanes.wind_up() == 0
    assert await answer == "done"
    assert ended == ["closed"]
    lane.dismiss()
    await settle()
    assert ended == ["closed"], "a last will is carried out once"


@virtual_time
async def test_a_lane_that_hangs_is_counted_when_all_is_wound_up() -> None:
    lanes = executor()
    lane = lanes.hire()
    assert isinstance(lane, Lane)
    hanging = asked(lane, partial(asyncio.sleep, 60))
    lane.dismiss()
    assert await lanes.wind_up(1) == 1
    lane.interrupt()
    with pytest.raises(PoolError):
        await hanging
    assert await lanes.wind_up(1) == 0


def test_on_a_closed_loop_the_last_will_is_carried_out_at_once() -> None:
    ended: list[str] = []

    async def main() -> Lane:
        lane = hired()
        lane.last_will = partial(ended.append, "closed")
        await asked(lane, lambda: None)
        return lane

    lane = asyncio.run(main())
    assert ended == []
    lane.dismiss()
    assert ended == ["closed"]
    lane.dismiss()
    assert ended == ["closed"]


def test_a_lane_is_dismissed_from_outside_of_its_loop() -> None:
    loop = asyncio.new_event_loop()
    lane = Executor(loop, 1, "test", Lane).hire()
    ended: list[str] = []
    lane.last_will = partial(ended.append, "closed")
    lane.dismiss()
    assert ended == []
    loop.run_until_complete(asyncio.sleep(0))
    assert ended == ["closed"]
    loop.close()


def test_a_job_may_be_asked_for_from_outside_of_the_running_loop() -> None:
    loop = asyncio.new_event_loop()
    lane = Executor(loop, 1, "test", Lane).hire()
    ended: list[Any] = []
    for number in (1, 2):
        lane.submit(partial(int, number), lambda value, error: ended.append(value))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert ended == [1, 2]


# ------------------------------------------------------------------------------------------------
# Functions with the driver's connection


@virtual_time
async def test_a_function_is_refused_the_proxy_of_the_connection_that_it_has_itself() -> None:
    async with NativeFake().pool(max_size=1) as pool, pool.connection() as conn:

        async def use_both(raw: Any) -> None:
            async with asyncio.timeout(60):  # instead of waiting for its own end
                await conn.fetch_val("SELECT n")

        with pytest.raises(PoolError, match="has the driver's connection to itself"):
            await conn.run(use_both)
        assert await conn.fetch_val("SELECT n") == 1


@pytest.mark.parametrize("end", ["cancelled", "returned"])
@virtual_time
async def test_a_function_that_nobody_waits_for_any_more_is_cancelled_at_once(end: str) -> None:
    async with NativeFake().pool(max_size=1, cancel_grace=60) as pool:
        conn = await pool.get()
        ended: list[float] = []

        async def dawdle(raw: Any) -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append(now())

        began = now()
        running = asyncio.create_task(conn.run(dawdle))
        await settle()
        if end == "cancelled":
            running.cancel()
            await settle()
        else:
            await pool.put(conn)
            with pytest.raises(PoolError, match="was cut off while this ran"):
                await running
        assert ended == [pytest.approx(began, abs=0.1)]
        await conn.close()


@virtual_time
async def test_a_cleanup_of_ones_own_has_to_be_what_the_driver_can_wait_for() -> None:
    def blocking(raw: Any) -> None: ...

    cleaned: list[Any] = []

    async def clean(raw: Any) -> None:
        cleaned.append(raw)
        raw.in_transaction = False

    fake = NativeFake()
    async with fake.pool(max_size=1) as pool:
        with pytest.raises(TypeError, match="cleanup"):
            pool.connection(cleanup=blocking)
        async with pool.connection(cleanup=clean) as conn:
            await conn.fetch_all("INSERT")
        assert cleaned == fake.connections
