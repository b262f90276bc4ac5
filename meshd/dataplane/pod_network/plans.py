"""What the pod network wants in the kernel, by kind of plan key, and which of its rows nobody wants any more."""

from __future__ import annotations

from collections.abc import Mapping

from meshd.dataplane.delta import Delta
from meshd.dataplane.feature import Context, Rule
from meshd.dataplane.pod_network import destination_plans, rows
from meshd.dataplane.rows import Plan
from meshd.dataplane.short_circuit.selection import is_selected
from meshd.model.attachment import CNI
from meshd.model.workload import IDENTITIES, PodLink
from meshd.state import Mesh, PlanKey

# Touched when a look at this node's devices found something else than the one before.
UPLINKS, SETTINGS = PlanKey("devices", "uplinks"), PlanKey("devices", "settings")


def rules(context: Context) -> Mapping[str, Rule]:
    """Kind of plan key -> rule. The mesh says who is a pod, the devices what leads out of the node."""
    made = rows.layouts(context.btf)
    return {
        **destination_plans.rules(context),
        "workload": lambda mesh, name: Plan(
            rows.pods(
                made,
                links_of(mesh, name),
                identity=identity_of(mesh, name),
                short_circuit=is_short_circuited(context, mesh, name),
            )
        ),
        "devices": lambda _, name: Plan(
            rows.uplinks(made, context.devices.now)
            if name == UPLINKS.name
            else rows.settings(made, context.devices.now)
        ),
    }


def is_short_circuited(context: Context, mesh: Mesh, name: str) -> bool:
    """Whether the workload ``namespace/name`` is selected for the short circuit."""
    options = context.config.short_circuit
    return options.enabled and is_selected(mesh, context.workload(mesh, name)[0], default=options.default)


def links_of(mesh: Mesh, name: str) -> tuple[PodLink, ...]:
    """The links of the workload ``namespace/name``, which nobody but the runtime that made it knows."""
    namespace, _, pod = name.partition("/")
    workload = mesh.workloads.get((CNI, namespace, pod))
    return workload.links if workload is not None else ()


def identity_of(mesh: Mesh, name: str) -> int:
    """Who the workload ``namespace/name`` is in tunnels; until that is known, one of those of whom it is not."""
    namespace, _, pod = name.partition("/")
    identity = mesh.identities.get((IDENTITIES, namespace, pod))
    return identity.number if identity is not None else rows.UNMANAGED


def unwanted(context: Context, mesh: Mesh, delta: Delta, failed: set[PlanKey]) -> dict[str, set[bytes]]:
    """Map -> rows to delete now; nothing that one of the ``failed`` keys may want.

    Pods are what the runtime's list says. The settings are an array, of which nothing can be deleted.
    """
    kinds = {key.kind for key in failed}
    found: dict[str, set[bytes]] = {}
    if mesh.is_complete(CNI) and "workload" not in kinds:
        found["pods"] = {key for key, _ in delta.unowned("pods")}
    if context.devices.now.looked and "devices" not in kinds:
        found["uplinks"] = {key for key, _ in delta.unowned("uplinks")}
    found["destinations"] = destination_plans.unwanted(context, mesh, delta, failed)
    return found
