"""meshd.v1.MetricsService: what the dataplane counts, where it is worth a question of its own."""

from __future__ import annotations

from dataclasses import dataclass

from meshd.api.v1 import metrics_pb2, metrics_pb2_grpc
from meshd.servers.control.callers import Context
from meshd.servers.introspection import Introspection


@dataclass(frozen=True, slots=True)
class Metrics(metrics_pb2_grpc.MetricsServiceServicer):
    """Why packets were dropped."""

    introspection: Introspection

    async def ListDrops(
        self, request: metrics_pb2.ListDropsRequest, context: Context
    ) -> metrics_pb2.ListDropsResponse:
        found = self.introspection.drops()
        if found is None:
            return metrics_pb2.ListDropsResponse(not_counted=True)
        occurred = sorted((one for one in found if one.packets), key=lambda one: -one.packets)
        return metrics_pb2.ListDropsResponse(
            drops=[
                metrics_pb2.Drop(
                    reason=one.reason, direction=one.direction, packets=one.packets, bytes=one.bytes
                )
                for one in occurred
            ]
        )
