"""Records of nodes become nodes of the mesh: who is believed, who goes stale, and who takes whose place."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, ip_address, ip_network

import pytest

from clustermesh.address_record import AddressRecord
from clustermesh.node_record import Node as NodeRecord
from clustermesh.node_record import NodeAddress
from meshd.model import (
    Frontend,
    Node,
    NodeState,
    Protocol,
    Service,
    ServiceName,
    format_address,
    parse_address,
)
from meshd.model.cluster import OWN_NODE
from meshd.sources.node_claims import node_of
from meshd.sources.node_registry import NodeRegistry
from meshd.sources.own_addresses import OwnAddresses
from meshd.state import Mesh

FRESH, STALE, REFUSED = NodeState.FRESH, NodeState.STALE, NodeState.REFUSED
OWN = Node("cm-1", "n1", OWN_NODE, (parse_address("192.168.0.1"),), ("10.1.1.0/24",), routing="auto")


def record(name: str, cidr: str, address: str, cluster: str = "cm-1", **more: str) -> NodeRecord:
    network = ip_network(cidr)
    assert isinstance(network, IPv4Network)
    return NodeRecord(
        name,
        cluster,
        int(cluster[-1]),
        (
            NodeAddress("InternalIP", ip_address(address)),
            NodeAddress("ExternalIP", ip_address("203.0.113.9")),
        ),
        network,
        annotations=more or None,
    )


SECOND = record("n2", "10.1.2.0/24", "192.168.0.2")
THIRD = record("n3", "10.1.3.0/24", "192.168.0.3")
ELSEWHERE = record("n1", "10.2.1.0/24", "192.168.0.101", "cm-2")

ELSEWHERE_TOO = record("n2", "10.2.2.0/24", "192.168.0.102", "cm-2")
DIALLED = Service(
    ServiceName("default", "web"), "manifests", (Frontend(parse_address("10.96.0.10"), 80, Protocol.TCP),)
)


def pod(address: str, host: str) -> AddressRecord:
    return AddressRecord(ip_network(address), ip_address(host), 3)


@pytest.fixture
def mesh() -> Mesh:
    made = Mesh()
    made.replace(OWN_NODE, [OWN])
    return made


@pytest.fixture
def registry(mesh: Mesh) -> NodeRegistry:
    return NodeRegistry(mesh, "cm-1", "n1")


def states(mesh: Mesh) -> dict[str, NodeState]:
    return {str(node): node.state for node in mesh.nodes.values() if node.is_of_etcd}


def node(mesh: Mesh, name: str) -> Node:
    (found,) = [each for each in mesh.nodes.values() if str(each) == name and each.is_of_etcd]
    return found


def extra(mesh: Mesh, name: str) -> list[str]:
    return [format_address(address) for address in node(mesh, name).extra]


def test_a_record_becomes_a_node_of_its_cluster(mesh: Mesh, registry: NodeRegistry) -> None:
    annotated = record("n2", "10.1.2.0/24", "192.168.0.2", **{"meshd.io/routing": "vxlan"})
    registry.replace_nodes("cm-1", [annotated, record("n1", "10.1.1.0/24", "192.168.0.1")])
    registry.replace_nodes("cm-2", [ELSEWHERE])
    address = parse_address("192.168.0.2")
    assert node(mesh, "cm-1/n2") == Node(
        "cm-1", "n2", "etcd", (address,), ("10.1.2.0/24",), routing="vxlan", identities=(65536, 131071)
    )
    found = node(mesh, "cm-2/n1")
    assert (found.source, found.routing, found.identities) == ("cluster:cm-2", "", (131072, 196607))
    # It is none of ours, so it does as Cilium; one of ours says whether it does.
    assert (found.takes_identities, node(mesh, "cm-1/n2").takes_identities) == (True, False)
    # This node is not read back.
    assert states(mesh) == {"cm-1/n2": FRESH, "cm-2/n1": FRESH}
    assert registry.problems() == []


@pytest.mark.parametrize(
    ("said", "takes"),
    [
        ({}, True),
        ({"meshd.io/routing": "auto"}, False),
        ({"meshd.io/routing": "auto", "meshd.io/vni": "identity"}, True),
        ({"meshd.io/routing": "auto", "meshd.io/vni": "something else"}, False),
    ],
)
def test_a_node_says_whether_it_takes_identities_and_where_it_is(said: dict[str, str], takes: bool) -> None:
    where = {"topology.kubernetes.io/region": "west", "topology.kubernetes.io/zone": "a"}
    found = node_of("etcd", replace(record("n2", "10.1.2.0/24", "192.168.0.2", **said), labels=where), 255)
    assert (found.takes_identities, found.region, found.zone) == (takes, "west", "a")


@pytest.mark.parametrize(
    ("cidr", "address", "reason"),
    [
        ("10.1.0.0/23", "192.168.0.102", "10.1.0.0/23 belongs to this node"),
        ("10.1.1.128/25", "192.168.0.102", "10.1.1.128/25 belongs to this node"),
        ("10.2.2.0/24", "192.168.0.1", "192.168.0.1/32 belongs to this node"),
        ("10.2.2.0/24", "10.1.1.9", "10.1.1.9/32 belongs to this node"),
        ("10.1.2.0/25", "192.168.0.102", "10.1.2.0/25 belongs to node cm-1/n2"),
        ("10.2.2.0/24", "192.168.0.2", "192.168.0.2/32 belongs to node cm-1/n2"),
        ("10.2.2.0/24", "10.1.2.7", "10.1.2.7/32 belongs to node cm-1/n2"),
        ("192.168.0.0/31", "10.9.9.9", "192.168.0.0/31 belongs to this node"),
        ("0.0.0.0/1", "192.168.0.102", "0.0.0.0/1: wider than /8"),
        ("127.0.0.0/24", "192.168.0.102", "127.0.0.0/24: loopback addresses"),
    ],
)
def test_a_cluster_cannot_speak_for_what_is_somebody_elses(
    mesh: Mesh, registry: NodeRegistry, cidr: str, address: str, reason: str
) -> None:
    registry.replace_nodes("cm-1", [SECOND])
    registry.put_node("cm-2", record("bad", cidr, address, "cm-2"))
    refused = node(mesh, "cm-2/bad")
    assert (refused.state, refused.reason) == (REFUSED, reason)
    assert registry.problems() == [f"node cm-2/bad is refused: {reason}"]
    assert registry.refusals == {"cm-2": 1}
    assert node(mesh, "cm-1/n2").state is FRESH


def test_of_two_that_claim_one_network_the_older_stays_whatever_their_names(
    mesh: Mesh, registry: NodeRegistry
) -> None:
    registry.put_node("cm-1", record("z", "10.1.5.0/24", "192.168.0.5"))
    registry.replace_nodes(
        "cm-1", [record("a", "10.1.5.0/24", "192.168.0.6"), record("z", "10.1.5.0/24", "192.168.0.5")]
    )
    assert states(mesh) == {"cm-1/z": FRESH, "cm-1/a": REFUSED}


def test_a_node_that_claims_too_much_in_an_update_stays_as_it_was(mesh: Mesh, registry: NodeRegistry) -> None:
    registry.replace_nodes("cm-1", [SECOND, THIRD])
    registry.put_node("cm-1", record("n3", "10.1.2.0/24", "192.168.0.3"))
    stands = node(mesh, "cm-1/n3")
    assert (stands.state, stands.pod_cidrs) == (FRESH, ("10.1.3.0/24",))
    assert stands.reason == "10.1.2.0/24 belongs to node cm-1/n2"
    # As soon as it is free, the newest record counts.
    registry.put_node("cm-1", record("n2", "10.1.9.0/24", "192.168.0.2"))
    taken = node(mesh, "cm-1/n3")
    assert (taken.pod_cidrs, taken.reason) == (("10.1.2.0/24",), "")


def test_a_record_that_vanishes_leaves_its_node_in_force_and_stale(
    mesh: Mesh, registry: NodeRegistry
) -> None:
    registry.replace_nodes("cm-1", [SECOND, THIRD])
    registry.node_vanished("cm-1", "n2", 7)
    assert states(mesh) == {"cm-1/n2": STALE, "cm-1/n3": FRESH}
    assert node(mesh, "cm-1/n2").pod_cidrs == ("10.1.2.0/24",)
    registry.replace_nodes("cm-1", [])
    assert states(mesh) == {"cm-1/n2": STALE, "cm-1/n3": STALE}
    registry.put_node("cm-1", SECOND)
    assert states(mesh) == {"cm-1/n2": FRESH, "cm-1/n3": STALE}


@pytest.mark.parametrize(
    "successor",
    [record("n9", "10.1.2.0/24", "192.168.0.9"), record("n9", "10.1.9.0/24", "192.168.0.2")],
    ids=["its CIDR", "its address"],
)
def test_a_stale_node_gives_way_to_one_of_its_cluster_that_publishes_what_it_had(
    mesh: Mesh, registry: NodeRegistry, successor: NodeRecord
) -> None:
    registry.replace_nodes("cm-1", [SECOND])
    registry.node_vanished("cm-1", "n2", 7)
    registry.put_node("cm-1", successor)
    assert states(mesh) == {"cm-1/n9": FRESH}


def test_a_stale_node_gives_nothing_to_another_cluster_or_to_a_node_that_is_refused(
    mesh: Mesh, registry: NodeRegistry
) -> None:
    registry.replace_nodes("cm-1", [SECOND, THIRD])
    registry.node_vanished("cm-1", "n2", 7)
    registry.put_node("cm-2", record("n9", "10.1.2.0/24", "192.168.0.109", "cm-2"))
    registry.put_node("cm-1", record("n9", "10.1.2.0/24", "192.168.0.3"))
    assert states(mesh) == {
        "cm-1/n2": STALE,
        "cm-1/n3": FRESH,
        "cm-2/n9": REFUSED,
        "cm-1/n9": REFUSED,
    }


def test_when_somebody_deletes_a_node_those_that_waited_for_its_networks_get_them(
    mesh: Mesh, registry: NodeRegistry
) -> None:
    registry.replace_nodes("cm-1", [SECOND])
    registry.put_node("cm-2", record("n9", "10.1.2.0/24", "192.168.0.109", "cm-2"))
    registry.node_vanished("cm-1", "n2", 7)
    mesh.apply("etcd", deletes=[(Node, ("etcd", "cm-1", "n2"))])
    registry.retry()
    assert states(mesh) == {"cm-2/n9": FRESH}


def test_a_cluster_that_is_forgotten_leaves_its_networks_to_others(
    mesh: Mesh, registry: NodeRegistry
) -> None:
    registry.replace_nodes("cm-2", [ELSEWHERE])
    mesh.forget("cluster:cm-2")
    registry.put_node("cm-3", record("n1", "10.2.1.0/24", "192.168.0.101", "cm-3"))
    assert states(mesh) == {"cm-3/n1": FRESH}


def test_what_this_node_has_is_its_own_even_if_another_said_so_first(
    mesh: Mesh, registry: NodeRegistry
) -> None:
    registry.replace_nodes("cm-2", [ELSEWHERE])
    mesh.apply(OWN_NODE, [Node("cm-1", "n1", OWN_NODE, OWN.addresses, ("10.1.1.0/24", "10.2.1.0/26"))])
    registry.retry()
    assert (node(mesh, "cm-2/n1").state, node(mesh, "cm-2/n1").reason) == (
        REFUSED,
        "10.2.1.0/24 belongs to this node",
    )
    mesh.apply(OWN_NODE, [OWN])
    registry.retry()
    assert states(mesh) == {"cm-2/n1": FRESH}


@pytest.mark.parametrize("cidr", ["10.1.2.128/25", "192.168.0.0/28"], ids=["its CIDR", "its address"])
def test_another_cluster_keeps_nothing_that_it_claimed_before_a_node_of_ours_came(
    mesh: Mesh, registry: NodeRegistry, cidr: str
) -> None:
    mesh.apply(OWN_NODE, [Node("cm-1", "n1", OWN_NODE, (parse_address("192.168.0.99"),), ("10.1.1.0/24",))])
    registry.put_node("cm-2", record("thief", cidr, "172.16.0.9", "cm-2"))
    assert states(mesh) == {"cm-2/thief": FRESH}
    registry.put_node("cm-1", SECOND)
    assert states(mesh) == {"cm-2/thief": REFUSED, "cm-1/n2": FRESH}
    assert node(mesh, "cm-2/thief").reason.endswith(" belongs to node cm-1/n2")
    mesh.apply("etcd", deletes=[(Node, ("etcd", "cm-1", "n2"))])
    registry.retry()
    assert states(mesh) == {"cm-2/thief": FRESH}


def test_an_address_that_another_cluster_claimed_beforehand_goes_to_our_node_and_nothing_else_does(
    mesh: Mesh, registry: NodeRegistry
) -> None:
    registry.replace_nodes("cm-2", [ELSEWHERE])
    registry.replace_addresses("cm-2", [pod("10.1.2.7", "192.168.0.101"), pod("172.20.0.7", "192.168.0.101")])
    registry.put_node("cm-1", SECOND)
    assert states(mesh) == {"cm-2/n1": FRESH, "cm-1/n2": FRESH}
    assert extra(mesh, "cm-2/n1") == ["172.20.0.7"]


def test_a_stale_node_of_another_cluster_that_a_node_of_ours_displaces_is_gone(
    mesh: Mesh, registry: NodeRegistry
) -> None:
    registry.put_node("cm-2", record("n9", "10.1.2.0/24", "192.168.0.109", "cm-2"))
    registry.node_vanished("cm-2", "n9", 7)
    registry.put_node("cm-1", SECOND)
    assert states(mesh) == {"cm-1/n2": FRESH}


def test_a_displaced_node_comes_back_as_it_was_said_last(mesh: Mesh, registry: NodeRegistry) -> None:
    registry.put_node("cm-1", THIRD)
    registry.put_node("cm-2", record("n9", "10.1.2.0/24", "192.168.0.109", "cm-2"))
    # Refused, and so not in force, but the newest that cm-2 says of it.
    registry.put_node("cm-2", record("n9", "10.1.3.0/24", "192.168.0.109", "cm-2"))
    registry.put_node("cm-1", SECOND)
    assert node(mesh, "cm-2/n9").state is REFUSED
    mesh.apply("etcd", deletes=[(Node, ("etcd", "cm-1", "n3"))])
    registry.retry()
    assert (node(mesh, "cm-2/n9").state, node(mesh, "cm-2/n9").pod_cidrs) == (FRESH, ("10.1.3.0/24",))


def test_a_restart_believes_those_who_were_believed_before(mesh: Mesh, registry: NodeRegistry) -> None:
    both = [record("a", "10.1.5.0/24", "192.168.0.6"), record("z", "10.1.5.0/24", "192.168.0.5")]
    registry.put_node("cm-1", both[1])
    registry.put_node("cm-1", both[0])
    before = [each for each in mesh.nodes.values() if each.is_of_etcd]
    again = Mesh()
    again.replace(OWN_NODE, [OWN])
    again.restore("etcd", before)
    NodeRegistry(again, "cm-1", "n1").replace_nodes("cm-1", both)
    assert states(again) == {"cm-1/z": FRESH, "cm-1/a": REFUSED}


def test_addresses_of_pods_outside_the_cidrs_of_their_node_belong_to_it(
    mesh: Mesh, registry: NodeRegistry
) -> None:
    registry.replace_nodes("cm-1", [SECOND])
    inside, outside = pod("10.1.2.7", "192.168.0.2"), pod("172.20.0.7", "192.168.0.2")
    registry.replace_addresses("cm-1", [inside, outside, pod("172.20.0.8", "192.168.0.99")])
    assert extra(mesh, "cm-1/n2") == ["172.20.0.7"]
    registry.put_address("cm-1", pod("172.20.0.9", "192.168.0.2"))
    assert extra(mesh, "cm-1/n2") == ["172.20.0.7", "172.20.0.9"]
    registry.address_vanished("cm-1", "172.20.0.7", 5)
    assert extra(mesh, "cm-1/n2") == ["172.20.0.9"]
    # It moves to another node, and is this one's no more.
    registry.put_node("cm-1", THIRD)
    registry.put_address("cm-1", pod("172.20.0.9", "192.168.0.3"))
    assert (extra(mesh, "cm-1/n2"), extra(mesh, "cm-1/n3")) == ([], ["172.20.0.9"])


@pytest.mark.parametrize("address", ["10.1.1.9", "10.2.1.9", "192.168.0.1", "172.20.0.7", "127.0.0.1"])
def test_an_address_that_is_somebody_elses_is_refused_alone(
    mesh: Mesh, registry: NodeRegistry, address: str
) -> None:
    registry.replace_nodes("cm-2", [ELSEWHERE])
    registry.replace_addresses("cm-2", [pod("172.20.0.7", "192.168.0.101")])
    registry.replace_nodes("cm-3", [record("n1", "10.3.1.0/24", "192.168.0.201", "cm-3")])
    registry.replace_addresses("cm-3", [pod(address, "192.168.0.201"), pod("172.20.3.1", "192.168.0.201")])
    assert (extra(mesh, "cm-3/n1"), node(mesh, "cm-3/n1").state) == (["172.20.3.1"], FRESH)
    (problem,) = registry.problems()
    assert problem.startswith(f"address {address} of node cm-3/n1 belongs to ")
    registry.address_vanished("cm-3", address, 4)
    assert registry.problems() == []


@pytest.mark.parametrize("node_first", [True, False])
def test_a_node_that_dies_keeps_the_addresses_that_its_lease_took_along(
    mesh: Mesh, registry: NodeRegistry, node_first: bool
) -> None:
    registry.replace_nodes("cm-1", [SECOND])
    registry.replace_addresses("cm-1", [pod("172.20.0.7", "192.168.0.2"), pod("172.20.0.8", "192.168.0.2")])
    registry.address_vanished("cm-1", "172.20.0.8", 5)
    if node_first:
        registry.node_vanished("cm-1", "n2", 7)
    registry.address_vanished("cm-1", "172.20.0.7", 7)
    if not node_first:
        registry.node_vanished("cm-1", "n2", 7)
    assert (node(mesh, "cm-1/n2").state, extra(mesh, "cm-1/n2")) == (STALE, ["172.20.0.7"])


def test_addresses_of_a_restored_node_stand_until_they_were_listed(
    mesh: Mesh, registry: NodeRegistry
) -> None:
    registry.replace_nodes("cm-1", [SECOND])
    registry.replace_addresses("cm-1", [pod("172.20.0.7", "192.168.0.2")])
    restarted = NodeRegistry(mesh, "cm-1", "n1")
    restarted.replace_nodes("cm-1", [SECOND])
    assert extra(mesh, "cm-1/n2") == ["172.20.0.7"]
    restarted.replace_addresses("cm-1", [])
    assert extra(mesh, "cm-1/n2") == []


def test_another_node_with_our_name_is_complained_of_until_the_record_is_ours_again(
    mesh: Mesh, registry: NodeRegistry
) -> None:
    ours, theirs = record("n1", "10.1.1.0/24", "192.168.0.1"), record("n1", "10.1.9.0/24", "192.168.0.9")
    registry.replace_nodes("cm-1", [ours])
    assert registry.problems() == []
    registry.put_node("cm-1", theirs)
    (problem,) = registry.problems()
    assert problem.startswith("another node calls itself cm-1/n1, at 192.168.0.9")
    # A node of another cluster may be called so.
    registry.put_node("cm-2", ELSEWHERE)
    assert registry.problems() == [problem]
    registry.put_node("cm-1", ours)
    assert registry.problems() == []


def test_a_remote_node_cannot_have_what_our_services_are_dialled_at(mesh: Mesh) -> None:
    registry = NodeRegistry(mesh, "cm-1", "n1", ours=OwnAddresses(mesh, "cm-1"))
    mesh.replace("manifests", [DIALLED])
    registry.replace_nodes("cm-2", [record("n1", "10.96.0.0/12", "192.168.0.101", "cm-2"), ELSEWHERE_TOO])
    assert states(mesh) == {"cm-2/n1": REFUSED, "cm-2/n2": FRESH}
    assert (
        node(mesh, "cm-2/n1").reason == "10.96.0.0/12 has 10.96.0.10, which a service of cm-1 is dialled at"
    )
    assert registry.refusals["cm-2"] == 1


def test_a_remote_node_that_has_what_becomes_ours_waits_until_it_is_not(mesh: Mesh) -> None:
    registry = NodeRegistry(mesh, "cm-1", "n1", ours=OwnAddresses(mesh, "cm-1"))
    registry.replace_nodes("cm-2", [record("n1", "10.96.0.0/12", "192.168.0.101", "cm-2")])
    assert states(mesh) == {"cm-2/n1": FRESH}
    mesh.replace("manifests", [DIALLED])
    registry.retry()
    assert states(mesh) == {"cm-2/n1": REFUSED}
    mesh.replace("manifests", [])
    registry.retry()
    assert states(mesh) == {"cm-2/n1": FRESH}


def test_an_address_of_a_remote_pod_cannot_be_what_our_services_are_dialled_at(mesh: Mesh) -> None:
    registry = NodeRegistry(mesh, "cm-1", "n1", ours=OwnAddresses(mesh, "cm-1"))
    mesh.replace("manifests", [DIALLED])
    registry.replace_nodes("cm-2", [ELSEWHERE_TOO])
    registry.replace_addresses("cm-2", [pod("10.96.0.10", "192.168.0.102"), pod("10.2.9.9", "192.168.0.102")])
    assert extra(mesh, "cm-2/n2") == ["10.2.9.9"]
    assert any("10.96.0.10" in each for each in registry.problems())


def test_nodes_of_our_own_cluster_may_have_what_services_are_dialled_at(mesh: Mesh) -> None:
    registry = NodeRegistry(mesh, "cm-1", "n1", ours=OwnAddresses(mesh, "cm-1"))
    mesh.replace("manifests", [DIALLED])
    registry.replace_nodes("cm-1", [record("n2", "10.96.0.0/24", "192.168.0.2")])
    assert states(mesh) == {"cm-1/n2": FRESH}
