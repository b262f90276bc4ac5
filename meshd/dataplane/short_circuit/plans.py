"""What the short circuit wants in the kernel, by kind of plan key, and which of its rows nobody wants any more."""

from __future__ import annotations

from collections.abc import Mapping

from meshd.dataplane.delta import Delta
from meshd.dataplane.feature import Context, Rule
from meshd.dataplane.pod_network.plans import SETTINGS, is_short_circuited, links_of
from meshd.dataplane.rows import Plan
from meshd.dataplane.short_circuit import selected_rows
from meshd.dataplane.short_circuit.rows import Layouts, layouts
from meshd.model.attachment import CNI
from meshd.state import Mesh, PlanKey


def rules(context: Context) -> Mapping[str, Rule]:
    """Kind of plan key -> rule."""
    made = layouts(context.btf)
    return {
        "workload": lambda mesh, name: _workload(context, made, mesh, name),
        "devices": lambda _, name: _node(context, made) if name == SETTINGS.name else Plan({}),
    }


def _workload(context: Context, made: Layouts, mesh: Mesh, name: str) -> Plan:
    links = links_of(mesh, name)
    if not links or not is_short_circuited(context, mesh, name):
        return Plan({})
    return selected_rows.plan(made, links, context.netns_id(name))


def _node(context: Context, made: Layouts) -> Plan:
    if not context.config.short_circuit.default:
        return Plan({})
    return selected_rows.plan_of_node(made, context.devices.now.addresses, context.node_cookie)


def unwanted(context: Context, mesh: Mesh, delta: Delta, failed: set[PlanKey]) -> dict[str, set[bytes]]:
    """Map -> rows to delete now; nothing that one of the ``failed`` keys may want."""
    kinds = {key.kind for key in failed}
    if kinds & {"workload", "devices"} or not mesh.is_complete(CNI) or not context.devices.now.looked:
        return {}
    return {"short_circuit_workloads": {key for key, _ in delta.unowned("short_circuit_workloads")}}
