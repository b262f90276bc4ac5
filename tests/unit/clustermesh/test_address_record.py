"""Address records: the bytes Go writes, and refusals."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

import pytest

from clustermesh.address_record import AddressRecord, decode_address, encode_address, identity_range
from clustermesh.errors import InvalidRecord

# As Cilium 1.19 writes them for a pod and for a prefix.
POD = (
    b'{"IP":"10.244.1.7","Mask":null,"HostIP":"172.18.0.2","ID":199472,"Key":0,"Metadata":"",'
    b'"K8sNamespace":"bar","K8sPodName":"foo-1","K8sServiceAccount":"default"}'
)
PREFIX = b'{"IP":"fd00:1::","Mask":"//////////8AAAAAAAAAAA==","HostIP":"","ID":6,"Key":0,"Metadata":""}'
POD_RECORD = AddressRecord(
    ip_network("10.244.1.7"),
    ip_address("172.18.0.2"),
    199472,
    namespace="bar",
    pod="foo-1",
    service_account="default",
)
PREFIX_RECORD = AddressRecord(ip_network("fd00:1::/64"), None, 6)


def decode(value: bytes, name: str) -> AddressRecord:
    """As a reader of cluster 3 would."""
    key = f"cilium/state/ip/v1/default/{name}"
    return decode_address(key, value, name=name, cluster_id=3, max_connected_clusters=255)


@pytest.mark.parametrize(
    ("name", "value", "record"), [("10.244.1.7", POD, POD_RECORD), ("fd00:1::/64", PREFIX, PREFIX_RECORD)]
)
def test_the_documented_address_is_read_and_written_byte_for_byte(
    name: str, value: bytes, record: AddressRecord
) -> None:
    assert encode_address(record) == value
    assert (decode(value, name), record.name) == (record, name)


def test_an_absent_mask_and_fields_to_come_are_passed_over() -> None:
    wire = json.loads(POD) | {"K8sPodUID": "x", "NamedPorts": [{"Name": "http", "Port": 80}]}
    del wire["Mask"]
    assert decode(json.dumps(wire).encode(), "10.244.1.7") == POD_RECORD


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("IP", "10.244.1.8"),
        ("IP", "fe80::1%eth0"),
        ("HostIP", "nowhere"),
        ("ID", 262144),  # the first of cluster 4
        ("ID", 300),  # of no cluster of a mesh
        ("ID", -1),
    ],
)
def test_an_address_with_a_wrong_field_is_refused_by_that_field(field: str, value: object) -> None:
    with pytest.raises(InvalidRecord) as refusal:
        decode(json.dumps(json.loads(POD) | {field: value}).encode(), "10.244.1.7")
    assert refusal.value.field == field


@pytest.mark.parametrize("name", ["10.244.1.7/8", "10.244.1.7/x", "somewhere"])
def test_a_key_that_is_no_address_is_refused(name: str) -> None:
    with pytest.raises(InvalidRecord):
        decode(POD, name)


@pytest.mark.parametrize(
    ("cluster_id", "most", "expected"),
    [
        (0, 255, (256, 65535)),
        (1, 255, (65536, 131071)),
        (3, 255, (196608, 262143)),
        (255, 255, (16711680, 16777215)),
        (1, 511, (32768, 65535)),
        (511, 511, (16744448, 16777215)),
    ],
)
def test_each_cluster_has_its_own_identities(cluster_id: int, most: int, expected: tuple[int, int]) -> None:
    assert identity_range(cluster_id, most) == expected
