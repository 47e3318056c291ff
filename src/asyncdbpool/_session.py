"""Everything that happens to a driver's connection, on that connection's own thread."""

from __future__ import annotations

import inspect
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncdbpool._cursor import CursorCore
from asyncdbpool._gate import Gate
from asyncdbpool.errors import PoolError

if TYPE_CHECKING:
    from asyncdbpool._options import Cleanup
    from asyncdbpool.drivers import Driver
    from asyncdbpool.drivers.dbapi import Canceller

__all__ = ["Session"]

_MISSING = object()


class Session:
    """The driver's connection and what a borrower has done to it.

    The connection's thread owns it; the event loop reads `clean` and `unfinished` only while no
    job is pending, and appends to the two queues.

    Attributes:
        raw: The driver's connection.
        driver: What the pool knows about it.
        cursors: The driver's cursors that are open.
        litter: Cursors to close ahead of the next job (any thread appends).
        wishes: Attributes to set ahead of the next job (the event loop appends).
        transaction: True unless it is proven that no transaction is open.
        altered: True where a borrower may have changed the session's attributes.
        blocks: The open `transaction()` blocks, outermost first.
        broken: True where the database has rolled back what the borrower believes in.
        doubtful: True once nobody can say what state it is in.
        hung_up: True once the pool has shut the socket down.
        gate: Between two operations while a cancel is under way.
        lost: True once an error has told that the connection is of no more use.
        socket: A handle of the pool's own on the connection's socket, or None.
        canceller: Cancels what runs, from any thread, or None where the driver cannot.
        cursor_class: What `cursor()` makes, or None where it could not be told.
    """

    def __init__(
        self, pool: str, driver: Driver, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self._pool = pool
        self.driver = driver
        self.raw: Any = driver.connect(args, kwargs)
        if self.raw is None:
            raise PoolError(
                f"pool {pool!r}: connect() of {driver.module!r} returned None, not a connection"
            )
        self._arguments = args, kwargs
        self.cursors: set[CursorCore] = set()
        self.litter: deque[CursorCore] = deque()
        self.wishes: deque[tuple[str, Any]] = deque()
        self.transaction = False
        self.altered = False
        self.blocks: list[object] = []
        self.broken = False
        self._ended = False  # the job that runs has committed or rolled back last
        self._undo: dict[str, Any] = {}
        self.lost = False
        self.doubtful = False
        self.hung_up = False
        self.socket = _own_socket(driver.fileno(self.raw))
        self._poll = None if self.socket is None else _poller(self.socket)
        self.cursor_class: type | None = None
        self._memory: Any = None
        self.canceller: Canceller | None = None
        self.gate = Gate()
        self._reads_ahead: dict[type, bool] = {}

    def prepare(self, setup: Callable[[Any], object] | None) -> None:
        """Set up a new connection; what `setup` has done is committed."""
        try:
            cursor = self.raw.cursor()
            self.cursor_class = type(cursor)
            cursor.close()
            if setup is not None:
                self._run_hook("setup", setup)
                if self.driver.in_transaction(self.raw) is not False:
                    self.driver.commit(self.raw)
            self._memory = self.driver.remember(self.raw)
            self.canceller = self.driver.canceller(self.raw, *self._arguments)
        except BaseException:
            with suppress(Exception):  # the first error counts
                self.close()
            raise

    @property
    def clean(self) -> bool:
        """True where nothing has to be undone before somebody else gets the connection."""
        return not (self.transaction or self.altered or self.blocks or self.unfinished)

    @property
    def unfinished(self) -> bool:
        """True where a cursor has rows left with the driver."""
        return any(not core.finished for core in self.cursors)

    def reads_ahead(self, cursor_class: type) -> bool:
        """Tell, from memory, whether the driver lets rows of such cursors be read ahead."""
        if cursor_class not in self._reads_ahead:
            self._reads_ahead[cursor_class] = self.driver.reads_ahead(cursor_class)
        return self._reads_ahead[cursor_class]

    def perform(
        self, operation: Callable[..., Any], args: tuple[Any, ...], token: object = None
    ) -> Any:
        """Run `operation(session, *args)` in its turn, and look what state it leaves.

        With a `token`, it can be cancelled in the database.
        """
        self._sweep_quietly()
        self._ended = False
        was_open, failed = self.transaction, False
        self.gate.enter(token)
        try:
            if operation not in _ENDS:
                self._refuse_if_broken()
                while self.wishes:
                    self._fulfil(*self.wishes.popleft())
            return operation(self, *args)
        except BaseException as error:
            failed = True
            self.lost = self.lost or self.driver.is_disconnect(error, self.raw)
            raise
        finally:
            hit = self.gate.leave()
            if hit:
                self._absorb_cancel()
            self._look()
            vanished = was_open and not self.transaction and operation not in _ENDS
            if vanished and (hit or (failed and self.blocks)):
                self.broken = True

    def _absorb_cancel(self) -> None:
        """See to it that the cancel hits nothing later."""
        try:
            for core in tuple(self.cursors):
                error = None if core.finished else self.driver.interrupted(core.raw)
                if error is not None:
                    core.lose_rows(error)
            self.driver.absorb_cancel(self.raw)
        except Exception:  # noqa: BLE001 - whatever it is, the state is unknown now
            self.doubtful = True

    def _refuse_if_broken(self) -> None:
        if self.broken:
            raise PoolError(
                f"pool {self._pool!r}: the database has rolled back the whole transaction, for a "
                "statement that failed or was cancelled; leave the block, or roll back"
            )

    def cancel(self, token: object, ask: Callable[[], Mapping[str, Any]]) -> None:
        """Cancel in the database what runs for a token; blocking, on another thread.

        Args:
            token: Stands for the operation; if it has ended, nothing happens.
            ask: Gives the credentials, for drivers that connect to cancel.
        """
        assert self.canceller is not None  # noqa: S101 - asked before
        self.gate.cancel(token, partial(self.canceller, ask))

    def _look(self) -> None:
        try:
            known = self.driver.in_transaction(self.raw)
        except Exception:  # noqa: BLE001 - a broken connection proves nothing
            known = True
        self.transaction = not self._ended if known is None else known

    def _sweep_quietly(self) -> None:
        """Sweep ahead of a statement, which is not to blame for what goes wrong here."""
        try:
            self.sweep()
        except Exception as error:  # noqa: BLE001 - told by what it says of the connection
            self.doubtful = True
            self.lost = self.lost or self.driver.is_disconnect(error, self.raw)

    def sweep(self) -> None:
        """Close the cursors that nobody can reach any more."""
        while self.litter:
            self.litter.popleft().close()

    def _fulfil(self, name: str, value: Any) -> None:
        self.altered = True
        before = getattr(self.raw, name, _MISSING)
        setattr(self.raw, name, value)
        self._undo.setdefault(name, before)

    # Operations

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method of the driver's own connection that PEP 249 does not know."""
        self.altered = True
        return self.disguise(getattr(self.raw, name)(*args, **kwargs))

    def disguise(self, result: Any) -> Any:
        """Return what stands behind a proxy in place of the driver's own connection or cursor."""
        if result is self.raw:
            return self
        for core in self.cursors:
            if result is core.raw:
                return core
        if self.cursor_class is not None and isinstance(result, self.cursor_class):
            return CursorCore.adopt(self, result)
        return result

    def apply(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Call `fn(raw, *args, **kwargs)`."""
        self.altered = True
        return fn(self.raw, *args, **kwargs)

    def begin(self, block: object) -> int:
        """Open a transaction, or a savepoint inside of one; return how deep it is."""
        if self.blocks:
            self.driver.savepoint(self.raw, self._savepoint)
        else:
            self.driver.begin(self.raw)
        self.blocks.append(block)
        return len(self.blocks)

    def commit(self, block: object = None) -> None:
        """Commit, or release the savepoint of a nested block; a block that fails is undone."""
        self._leave(block)
        try:
            self._refuse_if_broken()
            if block is not None and self.blocks:
                self.driver.release_savepoint(self.raw, self._savepoint)
            else:
                self.driver.commit(self.raw)
                self._ended = True
        except BaseException:
            if block is not None:
                with suppress(Exception):  # the first error counts
                    self._roll_back(nested=bool(self.blocks))
            raise

    def rollback(self, block: object = None) -> None:
        """Roll back, or to the savepoint of a nested block."""
        self._leave(block)
        self._roll_back(nested=block is not None and bool(self.blocks))

    def _roll_back(self, *, nested: bool) -> None:
        if not nested:
            self.broken = False
            self.driver.rollback(self.raw)
            self._ended = True
        elif not self.broken:  # otherwise the savepoint is gone, and all the rest with it
            self.driver.rollback_savepoint(self.raw, self._savepoint)

    def withdraw(self, block: object) -> None:
        """Undo a block whose beginning or end was cancelled, if it is still open."""
        if self.blocks and self.blocks[-1] is block:
            self.rollback(block)

    def _leave(self, block: object) -> None:
        if block is None:
            return
        if not self.blocks or self.blocks[-1] is not block:
            raise PoolError(
                f"pool {self._pool!r}: an inner transaction() block is still open; "
                "end the blocks in the reverse order of their beginnings"
            )
        self.blocks.pop()

    @property
    def _savepoint(self) -> str:
        return f"asyncdbpool_{len(self.blocks)}"

    def once(self, work: Callable[..., Any], *args: Any) -> Any:
        """Run a one-shot: the work and the end of its transaction in one go."""
        try:
            result = work(self, *args)
            self._refuse_if_hit()
            self.sweep_all()
            if self.driver.in_transaction(self.raw) is not False:
                self.commit()
        except BaseException:
            with suppress(Exception):  # the first error counts; what is left is cleaned up later
                self.sweep_all()
                if self.driver.in_transaction(self.raw) is not False:
                    self.rollback()
            raise
        if self.altered:
            self._restore()
        return result

    def _refuse_if_hit(self) -> None:
        """Commit nothing for a caller who is gone: a killed statement may end "successfully"."""
        if self.gate.hit:
            raise PoolError(f"pool {self._pool!r}: cancelled, so nothing is committed")

    def sweep_all(self) -> None:
        """Close every cursor."""
        self.litter.clear()
        for core in tuple(self.cursors):
            core.close()

    # Between two borrowers

    def clean_up(self, cleanup: Cleanup) -> bool:
        """Undo what the borrower left; return False where the connection must be closed.

        Raises:
            BaseException: Whatever the driver or the user's `cleanup` raises; the connection must
                be closed then.
        """
        driver, raw = self.driver, self.raw
        self.wishes.clear()
        self.blocks.clear()
        self.broken = False
        self.sweep_all()
        self._ended = not self.transaction
        if cleanup == "reset":
            if not driver.can_reset:
                return False
            driver.reset(raw, *self._arguments)
            self._ended = True
        elif cleanup == "rollback":
            if driver.in_transaction(raw) is not False:
                self.rollback()
        elif cleanup is not None:
            self._run_hook("cleanup", cleanup)
            self.sweep_all()
            self._ended = True  # taken at its word, where the driver does not know better
        if self.altered or cleanup == "reset":
            self._restore()
        self._look()
        return not self.transaction

    def _restore(self) -> None:
        """Set the session's attributes as the borrower found them."""
        for name, value in reversed(self._undo.items()):
            if value is _MISSING:
                delattr(self.raw, name)
            else:
                setattr(self.raw, name, value)
        self._undo.clear()
        self.driver.restore(self.raw, self._memory)
        self.altered = False

    def ping(self, check: Callable[[Any], object] | None) -> None:
        """Prove that the server answers, with the user's check if there is one, or raise."""
        self.sweep()
        if check is None:
            self.driver.ping(self.raw)
            return
        if self._run_hook("check", check) is False:
            raise PoolError(f"pool {self._pool!r}: the check returned False")
        if self.driver.in_transaction(self.raw) is not False:
            self.driver.rollback(self.raw)

    def _run_hook(self, name: str, hook: Callable[[Any], object]) -> object:
        result = hook(self.raw)
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(
                f"pool {self._pool!r}: {name} returned a coroutine, but it runs on the "
                "connection's own thread; give a plain function"
            )
        return result

    def close(self) -> None:
        """Close the connection, whatever state it is in; its objects die on this thread."""
        self.litter.clear()
        for core in tuple(self.cursors):
            with suppress(Exception):  # the connection goes with it
                core.close()
        raw, self.raw = self.raw, None
        try:
            if raw is not None:
                self.driver.close(raw)
        finally:
            if self.socket is not None:
                self.socket.close()

    def hang_up(self) -> bool:
        """Shut the socket down, on the event loop's thread, so that a blocked call comes back.

        Returns:
            False where the driver does not tell its socket.
        """
        self.hung_up = True
        self.gate.give_up()
        if self.socket is None:
            return False
        with suppress(OSError):  # it is down already
            self.socket.shutdown(socket.SHUT_RDWR)
        return True

    @property
    def silent(self) -> bool:
        """True where nothing has come in on the socket, so far as one can look without I/O."""
        return self._poll is None or not self._poll.poll(0)


_ENDS = (Session.commit, Session.rollback, Session.withdraw)
"""No statements: an attribute's assignment that fails must not keep them from their work."""


def _own_socket(fileno: int | None) -> socket.socket | None:
    """Duplicate the descriptor: the driver may close its own, and the number be taken again."""
    if fileno is None or os.name != "posix":
        return None
    duplicate = os.dup(fileno)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:  # something else than a socket
        os.close(duplicate)
        return None


def _poller(handle: socket.socket) -> select.poll:
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    return poller
