"""`meshctl bench propagation`: how long a backend's change in one cluster takes to the kernel of a node of another.

Time zero is the rename that puts the changed EndpointSlice among cm-1's manifests. The end is the first look at the pinned
`frontends` map of a node that shows the list with so many slots as there are ready backends. The same change is timed in
cm-1's own node, in the same look: the ratio is what the way through etcd adds.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple

from meshd.bench.agents import Agent
from meshd.bench.clusters import Cluster
from meshd.bench.etcds import require_etcd
from meshd.bench.places import BenchError, Places
from meshd.bench.population import (
    BACKENDS_EACH,
    SERVICE_PORT,
    BenchService,
    endpoints,
    global_services,
    population,
)
from meshd.bench.progress import Progress
from meshd.bench.report import Report, Row, Target, estimated, report, row, target
from meshd.bench.statistics import quantile, unbounded
from meshd.kernel.codec import Codec
from meshd.kernel.maps import Map
from meshd.kernel.object import BpfObject

LIMIT_MS = 250.0
TIMEOUT_S = 30.0
# Shorter than what is measured by far, and long enough that looking takes no CPU from those who are looked at.
LOOK_EVERY_S = 0.0002
LOCAL, REMOTE = "same cluster", "other cluster"
P99 = 0.99
_TCP = 6


@dataclass(frozen=True, slots=True)
class Options:
    """``toggles``: how often a backend becomes ready, and as often not ready."""

    services: int = 500
    toggles: int = 200


class _Endpoint(NamedTuple):
    address: bytes
    port: int
    protocol: int


class _Service(NamedTuple):
    list: int
    drill_list: int
    drill_until_ns: int
    slots: int
    drill_slots: int
    affinity_timeout_s: int
    source: int
    flags: int


class Kernel:
    """The `frontends` map of one node, read without asking its agent."""

    def __init__(self, frontends: Map, endpoint: Codec[_Endpoint], service: Codec[_Service]) -> None:
        self._frontends = frontends
        self._endpoint = endpoint
        self._service = service

    def backends(self, service: BenchService) -> int:
        """How many backends new connections to ``service`` may get; -1: the node does not know it.

        Every backend of a list has one slot of its own (`bpf/maps/socket_lb.h`).
        """
        address = b"\0" * 10 + b"\xff\xff" + IPv4Address(service.address).packed
        found = self._frontends.lookup(self._endpoint.encode(_Endpoint(address, SERVICE_PORT, _TCP)))
        return -1 if found is None else self._service.decode(found).slots


def measure(options: Options, places: Places, stack: contextlib.ExitStack, progress: Progress) -> Report:
    """The report of a run inside ``places``; what it started ends with ``stack``.

    Raises:
        BenchError: something could not be set up, or a change never arrived; the sentence says what.
    """
    require_etcd()
    progress.step("two clusters: etcd and meshd")
    place = places.place("propagation")
    first, second = (Cluster(places, place, stack, f"cm-{number}", number) for number in (1, 2))
    for cluster in (first, second):
        cluster.wait_for_etcd()
    second.follow(first)
    local, remote = (cluster.start_agent() for cluster in (first, second))
    services = population(options.services)
    progress.step(f"{options.services:,} global services x {BACKENDS_EACH} backends")
    for service in services:
        local.put(f"{service.name}.json", endpoints(service))
    for agent in (local, remote):
        agent.put("services.json", global_services(services))
    kernels = [kernel(agent, stack) for agent in (local, remote)]
    for service in services:
        arrived(kernels, service, BACKENDS_EACH)
    progress.step(f"{options.toggles} backends become ready and not ready")
    case = f"{options.services:,} global services x {BACKENDS_EACH} backends"
    times = toggle(local, kernels, services, options.toggles, progress.tick)
    rows = [each for what, found in times.items() for each in _rows(case, what, found)]
    targets = [_target(case, times["ready"])]
    return report("propagation", options.toggles, f"{LOCAL}: the kernel of cm-1's own node", rows, targets)


def kernel(agent: Agent, stack: contextlib.ExitStack) -> Kernel:
    """The node of ``agent``, to be read until ``stack`` ends."""
    with BpfObject.open() as bpf:
        endpoint, service = bpf.btf.codec("endpoint", _Endpoint), bpf.btf.codec("service", _Service)
    frontends = agent.open_map("frontends")
    stack.callback(frontends.close)
    return Kernel(frontends, endpoint, service)


def toggle(
    local: Agent,
    kernels: Sequence[Kernel],
    services: Sequence[BenchService],
    toggles: int,
    say: Callable[[str], None],
) -> dict[str, list[list[float]]]:
    """Milliseconds of every change, ``ready`` and ``not ready``, for each of ``kernels``; services take turns."""
    found: dict[str, list[list[float]]] = {"ready": [], "not ready": []}
    for number in range(toggles):
        say(f"{number + 1} of {toggles}")
        service = services[number % len(services)]
        backend = service.backends[number % len(service.backends)]
        for what, waiting in (("not ready", [backend]), ("ready", [])):
            content = endpoints(service, waiting)
            began_ns = time.monotonic_ns()
            local.put(f"{service.name}.json", content)
            at_ns = arrived(kernels, service, len(service.backends) - len(waiting))
            found[what].append([(moment - began_ns) / 1e6 for moment in at_ns])
    return found


def arrived(
    kernels: Sequence[Kernel], service: BenchService, backends: int, timeout_s: float = TIMEOUT_S
) -> list[int]:
    """When each of ``kernels`` was first seen with so many ``backends`` of ``service`` (CLOCK_MONOTONIC, ns).

    Raises:
        BenchError: one of them was not within ``timeout_s``.
    """
    moments = [0] * len(kernels)
    deadline = time.monotonic() + timeout_s
    while not all(moments):
        for index, each in enumerate(kernels):
            if not moments[index] and each.backends(service) == backends:
                moments[index] = time.monotonic_ns()
        if time.monotonic() > deadline:
            seen = [each.backends(service) for each in kernels]
            raise BenchError(
                f"service {service.name} should have {backends} backends, but after {timeout_s:g} s the nodes of "
                f"cm-1 and cm-2 have {seen[0]} and {seen[1]}"
            )
        time.sleep(LOOK_EVERY_S)
    return moments


def _rows(case: str, what: str, times: Sequence[Sequence[float]]) -> Iterator[Row]:
    local, remote = ([each[side] for each in times] for side in (0, 1))
    yield row(LOCAL, case, f"{what} p50", "ms", values=local)
    yield row(REMOTE, case, f"{what} p50", "ms", values=remote, baseline=local)
    at_most = quantile(local, P99)
    yield estimated(LOCAL, case, f"{what} p99", "ms", value=at_most)
    value = quantile(remote, P99)
    # Of two quantiles, not of rounds: there is no interval to give.
    ratio = unbounded(value.value / at_most.value)
    yield estimated(REMOTE, case, f"{what} p99", "ms", value=value, to_baseline=ratio)


def _target(case: str, times: Sequence[Sequence[float]]) -> Target:
    measured = quantile([remote for _, remote in times], P99)
    return target(f"ready p99 in the {REMOTE}, {case}, ms", LIMIT_MS, measured)
