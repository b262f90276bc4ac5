"""The agents' real DaemonSet on real nodes: its rights suffice to close sockets of backends that went, also those that are
older than the agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshd.ctl.kube import connectivity_objects as objects
from meshd.ctl.kube.connectivity_rows import PORT
from scripts.kubernetes.cluster import RunningCluster, RunningNode, is_true
from tests.kubernetes import installing
from tests.kubernetes.installing import ON_NODES

pytestmark = ON_NODES
IMAGE = "docker.io/library/meshd:test"
NAMESPACE = "sockets"
CLIENT = Path(__file__).with_name("old_sockets.py")
LABELS = {"app": "answers"}
Object = dict[str, Any]  # Any: objects of Kubernetes


@pytest.fixture
def sockets(installed: RunningCluster) -> Iterator[RunningCluster]:
    """Two servers of both families behind one service, one on each node, and on the first node a client with a UDP socket to
    each of them in each family."""
    cluster = installed
    servers = [objects.server(f"server-{node.name}", f"server-{node.name}", IMAGE) for node in cluster.nodes]
    for node, pod in zip(cluster.nodes, servers, strict=True):
        pod["metadata"]["labels"] = LABELS
        pod["spec"]["nodeName"] = node.name
    service = objects.service("answers")
    service["spec"] |= {"selector": LABELS, "ipFamilyPolicy": "RequireDualStack"}
    program = objects.program()
    program["data"][CLIENT.name] = CLIENT.read_text()
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    apply(cluster, objects.account(), program, service, *servers)
    cluster.kubectl("wait", "--for=condition=Ready", "pod", "--all", "-n", NAMESPACE, "--timeout=100s")
    addresses = cluster.get("service", "answers", "-n", NAMESPACE)["spec"]["clusterIPs"]
    client = objects.server("client", cluster.nodes[0].name, IMAGE)
    client["spec"]["nodeName"] = cluster.nodes[0].name
    container = client["spec"]["containers"][0]
    del container["readinessProbe"]
    container["command"] = ["python3", f"/prober/{CLIENT.name}", str(PORT), *addresses]
    apply(cluster, client)
    yield cluster
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def apply(cluster: RunningCluster, *made: Object) -> None:
    for each in made:
        each["metadata"]["namespace"] = NAMESPACE
    cluster.apply(*made)


def said(cluster: RunningCluster, word: str) -> Any:
    """What the client printed behind ``word``, which it does once. Any: JSON."""

    def lines() -> list[str]:
        log = cluster.kubectl("logs", "client", "-n", NAMESPACE, check=False)
        return [line for line in log.splitlines() if line.startswith(f"{word} ")]

    cluster.wait(f"the client to say {word}", lambda: bool(lines()))
    return json.loads(lines()[0].removeprefix(word))


def is_ready_and_not(cluster: RunningCluster, node: RunningNode, old: str) -> bool:
    """Whether ``node`` has an agent that is ready, and is another than the pod ``old``."""
    found = installing.agent_pods(cluster, node)
    return any(each["metadata"]["name"] != old and is_true(each, "Ready") for each in found)


def test_udp_sockets_that_are_older_than_the_agent_are_closed_when_their_backend_goes(
    sockets: RunningCluster,
) -> None:
    cluster = sockets
    here = cluster.nodes[0]
    gone, kept = "server-c1-n2", "server-c1-n1"
    opened = said(cluster, "opened")
    assert sorted(opened) == [[family, name] for family in (4, 6) for name in (kept, gone)]
    old = installing.agent(cluster, here)
    cluster.kubectl("delete", "pod", old, "-n", installing.NAMESPACE)
    cluster.wait("another agent", lambda: is_ready_and_not(cluster, here, old))
    cluster.kubectl("delete", "pod", gone, "-n", NAMESPACE)
    assert sorted(said(cluster, "closed")) == [[4, gone, "ECONNABORTED"], [6, gone, "ECONNABORTED"]]
    # Those to the other backend still work, and new ones go there.
    assert sorted(said(cluster, "kept")) == [[4, kept], [6, kept]]
    assert said(cluster, "new") == [kept]
