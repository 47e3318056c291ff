"""What stands between two operations of one connection while a cancel is under way."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Lock

from asyncdbpool.drivers.base import Unanswered

__all__ = ["Gate"]


class Gate:
    """Holds back a connection's next operation, so that a cancel hits the one it is meant for.

    The connection's thread goes through it, the side thread cancels under it. The lock is held for
    moments only, so that the event loop may take it too.

    Attributes:
        hit: True where a cancel has been sent for the operation that runs.
        unanswered: True once nobody can say what a cancel will hit.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._changed = Condition(self._lock)
        self._running: object = None
        self._under_way = 0
        self._given_up = False
        self.hit = False
        self.unanswered = False

    def enter(self, token: object) -> None:
        """Begin an operation; one without a token cannot be cancelled."""
        self._running = token

    def leave(self) -> bool:
        """End the operation, once no cancel is on its way any more; tell whether one was sent."""
        with self._lock:
            self._running = None
            if self._under_way:
                self._changed.wait_for(lambda: not self._under_way or self._given_up)
            hit, self.hit = self.hit, False
        return hit

    def cancel(self, token: object, canceller: Callable[[], None]) -> None:
        """Cancel what runs for this token, or do nothing if it has ended; blocking."""
        with self._lock:
            if self._running is not token:
                return
            self.hit = True
            self._under_way += 1
        try:
            canceller()
        except Unanswered:
            self.unanswered = True
            raise
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def give_up(self) -> None:
        """Let the thread through although a cancel hangs: its connection is to be closed."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()
