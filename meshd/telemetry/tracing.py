"""Traces of what was asked of the agent, continued from whoever asked (W3C traceparent) and sent to a collector as OTLP.

Imported only where a collector is configured: the SDK and its exporter take 0.25 s to import. Spans are sent by a thread of
the SDK, in batches; a collector that is away costs nobody time, and what does not fit into the queue meanwhile is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from meshd import __version__

# The default of the SDK is 5: nobody waits for a pod's trace that long.
EXPORT_EVERY_MS = 1000
# For one batch; so long may the last one hold up the agent's end (force_flush heeds no timeout of its own).
EXPORT_S = 2.0


class Tracing:
    """`span` around anything, in any task; `run` sends until cancelled."""

    def __init__(self, endpoint: str, node: str, cluster: str) -> None:
        """``endpoint``: http://HOST:PORT, https://HOST:PORT or unix:///PATH of a collector that speaks OTLP over gRPC."""
        names = {
            SERVICE_NAME: "meshd",
            SERVICE_VERSION: __version__,
            SERVICE_INSTANCE_ID: node,
            "k8s.node.name": node,
            "k8s.cluster.name": cluster,
        }
        insecure = not endpoint.startswith("https://")
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=insecure, timeout=EXPORT_S)
        self._provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_EVERY_MS))
        self._tracer = self._provider.get_tracer("meshd")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, traceparent: str = "", **attributes: str) -> Iterator[None]:
        """A span that lasts as long as the block, and tells of the error that ends it.

        Its parent is ``traceparent`` where that is one, else the span of the block around this one. A parent that is not
        sampled has children that are not.
        """
        context = self._propagator.extract({"traceparent": traceparent}) if traceparent else None
        kind = trace.SpanKind.SERVER if traceparent else trace.SpanKind.INTERNAL
        with self._tracer.start_as_current_span(name, context=context, kind=kind, attributes=attributes):
            yield

    async def run(self) -> None:
        """Until cancelled; then what is still to be sent is, if that takes no longer than a moment."""
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._provider.force_flush()
        self._provider.shutdown()
