"""What this node says of itself to the others, as records: the node, and the addresses of its pods."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from clustermesh import keys
from clustermesh.address_record import UNMANAGED_IDENTITY, AddressRecord, decode_address, encode_address
from clustermesh.errors import InvalidRecord
from clustermesh.identity_labels import identity_labels
from clustermesh.node_record import Node as NodeRecord
from clustermesh.node_record import NodeAddress, encode_node
from meshd.model import Address, Identity, Node, format_address
from meshd.model.cluster import OWN_NODE
from meshd.sources.kubernetes.objects import REGION_LABEL, ZONE_LABEL
from meshd.state import Mesh
from meshd.state.mesh import PRECEDENCE

ROUTING_ANNOTATION = "meshd.io/routing"
"""How a node's pods may be reached: native, vxlan or auto. A node without it is not one of ours."""


VNI_ANNOTATION = "meshd.io/vni"
VNI_IDENTITY = "identity"
"""Of a node of ours that takes the identities of pods out of tunnels, as the number of a VXLAN network (RFC 7348). One
without it is of a build that is told the same number of all pods; one that is none of ours does as Cilium: it takes them."""


def own_node(mesh: Mesh, cluster: str, name: str) -> Node:
    """All that is known of node ``name`` itself: what the agent found, then what sources say."""
    found = [mesh.nodes.get((source, cluster, name)) for source in (OWN_NODE, *PRECEDENCE)]
    made = Node(cluster, name, "")
    for node in found:
        if node is not None:
            made = replace(
                made,
                addresses=made.addresses or node.addresses,
                pod_cidrs=made.pod_cidrs or node.pod_cidrs,
                zone=made.zone or node.zone,
                region=made.region or node.region,
                routing=made.routing or node.routing,
                health=made.health or node.health,
                takes_identities=made.takes_identities or node.takes_identities,
            )
    return made


def identity_labels_of(mesh: Mesh, cluster: str) -> dict[tuple[str, str], str]:
    """Namespace and name -> the labels that make out the identity, of each workload whose labels a source knows."""
    found: dict[tuple[str, str], str] = {}
    for workload in sorted(mesh.workloads.values(), key=lambda one: _rank(one.source)):
        pod = workload.namespace, workload.name
        if workload.labels is None or pod in found:
            continue
        namespace = mesh.namespaces.get((workload.source, workload.namespace))
        of_namespace = namespace.labels if namespace is not None else ()
        found[pod] = _identity_labels(
            workload.labels, cluster, workload.namespace, of_namespace, workload.service_account
        )
    return found


def own_records(
    mesh: Mesh,
    cluster: str,
    cluster_id: int,
    name: str,
    identities: Mapping[str, int],
    pending: Collection[str] = (),
    said: Mapping[str, bytes] | None = None,
) -> dict[str, bytes]:
    """Key -> value of everything that node ``name`` says of itself in its cluster's etcd.

    Addresses are said only where the node has one itself: they mean nothing without. ``identities``: labels -> number; an
    address whose labels are ``pending`` is what was ``said`` of it, one of a workload without labels or number unmanaged.
    """
    node = own_node(mesh, cluster, name)
    records = {keys.node(cluster, name): encode_node(node_record(node, cluster_id))}
    host = next(_ips(node.addresses), None)
    if host is None:
        return records
    labels_of = identity_labels_of(mesh, cluster)
    for workload in mesh.workloads.values():
        labels = labels_of.get((workload.namespace, workload.name), "")
        if labels in pending:
            before = (keys.address(format_address(address)) for address in workload.addresses)
            records.update((key, said[key]) for key in before if said and key in said)
            continue
        identity = identities.get(labels, UNMANAGED_IDENTITY)
        records.update(
            _address_record(address, host, identity, workload.namespace, workload.name)
            for address in workload.addresses
        )
    for labels in {*labels_of.values()} & identities.keys():
        records[keys.identity_use(labels, str(host))] = str(identities[labels]).encode()
    return records


def told_identities(
    mesh: Mesh,
    cluster: str,
    identities: Mapping[str, int],
    pending: Collection[str],
    *,
    all_known: bool,
) -> tuple[list[Identity], list[tuple[type, tuple[str, str, str]]]]:
    """What the mesh is to be told of who this node's pods are: puts, and deletes.

    A pod whose labels are ``pending`` is who it was. ``all_known``: a pod that no source names is gone.
    """
    labels_of = identity_labels_of(mesh, cluster)
    puts = [Identity(*pod, identities[labels]) for pod, labels in labels_of.items() if labels in identities]
    stands = {pod for pod, labels in labels_of.items() if labels in identities or labels in pending}
    unknown = (key for key, _ in mesh.identities.items() if key[1:] not in stands)
    return puts, [(Identity, key) for key in unknown if all_known or key[1:] in labels_of]


def is_use_of_node(node: Node, key: str) -> bool:
    """Whether ``key`` says that ``node`` uses an identity."""
    return key.rpartition("/")[2] in set(map(str, _ips(node.addresses)))


def _rank(source: str) -> int:
    return PRECEDENCE.index(source) if source in PRECEDENCE else len(PRECEDENCE)


_identity_labels = lru_cache(maxsize=4096)(identity_labels)


# All of a node's pods are looked at when one comes or goes, while a runtime waits for it: nearly all are as before.
@lru_cache(maxsize=4096)
def _address_record(
    address: Address, host: IPv4Address | IPv6Address, identity: int, namespace: str, pod: str
) -> tuple[str, bytes]:
    network = ip_network(format_address(address))
    record = AddressRecord(network, host, identity, namespace=namespace, pod=pod)
    return keys.address(record.name), encode_address(record)


def is_of_node(node: Node, cluster_id: int, max_connected_clusters: int, key: str, value: bytes) -> bool:
    """Whether the address under ``key`` is said to be on ``node``."""
    name = key.removeprefix(keys.addresses_prefix(node.cluster))
    try:
        record = decode_address(
            key, value, name=name, cluster_id=cluster_id, max_connected_clusters=max_connected_clusters
        )
    except InvalidRecord:
        return False
    return record.host in set(_ips(node.addresses))


def node_record(node: Node, cluster_id: int) -> NodeRecord:
    """What the other clusters are told of ``node``; the first network of each family is its main one."""
    networks = [ip_network(text) for text in node.pod_cidrs]
    health = list(_ips(node.health))
    v4 = tuple(network for network in networks if isinstance(network, IPv4Network))
    v6 = tuple(network for network in networks if isinstance(network, IPv6Network))
    where = ((ZONE_LABEL, node.zone), (REGION_LABEL, node.region))
    return NodeRecord(
        name=node.name,
        cluster=node.cluster,
        cluster_id=cluster_id,
        addresses=tuple(NodeAddress("InternalIP", ip) for ip in _ips(node.addresses)),
        ipv4_network=v4[0] if v4 else None,
        ipv4_secondary_networks=v4[1:],
        ipv6_network=v6[0] if v6 else None,
        ipv6_secondary_networks=v6[1:],
        ipv4_health=next((each for each in health if isinstance(each, IPv4Address)), None),
        ipv6_health=next((each for each in health if isinstance(each, IPv6Address)), None),
        labels={name: text for name, text in where if text} or None,
        annotations=_annotations(node) or None,
    )


def _annotations(node: Node) -> dict[str, str]:
    found = {ROUTING_ANNOTATION: node.routing} if node.routing else {}
    return found | ({VNI_ANNOTATION: VNI_IDENTITY} if node.takes_identities else {})


def _ips(addresses: Iterable[Address]) -> Iterator[IPv4Address | IPv6Address]:
    return (ip_address(format_address(address)) for address in addresses)
