"""A node as its cluster shares it, between etcd's bytes and a frozen type.

The wire has Go's own field names (its type carries no JSON tags) and a base64 mask. Source: Cilium's public
node type, `pkg/node/types`, and the expected values of its exporter's tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from clustermesh import gojson
from clustermesh.addresses import Address, Network, mask_to_text, parse_network, to_text
from clustermesh.errors import InvalidRecord
from clustermesh.records import address, check_names, decode

MAX_ADDRESSES = 256
MAX_SECONDARY_NETWORKS = 256
"""Of one family. Each is a route and a row of a map that all nodes of the mesh share."""


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """``kind``: InternalIP, ExternalIP, CiliumInternalIP (of the node's router) and others to come."""

    kind: str
    ip: Address


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its addresses, and the networks its workloads have theirs from.

    ``encryption_key`` is an IPsec key index (0: none), ``wireguard_key`` base64 or "".
    """

    name: str
    cluster: str
    cluster_id: int
    addresses: tuple[NodeAddress, ...] = ()
    ipv4_network: Network | None = None
    ipv6_network: Network | None = None
    ipv4_secondary_networks: tuple[Network, ...] = ()
    ipv6_secondary_networks: tuple[Network, ...] = ()
    ipv4_health: Address | None = None
    ipv6_health: Address | None = None
    ipv4_ingress: Address | None = None
    ipv6_ingress: Address | None = None
    source: str = "custom-resource"
    encryption_key: int = 0
    labels: Mapping[str, str] | None = field(default=None)
    annotations: Mapping[str, str] | None = field(default=None)
    wireguard_key: str = ""
    boot_id: str = ""


class _Address(msgspec.Struct, rename={"kind": "Type", "ip": "IP"}):
    kind: str = ""
    ip: str = ""


class _Network(msgspec.Struct, rename={"ip": "IP", "mask": "Mask"}):
    ip: str = ""
    mask: str | None = None


class _Node(msgspec.Struct):
    # Go's names are the wire's.
    Name: str = ""
    Cluster: str = ""
    IPAddresses: list[_Address] | None = None
    IPv4AllocCIDR: _Network | None = None
    IPv4SecondaryAllocCIDRs: list[_Network] | None = None
    IPv6AllocCIDR: _Network | None = None
    IPv6SecondaryAllocCIDRs: list[_Network] | None = None
    IPv4HealthIP: str = ""
    IPv6HealthIP: str = ""
    IPv4IngressIP: str = ""
    IPv6IngressIP: str = ""
    ClusterID: int = 0
    Source: str = ""
    EncryptionKey: int = 0
    Labels: dict[str, str] | None = None
    Annotations: dict[str, str] | None = None
    WireguardPubKey: str = ""
    BootID: str = ""


_decoder = msgspec.json.Decoder(_Node)


def encode_node(node: Node) -> bytes:
    """The value of the node's key, as Go would write it."""
    return gojson.encode(
        _Node(
            Name=node.name,
            Cluster=node.cluster,
            IPAddresses=[_Address(one.kind, to_text(one.ip)) for one in node.addresses] or None,
            IPv4AllocCIDR=_network_to_wire(node.ipv4_network),
            IPv4SecondaryAllocCIDRs=_networks_to_wire(node.ipv4_secondary_networks),
            IPv6AllocCIDR=_network_to_wire(node.ipv6_network),
            IPv6SecondaryAllocCIDRs=_networks_to_wire(node.ipv6_secondary_networks),
            IPv4HealthIP=_text(node.ipv4_health),
            IPv6HealthIP=_text(node.ipv6_health),
            IPv4IngressIP=_text(node.ipv4_ingress),
            IPv6IngressIP=_text(node.ipv6_ingress),
            ClusterID=node.cluster_id,
            Source=node.source,
            EncryptionKey=node.encryption_key,
            Labels=None if node.labels is None else dict(node.labels),
            Annotations=None if node.annotations is None else dict(node.annotations),
            WireguardPubKey=node.wireguard_key,
            BootID=node.boot_id,
        )
    )


def decode_node(key: str, value: bytes, *, cluster: str, name: str, cluster_id: int) -> Node:
    """The node under ``key``, which must be node ``name`` of ``cluster``.

    InvalidRecord otherwise or on bad content.
    """
    wire = decode(key, value, _decoder)
    for where, found, expected in (
        ("Cluster", wire.Cluster, cluster),
        ("Name", wire.Name, name),
        ("ClusterID", wire.ClusterID, cluster_id),
    ):
        if found != expected:
            raise InvalidRecord(key, where, f"is {str(found)[:80]!r}, expected {str(expected)!r}")
    check_names(key, wire.Name)
    for where, many, most in (
        ("IPAddresses", wire.IPAddresses, MAX_ADDRESSES),
        ("IPv4SecondaryAllocCIDRs", wire.IPv4SecondaryAllocCIDRs, MAX_SECONDARY_NETWORKS),
        ("IPv6SecondaryAllocCIDRs", wire.IPv6SecondaryAllocCIDRs, MAX_SECONDARY_NETWORKS),
    ):
        if len(many or ()) > most:
            raise InvalidRecord(key, where, f"more than the {most} that are allowed")
    return Node(
        name=wire.Name,
        cluster=wire.Cluster,
        cluster_id=wire.ClusterID,
        addresses=tuple(
            NodeAddress(one.kind, address(key, "IPAddresses", one.ip)) for one in wire.IPAddresses or ()
        ),
        ipv4_network=_network(key, "IPv4AllocCIDR", wire.IPv4AllocCIDR),
        ipv6_network=_network(key, "IPv6AllocCIDR", wire.IPv6AllocCIDR),
        ipv4_secondary_networks=_networks(key, "IPv4SecondaryAllocCIDRs", wire.IPv4SecondaryAllocCIDRs),
        ipv6_secondary_networks=_networks(key, "IPv6SecondaryAllocCIDRs", wire.IPv6SecondaryAllocCIDRs),
        ipv4_health=_optional(key, "IPv4HealthIP", wire.IPv4HealthIP),
        ipv6_health=_optional(key, "IPv6HealthIP", wire.IPv6HealthIP),
        ipv4_ingress=_optional(key, "IPv4IngressIP", wire.IPv4IngressIP),
        ipv6_ingress=_optional(key, "IPv6IngressIP", wire.IPv6IngressIP),
        source=wire.Source,
        encryption_key=wire.EncryptionKey,
        labels=wire.Labels,
        annotations=wire.Annotations,
        wireguard_key=wire.WireguardPubKey,
        boot_id=wire.BootID,
    )


def _text(ip: Address | None) -> str:
    return "" if ip is None else to_text(ip)


def _optional(key: str, where: str, text: str) -> Address | None:
    return address(key, where, text) if text else None


def _network_to_wire(network: Network | None) -> _Network | None:
    return None if network is None else _Network(str(network.network_address), mask_to_text(network))


def _networks_to_wire(networks: tuple[Network, ...]) -> list[_Network] | None:
    return [_Network(str(network.network_address), mask_to_text(network)) for network in networks] or None


def _network(key: str, where: str, wire: _Network | None) -> Network | None:
    if wire is None:
        return None
    try:
        return parse_network(wire.ip, wire.mask or "")
    except ValueError as error:
        raise InvalidRecord(key, where, str(error)[:200]) from error


def _networks(key: str, where: str, wire: list[_Network] | None) -> tuple[Network, ...]:
    return tuple(network for one in wire or () if (network := _network(key, where, one)) is not None)
