"""The tasks that have a permit and wait for a connection to come with it, first come first."""

from __future__ import annotations

import asyncio
from collections import deque

from asyncdbpool._record import Record, State

__all__ = ["Claim", "Claims"]

Claim = asyncio.Future[Record | BaseException]
"""Ends with the connection, or with the error of a connect that failed for it."""


class Claims:
    """A queue of futures; those whose task has been cancelled are passed over."""

    def __init__(self) -> None:
        self._queue: deque[Claim] = deque()
        self._since: dict[Claim, float] = {}

    def __bool__(self) -> bool:
        """Tell whether somebody waits."""
        while self._queue and self._queue[0].done():
            self._pop()
        return bool(self._queue)

    def __len__(self) -> int:
        """Count those who wait."""
        return sum(not claim.done() for claim in self._queue)

    @property
    def staked(self) -> bool:
        """True where somebody may wait; on any thread."""
        return len(self._queue) > 0

    def stake(self, claim: Claim, now: float) -> None:
        """Join the queue."""
        self._queue.append(claim)
        self._since[claim] = now

    def drop(self, claim: Claim) -> None:
        """Leave the queue."""
        if self._since.pop(claim, None) is not None:  # otherwise passed over already
            self._queue.remove(claim)

    def serve(self, record: Record) -> None:
        """Hand a connection to the first; somebody must be waiting."""
        record.move(State.LENT)
        self._pop().set_result(record)

    def refuse(self, error: BaseException, began: float) -> bool:
        """Tell the first of an error; False where nobody waits that it concerns.

        Who came after what failed had begun is not told: it may have begun in an outage that is
        over.
        """
        if not self or self._since[self._queue[0]] > began:
            return False
        self._pop().set_result(error)
        return True

    def _pop(self) -> Claim:
        claim = self._queue.popleft()
        del self._since[claim]
        return claim
