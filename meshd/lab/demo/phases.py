"""The eight phases of the demo: what is done to the lab in each, in order, and when each thing happened.

Doing only: whether it showed what it must is decided afterwards, from the clients' requests (``checks.py``).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

from meshd.lab import cuts
from meshd.lab.demo import checks
from meshd.lab.demo.stage import Phase, Stage
from meshd.lab.lab import Lab
from meshd.lab.objects import Condition
from meshd.lab.processes import gone, tell
from meshd.lab.readiness import instance, node_settled, peers_synced, settled
from meshd.lab.record import Pod
from meshd.lab.up import on_thread

SERVICE = "rebel-base"
# How long each state is watched, so that every client asks each of 4 backends often enough to be believed.
WATCH_S = 4.0
# Without etcd, without meshd: long enough to be seen in the picture.
OUTAGE_S = 3.0
# Before a link is cut, so that what is in flight then belongs to the phase.
BEFORE_S = 0.5
# How late a kubelet notices that a container died: it lists them once a second.
KUBELET_NOTICES_S = 0.5

LabStage = Stage[Lab]
Act = Callable[[LabStage], Awaitable[None]]


async def serve(_stage: LabStage) -> None:
    """Clients of both clusters call; nothing else happens."""
    await asyncio.sleep(WATCH_S)


def delete_backends_of(cluster: str) -> Act:
    """Deletes all backends of ``cluster`` as Kubernetes deletes pods (KEP-1672).

    Their endpoints become terminating (not ready, still serving), then SIGTERM; they finish and go on accepting for a while;
    when they have exited they leave the EndpointSlices.
    """

    async def act(stage: LabStage) -> None:
        lab = stage.ground
        pods = lab.pods_of(cluster, SERVICE)
        stage.now(
            "change",
            f"{len(pods)} backends of {cluster} are terminating",
            lab.set_condition(pods, Condition.TERMINATING),
        )
        await asyncio.gather(*(_terminate(stage, pod) for pod in pods))
        stage.now("gone", f"the backends of {cluster} have exited")
        lab.remove_from_services(pods)
        for pod in pods:
            lab.remove_pod(pod)
        await settled(lab)
        await asyncio.sleep(WATCH_S)

    return act


async def _terminate(stage: LabStage, pod: Pod) -> None:
    started = stage.ground.running[f"pod/{pod.id}"]
    cgroup = stage.ground.pod_cgroup(pod)
    tell(cgroup, signal.SIGTERM)
    await gone(cgroup)
    code = started.reap()
    if code != 0:
        stage.remarks.append(f"{pod.id} exited with {code}, not 0{started.last_words()}")


def restore_backends_of(cluster: str) -> Act:
    """New pods take the place of the deleted ones, as a Deployment makes them: other names, other addresses."""

    async def act(stage: LabStage) -> None:
        lab = stage.ground
        count = next(pod.count for pod in lab.spec.pods if pod.name == SERVICE)
        pods = await on_thread(lab.add_pods, lab.cluster(cluster), SERVICE, count)
        await lab.start_servers(pods)
        stage.now(
            "change", f"{count} new backends of {cluster} are ready", lab.set_condition(pods, Condition.READY)
        )
        await settled(lab)
        stage.now("settled", "every node knows them")
        await asyncio.sleep(WATCH_S)

    return act


def restart_etcd_of(cluster: str) -> Act:
    """Stops the etcd of ``cluster`` and starts it again on the same data."""

    async def act(stage: LabStage) -> None:
        lab = stage.ground
        place = lab.places.etcd_cgroup(cluster)
        tell(place, signal.SIGTERM)
        await gone(place)
        stage.now("down", f"etcd of {cluster} has stopped")
        await asyncio.sleep(OUTAGE_S)
        for node in lab.nodes:
            if node.cluster != cluster and cluster in await peers_synced(lab.places, node):
                stage.remarks.append(f"{node.name} says it is in sync with {cluster}, whose etcd is down")
        stage.now("started", f"etcd of {cluster} is started")
        await lab.start_etcd(lab.cluster(cluster)).ready()
        await settled(lab)
        stage.now("settled", f"every node has read {cluster} again")
        await asyncio.sleep(WATCH_S)

    return act


def kill_meshd_of(cluster: str, number: int) -> Act:
    """Kills the meshd of a node without warning, and starts it again."""

    async def act(stage: LabStage) -> None:
        lab = stage.ground
        node = lab.cluster(cluster).nodes[number - 1]
        before = await instance(lab.places, node)
        place = lab.places.agent_cgroup(node)
        tell(place, signal.SIGKILL)
        await gone(place)
        stage.now("down", f"meshd of {node.name} is killed")
        await asyncio.sleep(OUTAGE_S)
        stage.now("started", f"meshd of {node.name} is started")
        lab.start_agent(node)
        await node_settled(lab, node)
        stage.now("settled", f"meshd of {node.name} is settled")
        if await instance(lab.places, node) == before:
            stage.remarks.append(f"meshd of {node.name} is the process it was: it was not killed")
        await asyncio.sleep(WATCH_S)

    return act


def cut_link_between(one: str, other: str) -> Act:
    """No frame passes between the nodes of two clusters; each still reaches both etcds, which say that all is well."""

    async def act(stage: LabStage) -> None:
        lab = stage.ground
        await asyncio.sleep(BEFORE_S)
        ways = cuts.between(lab.cluster(one), lab.cluster(other))
        await on_thread(cuts.cut, lab.places, list(ways))
        stage.now("cut", f"the link between {one} and {other} is cut")
        await asyncio.sleep(WATCH_S)
        stage.now("healed", f"the link between {one} and {other} is back")
        await on_thread(cuts.heal, lab.places)
        await settled(lab)
        stage.now("settled", "every node answers the others again")
        await asyncio.sleep(WATCH_S)

    return act


def cut_off_etcd_of(cluster: str) -> Act:
    """Nobody reaches the etcd of ``cluster`` any more, and everybody its pods."""

    async def act(stage: LabStage) -> None:
        lab = stage.ground
        ways = cuts.from_etcd_of(lab.cluster(cluster), lab.clusters)
        await on_thread(cuts.cut, lab.places, list(ways))
        stage.now("down", f"the etcd of {cluster} is out of reach")
        await asyncio.sleep(2 * OUTAGE_S)
        stage.now("started", f"the etcd of {cluster} is back")
        await on_thread(cuts.heal, lab.places)
        await settled(lab)
        stage.now("settled", f"every node has read {cluster} again")
        await asyncio.sleep(WATCH_S)

    return act


def kill_backend_of(cluster: str) -> Act:
    """Kills one backend without warning; its node's kubelet notices after a while and takes it out of its services."""

    async def act(stage: LabStage) -> None:
        lab = stage.ground
        pod = lab.pods_of(cluster, SERVICE)[0]
        place = lab.pod_cgroup(pod)
        tell(place, signal.SIGKILL)
        stage.now("change", f"backend {pod.id} is killed without warning")
        await gone(place)
        await asyncio.sleep(KUBELET_NOTICES_S)
        lab.remove_from_services([pod])
        await settled(lab)
        stage.now("settled", f"every node knows that {pod.id} is gone")
        lab.remove_pod(pod)
        await asyncio.sleep(WATCH_S)

    return act


PHASES = (
    Phase("both clusters serve", serve, checks.both_serve, checks.no_switch),
    Phase(
        "backends of cm-2 are deleted",
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
        "etcd of cm-1 is restarted",
        restart_etcd_of("cm-1"),
        checks.nothing_changes("down", "etcd of cm-1"),
        checks.no_switch,
    ),
    Phase(
        "meshd of cm-1-n1 is killed and started",
        kill_meshd_of("cm-1", 1),
        checks.nothing_changes("down", "meshd of cm-1-n1"),
        checks.no_switch,
    ),
    Phase(
        "the link between cm-1 and cm-2 is cut",
        cut_link_between("cm-1", "cm-2"),
        checks.each_serves_itself,
        checks.until_last_loss_begun,
        excuses=checks.cut_losses,
    ),
    Phase(
        "the etcd of cm-2 is cut off",
        cut_off_etcd_of("cm-2"),
        checks.nobody_moves("down", "the etcd of cm-2"),
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
