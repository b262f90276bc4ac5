"""How long a removed backend still gets new connections, while a client dials its service without pause.

Time zero is the moment the change was sent to whoever programs the kernel; the end is when the client's last connect()
that reached the removed backend returned. So for the agent it includes the API call, its journal on disk, planning and
the write; for the nftables baseline the run of ``nft``, as if kube-proxy started it at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from meshd.bench import netfilter, nftables
from meshd.bench.agents import Agent
from meshd.bench.places import BenchError, Place, Places
from meshd.bench.population import SERVICE_PORT, BenchService
from meshd.bench.report import Row, Target, estimated, target
from meshd.bench.statistics import exact, quantile, unbounded
from meshd.bench.workers import Worker

# After the kernel holds the change: so long, and so many connections, that one more to the removed backend would be seen.
AFTER_S = 0.03
AFTER_CONNECTIONS = 100
LOOK_EVERY_S = 0.005
TIMEOUT_S = 10.0

QUANTILES = {"p50": 0.50, "p99": 0.99}
LIMITS_MS = {"p50": 10.0, "p99": 25.0}


class Endpoints(Protocol):
    """Who can remove one backend of the dialled service and bring it back; both return when that is in the kernel."""

    def remove(self, backend: str) -> int: ...

    def restore(self, backend: str) -> None: ...


@dataclass(frozen=True, slots=True)
class OfAgent:
    """Through the API of an agent that owns ``service`` as one of its API objects."""

    agent: Agent
    service: BenchService

    def remove(self, backend: str) -> int:
        """The moment the agent's answer arrived that it has accepted the change (CLOCK_MONOTONIC, ns)."""
        self.agent.remove_backend(self.service, backend)
        accepted_ns = time.monotonic_ns()
        self.agent.settle(self.service)
        return accepted_ns

    def restore(self, backend: str) -> None:
        """Back in the kernel."""
        self.agent.add_backend(self.service, backend)


@dataclass(frozen=True, slots=True)
class OfNftables:
    """Through ``nft -f`` with the lines that kube-proxy writes for one changed service."""

    places: Places
    place: Place
    service: BenchService

    def remove(self, backend: str) -> int:
        """The moment ``nft`` ended (CLOCK_MONOTONIC, ns)."""
        left = [each for each in self.service.backends if each != backend]
        self._write(nftables.endpoints_changed(self.service, self.service.backends, left))
        return time.monotonic_ns()

    def restore(self, backend: str) -> None:
        """Back in the kernel."""
        left = [each for each in self.service.backends if each != backend]
        self._write(nftables.endpoints_changed(self.service, left, self.service.backends))

    def _write(self, rules: str) -> None:
        netfilter.load(self.places, self.place, ("nft", "-f", "-"), rules)


@dataclass(frozen=True, slots=True)
class Removals:
    """Milliseconds of each removal until the removed backend's last new connection: from the change sent, and from the
    answer that it is accepted. 0 where there was none later. ``per_s``: connections a second while that was measured."""

    from_sent_ms: tuple[float, ...]
    from_accepted_ms: tuple[float, ...]
    per_s: float


@dataclass(frozen=True, slots=True)
class Dialled:
    """The service whose backends come and go, a client that dials it, and the server that tells who was reached."""

    service: BenchService
    client: Worker
    server: Worker


def measure(endpoints: Endpoints, dialled: Dialled, count: int, say: Callable[[str], None]) -> Removals:
    """Removes and restores backends of the dialled service one after another, ``count`` times.

    Raises:
        BenchError: a backend is not reached, or is reached for ever, or a connection failed (every instant must be valid).
    """
    dialled.server.ask(telling=True)
    dialled.client.ask(dial=[dialled.service.address, SERVICE_PORT])
    began_s = time.monotonic()
    results = []
    for number in range(count):
        say(f"{number + 1} of {count}")
        backend = dialled.service.backends[number % len(dialled.service.backends)]
        results.append(_remove_one(endpoints, dialled.client, backend))
    ended = dialled.client.ask(rest=True)
    dialled.server.ask(telling=False)
    if ended["failed"]:
        raise BenchError(
            f"{ended['failed']} of {ended['connections']} connections failed while backends were removed"
        )
    sent, accepted = zip(*results, strict=True)
    return Removals(sent, accepted, ended["connections"] / (time.monotonic() - began_s))


def _remove_one(endpoints: Endpoints, client: Worker, backend: str) -> tuple[float, float]:
    """Milliseconds from the change sent, and from the answer that it is accepted, to the last new connection."""
    _reached_after(client, backend, time.monotonic_ns())
    sent_ns = time.monotonic_ns()
    accepted_ns = endpoints.remove(backend)
    last_ns = _last_reached(client, backend)
    endpoints.restore(backend)
    return max(last_ns - sent_ns, 0) / 1e6, max(last_ns - accepted_ns, 0) / 1e6


def _reached_after(client: Worker, backend: str, moment_ns: int) -> None:
    """Returns once ``backend`` was reached after ``moment_ns``."""
    deadline = time.monotonic() + TIMEOUT_S
    while client.ask(seen=True)["reached_ns"].get(backend, 0) <= moment_ns:
        if time.monotonic() > deadline:
            raise BenchError(f"backend {backend} gets no connections although the kernel holds it")
        time.sleep(LOOK_EVERY_S)


def _last_reached(client: Worker, backend: str) -> int:
    """When ``backend`` was reached last: looked at until AFTER_S and AFTER_CONNECTIONS brought nothing newer."""
    deadline = time.monotonic() + TIMEOUT_S
    since_s, since_count, last_ns = time.monotonic(), 0, -1
    while True:
        now = client.ask(seen=True)
        if now["reached_ns"][backend] != last_ns:
            since_s, since_count, last_ns = time.monotonic(), now["connections"], now["reached_ns"][backend]
        elif time.monotonic() - since_s >= AFTER_S and now["connections"] - since_count >= AFTER_CONNECTIONS:
            return last_ns
        if time.monotonic() > deadline:
            raise BenchError(f"backend {backend} still gets connections {TIMEOUT_S:g} s after its removal")
        time.sleep(LOOK_EVERY_S)


def rows(path: str, case: str, measured: Removals, baseline: Removals | None = None) -> Iterator[Row]:
    """Quantiles of the times from the change sent, and those from the acceptance; the ratios are to ``baseline``."""
    for name, fraction in QUANTILES.items():
        value = quantile(measured.from_sent_ms, fraction)
        other = quantile(baseline.from_sent_ms, fraction).value if baseline else 0.0
        # Of two quantiles, not of rounds: there is no interval to give.
        ratio = unbounded(value.value / other) if other else None
        yield estimated(path, case, f"removal {name}", "ms", value=value, to_baseline=ratio)
    for name, fraction in QUANTILES.items():
        value = quantile(measured.from_accepted_ms, fraction)
        yield estimated(path, case, f"removal from accepted {name}", "ms", value=value)
    yield estimated(path, case, "connections during removals", "1/s", value=exact(measured.per_s))


def targets(case: str, measured: Removals) -> Iterator[Target]:
    """What issue 3 asks, held against the times from the change sent, which are the longer ones."""
    for name, limit in LIMITS_MS.items():
        yield target(
            f"removal {name} with {case}, ms", limit, quantile(measured.from_sent_ms, QUANTILES[name])
        )
