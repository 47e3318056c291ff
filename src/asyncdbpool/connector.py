"""DatabaseConnector: pools by host and database, with credentials by host and shared caps."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, ItemsView, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, cast

from asyncdbpool._borrowing import Borrowing, Transacting
from asyncdbpool._options import DEFAULT, Cleanup, Credentials, Default, checked_size
from asyncdbpool._quota import Cap
from asyncdbpool.drivers import BaseDriver, find_driver
from asyncdbpool.errors import PoolClosed, UnknownHost
from asyncdbpool.pool import ConnectionPool
from asyncdbpool.stats import PoolStats

__all__ = ["DatabaseConnector"]

Key = tuple[str, str | None]

_OPTIONS = frozenset(inspect.signature(ConnectionPool).parameters)


class DatabaseConnector(Mapping[Any, ConnectionPool]):
    """A registry of pools, one for each database on each host.

    Args:
        module: As for `ConnectionPool`.
        credentials: Connect keywords by host: a mapping, or a callable (sync or async) that
            returns one and is asked once for each physical connect. `"default"` serves the hosts
            without an entry. An entry's own host wins over its key, so keys can be aliases.
        conn_pool: The class of the pools.
        max_per_host: Connections at most to one host, over all its databases.
        max_total: Connections at most, over all hosts.
        driver: As for `ConnectionPool`.
        **options: Everything else goes to every pool.

    Both caps are shared first come, first served; a pool's idle connection is closed to make room
    for a busy sibling.

    Raises:
        TypeError: A wrong type; the error names the option.
        ValueError: An impossible value; the error names the option.
    """

    def __init__(
        self,
        module: Any,
        credentials: Mapping[str, Mapping[str, Any] | Credentials],
        *,
        conn_pool: Callable[..., ConnectionPool] = ConnectionPool,
        max_per_host: int | None = None,
        max_total: int | None = None,
        driver: BaseDriver | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(credentials, Mapping):
            raise TypeError(f"credentials must be a mapping, not {type(credentials).__name__}")
        for host, entry in credentials.items():
            if not isinstance(entry, Mapping) and not callable(entry):
                raise TypeError(
                    f"credentials for {host!r} must be a mapping or a callable that returns one, "
                    f"not {type(entry).__name__}"
                )
        for name, limit in (("max_per_host", max_per_host), ("max_total", max_total)):
            if limit is not None:
                checked_size(name, limit, least=1)
        if not callable(conn_pool):
            raise TypeError(f"conn_pool must be a class, not {type(conn_pool).__name__}")
        self._module = module
        self._driver = driver or find_driver(module)
        self._credentials = dict(credentials)
        self._conn_pool = conn_pool
        self._options = options
        self._max_per_host = max_per_host
        self._total = None if max_total is None else Cap("max_total", max_total)
        self._hosts: dict[str, Cap] = {}
        self._pools: dict[Key, ConnectionPool] = {}
        self._closed = False
        ConnectionPool(module, driver=self._driver, **options)  # wrong options fail here and now

    def get(  # type: ignore[override] # the classic name; as a mapping, use `connector[host, db]`
        self, host: str, dbname: str | None = None
    ) -> ConnectionPool:
        """Return the pool for a database, made on first use; no I/O.

        Args:
            host: A key of the credentials, or any host if there is a `"default"`.
            dbname: The database; it goes to the driver under the driver's own keyword. None
                leaves it to the credentials.

        Raises:
            UnknownHost: Neither the host nor a default is there.
            PoolClosed: The connector is closed.
        """
        pool = self._pools.get((host, dbname))
        if pool is None:
            if self._closed:
                raise PoolClosed("the connector is closed; enter it again with `async with`")
            pool = self._pools[host, dbname] = self._make(host, dbname)
        return pool

    def _make(self, host: str, dbname: str | None) -> ConnectionPool:
        driver, entry = self._driver, self.credentials_for(host)
        options = dict(self._options)
        kwargs: dict[str, Any] = dict(options.pop("connect_kwargs", None) or {})
        kwargs |= {name: options.pop(name) for name in tuple(options) if name not in _OPTIONS}
        if driver.host_keyword is not None:
            kwargs[driver.host_keyword] = host
        if isinstance(entry, Mapping):
            kwargs |= entry
        else:
            options["credentials"] = _asking(entry, driver, dbname)
        kwargs = _with_database(kwargs, driver, dbname)
        options.setdefault("name", f"{host}/{dbname}" if dbname is not None else host)
        pool = self._conn_pool(self._module, driver=driver, connect_kwargs=kwargs, **options)
        caps = [] if self._total is None else [self._total]
        if self._max_per_host is not None:
            address = kwargs.get(driver.host_keyword or "", host)  # of an alias, the host's
            cap = Cap("max_per_host", self._max_per_host)
            caps.append(self._hosts.setdefault(address, cap))
        if caps:
            pool.share(caps)
        return pool

    def credentials_for(self, host: str) -> Mapping[str, Any] | Credentials:
        """Return a host's entry as it stands, or the default one.

        Raises:
            UnknownHost: Neither is there; the message names the hosts that are.
        """
        for key in (host, "default"):
            if key in self._credentials:
                return self._credentials[key]
        raise UnknownHost(
            f"no credentials for host {host!r} and no 'default'; there are: "
            f"{', '.join(map(repr, sorted(self._credentials))) or 'none'}"
        )

    def connection(
        self,
        host: str,
        dbname: str | None = None,
        *,
        timeout: float | Default | None = DEFAULT,
        cleanup: Cleanup | Default = DEFAULT,
    ) -> Borrowing:
        """Borrow a connection to a database for an `async with` block."""
        return self.get(host, dbname).connection(timeout=timeout, cleanup=cleanup)

    def transaction(
        self,
        host: str,
        dbname: str | None = None,
        *,
        timeout: float | Default | None = DEFAULT,
        cleanup: Cleanup | Default = DEFAULT,
    ) -> Transacting:
        """Borrow a connection for a block that commits on success and rolls back on an error."""
        return self.get(host, dbname).transaction(timeout=timeout, cleanup=cleanup)

    # All of the pools

    async def close(self, timeout: float | None = 10.0) -> None:
        """Close every pool, side by side, as `ConnectionPool.close()` does."""
        self._closed = True
        await self._each(pool.close(timeout) for pool in self._pools.values())

    async def clear(self) -> None:
        """Clear every pool, as `ConnectionPool.clear()` does."""
        await self._each(pool.clear() for pool in self._pools.values())

    async def _each(self, calls: Iterable[Awaitable[None]]) -> None:
        """Do all of it, whatever becomes of one, and then raise the first error."""
        for error in await asyncio.gather(*calls, return_exceptions=True):
            if error is not None:
                raise error

    def stats(self) -> dict[Key, PoolStats]:
        """Take the figures of every pool."""
        return {key: pool.stats() for key, pool in self._pools.items()}

    async def __aenter__(self) -> Self:
        self._closed = False
        try:
            for pool in tuple(self._pools.values()):  # others may be made meanwhile
                await pool.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # A mapping of (host, dbname) to pool

    def __getitem__(self, key: Key) -> ConnectionPool:
        return self._pools[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._pools)

    def __len__(self) -> int:
        return len(self._pools)

    def __contains__(self, key: object) -> bool:
        """Tell whether there is a pool for a `(host, dbname)`, or any for a host."""
        return key in self._pools or any(host == key for host, _ in self._pools)

    def items(self) -> ItemsView[Key, ConnectionPool]:
        """Return the pools by their keys."""
        return self._pools.items()

    def __repr__(self) -> str:
        label = getattr(self._module, "__name__", type(self._module).__name__)
        return f"<{type(self).__name__} of {label}: {len(self)} pools>"


def _with_database(
    kwargs: Mapping[str, Any], driver: BaseDriver, dbname: str | None
) -> dict[str, Any]:
    """Put the database that was asked for in the place of an entry's own."""
    if dbname is None:
        return dict(kwargs)
    names = (driver.database_keyword, *driver.database_aliases)
    others = {name: value for name, value in kwargs.items() if name not in names}
    return {**others, driver.database_keyword: dbname}


def _asking(entry: Credentials, driver: BaseDriver, dbname: str | None) -> Credentials:
    """Make of a host's callable entry one for a database on it."""

    def named(given: Any) -> Any:
        return _with_database(given, driver, dbname) if isinstance(given, Mapping) else given

    async def later(given: Awaitable[Any]) -> Any:
        return named(await given)

    async def ask_later() -> Any:
        return named(await cast("Awaitable[Any]", entry()))

    def ask() -> Any:
        given = entry()
        return later(given) if inspect.isawaitable(given) else named(given)

    return ask_later if inspect.iscoroutinefunction(entry) else ask
