"""Bringing a lab up, step by step, each with its time; the slow ones (etcd, meshd, programs) at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from meshd.kernel import cgroup
from meshd.kernel.pins import mount_bpffs
from meshd.lab import agents, etcd, etcd_roles
from meshd.lab.lab import Lab
from meshd.lab.processes import all_ready
from meshd.lab.readiness import agents_serve_pods, settled
from meshd.lab.record import Pod

Say = Callable[[str], None]
P = ParamSpec("P")
T = TypeVar("T")


async def up(lab: Lab, say: Say) -> None:
    """Makes the lab and returns when every node has all services in its kernel and all clients run.

    ``say`` gets one line for each step. What was made before a failure stays, for `down`.
    """
    places = lab.places
    lab.keep_as("starting")
    cgroup.create(places.cgroup)
    with timed(say, "certificates and network"):
        for directory in (places.cluster(cluster.name) for cluster in lab.clusters):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        places.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        await on_thread(etcd.write_files, places, lab.clusters)
        await on_thread(lab.make_network)
    with timed(say, f"etcd of {len(lab.clusters)} clusters"):
        lab.write_objects()
        await all_ready([lab.start_etcd(cluster) for cluster in lab.clusters])
        for cluster in lab.clusters:
            others = [other.name for other in lab.clusters if other != cluster]
            await on_thread(etcd_roles.restrict, places, cluster, others)
    with timed(say, f"meshd on {len(lab.nodes)} nodes"):
        for node in lab.nodes:
            # A BPF file system of the node's own: its pins go when it is unmounted.
            mount_bpffs(places.bpffs(node))
            agents.write_config(places, lab.cluster(node.cluster), node, lab.spec)
            lab.start_agent(node)
        await agents_serve_pods(lab)
    with timed(say, f"{sum(pod.count for c in lab.clusters for pod in lab.spec.pods_of(c.name))} pods"):
        servers, clients = await on_thread(_make_pods, lab)
    with timed(say, f"{len(servers)} servers, known to every node"):
        await lab.run_pods(servers)
        await settled(lab)
    with timed(say, f"{len(clients)} clients"):
        await lab.run_pods(clients)


def _make_pods(lab: Lab) -> tuple[list[Pod], list[Pod]]:
    servers: list[Pod] = []
    clients: list[Pod] = []
    for cluster in lab.clusters:
        for pod in lab.spec.pods_of(cluster.name):
            kind = servers if lab.spec.is_server(pod) else clients
            kind += lab.add_pods(cluster, pod.name, pod.count)
    return servers, clients


async def on_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``function`` returns, called on a thread; cancelled, it still runs to its end before anything is taken down."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


@contextmanager
def timed(say: Say, what: str) -> Iterator[None]:
    """Says ``what`` and how long it took, when it is done."""
    begun = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - begun:.1f} s")
