"""What clusters share: the cluster-config and the services, between etcd's bytes and frozen types. Nodes:
node_record.py.

Decoding is tolerant where the format grows (unknown fields, absent fields, null for an empty map) and
strict where a record could do harm: whose it is, which key it is under, its addresses, its size. A refusal
is an InvalidRecord that names key, field and reason. Source of the format: the public types of Cilium
ClusterMesh (`pkg/clustermesh/types`, `pkg/clustermesh/store`), stable and forward compatible by their own
promise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from clustermesh import gojson
from clustermesh.addresses import Address, parse, to_text
from clustermesh.errors import InvalidRecord

MAX_VALUE_BYTES = 1_572_864
"""etcd's default limit of a request: no exporter can have written more on purpose."""
MAX_FRONTENDS, MAX_BACKENDS, MAX_PORTS = 1024, 16_384, 256
SERVICES, SERVICES_AND_SLICES, SLICES = "", "services-and-endpointslices", "endpointslices-only"
"""As what a cluster writes its services: as they were always written, as endpoint slices, or as both."""
EXPORT_MODES = (SERVICES, SERVICES_AND_SLICES, SLICES)
PROTOCOLS = frozenset({"TCP", "UDP", "SCTP"})
NAME = re.compile(r"[a-z0-9]([-a-z0-9._]*[a-z0-9])?")

RecordT = TypeVar("RecordT", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Port:
    """A port number, host order, of ``protocol`` TCP, UDP or SCTP."""

    protocol: str
    number: int


Ports = Mapping[str, Port]
"""Port name -> port; an unnamed port has the name ""."""


@dataclass(frozen=True, slots=True)
class Zone:
    """Where a backend is and which zones should use it."""

    zone: str
    for_zones: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClusterService:
    """One global service as one cluster shares it.

    ``backends`` are those that are ready or still serving; ``frontends`` is empty for a headless service.
    ``hostnames`` and ``zones`` are per backend address. ``terminating`` are the backends that still serve
    but are about to go: a field of our own, which Cilium passes over (and so goes on using them, as it does
    with its own peers).
    """

    cluster: str
    namespace: str
    name: str
    cluster_id: int
    frontends: Mapping[Address, Ports] = field(default_factory=dict)
    backends: Mapping[Address, Ports] = field(default_factory=dict)
    hostnames: Mapping[Address, str] = field(default_factory=dict)
    zones: Mapping[Address, Zone] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    selector: Mapping[str, str] = field(default_factory=dict)
    include_external: bool = True
    shared: bool = True
    terminating: tuple[Address, ...] = ()

    @property
    def full_name(self) -> str:
        """``namespace/name``, the last part of its key."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What a cluster says about itself.

    ``cached``: its records are a copy under cilium/cache. ``service_exports_enabled`` None: it does not
    know of them.
    """

    cluster_id: int
    synced_canaries: bool = True
    cached: bool = False
    max_connected_clusters: int = 255
    service_exports_enabled: bool | None = None
    endpoint_slices_export_mode: str = ""


class _Port(msgspec.Struct):
    # Capitals are the wire's.
    Protocol: str = ""
    Port: int = 0


class _ForZone(msgspec.Struct):
    name: str = ""


class _Zone(msgspec.Struct, rename="camel"):
    zone: str = ""
    for_zones: list[_ForZone] | None = None


_SERVICE_NAMES = {
    "include_external": "includeExternal",
    "cluster_id": "clusterID",
    "terminating": "meshd.io/terminating",
}


class _Service(msgspec.Struct, rename=_SERVICE_NAMES):
    cluster: str = ""
    namespace: str = ""
    name: str = ""
    frontends: dict[str, dict[str, _Port] | None] | None = None
    backends: dict[str, dict[str, _Port] | None] | None = None
    hostnames: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET
    zones: dict[str, _Zone] | msgspec.UnsetType | None = msgspec.UNSET
    labels: dict[str, str] | None = None
    selector: dict[str, str] | None = None
    include_external: bool = False
    shared: bool = False
    cluster_id: int = 0
    terminating: list[str] | msgspec.UnsetType | None = msgspec.UNSET


class _Capabilities(msgspec.Struct, omit_defaults=True, rename="camel"):
    synced_canaries: bool = False
    cached: bool = False
    max_connected_clusters: int = 0
    service_exports_enabled: bool | None = None
    endpoint_slices_export_mode: str = ""


class _Config(msgspec.Struct):
    id: int | msgspec.UnsetType = msgspec.UNSET
    capabilities: _Capabilities = msgspec.field(default_factory=_Capabilities)


_service_decoder = msgspec.json.Decoder(_Service)
_config_decoder = msgspec.json.Decoder(_Config)


def encode_service(service: ClusterService) -> bytes:
    """The value of the service's key, as Go would write it."""
    return gojson.encode(
        _Service(
            cluster=service.cluster,
            namespace=service.namespace,
            name=service.name,
            frontends=_ports_to_wire(service.frontends),
            backends=_ports_to_wire(service.backends),
            hostnames={to_text(at): name for at, name in service.hostnames.items()} or msgspec.UNSET,
            zones={to_text(at): _zone_to_wire(zone) for at, zone in service.zones.items()} or msgspec.UNSET,
            labels=dict(service.labels),
            selector=dict(service.selector),
            include_external=service.include_external,
            shared=service.shared,
            cluster_id=service.cluster_id,
            terminating=[to_text(at) for at in service.terminating] or msgspec.UNSET,
        )
    )


def decode_service(key: str, value: bytes, *, cluster: str, name: str, cluster_id: int) -> ClusterService:
    """The service under ``key``, which must be the one ``namespace/name`` of ``cluster``.

    Raises:
        InvalidRecord: not JSON of the right shape, too large, of another cluster or name, or with a bad
        address.
    """
    wire = decode(key, value, _service_decoder)
    must_equal(key, "cluster", wire.cluster, cluster)
    must_equal(key, "namespace and name", f"{wire.namespace}/{wire.name}", name)
    must_equal(key, "clusterID", wire.cluster_id, cluster_id)
    service = ClusterService(
        cluster=wire.cluster,
        namespace=wire.namespace,
        name=wire.name,
        cluster_id=wire.cluster_id,
        frontends=_ports(key, "frontends", wire.frontends or {}, MAX_FRONTENDS),
        backends=_ports(key, "backends", wire.backends or {}, MAX_BACKENDS),
        hostnames=_by_address(key, "hostnames", wire.hostnames or {}),
        zones={at: _zone(zone) for at, zone in _by_address(key, "zones", wire.zones or {}).items()},
        labels=wire.labels or {},
        selector=wire.selector or {},
        include_external=wire.include_external,
        shared=wire.shared,
        terminating=tuple(address(key, "terminating", text) for text in wire.terminating or ()),
    )
    check_names(key, service.namespace, service.name)
    return service


def encode_config(config: ClusterConfig) -> bytes:
    """The value of the cluster-config key; what is off or empty is left out, as Go's omitempty does."""
    capabilities = _Capabilities(
        synced_canaries=config.synced_canaries,
        cached=config.cached,
        max_connected_clusters=config.max_connected_clusters,
        service_exports_enabled=config.service_exports_enabled,
        endpoint_slices_export_mode=config.endpoint_slices_export_mode,
    )
    return gojson.encode(_Config(id=config.cluster_id or msgspec.UNSET, capabilities=capabilities))


def decode_config(key: str, value: bytes) -> ClusterConfig:
    """The cluster-config under ``key``; InvalidRecord if it is not JSON of the right shape.

    Ids are not judged here.
    """
    wire = decode(key, value, _config_decoder)
    return ClusterConfig(
        cluster_id=wire.id or 0,
        synced_canaries=wire.capabilities.synced_canaries,
        cached=wire.capabilities.cached,
        max_connected_clusters=wire.capabilities.max_connected_clusters or 255,
        service_exports_enabled=wire.capabilities.service_exports_enabled,
        endpoint_slices_export_mode=wire.capabilities.endpoint_slices_export_mode,
    )


def decode(key: str, value: bytes, decoder: msgspec.json.Decoder[RecordT]) -> RecordT:
    """``value`` as the decoder's type; its size is judged before anything is parsed.

    InvalidRecord on any fault.
    """
    if len(value) > MAX_VALUE_BYTES:
        raise InvalidRecord(
            key, "value", f"{len(value)} bytes, more than the {MAX_VALUE_BYTES} that are allowed"
        )
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        raise InvalidRecord(key, path.rstrip("`")[:120] or "value", reason[:200]) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRecord(key, "value", f"is not JSON ({str(error)[:120]})") from error


def check_names(key: str, *names: str) -> None:
    """InvalidRecord unless every name could be one of Kubernetes: it ends up in logs, metrics and keys."""
    for name in names:
        if len(name) > 253 or not NAME.fullmatch(name):
            raise InvalidRecord(key, "name", f"{name[:60]!r} is not a valid name")


def address(key: str, where: str, text: str) -> Address:
    """``text`` parsed; InvalidRecord naming ``where`` if it is no address or has a zone."""
    try:
        return parse(text)
    except ValueError as error:
        raise InvalidRecord(key, where, str(error)[:200]) from error


def must_equal(key: str, where: str, found: object, expected: object) -> None:
    """InvalidRecord naming ``where`` unless ``found`` is what the key, or the cluster's configuration, says."""
    if found != expected:
        raise InvalidRecord(key, where, f"is {str(found)[:80]!r}, expected {str(expected)!r}")


ValueT = TypeVar("ValueT")


def _by_address(key: str, where: str, texts: Mapping[str, ValueT]) -> dict[Address, ValueT]:
    return {address(key, where, text): value for text, value in texts.items()}


def _ports(
    key: str, where: str, wire: Mapping[str, dict[str, _Port] | None], limit: int
) -> dict[Address, dict[str, Port]]:
    if len(wire) > limit:
        raise InvalidRecord(key, where, f"{len(wire)} addresses, at most {limit} are allowed")
    found: dict[Address, dict[str, Port]] = {}
    for text, ports in wire.items():
        if ports is not None and len(ports) > MAX_PORTS:
            reason = f"{len(ports)} ports, at most {MAX_PORTS} are allowed"
            raise InvalidRecord(key, f"{where}.{text[:45]}", reason)
        at = address(key, where, text)
        found[at] = {name: _port(key, where, text, port) for name, port in (ports or {}).items()}
    return found


def _port(key: str, where: str, text: str, wire: _Port) -> Port:
    if wire.Protocol not in PROTOCOLS:
        raise InvalidRecord(key, f"{where}.{text[:45]}", f"unknown protocol {wire.Protocol[:20]!r}")
    if not 0 < wire.Port < 65536:
        raise InvalidRecord(key, f"{where}.{text[:45]}", f"port {wire.Port} is not within 1..65535")
    return Port(wire.Protocol, wire.Port)


def _zone(wire: _Zone) -> Zone:
    return Zone(wire.zone, tuple(entry.name for entry in wire.for_zones or ()))


def _zone_to_wire(zone: Zone) -> _Zone:
    return _Zone(zone.zone, [_ForZone(name) for name in zone.for_zones] or None)


def _ports_to_wire(ports: Mapping[Address, Ports]) -> dict[str, dict[str, _Port] | None]:
    return {
        to_text(at): {name: _Port(port.protocol, port.number) for name, port in named.items()}
        for at, named in ports.items()
    }
