"""Each fault has its right outcome, and loss alone moves nobody; long: a fault that is not what its plan says is found out.

One lab for the six of the short form, because most of the time would go into making it. How long anything took is in the
report, and no test's business.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from meshd.lab.faults import links, session
from meshd.lab.faults.effect import Effect
from meshd.lab.faults.fault import Fault
from meshd.lab.faults.ground import RATE, Ground, spec
from meshd.lab.faults.kinds import KINDS, SHORT
from meshd.lab.faults.report import Report
from meshd.lab.faults.session import Draw
from meshd.lab.layout import Places
from tests.e2e.traces import lab, places, traces

# With this one no node falls more often than it must, so none has to be waited for long.
SEED = 22
LOSS_PERCENT, LOSS_S = 2, 20.0
# A lab, six faults, and the time that nodes need until they are used again; far more than all of them together take.
TIMEOUT_S = 600


@pytest.fixture(scope="module")
def own(run_name: str) -> Iterator[Places]:
    """Where the lab is; gone afterwards, also if something failed."""
    yield places(f"{run_name}f")
    lab("down", "--id", f"{run_name}f")


@pytest.fixture(scope="module")
def report(own: Places, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of the six faults of ``SHORT``, and of loss alone."""
    draws = [*session.each_alone(SHORT), session.only_loss(LOSS_PERCENT, LOSS_S)]
    return _gone_through(own, draws, tmp_path_factory.mktemp("faults"))


def _gone_through(own: Places, draws: Sequence[Draw], out: Path) -> Report:
    rng = random.Random(SEED)  # noqa: S311 - to be repeated, not to be secret
    return asyncio.run(session.go_through(own, spec(RATE), draws, rng, SEED, out, print))


@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S)
def test_each_fault_has_its_right_outcome_and_no_request_is_lost_that_could_be_answered(
    report: Report,
) -> None:
    trials = report.trials[: len(SHORT)]
    assert [(each.faults, each.lost, each.wrong_failovers, each.problems) for each in trials] == [
        (each.faults, 0, [], []) for each in trials
    ]
    # A fault that nobody feels would show nothing: all but the etcd that is cut off are.
    assert [bool(each.excused) for each in trials] == [name != "etcd-cut-off" for name in SHORT]


@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S)
def test_loss_alone_moves_nobody(report: Report) -> None:
    loss = report.trials[len(SHORT)]
    assert (loss.wrong_failovers, loss.problems, loss.detection.count) == ([], [], 0)


@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S)
def test_nothing_is_left_of_the_lab(report: Report, own: Places) -> None:
    assert (len(report.trials), traces(own)) == (len(SHORT) + 1, [])


def _link_cut_that_says_it_is_none(_rng: random.Random, ground: Ground) -> Sequence[Fault]:
    one, other, _ = ground.lab.clusters
    return [replace(links.link_cut(one, other), name="a lie", effect=Effect(), hold_s=links.WATCH_S)]


@pytest.mark.long
@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S)
def test_a_fault_that_is_not_what_its_plan_says_is_found_out_by_everybody(
    own: Places, tmp_path: Path
) -> None:
    report = _gone_through(own, [_link_cut_that_says_it_is_none], tmp_path)
    (lie,) = report.trials
    assert (lie.ok, report.ok) == (False, False)
    assert lie.lost > 0
    assert any(
        "the agent of cm-1-n1 says that cm-2-n1 does not answer" in each for each in lie.wrong_failovers
    )
    assert any("should be reached from cm-1-n1" in each for each in lie.problems)


def _series(own: Places, out: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "meshd.lab.faults", "--id", own.id, "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, traces(own)) == (0, []), done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("count", [30, 300])
def test_a_series_of_faults_some_of_which_overlap(own: Places, tmp_path: Path, count: int) -> None:
    _series(own, tmp_path, "--count", str(count))


@pytest.mark.long
@pytest.mark.timeout(2 * 3600)
def test_an_hour_of_loss_moves_nobody(own: Places, tmp_path: Path) -> None:
    _series(own, tmp_path, "--loss", "3", "--seconds", "3600")


@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(SHORT)))
def test_each_other_kind_of_fault_has_its_right_outcome(own: Places, tmp_path: Path, kind: str) -> None:
    _series(own, tmp_path, "-k", kind, "--count", "1", "--seed", str(SEED))


@pytest.mark.long
@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S)
def test_a_cut_of_the_tunnels_alone_has_its_right_outcome(own: Places, tmp_path: Path) -> None:
    _series(own, tmp_path, "--tunnels", "-k", "tunnel,link", "--count", "2", "--seed", str(SEED))


@pytest.mark.long
def test_a_series_that_is_interrupted_while_a_fault_lasts_leaves_nothing(own: Places, tmp_path: Path) -> None:
    arguments = ["--id", own.id, "--out", str(tmp_path), "-k", "agent-starved", "--count", "1"]
    command = [sys.executable, "-m", "meshd.lab.faults", *arguments]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("agent of "):
            break
    run.send_signal(signal.SIGINT)
    run.communicate()
    assert (run.returncode, traces(own)) == (130, [])
