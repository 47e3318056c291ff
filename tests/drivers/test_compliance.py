"""The classic compliance suite for PEP 249: what passes with a driver, passes through the pool.

Whether more passes through the pool does not matter; the figures name it. The facade's `close()`
refuses a second time, say, whether the driver's does or not.
"""

from collections.abc import Callable

import pytest

from support.compliance import TESTS, Verdict, judged
from support.figures import Note
from support.subjects import Subject

pytestmark = [pytest.mark.needs("PEP 249"), pytest.mark.proof]

LEAST = 18  # of 35 pass with every driver; Firebird's 19 are the fewest

Judge = Callable[[str], Verdict]


@pytest.fixture(scope="session")
def verdicts() -> dict[tuple[str, str], Verdict]:
    """What this process has found out, by driver and test."""
    return {}


@pytest.fixture
def judge(
    request: pytest.FixtureRequest, subject: Subject, verdicts: dict[tuple[str, str], Verdict]
) -> Judge:
    """Runs a test of the suite with the driver and through the pool, unless that is done."""

    def judge(test: str) -> Verdict:
        key = subject.name, test
        if key not in verdicts:
            place = request.getfixturevalue(subject.like.place)
            verdicts[key] = judged(test, subject, place)
        return verdicts[key]

    return judge


@pytest.mark.parametrize("test", TESTS)
def test_what_passes_with_the_driver_passes_through_the_pool(test: str, judge: Judge) -> None:
    verdict = judge(test)
    if verdict.raw is None and verdict.pooled is not None:
        pytest.fail(verdict.pooled.report)


def test_as_many_pass_through_the_pool_as_with_the_driver(judge: Judge, note: Note) -> None:
    verdicts = {test: judge(test) for test in TESTS}
    raw = {test for test, verdict in verdicts.items() if verdict.raw is None}
    pooled = {test for test, verdict in verdicts.items() if verdict.pooled is None}
    failures = {test: verdict.raw.error for test, verdict in verdicts.items() if verdict.raw}
    note("pass with the driver", f"{len(raw)} of {len(TESTS)}")
    note("pass through the pool, of these", f"{len(raw & pooled)}")
    note("pass through the pool, besides", ", ".join(sorted(pooled - raw)) or "none")
    note("fail with the driver", ", ".join(f"{t}: {e}" for t, e in failures.items()) or "none")
    assert len(raw & pooled) == len(raw) >= LEAST
