"""What the keeper of an etcd tells Prometheus, and the kubelet that asks whether it lives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from clustermesh.maintenance import CORRUPT, NOSPACE
from clustermesh.upkeep import Seen


@dataclass(slots=True)
class Figures:
    """What the keeper knows. ``seen`` None: etcd did not answer the last time."""

    seen: Seen | None = None
    quota_bytes: int = 0
    readers: tuple[str, ...] = ()
    defragmented: int = 0


class EtcdCollector(Collector):
    """Figures as metrics."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures, seen = self._figures, self._figures.seen
        members = seen.members if seen is not None else {}
        up = GaugeMetricFamily("meshd_etcd_member_up", "Whether the member answers", labels=["member"])
        leads = GaugeMetricFamily("meshd_etcd_member_leads", "Whether the member leads", labels=["member"])
        size = GaugeMetricFamily("meshd_etcd_size_bytes", "Of the member's store", labels=["member"])
        used = GaugeMetricFamily(
            "meshd_etcd_in_use_bytes",
            "Of the member's store, what defragmentation would leave",
            labels=["member"],
        )
        for name, status in members.items():
            up.add_metric([name], float(status is not None))
            if status is not None:
                leads.add_metric([name], float(status.leads))
                size.add_metric([name], status.size_bytes)
                used.add_metric([name], status.in_use_bytes)
        yield from (up, leads, size, used)
        alarm = GaugeMetricFamily(
            "meshd_etcd_alarm",
            "Whether a member has the alarm: without space, nothing can be written",
            labels=["alarm"],
        )
        for name in (NOSPACE, CORRUPT):
            alarm.add_metric([name], float(seen is not None and name in seen.alarms))
        yield alarm
        yield GaugeMetricFamily(
            "meshd_etcd_quota_bytes", "What a member's store may have", value=figures.quota_bytes
        )
        yield GaugeMetricFamily(
            "meshd_etcd_readers", "Other clusters that may read this one's etcd", value=len(figures.readers)
        )
        yield CounterMetricFamily(
            "meshd_etcd_defragmentations", "Members that this keeper defragmented", value=figures.defragmented
        )


@asynccontextmanager
async def serve(figures: Figures, listen: str) -> AsyncIterator[None]:
    """/metrics and /healthz at ``listen``, HOST:PORT. Raises OSError: the port is taken."""
    registry = CollectorRegistry()
    registry.register(EtcdCollector(figures))

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    application = web.Application()
    application.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        yield
    finally:
        await runner.cleanup()
