"""What is planned of `destinations`: each node of the clusters by itself, and this node with its configuration."""

from __future__ import annotations

from collections.abc import Mapping

from meshd.dataplane.delta import Delta
from meshd.dataplane.feature import Context, Rule
from meshd.dataplane.layouts import source_number
from meshd.dataplane.pod_network import destinations
from meshd.dataplane.pod_network.other_nodes import node_of
from meshd.dataplane.rows import Plan, Rows
from meshd.model.cluster import OWN_NODE
from meshd.state import Mesh, PlanKey

# Touched when this node's addresses are others than before.
OWN = PlanKey("destinations", "this node")

# Another node publishes what one that is gone had: whoever is planned first waits for the other to let go.
CONTESTED = frozenset({"destinations"})


def rules(context: Context) -> Mapping[str, Rule]:
    """Kind of plan key -> rule."""
    made = destinations.layouts(context.btf)
    config = context.config

    def own() -> Rows:
        options = config.pod_network
        return destinations.of_this_node(
            made,
            context.devices.now,
            config.cni.pod_cidrs,
            options.masquerade_excluded,
            options.via_stack,
            context.devices.strangers,
        )

    def node(mesh: Mesh, name: str) -> Plan:
        found = node_of(mesh, config, name)
        reached = context.devices.ways.reached(found) if found is not None else None
        if found is None or reached is None:
            return Plan({"destinations": {}})
        rows = destinations.of_node(made, found, reached)["destinations"]
        # What the configuration says of the very same prefix counts more.
        said = own()["destinations"]
        return Plan({"destinations": {key: value for key, value in rows.items() if key not in said}})

    return {"node": node, OWN.kind: lambda _mesh, _name: Plan(own())}


def unwanted(context: Context, mesh: Mesh, delta: Delta, failed: set[PlanKey]) -> set[bytes]:
    """Rows to delete now: nobody wants them, and their source has spoken since the start."""
    if context.devices.ways.here is None or {"node", OWN.kind} & {key.kind for key in failed}:
        return set()
    made = destinations.layouts(context.btf)
    names = context.held.source_names | {source_number(name): name for name in (*mesh.sources, OWN_NODE)}
    return {
        key
        for key, value in delta.unowned("destinations")
        if mesh.is_complete(names.get(made.value.decode(value).source, ""))
    }
