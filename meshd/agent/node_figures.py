"""How many nodes there are, by cluster and state, how often one was refused, and which of them answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from meshd.dataplane.probes.node_probes import Answering, NodeProbes
from meshd.model import Reachability
from meshd.servers.introspection import Figure, Sample
from meshd.sources.node_registry import NodeRegistry
from meshd.state import Mesh


def probe_figures(probes: NodeProbes) -> Sequence[Figure]:
    """Of nodes that are asked whether they are there."""
    asked = [each for each in probes.answering() if each.node]

    def of_each(value: Callable[[Answering], float]) -> tuple[Sample, ...]:
        return tuple(Sample(value(each), {"cluster": each.cluster, "node": each.node}) for each in asked)

    return [
        Figure(
            "node_reachable",
            "Of nodes that are probed: 1 while they answer, 0 while they are down or never answered.",
            "gauge",
            of_each(lambda each: float(each.reachability is Reachability.UP)),
        ),
        Figure(
            "node_probe_rtt_seconds",
            "Smoothed round-trip time of probes of a node (RFC 6298).",
            "gauge",
            of_each(lambda each: each.rtt_s),
        ),
        Figure(
            "node_probe_loss_ratio",
            "Share of probes of the last ten seconds that a node did not answer.",
            "gauge",
            of_each(lambda each: each.loss),
        ),
        Figure(
            "node_outages",
            "How often a node was found to be down.",
            "counter",
            (Sample(float(probes.falls)),),
        ),
    ]


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
