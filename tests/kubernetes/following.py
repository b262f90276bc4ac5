"""A mesh that follows a real API server through the source `kubernetes`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from meshd.config import Config
from meshd.config_kubernetes import ExternalIPs, Kubernetes
from meshd.kubeapi.informer import Health
from meshd.kubeapi.pace import Pace
from meshd.model import ServiceName, format_address
from meshd.sources.kubernetes.source import SOURCE, KubernetesSource
from meshd.state import Mesh, SourceState

PATIENCE_S = 60.0


class QuickPace(Pace):
    """A tenth of the waits that a cluster needs."""

    def __init__(self) -> None:
        super().__init__(interval_s=0.1, first_s=0.05, last_s=0.5)


class Following:
    """``gone``: the keys of everything that was ever taken away."""

    def __init__(self, kubeconfig: Path) -> None:
        self.mesh = Mesh()
        self.gone: list[object] = []
        self.mesh.observe(lambda _, puts, deletes: self.gone.extend(key for _, key in deletes))
        options = Kubernetes(kubeconfig=kubeconfig, external_ips=ExternalIPs(("203.0.113.0/24",)))
        self.source = KubernetesSource(self.mesh, Config(node_name="n1", kubernetes=options), QuickPace)

    @property
    def state(self) -> SourceState:
        return self.mesh.sources[SOURCE].state

    def health(self, resource: str) -> Health:
        return next(each for each in self.source.health if each.resource == resource)

    def backends(self, namespace: str, name: str) -> list[str]:
        parts = self.mesh.slices_of(ServiceName(namespace, name))
        return sorted(format_address(each.address) for part in parts for each in part.backends)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await self.mesh.moved()


@asynccontextmanager
async def following(kubeconfig: Path) -> AsyncIterator[Following]:
    """One that runs."""
    made = Following(kubeconfig)
    task = asyncio.create_task(made.source.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled(), task.exception()


def service(namespace: str, name: str, **spec: object) -> str:
    """A Service as JSON."""
    body = {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}], **spec}
    metadata = {"namespace": namespace, "name": name}
    return json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": body})


def part(namespace: str, of: str, *addresses: str) -> str:
    """The EndpointSlice of Service ``of`` as JSON; all of its backends are ready."""
    return json.dumps(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": namespace,
                "name": f"{of}-1",
                "labels": {"kubernetes.io/service-name": of},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": [address], "conditions": {"ready": True}, "nodeName": "n1", "zone": "z1"}
                for address in addresses
            ],
        }
    )
