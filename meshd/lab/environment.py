"""What the processes of a pod find in their environment, as Kubernetes puts it there."""

from __future__ import annotations

from meshd.lab.layout import Cluster, Places
from meshd.lab.record import Pod
from meshd.lab.spec import LabSpec


def environment(places: Places, spec: LabSpec, cluster: Cluster, pod: Pod) -> dict[str, str]:
    """Who the pod is, and the services of its cluster and namespace as NAME_SERVICE_HOST, _HOSTS (v4,v6) and _PORT."""
    variables = {
        "CLUSTER_NAME": pod.cluster,
        "NODE_NAME": pod.node,
        "POD_NAME": pod.name,
        "POD_NAMESPACE": pod.namespace,
        "POD_DIR": str(places.pod(pod.cluster, pod.name)),
    }
    for index, service in spec.services_of(pod.cluster).items():
        if service.namespace == pod.namespace:
            addresses = [str(address) for address in cluster.service_address(index)]
            prefix = service.name.upper().replace("-", "_")
            variables[f"{prefix}_SERVICE_HOST"] = addresses[0]
            variables[f"{prefix}_SERVICE_HOSTS"] = ",".join(addresses)
            variables[f"{prefix}_SERVICE_PORT"] = str(service.port)
    return variables
