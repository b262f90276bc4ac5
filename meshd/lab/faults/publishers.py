"""Faults of who publishes a cluster: nobody does for longer than the records live, or it dies amid a write."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import yaml

from clustermesh import keys
from meshd.lab import objects
from meshd.lab.faults import etcdctl
from meshd.lab.faults.deaths import agent_killed
from meshd.lab.faults.effect import Effect, names
from meshd.lab.faults.fault import Fault
from meshd.lab.faults.ground import DATA_LEASE_S, Ground
from meshd.lab.faults.links import WATCH_S
from meshd.lab.layout import Cluster, Node
from meshd.lab.processes import gone, tell
from meshd.lab.record import LabError, replace_file
from meshd.lab.spec import ServiceSpec
from meshd.lab.up import on_thread

# A publisher writes at most a hundred keys in one transaction: so many services are several of them.
SERVICES = 200
MANY = "many"
# Where their addresses begin among those of the cluster's services; a lab has fewer than that.
FIRST_ADDRESS = 1000
PATIENCE_S = 60.0


def publisher_killed(cluster: Cluster, node: Node) -> Fault:
    """The elected agent is dead; the other one of its cluster succeeds it."""
    return agent_killed(f"publisher of {cluster.name} ({node.name}) killed", node)


def nobody_publishes(cluster: Cluster) -> Fault:
    """All agents of ``cluster`` are dead for so long that its records are gone from its etcd; its nodes and pods go on."""

    async def inject(ground: Ground) -> None:
        await asyncio.gather(*(ground.kill_agent(node) for node in cluster.nodes))
        for prefix in (keys.services_prefix(cluster.name), keys.nodes_prefix(cluster.name)):
            await etcdctl.until_count(
                ground.lab.places, cluster, prefix, lambda count: count == 0, DATA_LEASE_S + PATIENCE_S
            )

    async def heal(ground: Ground) -> None:
        for node in cluster.nodes:
            ground.start_agent(node)

    effect = Effect(without_agent=frozenset(names(cluster)))
    touches = frozenset({f"etcd/{cluster.name}", *names(cluster)})
    name = f"nobody publishes {cluster.name} for longer than its lease"
    return Fault(name, effect, inject, heal, touches, hold_s=WATCH_S)


def publisher_killed_amid_write(cluster: Cluster, node: Node) -> Fault:
    """`SERVICES` new services have to be written, and when the first are, the elected agent dies on ``node``."""
    prefix = f"{keys.services_prefix(cluster.name)}default/{MANY}-"

    async def inject(ground: Ground) -> None:
        places = ground.lab.places
        content = yaml.dump_all(_many(cluster), Dumper=yaml.CSafeDumper, sort_keys=False).encode()
        path = places.manifests(cluster.name) / f"{MANY}.yaml"
        await etcdctl.at_first_write(
            places,
            cluster,
            prefix,
            begin=lambda: replace_file(path, content),
            do=lambda: tell(places.agent_cgroup(node), signal.SIGKILL),
        )
        await gone(places.agent_cgroup(node))
        written = await on_thread(etcdctl.count, places, cluster, prefix)
        if not 0 < written < SERVICES:
            raise LabError(f"{written} of {SERVICES} services were written when {node.name} was killed")

    async def heal(ground: Ground) -> None:
        places = ground.lab.places
        ground.start_agent(node)
        # What one began another one finishes.
        await etcdctl.until_count(places, cluster, prefix, lambda count: count == SERVICES, PATIENCE_S)
        (places.manifests(cluster.name) / f"{MANY}.yaml").unlink()
        await etcdctl.until_count(places, cluster, prefix, lambda count: count == 0, PATIENCE_S)

    effect = Effect(without_agent=frozenset({node.name}))
    touches = frozenset({f"etcd/{cluster.name}", *names(cluster)})
    name = f"publisher of {cluster.name} ({node.name}) killed amid a write"
    return Fault(name, effect, inject, heal, touches, hold_s=WATCH_S)


def _many(cluster: Cluster) -> Iterator[objects.Object]:
    """Global services without a backend: their records come and go, and nobody uses them."""
    for number in range(SERVICES):
        spec = ServiceSpec(f"{MANY}-{number}", {"app": MANY}, annotations={"meshd.io/global": "true"})
        yield objects.service(spec, cluster, FIRST_ADDRESS + number)
