"""What no external address may be: the addresses of nodes, pods and API servers, of all clusters we know. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from meshd.model import Address, Node, NodeState
from meshd.model.address import to_ip

Ip = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
# By IP version and prefix length: the network's first bits -> whose pods have its addresses.
Networks = Mapping[tuple[int, int], Mapping[int, str]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """``own``, ``others``: addresses of this node and of its cluster's others; ``nodes``: of all clusters, and whose.

    ``api_server``: addresses and ports. ``pods``: networks.
    """

    own: tuple[Address, ...] = ()
    others: tuple[Address, ...] = ()
    nodes: Mapping[Address, str] = field(default_factory=dict)
    pods: Networks = field(default_factory=dict)
    api_server: frozenset[tuple[Address, int]] = frozenset()

    def whose(self, address: Address) -> str:
        """What ``address`` is already, as the end of a sentence; empty: nothing that we know of."""
        ip = to_ip(address)
        if ip.is_loopback or ip.is_link_local or ip.is_unspecified:
            return "is an address of this machine or link"
        if ip.is_multicast or (ip.version == 4 and ip.is_reserved):
            return "is no host's address"
        if any(address == server for server, _ in self.api_server):
            return "is the API server"
        if address in self.nodes:
            return f"is node {self.nodes[address]}"
        for (version, length), known in self.pods.items():
            owner = known.get(int(ip) >> (ip.max_prefixlen - length)) if version == ip.version else None
            if owner is not None:
                return f"is an address of pods of {owner}"
        return ""


def surroundings(
    nodes: Iterable[Node],
    own: tuple[str, str],
    pods: Sequence[Network] = (),
    api_server: Collection[tuple[Address, int]] = (),
) -> Surroundings:
    """``nodes`` of all clusters as all sources know them; ``own``: our cluster and node. ``pods``: networks of pods besides
    those that nodes name."""
    cluster, name = own
    here: set[Address] = set()
    others: set[Address] = set()
    named: dict[Address, str] = {}
    networks: dict[tuple[int, int], dict[int, str]] = {}
    for network in pods:
        _add(networks, network, "this node")
    for node in nodes:
        if node.state is NodeState.REFUSED:
            continue
        for address in node.addresses:
            named[address] = str(node)
            if node.cluster == cluster:
                (here if node.name == name else others).add(address)
        extra = [ip_network(to_ip(address)) for address in node.extra]
        for network in (*map(ip_network, node.pod_cidrs), *extra):
            _add(networks, network, f"node {node}")
    return Surroundings(
        tuple(sorted(here)), tuple(sorted(others - here)), named, networks, frozenset(api_server)
    )


def _add(networks: dict[tuple[int, int], dict[int, str]], network: Network, owner: str) -> None:
    length = network.prefixlen
    first_bits = int(network.network_address) >> (network.max_prefixlen - length)
    networks.setdefault((network.version, length), {})[first_bits] = owner
