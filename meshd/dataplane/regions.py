"""In which region a backend is: in that of its node, as far as anybody says where that is. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from meshd.dataplane.out_of_reach import pod_ranges
from meshd.model import Address, Backend, Node, NodeState
from meshd.model.cluster import ETCD, OWN_NODE
from meshd.state import Compacted, Mesh
from meshd.state.mesh import PRECEDENCE

# Who is asked first about a node that several name.
_SOURCES = (OWN_NODE, *PRECEDENCE, ETCD)


class Regions:
    """Of the nodes of one mesh. A backend is on the node that it names, or else on that whose address, or pod's, it has."""

    def __init__(self) -> None:
        self._revision = -1
        # Cluster and node -> region.
        self._by_name: dict[tuple[str, str], str] = {}
        # Cluster -> first and last address of ranges and the region of each, ascending.
        self._ranges: dict[str, tuple[list[Address], list[tuple[Address, str]]]] = {}

    def of(self, mesh: Mesh, cluster: str, backend: Backend) -> str:
        """The region of a backend that runs in ``cluster``; empty: it is not known."""
        self._look(mesh)
        if backend.node:
            named = self._by_name.get((cluster, backend.node), "")
            if named:
                return named
        firsts, behind = self._ranges.get(cluster, ([], []))
        place = bisect_right(firsts, backend.address) - 1
        if place < 0:
            return ""
        last, region = behind[place]
        return region if backend.address <= last else ""

    def _look(self, mesh: Mesh) -> None:
        if mesh.revision == self._revision:
            return
        seen, self._revision = self._revision, mesh.revision
        try:
            if seen >= 0 and not mesh.nodes.changes(seen):
                return
        except Compacted:
            pass  # looked at anew, as after any change
        nodes = [node for node in mesh.nodes.values() if node.region and node.state is not NodeState.REFUSED]
        nodes.sort(key=_rank, reverse=True)
        self._by_name = {(node.cluster, node.name): node.region for node in nodes}
        found: dict[str, set[tuple[Address, Address, str]]] = {}
        for node in nodes:
            region = self._by_name[node.cluster, node.name]
            found.setdefault(node.cluster, set()).update((*each, region) for each in _ranges_of(node))
        self._ranges = {
            cluster: (
                [first for first, _, _ in sorted(ranges)],
                [(last, region) for _, last, region in sorted(ranges)],
            )
            for cluster, ranges in found.items()
        }


def _rank(node: Node) -> int:
    return _SOURCES.index(node.source) if node.source in _SOURCES else len(_SOURCES)


def _ranges_of(node: Node) -> Iterable[tuple[Address, Address]]:
    yield from pod_ranges(node)
    yield from ((address, address) for address in node.addresses)
