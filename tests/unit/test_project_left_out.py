"""The account of what a run left out, tried on whole pytest runs of their own: a run that may not pass must not."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gate.agreement import AgreementError, path_for, read_agreement
from tests.gate.features import absence
from tests.gate.left_out import LISTS

ROOT = Path(__file__).parents[2]
LACKING = """
import pytest

@pytest.mark.needs("command:no-such-program")
def test_needs_what_is_absent(): raise AssertionError("ran all the same")

def test_needs_nothing(): pass
"""


class Run:
    """One pytest run over ``tests`` with an agreement of its own, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def of(self, tests: str, agreement: str = "", ci: bool = True) -> tuple[int, str]:
        """Exit status and all output of the run."""
        (self.directory / "conftest.py").write_text('pytest_plugins = ("tests.gate.left_out",)\n')
        (self.directory / "test_it.py").write_text(tests)
        (self.directory / "pytest.ini").write_text("[pytest]\n")
        (self.directory / "agreed.txt").write_text(agreement)
        ours = {"PYTHONPATH": str(ROOT), "CI": "true" if ci else "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        environment = {**os.environ, **ours}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            f"--left-out-list={self.directory}/agreed.txt",
        ]
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_what_is_absent_is_left_out_by_name_and_the_rest_runs(run: Run) -> None:
    status, output = run.of(LACKING, ci=False)
    assert status == 0, output
    assert "command:no-such-program: 1 test: no no-such-program on PATH (not on agreed.txt)" in output
    assert "1 passed, 1 skipped" in output


def test_ci_fails_when_something_was_left_out_that_is_not_on_the_list(run: Run) -> None:
    status, output = run.of(LACKING)
    assert status == 1, output
    assert "CI: command:no-such-program is not on agreed.txt, but 1 test left out for it" in output


def test_ci_passes_when_exactly_the_list_was_left_out(run: Run) -> None:
    status, output = run.of(LACKING, "command:no-such-program: nobody has it\n")
    assert status == 0, output
    assert "command:no-such-program: 1 test: no no-such-program on PATH\n" in output
    assert "CI:" not in output


def test_ci_fails_when_a_test_ran_that_needs_something_on_the_list(run: Run) -> None:
    tests = 'import pytest\n@pytest.mark.needs("command:sh")\ndef test_it(): pass\n'
    status, output = run.of(tests, "command:sh: not on this machine, it says\n")
    assert status == 1, output
    assert "CI: command:sh is on agreed.txt, but 1 test needed it and ran: test_it.py::test_it" in output


def test_ci_fails_when_the_machine_has_what_the_list_denies_though_no_test_needs_it(run: Run) -> None:
    status, output = run.of("def test_it(): pass\n", "command:sh: not on this machine, it says\n")
    assert status == 1, output
    assert "CI: command:sh is on agreed.txt, but this machine has it" in output


@pytest.mark.parametrize(
    "tests",
    [
        'import pytest\ndef test_it(): pytest.skip("not today")\n',
        'import pytest\n@pytest.mark.skip(reason="not today")\ndef test_it(): pass\n',
        'import pytest\npytest.skip("not today", allow_module_level=True)\n',
        'import pytest\n@pytest.fixture\ndef thing(): pytest.skip("not today")\ndef test_it(thing): pass\n',
    ],
    ids=["in its body", "by its mark", "as a module", "by its fixture"],
)
def test_ci_fails_when_a_test_skips_itself(run: Run, tests: str) -> None:
    status, output = run.of(tests + "\ndef test_other(): pass\n")
    assert status != 0, output
    assert "skipped itself, naming no feature" in output
    assert "not today" in output


def test_an_expected_failure_did_run_and_is_not_left_out(run: Run) -> None:
    status, output = run.of("import pytest\n@pytest.mark.xfail\ndef test_it(): raise ValueError\n")
    assert status == 0, output
    assert "nothing" in output


def test_a_failing_test_still_fails_when_the_list_is_kept(run: Run) -> None:
    status, output = run.of(
        LACKING + "\ndef test_bad(): raise ValueError\n", "command:no-such-program: nobody has it\n"
    )
    assert status == 1, output
    assert "1 failed, 1 passed, 1 skipped" in output


def test_a_feature_that_nobody_can_look_for_stops_the_run(run: Run) -> None:
    status, output = run.of('import pytest\n@pytest.mark.needs("fentri")\ndef test_it(): pass\n', ci=False)
    if os.geteuid() == 0:
        assert status == pytest.ExitCode.USAGE_ERROR, output
        assert "no probe for 'fentri'" in output
    else:
        assert "fentri: 1 test: not root" in output


@pytest.mark.parametrize("line", ["netem", "netem:", ": no reason", "netem no CONFIG"])
def test_a_line_without_a_reason_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "6.18.txt"
    path.write_text(f"# why\nfq: no CONFIG\n{line}\n")
    with pytest.raises(AgreementError, match=r"6\.18\.txt:3: expected 'feature: reason'"):
        read_agreement(path, "6.18.txt")


def test_a_feature_on_the_list_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "6.18.txt"
    path.write_text("fq: no CONFIG\nfq: none\n")
    with pytest.raises(AgreementError, match="fq is there twice"):
        read_agreement(path, "6.18.txt")


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.18.44-fc-v595", "6.18.txt"),
        ("6.18.0", "6.18.txt"),
        ("6.1.0-40-cloud-amd64", "6.1.txt"),
        ("6.12.9-cloud", "6.12.9-cloud.txt"),
        ("6.12.9-other", "6.12.txt"),
        ("6.19.1", "6.19.txt"),
    ],
)
def test_a_kernel_has_the_longest_list_that_names_it(tmp_path: Path, release: str, expected: str) -> None:
    for name in ("6.1.txt", "6.18.txt", "6.12.9-cloud.txt"):
        (tmp_path / name).write_text("")
    assert path_for(release, tmp_path) == tmp_path / expected


@pytest.mark.parametrize("path", sorted(LISTS.glob("*.txt")), ids=lambda path: path.name)
def test_every_committed_list_is_readable(path: Path) -> None:
    assert read_agreement(path, path.name).reasons


@pytest.mark.needs("root")
def test_all_on_the_running_kernels_list_can_be_looked_for_and_is_absent() -> None:
    agreed = read_agreement(path_for(platform.release(), LISTS), "").reasons
    assert [feature for feature in agreed if absence(feature) is None] == []
