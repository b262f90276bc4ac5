"""Bringing a lab up, step by step, each with its time; the slow ones (etcd, meshd, programs) at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from meshd.kernel import cgroup
from meshd.lab import agents, etcd
from meshd.lab.lab import Lab
from meshd.lab.readiness import settled
from meshd.lab.record import Pod

Say = Callable[[str], None]


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
        await asyncio.to_thread(etcd.write_files, places, lab.clusters)
        await asyncio.to_thread(lab.make_network)
    etcds = [lab.start_etcd(cluster) for cluster in lab.clusters]
    with timed(say, f"{sum(pod.count for c in lab.clusters for pod in lab.spec.pods_of(c.name))} pods"):
        lab.write_objects()
        servers, clients = await asyncio.to_thread(_make_pods, lab)
    with timed(say, f"etcd of {len(etcds)} clusters"):
        serving = asyncio.create_task(lab.run_pods(servers))
        await asyncio.gather(*(started.ready() for started in etcds))
    with timed(say, f"meshd on {len(lab.nodes)} nodes settled"):
        for node in lab.nodes:
            agents.mount_bpffs(places, node)
            agents.write_config(places, lab.cluster(node.cluster), node)
            lab.start_agent(node)
        await serving
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


@contextmanager
def timed(say: Say, what: str) -> Iterator[None]:
    """Says ``what`` and how long it took, when it is done."""
    begun = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - begun:.1f} s")
