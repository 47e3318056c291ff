"""Figures that tests have measured, shown together at the end of the run."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

__all__ = ["Note", "note", "quantile", "ticking"]

_MARK = "figure: "

Note = Callable[[str, str], None]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextmanager
def ticking(every: float = 0.005) -> Iterator[list[float]]:
    """Take down by how many seconds the event loop was late, again and again."""
    late: list[float] = []

    async def tick() -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + every
            await asyncio.sleep(every)
            late.append(loop.time() - due)

    task = asyncio.create_task(tick(), name="ticking")
    try:
        yield late
    finally:
        task.cancel()


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Note:
    """Notes a figure: what was measured, and what it came to."""
    return lambda what, figure: record_property(_MARK + what, figure)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print them, each with its test."""
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {name.removeprefix(_MARK)}: {figure}"
        for report in terminalreporter.getreports("passed")
        for name, figure in report.user_properties
        if name.startswith(_MARK)
    ]
    if lines:
        terminalreporter.section("Figures")
        for line in sorted(lines):
            terminalreporter.line(line)
