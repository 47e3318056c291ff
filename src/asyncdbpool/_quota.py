"""Caps that several pools share: so many connections to a host, so many altogether."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Cap", "Member", "Quota"]


class Member(Protocol):
    """What sharing a cap asks of a pool."""

    loop: asyncio.AbstractEventLoop

    def oldest_wait(self) -> float | None:
        """Tell since when the pool's first waiter waits, or None."""
        ...

    def idle_since(self) -> float | None:
        """Tell since when its least recently used connection is idle, or None."""
        ...

    def idle_count(self) -> int:
        """Tell how many of its connections are idle."""
        ...

    def make_room(self) -> None:
        """Close that connection."""

    def dispatch(self) -> None:
        """Look again whether a connection may be made."""


@dataclass(eq=False, slots=True)
class Cap:
    """So many connections, and the pools that share them.

    Attributes:
        name: The option that sets it.
        limit: Connections at most.
        taken: Connections that there are.
        leaving: Those of them that are being closed to make room.
        quotas: The shares of the pools under this cap.
    """

    name: str
    limit: int
    taken: int = 0
    leaving: int = 0
    quotas: list[Quota] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """True where there is no room for another connection."""
        return self.taken >= self.limit

    def drop_the_stranded(self) -> bool:
        """Take back what pools on closed event loops hold; tell whether there is room now."""
        for quota in self.quotas:
            if quota.member is not None and quota.member.loop.is_closed():
                quota.forfeit()
        return not self.full

    @property
    def lacks_room(self) -> bool:
        """True where more pools are in line than connections are being closed for them."""
        return self.full and self.leaving < sum(quota.in_line for quota in self.quotas)


class Quota:
    """One pool's share of its caps: first come, first served, across all the pools.

    A pool asks before it makes a connection and tells when one is gone. Who is refused is in line;
    when room comes, the one whose first waiter came first is served first. All of it is decided
    synchronously, so nobody slips in between.

    Attributes:
        member: The pool, once it has been opened.
        in_line: True while the pool has been refused and waits for room.
    """

    def __init__(self, caps: list[Cap]) -> None:
        self._caps = caps
        self.member: Member | None = None
        self.in_line = False
        self._taken = 0
        for cap in caps:
            cap.quotas.append(self)

    @property
    def shared(self) -> bool:
        """True where other pools may want the room of this one's connections."""
        return bool(self._caps)

    def join(self, member: Member) -> None:
        """Serve this pool from now on (again, after a close and an open)."""
        if self.member is not None and self.member.loop.is_closed():
            self.forfeit()  # what its close has left in hung calls, whose ends nobody tells now
        self.member = member
        self.in_line = False

    def situation(self) -> str:
        """Say how the caps stand, for a message."""
        return "".join(f"; {cap.name}: {cap.taken} of {cap.limit} taken" for cap in self._caps)

    def room(self, most: int) -> int:
        """Count what could be made now, the idle connections of other pools given up for it."""
        return min(
            [most, *(cap.limit - cap.taken + self._idle_elsewhere(cap) for cap in self._caps)]
        )

    def _idle_elsewhere(self, cap: Cap) -> int:
        return sum(
            quota.member.idle_count()
            for quota in cap.quotas
            if quota is not self and quota.member is not None
        )

    def forfeit(self) -> None:
        """Give all of it back, and serve nobody: the pool's event loop is gone."""
        for cap in self._caps:
            cap.taken -= self._taken
            cap.leaving = min(cap.leaving, cap.taken)
        self._taken = 0
        self.member = None
        self.in_line = False

    def take(self, *, for_waiter: bool) -> bool:
        """Take room for one connection; False puts the pool in line, if for a waiter.

        A connection that only refills the pool takes room that nobody waits for.
        """
        full = [cap for cap in self._caps if cap.full and not cap.drop_the_stranded()]
        if not full:
            if for_waiter or not self._rivals():
                self._taken += 1
                for cap in self._caps:
                    cap.taken += 1
                self.in_line = False
                return True
            return False
        if for_waiter:
            self.in_line = True
            for cap in full:
                if cap.lacks_room:
                    _close_an_idle_one(cap)
        return False

    def give(self) -> None:
        """Give one connection's room back, to the first in line."""
        self._taken -= 1
        for cap in self._caps:
            cap.taken -= 1
            cap.leaving = max(0, cap.leaving - 1)
        for cap in self._caps:
            cap.drop_the_stranded()
        for quota in sorted(self._all_in_line(), key=Quota._since):
            quota._look_again()  # noqa: SLF001

    def claims_room(self) -> bool:
        """Tell whether this pool's returned connection must be closed for an older waiter."""
        lacking = [cap for cap in self._caps if cap.lacks_room]
        if not lacking or not self._rivals(before=self._since()):
            return False
        for cap in lacking:
            cap.leaving += 1
        return True

    def _rivals(self, before: float = float("inf")) -> bool:
        """Tell whether somebody in line, since before a time, could use room of ours."""
        return any(
            quota is not self and quota._since() < before and quota._needs_only(self._caps)  # noqa: SLF001 - one of us
            for quota in self._all_in_line()
        )

    def _needs_only(self, caps: list[Cap]) -> bool:
        return all(not cap.full or cap in caps for cap in self._caps)

    def _all_in_line(self) -> list[Quota]:
        in_line = (quota for cap in self._caps for quota in cap.quotas if quota.in_line)
        return list(dict.fromkeys(in_line))

    def _since(self) -> float:
        since = None if self.member is None else self.member.oldest_wait()
        return float("inf") if since is None else since

    def _look_again(self) -> None:
        self.in_line = False
        assert self.member is not None  # noqa: S101 - who is in line is open
        self.member.dispatch()


def _close_an_idle_one(cap: Cap) -> None:
    """Let the pool with the least recently used idle connection under a cap close it."""
    idle = [
        (since, index, quota.member)
        for index, quota in enumerate(cap.quotas)
        if quota.member is not None and (since := quota.member.idle_since()) is not None
    ]
    if idle:
        cap.leaving += 1
        min(idle)[2].make_room()
