"""What no remote cluster may name, whatever its pin says: addresses of this cluster, and those that are nobody's.

This cluster's are those of its nodes and their pods, what its services are dialled at, and its API servers. A backend there
would send clients of ours to ourselves, or have us send what only we may.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from ipaddress import ip_network
from typing import cast

from clustermesh.addresses import Address as IpAddress
from meshd.model import Address, BackendSlice, Node, NodeState, Service, ServiceName
from meshd.model.address import from_ip, to_ip
from meshd.model.cluster import REMOTE_PREFIX
from meshd.sources.claims import Network
from meshd.sources.node_claims import ranges_of
from meshd.state import Mesh
from meshd.state.mesh import Object

API_SERVER = ServiceName("default", "kubernetes")
"""The service that Kubernetes keeps of its own API servers."""

# Source, cluster, name; source, name.
NodeKey = tuple[str, str, str]
ServiceKey = tuple[str, ServiceName]
# First and last.
Range = tuple[Address, Address]

SPECIAL = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "unspecified": ("0.0.0.0/8", "::/128"),
}
"""They mean something on one host or link only, or nothing (RFC 6890)."""


class OwnAddresses:
    """Of cluster ``cluster`` as ``mesh`` knows it now. ``api_servers``: those that are configured.

    ``generation`` grows with every change.
    """

    def __init__(self, mesh: Mesh, cluster: str, api_servers: Iterable[Address] = ()) -> None:
        self._mesh = mesh
        self._cluster = cluster
        self._api_servers = frozenset(api_servers)
        self._ranges: dict[NodeKey, list[Range]] = {}
        # Both made of all ranges when they are asked for: firsts ascending, and of each the last and whose it is.
        self._firsts: list[Address] = []
        self._lasts: list[tuple[Address, str]] = []
        self._is_ranged = False
        self._frontends: dict[ServiceKey, frozenset[Address]] = {}
        # How many services are dialled there.
        self._services_at: Counter[Address] = Counter()
        self._ordered: dict[int, list[int]] = {}
        self._ordered_at = 0
        self.generation = 1
        self._take([*mesh.nodes.values(), *mesh.services.values()])
        mesh.observe(self._observe)

    def reason(self, said: IpAddress) -> str:
        """Why no remote cluster may name ``said``, as a phrase; empty: it may."""
        address = from_ip(said)
        if address in self._services_at:
            return f"is what a service of {self._cluster} is dialled at"
        if address in self._api_servers or address in self._of_api_servers():
            return f"is that of an API server of {self._cluster}"
        if not self._is_ranged:
            self._range()
        at = bisect_right(self._firsts, address) - 1
        if at >= 0 and address <= self._lasts[at][0]:
            return self._lasts[at][1]
        return ""

    def reason_of_network(self, network: Network) -> str:
        """Why no remote cluster may have ``network``, as a phrase; empty: nothing in it is ours, or nobody's."""
        if not self._is_ranged:
            self._range()
        first, last = from_ip(network.network_address), from_ip(network.broadcast_address)
        at = bisect_right(self._firsts, last) - 1
        if at >= 0 and self._lasts[at][0] >= first:
            return self._lasts[at][1]
        return self.reason_within(network)

    def _range(self) -> None:
        """Ranges nest or are apart: without those inside others, the neighbour in order decides."""
        found = [(first, last, f"is one of the {kind} addresses") for first, last, kind in _special()]
        for (_, cluster, name), ranges in self._ranges.items():
            found += [(first, last, f"belongs to node {cluster}/{name}") for first, last in ranges]
        self._firsts, self._lasts, self._is_ranged = [], [], True
        for first, last, reason in sorted(found, key=lambda each: (each[0], bytes(255 - n for n in each[1]))):
            if not self._lasts or first > self._lasts[-1][0]:
                self._firsts.append(first)
                self._lasts.append((last, reason))

    def reason_within(self, network: Network) -> str:
        """Why no remote cluster may have ``network`` for its nodes or pods, as a phrase; empty: it may, unless a node of
        ours has it, which is for those to say who keep the claims of all."""
        first, last = int(network.network_address), int(network.broadcast_address)
        dialled = self._in_order()[network.version]
        at = bisect_left(dialled, first)
        if at < len(dialled) and dialled[at] <= last:
            where = type(network.network_address)(dialled[at])
            return f"has {where}, which a service of {self._cluster} is dialled at"
        for address in (*self._api_servers, *self._of_api_servers()):
            ip = to_ip(address)
            if ip.version == network.version and first <= int(ip) <= last:
                return f"has {ip}, which is that of an API server of {self._cluster}"
        return ""

    def _in_order(self) -> dict[int, list[int]]:
        """What services are dialled at, as numbers by family, ascending."""
        if self._ordered_at != self.generation:
            ips = [to_ip(address) for address in self._services_at]
            self._ordered = {each: sorted(int(ip) for ip in ips if ip.version == each) for each in (4, 6)}
            self._ordered_at = self.generation
        return self._ordered

    def _of_api_servers(self) -> Iterator[Address]:
        for part in self._mesh.slices_of(API_SERVER):
            if not part.source.startswith(REMOTE_PREFIX):
                yield from (backend.address for backend in part.backends)

    def _observe(self, _: str, puts: list[Object], deletes: list[tuple[type, Hashable]]) -> None:
        for kind, key in deletes:
            if kind is Node:
                self._claim(cast("NodeKey", key), [])
            elif kind is Service:
                self._dial(cast("ServiceKey", key), frozenset())
        self._take(puts)

    def _take(self, objects: Iterable[Object]) -> None:
        for value in objects:
            if isinstance(value, Service):
                self._dial(value.key, frozenset(frontend.address for frontend in value.frontends))
            elif isinstance(value, Node):
                has = [*ranges_of(value), *((address, address) for address in value.extra)]
                self._claim(value.key, has if value.state is not NodeState.REFUSED else [])
            elif isinstance(value, BackendSlice) and value.service == API_SERVER:
                self.generation += 1

    def _claim(self, key: NodeKey, ranges: list[Range]) -> None:
        if key[1] == self._cluster and self._ranges.get(key, []) != ranges:
            self._ranges[key] = ranges
            if not ranges:
                del self._ranges[key]
            self._is_ranged = False
            self.generation += 1

    def _dial(self, service: ServiceKey, addresses: frozenset[Address]) -> None:
        before = self._frontends.pop(service, frozenset())
        for address in before - addresses:
            self._services_at[address] -= 1
            if not self._services_at[address]:
                del self._services_at[address]
        self._services_at.update(addresses - before)
        self.generation += before != addresses
        if addresses:
            self._frontends[service] = addresses


def _special() -> Iterator[tuple[Address, Address, str]]:
    for kind, cidrs in SPECIAL.items():
        for network in map(ip_network, cidrs):
            yield from_ip(network.network_address), from_ip(network.broadcast_address), kind
