"""The names of all keys, in one place. Source: the public key layout of Cilium ClusterMesh (its
`pkg/kvstore`).

A key is joined from segments with single slashes and has no trailing one; a prefix to list or watch ends in
exactly one, so that cluster ``a`` never sees the keys of cluster ``ab``.
"""

from __future__ import annotations

import re

HEARTBEAT = "cilium/.heartbeat"
"""Rewritten by the publisher; readers go by when it arrives, never by its value."""

STATE = "cilium/state"
CACHE = "cilium/cache"

CANARY_RESOURCES = ("nodes", "services", "identities", "ip", "endpointslices", "serviceexports")
"""Resources a reader may wait for; an exporter that has none of one kind says at once that they are all
written.
"""

CLUSTER_NAME = re.compile(r"([a-z0-9][-a-z0-9]*)?[a-z0-9]")
CLUSTER_NAME_MAX = 32


def cluster_name_problem(name: str) -> str | None:
    """What is wrong with ``name`` as the name of a cluster in a mesh, None if nothing is."""
    if not name or len(name) > CLUSTER_NAME_MAX:
        return f"must be 1 to {CLUSTER_NAME_MAX} characters long"
    if not CLUSTER_NAME.fullmatch(name):
        return "must consist of a-z, 0-9 and '-', and begin and end with a letter or digit"
    return "'default' is not allowed in a mesh" if name == "default" else None


def cluster_config(cluster: str) -> str:
    """Key of the cluster-config of ``cluster``."""
    return f"cilium/cluster-config/{cluster}"


def synced_prefix(cluster: str) -> str:
    """Prefix of all canaries of ``cluster``."""
    return f"cilium/synced/{cluster}/"


def canary(cluster: str, resource: str, *, cached: bool = False) -> str:
    """Key that appears once all initial records of ``resource`` of ``cluster`` are written."""
    return f"{synced_prefix(cluster)}{CACHE if cached else STATE}/{resource}/v1"


def records_prefix(cluster: str, resource: str, *, cached: bool = False) -> str:
    """Prefix of the records of ``resource``, one of CANARY_RESOURCES, of ``cluster``."""
    if resource == "ip":
        return addresses_prefix(cluster, cached=cached)
    if resource == "identities":
        return identities_prefix(cluster, cached=cached)
    return f"{CACHE if cached else STATE}/{resource}/v1/{cluster}/"


def services_prefix(cluster: str, *, cached: bool = False) -> str:
    """Prefix of the services of ``cluster``.

    ``cached`` in the copy that a KVStoreMesh keeps in its own etcd.
    """
    return f"{CACHE if cached else STATE}/services/v1/{cluster}/"


def service(cluster: str, namespace: str, name: str) -> str:
    """Key of one service."""
    return f"{services_prefix(cluster)}{namespace}/{name}"


def slices_prefix(cluster: str, *, cached: bool = False) -> str:
    """Prefix of the endpoint slices of ``cluster``."""
    return f"{CACHE if cached else STATE}/endpointslices/v1/{cluster}/"


def endpoint_slice(cluster: str, namespace: str, name: str) -> str:
    """Key of one endpoint slice, which has a name of its own."""
    return f"{slices_prefix(cluster)}{namespace}/{name}"


def nodes_prefix(cluster: str, *, cached: bool = False) -> str:
    """Prefix of the nodes of ``cluster``."""
    return f"{CACHE if cached else STATE}/nodes/v1/{cluster}/"


def node(cluster: str, name: str) -> str:
    """Key of one node."""
    return f"{nodes_prefix(cluster)}{name}"


def addresses_prefix(cluster: str, *, cached: bool = False) -> str:
    """Prefix of the addresses of the workloads of ``cluster``.

    In a cluster's own etcd they stand below the one address space there is, "default"; in a KVStoreMesh's copy below
    the cluster's name.
    """
    return f"{CACHE}/ip/v1/{cluster}/" if cached else f"{STATE}/ip/v1/default/"


def address(text: str) -> str:
    """Key of one address, in its own cluster's etcd."""
    return f"{STATE}/ip/v1/default/{text}"


def identities_prefix(cluster: str, *, cached: bool = False) -> str:
    """Prefix of the identities of ``cluster``; the rest is the number.

    In a cluster's own etcd they stand without its name, which their labels say; in a KVStoreMesh's copy below it.
    """
    return f"{CACHE}/identities/v1/{cluster}/id/" if cached else f"{STATE}/identities/v1/id/"


def identity(number: int) -> str:
    """Key of one identity, in its own cluster's etcd."""
    return f"{STATE}/identities/v1/id/{number}"


IDENTITY_USES = f"{STATE}/identities/v1/value/"
"""Prefix of who uses which identity; the rest is labels, a slash and the address of a node."""


def identity_use(labels: str, node: str) -> str:
    """Key that says that the node with address ``node`` has workloads with ``labels``; its value is their identity."""
    return f"{IDENTITY_USES}{labels}/{node}"


def publisher(cluster: str) -> str:
    """Key whose holder is the one publisher of ``cluster``; our own, outside everything peers read."""
    return f"meshd/publisher/{cluster}"


def mirror(cluster: str) -> str:
    """Key whose holder is the one who copies peers into the etcd of ``cluster``; our own."""
    return f"meshd/mirror/{cluster}"


def presence_prefix(cluster: str) -> str:
    """Prefix of the leased keys by which agents of ``cluster`` say that they are there; the rest is the node's name."""
    return f"meshd/present/v1/{cluster}/"


def short_circuit(cluster: str) -> str:
    """Key of what was said last to all nodes of ``cluster`` of their short circuit; our own."""
    return f"meshd/short-circuit/v1/{cluster}"


def short_circuit_words(cluster: str) -> str:
    """Prefix of what each node made of it; the rest is the node's name."""
    return f"{short_circuit(cluster)}/nodes/"


def drill(cluster: str) -> str:
    """Key of the failover drill that goes on in ``cluster``; our own. Absent: there is none."""
    return f"meshd/failover-drill/v1/{cluster}"


def drill_words(cluster: str) -> str:
    """Prefix of what each node made of it; the rest is the node's name."""
    return f"{drill(cluster)}/nodes/"


def prefix_end(prefix: bytes) -> bytes:
    """First key after all keys that begin with ``prefix`` (etcd's ``range_end``); b"\\0" means to the end."""
    trimmed = prefix.rstrip(b"\xff")
    if not trimmed:
        return b"\0"
    return trimmed[:-1] + bytes([trimmed[-1] + 1])
