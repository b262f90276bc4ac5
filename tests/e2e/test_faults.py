"""Each fault has its right outcome, and loss alone moves nobody; long: a fault that is not what its plan says is found out.

One lab for thirty faults, because much of the time would go into making it, and beside it a smaller one for two minutes of
loss. How long anything took is in the report, and no test's business.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from meshd.lab.faults import links, session
from meshd.lab.faults.effect import Effect
from meshd.lab.faults.fault import Fault
from meshd.lab.faults.ground import RATE, Ground, spec
from meshd.lab.faults.kinds import KINDS
from meshd.lab.faults.report import Report
from meshd.lab.faults.session import Draw
from meshd.lab.layout import Places
from tests.e2e.traces import lab, places, traces

# Of other seeds `make test-faults` draws; with this one no node falls so often that it has to be waited for long.
SEED = 217
FAULTS, TOGETHER = 30, 3
LOSS_PERCENT, LOSS_S, LOSS_RATE = 3, 120, 100
# Two labs, thirty faults, and the time that nodes need until they are used again; far more than all of them together take.
TIMEOUT_S = 900


@pytest.fixture(scope="module")
def own(run_name: str) -> Iterator[Places]:
    """Where the lab is; gone afterwards, also if something failed."""
    yield from _gone_afterwards(f"{run_name}f")


@pytest.fixture(scope="module")
def beside(run_name: str) -> Iterator[Places]:
    """Where the smaller one is."""
    yield from _gone_afterwards(f"{run_name}l")


def _gone_afterwards(lab_id: str) -> Iterator[Places]:
    yield places(lab_id)
    lab("down", "--id", lab_id)


@pytest.fixture(scope="module")
def losing(
    beside: Places, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Two minutes of loss on every link of two clusters, which begin before anything else; and what is said of them."""
    arguments = [
        *("--clusters", "2", "--rate", str(LOSS_RATE)),
        *("--loss", str(LOSS_PERCENT), "--seconds", str(LOSS_S), "--seed", str(SEED)),
    ]
    out = tmp_path_factory.mktemp("loss")
    with (out / "said").open("wb") as said:
        run = subprocess.Popen(_command(beside, out, *arguments), stdout=said, stderr=said)
    yield run, out / "said"
    run.terminate()
    run.wait()


@pytest.fixture(scope="module")
def report(losing: object, own: Places, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of the thirty faults."""
    rng = random.Random(SEED)  # noqa: S311 - to be repeated, not to be secret
    draws = session.drawn_together(rng, FAULTS, list(KINDS), TOGETHER)
    return _gone_through(own, draws, rng, tmp_path_factory.mktemp("faults"))


def _gone_through(own: Places, draws: Iterable[Draw], rng: random.Random, out: Path) -> Report:
    return asyncio.run(session.go_through(own, spec(RATE), draws, rng, SEED, out, print))


@pytest.mark.timeout(TIMEOUT_S)
def test_thirty_faults_have_their_right_outcomes_and_no_request_is_lost_that_could_be_answered(
    report: Report,
) -> None:
    assert [(each.faults, each.lost, each.wrong_failovers, each.problems) for each in report.trials] == [
        (each.faults, 0, [], []) for each in report.trials
    ]
    assert (report.problems, report.faults) == ([], FAULTS)
    # Faults that nobody feels would show nothing: each kind that is felt was, so requests were lost before the switch.
    assert report.excused["before_switch"] > 0
    assert min(report.detection.count, report.switch.count) > 0


@pytest.mark.timeout(TIMEOUT_S)
def test_two_minutes_of_loss_move_nobody(
    losing: tuple[subprocess.Popen[bytes], Path], report: Report
) -> None:
    run, said = losing
    assert (run.wait(), " 0 wrong failovers" in said.read_text()) == (0, True), said.read_text()


@pytest.mark.timeout(TIMEOUT_S)
def test_nothing_is_left_of_the_labs(
    report: Report, losing: tuple[subprocess.Popen[bytes], Path], own: Places, beside: Places
) -> None:
    losing[0].wait()
    assert (traces(own), traces(beside)) == ([], [])


def _link_cut_that_says_it_is_none(_rng: random.Random, ground: Ground) -> Sequence[Fault]:
    one, other, _ = ground.lab.clusters
    return [replace(links.link_cut(one, other), name="a lie", effect=Effect(), hold_s=links.WATCH_S)]


@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S)
def test_a_fault_that_is_not_what_its_plan_says_is_found_out_by_everybody(
    own: Places, tmp_path: Path
) -> None:
    rng = random.Random(SEED)  # noqa: S311 - to be repeated, not to be secret
    report = _gone_through(own, [_link_cut_that_says_it_is_none], rng, tmp_path)
    (lie,) = report.trials
    assert (lie.ok, report.ok) == (False, False)
    assert lie.lost > 0
    assert any(
        "the agent of cm-1-n1 says that cm-2-n1 does not answer" in each for each in lie.wrong_failovers
    )
    assert any("should be reached from cm-1-n1" in each for each in lie.problems)


def _command(own: Places, out: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "meshd.lab.faults", "--id", own.id, "--out", str(out), *arguments]


def _series(own: Places, out: Path, *arguments: str) -> None:
    done = subprocess.run(_command(own, out, *arguments), capture_output=True, text=True, check=False)
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
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_of_fault_alone_has_its_right_outcome(own: Places, tmp_path: Path, kind: str) -> None:
    _series(own, tmp_path, "-k", kind, "--count", "1", "--seed", str(SEED))


@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S)
def test_a_cut_of_the_tunnels_alone_has_its_right_outcome(own: Places, tmp_path: Path) -> None:
    _series(own, tmp_path, "--tunnels", "-k", "tunnel,link", "--count", "2", "--seed", str(SEED))


@pytest.mark.long
def test_a_series_that_is_interrupted_while_a_fault_lasts_leaves_nothing(own: Places, tmp_path: Path) -> None:
    command = _command(own, tmp_path, "-k", "agent-starved", "--count", "1")
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("agent of "):
            break
    run.send_signal(signal.SIGINT)
    run.communicate()
    assert (run.returncode, traces(own)) == (130, [])
