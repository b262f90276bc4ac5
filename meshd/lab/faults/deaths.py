"""Faults of processes: backends, agents, etcds and whole nodes that die, freeze, or get no processor."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Sequence

from meshd.lab import etcd_roles
from meshd.lab.cuts import Drop
from meshd.lab.demo.phases import KUBELET_NOTICES_S
from meshd.lab.faults.effect import Effect, both_ways, union
from meshd.lab.faults.fault import Fault, nothing
from meshd.lab.faults.ground import Ground
from meshd.lab.faults.links import WATCH_S
from meshd.lab.layout import Cluster, Node
from meshd.lab.objects import Condition
from meshd.lab.processes import gone, kill_tree, tell
from meshd.lab.record import Pod
from meshd.lab.topology import etcd_port, node_port
from meshd.lab.up import on_thread

# The hooks judge by themselves once an agent's beat is older than a second (docs/probes.md).
BEAT_IS_OLD_S = 1.5
# An agent without enough processor runs this long, and then not at all for that long.
STARVED_RUNS_S, STARVED_WAITS_S = 0.02, 0.4


def backend_killed(pod: Pod, cluster: Cluster) -> Fault:
    """Its process dies; its node's kubelet notices and its cluster says so. It is started again with the same addresses."""

    async def inject(ground: Ground) -> None:
        place = ground.lab.pod_cgroup(pod)
        tell(place, signal.SIGKILL)
        await gone(place)
        await asyncio.sleep(KUBELET_NOTICES_S)
        ground.lab.set_condition([pod], Condition.FAILED)

    async def heal(ground: Ground) -> None:
        await ground.lab.run_pods([pod])

    effect = Effect(killed=frozenset({pod.id}))
    # Nothing else may hinder its cluster from saying so.
    touches = frozenset({f"etcd/{cluster.name}", *(node.name for node in cluster.nodes)})
    return Fault(f"backend {pod.id} killed", effect, inject, heal, touches)


def nodes_killed(name: str, nodes: Sequence[Node], every: Sequence[Node], cluster: Cluster | None) -> Fault:
    """All processes of ``nodes`` die and their links are dead, all in one instant; with ``cluster`` its etcd, too."""
    ports = [node_port(node) for node in nodes] + ([etcd_port(cluster)] if cluster is not None else [])
    drops = [drop for port in ports for drop in (Drop(here=port), Drop(there=port))]

    async def inject(ground: Ground) -> None:
        await ground.drop(name, drops)
        places = [ground.lab.places.node_cgroup(node) for node in nodes]
        if cluster is not None:
            places.append(ground.lab.places.etcd_cgroup(cluster.name))
        for place in places:
            await on_thread(kill_tree, place)

    async def heal(ground: Ground) -> None:
        # Backends accept before anybody can ask for them: in a cluster it would not say that they are ready before.
        here = {node.name for node in nodes}
        if cluster is not None:
            ground.lab.start_etcd(cluster)
        await ground.lab.start_servers([pod for pod in ground.backends if pod.node in here])
        await ground.carry(name)
        for node in nodes:
            ground.start_agent(node)
        for pod in ground.clients:
            if pod.node in here:
                ground.start_client(pod)

    dead = frozenset(node.name for node in nodes)
    effect = Effect(silent=both_ways(dead, [node.name for node in every]), dead=dead)
    touches = dead | ({f"etcd/{cluster.name}"} if cluster is not None else set())
    return Fault(name, effect, inject, heal, frozenset(touches))


def etcd_restarted(cluster: Cluster) -> Fault:
    """The etcd of ``cluster`` is killed, and after a while started again on its data."""

    async def inject(ground: Ground) -> None:
        await on_thread(kill_tree, ground.lab.places.etcd_cgroup(cluster.name))

    async def heal(ground: Ground) -> None:
        await ground.lab.start_etcd(cluster).ready()

    name = f"etcd of {cluster.name} killed"
    return Fault(name, Effect(), inject, heal, frozenset({f"etcd/{cluster.name}"}), hold_s=WATCH_S)


def etcd_emptied(cluster: Cluster) -> Fault:
    """The etcd of ``cluster`` is killed and started again at once, and has forgotten everything."""

    async def inject(ground: Ground) -> None:
        lab = ground.lab
        await on_thread(kill_tree, lab.places.etcd_cgroup(cluster.name))
        await on_thread(shutil.rmtree, lab.places.etcd_data(cluster.name))
        await lab.start_etcd(cluster).ready()
        others = [other.name for other in lab.clusters if other.name != cluster.name]
        await on_thread(etcd_roles.restrict, lab.places, cluster, others)

    touches = frozenset({f"etcd/{cluster.name}", *(node.name for node in cluster.nodes)})
    return Fault(f"etcd of {cluster.name} emptied", Effect(), inject, nothing, touches, hold_s=WATCH_S)


def agent_killed(name: str, node: Node) -> Fault:
    """The agent of ``node`` is dead; its hooks and programs go on."""

    async def inject(ground: Ground) -> None:
        await ground.kill_agent(node)

    async def heal(ground: Ground) -> None:
        ground.start_agent(node)

    effect = Effect(without_agent=frozenset({node.name}))
    return Fault(name, effect, inject, heal, frozenset({node.name}), hold_s=WATCH_S)


def agent_frozen(node: Node) -> Fault:
    """The agent of ``node`` stands still in the middle of what it did, its prober's thread, too."""

    async def inject(ground: Ground) -> None:
        tell(ground.lab.places.agent_cgroup(node), signal.SIGSTOP)

    async def heal(ground: Ground) -> None:
        tell(ground.lab.places.agent_cgroup(node), signal.SIGCONT)

    effect = Effect(without_agent=frozenset({node.name}))
    return Fault(f"agent of {node.name} frozen", effect, inject, heal, frozenset({node.name}), hold_s=WATCH_S)


def agent_starved(node: Node) -> Fault:
    """The agent of ``node`` gets a twentieth of a processor, in pieces."""
    starving: list[asyncio.Task[None]] = []

    async def starve(ground: Ground) -> None:
        place = ground.lab.places.agent_cgroup(node)
        try:
            while True:
                tell(place, signal.SIGSTOP)
                await asyncio.sleep(STARVED_WAITS_S)
                tell(place, signal.SIGCONT)
                await asyncio.sleep(STARVED_RUNS_S)
        finally:
            tell(place, signal.SIGCONT)

    async def inject(ground: Ground) -> None:
        starving.append(asyncio.create_task(starve(ground)))
        await asyncio.sleep(0)

    async def heal(_ground: Ground) -> None:
        task = starving.pop()
        task.cancel()
        await asyncio.wait([task])

    effect = Effect(without_agent=frozenset({node.name}))
    return Fault(
        f"agent of {node.name} starved", effect, inject, heal, frozenset({node.name}), hold_s=WATCH_S
    )


def without_agent_during(node: Node, fault: Fault) -> Fault:
    """``fault`` comes when the agent of ``node`` is dead already; its hooks are alone."""

    async def prepare(ground: Ground) -> None:
        await ground.kill_agent(node)
        await asyncio.sleep(BEAT_IS_OLD_S)

    async def heal(ground: Ground) -> None:
        await fault.heal(ground)
        ground.start_agent(node)

    effect = union((fault.effect, Effect(without_agent=frozenset({node.name}))))
    name = f"{fault.name} while the agent of {node.name} is dead"
    return Fault(name, effect, fault.inject, heal, fault.touches | {node.name}, prepare)
