"""The demo ends in time with figures that add up, on a terminal and without one."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncdbpool import ConnectionPool
from support.examples import PATIENCE, command, load, run_in_terminal, run_script

LABELS = [
    "Tasks",
    "Connections opened",
    "Queries",
    "Rate",
    "Waits for a connection",
    "Mean wait",
    "Longest queue",
    "Payments",
    "Slowest query",
    "Heartbeats of the loop",
    "Worst stall of the loop",
]


def figures_of(output: str) -> dict[str, list[float]]:
    """The numbers behind each label at the end of the plain output."""
    table = output.rpartition("\n\n")[2].splitlines()
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in table)
    return {
        label: [float(number.replace(",", "")) for number in re.findall(r"\d[\d,.]*\b", value)]
        for label, value in rows.items()
    }


def test_the_demo_ends_with_figures_that_add_up(tmp_path: Path) -> None:
    arguments = ("--seconds", "1.5", "--tasks", "40", "--connections", "3")
    ended = run_script("demo", *arguments, env={"TMPDIR": str(tmp_path)})
    assert ended.stderr == ""
    assert ended.returncode == 0
    assert ended.stdout.startswith("40 tasks share 3 SQLite connections\n")
    figures = figures_of(ended.stdout)
    assert list(figures) == LABELS
    assert figures["Tasks"] == [40]
    assert figures["Connections opened"] == [3, 3]
    queries, seconds = figures["Queries"]
    waits, jobs = figures["Waits for a connection"]
    (payments,) = figures["Payments"]
    assert seconds >= 1.5
    assert figures["Rate"] == [pytest.approx(queries / seconds, rel=0.1)]
    assert queries == jobs + 2 * payments  # a payment takes three, everything else one
    assert jobs >= 40
    assert jobs / 2 < waits <= jobs  # nearly all of them, as there are 40 tasks on 3 connections
    assert figures["Mean wait"][0] > 0
    assert 0 < figures["Longest queue"][0] <= 40
    assert figures["Heartbeats of the loop"][0] > 0
    assert figures["Worst stall of the loop"][0] < 5_000
    assert list(tmp_path.iterdir()) == []


def test_the_demo_shows_its_progress_in_a_log_too() -> None:
    ended = run_script("demo", "--seconds", "0.5", "--tasks", "10")
    lines = ended.stdout.partition("\n\n")[0].splitlines()[1:]
    assert 1 <= len(lines) <= 10
    assert lines[-1].startswith("   0.5 s ")
    assert all(re.search(r"[\d,]+ queries, [0-5] connections in use", line) for line in lines)
    assert "\x1b" not in ended.stdout


def test_a_lonely_task_never_waits() -> None:
    ended = run_script("demo", "--seconds", "0.3", "--tasks", "1", "--connections", "1")
    figures = figures_of(ended.stdout)
    assert figures["Waits for a connection"][0] == 0
    assert figures["Connections opened"] == [1, 1]
    assert figures["Longest queue"] == [0]


def test_a_terminal_gets_bars_and_a_table() -> None:
    pytest.importorskip("rich")
    code, drawn = run_in_terminal("demo", "--seconds", "0.5", "--tasks", "20")
    assert code == 0
    for label in ("Time", "Connections in use", "Tasks waiting", "Loop stalled", *LABELS):
        assert label in drawn
    assert "━" in drawn
    assert "\x1b[?25h" in drawn  # the cursor is back


def test_a_terminal_without_rich_gets_plain_text(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('not installed')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    arguments = ("--seconds", "0.3", "--tasks", "10")
    code, drawn = run_in_terminal("demo", *arguments, env={"PYTHONPATH": path})
    assert code == 0
    assert "\x1b" not in drawn
    assert figures_of(drawn.replace("\r\n", "\n"))["Tasks"] == [10]


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--seconds", "0", "a number from 0.1 to 3600.0 is needed, not '0'"),
        ("--seconds", "-3", "a number from 0.1 to 3600.0 is needed, not '-3'"),
        ("--seconds", "nan", "a number from 0.1 to 3600.0 is needed, not 'nan'"),
        ("--seconds", "inf", "a number from 0.1 to 3600.0 is needed, not 'inf'"),
        ("--tasks", "0", "a whole number from 1 to 10000 is needed, not '0'"),
        ("--tasks", "2.5", "a whole number from 1 to 10000 is needed, not '2.5'"),
        ("--tasks", "many", "a whole number from 1 to 10000 is needed, not 'many'"),
        ("--connections", "0", "a whole number from 1 to 100 is needed, not '0'"),
        ("--connections", "101", "a whole number from 1 to 100 is needed, not '101'"),
    ],
)
def test_the_demo_says_what_numbers_it_takes(
    option: str,
    value: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    demo: Any = load("demo")
    monkeypatch.setattr(sys, "argv", ["demo.py", f"{option}={value}"])
    with pytest.raises(SystemExit) as ended:
        demo.main()
    assert ended.value.code == 2
    assert f"argument {option}: {reason}" in capsys.readouterr().err


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    with subprocess.Popen(  # noqa: S603 - an example of ours
        command("demo", "--seconds", "10", "--tasks", "30"),
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the headline
        process.stdout.readline()  # the first tenth
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert errors == "interrupted\n"
    assert process.returncode == 1
    assert list(tmp_path.iterdir()) == []


async def test_the_demo_notices_money_that_is_lost(tmp_path: Path) -> None:
    demo: Any = load("demo")
    async with ConnectionPool(sqlite3, tmp_path / "bank.db") as pool:
        bank = demo.Bank(pool)
        await bank.found()
        await bank.pay()
        await bank.audit()
        await pool.execute("UPDATE account SET balance = balance - 1 WHERE id = 7")
        with pytest.raises(SystemExit, match="The books are wrong: 999999 in the accounts, 1 pay"):
            await bank.audit()
