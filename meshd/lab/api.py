"""What a lab needs of Kubernetes' control plane, per cluster: objects in a directory, and the endpoints of services.

What Kubernetes spreads over API server, kubelet and endpoint slice controller is here: objects are written as YAML files,
each replaced by a rename, and a pod's condition moves its services' EndpointSlices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from meshd.lab import objects
from meshd.lab.layout import Addresses, Cluster, Places
from meshd.lab.objects import Condition, Endpoint
from meshd.lab.record import Pod, replace_file
from meshd.lab.spec import ServiceSpec


class ClusterApi:
    """Writes the objects of one cluster. Nodes' meshd read them from ``places.manifests``."""

    def __init__(self, places: Places, cluster: Cluster, services: Mapping[int, ServiceSpec]) -> None:
        """``services``: those of this cluster, by their place among the lab's services."""
        self._directory = places.manifests(cluster.name)
        self._cluster = cluster
        self._services = services
        self._endpoints: dict[str, Endpoint] = {}

    def write_fixed(self, namespaces: Sequence[str]) -> None:
        """Namespaces, nodes and services, and for each service slices without an endpoint.

        The directory appears whole: until then a meshd sees a source that is missing, not one that is empty.
        """
        building = self._directory.with_name(".manifests")
        building.mkdir(mode=0o700, parents=True, exist_ok=True)
        target, self._directory = self._directory, building
        for name in namespaces:
            self._put(objects.namespace(name))
        for node in self._cluster.nodes:
            self._put(objects.node(node))
        for index, service in self._services.items():
            self._put(objects.service(service, self._cluster, index))
            self._put_slices(service)
        building.rename(target)
        self._directory = target

    def add_pod(self, pod: Pod, addresses: Addresses) -> None:
        """The pod exists. It is no endpoint before `set_condition`."""
        self._put(objects.pod(pod, addresses))
        self._endpoints[pod.name] = Endpoint(pod, addresses, Condition.STARTING)

    def set_condition(self, pods: Sequence[Pod], condition: Condition) -> None:
        """Moves ``pods`` to ``condition`` at once."""
        for pod in pods:
            old = self._endpoints[pod.name]
            self._endpoints[pod.name] = Endpoint(pod, old.addresses, condition)
        self._put_slices_of(pods)

    def remove_from_slices(self, pods: Sequence[Pod]) -> None:
        """Takes ``pods`` out of their services."""
        for pod in pods:
            self._endpoints.pop(pod.name, None)
        self._put_slices_of(pods)

    def remove_pod(self, pod: Pod, addresses: Addresses) -> None:
        """The Pod object goes."""
        (self._directory / objects.file_name(objects.pod(pod, addresses))).unlink(missing_ok=True)

    def _put_slices_of(self, pods: Sequence[Pod]) -> None:
        for service in self._services.values():
            if any(objects.selects(service, pod) for pod in pods):
                self._put_slices(service)

    def _put_slices(self, service: ServiceSpec) -> None:
        # A pod that has not become ready yet is left out, as if its container had no address yet.
        endpoints = [
            endpoint
            for endpoint in self._endpoints.values()
            if objects.selects(service, endpoint.pod) and endpoint.condition is not Condition.STARTING
        ]
        for item in objects.endpoint_slices(service, endpoints):
            self._put(item)

    def _put(self, item: objects.Object) -> None:
        content = yaml.safe_dump(item, sort_keys=False).encode()
        replace_file(self._directory / objects.file_name(item), content)
