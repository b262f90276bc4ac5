"""What `meshctl bench short-circuit` reports went over the paths it names, from socket to socket where it says so."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.bench import path_probes, places
from meshd.bench.path_network import Network
from meshd.bench.path_probes import Placement
from meshd.bench.short_circuit_lanes import BY_THE_PROBE, METRICS, ONE_WAY, Lane, Lanes
from meshd.bench.short_circuit_results import LIMITS, limited
from tests.e2e.test_bench import traces

pytestmark = pytest.mark.needs("command:iperf3", "sk_msg_reads_sockets")

HERE = Placement("here", None, None)
PATHS = {
    "veth + routing": METRICS,
    "loopback": METRICS,
    "Unix socket": BY_THE_PROBE,
    "meshd, feature off": METRICS,
    "meshd, not selected": METRICS,
    "short circuit": METRICS,
    **{limited(name): ONE_WAY for name in LIMITS},
    "one Envoy": BY_THE_PROBE,
    "two Envoys": BY_THE_PROBE,
}


@pytest.fixture
def lanes(run_name: str) -> Iterator[Lanes]:
    with places.opened(f"{run_name}n") as opened, contextlib.ExitStack() as stack:
        yield Lanes(Network(opened, stack), stack)


@pytest.fixture
def envoy(tmp_path: Path) -> str:
    program = tmp_path / "envoy"
    stand_in = Path(__file__).with_name("envoy_stand_in.py")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {stand_in} "$@"\n')
    program.chmod(0o755)
    return str(program)


# Longer than the default: some 500 measurements, each a process of its own, and seven agents.
@pytest.mark.timeout(400)
@pytest.mark.long
def test_a_run_on_one_cpu_reports_every_path_and_leaves_nothing(
    run_name: str, envoy: str, tmp_path: Path
) -> None:
    name, cpu, saved = f"{run_name}s", str(min(os.sched_getaffinity(0))), tmp_path / "report.json"
    words = ("short-circuit", "--rounds", "6", "--seconds", "0.001", "--envoy", envoy, "--save", str(saved))
    command = [
        "taskset",
        "-c",
        cpu,
        sys.executable,
        "-m",
        "meshd.bench.cli",
        *words,
        "-o",
        "json",
        "--name",
        name,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert json.loads(saved.read_text()) == found
    measured = {(row["path"], row["metric"]) for row in found["rows"] if row["case"] == "one CPU"}
    assert {
        (path, one) for path, metrics in PATHS.items() for each in metrics for one in each.names
    } <= measured
    assert {("floor", "wake-up p50"), ("somebody selected", "getppid()")} <= measured
    values = {(row["path"], row["metric"]): row["value"] for row in found["rows"]}
    assert values["short circuit", "64 B handed over"] > 50
    assert values["short circuit", "connections handed over"] == 0
    assert {
        "short circuit, one CPU: 64 B p50, ratio to veth + routing",
        "short circuit, one CPU: 16 KB p50, ratio to Unix socket",
        "short circuit, 256 KiB, one CPU: bulk, ratio to veth + routing",
        "two Envoys, one CPU: 64 B p50, ratio to short circuit",
        "meshd, not selected, one CPU: connections, ratio to meshd, feature off",
    } <= {target["name"] for target in found["targets"]}
    # Those without a limit of their own, and the floor.
    lines = saved.with_suffix(".svg").read_text().count("<polyline ")
    assert lines == len(PATHS) - len(LIMITS)
    assert traces(name) == []


def test_bytes_of_selected_pods_only_are_handed_over(lanes: Lanes) -> None:
    selected = lanes.selected()
    assert selected.handed is not None
    path_probes.messages(64)(selected.client, selected.to, HERE, 0.05)
    assert selected.handed.now().percent > 50
    assert lanes.not_selected().handed is None


def test_nothing_reaches_the_server_but_through_both_proxies(lanes: Lanes, envoy: str) -> None:
    one, two = lanes.envoys(envoy)
    for lane in (one, two):
        assert path_probes.messages(64)(lane.client, lane.to, HERE, 0.01) > (0, 0)
    for proxy in (*two.proxies, *one.proxies):
        proxy.close()
    for lane in (one, two):
        with pytest.raises(places.BenchError, match="refused"):
            path_probes.connections(lane.client, lane.to, HERE, 0.001)


def test_proxies_go_with_the_end_that_they_are_beside(lanes: Lanes, envoy: str) -> None:
    (*_, two) = lanes.envoys(envoy)
    for placement in Placement.chosen():
        two.place(placement)
        wanted = [_cpus(placement.server), _cpus(placement.client)]
        assert [os.sched_getaffinity(proxy.pid) for proxy in two.proxies] == wanted


def _cpus(cpu: int | None) -> set[int]:
    return os.sched_getaffinity(0) if cpu is None else {cpu}


def test_without_the_proxy_nothing_is_measured_before_it_is_said(run_name: str) -> None:
    words = ("short-circuit", "--rounds", "6", "--envoy", "/nowhere/envoy", "--name", f"{run_name}e")
    command = [sys.executable, "-m", "meshd.bench.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "--no-envoy" in done.stderr) == (1, True)


def test_a_stream_is_read_to_its_end(lanes: Lanes) -> None:
    for lane in (lanes.loopback(), lanes.unix()):
        assert _stream(lane) > 0


def _stream(lane: Lane) -> float:
    (rate,) = path_probes.stream(131072)(lane.client, lane.to, HERE, 0.02)
    return rate
