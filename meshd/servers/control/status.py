"""meshd.v1.StatusService: what this agent is, what it found, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import yaml
from google.protobuf.timestamp_pb2 import Timestamp

from meshd.api.v1 import status_pb2, status_pb2_grpc
from meshd.config import Config
from meshd.model import ClusterState
from meshd.servers.control.callers import Context
from meshd.servers.control.replies import Replies, map_message
from meshd.servers.introspection import Introspection, KernelMap
from meshd.state import Mesh, SourceState
from meshd.state.mesh import SourceStatus

# Rows named in one status; the rest is counted.
FAILED_MAX = 100
PROBLEMS_MAX = 50
# From here on a map is worth a warning: there is time to enlarge it.
PRESSURE_WARNING = 0.9

SOURCE_STATES = {
    SourceState.LISTING: status_pb2.SOURCE_STATE_LISTING,
    SourceState.COMPLETE: status_pb2.SOURCE_STATE_COMPLETE,
    SourceState.STALE: status_pb2.SOURCE_STATE_STALE,
}


@dataclass(frozen=True, slots=True)
class Status(status_pb2_grpc.StatusServiceServicer):
    """Everything at a glance."""

    config: Config
    mesh: Mesh
    introspection: Introspection

    async def GetVersion(
        self, request: status_pb2.GetVersionRequest, context: Context
    ) -> status_pb2.GetVersionResponse:
        return self._version()

    async def GetConfig(
        self, request: status_pb2.GetConfigRequest, context: Context
    ) -> status_pb2.GetConfigResponse:
        fields = msgspec.to_builtins(self.config, enc_hook=str)
        return status_pb2.GetConfigResponse(yaml=yaml.safe_dump(fields, sort_keys=False))

    async def GetStatus(
        self, request: status_pb2.GetStatusRequest, context: Context
    ) -> status_pb2.GetStatusResponse:
        replies = Replies(self.mesh, self.introspection)
        reconcile = self.introspection.reconcile()
        maps = sorted(self.introspection.maps(), key=lambda one: one.name)
        failed = sorted((str(key), str(error)) for key, error in self.mesh.failed.items())
        clusters = sorted(self.mesh.clusters.values(), key=lambda cluster: cluster.name)
        return status_pb2.GetStatusResponse(
            version=self._version(),
            node=self.config.node_name,
            cluster=self.config.cluster_name,
            started=self._started(),
            instance=self.mesh.instance,
            revision=self.mesh.revision,
            services=len(self.mesh.services),
            backends=self.mesh.backend_counts.total(),
            pending=self.mesh.pending,
            lag_seconds=reconcile.lag_s,
            reconcile_failures=reconcile.failures,
            rows_repaired=reconcile.rows_repaired,
            failed=[status_pb2.FailedRow(name=name, reason=reason) for name, reason in failed[:FAILED_MAX]],
            failed_count=len(failed),
            sources=self._sources(),
            features=self._features(),
            programs=self._programs(),
            maps=[map_message(one) for one in maps],
            clusters=[replies.cluster(cluster) for cluster in clusters],
            figures=self._figures(),
            warnings=list(self._warnings(maps)),
        )

    def _version(self) -> status_pb2.GetVersionResponse:
        build = self.introspection.build
        return status_pb2.GetVersionResponse(
            version=build.version, commit=build.commit, kernel=build.kernel, python=build.python
        )

    def _started(self) -> Timestamp:
        started = Timestamp()
        started.FromNanoseconds(int(self.introspection.build.started_s * 1e9))
        return started

    def _sources(self) -> list[status_pb2.Source]:
        return [
            status_pb2.Source(
                name=name,
                state=SOURCE_STATES[known.state],
                reason=known.reason,
                complete_once=known.complete_once,
                services=self.mesh.service_counts[name],
                backends=self.mesh.backend_counts[name],
            )
            for name, known in sorted(self.mesh.sources.items())
        ]

    def _features(self) -> list[status_pb2.Feature]:
        return [
            status_pb2.Feature(
                name=one.name,
                present=one.present,
                needed_by=one.needed_by,
                reason=one.reason,
                cost=one.cost,
            )
            for one in self.introspection.features()
        ]

    def _programs(self) -> list[status_pb2.Program]:
        return [
            status_pb2.Program(name=one.name, id=one.id, attached_to=one.attached_to, left_out=one.left_out)
            for one in self.introspection.programs()
        ]

    def _figures(self) -> list[status_pb2.Figure]:
        return [
            status_pb2.Figure(name=one.name, labels=dict(sample.labels), value=sample.value, help=one.help)
            for one in self.introspection.figures()
            for sample in one.samples
        ]

    def _warnings(self, maps: list[KernelMap]) -> Iterator[str]:
        for name, known in sorted(self.mesh.sources.items()):
            if not known.complete_once or known.state is SourceState.STALE:
                yield source_warning(name, known)
        for one in maps:
            if one.entries is not None and one.capacity and one.entries / one.capacity >= PRESSURE_WARNING:
                yield f"map {one.name} is {one.entries / one.capacity:.0%} full; raise maps.{one.name}"
        for cluster in self.mesh.clusters.values():
            if cluster.state is ClusterState.STALE:
                yield f"cluster {cluster.name} is out of reach, its backends stand: {cluster.reason}"
        if failed := len(self.mesh.failed):
            yield f"{failed} rows could not be written; they are retried"
        problems = self.introspection.problems()
        yield from problems[:PROBLEMS_MAX]
        if len(problems) > PROBLEMS_MAX:
            yield f"and {len(problems) - PROBLEMS_MAX} more problems of sources"


def source_warning(name: str, known: SourceStatus) -> str:
    """What it means that the source ``name`` is not complete."""
    reason = f": {known.reason}" if known.reason else ""
    state = "is out of reach" if known.state is SourceState.STALE else "has not listed yet"
    rest = "what it said stands" if known.complete_once else "nothing of it is deleted until it has listed"
    return f"source {name} {state}, {rest}{reason}"
