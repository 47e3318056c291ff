"""What is told of the results: in the terminal, in the generated part of the page, in charts."""

import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.charts import chart
from benchmarks.judging import LOOPS, Claim, Spread, Verdict, judge, rounded
from benchmarks.rows import ROWS, Row

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "benchmarks.md"
CHARTS = DOCS / "benchmarks"
RESULTS = CHARTS / "results.json"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"


@dataclass
class Results:
    """All that was measured.

    Attributes:
        machine: What it was measured on and how, by heading.
        costs: By row, loop and contestant: the cost of an operation in each round.
        missing: Those that did not take part, by row, and why.
    """

    machine: dict[str, str] = field(default_factory=dict)
    costs: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what an earlier run wrote."""
        return cls(**json.loads(path.read_text("utf-8")))

    def write(self, path: Path) -> None:
        """Write them as JSON, a line for each contestant's rounds."""
        rounds: dict[str, str] = {}

        def brief(costs: list[float]) -> str:
            mark = f"@{len(rounds)}@"
            rounds[mark] = json.dumps([float(f"{cost:.5g}") for cost in costs])
            return mark

        whole: Any = asdict(self)
        for loops in whole["costs"].values():
            for contestants in loops.values():
                contestants |= {name: brief(costs) for name, costs in contestants.items()}
        text = json.dumps(whole, indent=1, ensure_ascii=False)
        for mark, costs in rounds.items():
            text = text.replace(f'"{mark}"', costs)
        path.write_text(text + "\n", "utf-8")

    def spreads(self, key: str) -> dict[str, dict[str, Spread]]:
        """The spreads of a row, by loop and contestant, as far as it was measured."""
        loops = self.costs.get(key, {})
        return {
            loop: {
                name: Spread.of(loops[loop][name])
                for name in ROWS[key].contestants
                if loops[loop].get(name)
            }
            for loop in LOOPS
            if loop in loops
        }

    def verdicts(self, key: str) -> list[dict[str, Verdict]]:
        """What became of each claim of a row, by loop."""
        row, spreads = ROWS[key], self.spreads(key)
        return [
            {
                loop: verdict
                for loop, measured in spreads.items()
                if (verdict := judge(claim, measured, loop, row.unit)) is not None
            }
            for claim in row.claims
        ]

    def collapsed(self) -> list[str]:
        """The claims against a floor that are not even half kept, in words."""
        return [
            f"{ROWS[key].title}, {loop}: {verdict.claim.subject} is {rounded(verdict.value)} x "
            f"{verdict.claim.against}, less than half of {verdict.claim.at_least:g} x"
            for key in ROWS
            for verdicts in self.verdicts(key)
            for loop, verdict in verdicts.items()
            if verdict.collapsed
        ]


# ------------------------------------------------------------------------------------------------
# The terminal


def outcome(key: str, loop: str, results: Results) -> str:
    """Tell what one row came to on one loop."""
    row, spreads = ROWS[key], results.spreads(key)[loop]
    lines = [f"{row.title} [{loop}]"]
    lines += [f"  {name:42} {spread.text(row.unit)}" for name, spread in spreads.items()]
    for name, reason in results.missing.get(key, {}).items():
        lines.append(f"  {name:42} not measured: {reason}")
    for verdicts in results.verdicts(key):
        if loop in verdicts:
            verdict = verdicts[loop]
            claim = verdict.claim
            mark = "   " if verdict.kept else "-> "
            lines.append(
                f"  {mark}{_who(claim)} = {rounded(verdict.value)}"
                f"   ({claim.text(row.unit)}{'' if verdict.kept else ', FALLS SHORT'})"
            )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------
# The page


def publish(results: Results) -> None:
    """Write the results, the charts, and the generated part of the page."""
    CHARTS.mkdir(exist_ok=True)
    results.write(RESULTS)
    results = Results.read(RESULTS)  # rounded, so that the page is that of the file
    for name, drawing in charts(results).items():
        (CHARTS / name).write_text(drawing, "utf-8")
    PAGE.write_text(with_generated(PAGE.read_text("utf-8"), generated(results)), "utf-8")


def with_generated(page: str, text: str) -> str:
    """Put the generated part between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def charts(results: Results) -> dict[str, str]:
    """The charts by the names of their files: a row with rivals has one."""
    return {
        f"{key}.svg": chart(row.chart, row.unit, spreads)
        for key, row in ROWS.items()
        if len(row.contestants) > 1 and (spreads := results.spreads(key))
    }


def generated(results: Results) -> str:
    """Write the generated part of the page."""
    measured = [key for key in ROWS if key in results.costs]
    machine = [f"- {name}: {what}" for name, what in results.machine.items()]
    parts = ["\n".join(machine), "### Targets", _targets(measured, results)]
    parts += ["### What falls short", _shortfalls(measured, results), "### Figures"]
    parts += [_figures(key, ROWS[key], results) for key in measured]
    return "\n\n".join(parts) + "\n"


def _targets(keys: Sequence[str], results: Results) -> str:
    lines = []
    for key in keys:
        row = ROWS[key]
        title = f"[{row.title}](#{_anchor(row.title)})"
        for claim, verdicts in zip(row.claims, results.verdicts(key), strict=True):
            cells = [_verdict(verdicts.get(loop), row) for loop in LOOPS]
            lines.append([title, _who(claim), claim.text(row.unit), *cells])
            title = ""
    return _table(["work", "who", "target", *LOOPS], lines)


def _who(claim: Claim) -> str:
    return f"{claim.subject} : {claim.against}" if claim.against else claim.subject


def _verdict(verdict: Verdict | None, row: Row) -> str:
    if verdict is None:
        return "—"
    unit = f" {row.unit.name}" if verdict.claim.against is None else ""
    text = f"{rounded(verdict.value)}{unit}"
    return text if verdict.kept else f"**{text}**"


def _shortfalls(keys: Sequence[str], results: Results) -> str:
    lines = []
    for key in keys:
        row, targets = ROWS[key], []
        for claim, verdicts in zip(row.claims, results.verdicts(key), strict=True):
            short = {loop: verdict for loop, verdict in verdicts.items() if not verdict.kept}
            found = " and ".join(f"{_verdict(v, row)} on {loop}" for loop, v in short.items())
            if found:
                targets.append(f"{_who(claim)} is {found} instead of {claim.text(row.unit)}")
        if targets:
            lines.append(f"- **{row.title}**: {'; '.join(targets)}. {row.why}".rstrip())
    return "\n".join(lines) or "Nothing: every target is met on both loops."


def _figures(key: str, row: Row, results: Results) -> str:
    spreads = results.spreads(key)
    lines = []
    for name, contestant in row.contestants.items():
        reason = results.missing.get(key, {}).get(name)
        cells = [
            spreads[loop][name].text(row.unit) if name in spreads.get(loop, {}) else "—"
            for loop in LOOPS
        ]
        how = inspect.cleandoc(contestant.__doc__ or "").replace("\n", " ").rstrip(".")
        lines.append([name, *cells, how if reason is None else f"not measured: {reason}"])
    parts = [f"#### {row.title}"]
    if len(row.contestants) > 1:
        parts.append(f"![{row.chart}](benchmarks/{key}.svg)")
    return "\n\n".join([*parts, _table(["", *LOOPS, "how"], lines)])


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def _anchor(title: str) -> str:
    kept = (letter for letter in title.lower() if letter.isalnum() or letter in "_- ")
    return "".join(kept).strip().replace(" ", "-")
