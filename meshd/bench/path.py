"""`meshctl bench path`: what the way of a packet between two pods costs, on one node and between two.

Paths: veth pairs and routes alone, the baseline; a Linux bridge with the rules of kube-proxy; a VXLAN device of the kernel;
loopback; and meshd, with real agents and pods that came by CNI. The placement of the two ends decides more than most code
does, so every figure stands beside the floor: two processes that wake each other.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meshd.bench import path_carried, path_lanes, path_meshd
from meshd.bench.agents import Agent
from meshd.bench.path_lanes import ACROSS, BRIDGE, KERNEL_VXLAN, LOOPBACK, ROUTING, SAME, Found, Lane
from meshd.bench.path_meshd import MESHD
from meshd.bench.path_network import Network
from meshd.bench.path_probes import BYTES, FLOOR_METRIC, METRICS, PROBE, End, Placement, Server, wakeups
from meshd.bench.places import BenchError, Places
from meshd.bench.progress import Progress
from meshd.bench.report import Report, Row, Target, report, row, target, target_of_least
from meshd.bench.statistics import Estimate, ratio

FLOOR = "floor"
# Ratios to veth + routing that a path through meshd may have: path and span -> placement -> p50.
MESSAGE_LIMITS = {
    (MESHD, SAME): {"one CPU": 0.94, "two CPUs": 1.02},
    (MESHD, ACROSS): {"one CPU": 0.98, "two CPUs": 1.02},
}
# The same for what is to be large: path and span -> metric.
LEAST = {(MESHD, SAME): {"bulk": 1.0, "connections": 1.0}, (MESHD, ACROSS): {"connections": 0.97}}


@dataclass(frozen=True, slots=True)
class Options:
    """``seconds``: of one measurement; each round makes five of every path and placement."""

    rounds: int = 10
    seconds: float = 0.1


def measure(options: Options, places: Places, stack: contextlib.ExitStack, progress: Progress) -> Report:
    """The report of a run inside ``places``; what it started ends with ``stack``.

    Raises:
        BenchError: something could not be set up or measured; the sentence says what.
    """
    _require()
    network = Network(places, stack)
    placements = Placement.chosen()
    agents: list[Agent] = []
    lanes = [_opened(found, stack) for found in _found(network, stack, agents, progress)]
    floor: dict[str, dict[str, list[float]]] = {
        each.name: {name: [] for name in FLOOR_METRIC} for each in placements
    }
    here, before = lanes[0].client, path_carried.seen_by(agents)
    progress.step(f"{options.rounds} rounds of {len(lanes)} paths, {len(placements)} placements")
    for number in range(options.rounds):
        for placement in placements:
            progress.tick(f"round {number + 1} of {options.rounds}, {placement.name}")
            _measure_floor(here, placement, options.seconds, floor[placement.name])
            # Another first one each time: nobody always follows the same neighbour.
            begin = number % len(lanes)
            _measure_round((*lanes[begin:], *lanes[:begin]), placement, options.seconds)
    carried = path_carried.rows(MESHD, before, path_carried.seen_by(agents))
    rows = [*_floor_rows(floor), *_rows(lanes, placements), *carried]
    return report("path", options.rounds, f"{ROUTING} of the same span", rows, list(_targets(lanes)))


def _require() -> None:
    for program, package in (("iperf3", "iperf3"), ("nft", "nftables")):
        if shutil.which(program) is None:
            raise BenchError(f"{program} is not installed: install {package}, the path bench needs it")
    if not PROBE.exists():
        raise BenchError(f"{PROBE} is not there: `make setup`, or python -m build_backend.path_probe")


def _found(
    network: Network, stack: contextlib.ExitStack, agents: list[Agent], progress: Progress
) -> Iterator[Found]:
    progress.step(f"{ROUTING}, {BRIDGE}, {KERNEL_VXLAN}, {LOOPBACK}")
    yield from path_lanes.routing(network)
    yield from path_lanes.bridge(network)
    yield from path_lanes.kernel_vxlan(network)
    yield from path_lanes.loopback(network)
    progress.step("meshd: agents and pods")
    yield from path_meshd.native(network, stack, agents)


def _opened(found: Found, stack: contextlib.ExitStack) -> Lane:
    path, span, client, end = found
    server = Server(end)
    stack.callback(server.close)
    return Lane(path, span, client, server)


def _measure_floor(here: End, placement: Placement, seconds: float, results: dict[str, list[float]]) -> None:
    for name, value in zip(FLOOR_METRIC, wakeups(here, placement, seconds), strict=True):
        results[name].append(value)


def _measure_round(lanes: Sequence[Lane], placement: Placement, seconds: float) -> None:
    for lane in lanes:
        lane.server.place(placement)
    for metric in METRICS:
        for lane in lanes:
            values = metric.measure(lane.client, lane.server.end, placement, seconds)
            for name, value in zip(metric.names, values, strict=True):
                lane.add(placement.name, name, value)


def _floor_rows(floor: dict[str, dict[str, list[float]]]) -> Iterator[Row]:
    for placement, results in floor.items():
        for name, values in results.items():
            yield row(FLOOR, placement, name, "us", values=values)


def _rows(lanes: Sequence[Lane], placements: Sequence[Placement]) -> Iterator[Row]:
    """Every figure of every path, with its ratio to the baseline of its span."""
    units = {name: metric.unit for metric in METRICS for name in metric.names}
    for placement in placements:
        for name, unit in units.items():
            for lane in lanes:
                values = lane.results[placement.name][name]
                baseline = _baseline(lanes, lane.span)
                to = () if lane is baseline else baseline.results[placement.name][name]
                yield row(lane.path, f"{lane.span}, {placement.name}", name, unit, values=values, baseline=to)


def _baseline(lanes: Sequence[Lane], span: str) -> Lane:
    return next(lane for lane in lanes if lane.span == span and lane.path == ROUTING)


def _targets(lanes: Sequence[Lane]) -> Iterator[Target]:
    for lane in lanes:
        for placement, limit in MESSAGE_LIMITS.get((lane.path, lane.span), {}).items():
            for size in BYTES:
                measured = _ratio(lanes, lane, placement, f"{size} p50")
                if measured is not None:
                    yield target(f"{lane.name}, {placement}: {size} p50, ratio", limit, measured)
        for metric, limit in LEAST.get((lane.path, lane.span), {}).items():
            for placement in ("one CPU", "two CPUs"):
                measured = _ratio(lanes, lane, placement, metric)
                if measured is not None:
                    yield target_of_least(f"{lane.name}, {placement}: {metric}, ratio", limit, measured)


def _ratio(lanes: Sequence[Lane], lane: Lane, placement: str, metric: str) -> Estimate | None:
    """Of ``lane`` to the baseline; None where this machine has no such placement."""
    if placement not in lane.results:
        return None
    return ratio(lane.results[placement][metric], _baseline(lanes, lane.span).results[placement][metric])
