"""What the hooks noted of connections to the backends of one node (map `attempts`, bpf/lib/absence.h)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meshd.dataplane.layouts import AttemptsRow, Endpoint, Layouts
from meshd.dataplane.out_of_reach import pod_ranges
from meshd.kernel.maps import Map
from meshd.model import Protocol
from meshd.model.cluster import REMOTE_PREFIX
from meshd.state import Mesh

# Rows of a node that are looked up, a microsecond or two each.
ROWS_MOST = 512

Noted = Mapping[bytes, AttemptsRow | None]
"""Packed backend -> its row; None: it has none."""


class Attempts:
    """Reads only what it is asked for: the map knows everybody, and nothing is copied out of it while all nodes answer."""

    def __init__(self, mesh: Mesh, layouts: Layouts, attempts: Map) -> None:
        self._mesh = mesh
        self._layouts = layouts
        self._attempts = attempts
        self._revision = -1
        # (cluster, node) -> packed backends, as of that revision.
        self._backends: dict[tuple[str, str], list[bytes]] = {}

    def of(self, cluster: str, node: str) -> Noted:
        """The rows of the backends that remote ``cluster`` names on ``node``; of very many the first.

        Raises:
            KernelError: the map cannot be read.
        """
        if self._mesh.revision != self._revision:
            self._revision = self._mesh.revision
            self._backends.clear()
        if (cluster, node) not in self._backends:
            self._backends[cluster, node] = sorted(set(self._on(cluster, node)))[:ROWS_MOST]
        return {each: self._row(each) for each in self._backends[cluster, node]}

    def _row(self, backend: bytes) -> AttemptsRow | None:
        found = self._attempts.lookup(backend)
        return self._layouts.attempts.decode(found) if found is not None else None

    def _on(self, cluster: str, name: str) -> Iterator[bytes]:
        source = REMOTE_PREFIX + cluster
        node = self._mesh.nodes.get((source, cluster, name))
        ranges = list(pod_ranges(node)) if node is not None else []
        for part in self._mesh.slices.values():
            if part.source != source:
                continue
            for backend in part.backends:
                if any(first <= backend.address <= last for first, last in ranges):
                    for port in backend.ports:
                        if port.protocol is Protocol.TCP:
                            endpoint = Endpoint(backend.address, port.port, port.protocol)
                            yield self._layouts.endpoint.encode(endpoint)
