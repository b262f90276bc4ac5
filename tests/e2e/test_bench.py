"""A bench of tiny sizes is a whole one, and whatever ends it leaves the machine as it was."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshd.bench import places
from meshd.bench.agents import Agent
from meshd.bench.places import BenchError, Cpus
from meshd.bench.population import population
from meshd.bench.removal import Dialled, OfAgent, measure
from meshd.bench.workers import client_at, serve_at
from meshd.kernel import cgroup
from meshd.lab.processes import tree
from tests.e2e.traces import wait_for
from tests.unprivileged import NOBODY

NEEDS = pytest.mark.needs("command:nft", "command:iptables-restore")
TINY = ("--services", "1,12", "--rounds", "6", "--connections", "100", "--removals", "6")


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "meshd.bench.cli", "service-lb", "--name", name, *arguments]


def traces(name: str) -> list[str]:
    paths = (cgroup.find_mount() / name, Path("/run", name), Path("/var/lib", name))
    return [f"process {pid}" for pid in tree(paths[0])] + [
        f"there is {path}" for path in paths if path.exists()
    ]


@pytest.fixture
def opened(run_name: str) -> Iterator[places.Places]:
    with places.opened(f"{run_name}b") as made:
        yield made


@NEEDS
def test_a_run_reports_every_path_case_and_target_and_leaves_nothing(run_name: str) -> None:
    name = f"{run_name}bench"
    done = subprocess.run(command(name, "-o", "json", *TINY), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["bench"], found["rounds"]) == ("service-lb", 6)
    paths = ("no service", "meshd", "nftables", "iptables")
    connects = {(row["path"], row["case"]) for row in found["rows"] if row["metric"] == "connect p50"}
    assert {(path, case) for path in paths for case in ("1 service", "12 services")} == connects
    removals = {(row["path"], row["case"]) for row in found["rows"] if row["metric"] == "removal p99"}
    assert {
        (path, case) for path in ("meshd", "nftables") for case in ("10 services", "12 services")
    } == removals
    assert {"connect p50 with 12 services, ratio to no service", "memory idle, MiB"} <= {
        target["name"] for target in found["targets"]
    }
    assert len(found["targets"]) == 8
    assert traces(name) == []


# How far a run has come: processes are there from the first agent on, and four of them with the first client.
MOMENTS: dict[str, Callable[[Path], object]] = {
    "its places are being made": lambda group: group.is_dir(),
    "an agent is starting": lambda group: tree(group / "agents"),
    "servers listen": lambda group: tree(group / "servers"),
}


@NEEDS
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_interrupted_leaves_nothing(moment: str, sign: signal.Signals, run_name: str) -> None:
    name = f"{run_name}bench"
    running = subprocess.Popen(
        command(name, *TINY), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: MOMENTS[moment](cgroup.find_mount() / name), moment)
    running.send_signal(sign)
    _, said = running.communicate()
    assert (running.returncode, "interrupted" if "interrupted" in said else said) == (1, "interrupted")
    assert traces(name) == []


@NEEDS
def test_what_a_killed_run_leaves_ends_with_it_or_is_taken_away_by_the_next(run_name: str) -> None:
    prefix = f"{run_name}k-"
    # The name ends with the id of the process, as the names that a bench chooses itself do.
    shell = f"exec {' '.join(command(prefix + '$$', *TINY))}"
    running = subprocess.Popen(["/bin/sh", "-c", shell], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    name = f"{prefix}{running.pid}"
    wait_for(lambda: tree(cgroup.find_mount() / name / "servers"), "a server")
    running.kill()
    running.wait()
    wait_for(lambda: not tree(cgroup.find_mount() / name), "the end of its processes")
    places.sweep(prefix)
    assert traces(name) == []


def test_a_path_that_does_not_translate_cannot_be_measured(opened: places.Places) -> None:
    place, cpus = opened.place("nothing"), Cpus.chosen()
    server, client = serve_at(place, opened, cpus), client_at(place, cpus)
    with (
        contextlib.closing(server),
        contextlib.closing(client),
        pytest.raises(BenchError, match="client of nothing"),
    ):
        client.ask(connect=[[population(1)[0].address, 80]])


def test_a_removal_that_never_reaches_the_kernel_is_an_error_and_no_figure(opened: places.Places) -> None:
    place, cpus = opened.place("frozen"), Cpus.chosen()
    server, client = serve_at(place, opened, cpus), client_at(place, cpus)
    (service,) = population(1)

    class Frozen(OfAgent):
        """Says that it removed a backend and does not."""

        def remove(self, backend: str) -> int:
            return 0

    with contextlib.closing(server), contextlib.closing(client), Agent(opened, place) as agent:
        agent.apply(service)
        with pytest.raises(BenchError, match="still gets connections"):
            measure(Frozen(agent, service), Dialled(service, client, server), 1, lambda _: None)
        client.ask(rest=True)


def test_without_root_it_says_so_in_one_sentence() -> None:
    done = subprocess.run(
        [*NOBODY, *command("unused")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "root" in done.stderr
