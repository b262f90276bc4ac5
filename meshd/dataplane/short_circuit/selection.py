"""Whose connections may be short-circuited. Pure."""

from __future__ import annotations

from meshd.model import Workload
from meshd.state import Mesh


def is_selected(mesh: Mesh, workload: Workload | None, *, default: bool) -> bool:
    """The workload's own word, its namespace's, else ``default``."""
    if workload is None:
        return False
    if workload.short_circuit is not None:
        return workload.short_circuit
    namespace = mesh.namespace(workload.namespace)
    said = namespace.short_circuit if namespace is not None else None
    return default if said is None else said
