"""`make check` and the preflight of `make demo`: no failure is lost, and each says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.check import Check, checks, outcomes, summary

ROOT = Path(__file__).parents[2]


def test_every_check_runs_also_after_one_failed(tmp_path: Path) -> None:
    done = outcomes([Check("bad", ("false",)), Check("good", ("touch", "ran"))], tmp_path)
    assert [outcome.passed for outcome in done] == [False, True]
    assert (tmp_path / "ran").exists()


def test_a_check_that_cannot_be_started_has_failed(tmp_path: Path) -> None:
    done = outcomes([Check("gone", (str(tmp_path / "no-such-tool"),))], tmp_path)
    assert not done[0].passed
    assert "make setup" in done[0].output


def test_the_summary_names_what_failed_and_what_would_mend_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Check("format", ("sh", "-c", "echo line 7 is wrong; exit 1"), mend="make lint-fix")
    done = outcomes([bad, Check("types", ("true",))], tmp_path)
    assert "line 7 is wrong" in capsys.readouterr().out
    assert summary(done).startswith("check: 1 of 2 passed")
    assert summary(done).endswith("check: format FAILED (perhaps `make lint-fix`)")


def test_a_name_that_is_no_check_is_a_usage_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.check", "spelling"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no check is called 'spelling'" in done.stderr


def test_all_kinds_of_check_that_the_project_promises_are_there() -> None:
    names = {check.name for check in checks()}
    promised = {
        "ruff lint",
        "ruff format",
        "mypy",
        "import contracts",
        "buf lint",
        "clang-format",
        "generated files",
        "deploy",
        "reference",
    }
    assert names == promised


@pytest.mark.needs("root", "bpf", "cgroup_v2", "command:setpriv")
@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        # With the one capability that lets it read the tree wherever that is.
        ("setpriv --reuid 65534 --inh-caps=+dac_override --ambient-caps=+dac_override", "needs root"),
        ("setpriv --bounding-set -all --inh-caps=-all", "--privileged"),
        (
            "unshare --mount sh -c 'umount -a -t cgroup2; exec \"$@\"' sh",
            "no cgroup v2 is mounted: run `mkdir",
        ),
    ],
    ids=["not root", "a root without capabilities", "no cgroup v2"],
)
def test_what_is_missing_for_a_mesh_is_one_sentence_with_what_to_do(situation: str, expected: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"cd {ROOT} && exec {situation} {sys.executable} -m scripts.preflight"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.needs("root", "bpf", "cgroup_v2")
def test_a_machine_that_can_run_a_mesh_passes_without_a_word() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.preflight"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
