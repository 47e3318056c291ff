"""Every step of a driver, wrong in every way, cancelled at every await: nothing is ever lost.

`support/matrix.py` has the machinery. Every await of every scene is a case, with one of the nine
strikes that it leaves room for (three moments, three means), which take turns. With
`ASYNCDBPOOL_MATRIX=whole` all nine are tried at each, in four orders of the threads' turns.
"""

import os
import zlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from asyncdbpool import _lanes
from asyncdbpool.testing import run_virtually
from support.matrix import ACTS, GATES, USAGES, Scene, play, scenes, strikes, ways

pytestmark = [pytest.mark.proof, pytest.mark.virtual]

WHOLE = os.environ.get("ASYNCDBPOOL_MATRIX") == "whole"
SEEDS = (None, 1, 2, 3) if WHOLE else (1,)


async def at_once(work: Callable[[], Any]) -> Any:
    """Stand in for a thread of anyio's, for which virtual time does not wait."""
    return work()


async def try_every_strike(scene: Scene) -> None:
    course = await play(scene)
    turn = zlib.crc32(repr(scene).encode())  # the same in every run, but not in every scene
    for strike in strikes(course, first=turn, whole=WHOLE):
        await play(scene, strike)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("usage", USAGES)
def test_a_borrower_who_is_cancelled_anywhere_leaves_nothing_behind(
    usage: str, seed: int | None
) -> None:
    async def every_case() -> None:
        for way in ways("ok"):
            await try_every_strike(Scene(way, usage, gate="connect", act="ok", nth=1))

    run_virtually(every_case, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("gate", GATES)
def test_a_step_that_goes_wrong_costs_nobody_else_anything_whoever_is_cancelled(
    gate: str, act: str, seed: int | None
) -> None:
    async def every_case() -> None:
        for scene in await scenes(gate, act):
            await try_every_strike(scene)

    with mock.patch.object(_lanes, "on_thread", at_once):
        run_virtually(every_case, seed=seed)
