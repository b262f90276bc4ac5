"""What a peer may be: its id, and the networks in which everything lies that it may name.

Whoever joined the clusters wrote it beside the peer's endpoints, or it was learned from what the peer said first
(learned_pin.py); the peer itself cannot change it. So not even a peer whose etcd somebody else writes to can name addresses
that another cluster has, or that none of the mesh has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from clustermesh.address_record import AddressRecord
from clustermesh.addresses import Address, Network, to_text
from clustermesh.endpoint_slice import EndpointSlice
from clustermesh.errors import InvalidRecord, OptionsError
from clustermesh.node_record import Node
from clustermesh.records import ClusterService

KEY = "meshd.io/pin"
"""In the peer's etcd client file; Cilium passes it over."""
# Of nodes: by these others reach them. The other kinds are names, or mean something inside the peer only.
REACHED_BY = frozenset({"InternalIP", "ExternalIP", "CiliumInternalIP"})


@dataclass(frozen=True, slots=True)
class Pin:
    """``cluster_id`` 0: any. ``networks`` empty: any address. ``is_learned``: nobody has confirmed it."""

    cluster_id: int = 0
    networks: tuple[Network, ...] = ()
    is_learned: bool = False

    def allows(self, record: ClusterService | EndpointSlice | Node | AddressRecord) -> bool:
        """Whether a peer with this pin may say ``record``."""
        try:
            match record:
                case ClusterService():
                    self.service("", record)
                case EndpointSlice():
                    self.endpoint_slice("", record)
                case Node():
                    self.node("", record)
                case AddressRecord():
                    self.address("", record)
        except InvalidRecord:
            return False
        return True

    def config_problem(self, cluster_id: int) -> str | None:
        """Why a peer that says it has ``cluster_id`` is not the one that was joined; None: it may be."""
        if self.cluster_id in {0, cluster_id}:
            return None
        first = "its first" if self.is_learned else "it was joined as"
        return f"its cluster id is {cluster_id}, {first} {self.cluster_id}"

    def service(self, key: str, service: ClusterService) -> ClusterService:
        """``service``; InvalidRecord if a backend of it lies elsewhere."""
        self._check_addresses(key, "backends", service.backends)
        return service

    def endpoint_slice(self, key: str, one: EndpointSlice) -> EndpointSlice:
        """``one``; InvalidRecord if a backend of it lies elsewhere."""
        self._check_addresses(key, "endpoints", one.backends)
        return one

    def node(self, key: str, node: Node) -> Node:
        """``node``; InvalidRecord if an address or a pod CIDR of it lies elsewhere."""
        reached = (each.ip for each in node.addresses if each.kind in REACHED_BY)
        self._check_addresses(key, "IPAddresses", reached)
        own = (
            node.ipv4_network,
            node.ipv6_network,
            *node.ipv4_secondary_networks,
            *node.ipv6_secondary_networks,
        )
        for network in own:
            if network is not None:
                self._check_network(key, "AllocCIDR", network)
        return node

    def address(self, key: str, record: AddressRecord) -> AddressRecord:
        """``record``; InvalidRecord if it, or the node it is on, lies elsewhere."""
        self._check_network(key, "IP", record.network)
        if record.host is not None:
            self._check_addresses(key, "HostIP", (record.host,))
        return record

    def _check_addresses(self, key: str, where: str, addresses: Iterable[Address]) -> None:
        for address in addresses:
            if self.networks and not any(address in network for network in self.networks):
                raise InvalidRecord(key, where, f"{to_text(address)} is in no network {self._of_which}")

    def _check_network(self, key: str, where: str, network: Network) -> None:
        if self.networks and not any(within(network, wider) for wider in self.networks):
            raise InvalidRecord(key, where, f"{network} is in no network {self._of_which}")

    @property
    def _of_which(self) -> str:
        return "that the peer named first" if self.is_learned else "that the peer was joined with"


Forbids = Callable[[Address], str]
"""Why no backend of a peer may be at an address, whatever its pin says, as a phrase; "": one may."""


def nothing(_: Address) -> str:
    """Forbids nothing."""
    return ""


def check_backends(key: str, where: str, addresses: Iterable[Address], forbids: Forbids) -> None:
    """Returns if ``forbids`` none of ``addresses``.

    Raises:
        InvalidRecord: it forbids one.
    """
    for address in addresses:
        if reason := forbids(address):
            raise InvalidRecord(key, where, f"{to_text(address)} {reason}")


ANY = Pin()
"""Of a peer that was joined without one."""


def parse(document: Any) -> Pin:  # Any: YAML, judged here
    """The pin as it stands in a peer file: ``{cluster-id: 2, networks: [10.2.0.0/16]}``.

    Raises:
        OptionsError: it is something else; names the field.
    """
    if not isinstance(document, dict) or set(document) - {"cluster-id", "networks"}:
        raise OptionsError(f"{KEY}: expected cluster-id and networks")
    cluster_id, networks = document.get("cluster-id", 0), document.get("networks") or []
    if not isinstance(cluster_id, int) or isinstance(cluster_id, bool) or cluster_id < 0:
        raise OptionsError(f"{KEY}: cluster-id: expected a number")
    if not isinstance(networks, list):
        raise OptionsError(f"{KEY}: networks: expected a list")
    try:
        return Pin(cluster_id, tuple(ip_network(str(each)) for each in networks))
    except ValueError as error:
        raise OptionsError(f"{KEY}: networks: {error}") from error


def render(pin: Pin) -> dict[str, Any]:  # Any: YAML
    """What parse() reads."""
    return {"cluster-id": pin.cluster_id, "networks": [str(network) for network in pin.networks]}


def within(network: Network, wider: Network) -> bool:
    """Whether all of ``network`` lies in ``wider``."""
    return network.version == wider.version and network.subnet_of(wider)  # type: ignore[arg-type] # of one family, which types do not show
