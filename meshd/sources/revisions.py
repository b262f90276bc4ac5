"""Changes of a source as revisions of the mesh: one, or, if they are very many, several with turns for others between."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable

from meshd.model import BackendSlice, Cluster, Identity, Namespace, Node, Outage, Service, Workload
from meshd.state import Mesh
from meshd.state.mesh import Object

# How many objects make one revision at most.
REVISION_OBJECTS = 250


async def apply(
    mesh: Mesh, source: str, puts: Iterable[Object], deletes: Iterable[tuple[type, Hashable]]
) -> None:
    """Puts before deletes, so that an object that moved between two names is never in neither."""
    puts, deletes = list(puts), list(deletes)
    if len(puts) + len(deletes) <= REVISION_OBJECTS:
        mesh.apply(source, puts, deletes)
        return
    puts.sort(key=_make_before_use)
    for begin in range(0, len(puts), REVISION_OBJECTS):
        mesh.apply(source, puts[begin : begin + REVISION_OBJECTS])
        await asyncio.sleep(0)
    for begin in range(0, len(deletes), REVISION_OBJECTS):
        mesh.apply(source, deletes=deletes[begin : begin + REVISION_OBJECTS])
        await asyncio.sleep(0)


def _make_before_use(value: Object) -> tuple[int, str, str, int]:
    """Namespaces and nodes first, then each service behind its backends."""
    match value:
        case Namespace(name=name) | Node(name=name) | Cluster(name=name) | Outage(node=name):
            return 0, name, "", 0
        case BackendSlice(service=service):
            return 1, service.namespace, service.name, 0
        case Service(name=service):
            return 1, service.namespace, service.name, 1
        case Workload() | Identity():
            return 2, value.name, "", 0
