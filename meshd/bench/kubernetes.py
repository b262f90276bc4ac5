"""`meshctl bench kubernetes`: an agent reads a large API server, and follows it while much changes.

Time zero of the start is the start of the process; the end is the first status in which all services are in force, the
source is complete and nothing waits for the kernel. Time zero of a change is the moment before its request is sent; the end
is the first look at the pinned `frontends` map that shows the list with so many slots as there are ready backends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from meshd.bench.agents import Agent
from meshd.bench.kubernetes_changes import Change, changes
from meshd.bench.kubernetes_population import populate, remove
from meshd.bench.places import BenchError, Place, Places
from meshd.bench.population import BACKENDS_EACH, population
from meshd.bench.progress import Progress
from meshd.bench.propagation import kernel
from meshd.bench.report import Report, Row, Target, estimated, report, row, target
from meshd.bench.statistics import exact, quantile
from meshd.errors import MeshError
from meshd.kernel import cgroup
from meshd.kernel.netns import Netns
from meshd.kubeapi import kubeconfig

START_LIMIT_S, MEMORY_LIMIT_MIB, CHANGE_LIMIT_MS = 20.0, 300.0, 60.0
SOURCE = "kubernetes"
START_TIMEOUT_S, STATUS_EVERY_S = 300.0, 0.2
MESHD = "meshd"
P99 = 0.99


@dataclass(frozen=True, slots=True)
class Options:
    """``rate``: changes a second that go on while ``changes`` of them are timed."""

    kubeconfig: Path
    services: int = 10_000
    rate: int = 100
    changes: int = 500


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
    stack.callback(lambda: asyncio.run(remove(access, namespace)))
    try:
        dialled = asyncio.run(populate(access, namespace, services, progress.tick))
    except* MeshError as errors:
        raise BenchError(f"the services could not be made: {first_of(errors)}") from errors
    progress.step("an agent starts, and reads them")
    began = time.monotonic()
    agent = stack.enter_context(_agent(places, options.kubeconfig))
    started = _until_settled(agent, began, len(dialled))
    held = kernel(agent, stack)
    progress.step(f"settled after {started.seconds:.1f} s, {started.resident_mib:.0f} MiB")
    progress.step(f"{options.changes} backends change, while {options.rate} others do so a second")
    try:
        times, done = asyncio.run(
            changes(access, namespace, held, dialled, options.changes, options.rate, progress.tick)
        )
    except* MeshError as errors:
        raise BenchError(f"changes ended: {first_of(errors)}") from errors
    loaded_mib = agent.resident_mib()
    rows, targets = _figures(options, started, loaded_mib, times, done)
    return report("kubernetes", options.changes, "none", rows, targets)


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


def first_of(errors: BaseExceptionGroup[MeshError]) -> BaseException:
    """The first error of a group of groups."""
    first = errors.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _figures(
    options: Options, started: Started, loaded_mib: float, times: Sequence[Change], done: float
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
        estimated(MESHD, busy, "other changes", "1/s", value=exact(done)),
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
