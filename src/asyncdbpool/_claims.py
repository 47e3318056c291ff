"""The tasks that have a permit and wait for a connection to come with it, first come first."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from asyncdbpool._record import Record, State

__all__ = ["Claim", "Claims"]

Claim = asyncio.Future[Record | BaseException]
"""Ends with the connection, or with the error of a connect that failed for it."""


class Claims:
    """A queue of futures; those whose task has been cancelled are passed over."""

    def __init__(self) -> None:
        self._queue: deque[Claim] = deque()

    def __bool__(self) -> bool:
        """Tell whether somebody waits."""
        while self._queue and self._queue[0].done():
            self._queue.popleft()
        return bool(self._queue)

    def __len__(self) -> int:
        """Count those who wait."""
        return sum(not claim.done() for claim in self._queue)

    @property
    def staked(self) -> bool:
        """True where somebody may wait; on any thread."""
        return len(self._queue) > 0

    def stake(self, claim: Claim) -> None:
        """Join the queue."""
        self._queue.append(claim)

    def drop(self, claim: Claim) -> None:
        """Leave the queue."""
        with suppress(ValueError):  # passed over already
            self._queue.remove(claim)

    def serve(self, record: Record) -> None:
        """Hand a connection to the first; somebody must be waiting."""
        record.move(State.LENT)
        self._queue.popleft().set_result(record)

    def refuse(self, error: BaseException) -> bool:
        """Tell the first of an error; False where nobody waits."""
        if not self:
            return False
        self._queue.popleft().set_result(error)
        return True
