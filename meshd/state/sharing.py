"""Whether a service belongs to all clusters: said by the service, by its namespace, or by neither."""

from __future__ import annotations

from meshd.model import Service
from meshd.state.mesh import Mesh


def is_global(mesh: Mesh, service: Service) -> bool:
    """Whether backends of remote clusters count for ``service``, and its own may be shared with them.

    A namespace that says no is obeyed, whatever its services say (as in Cilium, CFP-39876); one that says yes speaks
    for the services that say nothing.
    """
    namespace = mesh.namespace(service.name.namespace)
    by_namespace = namespace.global_services if namespace else None
    if by_namespace is False or service.is_global is False:
        return False
    return service.is_global is True or by_namespace is True
