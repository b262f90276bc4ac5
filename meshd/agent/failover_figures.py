"""Failovers as figures: how many, how long they took, and which go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from meshd.dataplane.failover_history import FailoverHistory
from meshd.model.failover_history import Cause
from meshd.servers.introspection import Figure, Sample


def failover_figures(history: FailoverHistory) -> Sequence[Figure]:
    """Since the start of the agent; how many go on counts older ones as well."""
    open_now = Counter((each.cluster, each.cause) for each in history.failovers if each.ended_s is None)
    return [
        Figure(
            "failovers",
            "Failovers, by the cluster whose backends could not serve any more and why.",
            "counter",
            _samples(history.counts),
        ),
        Figure(
            "failover_moves",
            "Services whose traffic moved, over all failovers.",
            "counter",
            _samples(history.moves),
        ),
        Figure(
            "failover_switch_seconds",
            "From the finding until the kernel held the change, summed over all moves.",
            "counter",
            _samples(history.switch_s),
        ),
        Figure(
            "failover_detection_seconds",
            "From the last answer of a node to the finding that it is silent, summed over failovers: the longest of each.",
            "counter",
            tuple(Sample(value, {"cluster": name}) for name, value in sorted(history.detection_s.items())),
        ),
        Figure("failovers_open", "Failovers that go on.", "gauge", _samples(open_now)),
    ]


def _samples(values: Mapping[tuple[str, Cause], float]) -> tuple[Sample, ...]:
    ordered = sorted(values.items(), key=lambda each: (each[0][0], each[0][1].value))
    return tuple(
        Sample(float(value), {"cluster": name, "cause": cause.value}) for (name, cause), value in ordered
    )
