"""Which backends of remote clusters are on nodes that do not answer. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import ip_network

from meshd.model import Address, Node
from meshd.model.address import from_ip
from meshd.model.cluster import REMOTE_PREFIX
from meshd.state import Mesh


class OutOfReach:
    """Addresses of pods of nodes that are down, of one mesh. Nodes do not share addresses, so their ranges do not overlap.

    A node's own addresses are none of them: what is asked is an address among its pods, over the way that pods use.
    """

    def __init__(self) -> None:
        self._revision = -1
        # Source of the nodes -> first addresses and last addresses of ranges, both ascending, and which are confirmed.
        self._ranges: dict[str, tuple[list[Address], list[Address], list[bool]]] = {}

    def has(self, mesh: Mesh, source: str, address: Address) -> bool:
        """Whether the backend at ``address``, which ``source`` names, is on a node that is down."""
        return self._of(mesh, source, address) is not None

    def is_confirmed(self, mesh: Mesh, source: str, address: Address) -> bool:
        """As `has`, and that is confirmed."""
        return bool(self._of(mesh, source, address))

    def _of(self, mesh: Mesh, source: str, address: Address) -> bool | None:
        """Whether it is confirmed that the node is down; None: it is not down."""
        if mesh.revision != self._revision:
            self._look(mesh)
        ranges = self._ranges.get(source)
        if ranges is None:
            return None
        firsts, lasts, confirmed = ranges
        place = bisect_right(firsts, address) - 1
        return confirmed[place] if place >= 0 and address <= lasts[place] else None

    def _look(self, mesh: Mesh) -> None:
        found: dict[str, list[tuple[Address, Address, bool]]] = {}
        self._revision = mesh.revision
        for outage in mesh.outages.values():
            source = REMOTE_PREFIX + outage.cluster
            node = mesh.nodes.get((source, outage.cluster, outage.node))
            if node is not None:
                confirmed = outage.confirmed
                found.setdefault(source, []).extend((*each, confirmed) for each in pod_ranges(node))
        self._ranges = {source: _split(ranges) for source, ranges in found.items()}


def pod_ranges(node: Node) -> Iterable[tuple[Address, Address]]:
    """First and last address of each range that pods of ``node`` have."""
    for cidr in node.pod_cidrs:
        network = ip_network(cidr)
        yield from_ip(network.network_address), from_ip(network.broadcast_address)
    yield from ((address, address) for address in node.extra)


def _split(
    ranges: Iterable[tuple[Address, Address, bool]],
) -> tuple[list[Address], list[Address], list[bool]]:
    ordered = sorted(ranges)
    return (
        [first for first, _, _ in ordered],
        [last for _, last, _ in ordered],
        [each for _, _, each in ordered],
    )
