"""A node that has given all of its addresses to pods says so where the scheduler looks, until one comes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from scripts.kubernetes import images
from scripts.kubernetes.cluster import RunningCluster, is_true
from scripts.kubernetes.site import Wanted, site
from tests.kubernetes.mesh_agents import MeshAgents

pytestmark = [
    pytest.mark.needs("root", "bpf", "cgroup_v2", "command:containerd", "command:runc", "command:busybox"),
    pytest.mark.timeout(600),
    # What a Node says stands for half a minute, so that the scheduler is not led by the nose.
    pytest.mark.long,
]
CONDITION = "NetworkUnavailable"
Object = dict[str, Any]  # Any: objects of Kubernetes


@pytest.fixture(scope="module")
def cluster(run_name: str) -> Iterator[RunningCluster]:
    """One node whose pods may have eight addresses, some of which are nobody's."""
    with site(f"{run_name}f", Wanted(clusters=(1,), pods_v4=29)) as made:
        yield made.clusters[0]


def deployment(replicas: int) -> Object:
    container = {
        "name": "sleep",
        "image": images.BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sleep", "100000"],
    }
    pod = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "many"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "many"}},
            "template": {"metadata": {"labels": {"app": "many"}}, "spec": pod},
        },
    }


def said(cluster: RunningCluster) -> tuple[str, str, str, list[str]]:
    """Status, reason and message of the condition, and who is kept away."""
    node = cluster.get("node", "c1-n1")
    (found,) = (each for each in node["status"]["conditions"] if each["type"] == CONDITION)
    taints = sorted(each["key"] for each in node["spec"].get("taints", []))
    return found["status"], found["reason"], found["message"], taints


def ready(cluster: RunningCluster) -> int:
    """Pods of the Deployment that run."""
    return sum(is_true(pod, "Ready") for pod in cluster.get("pods", "--selector=app=many")["items"])


def test_a_full_node_keeps_new_pods_away_and_its_own_go_on_until_an_address_comes_back(
    cluster: RunningCluster,
) -> None:
    agents = MeshAgents(cluster, cni={"coolDownS": 1})
    (node,) = cluster.nodes
    agents.start(node)
    agents.wait_ready()
    assert said(cluster)[:2] == ("False", "MeshdIsUp")
    (v4, _) = cluster.registered()["c1-n1"]
    assert v4.endswith("/29")
    cluster.apply(deployment(9))
    cluster.wait("a condition that says it", lambda: said(cluster)[0] == "True")
    status, reason, message, taints = said(cluster)
    assert (status, reason) == ("True", "MeshdCannotServe")
    assert v4 in message
    assert "meshd.io/agent-not-ready" in taints
    # Kubernetes makes a taint of the condition, and nobody who has an address loses it.
    cluster.wait(
        "the taint of the condition", lambda: "node.kubernetes.io/network-unavailable" in said(cluster)[3]
    )
    assert f"new pods have no network here: {message}" in " ".join(agents.status(node)["warnings"])
    cluster.wait("the pods that have addresses", lambda: ready(cluster) == 6)
    assert agents.is_ready(node)
    cluster.kubectl("scale", "deployment/many", "--replicas=2")
    cluster.wait("a condition that takes it back", lambda: said(cluster)[:2] == ("False", "MeshdIsUp"))
    cluster.wait("no taint", lambda: said(cluster)[3] == [])
    cluster.kubectl("scale", "deployment/many", "--replicas=3")
    cluster.wait("a new pod", lambda: ready(cluster) == 3)
