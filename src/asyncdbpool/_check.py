"""Trying what a driver can do here: abilities, times, the limit of the server."""

from __future__ import annotations

import asyncio
import inspect
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from asyncdbpool._connect import ConnectArguments
from asyncdbpool._limits import DATABASES, UNKNOWN, Ask, Limit
from asyncdbpool._secrets import Secrets
from asyncdbpool.drivers import BaseDriver, Driver
from asyncdbpool.pool import ConnectionPool
from asyncdbpool.proxies import Connection

__all__ = ["Check", "CheckFailed"]

_WIDTH = 18  # of the first column

_GRACE = 1.0  # seconds that a call has to end when the check is over

_LEAST, _MOST, _ENOUGH = 3, 50, 0.3  # times that something is measured; seconds that it may take

_ONE = (
    "SELECT 1",
    "SELECT 1 FROM DUAL",
    "SELECT 1 FROM RDB$DATABASE",
    "SELECT 1 FROM SYSIBM.SYSDUMMY1",
    "SELECT 1 FROM DUMMY",
)
"""The smallest query; not every database has one without a table."""


class CheckFailed(Exception):
    """No connection, or no answer; the message has one line and no secret."""


class Check:
    """One run of the command.

    Args:
        module: What a pool is made with.
        name: What the user calls it.
        keywords: For its `connect()`.
        timeout: Seconds for the connect, and for each thing that is tried.
        secrets: What may not be shown.
        say: Takes the report, line by line.
    """

    _pool: ConnectionPool
    _driver: BaseDriver

    def __init__(
        self,
        module: Any,
        name: str,
        keywords: Mapping[str, Any],
        *,
        timeout: float,
        secrets: Secrets,
        say: Callable[[str], None],
    ) -> None:
        self._module = module
        self._name = name
        self._arguments = ConnectArguments((), keywords)
        self._timeout = timeout
        self._secrets = secrets
        self._say = say
        self._one = _ONE[0]
        self._database = UNKNOWN
        self._advice = UNKNOWN.advice

    async def run(self) -> None:
        """Connect, try, and report.

        Raises:
            CheckFailed: There was no connection, or no answer.
        """
        try:
            self._pool = ConnectionPool(
                self._module,
                max_size=2,
                timeout=2 * self._timeout,  # a connect that takes too long says so itself
                connect_timeout=self._timeout,
                cancel_grace=_GRACE,
                name=self._name,
                connect_kwargs=self._arguments.kwargs,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told in one line
            raise CheckFailed(self._words(error)) from None
        self._driver = self._pool._driver  # noqa: SLF001 - nobody else is to know it
        try:
            await self._connect_and_report()
        except CheckFailed:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told in one line
            raise CheckFailed(self._words(error)) from None
        finally:
            await self._pool.close(timeout=0)

    async def _connect_and_report(self) -> None:
        began = time.perf_counter()
        conn = await self._pool.get()
        first = time.perf_counter() - began
        await self._in_time(self._pool.put(conn))
        version = await self._look_around()
        self._say(f"{self._name} {_version(self._module)}".rstrip())
        self._line("driver", self._describe_driver())
        self._line("database", version)
        await self._report_abilities()
        await self._report_times(first)
        await self._report_limit()

    async def _in_time(self, work: Awaitable[Any]) -> Any:
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise CheckFailed(f"connected, but no answer within {self._timeout:g} s") from None

    async def _or_why(self, otherwise: str, work: Awaitable[str]) -> str:
        """Return what comes of it, or why nothing does, which is an answer, too."""
        try:
            return await work
        except CheckFailed:
            raise
        except Exception as error:  # noqa: BLE001 - as said
            return f"{otherwise}: {self._words(error)}"

    def _words(self, error: BaseException) -> str:
        """Tell an error in one line, without what is secret."""
        text = self._arguments.redact(self._secrets.redact(str(error)))
        text = " ".join(text.split())
        return f"{type(error).__name__}: {text}" if text else type(error).__name__

    def _line(self, title: str, text: str) -> None:
        self._say(f"  {title:<{_WIDTH}} {text}")

    # Who is there

    async def _look_around(self) -> str:
        """Find out which database it is, and how it is asked for nothing; return its version."""
        for self._one in _ONE:
            if await self._first_row(self._one) is not None:
                break
        for database in DATABASES:
            row = await self._first_row(database.sign)
            if row is not None:
                self._database = database
                return f"{database.name} {row[0]}"
        return self._database.name

    async def _first_row(self, sql: str) -> Any:
        """Return a row, or None where the database does not understand the statement."""
        try:
            return await self._in_time(self._pool.fetch_one(sql))
        except CheckFailed:
            raise
        except Exception:  # noqa: BLE001 - the point is that it fails
            return None

    def _describe_driver(self) -> str:
        kind = type(self._driver)
        if kind is Driver:
            who = "the generic one, since nobody knows this module"
        elif kind.__module__.startswith("asyncdbpool."):
            who = f"{kind.__name__}, the library's own"
        else:
            who = f"{kind.__module__}.{kind.__name__}, registered by another package"
        where = "on the event loop" if kind.native else "on a thread for each connection"
        return f"{who}; runs {where}"

    # Abilities

    async def _report_abilities(self) -> None:
        self._say("what it can do here")
        for attribute in ("paramstyle", "threadsafety"):
            self._line(attribute, str(_said(self._module, attribute)))
        trials: dict[str, Callable[[Connection], Awaitable[str]]] = {
            "open transaction": self._try_to_tell,
            "savepoints": self._try_savepoints,
            "ping": self._try_ping,
            "reset": self._try_reset,
            "socket": self._try_socket,
            "rows ahead": self._try_rows,
            "cancel": self._try_cancel,
        }
        for title, trial in trials.items():
            text = await self._or_why("no", self._in_time(self._lend(trial)))
            self._line(title, text)

    async def _lend(self, trial: Callable[[Connection], Awaitable[str]]) -> str:
        async with self._pool.connection() as conn:
            return await trial(conn)

    def _ask(self, conn: Connection, fn: Callable[[Any], Any]) -> Awaitable[Any]:
        """Call something with the driver's own connection, where its calls are made."""
        if not self._driver.native:
            return conn.run(fn)

        async def ask(raw: Any) -> Any:
            result = fn(raw)
            return await result if inspect.isawaitable(result) else result

        return conn.run(ask)

    async def _try_to_tell(self, conn: Connection) -> str:
        async with conn.transaction():
            await conn.fetch_val(self._one)
        if await self._ask(conn, self._driver.in_transaction) is False:
            return "told without a round trip"
        await self._ask(conn, _switch_autocommit_on)
        told = await self._ask(conn, self._driver.in_transaction) is False
        await conn.discard()
        return "told without a round trip in autocommit only" if told else "not told"

    async def _try_savepoints(self, conn: Connection) -> str:
        async with conn.transaction(), conn.transaction():
            await conn.fetch_val(self._one)
        return "yes"

    async def _try_ping(self, conn: Connection) -> str:
        ping: Any = self._driver.ping  # type: ignore[attr-defined] # both kinds have one
        await self._ask(conn, ping)
        return "yes"

    async def _try_reset(self, conn: Connection) -> str:
        if not self._driver.can_reset:
            return 'no: cleanup="reset" closes the connection'
        closed = self._pool.stats().closed
        await self._pool.put(conn, cleanup="reset")
        return "yes" if self._pool.stats().closed == closed else "no: it fails"

    async def _try_socket(self, conn: Connection) -> str:
        if await self._ask(conn, self._driver.fileno) is None:
            return "not known: a call that hangs holds its permit until it ends"
        return "known: a call that hangs can be cut off"

    async def _try_rows(self, conn: Connection) -> str:
        session: Any = conn._lease.session  # noqa: SLF001 - nobody else is to know it
        if self._driver.native:
            return "the driver's own affair"
        ahead = session.reads_ahead(session.cursor_class)
        return "read in batches" if ahead else "not before the first fetch"

    async def _try_cancel(self, conn: Connection) -> str:
        if conn._lease.session.canceller is None:  # noqa: SLF001 - as above
            return "no: a statement whose caller has gone runs to its end"
        if not self._database.slow:
            return "the driver has a way, not tried: no slow statement is known here"
        running = asyncio.ensure_future(conn.fetch_val(self._database.slow))
        try:
            await asyncio.sleep(0.2)
            began = time.perf_counter()
            await conn.cancel()
            done, _ = await asyncio.wait({running}, timeout=1)
            took = time.perf_counter() - began
        finally:
            running.cancel()
            await asyncio.wait({running})
            _ = running.cancelled() or running.exception()
            await conn.discard()
        return f"yes, {_duration(took)}" if done else "no: the statement goes on"

    # Times

    async def _report_times(self, first: float) -> None:
        self._say("times, medians")
        self._line("first connect", _duration(first))
        self._line("later connects", _duration(await self._time_of_connects()))
        trip = await self._or_why("not known", self._median(self._query))
        self._line("round trip", f"{trip} ({self._one}, one call)")
        async with self._pool.connection() as conn:
            hop = await self._median(lambda: self._ask(conn, _nothing))
        self._line("hop alone", hop)
        self._line("borrow and return", await self._median(self._borrow))

    async def _time_of_connects(self) -> float:
        times = []
        for _ in range(_LEAST):
            await self._in_time(self._pool.clear())
            began = time.perf_counter()
            conn = await self._pool.get()
            times.append(time.perf_counter() - began)
            await self._in_time(self._pool.put(conn))
        return statistics.median(times)

    async def _query(self) -> None:
        await self._pool.fetch_val(self._one)

    async def _borrow(self) -> None:
        async with self._pool.connection():
            pass

    async def _median(self, work: Callable[[], Awaitable[Any]]) -> str:
        times: list[float] = []
        enough = time.perf_counter() + _ENOUGH
        while len(times) < _LEAST or (len(times) < _MOST and time.perf_counter() < enough):
            began = time.perf_counter()
            await self._in_time(work())
            times.append(time.perf_counter() - began)
        return _duration(statistics.median(times))

    # The limit

    async def _report_limit(self) -> None:
        bounds, self._advice = self._database.bounds, self._database.advice
        if self._database.limit is not None:
            bounds = await self._or_why("not known", self._ask_limit(self._database.limit))
        self._say("connections")
        self._line("limit", bounds)
        self._line("hint for max_size", self._advice)
        self._line("", "Begin with few and measure. Cores * 2 + 1 is a rule of thumb, not a law.")

    async def _ask_limit(self, ask_for: Callable[[Ask], Awaitable[Limit]]) -> str:
        limit: Limit = await self._in_time(ask_for(self._pool.fetch_one))
        self._advice = limit.advice()
        return str(limit)


def _version(module: Any) -> str:
    return str(_said(module, "__version__", ""))


def _said(module: Any, attribute: str, otherwise: str = "not said") -> Any:
    """Return what a module says of itself, or what its package does."""
    package = sys.modules.get(getattr(module, "__module__", getattr(module, "__name__", "")))
    return getattr(module, attribute, getattr(package, attribute, otherwise))


def _switch_autocommit_on(raw: Any) -> Any:
    switch = getattr(raw, "autocommit", None)
    if callable(switch):
        return switch(True)
    if isinstance(switch, bool):
        raw.autocommit = True
    return None


def _nothing(raw: Any) -> None:
    """Do nothing with a connection."""


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
