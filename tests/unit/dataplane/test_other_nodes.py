"""Which other nodes there are, by who names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshd.config import ClusterMesh, Config
from meshd.config_kubernetes import Kubernetes
from meshd.dataplane.pod_network.other_nodes import node_of, other_nodes, sources_of_nodes
from meshd.model import Node
from meshd.model.cluster import ETCD, KUBERNETES
from meshd.state import Mesh, PlanKey

NETWORK = Config(node_name="n1", kubernetes=Kubernetes(enabled=True))
SOURCE_ONLY = Config(node_name="n1", kubernetes=Kubernetes(enabled=True, network=False))
WITH_ETCD = Config(
    node_name="n1",
    cluster_name="default",
    kubernetes=Kubernetes(enabled=True),
    clustermesh=ClusterMesh(etcd=Path("/etcd.yaml")),
)


def node(name: str, source: str, cidr: str, cluster: str = "default") -> Node:
    return Node(cluster, name, source, (), (cidr,))


@pytest.fixture
def mesh() -> Mesh:
    made = Mesh()
    made.replace(KUBERNETES, [node(name, KUBERNETES, f"10.{name[1]}.0.0/24") for name in ("n1", "n2", "n3")])
    made.replace(ETCD, [node("n3", ETCD, "10.33.0.0/24")])
    made.replace("cluster:far", [node("n1", "cluster:far", "10.99.0.0/24", "far")])
    return made


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (NETWORK, {"default/n2": "10.2.0.0/24", "default/n3": "10.33.0.0/24", "far/n1": "10.99.0.0/24"}),
        (SOURCE_ONLY, {"default/n3": "10.33.0.0/24", "far/n1": "10.99.0.0/24"}),
        (WITH_ETCD, {"default/n3": "10.33.0.0/24", "far/n1": "10.99.0.0/24"}),
    ],
    ids=["the network of a node", "a source of services", "etcd tells"],
)
def test_nodes_speak_for_themselves_and_kubernetes_for_those_that_do_not(
    mesh: Mesh, config: Config, expected: dict[str, str]
) -> None:
    assert {str(each): each.pod_cidrs[0] for each in other_nodes(mesh, config)} == expected


def test_nodes_of_kubernetes_are_routed_as_this_one_is(mesh: Mesh) -> None:
    found = node_of(mesh, NETWORK, "default/n2")
    assert found is not None
    assert (found.routing, found.source) == (NETWORK.pod_network.routing, KUBERNETES)


def test_who_is_not_named_is_gone_only_if_all_who_name_nodes_have_spoken(mesh: Mesh) -> None:
    assert sorted(sources_of_nodes(mesh, NETWORK)) == ["cluster:far", "etcd", "kubernetes"]
    assert sorted(sources_of_nodes(mesh, WITH_ETCD)) == ["cluster:far", "etcd"]


def test_a_node_of_kubernetes_is_planned_when_it_changes(mesh: Mesh) -> None:
    mesh.take_changes()
    mesh.apply(KUBERNETES, [node("n4", KUBERNETES, "10.4.0.0/24")])
    assert PlanKey("node", "default/n4") in mesh.take_changes()
