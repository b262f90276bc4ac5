"""`make test`: two runs side by side, neither of whose failures is lost, and a request to end reaches both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import test as runs

ROOT = Path(__file__).parents[2]
OK, BAD = ["sh", "-c", "echo fine"], ["sh", "-c", "echo broken; exit 3"]
# Tells that it runs, and tidies up when it is told to end, which it is never by itself.
LASTING = "trap 'echo tidy >> {path}; exit 4' TERM; echo on >> {path}; while :; do sleep 0.05; done"
TWO = """
import sys
from pathlib import Path
from scripts.test import side_by_side
sys.exit(side_by_side(["sh", "-c", {first!r}], ["sh", "-c", {second!r}], Path({output!r})))
"""


@pytest.mark.parametrize(
    ("first", "second", "status"), [(OK, OK, 0), (BAD, OK, 3), (OK, BAD, 3)], ids=["good", "first", "second"]
)
def test_both_run_whatever_the_other_does_and_no_failure_is_lost(
    first: list[str],
    second: list[str],
    status: int,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    assert runs.side_by_side(first, second, tmp_path / "new" / "output") == status
    said = capfdbinary.readouterr().out.splitlines()
    assert said == [{0: b"fine", 3: b"broken"}[3 if each is BAD else 0] for each in (first, second)]


def test_a_request_to_end_reaches_both_and_is_waited_for(tmp_path: Path) -> None:
    marks = [tmp_path / "first", tmp_path / "second"]
    first, second = (LASTING.format(path=mark) for mark in marks)
    program = TWO.format(first=first, second=second, output=str(tmp_path / "output"))
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as running:
        while not all(mark.exists() and mark.read_text() for mark in marks):
            assert running.poll() is None
        running.terminate()
        assert running.wait() == 4
    assert [mark.read_text().split() for mark in marks] == [["on", "tidy"]] * 2


def test_every_folder_of_tests_is_in_one_of_the_two() -> None:
    found = {path.relative_to(ROOT).parts[1] for path in (ROOT / "tests").rglob("test_*.py")}
    assert {f"tests/{each}" for each in found} == {*runs.SECOND, *runs.others()}
    assert not set(runs.SECOND) & set(runs.others())
