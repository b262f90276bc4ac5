"""Some backends of one service as a cluster shares them since Cilium 1.20, between etcd's bytes and a frozen type.

One value a slice, where ClusterService is one value a service, which etcd's limit of a request bounds and every change
rewrites. Source: Cilium's public type (`pkg/clustermesh/types/endpointslice`) with Kubernetes' endpoints in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from google.protobuf.message import DecodeError

from clustermesh.addresses import Address, to_text
from clustermesh.compression import Nested, check_parts, compress, decompress
from clustermesh.errors import InvalidRecord
from clustermesh.records import MAX_PORTS, PROTOCOLS, Port, Ports, Zone, address, check_names, must_equal
from clustermesh.wire.v1 import endpoint_slice_pb2 as wire

SERVICE_LABEL = "kubernetes.io/service-name"
MAX_SERVICE_BACKENDS = 100_000
"""Of one slice, and of one service."""
FAMILIES = {"IPv4": IPv4Address, "IPv6": IPv6Address}

# Fields that are messages: labels, annotations, endpoints and ports; of an endpoint, conditions, topology and hints.
_MESSAGES: Nested = {5: {}, 6: {}, 8: {2: {}, 5: {}, 8: {1: {}}}, 9: {}}


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """``name`` of the slice, ``service`` of the service in the same namespace; ``family`` IPv4 or IPv6.

    ``backends`` are those that are ready or still serving, all with ``ports``; ``leaving`` those of them that are not ready.
    ``hostnames`` and ``zones`` are per backend address.
    """

    cluster: str
    namespace: str
    name: str
    cluster_id: int
    service: str
    family: str = "IPv4"
    backends: tuple[Address, ...] = ()
    leaving: frozenset[Address] = frozenset()
    ports: Ports = field(default_factory=dict)
    hostnames: Mapping[Address, str] = field(default_factory=dict)
    zones: Mapping[Address, Zone] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """``namespace/name``, the last part of its key."""
        return f"{self.namespace}/{self.name}"

    @property
    def full_service_name(self) -> str:
        """``namespace/name`` of the service."""
        return f"{self.namespace}/{self.service}"


def encode_slice(one: EndpointSlice) -> bytes:
    """The value of the slice's key; unpacked, it is byte for byte what Cilium's exporter would write."""
    message = wire.ClusterEndpointSlice(
        cluster=one.cluster,
        cluster_id=one.cluster_id,
        namespace=one.namespace,
        name=one.name,
        labels={SERVICE_LABEL: one.service},
        address_type=one.family,
        endpoints=[_endpoint(one, at) for at in one.backends],
        ports=[
            wire.EndpointPort(name=name, protocol=port.protocol, port=port.number)
            for name, port in sorted(one.ports.items())
        ],
    )
    return compress(message.SerializeToString(deterministic=True))


def decode_slice(key: str, value: bytes, *, cluster: str, name: str, cluster_id: int) -> EndpointSlice:
    """The slice under ``key``, which must be the one ``namespace/name`` of ``cluster``.

    Raises:
        InvalidRecord: not zstd of protobuf, too large packed or unpacked, of another cluster or name, of no service, or with
        a bad address or port.
    """
    message = decompress(key, value)
    check_parts(key, message, _MESSAGES)
    try:
        read = wire.ClusterEndpointSlice.FromString(message)
    except DecodeError as error:
        raise InvalidRecord(key, "value", "is not a message of the right shape") from error
    must_equal(key, "cluster", read.cluster, cluster)
    must_equal(key, "namespace and name", f"{read.namespace}/{read.name}", name)
    must_equal(key, "clusterID", read.cluster_id, cluster_id)
    service = read.labels.get(SERVICE_LABEL, "")
    check_names(key, read.namespace, read.name)
    if not service:
        raise InvalidRecord(key, "labels", f"no {SERVICE_LABEL}: it is of no service")
    check_names(key, service)
    if read.address_type not in FAMILIES:
        raise InvalidRecord(key, "addressType", f"is {read.address_type[:20]!r}, neither IPv4 nor IPv6")
    endpoints = list(_counting(key, read))
    ready = {at for at, each in endpoints if _is_ready(each.conditions)}
    return EndpointSlice(
        cluster=read.cluster,
        namespace=read.namespace,
        name=read.name,
        cluster_id=read.cluster_id,
        service=service,
        family=read.address_type,
        backends=tuple(dict.fromkeys(at for at, _ in endpoints)),
        leaving=frozenset(at for at, _ in endpoints if at not in ready),
        ports=_ports(key, read.ports),
        hostnames={at: each.hostname for at, each in endpoints if each.hostname},
        zones={
            at: Zone(each.zone, tuple(zone.name for zone in each.hints.for_zones))
            for at, each in endpoints
            if each.zone or each.hints.for_zones
        },
    )


def _endpoint(one: EndpointSlice, at: Address) -> wire.Endpoint:
    ready = at not in one.leaving
    zone = one.zones.get(at)
    zones = [wire.ForZone(name=name) for name in zone.for_zones] if zone is not None else []
    return wire.Endpoint(
        addresses=[to_text(at)],
        conditions=wire.EndpointConditions(ready=ready, serving=True, terminating=not ready),
        hostname=one.hostnames.get(at),
        zone=zone.zone if zone is not None and zone.zone else None,
        hints=wire.EndpointHints(for_zones=zones) if zones else None,
    )


def _counting(key: str, read: wire.ClusterEndpointSlice) -> Iterator[tuple[Address, wire.Endpoint]]:
    """Address and endpoint of those that serve; every address is judged, also of those that do not."""
    family, count = FAMILIES[read.address_type], 0
    for each in read.endpoints:
        counts = _is_ready(each.conditions) or each.conditions.serving
        for text in each.addresses:
            at = address(key, "endpoints", text)
            if not isinstance(at, family):
                raise InvalidRecord(key, "endpoints", f"{text[:45]!r} is not {read.address_type}")
            count += 1
            if count > MAX_SERVICE_BACKENDS:
                raise InvalidRecord(
                    key, "endpoints", f"more than the {MAX_SERVICE_BACKENDS} that are allowed"
                )
            if counts:
                yield at, each


def _is_ready(conditions: wire.EndpointConditions) -> bool:
    return conditions.ready or not conditions.HasField("ready")


def _ports(key: str, read: Iterable[wire.EndpointPort]) -> dict[str, Port]:
    found: dict[str, Port] = {}
    for each in read:
        protocol = each.protocol or "TCP"
        if protocol not in PROTOCOLS:
            raise InvalidRecord(key, "ports", f"unknown protocol {protocol[:20]!r}")
        # Without a number it means all ports, of which no frontend can be one.
        if not each.HasField("port"):
            continue
        if not 0 < each.port < 65536:
            raise InvalidRecord(key, "ports", f"port {each.port} is not within 1..65535")
        found[each.name] = Port(protocol, each.port)
    if len(found) > MAX_PORTS:
        raise InvalidRecord(key, "ports", f"{len(found)} ports, at most {MAX_PORTS} are allowed")
    return found
