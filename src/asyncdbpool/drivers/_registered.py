"""Drivers that other packages register, in the entry-point group `asyncdbpool.drivers`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from typing import Any

from asyncdbpool.drivers.base import BaseDriver
from asyncdbpool.errors import PoolError

__all__ = ["Registered"]

log = logging.getLogger("asyncdbpool")

_GROUP = "asyncdbpool.drivers"
_NAMELESS = "a package without a name"


class Registered:
    """The entry points of the group, looked up once, since that reads files.

    Attributes:
        entries: Entry points by the name of the driver's module; those of one name differ.
        unreadable: Distributions whose entry points cannot be read, and why.
    """

    def __init__(self) -> None:
        self.entries: dict[str, list[EntryPoint]] = {}
        self.unreadable: list[str] = []
        try:
            self._take(entry_points(group=_GROUP))
        except Exception:  # noqa: BLE001 - one bad file of any package is enough
            self._look_into_each()

    def _look_into_each(self) -> None:
        seen: set[str] = set()
        for distribution in distributions():
            title = _title(distribution)
            name = title.partition(" ")[0]
            if name in seen and title != _NAMELESS:  # an earlier one in the path hides it
                continue
            seen.add(name)
            try:
                self._take(entry for entry in distribution.entry_points if entry.group == _GROUP)
            except Exception as error:  # noqa: BLE001 - as above
                self.unreadable.append(f"{title} ({_words(error)})")

    def _take(self, entries: Iterable[EntryPoint]) -> None:
        for entry in entries:
            known = self.entries.setdefault(entry.name, [])
            if all(entry.value != other.value for other in known):
                known.append(entry)

    def make(self, name: str, module: Any) -> BaseDriver | None:
        """Make the driver that a package registers for a module; None where none does.

        Raises:
            PoolError: It cannot be made, or two packages register different ones.
        """
        entries = self.entries.get(name)
        if entries is None:
            for distribution in self.unreadable:
                log.warning(
                    "the entry points of %s cannot be read; should it register a driver for "
                    "%r, that is not used",
                    distribution,
                    name,
                )
            return None
        if len(entries) > 1:
            several = ", ".join(sorted(map(_origin, entries)))
            raise PoolError(
                f"more than one package registers a driver for module {name!r}: {several}; "
                "uninstall all but one, or choose with `driver=`"
            )
        return _make(entries[0], module)


def _make(entry: EntryPoint, module: Any) -> BaseDriver:
    BaseDriver(module)  # whose refusal is about the module, not about the entry point
    try:
        return _load(entry)(module)
    except Exception as error:
        raise PoolError(
            f"the driver that a package registers for module {entry.name!r} cannot be used: "
            f"{_origin(entry)}: {_words(error)}; repair or uninstall that package, or give "
            "`driver=`"
        ) from error


def _load(entry: EntryPoint) -> type[BaseDriver]:
    kind: Any = entry.load()
    if not (isinstance(kind, type) and issubclass(kind, BaseDriver)):
        raise TypeError(f"{kind!r} is no subclass of Driver or NativeDriver")
    return kind


def _origin(entry: EntryPoint) -> str:
    """Tell where an entry point comes from, and what it says."""
    distribution = getattr(entry, "dist", None)
    return f"{_title(distribution)} with '{entry.name} = {entry.value}'"


def _title(distribution: Distribution | None) -> str:
    try:
        name, version = distribution.name, distribution.version  # type: ignore[union-attr]
    except Exception:  # noqa: BLE001 - there is none, or its metadata may be anything
        return _NAMELESS
    return f"{name} {version}" if name else _NAMELESS


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
