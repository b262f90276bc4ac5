"""How long an agent takes to put many services into the kernel, and the memory it needs for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from meshd.bench.agents import Agent, Programmed
from meshd.bench.lanes import MESHD, Lane
from meshd.bench.population import BACKENDS_EACH, BenchService
from meshd.bench.report import Row, Target, estimated, target
from meshd.bench.statistics import Estimate, exact, median, unbounded

LIMIT_S = 3.0
IDLE_LIMIT_MIB, LOADED_LIMIT_MIB = 100.0, 180.0


@dataclass(frozen=True, slots=True)
class Programming:
    """One value a round. ``idle_mib`` is from before the first service, ``loaded_mib`` with all of them, at most."""

    case: str
    rounds: tuple[Programmed, ...]
    idle_mib: float
    loaded_mib: float

    @property
    def from_accepted_s(self) -> Estimate:
        return median([each.from_accepted_s for each in self.rounds])

    @property
    def from_file_s(self) -> Estimate:
        return median([each.from_file_s for each in self.rounds])


def measure(
    agent: Agent, services: Sequence[BenchService], rounds: int, say: Callable[[str], None]
) -> Programming:
    """Programs ``services`` into an agent that has none, ``rounds`` times; they are in force afterwards."""
    idle_mib = agent.resident_mib()
    found: list[Programmed] = []
    loaded_mib = 0.0
    for number in range(rounds):
        if found:
            agent.clear()
        say(f"programming {number + 1} of {rounds}")
        found.append(agent.program(services))
        loaded_mib = max(loaded_mib, agent.resident_mib())
    case = f"{len(services):,} services x {BACKENDS_EACH} backends"
    return Programming(case, tuple(found), idle_mib, loaded_mib)


def rows(measured: Programming, loaded: Sequence[Lane]) -> Iterator[Row]:
    """Times and memory, beside the one time that the rules of each lane in ``loaded`` took."""
    accepted = measured.from_accepted_s
    baseline = {lane.path: lane.loaded_s for lane in loaded}
    # The rules were loaded once: what the ratio is worth nobody can say.
    ratio = unbounded(accepted.value / baseline["nftables"])
    yield estimated(MESHD, measured.case, "programming", "s", value=accepted, to_baseline=ratio)
    yield estimated(MESHD, measured.case, "programming from file", "s", value=measured.from_file_s)
    for path, loaded_s in baseline.items():
        yield estimated(path, measured.case, "programming", "s", value=exact(loaded_s))
    yield estimated(MESHD, "idle", "memory", "MiB", value=exact(measured.idle_mib))
    yield estimated(MESHD, measured.case, "memory", "MiB", value=exact(measured.loaded_mib))


def targets(measured: Programming) -> Iterator[Target]:
    """What issue 3 asks of programming and memory."""
    yield target(f"programming {measured.case}, s", LIMIT_S, measured.from_accepted_s)
    yield target("memory idle, MiB", IDLE_LIMIT_MIB, exact(measured.idle_mib))
    yield target(f"memory with {measured.case}, MiB", LOADED_LIMIT_MIB, exact(measured.loaded_mib))
