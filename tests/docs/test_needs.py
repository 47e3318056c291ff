"""What the conformance suite's tests say that they need is known, or nothing is collected."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.documents import ROOT
from support.subjects import subjects

TESTS = {
    "test_known.py": ("savepoints", "subject"),
    "test_misspelt.py": ("savepionts", "subject"),
    "test_of_no_driver.py": ("savepoints", "tmp_path"),
}


def test_a_need_that_means_nothing_is_an_error(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "drivers" / "conftest.py", tmp_path)
    for file, (need, taken) in TESTS.items():
        text = f"import pytest\n\n@pytest.mark.needs('{need}')\ndef test_it({taken}): ...\n"
        (tmp_path / file).write_text(text)
    options = ["--collect-only", "-q", "-cpyproject.toml", "-pno:cacheprovider"]
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "pytest", *options, tmp_path],
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    said = done.stdout.decode()
    assert done.returncode == 2, said
    assert "test_known.py::test_it[sqlite3]" in said
    assert "LookupError: no driver is without 'savepionts'" in said
    assert "LookupError: no driver takes a test that needs 'savepoints'" in said
    assert "2 errors" in said


def test_an_ability_is_not_asked_for_by_a_wrong_name() -> None:
    subject, *_ = subjects()
    assert subject.has("savepoints")
    with pytest.raises(LookupError, match="'savepionts'"):
        subject.has("savepionts")
