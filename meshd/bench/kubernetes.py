"""`meshctl bench kubernetes`: an agent reads a large API server, and follows it while much changes.

Time zero of the start is the start of the process; the end is the first status in which all services are in force, the
source is complete and nothing waits for the kernel. Time zero of a change is the moment before its request is sent; the end
is the first look at the pinned `frontends` map that shows the list with so many slots as there are ready backends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from meshd.bench.agents import Agent
from meshd.bench.places import BenchError, Place, Places
from meshd.bench.population import (
    BACKENDS_EACH,
    BenchService,
    population,
    service_object,
    slice_object,
)
from meshd.bench.progress import Progress
from meshd.bench.propagation import Kernel, kernel
from meshd.bench.report import Report, Row, Target, estimated, report, row, target
from meshd.bench.statistics import exact, quantile
from meshd.errors import ApiServerError
from meshd.kernel import cgroup
from meshd.kernel.netns import Netns
from meshd.kubeapi import kubeconfig
from meshd.kubeapi.access import Access
from meshd.kubeapi.client import JSON, OBJECT, Client, Object
from meshd.kubeapi.resources import ENDPOINT_SLICES, NAMESPACES, SERVICES, Resource

START_LIMIT_S, MEMORY_LIMIT_MIB, CHANGE_LIMIT_MS = 20.0, 300.0, 60.0
SOURCE = "kubernetes"
# Requests at a time while the population is made: an API server has some hundreds of places for all of its clients.
TOGETHER = 32
START_TIMEOUT_S, CHANGE_TIMEOUT_S, REMOVAL_TIMEOUT_S = 300.0, 30.0, 300.0
LOOK_EVERY_S, STATUS_EVERY_S = 0.0002, 0.2
MESHD = "meshd"
P99 = 0.99


@dataclass(frozen=True, slots=True)
class Options:
    """``rate``: changes a second that go on while ``changes`` of them are timed."""

    kubeconfig: Path
    services: int = 10_000
    rate: int = 100
    changes: int = 500


class Named(msgspec.Struct, frozen=True):
    name: str


class Spec(msgspec.Struct, frozen=True, rename="camel"):
    cluster_ip: str = msgspec.field(default="", name="clusterIP")


class Listed(msgspec.Struct, frozen=True):
    """A Service, as far as one dials it."""

    metadata: Named
    spec: Spec = Spec()


class Answer(msgspec.Struct, frozen=True):
    """Nothing of an answer but that it is one."""


class Change(NamedTuple):
    """Milliseconds until the kernel had it: from the request, and from the API server's answer (0: before it)."""

    from_request_ms: float
    from_answer_ms: float


class Started(NamedTuple):
    """What the start of an agent took, and what it needs then."""

    seconds: float
    resident_mib: float


def measure(options: Options, places: Places, stack: contextlib.ExitStack, progress: Progress) -> Report:
    """The report of a run inside ``places``; what it started ends with ``stack``, what it made in the API server with it.

    Raises:
        BenchError: something could not be set up, or a change never arrived. ApiServerError, ApiServerUnreachable.
    """
    access = kubeconfig.load(options.kubeconfig)
    services = population(options.services)
    namespace = places.name
    progress.step(f"{options.services:,} services x {BACKENDS_EACH} backends in {access.endpoints[0]}")
    stack.callback(lambda: asyncio.run(_remove(access, namespace)))
    dialled = asyncio.run(_populate(access, namespace, services, progress.tick))
    progress.step("an agent starts, and reads them")
    began = time.monotonic()
    agent = stack.enter_context(_agent(places, options.kubeconfig))
    started = _until_settled(agent, began, len(dialled))
    held = kernel(agent, stack)
    progress.step(f"{options.changes} backends change, while {options.rate} others do so a second")
    times = asyncio.run(_changes(access, namespace, held, dialled, options, progress.tick))
    loaded_mib = agent.resident_mib()
    rows, targets = _figures(options, started, loaded_mib, times)
    return report("kubernetes", options.changes, "none", rows, targets)


async def _populate(
    access: Access, namespace: str, services: Sequence[BenchService], say: Callable[[str], None]
) -> list[BenchService]:
    """``services`` with the addresses that the API server chose; their slices are there, too."""
    done = 0
    places = asyncio.Semaphore(TOGETHER)

    async with Client(access) as client:

        async def make(resource: Resource, body: Object) -> None:
            nonlocal done
            async with places:
                await client.create(resource, body, namespace, into=OBJECT)
            done += 1
            say(f"{done:,} of {2 * len(services):,} objects")

        await client.create(NAMESPACES, {"metadata": {"name": namespace}}, into=OBJECT)
        for resource, body in ((SERVICES, service_object), (ENDPOINT_SLICES, slice_object)):
            async with asyncio.TaskGroup() as tasks:
                for service in services:
                    tasks.create_task(make(resource, body(service, namespace)))
        found = await client.list(SERVICES, namespace, into=Listed)
    addresses = {each.metadata.name: each.spec.cluster_ip for each in found.values}
    return [replace(service, address=addresses[service.name]) for service in services]


async def _remove(access: Access, namespace: str) -> None:
    """The namespace and what is in it: where no controller runs, nobody else would empty it."""
    async with Client(access, timeout_s=REMOVAL_TIMEOUT_S) as client:
        for resource in (ENDPOINT_SLICES, SERVICES):
            while (await client.list(resource, namespace, into=Answer)).items:
                # Of very many it takes longer than a server gives a request: it says so, and has done a part.
                with contextlib.suppress(ApiServerError):
                    await client.delete_all(resource, namespace)
        await client.delete(NAMESPACES, namespace)


def _agent(places: Places, path: Path) -> Agent:
    """On the network of this machine, where the API server is in reach; its hooks act on a cgroup without processes."""
    group = places.cgroup / SOURCE
    cgroup.create(group)
    here = Netns.current()
    options = {"kubernetes": {"kubeconfig": str(path), "nodePorts": "none"}}
    return Agent(places, Place(SOURCE, here, here, group), options)


def _until_settled(agent: Agent, began: float, services: int) -> Started:
    while True:
        status = agent.status()
        read = sum(each.services for each in status.sources if each.name == SOURCE and each.complete_once)
        now = time.monotonic()
        if read >= services and not status.pending:
            return Started(now - began, agent.resident_mib())
        if status.failed_count:
            raise BenchError(f"meshd could not write {status.failed[0].name}: {status.failed[0].reason}")
        if now - began > START_TIMEOUT_S:
            raise BenchError(
                f"after {START_TIMEOUT_S:g} s the agent has read {read} of {services} services, "
                f"{status.pending} changes wait: {'; '.join(status.warnings)}"
            )
        time.sleep(STATUS_EVERY_S)


async def _changes(
    access: Access,
    namespace: str,
    held: Kernel,
    services: Sequence[BenchService],
    options: Options,
    say: Callable[[str], None],
) -> list[Change]:
    """The times of each change. What goes on meanwhile is about other services, if there are any."""
    timed, others = services[: len(services) // 2 + 1], services[len(services) // 2 + 1 :]
    found: list[Change] = []
    async with Client(access) as client, asyncio.TaskGroup() as tasks:
        stream = tasks.create_task(_go_on(client, namespace, others, options.rate))
        for number in range(options.changes):
            say(f"{number + 1} of {options.changes}")
            found.append(
                await _one(client, namespace, held, timed[number // 2 % len(timed)], number % 2 == 1)
            )
        stream.cancel()
    return found


async def _one(client: Client, namespace: str, held: Kernel, service: BenchService, ready: bool) -> Change:
    """A backend of ``service`` becomes not ready, or ready again."""
    expected = BACKENDS_EACH - (not ready)
    began = time.monotonic()
    request = asyncio.create_task(_toggle(client, namespace, service, ready))
    while held.backends(service) != expected:
        if time.monotonic() - began > CHANGE_TIMEOUT_S:
            raise BenchError(
                f"service {service.name} should have {expected} backends in the kernel, "
                f"after {CHANGE_TIMEOUT_S:g} s it has {held.backends(service)}"
            )
        await asyncio.sleep(LOOK_EVERY_S)
    seen = time.monotonic()
    answered = await request
    return Change((seen - began) * 1e3, max(seen - answered, 0.0) * 1e3)


async def _toggle(client: Client, namespace: str, service: BenchService, ready: bool) -> float:
    """When the API server had answered."""
    change = [{"op": "replace", "path": "/endpoints/0/conditions/ready", "value": ready}]
    name = f"{service.name}-1"
    await client.patch(ENDPOINT_SLICES, name, change, namespace, into=Answer, kind=JSON)
    return time.monotonic()


async def _go_on(client: Client, namespace: str, services: Sequence[BenchService], rate: int) -> None:
    """``rate`` changes a second until cancelled, whether the answers come as quickly or not."""
    if not rate or not services:
        return
    began, number = time.monotonic(), 0
    async with asyncio.TaskGroup() as tasks:
        while True:
            service = services[number // 2 % len(services)]
            tasks.create_task(_toggle(client, namespace, service, number % 2 == 1))
            number += 1
            await asyncio.sleep(max(began + number / rate - time.monotonic(), 0.0))


def _figures(
    options: Options, started: Started, loaded_mib: float, times: Sequence[Change]
) -> tuple[list[Row], list[Target]]:
    case = f"{options.services:,} services x {BACKENDS_EACH} backends"
    busy = f"{case}, {options.rate} changes/s"
    asked, answered = ([each[side] for each in times] for side in (0, 1))
    slowest = quantile(asked, P99)
    most_mib = exact(max(loaded_mib, started.resident_mib))
    rows = [
        estimated(MESHD, case, "start", "s", value=exact(started.seconds)),
        estimated(MESHD, case, "memory", "MiB", value=exact(started.resident_mib)),
        estimated(MESHD, busy, "memory", "MiB", value=exact(loaded_mib)),
        row(MESHD, busy, "change from request p50", "ms", values=asked),
        estimated(MESHD, busy, "change from request p99", "ms", value=slowest),
        row(MESHD, busy, "change from answer p50", "ms", values=answered),
        estimated(MESHD, busy, "change from answer p99", "ms", value=quantile(answered, P99)),
    ]
    targets = [
        target(f"start to settled, {case}, s", START_LIMIT_S, exact(started.seconds)),
        target(f"memory, {busy}, MiB", MEMORY_LIMIT_MIB, most_mib),
        target(f"change to the kernel p99, {busy}, ms", CHANGE_LIMIT_MS, slowest),
    ]
    return rows, targets
