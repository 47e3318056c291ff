"""The pool under random load, faults and cancellations: seed after seed in virtual time.

`ASYNCDBPOOL_SEEDS=17` runs the simulation of seed 17 alone, `ASYNCDBPOOL_SEEDS=0-9999` many more.
"""

import os

import pytest
from blockbuster import BlockBuster

from support.simulation import simulate

pytestmark = [pytest.mark.proof, pytest.mark.virtual]

CHUNK = 25
FIRST, _, LAST = os.environ.get("ASYNCDBPOOL_SEEDS", "0-499").partition("-")
SEEDS = range(int(FIRST), int(LAST or FIRST) + 1)


@pytest.fixture(autouse=True)
def _peeking(blockbuster: BlockBuster) -> None:
    """Let a native fake look whether its socket is cut: it reads only what has come in already."""
    recv = blockbuster.functions["socket.socket.recv"]
    recv.can_block_in("asyncdbpool/testing/gates.py", "is_cut")


@pytest.mark.parametrize("first", SEEDS[::CHUNK])
def test_nothing_is_lost_whatever_happens(first: int) -> None:
    for seed in range(first, min(first + CHUNK, SEEDS.stop)):
        try:
            simulate(seed)
        except BaseException as error:
            again = f"ASYNCDBPOOL_SEEDS={seed} python3 noxfile.py simulation"
            raise AssertionError(f"seed {seed} has failed; again: {again}") from error


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_a_seed_takes_the_same_course_every_time(seed: int) -> None:
    assert simulate(seed) == simulate(seed)


def test_seeds_take_different_courses() -> None:
    assert len({simulate(seed) for seed in range(3)}) == 3
