"""meshd.v1.FailoverService: what a loss would mean, which there were, and drills."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from meshd.api.v1 import failover_pb2, failover_pb2_grpc
from meshd.errors import InvalidObject, UnknownObject
from meshd.model import ServiceName
from meshd.model.drill import DrillReport
from meshd.model.failover_history import Cause, Failover, Move
from meshd.model.failover_plan import FailoverPlan, Loss, Taken
from meshd.servers.control.callers import Context, current_caller
from meshd.servers.control.outcome import time_left
from meshd.servers.control.pages import page
from meshd.servers.control.replies import frontend_message
from meshd.servers.introspection import Introspection
from meshd.state import Mesh

log = structlog.get_logger(__name__)

# Services planned in one turn of the event loop: 1 to 2 ms.
SLICE = 10

CAUSES = {
    Cause.SILENT: failover_pb2.FAILOVER_CAUSE_SILENT,
    Cause.WITHDRAWN: failover_pb2.FAILOVER_CAUSE_WITHDRAWN,
    Cause.LEFT: failover_pb2.FAILOVER_CAUSE_LEFT,
    Cause.STALE: failover_pb2.FAILOVER_CAUSE_STALE,
}


@dataclass(frozen=True, slots=True)
class Failovers(failover_pb2_grpc.FailoverServiceServicer):
    """Of this node. ``cluster`` is its own."""

    mesh: Mesh
    introspection: Introspection
    cluster: str

    async def PlanFailover(
        self, request: failover_pb2.PlanFailoverRequest, context: Context
    ) -> failover_pb2.PlanFailoverResponse:
        loss = self._loss(request)
        names = [(name.namespace, name.name) for name in self.mesh.service_names()]
        shown, token = await page(names, request.page_size, request.page_token)
        answer = failover_pb2.PlanFailoverResponse(next_page_token=token, revision=self.mesh.revision)
        for count, name in enumerate(shown, start=1):
            answer.plans.extend(map(_plan, self.introspection.failover_plans(ServiceName(*name), loss)))
            if count % SLICE == 0:
                await asyncio.sleep(0)
        return answer

    async def ListFailovers(
        self, request: failover_pb2.ListFailoversRequest, context: Context
    ) -> failover_pb2.ListFailoversResponse:
        found = reversed(self.introspection.failovers())
        return failover_pb2.ListFailoversResponse(failovers=map(_failover, found))

    async def StartDrill(
        self, request: failover_pb2.StartDrillRequest, context: Context
    ) -> failover_pb2.StartDrillResponse:
        name = ServiceName(request.namespace, request.service)
        found = await self.introspection.drills.start(
            name, request.lose, request.for_seconds, time_left(context)
        )
        log.info(
            "drill asked for",
            service=str(name),
            lose=request.lose,
            for_s=request.for_seconds,
            caller=current_caller().name,
        )
        return failover_pb2.StartDrillResponse(drill=_drill(found))

    async def StopDrill(
        self, request: failover_pb2.StopDrillRequest, context: Context
    ) -> failover_pb2.StopDrillResponse:
        found = await self.introspection.drills.stop(request.number, time_left(context))
        return failover_pb2.StopDrillResponse(drill=_drill(found))

    def _loss(self, request: failover_pb2.PlanFailoverRequest) -> Loss:
        """What is lost.

        Raises:
            InvalidObject: a node and a zone; UnknownObject: nobody names the cluster, or the node.
        """
        cluster, node = request.cluster, request.node
        if node and request.zone:
            raise InvalidObject("loss", "zone", "a node and a zone are two losses; ask for each")
        if cluster != self.cluster and all(known.name != cluster for known in self.mesh.clusters.values()):
            raise UnknownObject(f"cluster {cluster}")
        if node and not self._is_known(cluster, node):
            raise UnknownObject(f"node {cluster}/{node}")
        return Loss(cluster, node, request.zone)

    def _is_known(self, cluster: str, name: str) -> bool:
        """Manifests and the API may place backends on nodes that nobody says anything else of."""
        if any((node.cluster, node.name) == (cluster, name) for node in self.mesh.nodes.values()):
            return True
        ours = (part for part in self.mesh.slices.values() if part.cluster == cluster)
        return any(backend.node == name for part in ours for backend in part.backends)


def _plan(one: FailoverPlan) -> failover_pb2.FailoverPlan:
    return failover_pb2.FailoverPlan(
        namespace=one.service.namespace,
        service=one.service.name,
        frontends=map(frontend_message, one.frontends),
        lost=one.lost,
        nothing_left=one.nothing_left,
        clusters=[
            failover_pb2.ClusterTaking(
                cluster=each.cluster, before=_taking(each.before), after=_taking(each.after)
            )
            for each in one.clusters
        ],
    )


def _taking(one: Taken) -> failover_pb2.Taking:
    return failover_pb2.Taking(
        share=one.share, backends=one.backends, capacity=one.capacity, headroom=one.headroom
    )


def _failover(one: Failover) -> failover_pb2.Failover:
    return failover_pb2.Failover(
        cluster=one.cluster,
        cause=CAUSES[one.cause],
        nodes=one.nodes,
        found=_timestamp(one.found_s),
        ended=None if one.ended_s is None else _timestamp(one.ended_s),
        detection_seconds=one.detection_s,
        switch_seconds=one.switch_s,
        moved=one.moved,
        moves=map(_move, one.moves),
        connections=one.connections,
        last_connection=None if one.last_connection_s is None else _timestamp(one.last_connection_s),
        unanswered=one.unanswered,
    )


def _move(one: Move) -> failover_pb2.FailoverMove:
    return failover_pb2.FailoverMove(
        namespace=one.service.namespace,
        service=one.service.name,
        switch_seconds=one.switch_s,
        before=one.before,
        after=one.after,
    )


def _drill(one: DrillReport) -> failover_pb2.Drill:
    return failover_pb2.Drill(
        number=one.number,
        until=_timestamp(one.until_s),
        nodes=[
            failover_pb2.DrillNode(node=each.node, reason=each.reason, planned=each.planned, given=each.given)
            for each in one.words
        ],
        missing=one.missing,
    )


def _timestamp(unix_s: float) -> Timestamp:
    made = Timestamp()
    made.FromNanoseconds(int(unix_s * 1e9))
    return made
