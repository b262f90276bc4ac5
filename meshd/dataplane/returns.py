"""Which clusters are on their way back to which services, and since when: what slow return has to remember.

Only of services that ask for it (``ramp_s``). A cluster is back when it serves again that served before, since this agent
runs: what appears for the first time, or after a start, is taken as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from meshd.dataplane.candidate import Able, Place
from meshd.dataplane.choice import standing
from meshd.dataplane.ladder import cluster_of
from meshd.dataplane.ramp import Return
from meshd.model import Service, ServiceName
from meshd.state import Mesh, PlanKey

# A share grows in so many steps, each one a new list of slots.
STEPS = 20
# Steps of short ramps come no faster.
LEAST_STEP_S = 0.25


@dataclass(slots=True)
class _Memory:
    """Of one service. ``since``: cluster that is on its way back -> when it came, and whether it was known then."""

    ramp_s: int
    serving: frozenset[str]
    known: frozenset[str]
    ever: set[str]
    since: dict[str, tuple[float, bool]] = field(default_factory=dict)


class Returns:
    """Of one node. ``clock``: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._memories: dict[ServiceName, _Memory] = {}
        self._begun = asyncio.Event()

    def look(self, service: Service, all_able: Iterable[Able], place: Place) -> Sequence[Return]:
        """The returns to ``service`` that are going on; remembers who serves it now."""
        name, ramp_s = service.name, service.ramp_s
        if not ramp_s:
            self.forget(name)
            return ()
        serving, known = _present(service, all_able, place)
        memory = self._memories.get(name)
        if memory is None:
            memory = self._memories[name] = _Memory(ramp_s, serving, known, set(serving))
        now, memory.ramp_s = self._clock(), ramp_s
        for cluster in (serving & memory.ever) - memory.serving:
            memory.since[cluster] = now, cluster in memory.known
        memory.serving, memory.known = serving, known
        memory.ever |= serving
        found = [
            Return(cluster, progress(now - since, ramp_s), was_known)
            for cluster, (since, was_known) in memory.since.items()
            if cluster in serving
        ]
        going_on = [each for each in found if each.progress < 1]
        memory.since = {each.cluster: memory.since[each.cluster] for each in going_on}
        if going_on:
            self._begun.set()
        return going_on

    def forget(self, name: ServiceName) -> None:
        """The service is gone, or does not ask for slow returns any more."""
        self._memories.pop(name, None)

    async def run(self, mesh: Mesh) -> None:
        """Until cancelled: has services planned anew while something returns to them."""
        while True:
            await self._begun.wait()
            going_on = {name: memory.ramp_s for name, memory in self._memories.items() if memory.since}
            if not going_on:
                self._begun.clear()
                continue
            await asyncio.sleep(max(min(going_on.values()) / STEPS, LEAST_STEP_S))
            for name in going_on:
                mesh.touch(PlanKey("service", str(name)))


def _present(
    service: Service, all_able: Iterable[Able], place: Place
) -> tuple[frozenset[str], frozenset[str]]:
    """The clusters with a backend that can be used, and with any."""
    serving: set[str] = set()
    known: set[str] = set()
    for able in all_able:
        found = standing(service, able.candidates, place, external=able.external)
        serving.update(cluster_of(each, place) for each in found.usable)
        known.update(cluster_of(each, place) for each in able.candidates)
    return frozenset(serving), frozenset(known)


def progress(passed_s: float, ramp_s: int) -> Fraction:
    """How far a return is: in steps, so that plans within one are equal; the first step is taken at once."""
    return min(Fraction(int(passed_s * STEPS / ramp_s) + 1, STEPS), Fraction(1))
