"""Every example of the format, field for field: what Cilium's code writes is what we read, and what we write."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from clustermesh import keys
from clustermesh.address_record import AddressRecord, decode_address, encode_address
from clustermesh.errors import InvalidRecord
from clustermesh.node_record import Node, NodeAddress, decode_node, encode_node
from clustermesh.records import (
    ClusterConfig,
    ClusterService,
    Port,
    Zone,
    decode_config,
    decode_service,
    encode_config,
    encode_service,
)
from tests.unit.clustermesh.golden import CILIUM

WG_KEY = "VRksOB6ZNds4oXWIGfSVpvc0gBhcOWFmzvTDcyvULlI="
NODE_NIL = Node("n", "cluster3", 3)
NODES = {
    "node-nil": NODE_NIL,
    "node-full": Node(
        name="test-node-1",
        cluster="cluster3",
        cluster_id=3,
        addresses=(
            NodeAddress("InternalIP", ip_address("172.18.0.2")),
            NodeAddress("ExternalIP", ip_address("203.0.113.9")),
            NodeAddress("CiliumInternalIP", ip_address("fd00:10:244::e2d6")),
        ),
        ipv4_network=ip_network("10.244.0.0/22"),
        ipv4_secondary_networks=(
            ip_network("10.245.0.0/25"),
            ip_network("10.246.7.7/32"),
            ip_network("0.0.0.0/0"),
        ),
        ipv6_network=ip_network("fd00:10:244::/56"),
        ipv6_secondary_networks=(ip_network("fd00:11::/120"),),
        ipv4_health=ip_address("10.244.0.134"),
        ipv6_health=ip_address("fd00:10:244::d812"),
        ipv4_ingress=ip_address("10.244.0.200"),
        ipv6_ingress=ip_address("fd00:10:244::c8"),
        encryption_key=7,
        labels={"kubernetes.io/hostname": "test-node-1", "a": "<&>"},
        annotations={"network.cilium.io/wg-pub-key": WG_KEY},
        wireguard_key=WG_KEY,
        boot_id="570d3fd1-93db-4862-ba99-6a3c2c10c38f",
    ),
}
HTTP, DNS = ("http", Port("TCP", 8080)), ("dns", Port("UDP", 53))
POD = AddressRecord(
    ip_network("10.244.2.74"),
    ip_address("172.18.0.2"),
    199475,
    encryption_key=5,
    namespace="bar",
    pod="cep-002",
    service_account="default",
    named_ports=(HTTP, DNS),
)
ADDRESSES = {
    "ip-pod-named-ports": POD,
    "ip-pod-ipv6": AddressRecord(
        ip_network("fd00:10:244:1::d643"),
        ip_address("172.18.0.3"),
        199472,
        namespace="foo",
        pod="cep-001",
        service_account="default",
    ),
    "ip-prefix-no-host": AddressRecord(ip_network("10.1.0.0/16"), None, 6),
    "ip-empty-named-ports": AddressRecord(ip_network("10.1.0.1"), ip_address("172.18.0.3"), 3),
}
CONFIGS = {
    "config-255": ClusterConfig(3, service_exports_enabled=False),
    "config-511-cached": ClusterConfig(
        511,
        cached=True,
        max_connected_clusters=511,
        service_exports_enabled=True,
        endpoint_slices_export_mode="services-and-endpointslices",
    ),
}


def node(value: str, name: str) -> Node:
    """As the reader of cluster3 (id 3) would."""
    return decode_node("k", value.encode(), cluster="cluster3", name=name, cluster_id=3)


def address(value: str, name: str, cluster_id: int = 3, most: int = 255) -> AddressRecord:
    return decode_address("k", value.encode(), name=name, cluster_id=cluster_id, max_connected_clusters=most)


def service(value: str) -> ClusterService:
    return decode_service("k", value.encode(), cluster="cluster3", name="ns/svc", cluster_id=3)


@pytest.mark.parametrize("name", NODES)
def test_a_node_is_read_and_written_byte_for_byte(name: str) -> None:
    assert node(CILIUM[name], NODES[name].name) == NODES[name]
    assert encode_node(NODES[name]).decode() == CILIUM[name]


def test_a_node_with_empty_lists_is_one_without() -> None:
    assert node(CILIUM["node-empty"], "n") == replace(NODE_NIL, source="local", labels={}, annotations={})


@pytest.mark.parametrize("name", ADDRESSES)
def test_an_address_is_read_and_written_byte_for_byte(name: str) -> None:
    assert address(CILIUM[name], ADDRESSES[name].name) == ADDRESSES[name]
    assert encode_address(ADDRESSES[name]).decode() == CILIUM[name]


def test_an_address_as_later_versions_write_it_is_the_same() -> None:
    # Cilium's main: no Mask where there is none, and the pod's uid.
    wire = json.loads(CILIUM["ip-pod-named-ports"]) | {"K8sPodUID": "cep-pod-uid"}
    del wire["Mask"]
    assert address(json.dumps(wire), "10.244.2.74") == POD


def test_a_named_port_that_is_none_is_left_out_and_the_address_stands() -> None:
    ports = [{"Name": "x", "Port": 0, "Protocol": "TCP"}, {"Name": "y", "Port": 1, "Protocol": "ANY"}]
    wire = json.loads(CILIUM["ip-pod-named-ports"])
    wire["NamedPorts"] += ports
    assert address(json.dumps(wire), "10.244.2.74") == POD
    wire["NamedPorts"] = ports * 200
    with pytest.raises(InvalidRecord, match="NamedPorts: 400 ports"):
        address(json.dumps(wire), "10.244.2.74")


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("10.1.0.0/16", None),
        ("10.1.0.0/16", "////AA=="),
        ("10.1.0.0", "//8AAA=="),
        ("10.1.0.0/255.255.0.0", "//8AAA=="),
        ("10.1.0.0/16", "//8="),
        ("10.1.0.0/16", "no base64"),
        ("10.1.0.0/016", "//8AAA=="),
    ],
)
def test_an_address_whose_mask_is_not_that_of_its_key_is_refused(name: str, mask: str | None) -> None:
    wire = json.loads(CILIUM["ip-prefix-no-host"]) | {"Mask": mask}
    with pytest.raises(InvalidRecord, match=r"k: (Mask|IP): "):
        address(json.dumps(wire), name)


@pytest.mark.parametrize(
    ("cluster_id", "most", "identity"),
    [(511, 511, 16744448), (511, 511, 16777215), (3, 511, 98304), (255, 255, 16777215), (3, 511, 255)],
)
def test_an_identity_of_its_cluster_or_of_all_is_one_in_either_mode(
    cluster_id: int, most: int, identity: int
) -> None:
    wire = json.loads(CILIUM["ip-pod-named-ports"]) | {"ID": identity}
    assert address(json.dumps(wire), "10.244.2.74", cluster_id, most).identity == identity


@pytest.mark.parametrize(
    ("cluster_id", "most", "identity"),
    [(510, 511, 16744448), (3, 511, 131072), (3, 511, 98303), (3, 511, 256), (254, 255, 16777215)],
)
def test_an_identity_of_another_cluster_is_none_in_either_mode(
    cluster_id: int, most: int, identity: int
) -> None:
    wire = json.loads(CILIUM["ip-pod-named-ports"]) | {"ID": identity}
    with pytest.raises(InvalidRecord, match=f"k: ID: is {identity}"):
        address(json.dumps(wire), "10.244.2.74", cluster_id, most)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_cluster_config_is_read_and_written_byte_for_byte(name: str) -> None:
    assert decode_config("k", CILIUM[name].encode()) == CONFIGS[name]
    assert encode_config(CONFIGS[name]).decode() == CILIUM[name]


def test_a_cluster_config_that_says_nothing_has_neither_id_nor_canaries() -> None:
    assert decode_config("k", CILIUM["config-zero"].encode()) == ClusterConfig(0, synced_canaries=False)


def test_a_service_of_nil_maps_is_one_without_anything() -> None:
    expected = ClusterService("cluster3", "ns", "svc", 3, include_external=False, shared=False)
    assert service(CILIUM["service-nil"]) == expected


def test_a_service_with_empty_and_nil_ports_names_its_backends_all_the_same() -> None:
    at, nil = ip_address("10.0.0.9"), ip_address("fd00::2")
    expected = ClusterService(
        "cluster3",
        "ns",
        "svc",
        3,
        backends={at: {}, nil: {}},
        hostnames={at: "pod-0"},
        zones={at: Zone("a")},
    )
    assert service(CILIUM["service-empty"]) == expected
    # Nil and empty are the same to every reader; we write the one that says that there is nothing.
    assert encode_service(expected).decode() == CILIUM["service-empty"].replace(":null}", ":{}}", 1)


KEYS: dict[str, tuple[Callable[..., str], tuple[str, ...], str]] = {
    "services": (keys.services_prefix, ("c",), "cilium/state/services/v1/c/"),
    "nodes": (keys.nodes_prefix, ("c",), "cilium/state/nodes/v1/c/"),
    "slices": (keys.slices_prefix, ("c",), "cilium/state/endpointslices/v1/c/"),
    "identities": (keys.identities_prefix, ("c",), "cilium/state/identities/v1/id/"),
    "addresses": (keys.addresses_prefix, ("c",), "cilium/state/ip/v1/default/"),
}
CACHED = {
    "services": "cilium/cache/services/v1/c/",
    "nodes": "cilium/cache/nodes/v1/c/",
    "slices": "cilium/cache/endpointslices/v1/c/",
    "identities": "cilium/cache/identities/v1/c/id/",
    "addresses": "cilium/cache/ip/v1/c/",
}


@pytest.mark.parametrize("name", KEYS)
def test_prefixes_are_those_of_the_format_also_in_a_kvstoremesh(name: str) -> None:
    prefix, arguments, expected = KEYS[name]
    assert (prefix(*arguments), prefix(*arguments, cached=True)) == (expected, CACHED[name])


def test_keys_are_those_of_the_format() -> None:
    assert keys.identity(196915) == "cilium/state/identities/v1/id/196915"
    assert (
        keys.identity_use("k8s:a=b;", "172.18.0.2") == "cilium/state/identities/v1/value/k8s:a=b;/172.18.0.2"
    )
    assert keys.endpoint_slice("c", "ns", "web-1") == "cilium/state/endpointslices/v1/c/ns/web-1"
    canary = keys.canary("c", "identities", cached=True)
    assert canary == "cilium/synced/c/cilium/cache/identities/v1"
