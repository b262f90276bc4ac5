"""Service and EndpointSlice of Kubernetes as services and backend slices of the model.

Both are pure conversions with Kubernetes' own rules for what an absent field means. What cannot be translated
but leaves the rest usable (a port of another protocol than TCP and UDP, a service nobody gave an address) is a
remark, not an error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

from meshd.errors import InvalidObject
from meshd.model import (
    Address,
    Backend,
    BackendPort,
    BackendSlice,
    Frontend,
    Protocol,
    Service,
    ServiceName,
    TrafficDistribution,
    is_ipv4,
    parse_address,
)
from meshd.sources.kubernetes.annotations import (
    CLOSE_ON_FAILOVER,
    CLOSE_TCP,
    SERVICE_GLOBAL,
    SERVICE_SHARED,
    Annotations,
)
from meshd.sources.kubernetes.types import (
    Endpoint,
    EndpointConditions,
    EndpointSliceObject,
    Hints,
    ObjectName,
    ServiceObject,
    ServicePort,
    ServiceSpec,
)

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
# Source: Kubernetes core/v1 DefaultClientIPServiceAffinitySeconds and MaxClientIPServiceAffinitySeconds.
AFFINITY_TIMEOUT_DEFAULT_S = 10800
AFFINITY_TIMEOUT_MAX_S = 86400

_SERVICE_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_NO_CONDITIONS, _NO_HINTS = EndpointConditions(), Hints()
# PreferClose is the older name of PreferSameZone (KEP-3015).
_DISTRIBUTIONS = {
    "PreferClose": TrafficDistribution.SAME_ZONE,
    "PreferSameZone": TrafficDistribution.SAME_ZONE,
    "PreferSameNode": TrafficDistribution.SAME_NODE,
}


class Remark(NamedTuple):
    """A part of an object that is not used, and why; the rest of it is in force."""

    field: str
    reason: str


def service(found: ServiceObject, name: ObjectName, source: str) -> tuple[Service, list[Remark]]:
    """The service that ``found`` describes, and what of it is not translated.

    Headless and ExternalName services have no frontends: their names resolve to addresses that we leave alone.

    Raises:
        InvalidObject: a field says what Kubernetes would refuse, or an annotation of ours what it may not.
    """
    spec = found.spec or ServiceSpec()
    said = Annotations(str(name), found.metadata.annotations)
    remarks: list[Remark] = []
    return Service(
        name=ServiceName(name.namespace, name.name),
        source=source,
        frontends=tuple(_frontends(spec, str(name), remarks)),
        affinity_timeout_s=_affinity_timeout(spec, str(name)),
        internal_traffic_local=_internal_traffic_local(spec, str(name)),
        publish_not_ready=bool(spec.publish_not_ready_addresses),
        is_global=said.truth(*SERVICE_GLOBAL),
        shared=said.truth(*SERVICE_SHARED) is not False,
        affinity=said.service_affinity(),
        failover=said.failover(),
        min_healthy_percent=said.min_healthy_percent(),
        ramp_s=said.ramp_s(),
        close_tcp=said.truth(CLOSE_TCP) is True,
        close_on_failover=said.truth(CLOSE_ON_FAILOVER) is True,
        on_stale=said.on_stale(),
        traffic_distribution=_traffic_distribution(spec, remarks),
    ), remarks


def endpoint_slice(
    found: EndpointSliceObject, name: ObjectName, source: str, cluster: str
) -> tuple[BackendSlice, list[Remark]]:
    """The backends that ``found`` names for one service of ``cluster``, and what of it is not translated.

    Raises:
        InvalidObject: it names no service, or an address or port is none; of host names, too.
    """
    service_name = (found.metadata.labels or {}).get(SERVICE_NAME_LABEL)
    if not service_name:
        raise InvalidObject(
            str(name), f"metadata.labels[{SERVICE_NAME_LABEL}]", "names the slice's service and is missing"
        )
    if found.address_type not in ("IPv4", "IPv6"):
        raise InvalidObject(
            str(name),
            "addressType",
            f"{found.address_type!r} is not IPv4 or IPv6; host names are not resolved here",
        )
    remarks: list[Remark] = []
    ports = tuple(_backend_ports(found, str(name), remarks))
    weight = Annotations(str(name), found.metadata.annotations).weight()
    backends = tuple(
        _backend(
            endpoint, index, family=found.address_type, object_name=str(name), ports=ports, weight=weight
        )
        for index, endpoint in enumerate(found.endpoints or ())
    )
    return (
        BackendSlice(ServiceName(name.namespace, service_name), name.name, source, cluster, backends),
        remarks,
    )


# Services


def _frontends(spec: ServiceSpec, object_name: str, remarks: list[Remark]) -> Iterator[Frontend]:
    kind = spec.type or "ClusterIP"
    if kind not in _SERVICE_TYPES:
        raise InvalidObject(object_name, "spec.type", f"{kind!r} is not one of {', '.join(_SERVICE_TYPES)}")
    ports = list(_service_ports(spec.ports or [], object_name, remarks))
    if kind == "ExternalName":
        return
    for address in _cluster_addresses(spec, object_name, remarks):
        for port, protocol, port_name in ports:
            yield Frontend(address, port, protocol, port_name)


def _cluster_addresses(spec: ServiceSpec, object_name: str, remarks: list[Remark]) -> list[Address]:
    field = "spec.clusterIPs" if spec.cluster_ips else "spec.clusterIP"
    texts = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    if texts == ["None"]:
        return []
    if not texts:
        # An API server would have chosen one; a manifest that nobody completed has none.
        remarks.append(Remark(field, "no address; there is nothing to translate until it has one"))
        return []
    if spec.cluster_ips and spec.cluster_ip not in (None, "", spec.cluster_ips[0]):
        raise InvalidObject(
            object_name, "spec.clusterIP", f"{spec.cluster_ip!r} is not the first of spec.clusterIPs"
        )
    addresses = [
        _address(text, object_name, f"{field}[{index}]" if spec.cluster_ips else field)
        for index, text in enumerate(texts)
    ]
    if len(addresses) > 2 or (len(addresses) == 2 and is_ipv4(addresses[0]) == is_ipv4(addresses[1])):
        raise InvalidObject(object_name, field, "at most one address of each family")
    return addresses


def _service_ports(
    ports: list[ServicePort], object_name: str, remarks: list[Remark]
) -> Iterator[tuple[int, Protocol, str]]:
    names: set[str] = set()
    numbers: set[tuple[str, int]] = set()
    for index, port in enumerate(ports):
        field = f"spec.ports[{index}]"
        number = _port(port.port, object_name, f"{field}.port")
        name = port.name or ""
        protocol = port.protocol or "TCP"
        if not name and len(ports) > 1:
            raise InvalidObject(object_name, f"{field}.name", "required where a service has several ports")
        if name in names:
            raise InvalidObject(object_name, f"{field}.name", f"{name!r} is the name of another port")
        if (protocol, number) in numbers:
            raise InvalidObject(object_name, field, f"{protocol} {number} is there already")
        names.add(name)
        numbers.add((protocol, number))
        known = _protocol(protocol, object_name, f"{field}.protocol", remarks)
        if known is not None:
            yield number, known, name


def _affinity_timeout(spec: ServiceSpec, object_name: str) -> int:
    if spec.session_affinity in (None, "", "None"):
        return 0
    if spec.session_affinity != "ClientIP":
        raise InvalidObject(
            object_name, "spec.sessionAffinity", f"{spec.session_affinity!r} is neither None nor ClientIP"
        )
    client_ip = spec.session_affinity_config.client_ip if spec.session_affinity_config else None
    if client_ip is None or client_ip.timeout_seconds is None:
        return AFFINITY_TIMEOUT_DEFAULT_S
    if not 1 <= client_ip.timeout_seconds <= AFFINITY_TIMEOUT_MAX_S:
        raise InvalidObject(
            object_name,
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            f"{client_ip.timeout_seconds} is not from 1 to {AFFINITY_TIMEOUT_MAX_S}",
        )
    return client_ip.timeout_seconds


def _internal_traffic_local(spec: ServiceSpec, object_name: str) -> bool:
    policy = spec.internal_traffic_policy or "Cluster"
    if policy not in ("Cluster", "Local"):
        raise InvalidObject(
            object_name, "spec.internalTrafficPolicy", f"{policy!r} is neither Cluster nor Local"
        )
    return policy == "Local"


def _traffic_distribution(spec: ServiceSpec, remarks: list[Remark]) -> TrafficDistribution:
    wish = spec.traffic_distribution
    if wish and wish not in _DISTRIBUTIONS:
        remarks.append(Remark("spec.trafficDistribution", f"{wish!r} is not known here; all backends serve"))
    return _DISTRIBUTIONS.get(wish or "", TrafficDistribution.ANY)


# Slices


def _backend_ports(
    found: EndpointSliceObject, object_name: str, remarks: list[Remark]
) -> Iterator[BackendPort]:
    names: set[str] = set()
    for index, port in enumerate(found.ports or ()):
        field = f"ports[{index}]"
        name = port.name or ""
        if name in names:
            raise InvalidObject(object_name, f"{field}.name", f"{name!r} is the name of another port")
        names.add(name)
        protocol = _protocol(port.protocol or "TCP", object_name, f"{field}.protocol", remarks)
        if port.port is None:
            remarks.append(Remark(f"{field}.port", "no number, so there is no port to translate to"))
        elif protocol is not None:
            yield BackendPort(name, protocol, _port(port.port, object_name, f"{field}.port"))


def _backend(
    endpoint: Endpoint,
    index: int,
    *,
    family: str,
    object_name: str,
    ports: tuple[BackendPort, ...],
    weight: int,
) -> Backend:
    field = f"endpoints[{index}].addresses"
    if not endpoint.addresses:
        raise InvalidObject(object_name, field, "must name an address")
    # Addresses beyond the first have no meaning in the API, and kube-proxy does not look at them.
    address = _address(endpoint.addresses[0], object_name, f"{field}[0]")
    if is_ipv4(address) != (family == "IPv4"):
        raise InvalidObject(
            object_name, f"{field}[0]", f"{endpoint.addresses[0]!r} is not an {family} address"
        )
    conditions = endpoint.conditions or _NO_CONDITIONS
    ready = conditions.ready is not False
    hints = endpoint.hints or _NO_HINTS
    return Backend(
        address=address,
        ports=ports,
        ready=ready,
        serving=ready if conditions.serving is None else conditions.serving,
        terminating=conditions.terminating is True,
        # The same few names in thousands of backends.
        node=sys.intern(endpoint.node_name or ""),
        zone=sys.intern(endpoint.zone or ""),
        weight=weight,
        for_zones=tuple(sys.intern(hint.name) for hint in hints.for_zones or ()),
        for_nodes=tuple(sys.intern(hint.name) for hint in hints.for_nodes or ()),
    )


# Both


def _protocol(text: str, object_name: str, field: str, remarks: list[Remark]) -> Protocol | None:
    if text == "SCTP":
        remarks.append(Remark(field, "SCTP is not translated; this port is left to the network"))
        return None
    try:
        return Protocol[text]
    except KeyError:
        raise InvalidObject(object_name, field, f"{text!r} is not one of TCP, UDP, SCTP") from None


def _port(number: int, object_name: str, field: str) -> int:
    if not 1 <= number <= 65535:
        raise InvalidObject(object_name, field, f"{number} is not from 1 to 65535")
    return number


def _address(text: str, object_name: str, field: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise InvalidObject(object_name, field, str(error)) from error
