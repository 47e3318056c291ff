"""The limit: an `asyncio.Semaphore` with one permit for each lease, whose size can change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Permits"]


class Permits(asyncio.Semaphore):
    """A semaphore that counts and can be resized; those who wait for it stand in the pool's line.

    So nobody waits in `acquire()`: `take()` stands in for it, and `release()` has nobody to wake.

    Args:
        size: How many there are.
        heir: Asked ahead of everything else when one comes back: it takes the permit over and
            says True, or False where nobody waits.

    Attributes:
        owed: Permits to swallow after a shrink, as they come back.
    """

    def __init__(self, size: int, heir: Callable[[], bool]) -> None:
        super().__init__(size)
        self._heir = heir
        self.size = size
        self.owed = 0

    def locked(self) -> bool:
        """Tell whether all are out."""
        return self._value == 0

    def take(self) -> bool:
        """Take one if one is free."""
        if not self._value:
            return False
        self._value -= 1
        return True

    @property
    def taken(self) -> int:
        """Permits that are out."""
        return self.size + self.owed - self._value

    @property
    def free(self) -> int:
        """Permits that could be taken now."""
        return self._value

    def release(self) -> None:
        """Give a permit back: to the first who waits, if there is one."""
        if self.owed:
            self.owed -= 1
        elif not self._heir():
            self._value += 1

    def resize(self, size: int) -> None:
        """Grow at once, or shrink as far as permits are free and by the rest as they come back."""
        change, self.size = size - self.size, size
        for _ in range(change):
            self.release()
        self.owed += max(0, -change)
        while self.owed and self.take():
            self.owed -= 1
