"""Pods of a real cluster are selected by their namespace's annotation: they talk from socket to socket, through a service's
address, and go back to TCP when the annotation is taken back, while they talk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshd.ctl.kube import connectivity_objects as objects
from scripts.kubernetes.cluster import RunningCluster
from tests.kubernetes.installing import NAMESPACE as OURS
from tests.kubernetes.installing import ON_NODES, agent

pytestmark = ON_NODES
IMAGE = "docker.io/library/meshd:test"
NAMESPACE = "talkers"
ANNOTATION = "meshd.io/short-circuit"
TALKER = Path(__file__).with_name("talker.py")
PORT = 7000
Object = dict[str, Any]  # Any: objects of Kubernetes


@pytest.fixture
def talkers(installed: RunningCluster) -> Iterator[RunningCluster]:
    """On the first node a server, and a client that talks to it through a service."""
    cluster, node = installed, installed.nodes[0].name
    program = objects.program()
    program["data"][TALKER.name] = TALKER.read_text()
    service = objects.service("server")
    service["spec"] |= {"selector": {"app": "server"}, "ports": [{"port": PORT, "targetPort": PORT}]}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "annotations": {ANNOTATION: "true"}},
        }
    )
    apply(cluster, objects.account(), program, service, pod("server", node, "serve", str(PORT)))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/server", "-n", NAMESPACE, "--timeout=100s")
    at = cluster.get("service", "server", "-n", NAMESPACE)["spec"]["clusterIP"]
    apply(cluster, pod("client", node, "talk", at, str(PORT)))
    yield cluster
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def pod(name: str, node: str, *arguments: str) -> Object:
    made = objects.server(name, node, IMAGE)
    made["metadata"]["labels"] = {"app": name}
    made["spec"] |= {"nodeName": node, "restartPolicy": "Never"}
    container = made["spec"]["containers"][0]
    del container["readinessProbe"]
    container["command"] = ["python3", f"/prober/{TALKER.name}", *arguments]
    return made


def apply(cluster: RunningCluster, *made: Object) -> None:
    for each in made:
        each["metadata"]["namespace"] = NAMESPACE
    cluster.apply(*made)


def rounds(cluster: RunningCluster) -> int:
    """How many messages have come back to the client; it ends at the first that does not."""
    log = cluster.kubectl("logs", "client", "-n", NAMESPACE, "--tail=1", check=False).split()
    return int(log[-1]) if log and log[-1].isdecimal() else 0


def short_circuits(cluster: RunningCluster) -> list[Any]:
    """What the agent of their node lists. Any: JSON."""
    command = ("meshctl", "short-circuit", "list", "-o", "json")
    name = agent(cluster, cluster.nodes[0])
    said = cluster.kubectl("exec", name, "-n", OURS, "-c", "agent", "--", *command)
    found: list[Any] = json.loads(said).get("connections", [])
    return found


def test_pods_talk_from_socket_to_socket_as_long_as_their_namespace_says_so(talkers: RunningCluster) -> None:
    cluster = talkers
    cluster.wait("pods to talk from socket to socket", lambda: len(short_circuits(cluster)) == 1)
    [found] = short_circuits(cluster)
    assert {found["first"]["workload"], found["second"]["workload"]} == {
        f"{NAMESPACE}/client",
        f"{NAMESPACE}/server",
    }
    before = rounds(cluster)
    cluster.wait("more messages", lambda: rounds(cluster) > before)
    cluster.kubectl("annotate", "namespace", NAMESPACE, f"{ANNOTATION}=false", "--overwrite")
    cluster.wait("them to go back to TCP", lambda: short_circuits(cluster) == [])
    before = rounds(cluster)
    cluster.wait("more messages on TCP", lambda: rounds(cluster) > before)
    assert cluster.get("pod", "client", "-n", NAMESPACE)["status"]["phase"] == "Running"
