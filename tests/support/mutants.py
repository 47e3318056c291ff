"""What the tests made of mutmut's mutants: the score of each file, and who survived unexplained.

`nox -s mutation` runs it. `report` fails under the score that is asked for; `forget` has those
that survived judged again, which mutmut does by itself only where their function has changed.

Survivors that need no test are explained in `tests/survivors.toml`, each by the place, by the line
that was changed and, where not every change of the line is meant, by what it becomes.
"""

import ast
import difflib
import json
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
EXPLAINED = ROOT / "tests" / "survivors.toml"
ASKED_FOR = 90.0  # percent of all mutants, the explained survivors not counted as killed
NEAR = {
    "_borrowing": ("borrowing",),
    "_cancelling": ("cancelled_statements", "cancelling_late"),
    "_claims": ("connecting", "limits"),
    "_connect": ("connecting",),
    "_engine": ("limits", "returning", "closing", "live_changes"),
    "_lease": ("misuse", "reports", "cancellation"),
    "_line": ("relay", "limits"),
    "_permits": ("permits", "live_changes"),
    "_quota": ("quota",),
    "_record": ("workers", "connecting"),
    "_refusals": ("limits", "reports"),
    "_relay": ("relay",),
    "_stock": ("checking", "upkeep", "connecting"),
    "_upkeep": ("upkeep",),
    "_workers": ("workers",),
    "pool": ("closing", "reports", "live_changes"),
}
"""The tests that notice most of what is changed in a module, by the names of their files."""

ALIVE = {0: "survived", 33: "reached by no test"}
UNJUDGED = {None, 2}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of one function.

    Attributes:
        path: The mutated file, which holds every variant of the function.
        name: mutmut's name for it.
        verdict: How its tests ended; None if they have not run.
    """

    path: Path
    name: str
    verdict: int | None

    @property
    def module(self) -> str:
        """The module, without the package."""
        return self.name.rpartition(".")[0].removeprefix("asyncdbpool.")

    @property
    def where(self) -> str:
        """The function's qualified name."""
        mangled = self.name.rpartition(".")[2].rpartition("__mutmut_")[0]
        return (
            f"{self.module}.{mangled[1:].lstrip('_ǁ' if 'ǁ' in mangled else '').replace('ǁ', '.')}"
        )

    @property
    def change(self) -> tuple[str, str]:
        """What stood there, and what stands there now."""
        variants = variants_in(self.path)
        changed = self.name.rpartition(".")[2]
        original = changed.rpartition("_")[0] + "_orig"
        before, after = variants[original], variants[changed]
        lines = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
        was, becomes = (
            " ".join(line[2:].strip() for line in lines if line[0] == sign) for sign in "-+"
        )
        return was, becomes


def is_near(test: Path, mutant: str) -> bool:
    """Tell whether a test file is one of those to be tried first."""
    return test.stem.removeprefix("test_") in NEAR.get(mutant.split(".")[1], ())


@cache
def variants_in(path: Path) -> dict[str, list[str]]:
    """Find the original and every mutant of the functions in a mutated file."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    variants = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and "__mutmut_" in node.name:
            plain = node.name.rpartition("__mutmut_")[0].rpartition("ǁ")[2].removeprefix("x_")
            body = lines[node.lineno - 1 : node.end_lineno]
            variants[node.name] = [line.replace(node.name, plain) for line in body]
    return variants


def verdicts() -> Iterator[Path]:
    """Find the files in which mutmut keeps what it knows of its mutants."""
    return iter(sorted((ROOT / "mutants" / "src").rglob("*.py.meta")))


def mutants() -> list[Mutant]:
    """Read all of them."""
    return [
        Mutant(file.with_suffix(""), name, verdict)
        for file in verdicts()
        for name, verdict in json.loads(file.read_text())["exit_code_by_key"].items()
    ]


def forget() -> None:
    """Have those that survived judged again."""
    for file in verdicts():
        known: dict[str, Any] = json.loads(file.read_text())
        codes = known["exit_code_by_key"]
        known["exit_code_by_key"] = {n: None if v in ALIVE else v for n, v in codes.items()}
        file.write_text(json.dumps(known, indent=4))


def score(some: list[Mutant]) -> float:
    """Tell how many of those judged were noticed, in percent."""
    judged = [mutant for mutant in some if mutant.verdict not in UNJUDGED]
    noticed = [mutant for mutant in judged if mutant.verdict not in ALIVE]
    return 100 * len(noticed) / len(judged) if judged else 0.0


def report() -> str | None:
    """Print the scores and the survivors; return what is wrong."""
    everyone = mutants()
    if not everyone:
        return "there are no mutants; run mutmut first"
    for module in sorted({mutant.module for mutant in everyone}):
        some = [mutant for mutant in everyone if mutant.module == module]
        print(f"{module:24}{len(some):6} mutants{score(some):8.1f} %")
    explained: list[dict[str, str]] = tomllib.loads(EXPLAINED.read_text())["survivor"]
    used: set[int] = set()
    unexplained = 0
    for mutant in everyone:
        if mutant.verdict not in ALIVE:
            continue
        was, becomes = mutant.change
        reasons = {
            number
            for number, entry in enumerate(explained)
            if (entry["where"], entry["was"]) == (mutant.where, was)
            and entry.get("becomes", becomes) == becomes
        }
        used |= reasons
        if not reasons:
            unexplained += 1
            print(f"\n{mutant.where}, {ALIVE[mutant.verdict or 0]}\n- {was}\n+ {becomes}")
    total = score(everyone)
    left = sum(mutant.verdict in UNJUDGED for mutant in everyone)
    for number, entry in enumerate(explained):
        if number not in used and not left:
            print(f"\nexplained, and not to be found: {entry['where']}: {entry['was']}")
    print(f"\n{total:.1f} % of {len(everyone)} mutants were noticed; {left} are not judged yet")
    print(f"{unexplained} survived without an explanation")
    return f"at least {ASKED_FOR:g} % are asked for" if total < ASKED_FOR else None


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["forget"]:
            forget()
        case ["report"]:
            sys.exit(report())
        case _:
            sys.exit(f"usage: {sys.argv[0]} forget | report")
