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
from meshd.bench.etcds import require_etcd
from meshd.bench.path_lanes import Found, Lane
from meshd.bench.path_network import Network
from meshd.bench.path_probes import FLOOR_METRIC, METRICS, PROBE, Metric, Placement
from meshd.bench.path_results import BRIDGE, KERNEL_VXLAN, LOOPBACK, MESHD, ROUTING, Results, rows, targets
from meshd.bench.places import BenchError, Places
from meshd.bench.progress import Progress
from meshd.bench.report import Report, report

UNITS = {name: metric.unit for metric in (FLOOR_METRIC, *METRICS) for name in metric.names}


@dataclass(frozen=True, slots=True)
class Options:
    """``seconds``: of one measurement; each round makes five of every path and placement."""

    rounds: int = 12
    seconds: float = 0.1


def measure(options: Options, places: Places, stack: contextlib.ExitStack, progress: Progress) -> Report:
    """The report of a run inside ``places``; what it started ends with ``stack``.

    Raises:
        BenchError: something could not be set up or measured; the sentence says what.
    """
    _require()
    agents: list[Agent] = []
    network, placements = Network(places, stack), Placement.chosen()
    lanes = [Lane.opened(*found, stack) for found in _found(network, stack, agents, progress)]
    progress.step(path_carried.attached(agents))
    floor, before = Results("floor", ""), path_carried.seen_by(agents)
    progress.step(f"{options.rounds} rounds of {len(lanes)} paths, {len(placements)} placements")
    for number in range(options.rounds):
        for placement in placements:
            progress.tick(f"round {number + 1} of {options.rounds}, {placement.name}")
            here = lanes[0].client
            _add(floor, placement, FLOOR_METRIC, FLOOR_METRIC.measure(here, here, placement, options.seconds))
            # Another first one each time: nobody always follows the same neighbour.
            begin = number % len(lanes)
            _measure_round((*lanes[begin:], *lanes[:begin]), placement, options.seconds)
    found = [floor, *(lane.results for lane in lanes)]
    carried = path_carried.rows(MESHD, before, path_carried.seen_by(agents))
    baseline = f"{ROUTING} of the same span"
    return report("path", options.rounds, baseline, [*rows(found, UNITS), *carried], list(targets(found)))


def _require() -> None:
    for program, package in (("iperf3", "iperf3"), ("nft", "nftables")):
        if shutil.which(program) is None:
            raise BenchError(f"{program} is not installed: install {package}, the path bench needs it")
    if not PROBE.exists():
        raise BenchError(f"{PROBE} is not there: `make setup`, or python -m build_backend.path_probe")
    require_etcd()


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
    yield from path_meshd.vxlan(network, stack, agents)


def _measure_round(lanes: Sequence[Lane], placement: Placement, seconds: float) -> None:
    for lane in lanes:
        lane.server.place(placement)
    for metric in METRICS:
        for lane in lanes:
            values = metric.measure(lane.client, lane.server.end, placement, seconds)
            _add(lane.results, placement, metric, values)


def _add(results: Results, placement: Placement, metric: Metric, values: Sequence[float]) -> None:
    for name, value in zip(metric.names, values, strict=True):
        results.add(placement.name, name, value)
