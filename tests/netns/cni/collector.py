"""A collector of traces: OTLP over gRPC at a Unix socket, as its own protocol says, holding what it was sent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class Span:
    """One span, ids in hex. ``failed``: its status says error."""

    name: str
    trace: str
    id: str
    parent: str
    failed: bool
    attributes: dict[str, str]


@dataclass(slots=True)
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """``spans`` so far, in the order in which they came; ``services``: who sent them."""

    spans: list[Span] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 # Any: generated, without types
        del context
        for resource in request.resource_spans:
            found = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.services.add(found["service.name"])
            for scope in resource.scope_spans:
                self.spans += [_span(each) for each in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def _span(each: Any) -> Span:  # Any: as above
    attributes = {item.key: item.value.string_value for item in each.attributes}
    ids = each.trace_id.hex(), each.span_id.hex(), each.parent_span_id.hex()
    return Span(each.name, *ids, each.status.code == 2, attributes)


@contextmanager
def collecting(path: Path) -> Iterator[Collector]:
    """A collector at ``path``."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # Any: generated, without types
    register(collector, server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
