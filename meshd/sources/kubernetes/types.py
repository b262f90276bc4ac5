"""The fields of Kubernetes objects that meshd uses, as typed structs; every other field is skipped.

The same structs serve objects from YAML (``decode``) and JSON from an API server. ``None`` stands for both an
absent field and an explicit null, as in the API. Source of names and types: Kubernetes API v1 and
discovery.k8s.io/v1.
"""

from __future__ import annotations

import re
from typing import NamedTuple, TypeVar

import msgspec

from meshd.errors import InvalidObject


class ObjectName(NamedTuple):
    """What identifies an object in one cluster; ``namespace`` is empty for kinds that have none."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Struct(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Base of all below: immutable, camelCase in Kubernetes, no cycles."""


class Metadata(Struct, frozen=True):
    name: str
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class ServicePort(Struct, frozen=True):
    port: int
    name: str | None = None
    protocol: str | None = None
    node_port: int | None = None


class ClientIP(Struct, frozen=True):
    timeout_seconds: int | None = None


class SessionAffinityConfig(Struct, frozen=True):
    client_ip: ClientIP | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(Struct, frozen=True):
    type: str | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ports: list[ServicePort] | None = None
    session_affinity: str | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    internal_traffic_policy: str | None = None
    publish_not_ready_addresses: bool | None = None
    traffic_distribution: str | None = None
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    load_balancer_source_ranges: list[str] | None = None


class Ingress(Struct, frozen=True):
    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancer(Struct, frozen=True):
    ingress: list[Ingress] | None = None


class ServiceStatus(Struct, frozen=True):
    load_balancer: LoadBalancer | None = None


class ServiceObject(Struct, frozen=True):
    metadata: Metadata
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


class StoredMetadata(Metadata, frozen=True):
    """What an API server adds to an object that it keeps."""

    creation_timestamp: str | None = None


class StoredService(ServiceObject, frozen=True):
    """A Service as an API server keeps it."""

    metadata: StoredMetadata


class EndpointConditions(Struct, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class HintName(Struct, frozen=True):
    name: str


class Hints(Struct, frozen=True):
    for_zones: list[HintName] | None = None
    for_nodes: list[HintName] | None = None


class Endpoint(Struct, frozen=True):
    addresses: list[str]
    conditions: EndpointConditions | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: Hints | None = None


class EndpointPort(Struct, frozen=True):
    port: int | None = None
    name: str | None = None
    protocol: str | None = None


class EndpointSliceObject(Struct, frozen=True):
    metadata: Metadata
    address_type: str
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


class NamespaceObject(Struct, frozen=True):
    metadata: Metadata


class NodeSpec(Struct, frozen=True):
    pod_cidr: str | None = msgspec.field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = msgspec.field(default=None, name="podCIDRs")


class NodeAddress(Struct, frozen=True):
    type: str
    address: str


class NodeStatus(Struct, frozen=True):
    addresses: list[NodeAddress] | None = None


class NodeObject(Struct, frozen=True):
    metadata: Metadata
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class PodSpec(Struct, frozen=True):
    node_name: str | None = None
    host_network: bool | None = None
    service_account_name: str | None = None


class PodIP(Struct, frozen=True):
    ip: str


class PodStatus(Struct, frozen=True):
    phase: str | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    pod_ips: list[PodIP] | None = msgspec.field(default=None, name="podIPs")


class PodObject(Struct, frozen=True):
    metadata: Metadata
    spec: PodSpec | None = None
    status: PodStatus | None = None


KubernetesObject = ServiceObject | EndpointSliceObject | NamespaceObject | NodeObject | PodObject
T = TypeVar("T")

# What msgspec says about a value: the reason, then (unless it is the whole object) where.
_WHERE = re.compile(r"(?P<reason>.*?)(?: - at (?P<key>`key` in )?`\$\.?(?P<path>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")


def decode(raw: object, into: type[T], object_name: str) -> T:
    """``raw`` (mappings, lists and scalars as YAML or JSON hold them) as the struct ``into``.

    Raises:
        InvalidObject: names the field by its path (``spec.ports[0].port``) and says what was expected there.
    """
    try:
        return msgspec.convert(raw, into, strict=True)
    except msgspec.ValidationError as error:
        field, reason = _explained(raw, str(error))
        raise InvalidObject(object_name, field, reason) from error


def _explained(raw: object, message: str) -> tuple[str, str]:
    found = _WHERE.fullmatch(message)
    if found is None:
        return "object", message
    field, reason = found["path"] or "", found["reason"] + (" as a key" if found["key"] else "")
    missing = _MISSING.fullmatch(reason)
    if missing:
        return f"{field}.{missing['name']}".lstrip("."), "is required and missing"
    if field.endswith("[...]"):  # msgspec does not say which entry of a map
        return _entry_of_map(raw, field.removesuffix("[...]"), reason)
    return field or "object", reason


def _entry_of_map(raw: object, field: str, reason: str) -> tuple[str, str]:
    for step in field.split("."):
        raw = raw.get(step) if isinstance(raw, dict) else None
    if isinstance(raw, dict):
        for key, value in raw.items():
            if not isinstance(value, str):
                return f"{field}[{key}]", f"{reason}; put {value!r} in quotes"
    return field, reason
