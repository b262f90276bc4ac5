"""Node records: the bytes Go writes, and refusals."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

import pytest

from clustermesh.errors import InvalidRecord
from clustermesh.node_record import Node, NodeAddress, decode_node, encode_node

KEY = "cilium/state/nodes/v1/cluster3/test-node-1"

# What Cilium's exporter writes for this node, in one line: see its ciliumnodes test.
WRITTEN = (
    b'{"Name":"test-node-1","Cluster":"cluster3","IPAddresses":[{"Type":"InternalIP","IP":"172.18.0.2"},'
    b'{"Type":"CiliumInternalIP","IP":"fd00:10:244::e2d6"}],'
    b'"IPv4AllocCIDR":{"IP":"10.244.0.0","Mask":"////AA=="},"IPv4SecondaryAllocCIDRs":null,'
    b'"IPv6AllocCIDR":{"IP":"fd00:10:244::","Mask":"//////////8AAAAAAAAAAA=="},"IPv6SecondaryAllocCIDRs":null,'
    b'"IPv4HealthIP":"10.244.0.134","IPv6HealthIP":"fd00:10:244::d812","IPv4IngressIP":"","IPv6IngressIP":"",'
    b'"ClusterID":3,"Source":"custom-resource","EncryptionKey":0,"Labels":{"kubernetes.io/hostname":"test-node-1"},'
    b'"Annotations":null,"WireguardPubKey":"VRksOB6ZNds4oXWIGfSVpvc0gBhcOWFmzvTDcyvULlI=",'
    b'"BootID":"570d3fd1-93db-4862-ba99-6a3c2c10c38f"}'
)

NODE = Node(
    name="test-node-1",
    cluster="cluster3",
    cluster_id=3,
    addresses=(
        NodeAddress("InternalIP", ip_address("172.18.0.2")),
        NodeAddress("CiliumInternalIP", ip_address("fd00:10:244::e2d6")),
    ),
    ipv4_network=ip_network("10.244.0.0/24"),
    ipv6_network=ip_network("fd00:10:244::/64"),
    ipv4_health=ip_address("10.244.0.134"),
    ipv6_health=ip_address("fd00:10:244::d812"),
    labels={"kubernetes.io/hostname": "test-node-1"},
    wireguard_key="VRksOB6ZNds4oXWIGfSVpvc0gBhcOWFmzvTDcyvULlI=",
    boot_id="570d3fd1-93db-4862-ba99-6a3c2c10c38f",
)


def decode(value: bytes) -> Node:
    """As the reader of cluster3 would."""
    return decode_node(KEY, value, cluster="cluster3", name="test-node-1", cluster_id=3)


def test_the_documented_node_is_read_and_written_byte_for_byte() -> None:
    assert encode_node(NODE) == WRITTEN
    assert decode(WRITTEN) == NODE


def test_the_node_identity_of_older_exporters_is_passed_over() -> None:
    assert decode(WRITTEN[:-1] + b',"NodeIdentity":6}') == NODE


@pytest.mark.parametrize("field", ["IPv4SecondaryAllocCIDRs", "IPv6SecondaryAllocCIDRs"])
def test_a_node_with_networks_without_end_is_refused(field: str) -> None:
    network = {"IP": "10.9.0.0", "Mask": "////AA=="}
    if "6" in field:
        network = {"IP": "fd00:9::", "Mask": "//////////8AAAAAAAAAAA=="}
    wire = json.loads(WRITTEN)
    assert decode(json.dumps(wire | {field: [network] * 256}).encode()).name == "test-node-1"
    with pytest.raises(InvalidRecord, match=f"{field}.*more than the 256"):
        decode(json.dumps(wire | {field: [network] * 257}).encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Name", "other"),
        ("Cluster", "cluster4"),
        ("ClusterID", 4),
        ("IPAddresses", [{"Type": "InternalIP", "IP": "fe80::1%eth0"}]),
        ("IPv4AllocCIDR", {"IP": "10.0.0.0", "Mask": "/wD/AA=="}),
        ("IPv4AllocCIDR", {"IP": "10.0.0.0", "Mask": "not base64"}),
        ("IPv6AllocCIDR", {"IP": "fd00::", "Mask": "////AA=="}),
        ("IPv4HealthIP", "nowhere"),
    ],
)
def test_a_node_with_a_wrong_field_is_refused_by_that_field(field: str, value: object) -> None:
    with pytest.raises(InvalidRecord) as refusal:
        decode(json.dumps(json.loads(WRITTEN) | {field: value}).encode())
    assert refusal.value.field == field
