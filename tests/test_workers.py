"""The executor: one thread per connection, answers in batches, interrupts let through."""

import asyncio
import gc
import os
import threading
import traceback
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from asyncdbpool._record import MOVES, Record, State
from asyncdbpool._workers import Executor, Job, Worker
from asyncdbpool.testing import NEVER, Fake, now, settle, virtual_time
from asyncdbpool.testing.invariants import threads_of


def nothing(value: Any, error: BaseException | None) -> None:
    pass


def executor(limit: int = 3) -> Executor:
    return Executor(asyncio.get_running_loop(), limit, "test")


def hire(threads: Executor) -> Worker:
    worker = threads.hire()
    assert isinstance(worker, Worker)
    return worker


async def call(worker: Worker, work: Any) -> Any:
    """Run a job on a worker; raises what it raises."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def done(value: Any, error: BaseException | None) -> None:
        if error is None:
            answer.set_result(value)
        else:
            answer.set_exception(error)

    worker.submit(work, done)
    return await answer


@virtual_time
async def test_a_worker_makes_its_calls_one_after_the_other_on_one_thread() -> None:
    threads = executor()
    worker = hire(threads)
    order: list[int] = []
    for number in range(50):
        worker.submit(partial(order.append, number), nothing)
    assert await call(worker, threading.get_ident) == await call(worker, threading.get_ident)
    assert order == list(range(50))
    assert await call(worker, threading.get_ident) != threading.get_ident()
    worker.dismiss()
    await threads.wind_up()
    assert not worker.alive


@virtual_time
async def test_there_are_never_more_threads_than_the_limit() -> None:
    threads = executor(limit=2)
    workers = [hire(threads) for _ in range(2)]
    with pytest.raises(RuntimeError, match="all 2 workers are taken"):
        hire(threads)
    workers.pop().dismiss()
    workers.append(hire(threads))
    for worker in workers:
        worker.dismiss()
    await threads.wind_up()
    assert not threads.leaving


@virtual_time
async def test_jobs_that_end_together_are_delivered_in_one_go_and_none_is_lost() -> None:
    threads = executor()
    workers = [hire(threads) for _ in range(3)]
    answers = await asyncio.gather(
        *(call(worker, partial(int, n)) for n in range(300) for worker in workers)
    )
    assert sorted(answers) == sorted([*range(300)] * 3)
    for worker in workers:
        worker.dismiss()


@virtual_time
async def test_an_error_leaves_its_thread_without_the_frames_of_the_driver() -> None:
    threads = executor()
    worker = hire(threads)

    class Resource:
        pass

    alive: list[weakref.ref[Resource]] = []

    def work() -> None:
        resource = Resource()
        alive.append(weakref.ref(resource))
        try:
            raise KeyError("first")
        except KeyError as error:
            raise LookupError("second") from error

    with pytest.raises(LookupError, match="second") as caught:
        await call(worker, work)

    assert isinstance(caught.value.__cause__, KeyError)
    assert alive[0]() is None, "nothing of the driver's may die on the loop's thread"
    worker.dismiss()


@virtual_time
async def test_every_error_behind_an_error_leaves_its_frames_behind() -> None:
    def cause() -> None:
        kept = Kept()  # noqa: F841 - the local that must go
        raise ArithmeticError("the cause")

    def context() -> None:
        kept = Kept()  # noqa: F841 - another one
        raise LookupError("the context")

    def work() -> None:
        behind: Exception | None = None
        try:
            cause()
        except ArithmeticError as error:
            behind = error
        try:
            context()
        except LookupError:
            raise OSError("the outer") from behind

    threads = executor()
    worker = hire(threads)
    with pytest.raises(OSError, match="the outer") as caught:
        await call(worker, work)
    assert isinstance(caught.value.__cause__, ArithmeticError)
    assert isinstance(caught.value.__context__, LookupError)
    assert Kept.alive == 0
    worker.dismiss()


@virtual_time
async def test_errors_that_are_behind_each_other_come_out_of_their_thread() -> None:
    def work() -> None:
        first, second = OSError("one"), OSError("other")
        first.__cause__, second.__cause__ = second, first
        raise first

    threads = executor()
    worker = hire(threads)
    with pytest.raises(OSError, match="one"):
        await call(worker, work)
    worker.dismiss()


@virtual_time
async def test_an_error_of_the_callers_own_leaves_its_thread_without_harm_to_the_caller() -> None:
    threads = executor()
    worker = hire(threads)

    def work(error: Exception) -> None:
        raise LookupError("second") from error

    async def handle() -> str:
        try:
            raise KeyError("first")
        except KeyError as error:
            with pytest.raises(LookupError, match="second"):
                await call(worker, partial(work, error))
        return "handled"

    assert await asyncio.create_task(handle()) == "handled"
    worker.dismiss()


@virtual_time
async def test_an_idle_thread_holds_nothing_of_its_last_call() -> None:
    threads = executor()
    worker = hire(threads)

    class Argument:
        pass

    argument = Argument()
    alive = weakref.ref(argument)
    await call(worker, lambda argument=argument: None)
    del argument
    await settle()
    gc.collect()
    assert alive() is None
    worker.dismiss()


@virtual_time
async def test_a_dropped_job_is_not_run_but_its_end_is_told() -> None:
    threads = executor()
    worker = hire(threads)
    gate = threading.Event()
    told: list[object] = []
    worker.submit(lambda: gate.wait(5), nothing)
    job = worker.submit(
        lambda: told.append("run"), lambda value, error: told.append((value, error))
    )
    job.dropped = True
    gate.set()
    await settle()
    assert told == [(None, None)]
    worker.dismiss()


def test_a_job_is_run_once() -> None:
    runs: list[int] = []
    job = Job(lambda: runs.append(1), nothing)
    job.run()
    job.run()
    assert runs == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, LookupError])
def test_an_error_of_a_callback_does_not_cost_the_others_theirs(
    error: type[BaseException],
) -> None:
    told: list[int] = []

    def fail(value: Any, problem: BaseException | None) -> None:
        raise error

    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        loop.set_exception_handler(lambda _, context: told.append(-1))
        worker.submit(lambda: None, fail)
        for _ in range(3):
            worker.submit(lambda: None, lambda value, problem: told.append(1))
        while worker._jobs.qsize():
            pass  # all of them end before the loop gets to the first
        await asyncio.sleep(0.2)

    loop = asyncio.new_event_loop()
    threads = Executor(loop, 1, "test")
    worker = hire(threads)
    try:
        loop.run_until_complete(scenario(loop))
    except (KeyboardInterrupt, SystemExit) as problem:
        assert type(problem) is error  # noqa: PT017 - not every parameter raises
        loop.run_until_complete(asyncio.sleep(0.2))
    finally:
        worker.dismiss()
        loop.run_until_complete(threads.wind_up())
        for task in asyncio.all_tasks(loop):
            task.cancel()
            loop.run_until_complete(asyncio.wait([task]))
        loop.close()
    assert sorted(told) == [-1, 1, 1, 1] if error is LookupError else [1, 1, 1]


def test_a_thread_whose_loop_is_closed_runs_its_last_will_and_ends() -> None:
    loop = asyncio.new_event_loop()
    worker = hire(Executor(loop, 1, "test"))
    ran = threading.Event()
    worker.last_will = ran.set
    loop.close()
    worker.submit(lambda: None, nothing)
    worker._thread.join(5)
    assert ran.is_set()
    assert not worker.alive


@virtual_time
async def test_winding_up_leaves_a_stuck_thread_behind() -> None:
    fake = Fake()
    fake.ping.once(NEVER)
    threads = executor()
    stuck, free = hire(threads), hire(threads)
    stuck.submit(fake.ping.enter, nothing)
    for worker in (stuck, free):
        worker.dismiss()
    began = now()
    await threads.wind_up(patience=2)
    assert now() - began == pytest.approx(2, abs=0.01)
    assert threads.leaving == {stuck}
    fake.ping.release()
    await threads.wind_up()
    assert not threads.leaving


@virtual_time
async def test_every_connection_is_served_by_a_thread_of_its_own_from_connect_to_close() -> None:
    fake = Fake()
    async with fake.pool(max_size=5, name="shop") as pool:
        await asyncio.gather(*(pool.fetch_val("SELECT n") for _ in range(200)))
        assert len({raw.thread for raw in fake.connections}) == len(fake.connections) == 5
        assert {thread.name for thread in threads_of(pool)} == {f"shop-{n}" for n in range(1, 6)}
        assert all(thread.daemon for thread in threads_of(pool))
    # and fake.pool() has found no call on a foreign thread, and no two at once


@virtual_time
async def test_threads_end_with_their_connections() -> None:
    fake = Fake()
    async with fake.pool(max_size=5, max_uses=1) as pool:
        for _ in range(20):
            await pool.put(await pool.get())
        await settle()
        assert threads_of(pool) == []


def test_only_the_moves_in_the_table_are_legal() -> None:
    for start in State:
        for end in State:
            record = Record()
            record.state = start
            if end in MOVES[start]:
                record.move(end)
                assert record.state is end
            else:
                with pytest.raises(RuntimeError, match="cannot go from"):
                    record.move(end)
    assert "closed" in repr(record)


def fail() -> None:
    kept = Kept()  # noqa: F841 - the local that must go
    try:
        fail_deeper()
    except LookupError as error:
        raise OSError("the outer") from error


def fail_deeper() -> None:
    kept = Kept()  # noqa: F841 - another one
    try:
        raise ArithmeticError("the innermost")
    except ArithmeticError:
        fail_deepest()


def fail_deepest() -> None:
    kept = Kept()  # noqa: F841 - the last one
    raise LookupError("the inner")


class Kept:
    """What a frame of the driver's holds, a cursor say."""

    alive = 0

    def __init__(self) -> None:
        Kept.alive += 1

    def __del__(self) -> None:
        Kept.alive -= 1


@virtual_time
async def test_an_error_keeps_nothing_alive() -> None:
    async with failed_call() as error:
        assert isinstance(error.__cause__, LookupError)
        assert isinstance(error.__cause__.__context__, ArithmeticError)
        assert Kept.alive == 0
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names[-1] == "fail"
        assert not [name for name in names if "run" in name], "the worker's part"


@pytest.mark.skipif("MUTANT_UNDER_TEST" in os.environ, reason="mutmut puts frames in between")
@virtual_time
async def test_an_error_tells_the_driver_s_part_of_where_it_came_from() -> None:
    async with failed_call() as error:
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names == ["fail"], "the driver's part, and nothing of the pool's"


@asynccontextmanager
async def failed_call() -> AsyncIterator[OSError]:
    """Let a call of the driver's fail, and give its error while its thread lives."""
    threads = executor()
    answer: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    worker = hire(threads)
    worker.submit(fail, lambda value, error: answer.set_result(error))
    error = await answer
    assert isinstance(error, OSError)
    yield error
    worker.dismiss()
    await threads.wind_up()


@virtual_time
async def test_the_side_thread_bears_the_name_of_its_pool() -> None:
    threads = executor()
    names: list[str] = []
    threads.aside(lambda: names.append(threading.current_thread().name), nothing)
    await settle()
    assert names == ["test-aside"]
    await threads.wind_up()


@virtual_time
async def test_threads_are_daemons_so_that_no_hung_call_keeps_the_process() -> None:
    async with Fake().pool() as pool:
        await pool.put(await pool.get())
        assert [thread.daemon for thread in threads_of(pool)] == [True]


async def test_a_last_will_that_fails_is_nobody_s_business(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    complaints: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    worker = Executor(asyncio.get_running_loop(), 1, "shop").hire()
    worker.last_will = lambda: 1 / 0
    worker.dismiss()
    worker._thread.join()  # type: ignore[attr-defined] # as above
    assert complaints == []
