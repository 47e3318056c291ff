"""Everything that happens to a blocking driver's connection, on that connection's thread."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from asyncdbpool import _queries
from asyncdbpool._broken import refuse_if_no_connection, refuse_if_no_cursor
from asyncdbpool._cursor import CursorCore
from asyncdbpool._gate import Gate
from asyncdbpool._standing import SEVERAL, Standing, learning
from asyncdbpool._wire import Wire
from asyncdbpool.errors import PoolError

if TYPE_CHECKING:
    from asyncdbpool._options import Cleanup
    from asyncdbpool._record import Token
    from asyncdbpool._workers import Worker
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
        standing: What is known of its transaction.
        altered: True where a borrower may have changed the session's attributes.
        doubtful: True once nobody can say what state it is in.
        hung_up: True once the pool has shut the socket down.
        gate: Between two operations while a cancel is under way.
        lost: True once an error has told that the connection is of no more use.
        canceller: Cancels what runs, from any thread, or None where the driver cannot.
        cursor_class: What `cursor()` makes, or None where it could not be told.
        cursor_kind: What tells of cursors that are not born yet what they will have.
    """

    @classmethod
    def open(
        cls,
        worker: Worker,
        pool: str,
        driver: Driver,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        setup: Callable[[Any], object] | None,
    ) -> Self:
        """Make and set up a connection, on the worker's thread, which is to close it at last."""
        worker.brake = None  # a failed attempt may have left one
        session = cls(pool, driver, args, kwargs)
        worker.brake = session.hang_up
        session.prepare(setup)
        worker.last_will = session.close
        return session

    def __init__(
        self, pool: str, driver: Driver, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self._pool = pool
        self.driver = driver
        self.raw: Any = driver.connect(args, kwargs)
        refuse_if_no_connection(pool, driver, self.raw)
        self._arguments = args, kwargs
        self.cursors: set[CursorCore] = set()
        self.litter: deque[CursorCore] = deque()
        self.wishes: deque[tuple[str, Any]] = deque()
        self.standing = Standing(pool, driver)
        self.altered = False
        self._undo: dict[str, Any] = {}
        self.lost = False
        self.doubtful = False
        self.hung_up = False
        self._wire = Wire(driver.fileno(self.raw))
        self.cursor_class: type | None = None
        self.cursor_kind: type | None = None
        self._memory: Any = None
        self.canceller: Canceller | None = None
        self.gate = Gate()
        self._reads_ahead: dict[type, bool] = {}

    def prepare(self, setup: Callable[[Any], object] | None) -> None:
        """Set up a new connection; what `setup` has done is committed."""
        try:
            cursor = self.raw.cursor()
            refuse_if_no_cursor(self._pool, self.driver, cursor)
            self.cursor_class = type(cursor)
            self.cursor_kind = self.driver.cursor_kind(cursor)
            cursor.close()
            if setup is not None:
                self._run_hook("setup", setup)
                self.standing.doubt(self.raw)
                if self.standing.wants_end(self.raw):
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
        standing = self.standing
        return not (standing.open or self.altered or standing.blocks or self.unfinished)

    @property
    def passes_on(self) -> bool:
        """True where the next one-shot may follow the last, with nothing in between."""
        return self.clean and not (self.lost or self.doubtful or self.hung_up)

    @property
    def unfinished(self) -> bool:
        """True where a cursor has rows left with the driver."""
        for core in self.cursors:  # noqa: SIM110 - a generator costs more than most of them
            if not core.finished:
                return True
        return False

    def reads_ahead(self, cursor_class: type) -> bool:
        """Tell, from memory, whether the driver lets rows of such cursors be read ahead."""
        if cursor_class not in self._reads_ahead:
            self._reads_ahead[cursor_class] = self.driver.reads_ahead(cursor_class)
        return self._reads_ahead[cursor_class]

    def perform(
        self, operation: Callable[..., Any], args: tuple[Any, ...], token: Token | None = None
    ) -> Any:
        """Run `operation(*args)` in its turn, and look what state it leaves.

        With a `token`, it can be cancelled in the database.
        """
        ends = getattr(operation, "__func__", None) in _ENDS
        failure: BaseException | None = None
        if self.litter:
            self._sweep_quietly()
        self.standing.begin_operation()
        self.gate.enter(token)
        try:
            if self.hung_up:
                self._refuse_if_cut_off()
            if not ends:
                self.standing.refuse_if_broken()
                while self.wishes:
                    self._fulfil(*self.wishes.popleft())
            return operation(*args)
        except BaseException as error:
            failure = error
            self._learn_from(error)
            raise
        finally:
            hit = self.gate.leave()
            try:
                if hit:
                    self._absorb_cancel()
            finally:
                self.standing.end_operation(self.raw, failure, hit=hit, ends=ends)
                del failure  # no cycle of exception, traceback and frame

    def _refuse_if_cut_off(self) -> None:
        """Raise where there was no socket to shut down, which would have the driver raise."""
        if not self._wire:
            raise PoolError(f"pool {self._pool!r}: the connection was cut off before this ran")

    def _learn_from(self, error: BaseException) -> None:
        try:
            self.lost = self.lost or self.driver.is_disconnect(error, self.raw)
        except Exception:  # noqa: BLE001 - the error itself must not be lost with it
            self.doubtful = True

    def fail_late(self, error: BaseException) -> None:
        """Take note of an error that a reader will meet later, or never."""
        self._learn_from(error)
        self.standing.fail(self.raw, error)

    def _absorb_cancel(self) -> None:
        """See to it that the cancel hits nothing later."""
        if self.gate.unanswered:
            self.doubtful = True
            self.hang_up()
            return
        try:
            for core in tuple(self.cursors):
                error = None if core.finished else self.driver.interrupted(core.raw)
                if error is not None:
                    core.lose_rows(error)
            self.driver.absorb_cancel(self.raw)
        except Exception as error:  # noqa: BLE001 - whatever it is, the state is unknown now
            self.doubtful = True
            self.standing.broken = self.standing.broken or self.standing.open
            self._learn_from(error)

    def cancel(self, token: object, ask: Callable[[], Mapping[str, Any]] | None) -> None:
        """Cancel in the database what runs for a token; blocking, on another thread.

        Args:
            token: Stands for the operation; if it has ended, nothing happens.
            ask: Gives the credentials, for drivers that connect to cancel; None: there are none.
        """
        assert self.canceller is not None  # noqa: S101 - asked before
        self.gate.cancel(token, partial(self.canceller, ask or dict))

    def _sweep_quietly(self) -> None:
        """Sweep ahead of a statement, which is not to blame for what goes wrong here."""
        try:
            self.sweep()
        except Exception as error:  # noqa: BLE001 - told by what it says of the connection
            self.doubtful = True
            self._learn_from(error)

    def sweep(self) -> None:
        """Close the cursors that nobody can reach any more."""
        while self.litter:
            self.litter.popleft().close()

    def _fulfil(self, name: str, value: Any) -> None:
        self.altered = True
        before = getattr(self.raw, name, _MISSING)
        setattr(self.raw, name, value)
        self._undo.setdefault(name, before)

    def forsake(self, token: object) -> None:
        """Do nothing: a function on a thread cannot be stopped."""

    # Operations

    def fetch_all(self, sql: Any, params: Any) -> list[Any]:
        """Run a statement and return all of its rows."""
        return _queries.fetch_all(self.driver, self.raw, sql, params)

    def fetch_one(self, sql: Any, params: Any) -> Any:
        """Run a statement and return its first row, or None."""
        return _queries.fetch_one(self.driver, self.raw, sql, params)

    def fetch_val(self, sql: Any, params: Any, column: Any) -> Any:
        """Run a statement and return one column of its first row, or None."""
        return _queries.column_of(_queries.fetch_one(self.driver, self.raw, sql, params), column)

    def execute(self, sql: Any, params: Any) -> int:
        """Run a statement and return its rowcount, -1 where it is not known."""
        return _queries.execute(self.driver, self.raw, sql, params)

    def execute_many(self, sql: Any, params: Any) -> int:
        """Run a statement once for each set of parameters and return the rowcount."""
        return _queries.execute_many(self.driver, self.raw, sql, params)

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
        try:
            result = fn(self.raw, *args, **kwargs)
        finally:
            self.standing.doubt(self.raw)  # it may have swallowed an error
        if self.standing.blocks:
            self._learn()
        return result

    def _learn(self) -> None:
        """Ask the server whether the transaction is still open, where an error may hide it."""
        if self.standing.unsure and not self.unfinished:
            self.standing.learn(self.driver.learn(self.raw))

    def begin(self, block: object, options: Mapping[str, Any]) -> int:
        """Open a transaction, or a savepoint inside of one; return how deep it is."""
        standing = self.standing
        self._learn()
        if standing.is_nested(options):
            self.driver.savepoint(self.raw, standing.savepoint)
        else:
            self.driver.begin(self.raw, **options)
        return standing.enter(block, options)

    def commit(self, block: object = None) -> None:
        """Commit, or release the savepoint of a nested block; a block that fails is undone."""
        standing = self.standing
        standing.leave(block)
        try:
            standing.refuse_if_broken()
            if block is not None and standing.blocks:
                self.driver.release_savepoint(self.raw, standing.savepoint)
            else:
                self._commit(checked=block is not None)
        except BaseException:
            if block is not None:
                with suppress(Exception), learning(self._learn_from):  # the first error counts
                    self._roll_back(nested=bool(standing.blocks))
            raise

    def _commit(self, *, checked: bool) -> None:
        if checked and self.standing.shaken:
            self.driver.confirm(self.raw)
        self.driver.commit(self.raw)
        self.standing.end()

    def rollback(self, block: object = None) -> None:
        """Roll back, or to the savepoint of a nested block."""
        self.standing.leave(block)
        self._roll_back(nested=block is not None and bool(self.standing.blocks))

    def _roll_back(self, *, nested: bool) -> None:
        standing = self.standing
        if not nested:
            standing.broken = False
            self.driver.rollback(self.raw)
            standing.end()
        elif not standing.broken:  # otherwise the savepoint is gone, and all the rest with it
            self.driver.rollback_savepoint(self.raw, standing.savepoint)

    def withdraw(self, block: object) -> None:
        """Undo a block whose beginning or end was cancelled, if it is still open."""
        if self.standing.blocks and self.standing.blocks[-1] is block:
            self.rollback(block)

    def once(self, work: str, *args: Any) -> Any:
        """Run a one-shot: an operation and the end of its transaction in one go."""
        try:
            if work in SEVERAL:
                self.driver.begin_once(self.raw, work)
            result = getattr(self, work)(*args)
            self._refuse_if_hit()
            if self.standing.wants_end(self.raw):
                self._commit(checked=True)
        except BaseException:
            # The first error counts; what is left is cleaned up later.
            with suppress(Exception), learning(self._learn_from):
                self.standing.doubt(self.raw)
                self.sweep_all()
                if self.standing.wants_end(self.raw):
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

    def let_go(self) -> Callable[[], None] | None:
        """Take leave of the borrower of a clean connection; return what is to be done later."""
        self.wishes.clear()
        for core in self.cursors:
            if not core.closed:
                core.leave()
        return self._sweep_late if self.cursors else None

    def _sweep_late(self) -> None:
        with learning(self._learn_from):
            self.sweep()

    def clean_up(self, cleanup: Cleanup) -> bool:
        """Undo what the borrower left; return False where the connection must be closed.

        Raises:
            BaseException: Whatever the driver or the user's `cleanup` raises; the connection must
                be closed then.
        """
        with learning(self._learn_from):
            return self._clean_up(cleanup)

    def _clean_up(self, cleanup: Cleanup) -> bool:
        driver, raw, standing = self.driver, self.raw, self.standing
        self.wishes.clear()
        standing.start_over()
        self.sweep_all()
        if cleanup == "reset":
            if not driver.can_reset:
                return False
            driver.reset(raw, *self._arguments)
            standing.end()
        elif cleanup == "rollback":
            if standing.wants_end(raw):
                self.rollback()
        elif cleanup is not None:
            self._run_hook("cleanup", cleanup)
            self.sweep_all()
            standing.end()  # taken at its word, where the driver does not know better
        if self.altered or cleanup == "reset":
            self._restore()
        standing.look(raw)
        return not standing.open

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
        if self.standing.wants_end(self.raw):
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
            self._wire.close()

    def hang_up(self) -> bool:
        """Shut the socket down, on the event loop's thread, so that a blocked call comes back.

        Returns:
            False where the driver does not tell its socket.
        """
        self.hung_up = True
        self.gate.give_up()
        self._wire.shut_down()
        return bool(self._wire)

    def disown(self) -> None:
        """Take the socket away, in a forked child, without a word to the server."""
        self._wire.sever()

    @property
    def silent(self) -> bool:
        """True where nothing has come in on the socket, so far as one can look without I/O."""
        return self._wire.silent


_ENDS = (Session.commit, Session.rollback, Session.withdraw)
"""No statements: an attribute's assignment that fails must not keep them from their work."""
