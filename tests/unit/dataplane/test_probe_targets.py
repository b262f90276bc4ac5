"""Whom to ask: nodes that carry what may be used here, and those that prove that we hear."""

from __future__ import annotations

from dataclasses import replace

from meshd.dataplane.out_of_reach import OutOfReach
from meshd.dataplane.probes.targets import asked
from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Node,
    NodeState,
    Outage,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from meshd.model.address_pool import health_addresses
from meshd.model.cluster import ETCD
from meshd.state import Mesh, PlanKey

WEB = ServiceName("galaxy", "web")
CM_2 = "cluster:cm-2"
OWN = health_addresses(["10.1.1.0/24", "fd01::/64"])


def node(name: str, cidr: str, source: str = CM_2, cluster: str = "cm-2") -> Node:
    return Node(cluster, name, source, (), (cidr,), health=health_addresses([cidr]))


def part(*addresses: str) -> BackendSlice:
    port = BackendPort("http", Protocol.TCP, 80)
    backends = tuple(Backend(parse_address(each), (port,)) for each in addresses)
    return BackendSlice(WEB, "clustermesh", CM_2, "cm-2", backends)


def mesh_of(*objects: Node | BackendSlice | Service) -> Mesh:
    mesh = Mesh()
    for each in objects:
        mesh.apply(each.source, [each])
    return mesh


def names(mesh: Mesh) -> list[tuple[str, bool]]:
    return [(each.node, each.is_reference) for each in asked(mesh, OWN, [])]


def test_asked_are_nodes_with_a_backend_of_a_service_that_is_global_here() -> None:
    nodes = node("carries", "10.2.1.0/24"), node("idle", "10.2.2.0/24")
    mesh = mesh_of(*nodes, part("10.2.1.7"), Service(WEB, "manifests", is_global=True))
    assert names(mesh) == [("carries", False)]
    mesh.apply("manifests", [Service(WEB, "manifests", is_global=False)])
    assert names(mesh) == []


def test_a_backend_outside_its_nodes_cidr_counts_by_what_the_node_said_of_it() -> None:
    outside = replace(node("carries", "10.2.1.0/24"), extra=(parse_address("10.9.9.9"),))
    mesh = mesh_of(outside, part("10.9.9.9"), Service(WEB, "manifests", is_global=True))
    assert names(mesh) == [("carries", False)]


def test_nodes_of_this_cluster_are_references() -> None:
    mesh = mesh_of(node("beside", "10.1.2.0/24", ETCD, "cm-1"))
    assert names(mesh) == [("beside", True)]


def test_who_is_refused_or_has_no_address_of_our_family_is_not_asked() -> None:
    refused = replace(node("refused", "10.1.2.0/24", ETCD, "cm-1"), state=NodeState.REFUSED)
    silent = replace(node("older build", "10.1.3.0/24", ETCD, "cm-1"), health=())
    only_v6 = node("v6", "fd01:3::/64", ETCD, "cm-1")
    mesh = mesh_of(refused, silent, only_v6)
    assert asked(mesh, health_addresses(["10.1.1.0/24"]), []) == []
    assert names(mesh) == [("v6", True)]


def test_the_configuration_names_further_references() -> None:
    gateway = parse_address("10.0.0.1")
    (found,) = asked(Mesh(), OWN, [gateway])
    assert (found.node, found.address, found.is_reference) == ("", gateway, True)


def test_addresses_of_nodes_that_are_down_are_out_of_reach_and_no_others() -> None:
    mesh = mesh_of(node("down", "10.2.1.0/24"), node("up", "10.2.2.0/24"))
    found = OutOfReach()
    addresses = {text: parse_address(text) for text in ("10.2.0.255", "10.2.1.0", "10.2.1.255", "10.2.2.0")}
    assert not any(found.has(mesh, CM_2, each) for each in addresses.values())
    mesh.apply("probes", [Outage("cm-2", "down", 1.0, "")])
    assert [text for text, each in addresses.items() if found.has(mesh, CM_2, each)] == [
        "10.2.1.0",
        "10.2.1.255",
    ]
    assert not found.has(mesh, "cluster:cm-3", addresses["10.2.1.0"])
    mesh.apply("probes", deletes=[(Outage, ("probes", "cm-2", "down"))])
    assert not found.has(mesh, CM_2, addresses["10.2.1.0"])


def test_an_outage_plans_the_services_of_its_cluster_again() -> None:
    mesh = mesh_of(node("down", "10.2.1.0/24"), part("10.2.1.7"), Service(WEB, "manifests", is_global=True))
    mesh.take_changes()
    mesh.apply("probes", [Outage("cm-2", "down", 1.0, "")])
    assert list(mesh.take_changes()) == [PlanKey("service", str(WEB))]
    # Its CIDRs say which backends are concerned.
    mesh.apply(CM_2, [node("down", "10.2.3.0/24")])
    assert PlanKey("service", str(WEB)) in mesh.take_changes()


def test_the_address_that_is_asked_is_one_that_no_pod_gets() -> None:
    assert health_addresses(["10.1.1.0/24", "10.1.2.0/24", "fd01::/64"]) == (
        parse_address("10.1.1.0"),
        parse_address("fd01::"),
    )
    # RFC 3021: both addresses of these are hosts'.
    assert health_addresses(["10.1.1.0/31", "10.1.1.4/32", "fd01::/127"]) == ()
