"""/metrics: what Prometheus reads. Every value is taken on the event loop when it is asked for; nothing is counted here.

Names are ``meshd_*`` with their unit; HELP says what a value means. What the dataplane counts comes as figures (see
introspection.py), so a new counter of a feature needs no change here.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from meshd.errors import ConfigError
from meshd.model import ClusterState
from meshd.servers.introspection import Figure, Introspection, KernelMap, Peer
from meshd.state import Mesh, SourceState

log = structlog.get_logger(__name__)

Family = CounterMetricFamily | GaugeMetricFamily | InfoMetricFamily


class Place(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


class MetricsServer:
    """Serves /metrics at ``listen`` (host:port). It is plain HTTP: for a loopback address or a network of the operator's."""

    def __init__(self, listen: str, mesh: Mesh, introspection: Introspection) -> None:
        self._place = place_of(listen)
        self._registry = CollectorRegistry()
        self._registry.register(MeshCollector(mesh, introspection))
        ProcessCollector(namespace="meshd", registry=self._registry)
        self.listening = asyncio.Event()
        # Differs from the configured one if that leaves the choice to the kernel (port 0).
        self.port = 0

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            ConfigError: the address cannot be bound.
        """
        application = web.Application()
        application.router.add_get("/metrics", self._answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._place.host, self._place.port)
            try:
                await site.start()
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                raise ConfigError(f"metrics.listen {site.name}: {reason}") from error
            self.port = runner.addresses[0][1]
            log.info("metrics are served", host=self._place.host, port=self.port)
            self.listening.set()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _answer(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


class MeshCollector(Collector):
    """Everything but the figures of the process, read anew for each answer."""

    def __init__(self, mesh: Mesh, introspection: Introspection) -> None:
        self._mesh = mesh
        self._introspection = introspection

    def describe(self) -> Iterator[Family]:
        """Nothing: so that registering it asks nobody for values."""
        return iter(())

    def collect(self) -> Iterator[Family]:
        """Every value of this instant."""
        yield from self._build()
        yield from self._reconcile()
        yield from self._objects()
        yield from self._sources()
        yield from maps(list(self._introspection.maps()))
        yield from self._clusters()
        yield from peers(list(self._introspection.peers()))
        yield from map(figure, self._introspection.figures())

    def _build(self) -> Iterator[Family]:
        build = self._introspection.build
        facts = {
            "version": build.version,
            "commit": build.commit,
            "kernel": build.kernel,
            "python": build.python,
        }
        yield InfoMetricFamily("meshd_build", "What runs here.", value=facts)

    def _reconcile(self) -> Iterator[Family]:
        work = self._introspection.reconcile()
        yield GaugeMetricFamily(
            "meshd_revision", "Revision of the desired state; each change is one.", value=self._mesh.revision
        )
        yield GaugeMetricFamily(
            "meshd_reconcile_lag_seconds",
            "For how long the oldest change has been waiting for the kernel; 0: none waits.",
            value=work.lag_s,
        )
        yield GaugeMetricFamily(
            "meshd_reconcile_pending",
            "Changes that wait for the kernel.",
            value=self._mesh.pending,
        )
        yield GaugeMetricFamily(
            "meshd_reconcile_failed",
            "Changes whose rows could not be written; they are retried.",
            value=len(self._mesh.failed),
        )
        yield CounterMetricFamily(
            "meshd_reconcile_failures", "Attempts to write rows that failed.", value=work.failures
        )

    def _objects(self) -> Iterator[Family]:
        mesh = self._mesh
        yield by_label("meshd_services", "Services by who names them.", "source", mesh.service_counts)
        yield by_label("meshd_backends", "Backends by who names them.", "source", mesh.backend_counts)

    def _sources(self) -> Iterator[Family]:
        complete = GaugeMetricFamily(
            "meshd_source_complete",
            "1: the source has finished a complete list since the start, so what it does not name is gone.",
            labels=["source"],
        )
        stale = GaugeMetricFamily(
            "meshd_source_stale", "1: the source is out of reach; what it said stands.", labels=["source"]
        )
        for name, known in sorted(self._mesh.sources.items()):
            complete.add_metric([name], known.complete_once)
            stale.add_metric([name], known.state is SourceState.STALE)
        yield complete
        yield stale

    def _clusters(self) -> Iterator[Family]:
        states = GaugeMetricFamily(
            "meshd_cluster_state",
            "1 for the state that the connection to a remote cluster has.",
            labels=["cluster", "state"],
        )
        for cluster in sorted(self._mesh.clusters.values(), key=lambda cluster: cluster.name):
            if not cluster.local:
                for state in ClusterState:
                    states.add_metric([cluster.name, state.value], state is cluster.state)
        yield states


def maps(found: list[KernelMap]) -> Iterator[Family]:
    """What each map holds, and how full it is."""
    entries = GaugeMetricFamily("meshd_map_entries", "Entries a kernel map holds.", labels=["map"])
    capacity = GaugeMetricFamily("meshd_map_capacity_entries", "Entries it can hold.", labels=["map"])
    pressure = GaugeMetricFamily(
        "meshd_map_pressure_ratio",
        "How full it is; at 1 changes that need more rows are refused.",
        labels=["map"],
    )
    memory = GaugeMetricFamily("meshd_map_memory_bytes", "Kernel memory of it.", labels=["map"])
    for one in found:
        capacity.add_metric([one.name], one.capacity)
        memory.add_metric([one.name], one.memory_bytes)
        if one.entries is not None:
            entries.add_metric([one.name], one.entries)
            pressure.add_metric([one.name], one.entries / one.capacity if one.capacity else 0.0)
    yield from (entries, capacity, pressure, memory)


def peers(found: list[Peer]) -> Iterator[Family]:
    """The connection to each remote cluster; what is not known has no value."""
    label = ["cluster"]
    services = GaugeMetricFamily("meshd_cluster_services", "Services held of a remote cluster.", labels=label)
    lag = GaugeMetricFamily(
        "meshd_cluster_lag_seconds", "How long its last change took to arrive here.", labels=label
    )
    heartbeat = GaugeMetricFamily(
        "meshd_cluster_heartbeat_age_seconds",
        "Time since its last heartbeat arrived, by our clock.",
        labels=label,
    )
    refused = CounterMetricFamily(
        "meshd_cluster_refused_records", "Its records that could not be used.", labels=["cluster", "reason"]
    )
    stale = GaugeMetricFamily(
        "meshd_cluster_stale_services", "Services of it that nobody vouches for; they stand.", labels=label
    )
    held = GaugeMetricFamily(
        "meshd_cluster_held_services",
        "Services of it that were removed with more than half of its backends, and stand until that is confirmed.",
        labels=label,
    )
    again = CounterMetricFamily("meshd_cluster_reconnects", "Connections to it begun again.", labels=label)
    for peer in found:
        services.add_metric([peer.cluster], peer.services)
        stale.add_metric([peer.cluster], peer.stale_services)
        held.add_metric([peer.cluster], peer.held_services)
        again.add_metric([peer.cluster], peer.reconnects)
        if peer.lag_s is not None:
            lag.add_metric([peer.cluster], peer.lag_s)
        if peer.heartbeat_age_s is not None:
            heartbeat.add_metric([peer.cluster], peer.heartbeat_age_s)
        for reason, count in sorted(peer.refused.items()):
            refused.add_metric([peer.cluster, reason], count)
    yield from (services, stale, held, lag, heartbeat, refused, again)


def figure(found: Figure) -> Family:
    """What the dataplane counts, under its own name."""
    labels = sorted({label for sample in found.samples for label in sample.labels})
    kind = CounterMetricFamily if found.kind == "counter" else GaugeMetricFamily
    family = kind(f"meshd_{found.name}", found.help, labels=labels)
    for sample in found.samples:
        family.add_metric([sample.labels.get(label, "") for label in labels], sample.value)
    return family


def by_label(name: str, help_text: str, label: str, values: Counter[str]) -> Family:
    """One value for each."""
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def place_of(listen: str, option: str = "metrics.listen") -> Place:
    """``host:port`` or ``[v6]:port`` as its parts.

    Raises:
        ConfigError: it is neither.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{option} {listen!r} is not host:port")
    return Place(host.strip("[]"), int(port))
