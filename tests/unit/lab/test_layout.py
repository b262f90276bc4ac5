"""Names, paths and addresses that follow from a lab's spec."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

from meshd.lab import layout
from meshd.lab.layout import Places
from meshd.lab.spec import CLUSTER_ID_MAX, NODES_MAX, ClusterSpec, LabSpec


def _clusters(*ids: int, nodes: int = 2) -> tuple[layout.Cluster, ...]:
    return layout.clusters(LabSpec(tuple(ClusterSpec(f"cm-{number}", number, nodes) for number in ids)))


def test_no_two_nodes_share_an_address_or_a_pod_network_up_to_the_largest_lab() -> None:
    first, last = _clusters(1, CLUSTER_ID_MAX, nodes=NODES_MAX)
    nodes = (*first.nodes[:3], *first.nodes[-2:], *last.nodes[:3], *last.nodes[-2:])
    for one, other in combinations(nodes, 2):
        assert not set(one.fabric) & set(other.fabric)
        assert not one.pod_cidrs[0].overlaps(other.pod_cidrs[0])
        assert not one.pod_cidrs[1].overlaps(other.pod_cidrs[1])


def test_service_addresses_of_two_clusters_and_two_services_differ() -> None:
    found = [
        address
        for c in _clusters(1, 2, CLUSTER_ID_MAX)
        for i in (0, 1, 4000)
        for address in c.service_address(i)
    ]
    assert len(set(found)) == len(found)
    assert all(address in layout.SERVICES_V4 for address in found if address.version == 4)


def test_pod_addresses_are_in_their_nodes_network() -> None:
    (cluster,) = _clusters(7)
    node = cluster.nodes[1]
    pod = node.pod_address(layout.LAST_POD_HOST)
    assert [str(address) for address in pod] == ["10.7.2.254", "fd00:7:2::fe"]


def test_everything_of_a_lab_is_below_its_id() -> None:
    places = Places("ml1", Path("/cg"))
    (cluster,) = _clusters(1)
    node = cluster.nodes[0]
    files = (
        places.record,
        places.bpffs(node),
        places.pod_netns("cm-1", "x"),
        places.socket(node),
        places.pki("cm-1"),
    )
    assert all(Path("/run/meshd-lab/ml1") in path.parents for path in files)
    assert Path("/cg/ml1") in places.pod_cgroup(node, "x").parents
    assert places.node_cgroup(node) in places.pod_cgroup(node, "x").parents


def test_the_longest_socket_path_is_one_the_kernel_takes() -> None:
    places = Places("m" * 20, Path("/cg"))
    (cluster,) = layout.clusters(LabSpec((ClusterSpec("c" * 32, 1, NODES_MAX),)))
    assert len(str(places.socket(cluster.nodes[-1]))) < 108


def test_a_cluster_s_networks_hold_its_nodes_and_pods_and_no_other_cluster_s() -> None:
    found = _clusters(1, 2, CLUSTER_ID_MAX, nodes=3)
    for cluster in found:
        for other in found:
            own = cluster is other
            for node in other.nodes:
                for address in (*node.fabric, *node.pod_address(layout.LAST_POD_HOST)):
                    assert any(address in network for network in cluster.networks) is own
