"""The service, its backends and its clients in every cluster of a mesh."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshd.lab.demo import watched
from meshd.lab.demo.checks import PodCounts
from scripts.kubernetes.demo import objects
from scripts.kubernetes.demo.mesh import TIMEOUT, Member, Mesh
from scripts.kubernetes.demo.objects import CLIENT, NAMESPACE, SERVICE


async def start_backends(mesh: Mesh, image: str) -> None:
    """The service and its backends are in every cluster, and known to every node."""

    async def start(member: Member) -> None:
        directory = mesh.directory / member.name
        backends = objects.backends(member.name, image, directory)
        await member.apply(objects.programs(), objects.service(), backends)
        await member.kubectl("rollout", "status", f"deployment/{SERVICE}", TIMEOUT)

    await asyncio.gather(*map(start, mesh.members))
    await mesh.settled()


class Clients:
    """Clients that call in every cluster of ``mesh`` (watched.Place). ``names``: all of them, CLUSTER/POD.

    What backends answered ``before`` them does not count.
    """

    def __init__(self, mesh: Mesh, names: Sequence[str], before: Mapping[str, PodCounts]) -> None:
        self._mesh = mesh
        self._names = names
        self._before = before

    @property
    def cluster_names(self) -> Sequence[str]:
        return self._mesh.cluster_names

    def client_logs(self) -> Mapping[str, Path]:
        return {name: self._mesh.directory / name / "requests.log" for name in self._names}

    async def end_clients(self) -> None:
        # They write down what they got, and end.
        await asyncio.gather(
            *(member.scale(NAMESPACE, f"deployment/{CLIENT}", 0) for member in self._mesh.members)
        )

    def counts(self) -> Mapping[str, PodCounts]:
        nothing = PodCounts(0, 0)
        return {
            pod: PodCounts(
                now.begun - self._before.get(pod, nothing).begun,
                now.answered - self._before.get(pod, nothing).answered,
            )
            for pod, now in counted(self._mesh).items()
        }


async def start_clients(mesh: Mesh, image: str) -> Clients:
    """New clients run in every cluster, and call."""
    before = counted(mesh)

    async def start(member: Member) -> list[str]:
        addresses = (await member.get("service", SERVICE, f"--namespace={NAMESPACE}"))["spec"]["clusterIPs"]
        await member.apply(objects.clients(addresses, image, mesh.directory / member.name))
        await member.kubectl("rollout", "status", f"deployment/{CLIENT}", TIMEOUT)
        pods = await member.pods(NAMESPACE, f"app={CLIENT}")
        return [f"{member.name}/{pod['metadata']['name']}" for pod in pods]

    names = await asyncio.gather(*map(start, mesh.members))
    return Clients(mesh, sorted(name for each in names for name in each), before)


def counted(mesh: Mesh) -> Mapping[str, PodCounts]:
    """What every backend counted, those that are gone too."""
    return watched.counted(mesh.directory.glob(f"*/{SERVICE}-*/counts"))
