"""One Kubernetes object, as YAML or JSON hold it, as one value of the model.

The entrance for every source that reads Kubernetes objects: which kinds there are, what identifies an object,
and the conversion of Namespace, Node and Pod (services have a file of their own). Pure: nothing here reads or
waits.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from meshd.errors import InvalidObject
from meshd.model import Address, BackendSlice, Namespace, Node, Service, Workload, parse_address
from meshd.sources.kubernetes import services
from meshd.sources.kubernetes.annotations import (
    NAMESPACE_GLOBAL,
    NAMESPACE_MAY_BE_GLOBAL,
    NETNS,
    SHORT_CIRCUIT,
    SOCKET_LB,
    Annotations,
)
from meshd.sources.kubernetes.services import Remark
from meshd.sources.kubernetes.types import (
    EndpointSliceObject,
    KubernetesObject,
    NamespaceObject,
    NodeObject,
    ObjectName,
    PodObject,
    ServiceObject,
    decode,
)

Value = Service | BackendSlice | Namespace | Node | Workload

# Kind -> apiVersion. Several groups have a kind Service.
KINDS = {
    "Service": "v1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "Namespace": "v1",
    "Node": "v1",
    "Pod": "v1",
}
_STRUCTS: dict[str, type[KubernetesObject]] = {
    "Service": ServiceObject,
    "EndpointSlice": EndpointSliceObject,
    "Namespace": NamespaceObject,
    "Node": NodeObject,
    "Pod": PodObject,
}
_WITHOUT_NAMESPACE = ("Namespace", "Node")
ZONE_LABEL = "topology.kubernetes.io/zone"
REGION_LABEL = "topology.kubernetes.io/region"
_NODE_ADDRESS_TYPES = ("InternalIP", "ExternalIP")

# RFC 1123; what Kubernetes requires of the names of these kinds.
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_SUBDOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL.pattern}(\.{_LABEL.pattern})*")


@dataclass(frozen=True, slots=True)
class Context:
    """Whose objects these are: the source that reads them, the cluster they run in, and the node we are.

    ``has_runtime``: somebody else knows the pods' network namespaces, so a pod that does not name its own counts too.
    """

    source: str
    cluster: str
    node: str
    has_runtime: bool = False


@dataclass(frozen=True, slots=True)
class Converted:
    """``value`` None: a good object that says nothing to this node (a pod elsewhere)."""

    value: Value | None
    remarks: tuple[Remark, ...] = ()


def identify(raw: object) -> ObjectName:
    """Which object ``raw`` is; enough of it to know which one a broken version replaces.

    Of a kind that is not read here, too: its group then is part of ``kind`` (``Deployment.apps``).

    Raises:
        InvalidObject: it is no object, or does not say of which kind and name.
    """
    if not isinstance(raw, Mapping):
        raise InvalidObject(
            "document", "object", f"a Kubernetes object is a mapping, this is {_type_name(raw)}"
        )
    kind, version = raw.get("kind"), raw.get("apiVersion")
    if not isinstance(kind, str) or not kind:
        raise InvalidObject("document", "kind", "is required and missing")
    if not isinstance(version, str) or not version:
        raise InvalidObject(kind, "apiVersion", "is required and missing")
    group = version.rpartition("/")[0]
    if kind not in KINDS or group != KINDS[kind].rpartition("/")[0]:
        kind = f"{kind}.{group}" if group else kind
    metadata = raw.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or not isinstance(name, str) or not name:
        raise InvalidObject(kind, "metadata.name", f"must be a name in quotes or letters, this is {name!r}")
    if kind in _WITHOUT_NAMESPACE:
        return ObjectName(kind, "", name)
    namespace = metadata.get("namespace") or "default"
    if not isinstance(namespace, str):
        raise InvalidObject(f"{kind} {name}", "metadata.namespace", f"must be a name, this is {namespace!r}")
    return ObjectName(kind, namespace, name)


def convert(raw: object, name: ObjectName, context: Context) -> Converted:
    """The model value of ``raw``, which ``identify`` says is ``name``.

    Raises:
        InvalidObject: names the object, the field by its path, and what is wrong with it.
    """
    _check_kind(raw, name)
    _check_names(name)
    return value_of(decode(raw, _STRUCTS[name.kind], str(name)), name, context)


def value_of(found: KubernetesObject, name: ObjectName, context: Context) -> Converted:
    """The model value of ``found``, which is ``name``. Raises InvalidObject as above."""
    match found:
        case ServiceObject():
            value, remarks = services.service(found, name, context.source)
            return Converted(value, tuple(remarks))
        case EndpointSliceObject():
            slice_, remarks = services.endpoint_slice(found, name, context.source, context.cluster)
            return Converted(slice_, tuple(remarks))
        case NamespaceObject():
            return Converted(_namespace(found, name, context))
        case NodeObject():
            return Converted(_node(found, name, context))
        case PodObject():
            return Converted(_workload(found, name, context))


def object_name(value: Value) -> ObjectName:
    """Which Kubernetes object became ``value``."""
    match value:
        case Service(name=name):
            return ObjectName("Service", name.namespace, name.name)
        case BackendSlice(service=service, name=slice_name):
            return ObjectName("EndpointSlice", service.namespace, slice_name)
        case Namespace(name=namespace):
            return ObjectName("Namespace", "", namespace)
        case Node(name=node):
            return ObjectName("Node", "", node)
        case Workload(namespace=namespace, name=pod):
            return ObjectName("Pod", namespace, pod)


def _namespace(found: NamespaceObject, name: ObjectName, context: Context) -> Namespace:
    said = Annotations(str(name), found.metadata.annotations)
    may_be = False if said.truth(NAMESPACE_MAY_BE_GLOBAL) is False else None
    return Namespace(
        name=name.name,
        source=context.source,
        global_services=said.truth(NAMESPACE_GLOBAL) if said.text(NAMESPACE_GLOBAL) else may_be,
        socket_lb=said.truth(SOCKET_LB),
        short_circuit=said.truth(SHORT_CIRCUIT),
        labels=_labels(found.metadata.labels, name),
    )


def _node(found: NodeObject, name: ObjectName, context: Context) -> Node:
    listed = (found.status.addresses if found.status else None) or []
    addresses = tuple(
        _address(entry.address, name, f"status.addresses[{index}].address")
        for index, entry in enumerate(listed)
        if entry.type in _NODE_ADDRESS_TYPES  # the other types are host names
    )
    cidrs: list[str] = []
    if found.spec is not None:
        cidrs = found.spec.pod_cidrs or ([found.spec.pod_cidr] if found.spec.pod_cidr else [])
    for index, cidr in enumerate(cidrs):
        _check_cidr(cidr, name, f"spec.podCIDRs[{index}]")
    labels = found.metadata.labels or {}
    zone, region = labels.get(ZONE_LABEL, ""), labels.get(REGION_LABEL, "")
    return Node(context.cluster, name.name, context.source, addresses, tuple(cidrs), zone, region=region)


def _workload(found: PodObject, name: ObjectName, context: Context) -> Workload | None:
    said = Annotations(str(name), found.metadata.annotations)
    netns = said.text(NETNS)
    on_this_node = found.spec is not None and found.spec.node_name == context.node
    ended = found.status is not None and found.status.phase in ("Succeeded", "Failed")
    # A pod of the host's network namespace is the host, to us.
    left_to_runtime = context.has_runtime and found.spec is not None and not found.spec.host_network
    if not (netns or left_to_runtime) or not on_this_node or ended:
        return None
    if netns is not None and not netns[1].startswith("/"):
        raise InvalidObject(
            str(name), f"metadata.annotations[{NETNS}]", f"{netns[1]!r} is not an absolute path"
        )
    texts: list[str] = []
    if found.status is not None:
        one = [found.status.pod_ip] if found.status.pod_ip else []
        texts = [entry.ip for entry in found.status.pod_ips or ()] or one
    addresses = tuple(_address(text, name, f"status.podIPs[{index}].ip") for index, text in enumerate(texts))
    return Workload(
        namespace=name.namespace,
        name=name.name,
        source=context.source,
        netns=netns[1] if netns is not None else "",
        addresses=addresses,
        socket_lb=said.truth(SOCKET_LB),
        short_circuit=said.truth(SHORT_CIRCUIT),
        labels=_labels(found.metadata.labels, name),
        service_account=_service_account(found, name),
    )


def _service_account(found: PodObject, name: ObjectName) -> str:
    account = (found.spec.service_account_name if found.spec is not None else None) or ""
    if account and not _SUBDOMAIN.fullmatch(account):
        raise InvalidObject(
            str(name), "spec.serviceAccountName", f"{account[:80]!r} is not a subdomain as of RFC 1123"
        )
    return account


def _labels(said: Mapping[str, str] | None, name: ObjectName) -> tuple[tuple[str, str], ...]:
    """Sorted by key. They become part of keys and values in etcd, where other characters mean something."""
    for key, value in (said or {}).items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise InvalidObject(
                str(name), f"metadata.labels[{key[:80]}]", f"{value[:80]!r} is not a label of Kubernetes"
            )
    return tuple(sorted((said or {}).items()))


def _check_kind(raw: object, name: ObjectName) -> None:
    version = raw.get("apiVersion") if isinstance(raw, Mapping) else None
    if name.kind not in KINDS:
        raise InvalidObject(str(name), "kind", f"is not read here; {', '.join(KINDS)} are")
    if version != KINDS[name.kind]:
        raise InvalidObject(str(name), "apiVersion", f"{version!r} is not {KINDS[name.kind]}")


def _check_names(name: ObjectName) -> None:
    if name.namespace and not _LABEL.fullmatch(name.namespace):
        raise InvalidObject(
            str(name), "metadata.namespace", f"{name.namespace!r} is not a label as of RFC 1123"
        )
    pattern, what = (_LABEL, "label") if name.kind in ("Service", "Namespace") else (_SUBDOMAIN, "subdomain")
    if not pattern.fullmatch(name.name):
        raise InvalidObject(str(name), "metadata.name", f"{name.name!r} is not a {what} as of RFC 1123")


def _address(text: str, name: ObjectName, field: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise InvalidObject(str(name), field, str(error)) from error


def _check_cidr(text: str, name: ObjectName, field: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidObject(str(name), field, str(error)) from error


def _type_name(raw: object) -> str:
    return {"NoneType": "nothing", "list": "a list", "str": "a text"}.get(type(raw).__name__, "a number")
