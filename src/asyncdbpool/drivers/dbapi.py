"""The generic driver: any PEP 249 module, with nothing assumed that the PEP does not promise."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, MutableSequence
from contextlib import suppress
from typing import Any, ClassVar

from asyncdbpool.drivers.base import BaseDriver
from asyncdbpool.errors import PoolError

__all__ = ["Canceller", "Driver"]

_SHARED = 2
"""The least `threadsafety` with which threads may share connections."""

Canceller = Callable[[Callable[[], Mapping[str, Any]]], None]
"""Cancels what runs on one connection; takes a function that gives the credentials."""


class Driver(BaseDriver):
    """What the pool has to know about a blocking driver beyond PEP 249.

    Subclass it for a module that the library does not know, and give it as
    `ConnectionPool(module, driver=...)` or register it in the entry-point group
    `asyncdbpool.drivers`. Every method that takes `raw`, the driver's own connection, runs on that
    connection's thread. The defaults are right, if slow, for any PEP 249 module.

    What a module has beyond the PEP is used where that can do no harm:

    - `autocommit`, where it is True or False, as an extension of the PEP has it: a borrower's
      change is undone, and a transaction leaves autocommit until it ends. It proves nothing about
      an open transaction, since a statement may have begun one.
    - `closed`, where it is a value: after an error it tells that the connection is lost.
    - `ping()`, where it is known to take nothing. One that takes something, or does not tell, may
      connect anew, as those of MySQL's modules do: that would be a session that nobody has set up.
    - `interrupt()`, or else `cancel()`, where `threadsafety` says that threads may share a
      connection. Nobody says what else it ends, nor when it is over. So what was open before
      cannot be committed any more, and the connection is closed on return.
    - `fileno()`, where it gives a socket's number.

    Attributes:
        session_attributes: Attributes that one borrower's methods may change and the next must
            find as they were.
        asking_attributes: Attributes of the connection that ask the server when they are read,
            and so cannot be read on the event loop.
    """

    session_attributes: ClassVar[tuple[str, ...]] = ()
    asking_attributes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.containers: dict[type, type] = {}  # what fetchall() gives, by the cursor's class
        # By the connections' ids; they are kept, so that no other one has the same.
        self._out_of_autocommit: dict[int, Any] = {}
        self._cancelled: dict[int, Any] = {}

    # Connecting

    def connect(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Make a connection; blocking."""
        return self.module.connect(*args, **kwargs)

    def close(self, raw: Any) -> None:
        """Close the connection."""
        for notes in (self._out_of_autocommit, self._cancelled):
            notes.pop(id(raw), None)
        raw.close()

    # Transactions

    def begin(self, raw: Any) -> None:
        """Leave autocommit until the transaction ends; else the next statement begins one."""
        if _found(raw, "autocommit") is True:
            raw.autocommit = False
            self._out_of_autocommit[id(raw)] = raw

    def learn(self, raw: Any) -> bool | None:
        """Ask the server whether a transaction is open, where an error may have hidden it."""
        return None

    def begin_once(self, raw: Any, work: str) -> None:
        """Open the transaction of a one-shot of several statements, where nothing else does.

        Args:
            raw: The driver's connection.
            work: `"execute_many"`, which is all or nothing, or `"apply"`: a function that `run()`
                calls, which may want to be outside of a transaction where the user has chosen
                autocommit.
        """
        if work == "execute_many":
            self.begin(raw)

    def confirm(self, raw: Any) -> None:
        """Raise where the open transaction has failed, so that a commit would be a rollback.

        Asked ahead of the commit of a `transaction()` block or a one-shot, if a statement of it
        may have failed and nobody minded.
        """

    def commit(self, raw: Any) -> None:
        """Commit, and go back to autocommit where `begin()` has left it."""
        raw.commit()
        self._back_to_autocommit(raw)

    def rollback(self, raw: Any) -> None:
        """Roll back; a database without transactions may have no such method (PEP 249)."""
        rollback = getattr(raw, "rollback", None)
        if rollback is not None:
            rollback()
        self._back_to_autocommit(raw)

    def _back_to_autocommit(self, raw: Any) -> None:
        if self._out_of_autocommit.pop(id(raw), None) is not None:
            raw.autocommit = True

    def savepoint(self, raw: Any, name: str) -> None:
        """Set a savepoint."""
        self.command(raw, f"SAVEPOINT {name}")

    def release_savepoint(self, raw: Any, name: str) -> None:
        """Keep what was done since the savepoint."""
        self.command(raw, f"RELEASE SAVEPOINT {name}")

    def rollback_savepoint(self, raw: Any, name: str) -> None:
        """Undo what was done since the savepoint, and forget it."""
        self.command(raw, f"ROLLBACK TO SAVEPOINT {name}")
        self.command(raw, f"RELEASE SAVEPOINT {name}")

    def command(self, raw: Any, sql: str) -> None:
        """Run a statement for its effect."""
        cursor = raw.cursor()
        try:
            cursor.execute(sql)
        finally:
            cursor.close()

    # Sessions

    def ping(self, raw: Any) -> None:
        """Prove by a round trip that the server answers, or raise; leave no transaction behind."""
        if _has_no_parameters(_found(raw, "ping")):
            if raw.ping() is False:
                raise ConnectionError("ping() returned False")
        else:
            cursor = raw.cursor()
            try:
                cursor.execute("SELECT 1")
                cursor.fetchall()
            finally:
                cursor.close()
        self.rollback(raw)

    def remember(self, raw: Any) -> Any:
        """Take down what `restore()` has to bring back: how the session is set up."""
        names = self.session_attributes
        if "autocommit" not in names and isinstance(_found(raw, "autocommit"), bool):
            names = (*names, "autocommit")
        return {name: getattr(raw, name) for name in names if hasattr(raw, name)}

    def restore(self, raw: Any, memory: Any) -> None:
        """Set up the session as it was, without I/O where nothing has changed."""
        for name, value in memory.items():
            if getattr(raw, name) != value:
                setattr(raw, name, value)

    def reset(self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Reset the whole session in the database's own way.

        Args:
            raw: The driver's connection.
            args: The positional arguments that it was made with.
            kwargs: The keyword arguments that it was made with.
        """
        raise NotImplementedError

    def new_error(self, kind: type[Exception], words: str) -> Exception:
        """Make an error of the module's own; there are modules that want more than words."""
        return kind(words)

    # Cancelling

    def canceller(
        self, raw: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Canceller | None:
        """Make a function that cancels in the database what runs on a connection.

        It is called on another thread, while a statement runs, perhaps several times; it may
        block, but must not hold the GIL meanwhile. It gets a function that gives the credentials,
        should it have to connect. Where it has to give up without knowing what became of the
        cancel, it raises `Unanswered`.

        Args:
            raw: The driver's connection.
            args: The positional arguments that it was made with.
            kwargs: The keyword arguments that it was made with.

        Returns:
            The function, or None where there is no way.
        """
        threadsafety = getattr(self.module, "threadsafety", None)
        stop = _found(raw, "interrupt") or _found(raw, "cancel")
        if not isinstance(threadsafety, int) or threadsafety < _SHARED or not _wants_nothing(stop):
            return None

        def cancel(_ask: Callable[[], Mapping[str, Any]]) -> None:
            self._cancelled[id(raw)] = raw
            stop()

        return cancel

    def absorb_cancel(self, raw: Any) -> None:
        """Make sure that a cancel that came too late does not hit the next statement.

        Where it raises, what was open cannot be committed any more, and the connection is closed
        on return.
        """
        if self._cancelled.pop(id(raw), None) is None:
            return
        for _ in range(2):  # the second has an answer of its own where the first was hit
            with suppress(Exception):
                self.command(raw, "SELECT 1")
                break
        raise PoolError("what a cancel has ended, nobody can say of this module")

    def is_disconnect(self, error: BaseException, raw: Any) -> bool:
        """Believe also in what the connection says of itself, if that is a plain value."""
        closed = _found(raw, "closed")
        return super().is_disconnect(error, raw) or (isinstance(closed, int) and bool(closed))

    def interrupted(self, cursor: Any) -> BaseException | None:
        """Make the error for a cursor that is half read, where a cancel ends that one too."""

    # Cursors and rows

    def cursor_kind(self, cursor: Any) -> type:
        """Return the class that tells what a cursor will have once its first statement is run."""
        return type(cursor)

    def reads_ahead(self, cursor_class: type) -> bool:
        """Tell whether rows may be fetched before they are asked for.

        Not where a cursor has ways of its own to fetch (as data frames, say), which would miss
        the rows read ahead: there the first rows come with the first call for them.
        """
        return not any(
            name.startswith("fetch") and name not in ("fetchone", "fetchmany", "fetchall")
            for name in dir(cursor_class)
        )

    def describe(self, cursor: Any) -> Any:
        """Return a cursor's `description`, also where its statement has failed."""
        return cursor.description

    def gives_rows(self, cursor: Any) -> bool:
        """Tell whether the statement just run has rows to fetch."""
        return cursor.description is not None

    def goes_behind(self, cursor: Any) -> bool:
        """Tell whether a fetch that comes back short leaves the position behind the last row."""
        return False

    def holds_rows(self, cursor: Any) -> bool:
        """Tell whether rows that were not fetched yet are in this process all the same.

        To fetch them only computes then, so that one large result is fetched at a time.
        """
        return False

    def next_result(self, cursor: Any) -> Any:
        """Go on to a cursor's next result, as its `nextset()` does."""
        return cursor.nextset()

    def close_cursor(self, cursor: Any) -> None:
        """Close a cursor."""
        cursor.close()

    def fetch(self, cursor: Any, count: int, into: MutableSequence[Any]) -> type:
        """Append up to `count` rows, fewer at the end, and return `fetchmany()`'s container."""
        rows: Any = cursor.fetchmany(count)
        into.extend(rows)
        kind: type = type(rows)
        return kind


def _found(raw: Any, name: str) -> Any:
    """Return what a connection has under a name that it need not know; None where it refuses."""
    try:
        return getattr(raw, name, None)
    except Exception:  # noqa: BLE001 - a property may do anything
        return None


def _has_no_parameters(method: Any) -> bool:
    """Tell whether a method is known to take nothing at all."""
    try:
        return not inspect.signature(method).parameters
    except (TypeError, ValueError):  # no method, or one in C that does not tell
        return False


def _wants_nothing(method: Any) -> bool:
    """Tell whether a method can be called without arguments, as far as it tells."""
    try:
        inspect.signature(method).bind()
    except TypeError:  # no method, or it wants something
        return False
    except ValueError:  # one in C that does not tell, and would refuse by itself
        return True
    return True
