"""A node with meshd is drained and comes back, and every request is answered meanwhile, also those from its own pods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from scripts.kubernetes.cluster import RunningCluster
from tests.kubernetes import installing
from tests.kubernetes.installing import ON_NODES
from tests.kubernetes.load import load

pytestmark = ON_NODES
Object = dict[str, Any]  # Any: objects of Kubernetes


def app() -> list[Object]:
    """Four servers as people write them: on both nodes, on the way out for as long as it takes until nobody asks them, and
    not all at once."""
    labels = {"app": "app"}
    served = load.container("app", ["/load/server.py", "$(POD)", "0.0.0.0", str(load.PORT)]) | {
        "readinessProbe": {"tcpSocket": {"port": load.PORT}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"sleep": {"seconds": 4}}},
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "nodeTaintsPolicy": "Honor",
        "labelSelector": {"matchLabels": labels},
    }
    pod = {
        "containers": [served],
        "topologySpreadConstraints": [spread],
        "volumes": [{"name": "load", "configMap": {"name": "load"}}],
        "terminationGracePeriodSeconds": 6,
    }
    name = {"name": "app"}
    ports = [
        {"name": kind.lower(), "protocol": kind, "port": 80, "targetPort": load.PORT}
        for kind in ("TCP", "UDP")
    ]
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": name,
            "spec": {
                "replicas": 4,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": name,
            "spec": {"minAvailable": 2, "selector": {"matchLabels": labels}},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": name,
            "spec": {"selector": labels, "ports": ports},
        },
    ]


def where(cluster: RunningCluster) -> dict[str, str]:
    """Pod of the app -> its node, of those that stay."""
    pods = cluster.get("pods", "-l", "app=app")["items"]
    return {
        each["metadata"]["name"]: each["spec"].get("nodeName", "")
        for each in pods
        if "deletionTimestamp" not in each["metadata"]
    }


@pytest.fixture
def loaded(installed: RunningCluster) -> Iterator[load.Load]:
    """Clients that will ask the app from both nodes, each request once."""
    made = load.Load(installed)
    installed.apply(*app())
    installed.kubectl("rollout", "status", "deployment/app", "--timeout=100s")
    address = installed.get("service", "app")["spec"]["clusterIP"]
    made.targets = [
        load.target("connections", address, 80, "connections", 2),
        load.target("datagrams", address, 80, "datagrams", 1),
    ]
    yield made
    made.close()
    kinds = "deployment/app,pdb/app,service/app,daemonset/server,service/web,service/sticky,configmap/load"
    installed.kubectl("delete", *kinds.split(","), "--ignore-not-found", "--wait=false")


def test_a_node_is_drained_and_comes_back_and_every_request_is_answered(
    installed: RunningCluster, loaded: load.Load
) -> None:
    drained = installed.nodes[1].name
    assert set(where(installed).values()) == {"c1-n1", drained}
    agent = installing.agent(installed, installed.nodes[1])
    with loaded.running() as seen:
        # The clients, which nobody would start again, stay.
        installed.kubectl(
            "drain", drained, "--ignore-daemonsets", "--pod-selector=app!=client", "--timeout=100s"
        )
        assert drained not in where(installed).values()
        assert installing.agent(installed, installed.nodes[1]) == agent
        installed.kubectl("uncordon", drained)
        installed.kubectl("rollout", "restart", "deployment/app")
        installed.kubectl("rollout", "status", "deployment/app", "--timeout=100s")
        back = {pod for pod, node in where(installed).items() if node == drained}
        assert back
    report = load.Report(seen)
    assert report.lost() == [], str(report)
    assert report.too_few() == []
    for client, servers in report.answered_by("connections").items():
        assert servers & back, f"{client} was not answered by any server that came back"
