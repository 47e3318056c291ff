"""The limit: an `asyncio.Semaphore` with one permit for each lease, whose size can change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

__all__ = ["Permits"]


def _nobody() -> bool:
    return False


class Permits(asyncio.Semaphore):
    """A semaphore that counts, that can be resized, and that can send its waiters home.

    First come, first served, and a waiter that is cancelled in the very tick in which it was
    served passes its permit on: both are `asyncio.Semaphore`'s own promises (Python >= 3.11).

    Args:
        size: How many there are.
        heir: Asked first when one has become free; it takes the permit over and says True, or
            False where nobody stands in front of those who wait here.

    Attributes:
        owed: Permits to swallow after a shrink, as they come back.
        taken: Permits that are out.
        waiting: Tasks that wait for one.
    """

    def __init__(self, size: int, heir: Callable[[], bool] = _nobody) -> None:
        super().__init__(size)
        self._heir = heir
        self.size = size
        self.taken = 0
        self.waiting = 0
        self.owed = 0

    @property
    def free(self) -> int:
        """Permits that could be taken now without waiting."""
        return 0 if self.locked() else max(0, self.size - self.taken)

    async def acquire(self) -> Literal[True]:
        """Take a permit; it does not suspend unless the semaphore is `locked()`."""
        if self.locked():
            self.waiting += 1
            try:
                await super().acquire()
            except asyncio.CancelledError:
                await self._collect()  # a permit may have come back in this very tick
                raise
            finally:
                self.waiting -= 1
        else:
            await super().acquire()
        self.taken += 1
        return True

    def release(self) -> None:
        """Give a permit back: to the first waiter, if there is one."""
        self.taken -= 1
        if self.owed:
            self.owed -= 1
        else:
            self._set_free()

    def _set_free(self) -> None:
        if self._heir():
            self.taken += 1
        else:
            super().release()

    async def resize(self, size: int) -> None:
        """Grow at once, or shrink as far as permits are free and by the rest as they come back."""
        change, self.size = size - self.size, size
        for _ in range(change):
            if self.owed:
                self.owed -= 1
            else:
                self._set_free()
        self.owed += max(0, -change)
        await self._collect()

    async def _collect(self) -> None:
        """Take what is owed and free; it does not suspend."""
        while self.owed and not self.locked():
            self.owed -= 1
            await super().acquire()

    def disband(self) -> None:
        """Wake every waiter within this tick; each has to look whether the pool is closed."""
        for _ in range(self.waiting):
            super().release()
