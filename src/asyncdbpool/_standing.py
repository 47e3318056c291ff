"""What is known of a connection's transaction: whether one is open, its blocks, its breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from asyncdbpool.errors import PoolError

if TYPE_CHECKING:
    from asyncdbpool.drivers import BaseDriver

__all__ = ["SEVERAL", "Standing", "learning"]

SEVERAL = ("execute_many", "apply")
"""The operations that may be more than one statement each."""


@contextmanager
def learning(learn: Callable[[BaseException], None]) -> Iterator[None]:
    """Have an error looked at that goes another way than an operation's own."""
    try:
        yield
    except BaseException as error:
        learn(error)
        raise


class Standing:
    """A connection's transaction as far as it can be told without I/O.

    Attributes:
        open: True unless it is proven that no transaction is open.
        blocks: The open `transaction()` blocks, outermost first.
        broken: True where the database has rolled back what the borrower believes in.
        shaken: True where a statement of the transaction may have failed.
        unsure: True where something may have been begun that the driver does not know of.
    """

    __slots__ = (
        "_driver",
        "_ended",
        "_known",
        "_options",
        "_pool",
        "blocks",
        "broken",
        "open",
        "shaken",
        "unsure",
    )

    def __init__(self, pool: str, driver: BaseDriver) -> None:
        self._pool = pool
        self._driver = driver
        self._ended = False  # the operation that runs has committed or rolled back last
        self._known: bool | None = False  # what the driver has said last, None for nothing
        self.unsure = False
        self._options: Mapping[str, Any] = {}  # what the outermost block was begun with
        self.open = False
        self.blocks: list[object] = []
        self.broken = False
        self.shaken = False

    def begin_operation(self) -> None:
        """Forget how the last operation ended."""
        self._ended = False

    def end_operation(
        self, raw: Any, error: BaseException | None, *, hit: bool, ends: bool
    ) -> None:
        """Look what an operation has left behind.

        Args:
            raw: The driver's connection.
            error: What it has raised, if it has.
            hit: A cancel has been sent for it.
            ends: It was a commit or a rollback.
        """
        before = self._known
        if error is not None:
            self.doubt(raw)
        self.look(raw)
        gone = before and self._known is False
        if gone and not ends and (hit or (error is not None and self.blocks)):
            self.broken = True
        if error is not None and not ends:
            self._look_at(error)

    def fail(self, raw: Any, error: BaseException) -> None:
        """Note an error in the middle of an operation, which itself goes on."""
        self.doubt(raw)
        self._look_at(error)

    def _look_at(self, error: BaseException) -> None:
        """Look whether the database has rolled back for it, or for one that it comes from."""
        link: BaseException | None = error
        seen: set[int] = set()
        while link is not None and id(link) not in seen:
            seen.add(id(link))
            if self.blocks and self._has_rolled_back(link):
                self.broken = True
            link = link.__cause__ or link.__context__

    def _has_rolled_back(self, error: BaseException) -> bool:
        try:
            return self._driver.has_rolled_back(error)
        except Exception:  # noqa: BLE001 - the error itself must not be lost with it
            return True

    def look(self, raw: Any) -> None:
        """Ask the driver; what it cannot say counts as open."""
        try:
            self._known = self._driver.in_transaction(raw)
        except Exception:  # noqa: BLE001 - a broken connection proves nothing
            self._known = True
        known = not self._ended if self._known is None else self._known
        self.open = known or self.unsure

    def learn(self, known: bool | None) -> None:
        """Take over what the server says, asked anew after an error.

        Args:
            known: Whether a transaction is open; None where nobody can say.

        Raises:
            PoolError: The block's transaction is gone.
        """
        gone = self._known and known is False
        self._known = known
        self.unsure = known is None
        self.open = known is not False
        if gone and self.blocks:
            self.broken = True
        self.refuse_if_broken()

    def doubt(self, raw: Any) -> None:
        """Note that a statement may have failed, unseen by the driver's own account."""
        self.shaken = True
        try:
            self.unsure = self.unsure or self._driver.is_blind_after_error(raw)
        except Exception:  # noqa: BLE001 - as above
            self.unsure = True

    def wants_end(self, raw: Any) -> bool:
        """Tell, in the middle of an operation, whether there is something to end."""
        return self.unsure or self._driver.in_transaction(raw) is not False

    def end(self) -> None:
        """Note that the whole transaction was committed or rolled back."""
        self._ended = True
        self.unsure = self.shaken = False

    def start_over(self) -> None:
        """Forget the borrower; where nothing was open, nothing has to be ended."""
        self.blocks.clear()
        self.broken = False
        self._ended = not self.open

    # Blocks

    def is_nested(self, options: Mapping[str, Any]) -> bool:
        """Tell whether a block that begins now, with these options, is a savepoint."""
        if self.blocks and options and options != self._options:
            raise PoolError(
                f"pool {self._pool!r}: a transaction() inside of another one is a savepoint and "
                "takes no options of its own; give them to the outermost"
            )
        return bool(self.blocks)

    def enter(self, block: object, options: Mapping[str, Any]) -> int:
        """Note that a block has begun; return how deep it is."""
        if not self.blocks:
            self._options = options
            self.shaken = self.shaken and self.open
        self.blocks.append(block)
        return len(self.blocks)

    def leave(self, block: object) -> None:
        """Take the innermost block off; None stands for no block at all."""
        if block is None:
            return
        if not self.blocks or self.blocks[-1] is not block:
            raise PoolError(
                f"pool {self._pool!r}: an inner transaction() block is still open; "
                "end the blocks in the reverse order of their beginnings"
            )
        self.blocks.pop()

    @property
    def savepoint(self) -> str:
        """The name of the innermost block's savepoint."""
        return f"asyncdbpool_{len(self.blocks)}"

    def refuse_if_broken(self) -> None:
        """Raise where to go on would keep one half of a transaction."""
        if self.broken:
            raise PoolError(
                f"pool {self._pool!r}: the database has ended the whole transaction, for a "
                "statement that failed or was cancelled; leave the block, or roll back"
            )
