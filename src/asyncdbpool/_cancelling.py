"""Cancelling statements in the database, beside the connections' own calls, until they end."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from asyncdbpool._connect import ConnectArguments
from asyncdbpool._options import Options
from asyncdbpool._record import Record
from asyncdbpool._workers import Executor

__all__ = ["Cancelling"]

log = logging.getLogger("asyncdbpool")

_FIRST_PAUSE, _LAST_PAUSE = 0.05, 1.0  # seconds between two cancels of one statement


class Owner(Protocol):
    """What cancelling asks of the pool."""

    name: str
    loop: asyncio.AbstractEventLoop
    executor: Executor
    options: Options
    arguments: ConnectArguments


class Cancelling:
    """Sends cancels beside the connections, one at a time, for a statement until it has ended."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._busy: set[Record] = set()  # a cancel for it is on its way
        self._stopped = False

    def stop(self) -> None:
        """Send no more."""
        self._stopped = True

    def until_ended(self, record: Record, token: object) -> None:
        """Cancel a statement, again and again: one that comes too early is lost."""
        assert record.session is not None  # noqa: S101 - it runs a statement
        if record.session.canceller is not None:
            self._again(record, token, _FIRST_PAUSE)

    def _again(self, record: Record, token: object, pause: float) -> None:
        if self._stopped or token not in record.tokens:
            return
        if record not in self._busy:
            self._busy.add(record)
            self._send(record, token, partial(self._sent, record))
        self._owner.loop.call_later(pause, self._again, record, token, min(_LAST_PAUSE, 2 * pause))

    def _sent(self, record: Record, value: None, error: BaseException | None) -> None:
        self._busy.discard(record)
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
            self._busy.discard(record)
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

        self._busy.add(record)
        self._send(record, token, done)
        return over

    def _send(
        self, record: Record, token: object, done: Callable[[Any, BaseException | None], None]
    ) -> None:
        assert record.session is not None  # noqa: S101 - it runs a statement
        ask = None if self._owner.options.credentials is None else self._ask
        self._owner.executor.aside(partial(record.session.cancel, token, ask), done)

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
