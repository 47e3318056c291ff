"""The errors that the pool itself raises; a driver's own exceptions always pass unchanged."""

from __future__ import annotations

__all__ = [
    "ConnectTimeout",
    "ConnectionReturned",
    "PoolClosed",
    "PoolDeadlock",
    "PoolError",
    "PoolTimeout",
    "TooManyWaiters",
    "UnknownHost",
    "WrongEventLoop",
]


class PoolError(Exception):
    """The root of every error that comes from the pool and not from the driver."""


class PoolTimeout(PoolError, TimeoutError):
    """No connection could be had within `timeout`.

    The message names the figures and the oldest holders; `__cause__` is the last connect error,
    if there was one.
    """


class ConnectTimeout(PoolError, TimeoutError):
    """One physical connect took longer than `connect_timeout`."""


class PoolClosed(PoolError):
    """The pool is closed, or was closed while this task waited for it."""


class TooManyWaiters(PoolError):
    """`max_waiting` tasks wait for a connection already."""


class PoolDeadlock(PoolError):
    """Every lease is held by a task that is itself waiting for this pool."""


class ConnectionReturned(PoolError):
    """This proxy's connection has gone back to the pool; borrow another one."""


class WrongEventLoop(PoolError):
    """The pool is open on another event loop than the one that runs now."""


class UnknownHost(PoolError, LookupError):
    """A `DatabaseConnector` has neither this host nor a `"default"`."""
