"""`meshctl bench clustermesh`: an agent reads many clusters, and follows them while much changes.

Every cluster has an etcd of its own and shares the same services, so the backends of each add up. Time zero of the first
sync is when the agent, which runs and knows the services, gets the client files of all clusters; the end is the first
status in which all of them are in sync and nothing waits for the kernel. Time zero of a change is the moment before its put
is sent to etcd; the end is the first look at the pinned `frontends` map that shows the list with so many slots as there are
backends.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from meshd.api.v1 import cluster_pb2
from meshd.bench.agents import Agent
from meshd.bench.etcds import Etcd, require_etcd
from meshd.bench.mesh_peers import SIZE
from meshd.bench.places import BenchError, Place, Places
from meshd.bench.population import BenchService, global_services, population
from meshd.bench.progress import Progress
from meshd.bench.propagation import LIMIT_MS, LOOK_EVERY_S, TIMEOUT_S, Kernel, kernel
from meshd.bench.report import Report, Row, Target, estimated, report, row, target
from meshd.bench.statistics import exact, quantile
from meshd.bench.workers import Worker
from meshd.kernel import cgroup

MESHD = "meshd"
# An address of the loopback's for each etcd, and an id of 1..255 for each cluster.
MOST_CLUSTERS = 200
SYNC_TIMEOUT_S, STATUS_EVERY_S = 300.0, 0.1
P99 = 0.99


@dataclass(frozen=True, slots=True)
class Options:
    """``rate``: changes a second that go on while ``changes`` are timed; ``backends``: of a service in each cluster."""

    clusters: int = 8
    services: int = 500
    backends: int = 10
    rate: int = 100
    changes: int = 400


@dataclass(frozen=True, slots=True)
class Synced:
    """What a start took, and what the agent needs then. ``cpu_s``: of CPU."""

    seconds: float
    cpu_s: float
    resident_mib: float


def measure(options: Options, places: Places, stack: contextlib.ExitStack, progress: Progress) -> Report:
    """The report of a run inside ``places``; what it started ends with ``stack``.

    Raises:
        BenchError: something could not be set up, or a change never arrived; the sentence says what.
    """
    if options.clusters > MOST_CLUSTERS:
        raise BenchError(f"--clusters is {options.clusters}, it can be {MOST_CLUSTERS} at most")
    if options.services * options.backends >= SIZE:
        raise BenchError(
            f"--services times --backends must be below {SIZE:,}: a cluster has no more addresses"
        )
    require_etcd()
    progress.step(f"{options.clusters} clusters, an etcd each")
    place = places.place("clustermesh")
    directory = places.run / "peers"
    directory.mkdir()
    for etcd in [_etcd(places, place, stack, number) for number in range(options.clusters)]:
        etcd.wait()
        (directory / etcd.name).write_text(etcd.access("publisher"))
    peers = Worker("the peers", "mesh_peers", places.cgroup / "peers", place.client, str(directory))
    stack.callback(peers.close)
    case = f"{options.clusters} clusters x {options.services:,} services x {options.backends} backends"
    progress.step(case)
    peers.ask(populate=[options.services, options.backends])
    services = population(options.services, 0)
    progress.step("an agent starts, and reads them")
    agent, first = _first(options, places, place, stack, services, directory)
    held = kernel(agent, stack)
    progress.step(
        f"in sync after {first.seconds:.1f} s; {options.changes} changes, while {options.rate} others a second go on"
    )
    before = agent.cpu_s()
    times, done, took_s = _changes(options, peers, held, services, progress)
    loaded = Synced(took_s, agent.cpu_s() - before, agent.resident_mib())
    return report(
        "clustermesh", options.changes, "none", *_figures(case, options, first, loaded, times, done)
    )


def _etcd(places: Places, place: Place, stack: contextlib.ExitStack, number: int) -> Etcd:
    return Etcd(places, stack, f"peer-{number + 1}", place.client, IPv4Address(f"127.0.{number + 1}.1"))


def _first(
    options: Options,
    places: Places,
    place: Place,
    stack: contextlib.ExitStack,
    services: Sequence[BenchService],
    directory: Path,
) -> tuple[Agent, Synced]:
    """An agent that knows the services and no cluster, told of all clusters at once: what that takes."""
    named = replace(place, name=MESHD, cgroup=place.cgroup.with_name(f"{place.cgroup.name}-{MESHD}"))
    cgroup.create(named.cgroup)
    empty = places.run / "known"
    empty.mkdir()
    config = {"clusterName": "own", "clusterId": 1, "clustermesh": {"peers": str(empty)}}
    agent = stack.enter_context(Agent(places, named, config))
    agent.put("services.json", global_services(services))
    wanted = options.clusters * options.backends
    began, cpu_s = time.monotonic(), agent.cpu_s()
    for path in directory.iterdir():
        (empty / path.name).write_text(path.read_text())
    while not _is_synced(agent, options.clusters):
        if time.monotonic() - began > SYNC_TIMEOUT_S:
            raise BenchError(f"not in sync after {SYNC_TIMEOUT_S:g} s: {'; '.join(agent.status().warnings)}")
        time.sleep(STATUS_EVERY_S)
    seconds = time.monotonic() - began
    held = kernel(agent, stack)
    for service in services:
        if held.backends(service) != wanted:
            raise BenchError(f"service {service.name} has {held.backends(service)} backends, not {wanted}")
    return agent, Synced(seconds, agent.cpu_s() - cpu_s, agent.resident_mib())


def _is_synced(agent: Agent, clusters: int) -> bool:
    status = agent.status()
    if status.failed_count:
        raise BenchError(f"meshd could not write {status.failed[0].name}: {status.failed[0].reason}")
    synced = cluster_pb2.CLUSTER_STATE_SYNCED
    found = sum(not each.local and each.state == synced for each in status.clusters)
    return found == clusters and not status.pending


def _changes(
    options: Options, peers: Worker, held: Kernel, services: Sequence[BenchService], progress: Progress
) -> tuple[list[float], float, float]:
    """Milliseconds of each timed change, how many others there were a second, and for how long it all went on."""
    timed = max(len(services) // 2, 1)
    if options.rate and timed < len(services):
        peers.ask(go_on=[options.rate, timed])
    began, found = time.monotonic(), []
    full = options.clusters * options.backends
    for number in range(options.changes):
        progress.tick(f"{number + 1} of {options.changes}")
        turn = number // 2
        cluster, service = turn % options.clusters, services[turn % timed]
        count = options.backends - (number % 2 == 0)
        peers.send(change=[cluster, service.index, count])
        seen = _seen(held, service, full - options.backends + count)
        found.append((seen - peers.answer()["put_ns"]) / 1e6)
    took_s = time.monotonic() - began
    return found, peers.ask(rest=True)["changes"] / took_s, took_s


def _seen(held: Kernel, service: BenchService, expected: int) -> int:
    deadline = time.monotonic() + TIMEOUT_S
    while held.backends(service) != expected:
        if time.monotonic() > deadline:
            raise BenchError(
                f"service {service.name} should have {expected} backends in the kernel, it has {held.backends(service)}"
            )
        time.sleep(LOOK_EVERY_S)
    return time.monotonic_ns()


def _figures(
    case: str, options: Options, first: Synced, loaded: Synced, times: Sequence[float], done: float
) -> tuple[list[Row], list[Target]]:
    busy = f"{case}, {options.rate} changes/s"
    slowest = quantile(times, P99)
    rows = [
        estimated(MESHD, case, "first sync", "s", value=exact(first.seconds)),
        estimated(MESHD, case, "CPU of it", "s", value=exact(first.cpu_s)),
        estimated(MESHD, case, "memory", "MiB", value=exact(first.resident_mib)),
        estimated(MESHD, busy, "other changes", "1/s", value=exact(done)),
        estimated(MESHD, busy, "CPU", "%", value=exact(100 * loaded.cpu_s / loaded.seconds)),
        estimated(MESHD, busy, "memory", "MiB", value=exact(loaded.resident_mib)),
        row(MESHD, busy, "change p50", "ms", values=times),
        estimated(MESHD, busy, "change p99", "ms", value=slowest),
    ]
    return rows, [target(f"change to the kernel p99, {busy}, ms", LIMIT_MS, slowest)]
