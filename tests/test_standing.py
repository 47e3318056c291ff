"""What is known of a transaction without asking the database, and when it counts as broken."""

from types import SimpleNamespace
from typing import Any

import pytest

from asyncdbpool import PoolError
from asyncdbpool._standing import Standing
from asyncdbpool.drivers import BaseDriver

RAW = object()
BLOCK = object()


class Oracle(BaseDriver):
    """A driver that says what it is told to say, or raises."""

    def __init__(self) -> None:
        super().__init__(SimpleNamespace(connect=object))
        self.says: bool | Exception | None = False
        self.blind: bool | Exception = False

    def in_transaction(self, raw: Any) -> bool | None:
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    def is_blind_after_error(self, raw: Any) -> bool:
        if isinstance(self.blind, Exception):
            raise self.blind
        return self.blind

    def has_rolled_back(self, error: BaseException) -> bool:
        if not error.args:
            raise LookupError("an error without a number")
        return "deadlock" in str(error)


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture
def standing(oracle: Oracle) -> Standing:
    return Standing("shop", oracle)


def operate(
    standing: Standing,
    oracle: Oracle,
    says: bool | Exception | None,
    *,
    error: Exception | None = None,
    hit: bool = False,
    ends: bool = False,
) -> None:
    """Run an operation after which the driver says something."""
    standing.begin_operation()
    oracle.says = says
    if ends:
        standing.end()
    standing.end_operation(RAW, error, hit=hit, ends=ends)


def is_open(standing: Standing) -> bool:
    """Tell, which it may at any time anew."""
    return standing.open


# ------------------------------------------------------------------------------------------------
# Open or not


@pytest.mark.parametrize("says", [True, False])
def test_a_driver_that_knows_is_believed(
    standing: Standing, oracle: Oracle, *, says: bool
) -> None:
    operate(standing, oracle, says)
    assert is_open(standing) is says
    assert standing.wants_end(RAW) is says


def test_where_nobody_knows_a_transaction_counts_as_open_until_it_is_ended(
    standing: Standing, oracle: Oracle
) -> None:
    assert not is_open(standing), "nothing has run yet"
    operate(standing, oracle, None)
    assert is_open(standing)
    operate(standing, oracle, None, ends=True)
    assert not is_open(standing)
    operate(standing, oracle, None)
    assert is_open(standing)


def test_the_next_borrower_of_a_clean_connection_has_nothing_to_end(
    standing: Standing, oracle: Oracle
) -> None:
    operate(standing, oracle, None, ends=True)
    standing.start_over()
    standing.look(RAW)
    assert not is_open(standing)
    operate(standing, oracle, None)
    standing.start_over()
    standing.look(RAW)
    assert is_open(standing), "what was open still is"


def test_a_driver_that_fails_to_tell_proves_nothing(standing: Standing, oracle: Oracle) -> None:
    operate(standing, oracle, LookupError("closed"))
    assert is_open(standing)


def test_after_an_error_a_blind_driver_is_not_believed_until_the_end(
    standing: Standing, oracle: Oracle
) -> None:
    oracle.blind = True
    operate(standing, oracle, False, error=ValueError("duplicate"))
    assert is_open(standing)
    assert standing.wants_end(RAW)
    operate(standing, oracle, False)
    assert is_open(standing), "a success changes nothing about that"
    operate(standing, oracle, False, ends=True)
    assert not is_open(standing)
    assert not standing.wants_end(RAW)


def test_a_driver_that_fails_to_say_whether_it_is_blind_is(
    standing: Standing, oracle: Oracle
) -> None:
    oracle.blind = LookupError("closed")
    operate(standing, oracle, False, error=ValueError("duplicate"))
    assert is_open(standing)


# ------------------------------------------------------------------------------------------------
# Broken or not


def test_a_transaction_that_is_gone_after_a_cancelled_statement_is_broken(
    standing: Standing, oracle: Oracle
) -> None:
    operate(standing, oracle, True)
    operate(standing, oracle, False, hit=True)
    with pytest.raises(PoolError, match="pool 'shop': the database has ended the whole"):
        standing.refuse_if_broken()
    standing.start_over()
    standing.refuse_if_broken()


def test_a_transaction_that_is_gone_after_an_error_is_broken_inside_of_a_block_only(
    standing: Standing, oracle: Oracle
) -> None:
    operate(standing, oracle, True)
    operate(standing, oracle, False, error=ValueError("duplicate"))
    assert not standing.broken
    standing.blocks.append(BLOCK)
    operate(standing, oracle, True)
    operate(standing, oracle, False, error=ValueError("duplicate"))
    assert standing.broken


def test_an_error_that_tells_of_a_rollback_breaks_a_block_whatever_the_driver_says(
    standing: Standing, oracle: Oracle
) -> None:
    operate(standing, oracle, None, error=ValueError("deadlock"))
    assert not standing.broken, "without a block there is nothing to break"
    standing.blocks.append(BLOCK)
    operate(standing, oracle, None, error=ValueError("duplicate"))
    assert not standing.broken
    operate(standing, oracle, None, error=ValueError("deadlock"))
    assert standing.broken


def test_an_error_that_the_driver_cannot_read_breaks_the_block(
    standing: Standing, oracle: Oracle
) -> None:
    standing.blocks.append(BLOCK)
    operate(standing, oracle, True, error=ValueError())
    assert standing.broken


def test_a_statement_may_end_the_transaction_itself(standing: Standing, oracle: Oracle) -> None:
    standing.blocks.append(BLOCK)
    operate(standing, oracle, True)
    operate(standing, oracle, False)
    assert not standing.broken
    operate(standing, oracle, True)
    operate(standing, oracle, False, ends=True, error=ValueError("duplicate"), hit=True)
    assert not standing.broken, "it was a commit or a rollback"


def test_an_error_shakes_a_transaction_until_its_end(standing: Standing, oracle: Oracle) -> None:
    seen = [standing.shaken]
    operate(standing, oracle, True, error=ValueError("duplicate"))
    seen.append(standing.shaken)
    operate(standing, oracle, True)
    seen.append(standing.shaken)
    operate(standing, oracle, False, ends=True)
    seen.append(standing.shaken)
    assert seen == [False, True, True, False]


# ------------------------------------------------------------------------------------------------
# Blocks


def test_blocks_end_in_the_reverse_order_of_their_beginnings(standing: Standing) -> None:
    inner = object()
    standing.leave(None)  # no block at all
    standing.blocks += [BLOCK]
    assert standing.savepoint == "asyncdbpool_1"
    standing.blocks += [inner]
    assert standing.savepoint == "asyncdbpool_2"
    with pytest.raises(PoolError, match=r"an inner transaction.* is still open"):
        standing.leave(BLOCK)
    standing.leave(inner)
    standing.leave(BLOCK)
    with pytest.raises(PoolError, match="still open"):
        standing.leave(BLOCK)
    assert standing.blocks == []


def test_an_error_ahead_of_a_block_does_not_shake_it(oracle: Oracle, standing: Standing) -> None:
    standing.begin_operation()
    standing.end_operation(RAW, ValueError("x"), hit=False, ends=False)
    standing.enter(BLOCK, {})
    assert not standing.shaken
    oracle.says = True
    standing.look(RAW)
    standing.leave(BLOCK)
    standing.end_operation(RAW, ValueError("x"), hit=False, ends=False)
    standing.enter(BLOCK, {})
    assert standing.shaken, "the block takes over what was begun and has failed"
