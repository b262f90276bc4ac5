"""The phases of the demo on Kubernetes: those of the lab's demo, done with kubectl, and one without the API server."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

from meshd.api.v1 import cluster_pb2
from meshd.lab.demo import checks
from meshd.lab.demo.phases import OUTAGE_S, WATCH_S
from meshd.lab.demo.stage import Phase, Stage
from scripts.kubernetes.demo.mesh import SYSTEM, Mesh
from scripts.kubernetes.demo.objects import BACKENDS, NAMESPACE, SERVICE

MeshStage = Stage[Mesh]
Act = Callable[[MeshStage], Awaitable[None]]
DEPLOYMENT = f"deployment/{SERVICE}"
ETCD = "statefulset/meshd-etcd"


async def serve(_stage: MeshStage) -> None:
    """Clients of both clusters call; nothing else happens."""
    await asyncio.sleep(WATCH_S)


def delete_backends_of(cluster: str) -> Act:
    """`kubectl scale` to no backends: they are terminating, get SIGTERM, finish, and leave the EndpointSlices."""

    async def act(stage: MeshStage) -> None:
        stage.now("change", f"kubectl scale {DEPLOYMENT} --replicas=0, in {cluster}")
        await stage.ground.member(cluster).scale(NAMESPACE, DEPLOYMENT, 0)
        stage.now("gone", f"the backends of {cluster} have exited")
        await stage.ground.settled()
        await asyncio.sleep(WATCH_S)

    return act


def restore_backends_of(cluster: str) -> Act:
    """And back: new pods, with other names and addresses."""

    async def act(stage: MeshStage) -> None:
        stage.now("change", f"kubectl scale {DEPLOYMENT} --replicas={BACKENDS}, in {cluster}")
        await stage.ground.member(cluster).scale(NAMESPACE, DEPLOYMENT, BACKENDS)
        await stage.ground.settled()
        stage.now("settled", "every node knows them")
        await asyncio.sleep(WATCH_S)

    return act


def restart_etcd_of(cluster: str) -> Act:
    """The mesh's etcd of ``cluster`` goes, and comes back on the same data."""

    async def act(stage: MeshStage) -> None:
        mesh, owner = stage.ground, stage.ground.member(cluster)
        await owner.scale(SYSTEM, ETCD, 0)
        stage.now("down", f"the mesh's etcd of {cluster} has stopped")
        await asyncio.sleep(OUTAGE_S)
        for member in mesh.members:
            for node in member.running.nodes if member is not owner else ():
                status = (await member.ask(node.name)).status
                if any(
                    c.name == cluster and c.state == cluster_pb2.CLUSTER_STATE_SYNCED for c in status.clusters
                ):
                    stage.remarks.append(f"{node.name} says it is in sync with {cluster}, whose etcd is down")
        stage.now("started", f"the mesh's etcd of {cluster} is started")
        await owner.scale(SYSTEM, ETCD, 1)
        await mesh.settled()
        stage.now("settled", f"every node has read {cluster} again")
        await asyncio.sleep(WATCH_S)

    return act


def kill_meshd_of(cluster: str, number: int) -> Act:
    """Kills the meshd of a node without warning; its kubelet starts it again."""

    async def act(stage: MeshStage) -> None:
        member = stage.ground.member(cluster)
        node = member.running.nodes[number - 1].name
        before = (await member.ask(node)).status.instance
        pod = await member.get("pod", await member.agent_of(node), f"--namespace={SYSTEM}")
        member.kill(pod)
        stage.now("down", f"meshd of {node} is killed")
        await member.restarted(pod)
        stage.now("started", f"meshd of {node} is ready again")
        await stage.ground.settled()
        stage.now("settled", f"meshd of {node} is settled")
        if (await member.ask(node)).status.instance == before:
            stage.remarks.append(f"meshd of {node} is the process it was: it was not killed")
        await asyncio.sleep(WATCH_S)

    return act


def restart_api_server_of(cluster: str) -> Act:
    """Kills the API server of ``cluster``, and starts it again."""

    async def act(stage: MeshStage) -> None:
        running = stage.ground.member(cluster).running
        await asyncio.to_thread(running.stop_api_server, signal.SIGKILL)
        stage.now("down", f"the API server of {cluster} is killed")
        await asyncio.sleep(OUTAGE_S)
        stage.now("started", f"the API server of {cluster} is started")
        await asyncio.to_thread(running.start_api_server)
        await stage.ground.settled()
        stage.now("settled", f"every node has read {cluster} again")
        await asyncio.sleep(WATCH_S)

    return act


def kill_backend_of(cluster: str) -> Act:
    """Kills one backend without warning; its node's kubelet notices after a while, says so, and starts it again."""

    async def act(stage: MeshStage) -> None:
        member = stage.ground.member(cluster)
        pod, *_ = await member.pods(NAMESPACE, f"app={SERVICE}")
        name = pod["metadata"]["name"]
        begun_ns = time.monotonic_ns()
        member.kill(pod)
        stage.now("change", f"backend {cluster}/{name} is killed without warning", begun_ns)
        await member.restarted(pod)
        await stage.ground.settled()
        stage.now("settled", f"every node knows that {cluster}/{name} is ready again")
        await asyncio.sleep(WATCH_S)

    return act


PHASES = (
    Phase("both clusters serve", serve, checks.both_serve, checks.no_switch),
    Phase(
        "backends of cm-2 are scaled to 0",
        delete_backends_of("cm-2"),
        checks.left_answers_nothing("cm-2"),
        checks.until_last_answer_of("cm-2"),
    ),
    Phase(
        "backends of cm-2 are back",
        restore_backends_of("cm-2"),
        checks.both_again,
        checks.until_first_answer_of("cm-2"),
    ),
    Phase(
        "the mesh's etcd of cm-1 is restarted",
        restart_etcd_of("cm-1"),
        checks.nothing_changes("down", "the mesh's etcd of cm-1"),
        checks.no_switch,
    ),
    Phase(
        "meshd of c1-n1 is killed",
        kill_meshd_of("cm-1", 1),
        checks.nothing_changes("down", "meshd of c1-n1"),
        checks.no_switch,
    ),
    Phase(
        "the API server of cm-2 is killed and started",
        restart_api_server_of("cm-2"),
        checks.nothing_changes("down", "the API server of cm-2"),
        checks.no_switch,
    ),
    Phase(
        "one backend is killed without warning",
        kill_backend_of("cm-1"),
        checks.failures_end,
        checks.until_last_loss,
        may_lose=True,
    ),
)
