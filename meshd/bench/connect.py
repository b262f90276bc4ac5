"""What connect() costs on each path: p50, p99 and connections per second, round-robin, so that rounds can be compared.

Every path dials services of its own population, drawn anew for each round; the baseline dials backends of the same
population directly. The interpreter's share of a call is in every path alike and is not subtracted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from meshd.bench.population import BACKEND_PORT, SERVICE_PORT, BenchService
from meshd.bench.report import Row, row
from meshd.bench.statistics import quantile
from meshd.bench.workers import Worker

DIRECT = "no service"
# metric -> unit, in the order of the report.
METRICS = {"connect p50": "us", "connect p99": "us", "connections": "1/s"}


@dataclass(frozen=True, slots=True)
class Dialled:
    """One path with one population. ``results``: metric -> one value a round."""

    path: str
    services: Sequence[BenchService]
    client: Worker
    results: dict[str, list[float]] = field(default_factory=lambda: {metric: [] for metric in METRICS})

    @property
    def case(self) -> str:
        return case_of(len(self.services))


def case_of(count: int) -> str:
    """How a report names a population of ``count`` services."""
    return f"{count:,} service{'s' if count != 1 else ''}"


def measure(dialled: Sequence[Dialled], rounds: int, connections: int, say: Callable[[str], None]) -> None:
    """Adds ``rounds`` values to each metric of each path, each from ``connections`` connections."""
    for each in dialled:
        # Neighbours, routes, caches, and the kernel's memory for sockets.
        each.client.ask(connect=targets(each, connections, seed=-1))
    for number in range(rounds):
        say(f"connect(): round {number + 1} of {rounds}, {len(dialled)} paths of {connections} connections")
        # Another first one each time: nobody always follows the same neighbour.
        begin = number % len(dialled)
        for each in (*dialled[begin:], *dialled[:begin]):
            _measure_one(each, targets(each, connections, seed=number))


def targets(each: Dialled, count: int, seed: int) -> list[tuple[str, int]]:
    """``count`` addresses to dial, the same for every path of one population and ``seed``."""
    draw = random.Random(seed)  # noqa: S311 - repeatable on purpose
    chosen = draw.choices(each.services, k=count)
    if each.path == DIRECT:
        return [(draw.choice(service.backends), BACKEND_PORT) for service in chosen]
    return [(service.address, SERVICE_PORT) for service in chosen]


def rows(dialled: Sequence[Dialled]) -> Iterator[Row]:
    """Every metric of every path, with its ratio to the baseline of the same population."""
    direct = {each.case: each for each in dialled if each.path == DIRECT}
    for metric, unit in METRICS.items():
        for each in dialled:
            baseline = () if each.path == DIRECT else direct[each.case].results[metric]
            yield row(each.path, each.case, metric, unit, values=each.results[metric], baseline=baseline)


def _measure_one(each: Dialled, to: list[tuple[str, int]]) -> None:
    answer = each.client.ask(connect=to)
    taken_us = [taken / 1000 for taken in answer["connect_ns"]]
    each.results["connect p50"].append(quantile(taken_us, 0.50).value)
    each.results["connect p99"].append(quantile(taken_us, 0.99).value)
    each.results["connections"].append(len(to) * 1e9 / answer["elapsed_ns"])
