"""A node of the mesh from its record, and the networks that it claims for itself and its pods."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_network

from clustermesh.address_record import identity_range
from clustermesh.node_record import Node as NodeRecord
from meshd.model import Address, Node, format_address
from meshd.model.address import from_ip
from meshd.sources.claims import Network
from meshd.sources.kubernetes.objects import REGION_LABEL, ZONE_LABEL
from meshd.sources.own_records import ROUTING_ANNOTATION, VNI_ANNOTATION, VNI_IDENTITY


def node_of(source: str, record: NodeRecord, most_clusters: int) -> Node:
    """What ``record`` says, as an object of ``source``. Addresses that are not for other nodes are left out."""
    addresses = [one.ip for one in record.addresses if one.kind == "InternalIP"]
    cidrs = (
        record.ipv4_network,
        *record.ipv4_secondary_networks,
        record.ipv6_network,
        *record.ipv6_secondary_networks,
    )
    labels, said = record.labels or {}, record.annotations or {}
    routing = said.get(ROUTING_ANNOTATION, "")
    return Node(
        record.cluster,
        record.name,
        source,
        tuple(map(from_ip, addresses)),
        tuple(str(cidr) for cidr in cidrs if cidr is not None),
        labels.get(ZONE_LABEL, ""),
        health=_health(record, [cidr for cidr in cidrs if cidr is not None]),
        routing=routing,
        identities=identity_range(record.cluster_id, most_clusters),
        region=labels.get(REGION_LABEL, ""),
        takes_identities=not routing or said.get(VNI_ANNOTATION) == VNI_IDENTITY,
    )


def _health(record: NodeRecord, cidrs: Iterable[Network]) -> tuple[Address, ...]:
    """Only what is among the node's own: it is asked many times a second, and nobody may have others asked by us."""
    said = [each for each in (record.ipv4_health, record.ipv6_health) if each is not None]
    return tuple(from_ip(each) for each in said if any(each in cidr for cidr in cidrs))


def networks_of(node: Node) -> list[Network]:
    """All that ``node`` claims: its pod CIDRs, and its own addresses."""
    return [*map(_network, node.pod_cidrs), *hosts(node.addresses)]


def ranges_of(node: Node) -> list[tuple[Address, Address]]:
    """The same as first and last address of each; addresses of both families are compared as they are."""
    networks = networks_of(node)
    return [(from_ip(each.network_address), from_ip(each.broadcast_address)) for each in networks]


def hosts(addresses: Iterable[Address]) -> list[Network]:
    """Each of ``addresses`` as a network of its own."""
    return [_host(address) for address in addresses]


# The same few texts again and again, for every node that is compared with others.
@lru_cache(maxsize=1 << 14)
def _network(cidr: str) -> Network:
    return ip_network(cidr)


@lru_cache(maxsize=1 << 14)
def _host(address: Address) -> Network:
    return ip_network(format_address(address))
