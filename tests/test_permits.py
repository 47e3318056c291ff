"""The semaphore that counts, that can be resized, and that can send its waiters home."""

import asyncio
from typing import Literal

import pytest

from asyncdbpool._permits import Permits
from asyncdbpool.testing import settle, virtual_time

Waiter = asyncio.Task[Literal[True]]


async def waiters(permits: Permits, count: int) -> list[Waiter]:
    tasks = [asyncio.create_task(permits.acquire()) for _ in range(count)]
    await settle()
    return tasks


def done(tasks: list[Waiter]) -> list[bool]:
    return [task.done() for task in tasks]


@virtual_time
async def test_it_is_a_semaphore_that_counts() -> None:
    permits = Permits(2)
    assert isinstance(permits, asyncio.Semaphore)
    assert (permits.free, permits.taken, permits.waiting) == (2, 0, 0)
    assert await permits.acquire() is True
    assert await permits.acquire() is True
    tasks = await waiters(permits, 2)
    assert (permits.free, permits.taken, permits.waiting) == (0, 2, 2)
    for _ in range(4):
        permits.release()
        await settle()
    assert done(tasks) == [True, True]
    assert (permits.free, permits.taken, permits.waiting) == (2, 0, 0)


@virtual_time
async def test_an_uncontended_acquire_does_not_suspend() -> None:
    permits = Permits(1)
    with pytest.raises(StopIteration):
        permits.acquire().send(None)


@virtual_time
async def test_first_come_first_served_with_cancellations_in_between() -> None:
    permits = Permits(1)
    await permits.acquire()
    tasks = await waiters(permits, 5)
    tasks[0].cancel()
    tasks[3].cancel()
    await settle()
    assert permits.waiting == 3
    served = []
    for _ in range(3):
        permits.release()
        await settle()
        served.append([n for n, task in enumerate(tasks) if task.done() and not task.cancelled()])
    assert served == [[1], [1, 2], [1, 2, 4]]


@virtual_time
async def test_a_waiter_cancelled_in_the_tick_of_its_turn_passes_the_permit_on() -> None:
    permits = Permits(1)
    await permits.acquire()
    first, second = await waiters(permits, 2)
    permits.release()
    first.cancel()
    await settle()
    assert (first.cancelled(), second.done(), permits.taken) == (True, True, 1)


@virtual_time
async def test_between_release_and_wake_up_nobody_slips_in() -> None:
    permits = Permits(1)
    await permits.acquire()
    (waiter,) = await waiters(permits, 1)
    permits.release()
    assert permits.locked()
    assert permits.free == 0
    late = asyncio.create_task(permits.acquire())
    await settle()
    assert (waiter.done(), late.done()) == (True, False)
    permits.release()
    await late


@virtual_time
async def test_growing_serves_waiters() -> None:
    permits = Permits(1)
    await permits.acquire()
    tasks = await waiters(permits, 3)
    await permits.resize(3)
    await settle()
    assert done(tasks) == [True, True, False]
    assert (permits.free, permits.taken) == (0, 3)
    permits.release()
    await settle()


@virtual_time
async def test_shrinking_takes_free_permits_now_and_the_others_as_they_come_back() -> None:
    permits = Permits(5)
    for _ in range(3):
        await permits.acquire()
    await permits.resize(1)
    assert (permits.free, permits.locked()) == (0, True)
    (waiter,) = await waiters(permits, 1)
    for still_waits in (True, True, False):
        permits.release()
        await settle()
        assert waiter.done() is not still_waits
    permits.release()
    assert (permits.free, permits.taken) == (1, 0)


@virtual_time
async def test_growing_forgives_what_a_shrink_has_left_owed() -> None:
    permits = Permits(4)
    for _ in range(4):
        await permits.acquire()
    await permits.resize(1)
    await permits.resize(3)
    for _ in range(4):
        permits.release()
    assert (permits.free, permits.taken) == (3, 0)


@virtual_time
async def test_resizing_never_suspends() -> None:
    permits = Permits(4)
    await permits.acquire()
    for size in (9, 1, 5, 2, 1):
        with pytest.raises(StopIteration):
            permits.resize(size).send(None)
    assert permits.free == 0
    permits.release()
    assert permits.free == 1


@virtual_time
async def test_a_shrink_that_races_a_cancelled_hand_over_lends_no_permit_too_many() -> None:
    permits = Permits(2)
    for _ in range(2):
        await permits.acquire()
    (waiter,) = await waiters(permits, 1)
    permits.release()  # to the waiter
    await permits.resize(1)
    waiter.cancel()
    await settle()
    late = asyncio.create_task(permits.acquire())
    await settle()
    assert permits.taken <= permits.size
    permits.release()
    await settle()
    assert late.done()


@virtual_time
async def test_disbanding_wakes_everybody_at_once() -> None:
    permits = Permits(1)
    await permits.acquire()
    tasks = await waiters(permits, 4)
    tasks[1].cancel()
    permits.disband()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert done(tasks) == [True] * 4


@virtual_time
async def test_what_several_shrinks_and_a_growth_leave_owing_is_swallowed_to_the_last() -> None:
    permits = Permits(4)
    for _ in range(4):
        await permits.acquire()
    await permits.resize(3)
    await permits.resize(1)
    for _ in range(3):
        permits.release()
    assert (permits.locked(), permits.free, permits.taken) == (True, 0, 1)

    await permits.resize(4)
    for _ in range(3):
        await permits.acquire()
    await permits.resize(1)
    await permits.resize(2)
    permits.release()
    permits.release()
    assert (permits.locked(), permits.free, permits.taken) == (True, 0, 2)
    permits.release()
    assert (permits.locked(), permits.free, permits.taken) == (False, 1, 1)
