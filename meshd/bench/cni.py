"""`meshctl bench cni`: how long a container waits for its network, and what many pods cost the agent.

Each pod is added as a runtime does it, by starting the plugin's program; meshd and the usual plugins (bridge with
host-local) take turns, pod by pod, so that the two times of a round were taken within some 20 ms. They are deleted one
plugin after the other: deleting a link holds the kernel's one lock for all network configuration, meshd does it behind the
runtime's back and many at once, and would so stand in the way of the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meshd.bench import cni_plugins
from meshd.bench.agents import Agent
from meshd.bench.cni_plugins import Plugin
from meshd.bench.places import Places
from meshd.bench.progress import Progress
from meshd.bench.report import Report, Row, Target, estimated, report, row, target
from meshd.bench.statistics import exact, quantile, ratio, unbounded

ADD_P50_MS, ADD_P99_MS, DELETE_P50_MS = 6.0, 15.0, 6.0
TO_BASELINE = 0.5
GROWTH_MIB = 40.0
P99 = 0.99


@dataclass(frozen=True, slots=True)
class Options:
    """``pods``: added to each, one by one. ``crowd``: how many meshd has when its memory is read, at least ``pods``."""

    pods: int = 200
    crowd: int = 250


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of each pod, in the order of the rounds."""

    add: Sequence[float]
    delete: Sequence[float]


def measure(options: Options, places: Places, stack: contextlib.ExitStack, progress: Progress) -> Report:
    """The report of a run inside ``places``; what it started ends with ``stack``.

    Raises:
        BenchError: a plugin is not there or failed; the sentence says what.
    """
    cni_plugins.require_plugins()
    crowd = max(options.crowd, options.pods)
    progress.step(f"a node with meshd and one with bridge and host-local, {crowd} namespaces for pods")
    ours, agent = cni_plugins.meshd(places, places.place("meshd"), stack)
    theirs = cni_plugins.bridge(places, places.place("bridge"), stack)
    cni_plugins.make_pods(ours, crowd, places, stack)
    cni_plugins.make_pods(theirs, options.pods, places, stack)
    idle_mib = agent.resident_mib()
    progress.step(f"{options.pods} pods are added to each")
    added = _added(ours, theirs, options.pods, progress)
    crowded_mib = _crowded(ours, agent, options.pods)
    deleted = []
    for plugin, count in ((ours, crowd), (theirs, options.pods)):
        progress.step(f"{count} pods of {plugin.name} are deleted")
        deleted.append([plugin.delete(container) for container in list(plugin.pods)[:count]])
    times = [Times(add, delete) for add, delete in zip(added, deleted, strict=True)]
    rows = [*_rows(ours.name, times[0], times[1]), *_rows(theirs.name, times[1], None)]
    for what, mib in (("no pod", idle_mib), (f"{crowd} pods", crowded_mib)):
        rows.append(estimated(ours.name, what, "memory", "MiB", value=exact(mib)))
    targets = list(_targets(times[0], times[1], crowd, crowded_mib - idle_mib))
    return report("cni", options.pods, "bridge with host-local", rows, targets)


def _added(
    ours: Plugin, theirs: Plugin, pods: int, progress: Progress
) -> tuple[Sequence[float], Sequence[float]]:
    """Milliseconds of each ADD; who goes first changes with each round."""
    found: dict[str, list[float]] = {ours.name: [], theirs.name: []}
    for number in range(pods):
        progress.tick(f"{number + 1} of {pods}")
        for plugin in (ours, theirs) if number % 2 else (theirs, ours):
            found[plugin.name].append(plugin.add(f"{plugin.name}{number}"))
    return found[ours.name], found[theirs.name]


def _crowded(ours: Plugin, agent: Agent, added: int) -> float:
    """The agent's memory with a pod for each namespace."""
    for container in list(ours.pods)[added:]:
        ours.add(container)
    return agent.resident_mib()


def _rows(path: str, times: Times, baseline: Times | None) -> Iterator[Row]:
    case = f"{len(times.add)} pods, one by one"
    yield row(path, case, "ADD p50", "ms", values=times.add, baseline=baseline.add if baseline else ())
    at_p99 = quantile(times.add, P99)
    # Of a single run's p99 nobody can say how far off its ratio is.
    to_baseline = unbounded(at_p99.value / quantile(baseline.add, P99).value) if baseline else None
    yield estimated(path, case, "ADD p99", "ms", value=at_p99, to_baseline=to_baseline)
    for name, fraction in (("DEL p50", 0.5), ("DEL p99", P99)):
        yield estimated(path, case, name, "ms", value=quantile(times.delete, fraction))


def _targets(ours: Times, theirs: Times, crowd: int, growth_mib: float) -> Iterator[Target]:
    """What issue 4 asks of the pace, and of memory with many pods."""
    yield target("ADD p50, ms", ADD_P50_MS, quantile(ours.add, 0.5))
    yield target("ADD p99, ms", ADD_P99_MS, quantile(ours.add, P99))
    yield target("ADD, ratio to bridge with host-local", TO_BASELINE, ratio(ours.add, theirs.add))
    yield target("DEL p50, ms", DELETE_P50_MS, quantile(ours.delete, 0.5))
    yield target(f"memory that {crowd} pods add, MiB", GROWTH_MIB, exact(growth_mib))
