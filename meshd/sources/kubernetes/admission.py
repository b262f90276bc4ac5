"""Which service is dialled at an address that is no ClusterIP: granted, or refused with a reason that its status shows.

Whoever may write Services in one namespace could otherwise take traffic that is meant for others (CVE-2020-8554): external
addresses only inside a list that the operator gives, nothing that is somebody's already, and of two services the older one.
What is refused is left to the network, as if nobody had claimed it. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from meshd.model import Address, Frontend, Protocol, Service, ServiceName, format_address, is_ipv4
from meshd.model.address import to_ip
from meshd.sources.kubernetes.claims import Claim, Kind
from meshd.sources.kubernetes.surroundings import Network, Surroundings

# What one service only can have.
Place = tuple[Address, int, Protocol]
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator lets services have.

    ``external``: where externalIPs may be. ``node_ports``: answered at the addresses of all nodes, of this one, or of none
    (all, own, none); ``node_port_rows``: at those of other nodes at most so many, else at this one's only.
    """

    external: tuple[Network, ...] = ()
    node_ports: str = "all"
    node_port_rows: int = 16384


class Granted(NamedTuple):
    """What a service is dialled at besides its ClusterIPs; ``refused``: what is not answered of it, as sentences."""

    frontends: tuple[Frontend, ...] = ()
    refused: tuple[str, ...] = ()


class Claimant(NamedTuple):
    """A service as far as it has or claims addresses. ``created``: RFC 3339 in UTC, which sorts as text."""

    created: str
    claims: tuple[Claim, ...]
    cluster_ips: tuple[Address, ...]


class Admission:
    """Every service with an address. What changes something says which other services it concerns."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._around = Surroundings()
        self._services: dict[ServiceName, Claimant] = {}
        self._cluster_ips: dict[Address, ServiceName] = {}
        self._at_place: dict[Place, set[ServiceName]] = {}
        self._at_address: dict[Address, set[ServiceName]] = {}
        self._node_ports: dict[ServiceName, int] = {}
        self._node_ports_in_all = 0

    def put(self, service: Service, created: str, claims: tuple[Claim, ...]) -> set[ServiceName]:
        """``service`` is new or changed. Who else is concerned."""
        left_out = self.leaves_out_other_nodes
        concerned = self._drop(service.name)
        cluster_ips = tuple(dict.fromkeys(frontend.address for frontend in service.frontends))
        for address in cluster_ips:
            self._cluster_ips[address] = service.name
            concerned |= self._at_address.get(address, set())
        if claims or cluster_ips:
            self._services[service.name] = Claimant(created, claims, cluster_ips)
        for claim in claims:
            if claim.address is not None:
                place = claim.address, claim.port, claim.protocol
                concerned |= self._at_place.setdefault(place, set())
                self._at_place[place].add(service.name)
                self._at_address.setdefault(claim.address, set()).add(service.name)
        self._count_node_ports(service.name, sum(claim.address is None for claim in claims))
        return (concerned | self._if_changed(left_out)) - {service.name}

    def remove(self, name: ServiceName) -> set[ServiceName]:
        """There is no service of that name any more. Who else is concerned."""
        left_out = self.leaves_out_other_nodes
        concerned = self._drop(name)
        self._count_node_ports(name, 0)
        return (concerned | self._if_changed(left_out)) - {name}

    def surround(self, around: Surroundings) -> set[ServiceName]:
        """Nodes, networks or API servers are these. Who is concerned: all that claim something, if they were others."""
        if around == self._around:
            return set()
        self._around = around
        return {name for name, claimant in self._services.items() if claimant.claims}

    @property
    def leaves_out_other_nodes(self) -> str:
        """Why node ports of other nodes are not answered here although they should be; empty: they are."""
        rows = self._node_ports_in_all * len(self._around.others)
        most = self._policy.node_port_rows
        if self._policy.node_ports != "all" or rows <= most:
            return ""
        return (
            f"node ports are answered here at this node's addresses only: {self._node_ports_in_all} ports at the "
            f"{len(self._around.others)} addresses of other nodes are {rows} rows, and {most} are allowed"
        )

    def granted(self, name: ServiceName) -> Granted:
        """What becomes of the claims of service ``name``."""
        claimant = self._services.get(name)
        frontends: dict[Place, Frontend] = {}
        refused: dict[str, None] = {}
        for claim in claimant.claims if claimant is not None else ():
            for frontend in self._frontends(claim):
                reason = self._reason_against(name, claim, frontend)
                if reason:
                    address = format_address(frontend.address)
                    refused[f"{claim.kind.value}: {address} {reason}; left to the network"] = None
                else:
                    frontends.setdefault((frontend.address, frontend.port, frontend.protocol), frontend)
        return Granted(tuple(frontends.values()), tuple(refused))

    def _frontends(self, claim: Claim) -> Iterator[Frontend]:
        if claim.address is not None:
            yield claim.at(claim.address)
        elif self._policy.node_ports != "none":
            everywhere = self._policy.node_ports == "all" and not self.leaves_out_other_nodes
            for address in (*self._around.own, *(self._around.others if everywhere else ())):
                if is_ipv4(address) == (claim.version == 4):
                    yield claim.at(address)

    def _reason_against(self, name: ServiceName, claim: Claim, frontend: Frontend) -> str:
        address = frontend.address
        if claim.kind is Kind.NODE_PORT:
            taken = (address, frontend.port) in self._around.api_server
            return f"port {frontend.port} is the API server's" if taken else ""
        if not self._allows(claim):
            return "is not in kubernetes.externalIPs.allowed"
        if address in self._cluster_ips:
            return f"is the ClusterIP of {self._cluster_ips[address]}"
        reason = self._around.whose(address)
        if reason:
            return reason
        oldest = self._oldest((address, frontend.port, frontend.protocol))
        if oldest != name:
            return f"port {frontend.port}/{frontend.protocol.name} is answered for {oldest}, which is older"
        return ""

    def _oldest(self, place: Place) -> ServiceName:
        """Whose ``place`` is. What else speaks against one claimant speaks against all, but for the list of the operator."""
        able = (
            name
            for name in self._at_place[place]
            if any(
                (claim.address, claim.port, claim.protocol) == place and self._allows(claim)
                for claim in self._services[name].claims
            )
        )
        return min(able, key=lambda name: (self._services[name].created, name))

    def _allows(self, claim: Claim) -> bool:
        if claim.kind is not Kind.EXTERNAL_IP or claim.address is None:
            return True
        ip = to_ip(claim.address)
        return any(ip in network for network in self._policy.external if network.version == ip.version)

    def _drop(self, name: ServiceName) -> set[ServiceName]:
        """Whom it concerned that ``name`` was there."""
        gone = self._services.pop(name, None)
        concerned: set[ServiceName] = set()
        for address in gone.cluster_ips if gone is not None else ():
            if self._cluster_ips.get(address) == name:
                del self._cluster_ips[address]
                concerned |= self._at_address.get(address, set())
        for claim in gone.claims if gone is not None else ():
            if claim.address is not None:
                concerned |= _discard(self._at_place, (claim.address, claim.port, claim.protocol), name)
                _discard(self._at_address, claim.address, name)
        return concerned

    def _count_node_ports(self, name: ServiceName, count: int) -> None:
        self._node_ports_in_all += count - self._node_ports.pop(name, 0)
        if count:
            self._node_ports[name] = count

    def _if_changed(self, left_out: str) -> set[ServiceName]:
        return set(self._node_ports) if bool(left_out) != bool(self.leaves_out_other_nodes) else set()


def _discard(index: dict[K, set[ServiceName]], key: K, name: ServiceName) -> set[ServiceName]:
    """Takes ``name`` out of ``index``; who is left there."""
    left = index.get(key, set())
    left.discard(name)
    if not left:
        index.pop(key, None)
    return set(left)
