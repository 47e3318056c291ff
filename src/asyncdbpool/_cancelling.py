"""Cancelling statements in the database, beside the connections' own calls, until they end."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

from asyncdbpool._connect import ConnectArguments
from asyncdbpool._options import Options
from asyncdbpool._record import Record
from asyncdbpool._workers import Done, Executor
from asyncdbpool.errors import PoolError

__all__ = ["Cancelling"]

log = logging.getLogger("asyncdbpool")

_FIRST_PAUSE, _LAST_PAUSE = 0.05, 1.0  # seconds between two cancels of one statement
_MOST_STUCK = 3  # side threads that may be stuck in a cancel at once


class Owner(Protocol):
    """What cancelling asks of the pool."""

    name: str
    loop: asyncio.AbstractEventLoop
    executor: Executor
    options: Options
    arguments: ConnectArguments


class Cancelling:
    """Sends cancels beside the connections, one at a time, for a statement until it has ended.

    One that takes longer than `cancel_grace` is left alone on its thread, which a network that
    swallows packets may hold for ever, and another thread takes its place.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._under_way: dict[object, tuple[Record, Done]] = {}  # the first may have begun
        self._progress_at = 0.0  # loop time at which the first of them had its turn
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def stop(self) -> None:
        """Send no more, and watch none."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def give_up(self) -> None:
        """Stop, and tell those who wait for a cancel that is under way."""
        self.stop()
        left, self._under_way = self._under_way, {}
        for _, done in left.values():
            done(
                None,
                PoolError(f"pool {self._owner.name!r} was closed before a cancel was answered"),
            )

    def until_ended(self, record: Record, token: object) -> None:
        """Cancel a statement, again and again: one that comes too early is lost."""
        assert record.session is not None  # noqa: S101 - it runs a statement
        if record.session.canceller is not None:
            self._again(record, token, _FIRST_PAUSE)

    def _again(self, record: Record, token: object, pause: float) -> None:
        if self._stopped or token not in record.tokens:
            return
        if all(record is not other for other, _ in self._under_way.values()):
            self._send(record, token, self._note_failure)
        self._owner.loop.call_later(pause, self._again, record, token, min(_LAST_PAUSE, 2 * pause))

    def _note_failure(self, value: None, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            text = self._owner.arguments.redact(str(error)).strip()
            kind = type(error).__name__
            log.info("pool %r: cancelling failed: %s: %s", self._owner.name, kind, text)
        elif error is not None:
            raise error

    def by_hand(self, record: Record) -> asyncio.Future[None]:
        """Cancel the statement that runs now; the future ends with the first attempt."""
        over: asyncio.Future[None] = self._owner.loop.create_future()
        token = next(iter(record.tokens), None)
        if token is None:
            over.set_result(None)
            return over

        def done(value: None, error: BaseException | None) -> None:  # noqa: ARG001 - a job's end
            if error is None:
                self._owner.loop.call_later(
                    _FIRST_PAUSE, self._again, record, token, 2 * _FIRST_PAUSE
                )
            if over.done():
                if error is not None and not isinstance(error, Exception):
                    raise error
            elif error is None:
                over.set_result(None)
            else:
                over.set_exception(error)

        self._send(record, token, done)
        return over

    def _send(self, record: Record, token: object, done: Done) -> None:
        assert record.session is not None  # noqa: S101 - it runs a statement
        owner, sending = self._owner, object()
        if owner.executor.stuck >= _MOST_STUCK:
            done(None, PoolError(f"{_MOST_STUCK} cancels have had no answer; no more is sent"))
            return
        self._under_way[sending] = record, done
        if len(self._under_way) == 1:
            self._progress_at = owner.loop.time()
            if self._timer is None:
                self._watch()
        ask = None if owner.options.credentials is None else self._ask
        owner.executor.aside(
            partial(record.session.cancel, token, ask), partial(self._sent, sending)
        )

    def _sent(self, sending: object, value: None, error: BaseException | None) -> None:
        if sending in self._under_way:  # otherwise it was left alone, and comes too late
            _, done = self._under_way.pop(sending)
            self._progress_at = self._owner.loop.time()
            done(value, error)

    def _watch(self) -> None:
        """Look, as long as cancels are under way, whether the first of them takes too long."""
        self._timer = None
        loop, due = self._owner.loop, self._progress_at + self._owner.options.cancel_grace
        if self._under_way and loop.time() < due:
            self._timer = loop.call_at(due, self._watch)
        elif self._under_way:
            self._leave_alone()

    def _leave_alone(self) -> None:
        """Cut off the connection whose cancel is stuck, and forget those that wait behind it."""
        left, self._under_way = list(self._under_way.values()), {}
        self._owner.executor.leave_side()
        session = left[0][0].session
        assert session is not None  # noqa: S101 - it has run a statement
        session.doubtful = True
        session.hang_up()
        for _, done in left:
            done(None, PoolError("a cancel had no answer within cancel_grace"))

    def _ask(self) -> Mapping[str, Any]:
        """Give the credentials for a side connection, on the side thread.

        An async callable cannot be asked there; what it gave last has to do.
        """
        credentials = self._owner.options.credentials
        assert credentials is not None  # noqa: S101 - asked before
        if not inspect.iscoroutinefunction(credentials):
            given = credentials()
            if isinstance(given, Mapping):
                self._owner.arguments.note(given)
                return given
            if inspect.iscoroutine(given):
                given.close()
        return self._owner.arguments.given
