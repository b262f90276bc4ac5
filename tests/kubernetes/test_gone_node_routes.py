"""What the agent of a real node does with the ways to a node that is gone: they stand until Kubernetes forgets it, too."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, ip_address
from pathlib import Path

import pytest

from clustermesh import keys
from clustermesh.node_record import Node, NodeAddress, encode_node
from meshd.kernel.netns import Netns
from meshd.sources.own_records import ROUTING_ANNOTATION
from scripts.kubernetes.cluster import RunningCluster
from scripts.kubernetes.site import Wanted, site
from tests.e2e.cluster_etcd import Etcd
from tests.kubernetes.mesh_agents import MeshAgents

pytestmark = [
    pytest.mark.needs("root", "bpf", "cgroup_v2", "command:containerd", "command:runc", "command:busybox"),
    pytest.mark.timeout(600),
    # In `make test`, the same of the parts, with a real API server: test_gone_nodes.py.
    pytest.mark.long,
]
PODS = "10.99.9.0/24"
# On the nodes' link, so that it is reached by a route.
LOST = Node(
    "lost",
    "cm-1",
    1,
    (NodeAddress("InternalIP", ip_address("10.210.1.99")),),
    IPv4Network(PODS),
    annotations={ROUTING_ANNOTATION: "native"},
)


@pytest.fixture
def cluster(run_name: str) -> Iterator[RunningCluster]:
    """One node that waits for a network."""
    with site(f"{run_name}g", Wanted(clusters=(1,))) as made:
        yield made.clusters[0]


@pytest.fixture
def etcd(cluster: RunningCluster) -> Iterator[Etcd]:
    """The mesh's, in reach of the cluster's nodes."""
    with Netns.open(cluster.place.netns) as netns:
        made = Etcd(netns, str(cluster.place.control.v4.ip))
        made.start()
        yield made
        made.remove()


def test_routes_to_a_node_go_when_its_record_and_its_node_object_are_gone(
    cluster: RunningCluster, etcd: Etcd, tmp_path: Path
) -> None:
    (node,) = cluster.nodes
    (tmp_path / "etcd.yaml").write_text(f"endpoints: ['{etcd.url}']\n")
    key = keys.node(LOST.cluster, LOST.name)
    etcd.ctl("put", key, encode_node(LOST).decode())
    cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": LOST.name}})
    mesh = {"etcd": str(tmp_path / "etcd.yaml")}
    agents = MeshAgents(cluster, clusterName="cm-1", clusterId=1, clustermesh=mesh)
    agents.start(node)
    agents.wait_ready()

    def has_route() -> bool:
        return f"{PODS} via 10.210.1.99" in node.run("ip", "route")

    def is_stale() -> bool:
        return any("node cm-1/lost is stale" in each for each in agents.status(node)["warnings"])

    cluster.wait("a route", has_route)
    etcd.ctl("del", key)
    cluster.wait("a stale node", is_stale)
    assert has_route()
    cluster.kubectl("delete", "node", LOST.name)
    cluster.wait("no route", lambda: not has_route())
    assert not is_stale()
