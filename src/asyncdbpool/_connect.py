"""Making connections: credentials, the connect itself, its timeout, its retries."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, cast

import anyio

from asyncdbpool._options import Credentials, Options
from asyncdbpool._record import BaseSession, Record
from asyncdbpool._secrets import Secrets, is_secret
from asyncdbpool._ways import Way
from asyncdbpool._workers import Executor, Hand, Job
from asyncdbpool.drivers import BaseDriver
from asyncdbpool.errors import ConnectTimeout, PoolError
from asyncdbpool.stats import Counters

__all__ = ["ConnectArguments", "Connecting", "backoff"]

_REMEMBERED = 64  # answers of the credentials, to keep them out of texts

_SECRETS = ("pass", "pwd", "secret", "token", "key", "credential", "dsn", "conninfo")


class ConnectArguments:
    """What goes to the driver's `connect()`; its repr shows no value.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
    """

    __slots__ = ("_notes", "args", "kwargs")

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.args = args
        self.kwargs = dict(kwargs)
        self._notes: deque[Mapping[str, Any]] = deque(maxlen=_REMEMBERED)

    def __repr__(self) -> str:
        return f"<{len(self.args)} positional, {sorted(self.kwargs)}>"

    def note(self, given: Mapping[str, Any]) -> None:
        """Remember what the credentials gave."""
        self._notes.append(given)

    @property
    def given(self) -> Mapping[str, Any]:
        """What the credentials gave last."""
        return self._notes[-1] if self._notes else {}

    def redact(self, text: str) -> str:
        """Take out what may be a password: secret keywords, DSNs, and what is in them."""
        secrets = Secrets()
        for value in self.args:
            if isinstance(value, str):
                secrets.keep(value)
        for keywords in (self.kwargs, *self._notes):
            for name, value in keywords.items():
                word = str(value)
                if any(part in name.lower() for part in _SECRETS) or is_secret(name, word):
                    secrets.keep(word)
        return secrets.redact(text)


class Owner(Protocol):
    """What making a connection asks of the pool."""

    name: str
    loop: asyncio.AbstractEventLoop
    driver: BaseDriver
    way: Way
    options: Options
    arguments: ConnectArguments
    counters: Counters
    executor: Executor
    connect_error: BaseException | None

    def submit(
        self,
        record: Record,
        work: Callable[[], Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> Job:
        """Hand a job to the connection's worker."""
        ...

    def attempt(self, record: Record) -> None:
        """Note that a connect begins."""

    def wanted(self) -> bool:
        """Tell whether somebody still wants a connection that is being made."""
        ...

    def connected(self, record: Record, session: BaseSession) -> None:
        """Take a connection over."""

    def connect_late(self, record: Record, error: ConnectTimeout) -> None:
        """Note that a connect takes too long; its end will be told all the same."""

    def connect_failed(self, record: Record, error: BaseException, *, known: bool) -> None:
        """Note that no connection comes; `known` where the caller has been told before."""


class Connecting:
    """One connection being made, in a task of the pool's own, whatever becomes of its callers.

    Attributes:
        outcome: Ends with None or an error as soon as a caller may know.
        began: Loop time of its first attempt.
    """

    def __init__(self, owner: Owner, record: Record) -> None:
        self._owner = owner
        self._record = record
        self.outcome: asyncio.Future[BaseException | None] = owner.loop.create_future()
        self.began = owner.loop.time()
        self._stopped = asyncio.Event()

    def stop_retrying(self) -> None:
        """Give up, if it waits for its next attempt."""
        self._stopped.set()

    async def run(self) -> None:
        """Connect, retrying what is transient, and tell the pool how it ended."""
        owner = self._owner
        delays = backoff(first=0.1, most=2.0)
        give_up_at = owner.loop.time() + owner.options.retry_connect
        try:
            while (error := await self._attempt()) is not None:
                delay = next(delays)
                if (
                    self.outcome.done()
                    or not self._is_transient(error)
                    or owner.loop.time() + delay > give_up_at
                ):
                    break
                owner.connect_error = error
                with anyio.move_on_after(delay):
                    await self._stopped.wait()
                if not owner.wanted():
                    break
        except asyncio.CancelledError:  # the loop is being shut down
            error = PoolError(f"pool {owner.name!r}: connecting was cancelled")
            self._tell(error)
            raise
        self._tell(error)

    def _is_transient(self, error: BaseException) -> bool:
        try:
            return self._owner.driver.is_transient(error)
        except Exception:  # noqa: BLE001 - the error itself must not be lost with it
            return False

    def _tell(self, error: BaseException | None) -> None:
        known = self.outcome.done()
        if error is not None:
            self._owner.connect_failed(self._record, error, known=known)
        if not known:
            self.outcome.set_result(error)

    async def _attempt(self) -> BaseException | None:
        """Connect once; what takes too long fails for the caller, and goes on where it must."""
        owner, record = self._owner, self._record
        began = owner.loop.time()
        owner.attempt(record)
        attempt = asyncio.ensure_future(self._open())
        done, _ = await asyncio.wait({attempt}, timeout=owner.options.connect_timeout)
        if not done:
            owner.counters.connect_errors += 1
            given_up = record.worker is not None and record.worker.interrupt()
            what_then = "goes on and joins the pool if it succeeds"
            late = ConnectTimeout(
                f"pool {owner.name!r}: connecting took longer than "
                f"connect_timeout={owner.options.connect_timeout:g} s; the attempt "
                f"{'was given up' if given_up else what_then}"
            )
            owner.connect_late(record, late)
            self.outcome.set_result(late)
            await asyncio.wait({attempt})
        session, error = attempt.result()
        if session is not None:
            owner.counters.connect_seconds += owner.loop.time() - began
            owner.connected(record, session)
        elif done:
            owner.counters.connect_errors += 1
        return error

    async def _open(self) -> tuple[BaseSession | None, BaseException | None]:
        """Ask for the credentials and connect, as the connection's worker does it."""
        owner, record = self._owner, self._record
        kwargs: Mapping[str, Any] = owner.arguments.kwargs
        try:
            if record.worker is None:
                record.worker = owner.executor.hire()
            if owner.options.credentials is not None:
                kwargs = {**kwargs, **await self._ask(owner.options.credentials)}
            session: BaseSession = await self._by(partial(_open, record.worker, owner, kwargs))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - it goes to the head waiter
            return None, error
        return session, None

    async def _ask(self, credentials: Credentials) -> Mapping[str, Any]:
        worker = self._record.worker
        assert worker is not None  # noqa: S101 - hired before
        given: Any = await self._by(worker.blocking(credentials))
        if inspect.isawaitable(given):
            limit = asyncio.timeout(self._owner.options.connect_timeout)
            try:
                async with limit:
                    given = await given
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise ConnectTimeout(
                    f"pool {self._owner.name!r}: the credentials took longer than "
                    f"connect_timeout={self._owner.options.connect_timeout:g} s"
                ) from error
        if not isinstance(given, Mapping):
            raise TypeError(
                f"pool {self._owner.name!r}: credentials must return a mapping of connect "
                f"keywords, not {type(given).__name__}"
            )
        asked = cast("Mapping[str, Any]", given)
        self._owner.arguments.note(asked)
        return asked

    async def _by(self, work: Callable[[], Any]) -> Any:
        answer: asyncio.Future[tuple[Any, BaseException | None]] = self._owner.loop.create_future()

        def told(value: Any, error: BaseException | None) -> None:
            if not answer.cancelled():
                answer.set_result((value, error))

        self._owner.submit(self._record, work, told)
        value, error = await answer
        if error is not None:
            raise error
        return value


def _open(worker: Hand, owner: Owner, kwargs: Mapping[str, Any]) -> Any:
    """Make and set up a connection, or make the coroutine that does."""
    driver, args, options = owner.driver, owner.arguments.args, owner.options
    kwargs = driver.with_timeout(args, kwargs, options.connect_timeout)
    return owner.way.open(worker, owner.name, driver, args, kwargs, setup=options.setup)


def backoff(*, first: float, most: float) -> Iterator[float]:
    """Give delays in seconds that double up to `most`, each with "equal jitter".

    The jitter (half fixed, half random) keeps a fleet from reconnecting in step; see Marc Brooker,
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    delay = first
    while True:
        yield delay / 2 + random.uniform(0, delay / 2)  # noqa: S311 - no secret
        delay = min(most, delay * 2)
