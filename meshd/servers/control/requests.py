"""From what a caller sends to model values: everything that is wrong with it is found, and named by field (AIP-193)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from meshd.api.v1 import backend_pb2, service_pb2
from meshd.errors import InvalidObject, InvalidRequest
from meshd.model import (
    Address,
    Affinity,
    Backend,
    BackendPort,
    BackendSlice,
    Frontend,
    OnStale,
    Protocol,
    Service,
    ServiceName,
    format_address,
    is_ipv4,
    parse_address,
)
from meshd.model.failover import RAMP_MAX_S, Ladder, parse_ladder

SOURCE = "api"

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
# Kubernetes label values: zones are some.
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_RULE = "not an RFC 1123 label (at most 63 of a-z, 0-9 and '-', a letter or digit at both ends)"

# As many as a Kubernetes EndpointSlice may have ports; more is a mistake.
PORTS_MAX = 100
AFFINITY_TIMEOUT_MAX_S = 86400
WEIGHT_MAX = 65535

PROTOCOLS = {service_pb2.PROTOCOL_TCP: Protocol.TCP, service_pb2.PROTOCOL_UDP: Protocol.UDP}
AFFINITIES = {
    service_pb2.AFFINITY_UNSPECIFIED: Affinity.NONE,
    service_pb2.AFFINITY_NONE: Affinity.NONE,
    service_pb2.AFFINITY_LOCAL: Affinity.LOCAL,
    service_pb2.AFFINITY_REMOTE: Affinity.REMOTE,
}

ON_STALE = {
    service_pb2.ON_STALE_UNSPECIFIED: None,
    service_pb2.ON_STALE_KEEP: OnStale.KEEP,
    service_pb2.ON_STALE_DEPRIORITISE: OnStale.DEPRIORITISE,
    service_pb2.ON_STALE_DROP: OnStale.DROP,
}


class Faults:
    """What is wrong with one object, field by field."""

    def __init__(self, object_name: str) -> None:
        self._object_name = object_name
        self._found: list[InvalidObject] = []

    def add(self, field: str, reason: str) -> None:
        """``field`` is wrong because of ``reason``."""
        self._found.append(InvalidObject(self._object_name, field, reason))

    def check(self) -> None:
        """Go on only if nothing is wrong.

        Raises:
            InvalidRequest: with all that was found.
        """
        if self._found:
            raise InvalidRequest(self._found)


def service_name(prefix: str, namespace: str, name: str, kind: str = "service") -> ServiceName:
    """The name of a service in a request; ``prefix`` is where in the message it stands ("service.").

    Raises:
        InvalidRequest: one part or both are no RFC 1123 labels.
    """
    faults = Faults(f"{kind} {namespace}/{name}")
    check_pattern(faults, f"{prefix}namespace", namespace, LABEL, LABEL_RULE)
    check_pattern(faults, f"{prefix}{'name' if kind == 'service' else 'service'}", name, LABEL, LABEL_RULE)
    faults.check()
    return ServiceName(namespace, name)


def service_from(message: service_pb2.Service) -> Service:
    """The service that ``message`` describes, of source "api".

    Raises:
        InvalidRequest: with every field that is wrong.
    """
    name = service_name("service.", message.namespace, message.name)
    faults = Faults(f"service {name}")
    frontends = tuple(frontends_from(faults, message))
    if message.affinity_timeout_seconds > AFFINITY_TIMEOUT_MAX_S:
        faults.add("service.affinity_timeout_seconds", f"above {AFFINITY_TIMEOUT_MAX_S}")
    if message.affinity not in AFFINITIES:
        faults.add("service.affinity", f"unknown value {message.affinity}")
    failover = ladder_from(faults, "service.failover", message.failover)
    if message.min_healthy_percent > 100:
        faults.add("service.min_healthy_percent", "above 100")
    if message.ramp_seconds > RAMP_MAX_S:
        faults.add("service.ramp_seconds", f"above {RAMP_MAX_S}")
    if message.on_stale not in ON_STALE:
        faults.add("service.on_stale", f"unknown value {message.on_stale}")
    faults.check()
    return Service(
        name,
        SOURCE,
        frontends,
        affinity_timeout_s=message.affinity_timeout_seconds,
        internal_traffic_local=message.internal_traffic_local,
        publish_not_ready=message.publish_not_ready,
        is_global=getattr(message, "global") if message.HasField("global") else None,
        shared=message.shared if message.HasField("shared") else True,
        affinity=AFFINITIES[message.affinity],
        failover=failover,
        min_healthy_percent=message.min_healthy_percent if message.HasField("min_healthy_percent") else None,
        ramp_s=message.ramp_seconds,
        close_tcp=message.close_tcp,
        close_on_failover=message.close_on_failover,
        on_stale=ON_STALE[message.on_stale],
    )


def ladder_from(faults: Faults, field: str, text: str) -> Ladder:
    """The ladder ``text``; empty, and a fault, if it is none."""
    try:
        return parse_ladder(text) if text else ()
    except ValueError as error:
        faults.add(field, str(error))
        return ()


def frontends_from(faults: Faults, message: service_pb2.Service) -> Iterator[Frontend]:
    """The frontends of ``message`` that are right."""
    check_count(faults, "service.frontends", len(message.frontends))
    seen: set[tuple[Address, int, Protocol]] = set()
    for index, given in enumerate(message.frontends):
        field = f"service.frontends[{index}]"
        address = address_from(faults, f"{field}.address", given.address)
        port = port_from(faults, field, given.protocol, given.port, given.port_name)
        if address is None or port is None:
            continue
        frontend = Frontend(address, port.port, port.protocol, port.port_name)
        if frontend[:3] in seen:
            faults.add(field, f"{given.address} port {port.port} {port.protocol.name} is there twice")
        seen.add(frontend[:3])
        yield frontend


def backend_from(message: backend_pb2.Backend, own_cluster: str) -> BackendSlice:
    """The slice with the one backend that ``message`` describes, of source "api".

    Raises:
        InvalidRequest: with every field that is wrong.
    """
    service = service_name("backend.", message.namespace, message.service, "backend of")
    faults = Faults(f"backend {message.address} of {service}")
    address = address_from(faults, "backend.address", message.address)
    ports = tuple(backend_ports_from(faults, message))
    ready, serving = conditions_from(faults, message)
    weight = message.weight if message.HasField("weight") else 100
    if weight > WEIGHT_MAX:
        faults.add("backend.weight", f"above {WEIGHT_MAX}")
    if message.node:
        check_pattern(faults, "backend.node", message.node, SUBDOMAIN, "not an RFC 1123 subdomain")
    if message.zone:
        check_pattern(faults, "backend.zone", message.zone, LABEL_VALUE, "not a Kubernetes label value")
    if message.cluster:
        check_pattern(faults, "backend.cluster", message.cluster, LABEL, LABEL_RULE)
    faults.check()
    assert address is not None  # noqa: S101 - else there is a fault
    backend = Backend(address, ports, ready, serving, message.terminating, message.node, message.zone, weight)
    return BackendSlice(service, format_address(address), SOURCE, message.cluster or own_cluster, (backend,))


def backend_ports_from(faults: Faults, message: backend_pb2.Backend) -> Iterator[BackendPort]:
    """The ports of ``message`` that are right."""
    check_count(faults, "backend.ports", len(message.ports))
    seen: set[tuple[str, Protocol]] = set()
    for index, given in enumerate(message.ports):
        field = f"backend.ports[{index}]"
        port = port_from(faults, field, given.protocol, given.port, given.port_name)
        if port is None:
            continue
        if port[:2] in seen:
            faults.add(field, f"{port.protocol.name} port named {port.port_name!r} is there twice")
        seen.add(port[:2])
        yield port


def conditions_from(faults: Faults, message: backend_pb2.Backend) -> tuple[bool, bool]:
    """Ready and serving, as KEP-1672 joins them: ready is serving and not terminating."""
    serving = message.serving if message.HasField("serving") else True
    ready = message.ready if message.HasField("ready") else serving and not message.terminating
    if ready and message.terminating:
        faults.add("backend.ready", "a terminating backend is not ready; say serving")
    if ready and not serving:
        faults.add("backend.ready", "a backend that is not serving is not ready")
    return ready, serving


def address_from(faults: Faults, field: str, text: str) -> Address | None:
    """The address ``text``; None, and a fault, if it is none that a service can have."""
    try:
        address = parse_address(text)
    except ValueError as error:
        faults.add(field, str(error))
        return None
    found = IPv4Address(address[12:]) if is_ipv4(address) else IPv6Address(address)
    # As Kubernetes (ValidateNonSpecialIP): these mean something else on every node.
    if found.is_unspecified or found.is_loopback or found.is_link_local or found.is_multicast:
        faults.add(field, f"{text} is unspecified, loopback, link-local or multicast")
        return None
    return address


def port_from(
    faults: Faults, field: str, protocol: service_pb2.Protocol.ValueType, port: int, port_name: str
) -> BackendPort | None:
    """A port with its protocol and name; None, and the faults, if something of it is wrong."""
    known = PROTOCOLS.get(protocol)
    if known is None:
        faults.add(f"{field}.protocol", "neither TCP nor UDP")
    right = 1 <= port <= 65535
    if not right:
        faults.add(f"{field}.port", f"{port} is not within 1..65535")
    named = not port_name or check_pattern(faults, f"{field}.port_name", port_name, LABEL, LABEL_RULE)
    return BackendPort(port_name, known, port) if known is not None and right and named else None


def check_count(faults: Faults, field: str, count: int) -> None:
    """One to PORTS_MAX entries."""
    if not 1 <= count <= PORTS_MAX:
        faults.add(field, f"{count} entries; 1..{PORTS_MAX} are needed")


def check_pattern(faults: Faults, field: str, text: str, pattern: re.Pattern[str], rule: str) -> bool:
    """Whether all of ``text`` fits ``pattern``; else a fault that says the ``rule``."""
    if pattern.fullmatch(text):
        return True
    faults.add(field, f"{text!r} is {rule}" if text else "missing")
    return False
