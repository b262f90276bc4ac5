"""What no remote cluster may name."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Frontend,
    Node,
    NodeState,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from meshd.model.cluster import ETCD, OWN_NODE
from meshd.sources.own_addresses import OwnAddresses
from meshd.state import Mesh

WEB, KUBERNETES = ServiceName("default", "web"), ServiceName("default", "kubernetes")
NODE = Node("cm-1", "n1", OWN_NODE, (parse_address("192.168.0.1"),), ("10.1.1.0/24", "fd00:1::/64"))


def service(name: ServiceName, address: str, source: str = "manifests") -> Service:
    return Service(name, source, (Frontend(parse_address(address), 80, Protocol.TCP),))


def backends(name: ServiceName, source: str, address: str) -> BackendSlice:
    ports = (BackendPort("", Protocol.TCP, 6443),)
    return BackendSlice(name, "part", source, "cm-1", (Backend(parse_address(address), ports),))


@pytest.fixture
def mesh() -> Mesh:
    made = Mesh()
    made.replace(OWN_NODE, [NODE])
    made.replace("manifests", [service(WEB, "10.96.0.10")])
    made.replace("kubernetes", [backends(KUBERNETES, "kubernetes", "192.168.0.50")])
    made.replace("cluster:cm-2", [Node("cm-2", "n1", "cluster:cm-2", (), ("10.2.1.0/24",))])
    return made


@pytest.fixture
def own(mesh: Mesh) -> OwnAddresses:
    return OwnAddresses(mesh, "cm-1", [parse_address("192.168.0.60")])


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.2.1.9", ""),
        ("192.168.0.2", ""),
        ("8.8.8.8", ""),
        ("fd00:2::1", ""),
        ("127.0.0.1", "is one of the loopback addresses"),
        ("::1", "is one of the loopback addresses"),
        ("::ffff:127.0.0.1", "is one of the loopback addresses"),
        ("224.0.0.1", "is one of the multicast addresses"),
        ("169.254.169.254", "is one of the link-local addresses"),
        ("fe80::1", "is one of the link-local addresses"),
        ("0.0.0.0", "is one of the unspecified addresses"),
        ("::", "is one of the unspecified addresses"),
        ("10.1.1.7", "belongs to node cm-1/n1"),
        ("::ffff:10.1.1.7", "belongs to node cm-1/n1"),
        ("fd00:1::7", "belongs to node cm-1/n1"),
        ("192.168.0.1", "belongs to node cm-1/n1"),
        ("10.96.0.10", "is what a service of cm-1 is dialled at"),
        ("192.168.0.50", "is that of an API server of cm-1"),
        ("192.168.0.60", "is that of an API server of cm-1"),
    ],
)
def test_an_address_of_ours_or_of_nobody_is_nobody_elses(
    own: OwnAddresses, address: str, reason: str
) -> None:
    assert own.reason(ip_address(address)) == reason


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("10.2.0.0/16", ""),
        ("10.96.0.0/30", ""),
        ("fd00:2::/64", ""),
        ("10.96.0.0/12", "has 10.96.0.10, which a service of cm-1 is dialled at"),
        ("10.96.0.10/32", "has 10.96.0.10, which a service of cm-1 is dialled at"),
        ("192.168.0.48/30", "has 192.168.0.50, which is that of an API server of cm-1"),
        ("192.168.0.60/32", "has 192.168.0.60, which is that of an API server of cm-1"),
    ],
)
def test_a_network_with_such_an_address_is_nobody_elses(own: OwnAddresses, network: str, reason: str) -> None:
    assert own.reason_within(ip_network(network)) == reason


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("10.2.0.0/16", ""),
        ("192.168.0.2/32", ""),
        ("10.1.1.0/24", "belongs to node cm-1/n1"),
        ("10.1.0.0/16", "belongs to node cm-1/n1"),
        ("10.1.1.128/25", "belongs to node cm-1/n1"),
        ("192.168.0.0/31", "belongs to node cm-1/n1"),
        ("127.0.0.0/24", "is one of the loopback addresses"),
        ("fe80::/48", "is one of the link-local addresses"),
        ("10.96.0.0/16", "has 10.96.0.10, which a service of cm-1 is dialled at"),
        ("192.168.0.60/32", "has 192.168.0.60, which is that of an API server of cm-1"),
    ],
)
def test_a_network_that_touches_ours_is_not_learned_of_anybody(
    own: OwnAddresses, network: str, reason: str
) -> None:
    assert own.reason_of_network(ip_network(network)) == reason


def test_what_comes_and_goes_counts_from_then_on(mesh: Mesh, own: OwnAddresses) -> None:
    later = ip_address("10.96.0.11")
    before = own.generation
    mesh.apply("manifests", [service(ServiceName("default", "db"), "10.96.0.11")])
    assert own.reason(later) == "is what a service of cm-1 is dialled at"
    assert own.generation > before
    mesh.apply("api", [service(ServiceName("default", "db"), "10.96.0.11", "api")])
    mesh.replace("manifests", [])
    # Another one is dialled there still.
    assert own.reason(later) != ""
    mesh.replace("api", [])
    assert own.reason(later) == ""
    assert own.reason_within(ip_network("10.96.0.0/12")) == ""
    mesh.replace(OWN_NODE, [])
    assert own.reason(ip_address("10.1.1.7")) == ""


def test_a_node_that_several_sources_tell_of_has_what_any_of_them_says(mesh: Mesh, own: OwnAddresses) -> None:
    # Inside the first one's network: neither hides the other.
    mesh.apply(ETCD, [Node("cm-1", "n1", ETCD, (parse_address("10.1.1.5"),), ("10.1.9.0/24",))])
    for address in ("10.1.1.9", "10.1.9.9", "10.1.1.5"):
        assert own.reason(ip_address(address)) == "belongs to node cm-1/n1"
    mesh.replace(OWN_NODE, [])
    assert own.reason(ip_address("10.1.1.9")) == ""
    assert own.reason(ip_address("10.1.1.5")) == "belongs to node cm-1/n1"


def test_pods_outside_the_networks_of_their_node_are_ours(mesh: Mesh, own: OwnAddresses) -> None:
    mesh.apply(ETCD, [Node("cm-1", "n2", ETCD, extra=(parse_address("10.8.0.7"),))])
    assert own.reason(ip_address("10.8.0.7")) == "belongs to node cm-1/n2"
    assert own.reason(ip_address("10.8.0.8")) == ""


def test_what_a_refused_node_claims_is_not_ours(mesh: Mesh, own: OwnAddresses) -> None:
    refused = Node("cm-1", "n2", ETCD, (), ("10.7.0.0/24",), state=NodeState.REFUSED, reason="another's")
    mesh.apply(ETCD, [refused])
    assert own.reason(ip_address("10.7.0.1")) == ""


def test_nothing_of_ours_changes_when_another_cluster_does(mesh: Mesh, own: OwnAddresses) -> None:
    before = own.generation
    mesh.apply("cluster:cm-2", [Node("cm-2", "n2", "cluster:cm-2", (), ("10.2.2.0/24",))])
    assert (own.reason(ip_address("10.2.2.1")), own.generation) == ("", before)
