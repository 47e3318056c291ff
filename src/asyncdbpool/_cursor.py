"""A blocking driver's cursor on its connection's thread, its rows read ahead in batches."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from asyncdbpool._queries import CHUNK, alone

if TYPE_CHECKING:
    from asyncdbpool._session import Session

__all__ = ["BATCH", "END", "MORE", "CursorCore"]

BATCH = 256
"""Rows brought along in the hop of a statement."""

MORE = 500
"""Rows brought in one hop to a reader who has read the first batch to its end."""

END = object()
"""What `CursorCore.next()` returns after the last row."""

_MODES = ("relative", "absolute")


class CursorCore:
    """What stands behind a `Cursor` proxy.

    The connection's thread owns it while a call for it is under way (`pending` > 0), the event
    loop's thread otherwise; only `pending` always belongs to the loop. So rows that are here
    already are handed out on the loop without a hop, and every other call takes the thread.
    """

    __slots__ = (
        "_all_type",
        "_args",
        "_error",
        "_kwargs",
        "_later_rowcount",
        "_many_type",
        "_read",
        "_rowcount",
        "_session",
        "_told",
        "closed",
        "description",
        "exhausted",
        "gives_rows",
        "kept",
        "lastrowid",
        "pending",
        "raw",
        "rows",
    )

    def __init__(self, session: Session, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._session = session
        self._args = args
        self._kwargs = kwargs
        self.kept: dict[str, Any] = {"arraysize": 1}  # assignments that wait for the birth
        self.raw: Any = None
        self.closed = False
        self.pending = 0
        self.description: Any = None
        self.lastrowid: Any = None
        self._rowcount: Any = -1
        self._later_rowcount: Any = -1
        self._many_type: type = list
        self._all_type: type = list
        self.rows: deque[Any] = deque()  # one and the same for the cursor's whole life
        self._forget_rows()

    @classmethod
    def adopt(cls, session: Session, raw: Any) -> CursorCore:
        """Stand behind a cursor that one of the driver's own methods has made."""
        core = cls(session, (), {})
        core.raw = raw
        core.kept.clear()  # it is born, with an `arraysize` of its own
        session.cursors.add(core)
        core._take_note()
        core._read_ahead()
        return core

    @property
    def kind(self) -> type | None:
        """The class of the driver's cursors, where it could be told."""
        return self._session.cursor_kind

    def may_have(self, name: str) -> bool:
        """Tell whether the driver's cursor has a method; one of a class by choice may, unborn."""
        if self.raw is not None:
            return hasattr(self.raw, name)
        return bool(self._args or self._kwargs) or hasattr(self.kind, name)

    @property
    def arraysize(self) -> Any:
        """Rows that `fetchmany()` gives unless told."""
        if "arraysize" in self.kept:
            return self.kept["arraysize"]
        return self.raw.arraysize

    @property
    def finished(self) -> bool:
        """True where no row is left with the driver, and so no lock and no unread answer."""
        return self.exhausted or not self.gives_rows

    @property
    def rowcount(self) -> Any:
        """The driver's count as if nothing had been read ahead."""
        return self._rowcount if self.rows else self._later_rowcount

    def give_birth(self) -> Any:
        """Make the driver's cursor, if there is none yet."""
        if self.raw is None:
            raw = self._session.raw.cursor(*self._args, **self._kwargs)
            self._session.cursors.add(self)
            self.raw = raw
            if self.kept["arraysize"] == 1:
                del self.kept["arraysize"]  # the driver's own default holds
            self.assign()
        return self.raw

    def assign(self) -> None:
        """Carry out the assignments made since the last call."""
        for name in tuple(self.kept):  # the loop may add one
            setattr(self.raw, name, self.kept.pop(name))

    # Calls that give a new result

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `execute`, `executemany` or `callproc`, and bring the first rows."""
        raw = self.give_birth()
        self.assign()
        return self._renewed(getattr(raw, name), *args, **kwargs)

    def next_result(self) -> Any:
        """Go on to the next result, and bring its first rows."""
        raw = self.give_birth()
        self.assign()
        return self._renewed(self._session.driver.next_result, raw)

    def _renewed(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call what gives a new result."""
        self._forget_rows()
        try:
            result = method(*args, **kwargs)
        finally:
            self._take_note()
        self._read_ahead()
        return result

    def _forget_rows(self) -> None:
        self.rows.clear()
        self._error: BaseException | None = None
        self._read = 0  # rows taken from the driver
        self.exhausted = False
        self._told = False  # the reader has been told of the end
        self.gives_rows = False

    def _take_note(self) -> None:
        self.description = self._session.driver.describe(self.raw)
        self.lastrowid = getattr(self.raw, "lastrowid", None)
        self._rowcount = self._later_rowcount = getattr(self.raw, "rowcount", -1)

    def invoke(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method that PEP 249 does not know; it may have made a new result."""
        raw = self.give_birth()
        self.assign()
        result = getattr(raw, name)(*args, **kwargs)
        if result is raw:
            self._forget_rows()
            self._take_note()
            self._read_ahead()
            return self
        if not self.gives_rows:
            self._take_note()
        return self._session.disguise(result)

    def _read_ahead(self) -> None:
        self.gives_rows = self._session.driver.gives_rows(self.raw)
        if self.gives_rows and self._session.reads_ahead(type(self.raw)):
            self._top_up(BATCH)
            self.description = self.raw.description

    # Fetching; on either thread, see `can_serve`

    def can_serve(self, count: int | None) -> bool:
        """Tell whether `count` rows, or all (None), are here, so that no hop is needed."""
        if self.pending or self.closed:
            return False
        if self.exhausted and self._error is None:
            return True
        return count is not None and 0 < count <= len(self.rows)

    def fetchone(self) -> Any:
        """Return the next row, or what the driver gives at the end."""
        row = self.next()
        return None if row is END else row

    def next(self) -> Any:
        """Return the next row, or `END`; a row itself may be None."""
        if not self.gives_rows:
            row = self.give_birth().fetchone()
            return END if row is None else row
        if not self.rows and not self.exhausted and self._error is None:
            self._top_up(MORE if self._read else BATCH)
        if not self.rows:
            self._raise_late_error()
            self._told = True
            return END
        return self.rows.popleft()

    def fetchmany(self, size: int | None) -> Any:
        """Return up to `size` rows, `arraysize` where it is None."""
        if not self.gives_rows:
            raw = self.give_birth()
            return raw.fetchmany() if size is None else raw.fetchmany(size)
        if size is None:
            size = self.arraysize
        assert size is not None  # noqa: S101 - for the type checker
        missing = size - len(self.rows)
        if missing > 0 and not self.exhausted and self._error is None:
            self._top_up(missing + BATCH)
        if not self.rows:
            self._raise_late_error()
        rows = self.rows
        self._told = size > len(rows)
        return self._many_type([rows.popleft() for _ in range(min(size, len(rows)))])

    def fetchall(self) -> Any:
        """Return the rows that are left, in the driver's own container."""
        if not self.gives_rows:
            return self.give_birth().fetchall()
        if not self.exhausted:
            self._fetch_rest()
        self._raise_late_error()
        self._told = True
        rows = list(self.rows)
        self.rows.clear()
        return rows if self._all_type is list else self._all_type(rows)

    def _fetch_rest(self) -> None:
        with alone(self._session.driver, self.raw):
            while not self.exhausted and self._error is None:
                self._top_up(CHUNK)
                time.sleep(0)  # offers the GIL to the event loop

    def _top_up(self, count: int) -> None:
        before = len(self.rows)
        try:
            self._many_type = self._session.driver.fetch(self.raw, count, self.rows)
        except Exception as error:  # noqa: BLE001 - raised where the reader gets to it
            self._session.fail_late(error)
            self._error = error
        got = len(self.rows) - before
        self._read += got
        if self._error is not None:
            return
        self.exhausted = got < count
        if self.exhausted:
            self._learn_container()
        self._later_rowcount = self.raw.rowcount

    def _raise_late_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _learn_container(self) -> None:
        """Find out, once for a class of cursors, in what `fetchall()` gives its rows."""
        known = self._session.driver.containers
        kind = type(self.raw)
        if kind not in known:
            rows: Any = self.raw.fetchall()
            known[kind] = type(rows)
        self._all_type = known[kind]

    # Position

    @property
    def rownumber(self) -> Any:
        """The position in the result as if nothing had been read ahead, if the driver tells it."""
        number = self.raw.rownumber
        return self._read - len(self.rows) if self.gives_rows and number is not None else number

    def scroll(self, value: int, mode: str) -> None:
        """Move as if nothing had been read ahead; a failed move changes nothing."""
        move = self.give_birth().scroll
        position = self._read - len(self.rows)
        target = position + value if mode == "relative" else value
        if self.gives_rows and mode in _MODES and position <= target < self._read:
            for _ in range(target - position):
                self.rows.popleft()
            return
        if mode == "relative" and self.gives_rows:
            # A server that has come to the end stands behind the last row, one step further.
            behind = (
                self.exhausted and not self._told and self._session.driver.goes_behind(self.raw)
            )
            move(value - len(self.rows) - behind, mode)
        else:
            move(value, mode)
        self._read = max(0, target)
        self.rows.clear()
        self.exhausted = self._told = False

    def lose_rows(self, error: BaseException) -> None:
        """Let the driver's cursor go; the reader gets the rows that are here, then the error."""
        self.kept.setdefault("arraysize", self.raw.arraysize)
        raw, self.raw = self.raw, None
        self._session.cursors.discard(self)
        self._error = error
        self.exhausted = True
        with suppress(Exception):  # it may tell the interruption once more
            raw.close()

    def leave(self) -> None:
        """Have the driver's cursor closed ahead of the next job; on any thread."""
        self.closed = True
        self.rows.clear()  # an iteration looks at nothing else
        self._session.litter.append(self)

    def close(self) -> None:
        """Close the driver's cursor and let it die on this thread."""
        raw, self.raw = self.raw, None
        self.closed = True
        self._forget_rows()
        self._session.cursors.discard(self)
        if raw is not None:
            self._session.driver.close_cursor(raw)
