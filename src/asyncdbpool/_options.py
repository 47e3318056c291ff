"""The pool's options: one frozen value, checked before anything happens."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "Check",
    "Cleanup",
    "Credentials",
    "Options",
    "always_runs",
    "checked_cleanup",
    "checked_kind",
    "checked_seconds",
]

Check = Literal["auto", "always"] | Callable[[Any], object] | None
Cleanup = Literal["rollback", "reset"] | Callable[[Any], object] | None
Credentials = Callable[[], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]


class Default:
    """Stands for "as the pool's option says"."""

    def __repr__(self) -> str:
        return "<the pool's own>"


DEFAULT = Default()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Every option of `ConnectionPool`, which documents them; all times are in seconds."""

    min_size: int
    max_size: int
    max_idle: float
    max_age: float
    max_uses: int | None
    timeout: float | None
    max_waiting: int | None
    connect_timeout: float
    retry_connect: float
    connect_limit: int | None
    setup: Callable[[Any], object] | None
    check: Check
    check_after: float
    check_timeout: float
    cleanup: Cleanup
    keepalive: float | None
    cancel_grace: float
    leak_timeout: float | None
    credentials: Credentials | None
    native: bool = False
    """Whether the driver is asyncio's own; so are the hooks then."""

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_times()
        self._check_hooks()

    def _check_sizes(self) -> None:
        checked_size("min_size", self.min_size, least=0)
        checked_size("max_size", self.max_size, least=1)
        if self.max_size < self.min_size:
            raise ValueError(
                f"max_size ({self.max_size}) is smaller than min_size ({self.min_size}); "
                "raise the one or lower the other"
            )
        for name, least in (("max_uses", 1), ("max_waiting", 0), ("connect_limit", 1)):
            if getattr(self, name) is not None:
                checked_size(name, getattr(self, name), least=least)

    def _check_times(self) -> None:
        for name in ("max_idle", "max_age", "retry_connect", "check_after"):
            checked_seconds(name, getattr(self, name))
        for name in ("connect_timeout", "check_timeout", "cancel_grace"):
            checked_seconds(name, getattr(self, name), positive=True)
        for name in ("keepalive", "leak_timeout"):
            if getattr(self, name) is not None:
                checked_seconds(name, getattr(self, name), positive=True)
        if self.timeout is not None:
            checked_seconds("timeout", self.timeout)

    def _check_hooks(self) -> None:
        for name in ("setup", "credentials"):
            hook = getattr(self, name)
            if hook is not None and not callable(hook):
                raise TypeError(f"{name} must be callable or None, not {_type(hook)}")
        if self.check not in ("auto", "always", None) and not callable(self.check):
            raise _unsuitable("check", self.check, '"auto", "always", None or a callable')
        checked_cleanup(self.cleanup, native=self.native)
        for name in ("setup", "check"):
            checked_kind(name, getattr(self, name), native=self.native)


def checked_size(name: str, value: object, *, least: int) -> int:
    """Return a whole number of at least `least`, or raise an error that names the option."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {_type(value)}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value


def checked_seconds(name: str, value: object, *, positive: bool = False) -> float:
    """Return a time in seconds that is not negative, or raise an error that names the option."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {_type(value)}")
    if math.isnan(value) or value < 0 or (positive and value == 0):
        bound = "more than 0" if positive else "0 or more"
        raise ValueError(f"{name} must be {bound} seconds, not {value}")
    return value


def always_runs(cleanup: Cleanup) -> bool:
    """Tell whether a cleanup has something to do also for a connection that is clean already."""
    return cleanup is not None and cleanup != "rollback"


def checked_cleanup(value: object, *, native: bool) -> None:
    """Accept what `cleanup` can be, or raise an error that says it."""
    if value not in ("rollback", "reset", None) and not callable(value):
        raise _unsuitable("cleanup", value, '"rollback", "reset", None or a callable')
    checked_kind("cleanup", value, native=native)


def checked_kind(name: str, hook: object, *, native: bool) -> None:
    """Raise an error for a function that is async where it must not be, or the other way round."""
    if not callable(hook):
        return
    is_async = inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(
        getattr(hook, "__call__", None)  # noqa: B004 - an object with an `async def __call__`
    )
    if is_async and not native:
        raise TypeError(
            f"{name} is a coroutine function, but it runs on the connection's own thread; "
            "give a plain function that uses the driver's blocking connection"
        )
    if native and not is_async:
        raise TypeError(
            f"{name} is a plain function, but this driver is asyncio's own; "
            "give a coroutine function (`async def`) that awaits what the driver's connection does"
        )


def _unsuitable(name: str, value: object, suitable: str) -> Exception:
    if isinstance(value, str):
        return ValueError(f"{name} must be {suitable}, not {value!r}")
    return TypeError(f"{name} must be {suitable}, not {_type(value)}")


def _type(value: object) -> str:
    return type(value).__name__
