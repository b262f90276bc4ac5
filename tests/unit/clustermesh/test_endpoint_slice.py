"""Endpoint slices: the bytes Cilium writes, tolerance where the format grows, refusal where a value could do harm."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from ipaddress import ip_address

import pytest
import zstandard

from clustermesh import compression
from clustermesh.compression import MAX_PARTS, MAX_UNPACKED_BYTES, compress, decompress
from clustermesh.endpoint_slice import MAX_SERVICE_BACKENDS, EndpointSlice, decode_slice, encode_slice
from clustermesh.errors import InvalidRecord
from clustermesh.records import MAX_VALUE_BYTES, Port, Zone
from clustermesh.wire.v1 import endpoint_slice_pb2 as wire
from tests.unit.clustermesh.golden import CILIUM

KEY = "cilium/state/endpointslices/v1/cluster3/test/echo-ipv4-0"
FIRST, SECOND = ip_address("10.244.1.1"), ip_address("10.244.1.2")
OURS = EndpointSlice(
    cluster="cluster3",
    namespace="test",
    name="echo-ipv4-0",
    cluster_id=3,
    service="echo",
    backends=(FIRST, SECOND),
    leaving=frozenset({SECOND}),
    ports={"http": Port("TCP", 8080), "": Port("UDP", 53)},
    hostnames={FIRST: "pod-0"},
    zones={FIRST: Zone("zone1", ("zone1", "zone2"))},
)


def golden(name: str) -> bytes:
    return bytes.fromhex(CILIUM[name])


def decode(value: bytes, name: str = "test/echo-ipv4-0") -> EndpointSlice:
    """As the reader of cluster3 (id 3) would."""
    return decode_slice(KEY, value, cluster="cluster3", name=name, cluster_id=3)


def message(value: bytes | None = None) -> wire.ClusterEndpointSlice:
    """What ``value``, by default that of OURS, is once unpacked."""
    return wire.ClusterEndpointSlice.FromString(decompress("k", value or encode_slice(OURS)))


def packed(changed: wire.ClusterEndpointSlice) -> bytes:
    return compress(changed.SerializeToString())


def test_what_we_write_is_byte_for_byte_what_cilium_would() -> None:
    assert decompress("k", encode_slice(OURS)).hex() == decompress("k", golden("slice-ours")).hex()


def test_what_cilium_writes_is_what_we_wrote() -> None:
    assert decode(golden("slice-ours")) == OURS == decode(encode_slice(OURS))


def test_the_documented_slice_names_only_who_serves() -> None:
    assert decode(golden("slice-documented"), "test/echo-kvlm2") == EndpointSlice(
        cluster="cluster3",
        namespace="test",
        name="echo-kvlm2",
        cluster_id=3,
        service="echo",
        backends=(FIRST,),
        ports={"http": Port("TCP", 8080)},
        zones={FIRST: Zone("zone1", ("zone1",))},
    )


def test_what_is_not_said_is_ready_and_tcp_and_unnamed_and_all_ports_are_no_port() -> None:
    read = decode(golden("slice-ipv6-unnamed"), "test/dns-6")
    one, two, three = (ip_address(f"fd00::{number}") for number in (1, 2, 3))
    assert (read.family, read.backends, read.leaving) == ("IPv6", (one, two, three), frozenset({three}))
    assert read.ports == {"": Port("TCP", 53)}
    assert read.hostnames == {one: "pod-0", two: "pod-0"}


def test_fields_to_come_are_passed_over() -> None:
    # Number 100, of any kind, in the slice, in an endpoint and in a port.
    unknown = b"\xa2\x06\x03abc" + b"\xa0\x06\x05"
    changed = message()
    changed.endpoints[0].MergeFromString(unknown)
    changed.ports[0].MergeFromString(unknown)
    assert decode(compress(changed.SerializeToString() + unknown)) == OURS


def test_an_address_that_is_ready_once_is_not_leaving() -> None:
    changed = message()
    changed.endpoints.add(addresses=[str(SECOND)], conditions=wire.EndpointConditions(ready=True))
    assert decode(packed(changed)).leaving == frozenset()
    assert decode(packed(changed)).backends == (FIRST, SECOND)


def test_a_frame_that_does_not_say_its_length_is_read() -> None:
    packer = zstandard.ZstdCompressor().compressobj()
    value = packer.compress(decompress("k", encode_slice(OURS))) + packer.flush()
    assert zstandard.get_frame_parameters(value).content_size == zstandard.CONTENTSIZE_UNKNOWN
    assert decode(value) == OURS


def with_fields(**fields: object) -> bytes:
    changed = message()
    for name, value in fields.items():
        setattr(changed, name, value)
    return packed(changed)


def with_address(text: str) -> bytes:
    changed = message()
    changed.endpoints[0].addresses.append(text)
    return packed(changed)


def with_port(**fields: object) -> bytes:
    changed = message()
    changed.ports.add(**fields)
    return packed(changed)


def without_label() -> bytes:
    changed = message()
    changed.labels.clear()
    return packed(changed)


def endless(size: int) -> bytes:
    """A frame that unpacks to ``size`` zeros and does not say so."""
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(bytes(size)) + packer.flush()


REFUSED = {
    "another cluster": (with_fields(cluster="cluster4"), "cluster"),
    "another cluster id": (with_fields(cluster_id=4), "clusterID"),
    "another name": (with_fields(name="other"), "namespace and name"),
    "another namespace": (with_fields(namespace="other"), "namespace and name"),
    "names instead of addresses": (with_fields(address_type="FQDN"), "addressType"),
    "an address of the other family": (with_address("fd00::1"), "endpoints"),
    "an address with a zone": (with_address("fe80::1%eth0"), "endpoints"),
    "an address that is none": (with_address("localhost"), "endpoints"),
    "no service": (without_label(), "labels"),
    "an unknown protocol": (with_port(name="x", protocol="ICMP", port=1), "ports"),
    "port 0": (with_port(name="x", port=0), "ports"),
    "port 65536": (with_port(name="x", port=65536), "ports"),
    "a negative port": (with_port(name="x", port=-1), "ports"),
    "text that is no UTF-8": (compress(b"\x0a\x02\xff\xfe"), "value"),
    "no protobuf": (compress(b"\xff" * 50), "value"),
    "nothing": (b"", "value"),
    "no zstd": (b'{"cluster":"cluster3"}', "value"),
    "a frame cut short": (encode_slice(OURS)[:-5], "value"),
    "a damaged frame": (encode_slice(OURS)[:-6] + b"\0" * 6, "value"),
    "two frames": (encode_slice(OURS) * 2, "value"),
    "more bytes than etcd takes": (encode_slice(OURS) + b"\0" * MAX_VALUE_BYTES, "value"),
    "a frame that says it is larger than 16 MiB": (compress(bytes(MAX_UNPACKED_BYTES + 1)), "value"),
    "a frame that is larger than 16 MiB": (endless(MAX_UNPACKED_BYTES + 1), "value"),
    "a gigabyte in a few kilobytes": (endless(1 << 30), "value"),
}


@pytest.mark.parametrize(("value", "field"), REFUSED.values(), ids=REFUSED.keys())
def test_a_slice_is_refused_with_key_field_and_reason_for(value: bytes, field: str) -> None:
    with pytest.raises(InvalidRecord) as refusal:
        decode(value)
    assert (refusal.value.key, refusal.value.field) == (KEY, field)
    assert 0 < len(refusal.value.reason) < 400


@pytest.mark.parametrize(
    "message_",
    [
        # Two bytes each: endpoints; addresses, then zones, in one endpoint.
        b"\x42\x00" * (8 << 20),
        b"\x42\x80\x80\x80\x04" + b"\x0a\x00" * (4 << 20),
        b"\x42\x84\x80\x80\x04\x42\x80\x80\x80\x04" + b"\x0a\x00" * (4 << 20),
        # Endpoints behind a field of a kind that parsers step over.
        b"\xf3\x01\xf4\x01" + b"\x42\x00" * (8 << 20),
    ],
    ids=["endpoints", "addresses", "zones", "behind a group"],
)
def test_a_slice_of_millions_of_parts_is_refused_before_anything_is_built_of_them(message_: bytes) -> None:
    value = compress(message_[:MAX_UNPACKED_BYTES])
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRecord, match=r"more than the 150000 fields|cannot be looked through"):
            decode(value)
        assert tracemalloc.get_traced_memory()[1] < 2 * MAX_UNPACKED_BYTES
    finally:
        tracemalloc.stop()


def test_so_many_parts_as_are_allowed_are_read() -> None:
    changed = message()
    del changed.endpoints[:]
    some = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(MAX_SERVICE_BACKENDS)]
    changed.endpoints.add(addresses=some)
    assert len(decode(packed(changed)).backends) == MAX_SERVICE_BACKENDS
    changed.endpoints[0].addresses.append("10.255.0.1")
    with pytest.raises(InvalidRecord, match="endpoints: more than the 100000"):
        decode(packed(changed))
    changed.endpoints[0].addresses.extend(["10.255.0.1"] * MAX_PARTS)
    with pytest.raises(InvalidRecord, match="value: has more than the 150000 fields"):
        decode(packed(changed))


def test_small_messages_are_not_looked_through() -> None:
    """A slice of Kubernetes' limit of endpoints is such a one."""
    thousand = replace(OURS, backends=tuple(FIRST + n for n in range(1000)), leaving=frozenset(), zones={})
    assert len(decompress("k", encode_slice(thousand))) < compression.COUNTED_BYTES
