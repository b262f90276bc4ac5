"""The services a bench programs: as many as wanted, all alike; one route and one server reach them all.

Service ``i`` is 10.96.0.1 + i, port 80; backends follow one another from 10.128.0.1, port 8080. Every backend address is
answered by one server (``places.py`` routes all of 10.128.0.0/9 to it), so a bench needs no 50,000 processes.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

NAMESPACE = "bench"
SERVICE_PORT, BACKEND_PORT = 80, 8080
BACKENDS_EACH = 5
# What kube-proxy is told of pods: their traffic is not masqueraded. Covers clients and backends of a bench.
POD_NETWORK = ipaddress.IPv4Network("10.0.0.0/8")
BACKEND_NETWORK = ipaddress.IPv4Network("10.128.0.0/9")
_FIRST_SERVICE, _FIRST_BACKEND = int(ipaddress.IPv4Address("10.96.0.1")), int(BACKEND_NETWORK[1])


@dataclass(frozen=True, slots=True)
class BenchService:
    """One service: ``address`` is what clients dial, ``backends`` the addresses that serve it."""

    index: int
    address: str
    backends: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"s{self.index}"


def population(count: int, backends_each: int = BACKENDS_EACH) -> list[BenchService]:
    """The first ``count`` services; a smaller population is the beginning of a larger one."""
    return [_service(index, backends_each) for index in range(count)]


def _service(index: int, backends_each: int) -> BenchService:
    first = _FIRST_BACKEND + index * backends_each
    backends = tuple(str(ipaddress.IPv4Address(first + number)) for number in range(backends_each))
    return BenchService(index, str(ipaddress.IPv4Address(_FIRST_SERVICE + index)), backends)


def manifests(services: Iterable[BenchService]) -> str:
    """The services and their EndpointSlices as one Kubernetes list, JSON, which a manifests directory takes."""
    items = [part for service in services for part in (_service_object(service), _slice_object(service))]
    return _list(items)


def global_services(services: Iterable[BenchService]) -> str:
    """The services, global and without a backend, as one Kubernetes list."""
    return _list([_service_object(service, {"meshd.io/global": "true"}) for service in services])


def endpoints(service: BenchService, waiting: Collection[str] = ()) -> str:
    """The EndpointSlice of one service; backends in ``waiting`` are not ready."""
    return json.dumps(_slice_object(service, waiting))


def service_object(service: BenchService, namespace: str) -> dict[str, object]:
    """The Service in ``namespace`` of an API server, which chooses the address."""
    spec = {"ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": BACKEND_PORT}]}
    metadata = {"namespace": namespace, "name": service.name}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def slice_object(service: BenchService, namespace: str) -> dict[str, object]:
    """Its EndpointSlice, all of whose backends are ready."""
    made = _slice_object(service)
    labels = {"kubernetes.io/service-name": service.name}
    return {**made, "metadata": {"namespace": namespace, "name": f"{service.name}-1", "labels": labels}}


def _list(items: list[dict[str, object]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _service_object(service: BenchService, annotations: Mapping[str, str] | None = None) -> dict[str, object]:
    port = {"name": "http", "port": SERVICE_PORT, "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": service.name, "annotations": dict(annotations or {})},
        "spec": {"clusterIP": service.address, "clusterIPs": [service.address], "ports": [port]},
    }


def _slice_object(service: BenchService, waiting: Collection[str] = ()) -> dict[str, object]:
    labels = {"kubernetes.io/service-name": service.name}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": NAMESPACE, "name": f"{service.name}-1", "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": BACKEND_PORT, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [each], "conditions": {"ready": each not in waiting}} for each in service.backends
        ],
    }
