"""A failover drill on the nodes of a cluster: begun on one, done by all, and over though an agent is dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from meshd.api.v1 import map_pb2, map_pb2_grpc
from tests.netns.agent.agent_node import endpoint_slice, service
from tests.netns.pod_network_nodes.fabric import Fabric, FabricNode
from tests.patience import patience

pytestmark = [pytest.mark.needs("etcd"), pytest.mark.long]

VIP = "10.96.0.10"


def meshctl(node: FabricNode, *arguments: str, timeout_s: float = 5) -> subprocess.Popen[str]:
    """`meshctl failover ...`, running."""
    command = [sys.executable, "-m", "meshd.ctl.main", "--timeout", str(patience(timeout_s))]
    environment = os.environ | {"MESHD_SOCKET": f"{node.agent.directory}/run/meshd.sock"}
    return subprocess.Popen(
        [*command, "failover", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, what it printed, and its errors."""
    out, errors = process.communicate(timeout=patience(40))
    return process.returncode, out, errors


def drilled(node: FabricNode) -> bool:
    """Whether its kernel holds a drill of the service."""
    with node.agent.channel() as channel:
        request = map_pb2.DumpMapRequest(name="frontends")
        parts = map_pb2_grpc.MapServiceStub(channel).DumpMap(request, timeout=patience(5))
        rows = [json.loads(row.value) for part in parts for row in part.entries]
    return any(row["drill_until_ns"] for row in rows)


def test_all_nodes_drill_until_it_is_over_and_who_is_dead_is_named(fabric: Fabric) -> None:
    fabric.join("cm-1", "cm-2")
    first, second, there = fabric.node(1), fabric.node(2), fabric.node(3, "cm-2")
    for node in (first, second, there):
        node.start()
    backends = {node.cluster: node.add("backend")[1].addresses[0] for node in (first, there)}
    for node in (first, second, there):
        shared = service("web", VIP)
        shared["metadata"]["annotations"] = {"service.cilium.io/global": "true"}  # type: ignore[index] # a dict
        node.agent.write("services", shared, endpoint_slice("web", backends[node.cluster]))

    def is_known(node: FabricNode) -> bool:
        status, out, _ = ended(meshctl(node, "plan", "--lose", "cm-2"))
        return status == 0 and "default/web" in out

    for node in (first, second):
        node.agent.wait(lambda node=node: is_known(node))  # type: ignore[misc] # a bound default
    first.agent.wait(lambda: "cm-1/n2" in first.nodes())

    asked = ("drill", "--service", "web", "--lose", "cm-2", "-o", "json", "--for")
    for wrong, error in (
        (("drill", "--service", "other", "--lose", "cm-2"), "service default/other does not exist"),
        (("drill", "--service", "web", "--lose", "cm-9"), "no backend of it is in cluster 'cm-9'"),
        ((*asked, "2h"), "7200 s is not between 1 and 3600 s"),
    ):
        status, _, errors = ended(meshctl(first, *wrong))
        assert (status, error in errors) == (1, True)

    running = meshctl(first, "drill", "--service", "web", "--lose", "cm-2", "--for", "10m", timeout_s=20)
    assert running.stdout is not None
    assert "without cm-2 on 2 nodes, for 600 s" in running.stdout.readline()
    assert (drilled(first), drilled(second)) == (True, True)
    status, _, errors = ended(meshctl(second, *asked, "60"))
    assert (status, "another drill goes on: service default/web without cm-2" in errors) == (1, True)
    # Ctrl-C ends it on all nodes.
    running.send_signal(signal.SIGINT)
    status, out, errors = ended(running)
    assert status == 0, errors
    rows = [line.split()[:2] for line in out.splitlines() if line.startswith("n")]
    assert rows == [["n1", "cm-1=100%"], ["n2", "cm-1=100%"]]
    for node in (first, second):
        node.agent.wait(lambda node=node: not drilled(node))  # type: ignore[misc] # a bound default

    second.agent.kill()
    status, out, _ = ended(meshctl(first, *asked, "1s", timeout_s=1.5))
    assert (status, json.loads(out)["begun"]["missing"]) == (1, ["n2"])
