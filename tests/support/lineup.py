"""The tables of drivers in the README and in docs/, made of the code and of the conformance suite.

`PYTHONPATH=tests python -m support.lineup` redraws them; a test in tests/docs compares them.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from asyncdbpool import Driver, NativeDriver
from asyncdbpool.drivers import find_driver
from support.servers import SERVERS
from support.subjects import Subject, subjects

__all__ = ["DRAWN", "abilities", "conformance", "drawn", "versions"]

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests" / "drivers"
NOTE = "ASYNCDBPOOL_COLLECTION"  # the file in which the collection is taken down

ABILITIES = {
    "open transaction told": "probe",
    "cancel in the database": "cancel",
    "reset of the session": "reset",
    "socket": "socket",
    "savepoints": "savepoints",
    "`callproc`": "procedures",
    "`nextset`": "result sets",
}


def versions() -> str:
    """Draw the drivers and the databases with the versions that are installed here."""
    servers = {server.title: server.installed_version() for server in SERVERS}
    rows = [
        [
            f"`{module_name(subject)}`",
            "asyncio's own" if subject.native else "blocking",
            version_of(subject),
            subject.like.title,
            servers.get(subject.like.title) or "in this process",
        ]
        for subject in subjects()
    ]
    return table(["driver", "kind", "version", "database", "its version"], rows)


def abilities() -> str:
    """Draw what the pool can do with each driver, as far as the code knows it."""
    head = ["module", "file", "host", "database", "ping", *ABILITIES, "attributes restored"]
    rows = []
    for subject in subjects():
        driver: Any = find_driver(subject.module)
        generic = NativeDriver if subject.native else Driver
        restored = getattr(driver, "session_attributes", ())
        told = subject.has("database keyword")
        rows.append(
            [
                f"`{module_name(subject)}`{tail(subject)}",
                f"`{type(driver).__module__.rpartition('.')[2]}.py`",
                f"`{driver.host_keyword}`" if told and driver.host_keyword else "—",
                f"`{driver.database_keyword}`" if told else "—",
                "`SELECT 1`" if type(driver).ping is generic.ping else "its own",
                *("yes" if subject.has(need) else "no" for need in ABILITIES.values()),
                ", ".join(f"`{name}`" for name in restored) or "—",
            ]
        )
    return table(head, rows)


def conformance() -> str:
    """Draw the suite: every test with every driver that it runs with, and why not with others."""
    names = [subject.name for subject in subjects()]
    letters: dict[str, str] = {}
    lines: list[str] = []
    for file, tests in collected().items():
        rows = []
        for test, (needs, able) in tests.items():
            cells = []
            for subject in subjects():
                if subject.name in able:
                    cells.append("✓")
                    continue
                why = subject.lacks(*needs)
                if why is None:
                    raise LookupError(f"nobody says why {subject.name} is not tested: {test}")
                cells.append(letters.setdefault(why, letter(len(letters))))
            rows.append([test, *cells])
        lines += [f"### {file}", "", table(["", *names], rows), ""]
    reasons = [f"- **{mark}**: {why}." for why, mark in letters.items()]
    return "\n".join([*lines, "### What does not apply, and why", "", *reasons])


def collected() -> dict[str, dict[str, tuple[list[str], list[str]]]]:
    """Ask pytest for the suite's tests by file: what each needs, and the drivers that it takes."""
    collect = ["pytest", "--collect-only", "-qq", "-pno:randomly", "-psupport.lineup", str(TESTS)]
    command = [sys.executable, "-m", *collect]
    with TemporaryDirectory() as folder:
        note = Path(folder) / "note"
        path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path, NOTE: str(note)}
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment)
        found: dict[str, dict[str, tuple[list[str], list[str]]]] = json.loads(note.read_text())
    return found


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take down what was collected, where this is a plugin of pytest's."""
    found: defaultdict[str, dict[str, tuple[list[str], list[str]]]] = defaultdict(dict)
    for item in session.items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if "subject" in parameters:
            file = item.path.stem.removeprefix("test_").replace("_", " ")
            name = item.name.partition("[")[0].removeprefix("test_").replace("_", " ")
            needs = [need for mark in item.iter_markers("needs") for need in mark.args]
            _, able = found[file].setdefault(name, (needs, []))
            if parameters["subject"].name not in able:
                able.append(parameters["subject"].name)
    Path(os.environ[NOTE]).write_text(json.dumps(found))


def module_name(subject: Subject) -> str:
    """Return the module's name; that of a class tells where it is from."""
    if isinstance(subject.module, type):
        return f"{subject.module.__module__}.{subject.module.__qualname__}"
    return str(subject.module.__name__)


def tail(subject: Subject) -> str:
    """Return the database that a name stands for, where a module is there more than once."""
    return f" {subject.name[subject.name.index('(') :]}" if "(" in subject.name else ""


def version_of(subject: Subject) -> str:
    """Return the version that is installed here."""
    if subject.package is None:
        return f"with Python {sys.version_info.major}.{sys.version_info.minor}"
    return version(subject.package)


def letter(number: int) -> str:
    """Return a, b, ... z, aa, ab, ..."""
    ahead, last = divmod(number, 26)
    return (letter(ahead - 1) if ahead else "") + chr(ord("a") + last)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Draw a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


DRAWN = {
    "versions": (ROOT / "README.md", versions),
    "abilities": (ROOT / "docs" / "drivers.md", abilities),
    "conformance": (ROOT / "docs" / "conformance.md", conformance),
}
"""Each table's name, its page, and what draws it."""


def drawn(name: str) -> tuple[str, str, str]:
    """Return a table's page as it stands: before the table, the table, and after it."""
    text = DRAWN[name][0].read_text("utf-8")
    begin, end = f"<!-- {name} -->\n\n", f"\n\n<!-- end of {name} -->"
    first, last = text.index(begin) + len(begin), text.index(end)
    return text[:first], text[first:last], text[last:]


def redraw() -> None:
    """Draw every table anew."""
    for name, (page, draw) in DRAWN.items():
        before, _, after = drawn(name)
        page.write_text(before + draw() + after, "utf-8")


if __name__ == "__main__":
    redraw()
