"""Kubernetes objects of a lab, as its API server would hand them out: pure, dicts that are written as YAML (``api.py``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from meshd.lab.layout import Addresses, Cluster, Node
from meshd.lab.record import Pod
from meshd.lab.spec import ServiceSpec

# A Kubernetes object is a tree of dicts, lists and scalars; its types are Kubernetes', not ours.
Object = dict[str, Any]


class Condition(Enum):
    """What an EndpointSlice says of a pod in the stages of its life (KEP-1672): ready, serving, terminating."""

    # Not an endpoint yet: told apart from FAILED, and left out of slices.
    STARTING = None
    READY = (True, True, False)
    TERMINATING = (False, True, True)
    # Its node noticed that it died.
    FAILED = (False, False, False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod as an EndpointSlice sees it."""

    pod: Pod
    addresses: Addresses
    condition: Condition


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def node(node: Node) -> Object:
    v4, v6 = node.pod_cidrs
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {"kubernetes.io/hostname": node.name, "topology.kubernetes.io/zone": node.cluster},
        },
        "spec": {"podCIDR": str(v4), "podCIDRs": [str(v4), str(v6)]},
        "status": {"addresses": [{"type": "InternalIP", "address": str(a)} for a in node.fabric]},
    }


def pod(pod: Pod, addresses: Addresses) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name,
            "namespace": pod.namespace,
            "labels": dict(pod.labels),
        },
        "spec": {"nodeName": pod.node},
        "status": {
            "phase": "Running",
            "podIP": str(addresses.v4),
            "podIPs": [{"ip": str(a)} for a in addresses],
        },
    }


def service(spec: ServiceSpec, cluster: Cluster, index: int) -> Object:
    """The service in ``cluster``; ``index`` is its place among the lab's services."""
    addresses = [str(a) for a in cluster.service_address(index)]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": spec.name, "namespace": spec.namespace, "annotations": dict(spec.annotations)},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "selector": dict(spec.selector),
            "ports": [{"name": "main", "protocol": "TCP", "port": spec.port, "targetPort": spec.target_port}],
        },
    }


def selects(spec: ServiceSpec, pod: Pod) -> bool:
    """Whether ``pod`` stands behind the service."""
    return pod.namespace == spec.namespace and spec.selector.items() <= pod.labels.items()


def endpoint_slices(spec: ServiceSpec, endpoints: Sequence[Endpoint]) -> tuple[Object, Object]:
    """One EndpointSlice for each family, as Kubernetes keeps them; ``endpoints`` all belong to the service."""
    return (
        _endpoint_slice(spec, "IPv4", [(e, str(e.addresses.v4)) for e in endpoints]),
        _endpoint_slice(spec, "IPv6", [(e, str(e.addresses.v6)) for e in endpoints]),
    )


def _endpoint_slice(spec: ServiceSpec, family: str, endpoints: Sequence[tuple[Endpoint, str]]) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{spec.name}-{family.lower()}",
            "namespace": spec.namespace,
            "labels": {"kubernetes.io/service-name": spec.name},
        },
        "addressType": family,
        "endpoints": [_endpoint(endpoint, address) for endpoint, address in endpoints],
        "ports": [{"name": "main", "protocol": "TCP", "port": spec.target_port}],
    }


def _endpoint(endpoint: Endpoint, address: str) -> Object:
    ready, serving, terminating = endpoint.condition.value or (False, False, False)
    pod = endpoint.pod
    return {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "nodeName": pod.node,
        "zone": pod.cluster,
        "targetRef": {"kind": "Pod", "namespace": pod.namespace, "name": pod.name},
    }


def file_name(item: Mapping[str, Any]) -> str:
    """Where an object is kept: one file each, so that a change touches nothing else."""
    metadata = item["metadata"]
    parts = (item["kind"].lower(), metadata.get("namespace"), metadata["name"])
    return "_".join(part for part in parts if part) + ".yaml"
