"""Which nodes are asked whether they are there. Pure.

Those of remote clusters that carry a backend which a service here may use, because only their silence would change anything;
and the nodes of this cluster, and what the configuration names, whose answers prove that this node hears at all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from meshd.dataplane.out_of_reach import pod_ranges
from meshd.model import Address, Node, NodeState, is_ipv4
from meshd.model.cluster import ETCD, REMOTE_PREFIX
from meshd.state import Mesh, sharing

# Where Cilium's nodes listen for each other's probes; ours need nobody there, because an RST is an answer, too.
PORT = 4240


@dataclass(frozen=True, slots=True, order=True)
class Asked:
    """``cluster`` and ``node`` empty: an address of the configuration. ``is_reference``: only to know that we hear."""

    cluster: str
    node: str
    address: Address
    is_reference: bool

    def __str__(self) -> str:
        return f"{self.cluster}/{self.node}"


def asked(mesh: Mesh, own: Iterable[Address], references: Iterable[Address]) -> list[Asked]:
    """Whom to ask, each once. ``own``: our own health addresses, so of which families there can be an answer."""
    families = {is_ipv4(address) for address in own}
    found = {Asked("", "", address, True) for address in references}
    for node in mesh.nodes.values():
        if node.source == ETCD and (address := _address(node, families)) is not None:
            found.add(Asked(node.cluster, node.name, address, True))
    for node in _carrying(mesh):
        if (address := _address(node, families)) is not None:
            found.add(Asked(node.cluster, node.name, address, False))
    return sorted(found)


def _address(node: Node, families: set[bool]) -> Address | None:
    if node.state is NodeState.REFUSED:
        return None
    return next((each for each in node.health if is_ipv4(each) in families), None)


def _carrying(mesh: Mesh) -> Iterator[Node]:
    """Nodes of remote clusters with a backend that may be used here."""
    used: dict[str, set[Address]] = {}
    for part in mesh.slices.values():
        service = mesh.service(part.service) if part.source.startswith(REMOTE_PREFIX) else None
        if service is not None and sharing.is_global(mesh, service):
            used.setdefault(part.source, set()).update(backend.address for backend in part.backends)
    for source, addresses in used.items():
        ordered = sorted(addresses)
        for node in mesh.nodes.values():
            if node.source == source and any(_is_any_in(ordered, *each) for each in pod_ranges(node)):
                yield node


def _is_any_in(ordered: list[Address], first: Address, last: Address) -> bool:
    place = bisect_right(ordered, last)
    return place > 0 and ordered[place - 1] >= first
