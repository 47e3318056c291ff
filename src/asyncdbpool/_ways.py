"""The two ways to a database: on a thread of the connection's own, or on the event loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asyncdbpool._lanes import Lane
from asyncdbpool._native import NativeSession
from asyncdbpool._session import Session
from asyncdbpool._workers import Executor, Hand, Worker
from asyncdbpool.drivers import BaseDriver

__all__ = ["Way", "way_of"]


@dataclass(frozen=True, slots=True)
class Way:
    """How the connections of a driver are made and worked with.

    Attributes:
        hand: Makes the one who makes a connection's calls.
        open: Makes a session, with that one; blocking, or a coroutine function.
    """

    hand: Callable[[Executor, str], Hand]
    open: Callable[..., Any]


_BLOCKING = Way(Worker, Session.open)
_NATIVE = Way(Lane, NativeSession.open)


def way_of(driver: BaseDriver) -> Way:
    """Tell the way for a driver."""
    return _NATIVE if driver.native else _BLOCKING
