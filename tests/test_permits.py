"""The semaphore that counts, that can be resized, and whose permits go to those in line first."""

import asyncio

import pytest

from asyncdbpool._permits import Permits
from asyncdbpool.testing import virtual_time


class Heir:
    """Stands for the line: takes over as many permits as tasks wait there."""

    def __init__(self, waiting: int = 0) -> None:
        self.waiting = waiting

    def __call__(self) -> bool:
        if not self.waiting:
            return False
        self.waiting -= 1
        return True


async def all_out(size: int, heir: Heir | None = None) -> Permits:
    permits = Permits(size, heir or Heir())
    for _ in range(size):
        await permits.acquire()
    return permits


@virtual_time
async def test_it_is_a_semaphore_that_counts() -> None:
    permits = Permits(2, Heir())
    assert isinstance(permits, asyncio.Semaphore)
    assert (permits.free, permits.taken, permits.locked()) == (2, 0, False)
    assert await permits.acquire() is True
    assert await permits.acquire() is True
    assert (permits.free, permits.taken, permits.locked()) == (0, 2, True)
    permits.release()
    assert (permits.free, permits.taken, permits.locked()) == (1, 1, False)


@virtual_time
async def test_an_acquire_does_not_suspend() -> None:
    permits = Permits(1, Heir())
    with pytest.raises(StopIteration):
        permits.acquire().send(None)


@virtual_time
async def test_a_permit_that_comes_back_goes_to_the_line_first() -> None:
    heir = Heir(waiting=1)
    permits = await all_out(2, heir)
    permits.release()
    assert (heir.waiting, permits.free, permits.taken) == (0, 0, 2)
    permits.release()
    assert (permits.free, permits.taken) == (1, 1)


@virtual_time
async def test_growing_serves_the_line() -> None:
    heir = Heir(waiting=2)
    permits = await all_out(1, heir)
    permits.resize(4)
    assert (heir.waiting, permits.free, permits.taken) == (0, 1, 3)


@virtual_time
async def test_shrinking_takes_free_permits_now_and_the_others_as_they_come_back() -> None:
    heir = Heir()
    permits = Permits(5, heir)
    for _ in range(3):
        await permits.acquire()
    permits.resize(1)
    assert (permits.free, permits.locked(), permits.taken) == (0, True, 3)
    heir.waiting = 1
    for still_waits in (1, 1, 0):
        permits.release()
        assert heir.waiting == still_waits
    permits.release()
    assert (permits.free, permits.taken) == (1, 0)


@virtual_time
async def test_growing_forgives_what_a_shrink_has_left_owed() -> None:
    permits = await all_out(4)
    permits.resize(1)
    permits.resize(3)
    for _ in range(4):
        permits.release()
    assert (permits.free, permits.taken) == (3, 0)


@virtual_time
async def test_many_resizes_leave_what_the_last_one_says() -> None:
    permits = Permits(4, Heir())
    permits.take()
    for size in (9, 1, 5, 2, 1):
        permits.resize(size)
    assert permits.free == 0
    permits.release()
    assert permits.free == 1


@virtual_time
async def test_what_several_shrinks_and_a_growth_leave_owing_is_swallowed_to_the_last() -> None:
    permits = await all_out(4)
    permits.resize(3)
    permits.resize(1)
    for _ in range(3):
        permits.release()
    assert (permits.locked(), permits.free, permits.taken) == (True, 0, 1)

    permits.resize(4)
    for _ in range(3):
        await permits.acquire()
    permits.resize(1)
    permits.resize(2)
    permits.release()
    permits.release()
    assert (permits.locked(), permits.free, permits.taken) == (True, 0, 2)
    permits.release()
    assert (permits.locked(), permits.free, permits.taken) == (False, 1, 1)
