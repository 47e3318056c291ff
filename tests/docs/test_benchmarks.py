"""The benchmark computes, judges and draws rightly, and its page says what it measured."""

import asyncio
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks.charts import chart
from benchmarks.client import rotated, warmed_up
from benchmarks.contest import Lap, by_calls, by_tasks, by_threads
from benchmarks.judging import (
    KIBIBYTES,
    MICROSECONDS,
    OURS,
    PER_SECOND,
    Claim,
    Spread,
    judge,
    rounded,
)
from benchmarks.page import BEGIN, CHARTS, END, PAGE, RESULTS, Results, charts, generated, outcome
from benchmarks.rows import ROWS
from benchmarks.stalls import stalls_during

RESULTS_OF_A_RUN = Results.read(RESULTS)


def spreads(**costs: float) -> dict[str, Spread]:
    return {name: Spread.of([cost]) for name, cost in costs.items()}


# ------------------------------------------------------------------------------------------------
# Figures and verdicts


def test_a_spread_is_the_median_and_the_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(2.0, 3.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_rate_is_how_often_the_cost_fits_into_a_second() -> None:
    assert PER_SECOND.figure(0.00002) == pytest.approx(50_000)
    assert MICROSECONDS.figure(0.00002) == pytest.approx(20)
    assert KIBIBYTES.figure(2048) == 2


def test_the_quartiles_of_a_rate_are_in_ascending_order() -> None:
    text = Spread(1 / 300, 1 / 200, 1 / 100).text(PER_SECOND)
    assert text == "200 /s (100 to 300)"


@pytest.mark.parametrize(
    ("figure", "text"),
    [(0.123, "0.12"), (4.567, "4.57"), (45.67, "45.7"), (456.7, "457"), (45_678.0, "45,700")],
)
def test_figures_have_three_digits(figure: float, text: str) -> None:
    assert rounded(figure) == text


@pytest.mark.parametrize(
    ("claim", "value", "kept"),
    [
        (Claim("ours", "peer", at_least=4), 4.0, True),
        (Claim("peer", "ours", at_least=0.5), 0.25, False),
        (Claim("peer", "ours", at_most=4), 4.0, True),
        (Claim("ours", "peer", at_most=0.2), 0.25, False),
        (Claim("ours", at_most=3), 2.0, True),
        (Claim("peer", at_most=3), 8.0, False),
    ],
)
def test_who_takes_a_quarter_of_the_time_is_four_times_as_fast(
    claim: Claim, value: float, kept: bool
) -> None:
    verdict = judge(claim, spreads(ours=2e-6, peer=8e-6), "asyncio", MICROSECONDS)
    assert verdict is not None
    assert verdict.value == pytest.approx(value)
    assert verdict.kept is kept


def test_nothing_is_said_of_what_was_not_measured() -> None:
    measured = spreads(ours=1.0)
    assert judge(Claim("ours", "peer", at_least=1), measured, "asyncio", MICROSECONDS) is None
    assert judge(Claim("ours", at_most=1, loop="uvloop"), measured, "asyncio", PER_SECOND) is None


@pytest.mark.parametrize(
    ("cost", "floor", "kept", "collapsed"),
    [
        (1.0, True, True, False),
        (1.5, True, False, False),
        (2.3, True, False, True),
        (2.3, False, False, False),
    ],
)
def test_only_half_of_what_a_floor_asks_is_a_collapse(
    cost: float, floor: bool, kept: bool, collapsed: bool
) -> None:
    claim = Claim("ours", "threads", at_least=0.9, floor=floor)
    verdict = judge(claim, spreads(ours=cost, threads=1.0), "asyncio", PER_SECOND)
    assert verdict is not None
    assert (verdict.kept, verdict.collapsed) == (kept, collapsed)


def test_a_collapse_is_named() -> None:
    key = "sqlite-rows"
    fine, slow = (
        {OURS: [1.0], "sqlite3, blocking": [1.0]},
        {OURS: [3.0], "sqlite3, blocking": [1.0]},
    )
    results = Results(costs={key: {"asyncio": fine, "uvloop": slow}})
    (collapsed,) = results.collapsed()
    assert "uvloop" in collapsed
    assert "0.33 x sqlite3, blocking" in collapsed


# ------------------------------------------------------------------------------------------------
# Laps


async def test_a_lap_counts_the_operations_that_were_done() -> None:
    done: list[int] = []

    async def operation() -> None:
        done.append(1)

    lap = await by_tasks(operation, tasks=4, worth=10)(90)
    assert (lap.operations, len(done)) == (120, 12)
    done.clear()
    assert (await by_calls(lambda: done.append(1), worth=10)(25)).operations == 30
    assert len(done) == 3
    done.clear()
    assert (await by_threads([lambda: done.append(1)] * 3)(7)).operations == 9
    assert len(done) == 9


async def test_the_time_of_a_lap_is_that_of_its_operations() -> None:
    lap = await by_tasks(lambda: asyncio.sleep(0.02), tasks=2)(4)
    assert 0.03 < lap.cost < 5


async def test_warming_up_tells_how_many_operations_fill_a_turn() -> None:
    async def laps(operations: int) -> Lap:
        await asyncio.sleep(operations * 0.001)
        return Lap(operations, operations * 0.001)

    assert 1 < await warmed_up(laps, None, seconds=0.08) <= 80
    assert await warmed_up(laps, 3, seconds=0.08) == 3


def test_each_round_begins_with_another_contestant() -> None:
    names = ["a", "b", "c"]
    assert [rotated(names, n)[0] for n in range(4)] == ["a", "b", "c", "a"]
    assert sorted(rotated(names, 5)) == names


async def test_a_stall_counts_by_its_length() -> None:
    async def operation() -> None:
        await asyncio.sleep(0)
        total = 0
        loop = asyncio.get_running_loop()
        end = loop.time() + 0.2
        while loop.time() < end:
            total += 1

    assert 0.1 < (await stalls_during(operation, tasks=1)(1)).cost < 5


# ------------------------------------------------------------------------------------------------
# The rows and the page


@pytest.mark.parametrize("key", ROWS)
def test_a_row_claims_something_of_its_own_contestants(key: str) -> None:
    row = ROWS[key]
    for claim in row.claims:
        assert {claim.subject, claim.against or claim.subject} <= row.contestants.keys()
        assert (claim.at_least is None) != (claim.at_most is None)
        assert claim.subject.startswith(OURS)
    assert all(contestant.__doc__ for contestant in row.contestants.values())


def test_the_short_run_has_nothing_but_rows_with_a_floor() -> None:
    assert all(any(c.floor for c in row.claims) for row in ROWS.values() if row.short)


def test_the_page_shows_every_row_on_both_loops() -> None:
    assert list(RESULTS_OF_A_RUN.costs) == list(ROWS)
    for loops in RESULTS_OF_A_RUN.costs.values():
        assert loops.keys() == {"asyncio", "uvloop"}


def test_the_page_and_its_charts_are_those_of_the_results() -> None:
    _, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    assert rest.partition(END)[0].strip() == generated(RESULTS_OF_A_RUN).strip()
    drawn = {path.name: path.read_text("utf-8") for path in CHARTS.glob("*.svg")}
    assert drawn == charts(RESULTS_OF_A_RUN)


def test_results_that_are_written_are_read_again(tmp_path: Path) -> None:
    RESULTS_OF_A_RUN.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == RESULTS_OF_A_RUN
    assert json.loads(RESULTS.read_text("utf-8"))["machine"] == RESULTS_OF_A_RUN.machine


def test_what_falls_short_is_marked_in_the_terminal_and_on_the_page() -> None:
    costs = {OURS: [1.0], "sqlite3, blocking": [0.5], "aiosqlite": [2.0]}
    results = Results(costs={"sqlite-rows": {"asyncio": costs}})
    assert "= 0.50   (≥ 0.85 x, FALLS SHORT)" in outcome("sqlite-rows", "asyncio", results)
    assert "= 2.00   (≥ 1 x)" in outcome("sqlite-rows", "asyncio", results)
    assert "| ≥ 0.85 x | **0.50** | — |" in generated(results)
    assert "is **0.50** on asyncio instead of ≥ 0.85 x" in generated(results)


def test_a_chart_shows_each_contestant_and_its_figure() -> None:
    svg = chart("A < B", PER_SECOND, {"uvloop": spreads(asyncdbpool=0.5, peer=1.0)})
    texts = [element.text for element in ET.fromstring(svg).iter() if element.tag.endswith("text")]  # noqa: S314
    assert texts == ["A < B", "uvloop", "asyncdbpool", "2.00", "peer", "1.00"]
