"""Races in one tick of the event loop: be there the moment something has happened."""

import asyncio

from asyncdbpool import ConnectionPool
from asyncdbpool.testing import Clock

__all__ = ["answer_under_way", "hand_over"]


async def hand_over(pool: ConnectionPool) -> None:
    """Wait until the first waiter has been given its connection, but has not yet been run."""
    assert pool._engine is not None
    claim = pool._engine._claims._queue[0]
    while not claim.done():  # noqa: ASYNC110 - the very tick is the point
        await asyncio.sleep(0)


def answer_under_way() -> None:
    """Block the loop until the worker threads have sent their answers, which it has not read."""
    assert Clock.current is not None
    Clock.current.exhaust()
