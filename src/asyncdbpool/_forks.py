"""What a forked child inherits: connections that are its parent's, and must stay so."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["keep_for_ever", "watch"]

_heirs: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def watch(heir: Any, disown: Callable[[Any], None]) -> None:
    """Have `disown(heir)` called in every child that is forked from now on, if it still lives."""
    _heirs[heir] = disown


def keep_for_ever(thing: object) -> None:
    """See to it that nothing of the thing is ever freed, not even at the interpreter's end.

    A driver's connection that is freed says goodbye to the server, rolls a file back, or waits for
    a lock that one of the parent's threads held.
    """
    import ctypes  # costs time, and only children need it

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _disown() -> None:
    for heir, disown in tuple(_heirs.items()):
        disown(heir)


with suppress(AttributeError):  # there are no forks on Windows
    os.register_at_fork(after_in_child=_disown)
