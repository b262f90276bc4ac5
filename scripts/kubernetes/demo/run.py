"""The parts of the demo on Kubernetes: a site's clusters are joined, loaded, and gone through."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from meshd.lab.demo import watched
from meshd.lab.demo.picture import Picture
from meshd.lab.demo.stage import Phase
from meshd.lab.demo.watched import AfterPhase, Watched
from scripts.kubernetes.demo import joining
from scripts.kubernetes.demo.load import start_backends, start_clients
from scripts.kubernetes.demo.mesh import SYSTEM, Mesh
from scripts.kubernetes.demo.phases import PHASES

Say = Callable[[str], None]


async def joined(mesh: Mesh, images: Sequence[Path], say: Say) -> None:
    """The clusters of ``mesh`` are one mesh, and every node knows the backends of every cluster."""
    async with _timed(say, "images of meshd and etcd on every node"):
        await joining.import_images(mesh, images)
    async with _timed(say, "meshctl clustermesh init, and etcds of the mesh"):
        await joining.begin(mesh)
    # At once: agents see a new peer whenever it comes.
    async with _timed(say, "meshctl clustermesh invite, join; meshctl kube install"):
        await asyncio.gather(joining.join(mesh), joining.install(mesh))
    async with _timed(say, "backends, known to every node"):
        await start_backends(mesh, joining.IMAGE)


async def go_through(
    mesh: Mesh,
    out: Path,
    picture: Picture,
    phases: Sequence[Phase[Mesh]] = PHASES,
    after_phase: AfterPhase | None = None,
) -> int:
    """Starts clients in every cluster, goes through ``phases``, ends them; 0 if all went as it must, else 1.

    ``out`` gets report.json and timeline.svg. ``after_phase`` is awaited after each phase with its number (from 1).
    """
    async with _timed(picture.say, "clients"):
        clients = await start_clients(mesh, joining.IMAGE)
    watching = Watched(clients, picture)
    happened = await watching.go_through(mesh, phases, after_phase)
    result = watching.conclude(happened, out)
    picture.close()
    if not result.ok:
        await _keep_what_agents_say(mesh, out)
    return watched.tell(result, mesh.cluster_names, out)


async def _keep_what_agents_say(mesh: Mesh, out: Path) -> None:
    """Log and drops of every agent, in ``out``: the clusters are gone when somebody looks into what went wrong."""
    for member in mesh.members:
        for node in member.running.nodes:
            pod, where = await member.agent_of(node.name), f"--namespace={SYSTEM}"
            said = [await member.kubectl("logs", pod, where, check=False)]
            said += [await member.kubectl("logs", pod, where, "--previous", check=False)]
            said += [
                await member.kubectl("exec", pod, where, "--", "meshctl", "metrics", "drops", check=False)
            ]
            (out / f"meshd-{node.name}.txt").write_text("\n".join(said))


@asynccontextmanager
async def _timed(say: Say, what: str) -> AsyncIterator[None]:
    """Says ``what`` and how long it took, when it is done."""
    begun = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - begun:.1f} s")
