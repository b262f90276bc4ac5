"""From rounds of `meshctl bench path` to figures and targets: every path beside plain routing of the same span."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from meshd.bench.report import Row, Target, row, target, target_of_least
from meshd.bench.statistics import Estimate, ratio

SAME, ACROSS = "same node", "across nodes"
ONE, TWO, ANY = "one CPU", "two CPUs", "any CPU"
ROUTING, BRIDGE, LOOPBACK, KERNEL_VXLAN = "veth + routing", "bridge + kube-proxy", "loopback", "kernel VXLAN"
MESHD, MESHD_VXLAN = "meshd", "meshd VXLAN"

# What a path through meshd may be to plain routing: path and span -> placement -> the most that any p50 may be.
MESSAGES_AT_MOST = {
    (MESHD, SAME): {ONE: 0.94, TWO: 1.02},
    (MESHD, ACROSS): {ONE: 0.98, TWO: 1.02},
    (MESHD_VXLAN, ACROSS): {ONE: 1.12, TWO: 1.12},
}
# The same for what is to be large, on one CPU and on two: path and span -> metric -> the least.
AT_LEAST = {
    (MESHD, SAME): {"bulk": 1.0, "connections": 1.0},
    (MESHD, ACROSS): {"connections": 0.97},
}


@dataclass(frozen=True, slots=True)
class Results:
    """Of one path. ``rounds``: placement -> metric -> one value a round."""

    path: str
    span: str
    rounds: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, placement: str, metric: str, value: float) -> None:
        """One more round."""
        self.rounds.setdefault(placement, {}).setdefault(metric, []).append(value)


def rows(found: Sequence[Results], units: dict[str, str]) -> Iterator[Row]:
    """Every figure of every path, with its ratio to the baseline of its span; ``units``: of the metrics, in order.

    What was not measured with a path (the floor has metrics of its own) has no row.
    """
    for placement in (ONE, TWO, ANY):
        for metric, unit in units.items():
            for each in found:
                values = each.rounds.get(placement, {}).get(metric)
                if values:
                    to = _baseline(found, each, placement, metric)
                    yield row(each.path, _case(each, placement), metric, unit, values=values, baseline=to)


def targets(found: Sequence[Results]) -> Iterator[Target]:
    """Those that this machine can say something of."""
    for each in found:
        for placement, most in MESSAGES_AT_MOST.get((each.path, each.span), {}).items():
            for metric in each.rounds.get(placement, {}):
                if metric.endswith("p50"):
                    yield target(_name(each, placement, metric), most, _ratio(found, each, placement, metric))
        for metric, least in AT_LEAST.get((each.path, each.span), {}).items():
            for placement in (ONE, TWO):
                if placement in each.rounds:
                    measured = _ratio(found, each, placement, metric)
                    yield target_of_least(_name(each, placement, metric), least, measured)


def _case(each: Results, placement: str) -> str:
    return f"{each.span}, {placement}" if each.span else placement


def _name(each: Results, placement: str, metric: str) -> str:
    return f"{each.path}, {_case(each, placement)}: {metric}, ratio"


def _ratio(found: Sequence[Results], each: Results, placement: str, metric: str) -> Estimate:
    return ratio(each.rounds[placement][metric], _baseline(found, each, placement, metric))


def _baseline(found: Sequence[Results], each: Results, placement: str, metric: str) -> Sequence[float]:
    """Rounds of plain routing; none for itself, and for what has no span."""
    for other in found:
        if other.path == ROUTING and other.span == each.span and other is not each:
            return other.rounds[placement][metric]
    return ()
