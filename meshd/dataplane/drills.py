"""The drill of this node, if there is one: what plans ask for, and what came of the choices that its lists made.

A plan writes the drill's list beside the normal one, with the time at which the programs themselves go back to that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from meshd.dataplane.candidate import Candidate, Place
from meshd.dataplane.ladder import cluster_of
from meshd.model import ServiceName
from meshd.model.drill import Drill


@dataclass(slots=True)
class _Memory:
    """``clusters``: list -> packed backend -> its cluster. ``shares``: what the newest lists give to each."""

    clusters: dict[int, dict[bytes, str]] = field(default_factory=dict)
    shares: list[dict[str, float]] = field(default_factory=list)


class Drills:
    """At most one at a time. ``clock``: CLOCK_MONOTONIC in ns."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._drill: Drill | None = None
        self._memory = _Memory()

    @property
    def current(self) -> Drill | None:
        """The one that goes on, or has not been ended yet."""
        return self._drill

    def begin(self, drill: Drill) -> None:
        """From the next plan of its service on."""
        self._drill, self._memory = drill, _Memory()

    def end(self) -> None:
        """The next plan of its service is as if there had been none; what it counted stays until the next one."""
        self._drill = None

    def of(self, name: ServiceName) -> Drill | None:
        """The drill of this service, while its time is not over."""
        drill = self._drill
        return drill if drill and drill.service == name and self._clock() < drill.until_ns else None

    def planned_anew(self) -> None:
        """The lists that `note` is told of from here on replace those before, of which some may still be counted."""
        self._memory.shares = []

    def note(self, number: int, chosen: Iterable[tuple[bytes, Candidate]], place: Place) -> None:
        """List ``number`` was planned for the drill, with these packed backends."""
        clusters, weights = dict[bytes, str](), Counter[str]()
        for packed, each in chosen:
            clusters[packed] = cluster_of(each, place)
            weights[clusters[packed]] += each.backend.weight or 1
        self._memory.clusters[number] = clusters
        total = sum(weights.values())
        if total:
            self._memory.shares.append({name: weight / total for name, weight in weights.items()})

    def planned(self) -> dict[str, float]:
        """Cluster -> its share, the mean of the frontends."""
        shares = self._memory.shares
        names = sorted({name for each in shares for name in each})
        return {name: sum(each.get(name, 0.0) for each in shares) / len(shares) for name in names}

    def given(self, choices: Iterable[tuple[int, bytes, int]]) -> dict[str, int]:
        """Cluster -> connections, of rows of `drill_choices`: list, packed backend, how often."""
        found: Counter[str] = Counter()
        for number, backend, count in choices:
            cluster = self._memory.clusters.get(number, {}).get(backend)
            if cluster is not None:
                found[cluster] += count
        return dict(sorted(found.items()))


def as_lost(candidates: Sequence[Candidate], lose: str, place: Place) -> list[Candidate]:
    """``candidates`` as they would be if cluster ``lose`` could not be reached."""
    return [
        each._replace(reachable=False) if cluster_of(each, place) == lose else each for each in candidates
    ]
