"""What `meshctl bench path` reports went over the paths it names, and a path that is broken is no figure."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from meshd.bench import path_lanes, path_probes, places
from meshd.bench.path_network import Network
from meshd.bench.path_probes import METRICS, End, Placement, Server
from meshd.bench.places import BenchError
from tests.e2e.test_bench import traces

pytestmark = pytest.mark.needs("command:nft", "command:iperf3")

TINY = ("path", "--rounds", "6", "--seconds", "0.001", "-o", "json")
HERE = Placement("here", None, None)
SPANS = {
    "veth + routing": {"same node", "across nodes"},
    "bridge + kube-proxy": {"same node"},
    "kernel VXLAN": {"across nodes"},
    "loopback": {"same node"},
    "meshd": {"same node", "across nodes"},
    "meshd VXLAN": {"across nodes"},
}


@pytest.fixture
def network(run_name: str) -> Iterator[Network]:
    with places.opened(f"{run_name}n") as opened, contextlib.ExitStack() as stack:
        yield Network(opened, stack)


@pytest.fixture
def end(network: Network) -> End:
    node = network.node("alone")
    return network.end(node, node.netns, 1, "127.0.0.1")


# Longer than the default: some 250 measurements, each a process of its own, and five agents.
@pytest.mark.timeout(300)
def test_a_run_on_one_cpu_reports_every_path_and_leaves_nothing(run_name: str) -> None:
    name, cpu = f"{run_name}p", str(min(os.sched_getaffinity(0)))
    command = ["taskset", "-c", cpu, sys.executable, "-m", "meshd.bench.cli", *TINY, "--name", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "programs: " in done.stderr
    found = json.loads(done.stdout)
    assert (found["bench"], found["rounds"]) == ("path", 6)
    assert {(row["path"], row["case"], row["metric"]) for row in found["rows"] if "," in row["case"]} == {
        (path, f"{span}, one CPU", metric)
        for path, spans in SPANS.items()
        for span in spans
        for each in METRICS
        for metric in each.names
    }
    measured = [row for row in found["rows"] if row["metric"] != "past the stack"]
    assert all(row["value"] > 0 for row in measured)
    assert {
        "meshd, same node, one CPU: 64 B p50, ratio",
        "meshd, across nodes, one CPU: connections, ratio",
    } <= {target["name"] for target in found["targets"]}
    assert traces(name) == []


def test_pods_of_one_path_reach_nobody_on_another(network: Network) -> None:
    routed, bridged = (next(iter(make(network))) for make in (path_lanes.routing, path_lanes.bridge))
    with contextlib.closing(Server(bridged[3])) as server, pytest.raises(BenchError, match="connect"):
        path_probes.connections(routed[2], server.end, HERE, 0.001)


def test_packets_over_the_bridge_are_seen_by_netfilter(network: Network) -> None:
    node = network.node("tracked")
    network.bridge(node)
    client, server = (network.bridged_pod(node, number) for number in (1, 2))
    path_lanes.load_rules(network, node)
    before = int(node.netns.read_sysctl("net/netfilter/nf_conntrack_count"))
    with contextlib.closing(Server(server)) as running:
        for _ in range(10):
            path_probes.connections(client, running.end, HERE, 0.001)
        tracked = int(node.netns.read_sysctl("net/netfilter/nf_conntrack_count"))
    assert tracked >= before + 10


def test_a_server_runs_where_the_placement_says(end: End) -> None:
    with contextlib.closing(Server(end)) as server:
        for placement in Placement.chosen():
            server.place(placement)
            wanted = os.sched_getaffinity(0) if placement.server is None else {placement.server}
            assert [os.sched_getaffinity(pid) for pid in server.pids] == [wanted, wanted]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.names[0])
def test_a_server_that_has_ended_is_an_error_and_no_figure(end: End, metric: path_probes.Metric) -> None:
    Server(end).close()
    with pytest.raises(BenchError, match="refused"):
        metric.measure(end, end, HERE, 0.001)


def test_a_second_server_in_one_place_says_why_it_cannot_be(end: End) -> None:
    with contextlib.closing(Server(end)), pytest.raises(BenchError, match="in use"):
        Server(end)


def test_a_wake_up_across_processes_has_a_median_below_its_p99(end: End) -> None:
    median, most = path_probes.wakeups(end, end, HERE, 0.01)
    assert 0 < median <= most
