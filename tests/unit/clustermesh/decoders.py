"""The decoders of what stands in a peer's etcd, each with a value that it takes; shared by those who try to break them."""

from __future__ import annotations

from collections.abc import Callable

from clustermesh.address_record import decode_address
from clustermesh.endpoint_slice import decode_slice
from clustermesh.errors import InvalidRecord
from clustermesh.identity_record import decode_identity
from clustermesh.node_record import decode_node
from clustermesh.records import decode_config, decode_service
from tests.unit.clustermesh.golden import CILIUM

Decode = Callable[[bytes], object]
OURS = {"cluster": "cluster3", "cluster_id": 3}


def address(value: bytes, name: str = "10.244.2.74") -> object:
    return decode_address("k", value, name=name, cluster_id=3, max_connected_clusters=255)


def identity(value: bytes, name: str = "199472") -> object:
    return decode_identity(
        "k", value, name=name, cluster="cluster3", cluster_id=3, max_connected_clusters=255
    )


def endpoint_slice(value: bytes) -> object:
    return decode_slice("k", value, cluster="cluster3", name="test/echo-ipv4-0", cluster_id=3)


def service(value: bytes) -> object:
    return decode_service("k", value, cluster="cluster3", name="ns/svc", cluster_id=3)


def node(value: bytes) -> object:
    return decode_node("k", value, cluster="cluster3", name="test-node-1", cluster_id=3)


def config(value: bytes) -> object:
    return decode_config("k", value)


# Each with a value that it takes.
OF_JSON: dict[str, tuple[Decode, str]] = {
    "service": (service, CILIUM["service-empty"]),
    "node": (node, CILIUM["node-full"]),
    "address": (address, CILIUM["ip-pod-named-ports"]),
    "config": (config, CILIUM["config-511-cached"]),
}
SLICE = bytes.fromhex(CILIUM["slice-ours"])
DECODERS: dict[str, Decode] = {name: decode for name, (decode, _) in OF_JSON.items()}
DECODERS |= {"identity": identity, "endpoint slice": endpoint_slice}


def attempt(decode: Callable[..., object], *arguments: object) -> None:
    """A record, or a refusal with reasons that can be logged; whatever else is raised is a fault of the decoder."""
    try:
        decode(*arguments)
    except InvalidRecord as error:
        assert len(error.field) <= 200
        assert 0 < len(error.reason) <= 400
