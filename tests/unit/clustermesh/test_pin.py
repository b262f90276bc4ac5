"""What a peer may name: its id and the networks that it was joined with."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from clustermesh.address_record import AddressRecord
from clustermesh.errors import InvalidRecord, OptionsError
from clustermesh.node_record import Node, NodeAddress
from clustermesh.peers import read_directory
from clustermesh.pin import ANY, Pin, parse, render
from clustermesh.records import ClusterService, Port

PIN = Pin(2, (ip_network("10.2.0.0/16"), ip_network("192.0.2.0/24"), ip_network("fd00:2::/48")))
HTTP = {"http": Port("TCP", 80)}


def service(*addresses: str) -> ClusterService:
    return ClusterService("cm-2", "ns", "web", 2, backends={ip_address(each): HTTP for each in addresses})


NODE = Node(
    "n1",
    "cm-2",
    2,
    addresses=(NodeAddress("InternalIP", ip_address("192.0.2.7")),),
    ipv4_network=ip_network("10.2.1.0/24"),
    ipv6_network=ip_network("fd00:2:0:1::/64"),
)
ADDRESS = AddressRecord(ip_network("10.2.1.5/32"), ip_address("192.0.2.7"), 3)


@pytest.mark.parametrize(
    "record", [service(), service("10.2.3.4", "fd00:2::1"), service("192.0.2.9"), NODE, ADDRESS]
)
def test_what_lies_in_the_networks_is_allowed(record: ClusterService | Node | AddressRecord) -> None:
    assert PIN.allows(record)


@pytest.mark.parametrize(
    "record",
    [
        service("10.2.3.4", "10.3.0.1"),
        service("169.254.169.254"),
        # An IPv4 address inside IPv6 is the same endpoint as the plain one, but in none of these networks.
        service("::ffff:10.2.3.4"),
        replace(NODE, addresses=(NodeAddress("ExternalIP", ip_address("203.0.113.1")),)),
        replace(NODE, ipv4_network=ip_network("10.3.1.0/24")),
        replace(NODE, ipv4_network=ip_network("10.0.0.0/8")),
        replace(NODE, ipv6_secondary_networks=(ip_network("fd00:3::/64"),)),
        replace(ADDRESS, network=ip_network("10.3.1.5/32")),
        replace(ADDRESS, network=ip_network("10.2.0.0/15")),
        replace(ADDRESS, host=ip_address("203.0.113.1")),
    ],
)
def test_what_lies_elsewhere_is_not(record: ClusterService | Node | AddressRecord) -> None:
    assert not PIN.allows(record)
    assert ANY.allows(record)
    assert Pin(2).allows(record)


def test_the_refusal_names_the_address() -> None:
    with pytest.raises(
        InvalidRecord, match=r"KEY: backends: 10\.3\.0\.1 is in no network that the peer was joined"
    ):
        PIN.service("KEY", service("10.2.3.4", "10.3.0.1"))


def test_another_cluster_id_is_a_problem() -> None:
    assert PIN.config_problem(2) is None
    assert PIN.config_problem(3) == "its cluster id is 3, it was joined as 2"
    assert ANY.config_problem(3) is None


def test_it_stands_in_the_peer_file(tmp_path: Path) -> None:
    (tmp_path / "cm-2").write_text(
        "endpoints: [http://127.0.0.1:2379]\n"
        "meshd.io/pin: {cluster-id: 2, networks: [10.2.0.0/16, 192.0.2.0/24, 'fd00:2::/48']}\n"
    )
    assert read_directory(tmp_path, "cm-1", {}).peers["cm-2"].pin == PIN
    assert parse(render(PIN)) == PIN


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "expected cluster-id and networks"),
        ({"id": 2}, "expected cluster-id and networks"),
        ({"cluster-id": "two"}, "cluster-id: expected a number"),
        ({"cluster-id": -1}, "cluster-id: expected a number"),
        ({"networks": "10.0.0.0/8"}, "networks: expected a list"),
        ({"networks": ["10.0.0.1/8"]}, "networks: 10.0.0.1/8 has host bits set"),
    ],
)
def test_one_that_is_wrong_refuses_the_file(document: object, reason: str) -> None:
    with pytest.raises(OptionsError, match=f"meshd.io/pin: {reason}"):
        parse(document)
