"""`meshctl bench service-lb`: what a service address costs, and how quickly a change of services is in the kernel.

Four paths, each in namespaces of its own: no service (a backend dialled directly), meshd, and the rules of kube-proxy in
its modes nftables and iptables. The agents are real ones, driven through their manifests directories and their API.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from meshd.bench import connect, iptables, netfilter, programming, removal
from meshd.bench.agents import Agent
from meshd.bench.connect import DIRECT, Dialled, case_of
from meshd.bench.lanes import MESHD, NFTABLES, Lane, Lanes
from meshd.bench.places import Places
from meshd.bench.population import population
from meshd.bench.progress import Progress
from meshd.bench.report import Report, Row, Target, report, target
from meshd.bench.statistics import ratio

# Beside the largest population, removals are measured here.
FEW_SERVICES = 10
# A removal by ``nft`` takes up to a second with many services, so there are fewer of them.
NFTABLES_SHARE = 10
NFTABLES_REMOVALS_MIN = 6
CONNECT_LIMIT = 1.08


@dataclass(frozen=True, slots=True)
class Options:
    """Sizes of a run. ``services``: populations, ascending; the last one is what programming and removals are about."""

    services: tuple[int, ...] = (1, 1_000, 10_000)
    rounds: int = 30
    connections: int = 500
    programming_rounds: int = 6
    removals: int = 200

    @property
    def removal_services(self) -> tuple[int, ...]:
        """Populations that backends are removed from."""
        return tuple(sorted({FEW_SERVICES, self.services[-1]}))


@dataclass(frozen=True, slots=True)
class Prepared:
    """All lanes of one population, the baseline first; ``dialled``: connect() is measured there."""

    lanes: tuple[Lane, ...]
    agent: Agent
    programmed: programming.Programming
    dialled: bool

    def lane(self, path: str) -> Lane:
        return next(lane for lane in self.lanes if lane.path == path)


def measure(options: Options, places: Places, stack: contextlib.ExitStack, progress: Progress) -> Report:
    """The report of a run inside ``places``; what it started ends with ``stack``.

    Raises:
        BenchError: something could not be set up or measured; the sentence says what.
    """
    netfilter.require()
    opening = Lanes(places, stack)
    counts = sorted({*options.services, *options.removal_services})
    prepared = {count: _prepare(options, opening, count, progress) for count in counts}
    largest = prepared[options.services[-1]]
    dialled = [
        Dialled(lane.path, lane.services, lane.client)
        for each in prepared.values()
        if each.dialled
        for lane in each.lanes
    ]
    progress.step(
        f"connect(): {options.rounds} rounds, {len(dialled)} paths, {options.connections} connections each"
    )
    connect.measure(dialled, options.rounds, options.connections, progress.tick)
    removals = {
        (count, path): found
        for count in options.removal_services
        for path, found in _remove(options, opening, prepared[count], progress)
    }
    rows = [
        *connect.rows(dialled),
        *programming.rows(largest.programmed, largest.lanes[2:]),
        *_removal_rows(removals),
    ]
    targets = [
        _connect_target(dialled),
        *programming.targets(largest.programmed),
        *_removal_targets(removals),
    ]
    baseline = f"no service ({opening.cpus}); programming and removals: nftables; iptables by {iptables.restore_command()}"
    return report("service-lb", options.rounds, baseline, rows, targets)


def _prepare(options: Options, opening: Lanes, count: int, progress: Progress) -> Prepared:
    services = population(count)
    dialled = count in options.services
    largest = count == options.services[-1]
    progress.step(f"{case_of(count)}: meshd")
    lane, agent = opening.meshd(services)
    rounds = options.programming_rounds if largest else 1
    programmed = programming.measure(agent, services, rounds, progress.tick)
    # One transaction, as kube-proxy's first synchronisation is: its time grows with the square of the rules.
    progress.step(f"{case_of(count)}: nft -f" + (", about a minute" if count >= 10_000 else ""))
    lanes = [opening.direct(services), lane, opening.nftables(services)]
    if dialled:
        progress.step(f"{case_of(count)}: {iptables.restore_command()}")
        lanes.append(opening.iptables(services))
    return Prepared(tuple(lanes), agent, programmed, dialled)


def _remove(
    options: Options, opening: Lanes, prepared: Prepared, progress: Progress
) -> Iterator[tuple[str, removal.Removals]]:
    """The agent removes backends of a service of its API, beside those of its manifests; nft those of the last service."""
    lane = prepared.lane(MESHD)
    count = len(lane.services)
    service = population(count + 1)[-1]
    progress.step(f"removals with {case_of(count)}: meshd")
    prepared.agent.apply(service)
    by_agent = removal.OfAgent(prepared.agent, service)
    dialled = removal.Dialled(service, lane.client, lane.server)
    yield MESHD, removal.measure(by_agent, dialled, options.removals, progress.tick)
    lane = prepared.lane(NFTABLES)
    service = lane.services[-1]
    progress.step(f"removals with {case_of(count)}: nft -f")
    by_nft = removal.OfNftables(opening.places, lane.place, service)
    dialled = removal.Dialled(service, lane.client, lane.server)
    fewer = max(options.removals // NFTABLES_SHARE, NFTABLES_REMOVALS_MIN)
    yield NFTABLES, removal.measure(by_nft, dialled, fewer, progress.tick)


def _removal_rows(removals: dict[tuple[int, str], removal.Removals]) -> Iterator[Row]:
    for (count, path), found in removals.items():
        baseline = removals[count, NFTABLES] if path == MESHD else None
        yield from removal.rows(path, case_of(count), found, baseline)


def _removal_targets(removals: dict[tuple[int, str], removal.Removals]) -> Iterator[Target]:
    for (count, path), found in removals.items():
        if path == MESHD:
            yield from removal.targets(case_of(count), found)


def _connect_target(dialled: list[Dialled]) -> Target:
    """connect() p50 with the largest population, as a ratio to no service."""
    last = {each.path: each for each in dialled}
    metric = "connect p50"
    measured = ratio(last[MESHD].results[metric], last[DIRECT].results[metric])
    return target(f"{metric} with {last[MESHD].case}, ratio to {DIRECT}", CONNECT_LIMIT, measured)
