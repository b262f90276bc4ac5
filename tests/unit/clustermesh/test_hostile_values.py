"""Whatever stands in a peer's etcd: a decoder gives a record or an InvalidRecord, and nothing else happens."""

from __future__ import annotations

import contextlib
import copy
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clustermesh import compression
from clustermesh.compression import compress, decompress
from clustermesh.errors import InvalidRecord
from clustermesh.records import MAX_VALUE_BYTES
from clustermesh.wire.v1 import endpoint_slice_pb2 as wire
from tests.unit.clustermesh.decoders import (
    DECODERS,
    OF_JSON,
    SLICE,
    Decode,
    address,
    attempt,
    endpoint_slice,
    identity,
)
from tests.unit.clustermesh.golden import CILIUM

EVERY = pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS.keys())
# A busy machine is no failure.
PATIENT = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


@EVERY
@PATIENT
@given(value=st.binary(max_size=400))
def test_any_bytes_are_a_record_or_refused(decode: Decode, value: bytes) -> None:
    attempt(decode, value)


@PATIENT
@given(name=st.text(max_size=50))
def test_any_name_of_a_key_is_taken_or_refused(name: str) -> None:
    attempt(address, CILIUM["ip-pod-named-ports"].encode(), name)
    attempt(identity, CILIUM["identity"].encode(), name)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["10.0.0.1", "fe80::1%eth0", "::ffff:1.2.3.4", "////AA==", "TCP", "\ud7ff", "0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # Any: JSON
    """Where something can be replaced."""
    yield path
    inner = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    for key, value in inner:
        yield from places(value, (*path, key))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:  # Any: JSON
    if not path:
        return value
    made = copy.deepcopy(document)
    at = made
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return made


@pytest.mark.parametrize(("decode", "value"), OF_JSON.values(), ids=OF_JSON.keys())
@PATIENT
@given(data=st.data())
def test_a_good_value_with_one_thing_replaced_is_a_record_or_refused(
    decode: Decode, value: str, data: st.DataObject
) -> None:
    document = json.loads(value)
    path = data.draw(st.sampled_from(list(places(document))))
    attempt(decode, json.dumps(replaced(document, path, data.draw(JSON))).encode())


@pytest.mark.parametrize(("decode", "value"), OF_JSON.values(), ids=OF_JSON.keys())
def test_the_good_values_are_taken(decode: Decode, value: str) -> None:
    """Or what was replaced in them above would not be what decides."""
    decode(value.encode())


@pytest.mark.parametrize("packed", [True, False], ids=["before packing", "after packing"])
@PATIENT
@given(data=st.data())
def test_a_good_slice_with_some_bytes_changed_is_a_record_or_refused(
    packed: bool, data: st.DataObject
) -> None:
    value = bytearray(decompress("k", SLICE) if packed else SLICE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(value) - 1))
        value[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    attempt(endpoint_slice, compress(bytes(value)) if packed else bytes(value))


@PATIENT
@given(message=st.binary(max_size=300), counted=st.booleans())
def test_any_packed_bytes_are_a_record_or_refused(message: bytes, counted: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if counted:  # large messages are looked through before they are parsed; so are these
            patch.setattr(compression, "COUNTED_BYTES", 0)
        attempt(endpoint_slice, compress(message))


TEXT = st.text(max_size=8)


@PATIENT
@given(
    endpoints=st.lists(
        st.builds(
            wire.Endpoint,
            addresses=st.lists(TEXT | st.ip_addresses().map(str), max_size=3),
            conditions=st.none() | st.builds(wire.EndpointConditions, ready=st.none() | st.booleans()),
            hostname=TEXT,
            zone=TEXT,
        ),
        max_size=5,
    ),
    ports=st.lists(
        st.builds(
            wire.EndpointPort,
            name=st.none() | TEXT,
            protocol=st.sampled_from([None, "", "TCP", "x"]),
            port=st.none() | st.integers(-(1 << 31), (1 << 31) - 1),
        ),
        max_size=3,
    ),
    family=st.sampled_from(["IPv4", "IPv6", "FQDN", ""]),
    service_name=TEXT,
)
def test_a_slice_of_anything_is_a_record_or_refused(
    endpoints: list[wire.Endpoint], ports: list[wire.EndpointPort], family: str, service_name: str
) -> None:
    message = wire.ClusterEndpointSlice(
        cluster="cluster3",
        cluster_id=3,
        namespace="test",
        name="echo-ipv4-0",
        labels={"kubernetes.io/service-name": service_name},
        address_type=family,
        endpoints=endpoints,
        ports=ports,
    )
    attempt(endpoint_slice, compress(message.SerializeToString()))


def filled(pattern: str, unit: str) -> bytes:
    """``pattern`` with as many of ``unit`` in the place of @ as etcd takes."""
    count = (MAX_VALUE_BYTES - len(pattern)) // len(unit)
    return pattern.replace("@", (unit * count).rstrip(",")).encode()[:MAX_VALUE_BYTES]


LARGE = {
    "addresses of nothing": '{"IPAddresses":[@]}|{},',
    "networks of nothing": '{"IPv6SecondaryAllocCIDRs":[@]}|{},',
    "ports of nothing": '{"NamedPorts":[@]}|{},',
    "addresses": '{"IPAddresses":[@]}|{"Type":"","IP":"1.1.1.1"},',
    "networks": '{"IPv4SecondaryAllocCIDRs":[@]}|{"IP":"","Mask":null},',
    "ports": '{"NamedPorts":[@]}|{"Name":"","Port":1,"Protocol":"TCP"},',
    "one number": '{"ID":@,"ClusterID":1,"id":1}|9',
    "one text": '{"IP":"@","name":"x"}|a',
    "one mask": '{"IPv4AllocCIDR":{"IP":"10.0.0.0","Mask":"@"}}|AAAA',
    "escapes": '{"name":"@"}|\\u0000',
    "depth": "@|[",
    "depth of objects": '@|{"a":',
    "fields that nobody knows": "{@}|" + '"x":[1],',
    "labels": "@|k8s:a=b;",
    "semicolons": "@|;",
}


@pytest.mark.parametrize("shape", LARGE.values(), ids=LARGE.keys())
@EVERY
def test_as_much_as_etcd_takes_needs_no_more_than_some_times_its_size(decode: Decode, shape: str) -> None:
    value = filled(*shape.split("|"))
    tracemalloc.start()
    try:
        with contextlib.suppress(InvalidRecord):
            decode(value)
        assert tracemalloc.get_traced_memory()[1] < 30 * MAX_VALUE_BYTES
    finally:
        tracemalloc.stop()
