"""Records: the bytes Go writes, tolerance where the format grows, refusal where a record could do harm."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustermesh.errors import InvalidRecord
from clustermesh.records import (
    MAX_BACKENDS,
    MAX_VALUE_BYTES,
    ClusterConfig,
    ClusterService,
    Port,
    Zone,
    decode_config,
    decode_service,
    encode_config,
    encode_service,
)

KEY = "cilium/state/services/v1/cluster3/ns-alpha/echo-service"

# What Cilium's exporter writes for this service, in one line: see its globalnamespace-services test.
ECHO = (
    b'{"cluster":"cluster3","namespace":"ns-alpha","name":"echo-service",'
    b'"frontends":{"10.96.0.10":{"http":{"Protocol":"TCP","Port":80}}},'
    b'"backends":{"10.244.1.10":{"http":{"Protocol":"TCP","Port":8080}}},'
    b'"labels":{},"selector":{"app":"echo"},"includeExternal":true,"shared":true,"clusterID":3}'
)


def decode(value: bytes, key: str = KEY) -> ClusterService:
    """As the reader of cluster3 (id 3) would."""
    return decode_service(key, value, cluster="cluster3", name="ns-alpha/echo-service", cluster_id=3)


def changed(**fields: Any) -> bytes:
    """ECHO with some fields replaced; Any because the point is to put wrong types in."""
    return json.dumps(json.loads(ECHO) | fields).encode()


def test_the_documented_service_is_read_and_written_byte_for_byte() -> None:
    service = decode(ECHO)
    assert service.backends == {ip_address("10.244.1.10"): {"http": Port("TCP", 8080)}}
    assert encode_service(service) == ECHO


def test_backends_on_their_way_out_are_named_in_a_field_of_our_own_only_if_there_are_any() -> None:
    at = ip_address("10.0.0.1")
    plain = ClusterService("c", "n", "s", 1, backends={at: {}})
    leaving = ClusterService("c", "n", "s", 1, backends={at: {}}, terminating=(at,))
    assert b"terminating" not in encode_service(plain)
    assert encode_service(leaving).endswith(b',"clusterID":1,"meshd.io/terminating":["10.0.0.1"]}')
    read = decode_service("k", encode_service(leaving), cluster="c", name="n/s", cluster_id=1)
    assert read.terminating == (at,)


def test_maps_are_sorted_and_html_characters_escaped_as_go_does() -> None:
    service = ClusterService(
        cluster="cluster3",
        namespace="ns",
        name="svc",
        cluster_id=3,
        backends={
            ip_address("fd00::2"): {"": Port("UDP", 53)},
            ip_address("10.0.0.9"): {"b": Port("TCP", 2), "a": Port("SCTP", 1)},
            ip_address("::ffff:1.2.3.4"): {},
        },
        hostnames={ip_address("10.0.0.9"): "pod-0"},
        zones={ip_address("10.0.0.9"): Zone("a", ("a", "b")), ip_address("fd00::2"): Zone("c")},
        labels={"z": "<&>", "a": "\u2028"},
    )
    expected = (
        '{"cluster":"cluster3","namespace":"ns","name":"svc","frontends":{},'
        '"backends":{"10.0.0.9":{"a":{"Protocol":"SCTP","Port":1},"b":{"Protocol":"TCP","Port":2}},'
        '"::ffff:1.2.3.4":{},"fd00::2":{"":{"Protocol":"UDP","Port":53}}},'
        '"hostnames":{"10.0.0.9":"pod-0"},'
        '"zones":{"10.0.0.9":{"zone":"a","forZones":[{"name":"a"},{"name":"b"}]},'
        '"fd00::2":{"zone":"c","forZones":null}},'
        '"labels":{"a":"\\u2028","z":"\\u003c\\u0026\\u003e"},"selector":{},'
        '"includeExternal":true,"shared":true,"clusterID":3}'
    )
    assert encode_service(service).decode() == expected


def test_unknown_fields_absent_fields_and_null_maps_are_accepted() -> None:
    value = (
        b'{"cluster":"cluster3","namespace":"ns-alpha","name":"echo-service","clusterID":3,'
        b'"frontends":null,"labels":null,"fromTheFuture":{"deep":[1,2,{"x":null}]}}'
    )
    service = decode(value)
    assert (service.frontends, service.backends, service.labels, service.shared) == ({}, {}, {}, False)


REFUSED = {
    "another cluster": (changed(cluster="cluster4"), "cluster"),
    "another name than its key": (changed(name="other"), "namespace and name"),
    "another cluster id": (changed(clusterID=4), "clusterID"),
    "an address that is none": (changed(backends={"10.0.0": {}}), "backends"),
    "an address with a zone": (changed(backends={"fe80::1%eth0": {}}), "backends"),
    "a frontend that is none": (changed(frontends={"localhost": {}}), "frontends"),
    "an unknown protocol": (
        changed(backends={"10.0.0.1": {"x": {"Protocol": "ICMP", "Port": 1}}}),
        "backends.10.0.0.1",
    ),
    "port 0": (changed(backends={"10.0.0.1": {"x": {"Protocol": "TCP", "Port": 0}}}), "backends.10.0.0.1"),
    "port 65536": (
        changed(backends={"10.0.0.1": {"x": {"Protocol": "TCP", "Port": 65536}}}),
        "backends.10.0.0.1",
    ),
    "a number for a name": (changed(name=5), "name"),
    "a list for the backends": (changed(backends=[]), "backends"),
    "an array": (b"[]", "value"),
    "nothing": (b"", "value"),
    "no UTF-8": (b'{"cluster":"\xff\xfe"}', "value"),
    "a value cut short": (ECHO[:-5], "value"),
    "nesting without end": (b'{"x":' + b"[" * 100_000, "value"),
    "more bytes than etcd takes": (b" " * (MAX_VALUE_BYTES + 1), "value"),
    "16 MiB of nonsense": (b"\x00" * (16 << 20), "value"),
    "too many backends": (
        changed(backends={f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}": {} for n in range(MAX_BACKENDS + 1)}),
        "backends",
    ),
    "too many ports": (
        changed(backends={"10.0.0.1": {f"p{n}": {"Protocol": "TCP", "Port": 1} for n in range(257)}}),
        "backends.10.0.0.1",
    ),
}


@pytest.mark.parametrize(("value", "field"), REFUSED.values(), ids=REFUSED.keys())
def test_a_service_is_refused_with_key_field_and_reason_for(value: bytes, field: str) -> None:
    with pytest.raises(InvalidRecord) as refusal:
        decode(value)
    assert (refusal.value.key, refusal.value.field) == (KEY, field)
    assert 0 < len(refusal.value.reason) < 400


def test_a_name_that_would_break_logs_or_keys_is_refused() -> None:
    value = changed(name="a\nb")
    with pytest.raises(InvalidRecord, match="not a valid name"):
        decode_service(KEY, value, cluster="cluster3", name="ns-alpha/a\nb", cluster_id=3)


@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(value: bytes) -> None:
    with pytest.raises(InvalidRecord):
        decode(value)


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.dictionaries(
        st.ip_addresses(), st.dictionaries(st.text(max_size=5), st.integers(1, 65535), max_size=3), max_size=6
    ),
    st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4),
)
def test_what_is_written_is_read_back_and_is_what_json_says(
    backends: dict[Any, dict[str, int]], labels: dict[str, str]
) -> None:
    service = ClusterService(
        cluster="cluster3",
        namespace="ns-alpha",
        name="echo-service",
        cluster_id=3,
        backends={
            at: {name: Port("TCP", number) for name, number in named.items()}
            for at, named in backends.items()
        },
        labels=labels,
    )
    written = encode_service(service)
    assert json.loads(written)["labels"] == labels
    assert not {ord("<"), ord(">"), ord("&")} & set(written)
    assert decode(written) == service


# What Cilium's exporter writes: see its clusterconfig and clusterconfig-endpointslices-only tests.
CONFIGS = {
    b'{"id":3,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":false}}': (
        ClusterConfig(3, service_exports_enabled=False)
    ),
    b'{"id":5,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":false,'
    b'"endpointSlicesExportMode":"endpointslices-only"}}': (
        ClusterConfig(5, service_exports_enabled=False, endpoint_slices_export_mode="endpointslices-only")
    ),
    b'{"id":1,"capabilities":{"syncedCanaries":true,"cached":true,"maxConnectedClusters":511}}': (
        ClusterConfig(1, cached=True, max_connected_clusters=511)
    ),
}


@pytest.mark.parametrize("value", CONFIGS)
def test_a_cluster_config_is_read_and_written_byte_for_byte(value: bytes) -> None:
    assert decode_config("k", value) == CONFIGS[value]
    assert encode_config(CONFIGS[value]) == value


def test_an_empty_cluster_config_has_id_0_and_no_canaries() -> None:
    assert decode_config("k", b'{"capabilities":{}}') == ClusterConfig(0, synced_canaries=False)


def test_a_cluster_config_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRecord, match="k: id: "):
        decode_config("k", b'{"id":"three"}')
