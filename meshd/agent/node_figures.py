"""How many nodes there are, by cluster and state, and how often one was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from meshd.servers.introspection import Figure, Sample
from meshd.sources.node_registry import NodeRegistry
from meshd.state import Mesh


def node_figures(mesh: Mesh, registry: NodeRegistry) -> Sequence[Figure]:
    """Of all nodes that speak for themselves."""
    counts = Counter((node.cluster, node.state.value) for node in mesh.nodes.values() if node.is_of_etcd)
    nodes = [
        Sample(float(count), {"cluster": cluster, "state": state})
        for (cluster, state), count in sorted(counts.items())
    ]
    refusals = [
        Sample(float(count), {"cluster": cluster}) for cluster, count in sorted(registry.refusals.items())
    ]
    return [
        Figure("nodes", "Other nodes, by the state of their records.", "gauge", tuple(nodes)),
        Figure("node_records_refused", "Records that claimed what is others'.", "counter", tuple(refusals)),
    ]
