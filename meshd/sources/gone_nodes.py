"""Stale nodes go when Kubernetes does not have them any more.

A record in etcd vanishes also when an agent is only away for long, so it alone takes nobody's way to that node's pods. That
somebody deleted the Node object says what the record cannot: the machine is gone.
"""

from __future__ import annotations

import structlog

from meshd.model import Node, NodeState
from meshd.model.cluster import ETCD, KUBERNETES
from meshd.state import Compacted, Mesh, SourceState

log = structlog.get_logger(__name__)


def gone_nodes(mesh: Mesh, cluster: str, name: str) -> list[Node]:
    """The stale nodes of ``cluster`` that Kubernetes does not name; ``name`` is this node.

    Nothing is concluded from a list that is not complete or not current, nor from one that this node is missing from: that
    is another cluster's, or its nodes are called otherwise there.
    """
    source = mesh.sources.get(KUBERNETES)
    if source is None or source.state is not SourceState.COMPLETE:
        return []
    if (KUBERNETES, cluster, name) not in mesh.nodes:
        return []
    return [
        node
        for node in mesh.nodes.values()
        if node.source == ETCD
        and node.cluster == cluster
        and node.state is NodeState.STALE
        and (KUBERNETES, cluster, node.name) not in mesh.nodes
    ]


class GoneNodes:
    """For clusters all of whose nodes are nodes of Kubernetes."""

    def __init__(self, mesh: Mesh, cluster: str, name: str) -> None:
        self._mesh = mesh
        self._cluster = cluster
        self._name = name
        self._revision = -1
        self._state: SourceState | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            moved = self._mesh.moved_event()
            if self._is_another():
                self._take_away()
            await moved.wait()

    def _is_another(self) -> bool:
        """Whether what is concluded from may be another than before: the mesh moves for every backend."""
        source = self._mesh.sources.get(KUBERNETES)
        state = source.state if source is not None else None
        try:
            changed = state is not self._state or bool(self._mesh.nodes.changes(self._revision))
        except Compacted:
            changed = True
        self._state, self._revision = state, self._mesh.revision
        return changed

    def _take_away(self) -> None:
        for node in gone_nodes(self._mesh, self._cluster, self._name):
            log.info("stale node gone, Kubernetes has no Node of it", node=str(node))
            self._mesh.apply(ETCD, deletes=[(Node, node.key)])
