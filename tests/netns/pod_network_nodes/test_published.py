"""What an agent writes of its own node and pods into its cluster's etcd, and takes back."""

from __future__ import annotations

import base64
import json
import signal
from typing import Any

import pytest

from clustermesh import keys
from tests.netns.pod_network_nodes.fabric import Fabric, FabricNode

pytestmark = pytest.mark.needs("etcd")


def stored(fabric: Fabric, prefix: str) -> dict[str, Any]:  # Any: records of all kinds
    found = fabric.etcd("cm-1").ctl("get", "--prefix", prefix).get("kvs", ())
    return {
        base64.b64decode(item["key"]).decode(): json.loads(base64.b64decode(item["value"])) for item in found
    }


def pods(fabric: Fabric) -> dict[str, str]:
    """Address -> pod."""
    prefix = keys.addresses_prefix("cm-1")
    return {key.removeprefix(prefix): record["K8sPodName"] for key, record in stored(fabric, prefix).items()}


def leases(fabric: Fabric) -> set[int]:
    found = fabric.etcd("cm-1").ctl("get", "--prefix", "cilium/state/").get("kvs", ())
    return {item.get("lease", 0) for item in found}


def test_a_node_publishes_itself_and_each_pod_while_it_is_there(fabric: Fabric) -> None:
    node = fabric.node(1, zone="west-1", region="west")
    node.start()
    node.agent.wait(lambda: keys.node("cm-1", "n1") in stored(fabric, "cilium/state/nodes/"))
    record = stored(fabric, "cilium/state/nodes/")[keys.node("cm-1", "n1")]
    assert [one["IP"] for one in record["IPAddresses"]] == [node.v4, node.v6]
    annotations = {"meshd.io/routing": "auto", "meshd.io/vni": "identity"}
    assert (record["ClusterID"], record["Annotations"]) == (1, annotations)
    labels = {"topology.kubernetes.io/region": "west", "topology.kubernetes.io/zone": "west-1"}
    assert record["Labels"] == labels
    netns, answer = node.add("web")
    node.agent.wait(lambda: pods(fabric) == dict.fromkeys(answer.addresses, "web"))
    assert 0 not in leases(fabric)
    node.ask("DEL", "web", netns)
    node.agent.wait(lambda: pods(fabric) == {})


def test_pods_that_went_while_no_agent_ran_are_taken_back_by_the_next(fabric: Fabric) -> None:
    node = fabric.node(1, clustermesh=lasting(fabric))
    node.start()
    gone, _ = node.add("gone")
    _, answer = node.add("there")
    node.agent.wait(lambda: set(pods(fabric).values()) == {"gone", "there"})
    node.agent.kill(signal.SIGKILL)
    node.remove_pod(gone)
    assert set(pods(fabric).values()) == {"gone", "there"}
    node.start()
    node.agent.wait(lambda: pods(fabric) == dict.fromkeys(answer.addresses, "there"))


def lasting(fabric: Fabric) -> dict[str, object]:
    """Leases that nothing in a test outlives."""
    fabric.etcd("cm-1")
    return {"etcd": str(fabric.client_file("cm-1")), "electionLeaseS": 1, "dataLeaseS": 600}


def figures(node: FabricNode) -> dict[tuple[str, str], float]:
    said = node.agent.status()
    assert said is not None
    return {
        (figure.labels["cluster"], figure.labels["state"]): figure.value
        for figure in said.figures
        if figure.name == "nodes"
    }


def test_nodes_are_counted_by_the_state_of_their_records(fabric: Fabric) -> None:
    nodes = [fabric.node(number) for number in (1, 2, 3)]
    for node in nodes:
        node.start()
    first, second, _ = nodes
    first.agent.wait(lambda: figures(first) == {("cm-1", "fresh"): 2})
    second.agent.kill()
    first.agent.wait(lambda: figures(first) == {("cm-1", "fresh"): 1, ("cm-1", "stale"): 1})
