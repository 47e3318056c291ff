"""Figures and verdicts: what the costs of several rounds come to, and whether a claim is kept."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LOOPS = ("asyncio", "uvloop")
OURS = "asyncdbpool"


@dataclass(frozen=True)
class Unit:
    """What a row's figures are shown in.

    Attributes:
        name: Stands behind the figure.
        scale: How many of them a second (or a byte) is.
        rate: Whether the figure is how many operations there are for that cost.
    """

    name: str
    scale: float = 1.0
    rate: bool = False

    def figure(self, cost: float) -> float:
        """Turn what one operation costs into this unit."""
        return self.scale / cost if self.rate else self.scale * cost

    def text(self, cost: float) -> str:
        """Write a cost in this unit."""
        return f"{rounded(self.figure(cost))} {self.name}"


PER_SECOND = Unit("/s", rate=True)
MICROSECONDS = Unit("us", 1e6)
MILLISECONDS = Unit("ms", 1e3)
KIBIBYTES = Unit("KiB", 1 / 1024)


def rounded(figure: float) -> str:
    """Write a figure with three digits that count, two of them behind the point at most."""
    digits = 2 - math.floor(math.log10(abs(figure) or 1.0))
    return f"{round(figure, digits):,.{min(max(digits, 0), 2)}f}"


@dataclass(frozen=True)
class Spread:
    """The costs of one operation over the rounds: the median and the quartiles around it."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, costs: Sequence[float]) -> Spread:
        """Sum up what the rounds found."""
        if len(costs) == 1:
            return cls(costs[0], costs[0], costs[0])
        low, _, high = statistics.quantiles(costs, n=4, method="inclusive")
        return cls(low, statistics.median(costs), high)

    def text(self, unit: Unit) -> str:
        """Write the median, and the quartiles where they differ from it."""
        between = sorted((unit.figure(self.low), unit.figure(self.high)))
        ends = " to ".join(rounded(figure) for figure in between)
        around = "" if self.low == self.high else f" ({ends})"
        return unit.text(self.median) + around


@dataclass(frozen=True)
class Claim:
    """What a row has to show.

    Attributes:
        subject: The contestant that it is about.
        against: The one it is compared with; None: the row's own figure counts.
        at_least: So many times as fast as `against`.
        at_most: So many times the cost of `against`; without `against`, in the row's unit.
        loop: The only event loop that it is about; None: each of them.
        floor: Whether `against` is what no pool can beat by much, so that noise hits both alike.
    """

    subject: str
    against: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    loop: str | None = None
    floor: bool = False

    def text(self, unit: Unit) -> str:
        """Write the target."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g} x"
        return (
            f"≤ {self.at_most:g} x the cost" if self.against else f"≤ {self.at_most:g} {unit.name}"
        )


@dataclass(frozen=True)
class Verdict:
    """What became of a claim: its ratio or figure, and whether that will do.

    Attributes:
        claim: The claim.
        value: What the medians say.
        kept: Whether that is enough.
        best: What the better rounds of the one and the worse ones of the other say.
    """

    claim: Claim
    value: float
    kept: bool
    best: float

    @property
    def collapsed(self) -> bool:
        """Whether it is so far off that no noise explains it: at best half of what was claimed."""
        return self.claim.floor and self.best < (self.claim.at_least or 0.0) / 2


def judge(claim: Claim, spreads: Mapping[str, Spread], loop: str, unit: Unit) -> Verdict | None:
    """Compare the medians; None where the claim is not about this loop, or nobody measured."""
    names = {claim.subject, claim.against or claim.subject}
    if claim.loop not in (None, loop) or not names <= spreads.keys():
        return None
    ours = spreads[claim.subject]
    theirs = ours if claim.against is None else spreads[claim.against]
    if claim.against is None:
        value = best = unit.figure(ours.median)
    elif claim.at_least is not None:
        value, best = theirs.median / ours.median, theirs.high / ours.low
    else:
        value, best = ours.median / theirs.median, ours.low / theirs.high
    enough = claim.at_least is None or value >= claim.at_least
    kept = enough and (claim.at_most is None or value <= claim.at_most)
    return Verdict(claim, value, kept, best)
