"""Everything that happens to a native driver's connection, on the event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import anyio

from asyncdbpool._lanes import on_thread
from asyncdbpool._queries import column_of
from asyncdbpool._standing import SEVERAL, Standing, learning
from asyncdbpool._wire import Wire
from asyncdbpool.drivers.base import Unanswered
from asyncdbpool.errors import PoolError

if TYPE_CHECKING:
    from asyncdbpool._options import Cleanup
    from asyncdbpool._record import Token
    from asyncdbpool._workers import Hand
    from asyncdbpool.drivers.native import Left, NativeCanceller, NativeDriver

__all__ = ["NativeSession"]

_MISSING = object()
_TO_NOTICE = 0.1  # seconds that what runs may take to see that its socket was shut down


class NativeSession:
    """The driver's connection and what a borrower has done to it.

    Its coroutines run one after the other in the connection's lane.

    Attributes:
        raw: The driver's connection.
        driver: What the pool knows about it.
        standing: What is known of its transaction.
        doubtful: True once nobody can say what state it is in.
        hung_up: True once the pool has shut the socket down.
        lost: True once an error has told that the connection is of no more use.
        canceller: Cancels what runs, or None where the driver cannot.
    """

    def __init__(
        self,
        worker: Hand,
        pool: str,
        driver: NativeDriver,
        raw: Any,
        arguments: tuple[tuple[Any, ...], Mapping[str, Any]],
    ) -> None:
        self._worker = worker
        self._pool = pool
        self._arguments = arguments
        self.driver = driver
        self.raw = raw
        self.standing = Standing(pool, driver)
        self.doubtful = False
        self.hung_up = False
        self.lost = False
        self.canceller: NativeCanceller | None = None
        self._wire = Wire(driver.fileno(raw))
        self._dropped = False
        self._memory: Any = None
        self._left: Left = {}
        self._running: Token | None = None  # the token of what runs
        self._in_users_hands = False  # it waits for the user's own code
        self._interrupted = False  # that was cancelled
        self._forsaken: object = None  # the token of an operation whose caller has gone
        self._hit = False  # a cancel has been sent for it
        self._cancel_under_way: tuple[anyio.CancelScope, asyncio.Event] | None = None

    @classmethod
    async def open(
        cls,
        worker: Hand,
        pool: str,
        driver: NativeDriver,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        setup: Callable[[Any], Any] | None,
    ) -> Self:
        """Make a connection and set it up; the worker is to close it at last."""
        raw = await driver.connect(args, kwargs)
        if raw is None:
            raise PoolError(
                f"pool {pool!r}: connect() of {driver.module!r} returned None, not a connection"
            )
        session = cls(worker, pool, driver, raw, (args, kwargs))
        worker.last_will = session.drop
        try:
            await session._prepare(setup)
        except BaseException:
            session.drop()
            raise
        return session

    async def _prepare(self, setup: Callable[[Any], Any] | None) -> None:
        if setup is not None:
            await setup(self.raw)
            self.standing.doubt(self.raw)
            if self.standing.wants_end(self.raw):
                await self.driver.commit(self.raw)
                self.standing.end()
        self._memory = self.driver.remember(self.raw)
        self.canceller = self.driver.canceller(self.raw, *self._arguments)

    @property
    def clean(self) -> bool:
        """True where nothing has to be undone before somebody else gets the connection."""
        standing, driver, raw = self.standing, self.driver, self.raw
        try:
            return not (
                driver.is_closed(raw)
                or standing.open
                or standing.blocks
                or self._left
                or driver.is_cancelling(raw)
                or driver.in_transaction(raw)
                or driver.is_unread(raw)
                or driver.is_altered(raw, self._memory)
            )
        except Exception:  # noqa: BLE001 - a driver that cannot tell proves nothing
            return False

    @property
    def passes_on(self) -> bool:
        """True where the next one-shot may follow the last, which has run no code of the user's.

        So it can have left a transaction behind, but nothing else that `clean` looks at.
        """
        standing = self.standing
        unfit = self.lost or self.doubtful or self.hung_up or standing.open or standing.blocks
        return not (unfit or self.driver.is_closed(self.raw))

    @property
    def silent(self) -> bool:
        """True where nothing has come in, so far as one can look without I/O."""
        try:
            return self._wire.silent and not self.driver.is_closed(self.raw)
        except Exception:  # noqa: BLE001 - as above; a ping will tell
            return False

    async def perform(
        self, operation: Callable[..., Any], args: tuple[Any, ...], token: Token | None = None
    ) -> Any:
        """Run `operation(*args)` in its turn, and look what state it leaves.

        With a `token`, it can be cancelled in the database.
        """
        ends = getattr(operation, "__func__", None) in _ENDS
        failure: BaseException | None = None
        self.standing.begin_operation()
        self._running, self._hit = token, False
        self._in_users_hands = self._interrupted = False
        try:
            self._refuse_if_hung_up()
            if self.driver.is_cancelling(self.raw):
                await self._await_cancelling()
            if token is not None:
                self._refuse_if_forsaken()
            if not ends:
                self.standing.refuse_if_broken()
            return await operation(*args)
        except BaseException as error:
            failure = error
            self._learn_from(error)
            raise
        finally:
            self._running = self._forsaken = None
            try:
                if self._hit or self._interrupted:
                    await self._survive_cancel()
            finally:
                hit = self._hit or self._interrupted
                self.standing.end_operation(self.raw, failure, hit=hit, ends=ends)
                del failure  # no cycle of exception, traceback and frame

    def _learn_from(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError) and not self.driver.survives_cancellation:
            self.doubtful = True
        try:
            self.lost = self.lost or self.driver.is_disconnect(error, self.raw)
        except Exception:  # noqa: BLE001 - the error itself must not be lost with it
            self.doubtful = True

    async def _await_cancelling(self) -> None:
        """Wait until the driver has ended by itself what it did before."""
        if self.driver.is_cancelling(self.raw):
            await self.driver.await_cancelling(self.raw)
            self.standing.look(self.raw)

    async def _survive_cancel(self) -> None:
        """Wait for a cancel that is on its way, and see to it that it hits nothing later."""
        try:
            if self._cancel_under_way is not None:
                await self._cancel_under_way[1].wait()
            if self._interrupted:
                self.doubtful = self.doubtful or not self.driver.survives_cancellation
                await self._await_cancelling()
            if self._hit:
                await self.driver.absorb_cancel(self.raw)
        except BaseException as error:
            self.doubtful = True
            self._learn_from(error)
            if not isinstance(error, Exception):
                raise

    async def cancel(self, token: object, ask: Callable[[], Mapping[str, Any]] | None) -> None:
        """Cancel in the database what runs for a token; if it has ended, nothing happens."""
        assert self.canceller is not None  # noqa: S101 - asked before
        if self._running is not token or self.hung_up:
            return
        self._hit = True
        over = asyncio.Event()
        with anyio.CancelScope() as scope:
            self._cancel_under_way = scope, over
            try:
                await self.canceller(partial(_answer, ask))
            except Unanswered:
                self.doubtful = True
                self.hang_up()
                raise
            finally:
                self._cancel_under_way = None
                over.set()

    def forsake(self, token: object) -> None:
        """Cancel what runs for a token whose caller has gone, where it is the user's own code.

        A driver that does not survive that is given a moment to see the cancel in the database.
        """
        if self._running is not token:
            return  # it has not begun, and is dropped
        self._forsaken = token
        if self.driver.survives_cancellation:
            self._interrupt(token)
        else:
            asyncio.get_running_loop().call_later(_TO_NOTICE, self._interrupt, token)

    def _interrupt(self, token: object) -> None:
        if self._running is token and self._in_users_hands and not self._interrupted:
            self._interrupted = True
            self._worker.interrupt()

    def _hand_over_to_user(self) -> None:
        """Let the user's own code have its way, unless its caller has gone."""
        self._refuse_if_forsaken()
        self._in_users_hands = True

    def _refuse_if_hung_up(self) -> None:
        if self.hung_up:
            raise PoolError(f"pool {self._pool!r}: the connection was cut off before this ran")

    def _refuse_if_forsaken(self) -> None:
        """Begin nothing for a caller who has gone meanwhile."""
        running = self._running
        gone = running is not None and (running is self._forsaken or running.unwanted)
        if self._hit or gone:
            raise PoolError(f"pool {self._pool!r}: its caller was cancelled before it began")

    # Operations

    async def fetch_all(self, sql: Any, params: Any) -> list[Any]:
        """Run a statement and return all of its rows."""
        return await self.driver.fetch_all(self.raw, sql, params)

    async def fetch_one(self, sql: Any, params: Any) -> Any:
        """Run a statement and return its first row, or None."""
        return await self.driver.fetch_one(self.raw, sql, params)

    async def fetch_val(self, sql: Any, params: Any, column: Any) -> Any:
        """Run a statement and return one column of its first row, or None."""
        return column_of(await self.driver.fetch_one(self.raw, sql, params), column)

    async def execute(self, sql: Any, params: Any) -> int:
        """Run a statement and return its rowcount, -1 where it is not known."""
        return await self.driver.execute(self.raw, sql, params)

    async def execute_many(self, sql: Any, params: Any) -> int:
        """Run a statement once for each set of parameters and return the rowcount."""
        return await self.driver.execute_many(self.raw, sql, params)

    async def call(
        self, owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call a method of the driver's own connection, or of a guest's, in its turn."""
        if name in self.driver.calls_users_code:
            self._hand_over_to_user()
        if owner is self.raw and not (args or kwargs):
            kwargs = dict(self.driver.defaults.get(name, {}))
        self._note(owner, name, args, kwargs)
        return await getattr(owner, name)(*args, **kwargs)

    def call_at_once(
        self, owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call a method that asks nothing of the server."""
        self._note(owner, name, args, kwargs)
        return getattr(owner, name)(*args, **kwargs)

    def _note(self, owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name in self.driver.noted and owner is self.raw:
            bound = inspect.signature(getattr(owner, name)).bind(*args, **kwargs)
            self.driver.note(owner, name, bound.arguments, self._left)

    async def wait_for(self, guest: Any) -> Any:
        """Await a guest that is awaitable itself."""
        return await guest

    async def take(self, iterator: Any, count: int) -> tuple[list[Any], BaseException | None]:
        """Take up to `count` items, and whatever ended the iteration before that."""
        items: list[Any] = []
        try:
            while len(items) < count:
                items.append(await anext(iterator))
        except StopAsyncIteration as end:
            return items, end
        except Exception as error:  # noqa: BLE001 - raised where the reader gets to it
            self._learn_from(error)
            self.standing.fail(self.raw, error)
            return items, error
        return items, None

    def assign(self, name: str, value: Any) -> None:
        """Set an attribute of the driver's connection until the return."""
        before = getattr(self.raw, name, _MISSING)
        setattr(self.raw, name, value)
        self._left.setdefault(("attribute", name), partial(_put_back, self.raw, name, before))

    async def apply(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Call `fn(raw, *args, **kwargs)`."""
        self._hand_over_to_user()
        try:
            result = await fn(self.raw, *args, **kwargs)
        finally:
            self._in_users_hands = False
            self.standing.doubt(self.raw)  # it may have swallowed an error
        if self.standing.blocks:
            await self._learn()
        return result

    async def _learn(self) -> None:
        """Ask the server whether the transaction is still open, where an error may hide it."""
        await self._await_cancelling()
        if self.standing.unsure and not self.driver.is_unread(self.raw):
            self.standing.learn(await self.driver.learn(self.raw))

    async def begin(self, block: object, options: Mapping[str, Any]) -> int:
        """Open a transaction, or a savepoint inside of one; return how deep it is."""
        standing = self.standing
        await self._learn()
        if standing.blocks:  # otherwise nothing may have to be sent
            await self._make_way()
        if standing.is_nested(options):
            await self.driver.savepoint(self.raw, standing.savepoint)
        else:
            await self.driver.begin(self.raw, **options)
        return standing.enter(block, options)

    async def commit(self, block: object = None) -> None:
        """Commit, or release the savepoint of a nested block; a block that fails is undone."""
        standing = self.standing
        standing.leave(block)
        try:
            standing.refuse_if_broken()
            if block is not None and standing.blocks:
                await self.driver.release_savepoint(self.raw, standing.savepoint)
            else:
                await self._commit(checked=block is not None)
        except BaseException:
            if block is not None:
                with suppress(Exception), learning(self._learn_from):  # the first error counts
                    await self._roll_back(nested=bool(standing.blocks))
            raise

    async def _commit(self, *, checked: bool) -> None:
        standing = self.standing
        await self._make_way()
        if standing.wants_end(self.raw):
            if checked and standing.shaken:
                await self.driver.confirm(self.raw)
            await self.driver.commit(self.raw)
        standing.end()

    async def _make_way(self) -> None:
        """See to it that a statement of the pool's own can be run."""
        await self._await_cancelling()
        if self.driver.is_unread(self.raw):
            await self.driver.drain(self.raw)

    async def rollback(self, block: object = None) -> None:
        """Roll back, or to the savepoint of a nested block."""
        self.standing.leave(block)
        await self._roll_back(nested=block is not None and bool(self.standing.blocks))

    async def _roll_back(self, *, nested: bool) -> None:
        standing = self.standing
        await self._make_way()
        if not nested:
            standing.broken = False
            if standing.wants_end(self.raw):
                await self.driver.rollback(self.raw)
            standing.end()
        elif not standing.broken:  # otherwise the savepoint is gone, and all the rest with it
            await self.driver.rollback_savepoint(self.raw, standing.savepoint)

    async def withdraw(self, block: object) -> None:
        """Undo a block whose beginning or end was cancelled, if it is still open."""
        if self.standing.blocks and self.standing.blocks[-1] is block:
            await self.rollback(block)

    async def once(self, work: str, *args: Any) -> Any:
        """Run a one-shot: an operation and the end of its transaction in one go."""
        try:
            if work in SEVERAL:
                await self.driver.begin_once(self.raw, work)
            result = await getattr(self, work)(*args)
            self._refuse_if_hit()
            if self.standing.wants_end(self.raw):
                await self._commit(checked=True)
        except BaseException:
            self.standing.doubt(self.raw)
            # The first error counts; what is left is cleaned up later.
            with suppress(Exception), learning(self._learn_from):
                await self._roll_back(nested=False)
            raise
        return result

    def _refuse_if_hit(self) -> None:
        """Commit nothing for a caller who is gone: a killed statement may end "successfully"."""
        if self._hit or self._interrupted:
            raise PoolError(f"pool {self._pool!r}: cancelled, so nothing is committed")

    # Between two borrowers

    def let_go(self) -> None:
        """Take leave of the borrower of a clean connection; nothing is left to be done."""

    async def clean_up(self, cleanup: Cleanup) -> bool:
        """Undo what the borrower left; return False where the connection must be closed.

        Raises:
            BaseException: Whatever the driver or the user's `cleanup` raises; the connection must
                be closed then.
        """
        with learning(self._learn_from):
            return await self._clean_up(cleanup)

    async def _clean_up(self, cleanup: Cleanup) -> bool:
        driver, raw, standing = self.driver, self.raw, self.standing
        if driver.is_closed(raw):
            return False
        standing.start_over()
        await self._make_way()
        while self._left:
            _, take_back = self._left.popitem()
            await _awaited(take_back())
        if cleanup == "reset":
            if not driver.can_reset:
                return False
            await self._roll_back(nested=False)
            await driver.reset(raw, *self._arguments)
        elif cleanup == "rollback":
            await self._roll_back(nested=False)
        elif cleanup is not None:
            await _awaited(cleanup(raw))
            standing.end()  # taken at its word, where the driver does not know better
        if driver.is_altered(raw, self._memory):
            await driver.restore(raw, self._memory)
        standing.look(raw)
        return not (standing.open or driver.is_unread(raw) or driver.is_closed(raw))

    async def ping(self, check: Callable[[Any], Any] | None) -> None:
        """Prove that the server answers, with the user's check if there is one, or raise."""
        if check is None:
            await self.driver.ping(self.raw)
            return
        if await check(self.raw) is False:
            raise PoolError(f"pool {self._pool!r}: the check returned False")
        await self._roll_back(nested=False)

    async def close(self) -> None:
        """Close the connection, whatever state it is in."""
        gone = self._dropped or self.lost or self.hung_up or self.driver.is_closed(self.raw)
        try:
            if not gone:
                await self.driver.close(self.raw)
        finally:
            self.drop()

    def drop(self) -> None:
        """Close the connection at once, also where its event loop is closed already."""
        if not self._dropped:
            self._dropped = True
            self._wire.shut_down()
            with suppress(Exception):  # without its loop a driver cannot do more
                self.driver.terminate(self.raw)
            self._wire.close()

    def disown(self) -> None:
        """Take the socket away, in a forked child, without a word to the server."""
        self._wire.sever()

    def hang_up(self) -> bool:
        """Shut the socket down, and a little later cancel what runs all the same."""
        self.hung_up = True
        self._wire.shut_down()
        if self._cancel_under_way is not None:
            self._cancel_under_way[0].cancel()
        asyncio.get_running_loop().call_later(_TO_NOTICE, self._worker.interrupt)
        return True


_ENDS = (NativeSession.commit, NativeSession.rollback, NativeSession.withdraw)
"""No statements: a broken transaction must not keep them from their work."""


async def _answer(ask: Callable[[], Mapping[str, Any]] | None) -> Mapping[str, Any]:
    """Ask for the credentials on a thread, since that may block."""
    return {} if ask is None else await on_thread(ask)


async def _awaited(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def _put_back(raw: Any, name: str, value: Any) -> None:
    if value is _MISSING:
        delattr(raw, name)
    else:
        setattr(raw, name, value)
