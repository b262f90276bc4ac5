"""An agent without a kernel: a real mesh, a real control server, a real journal, and a fake dataplane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from meshd.api.v1.backend_pb2_grpc import BackendServiceStub
from meshd.api.v1.cluster_pb2_grpc import ClusterServiceStub
from meshd.api.v1.map_pb2_grpc import MapServiceStub
from meshd.api.v1.node_pb2_grpc import NodeServiceStub
from meshd.api.v1.service_pb2_grpc import ServiceServiceStub
from meshd.api.v1.short_circuit_pb2_grpc import ShortCircuitServiceStub
from meshd.api.v1.status_pb2_grpc import StatusServiceStub
from meshd.config import Api, ClusterMesh, Config
from meshd.servers.control.changes import Changes
from meshd.servers.control.server import ControlServer
from meshd.state import Mesh
from tests.fakes.dataplane import FakeDataplane

if TYPE_CHECKING:
    # Names for a type checker only: what the stubs are on an asyncio channel.
    from meshd.api.v1.backend_pb2_grpc import BackendServiceAsyncStub
    from meshd.api.v1.cluster_pb2_grpc import ClusterServiceAsyncStub
    from meshd.api.v1.map_pb2_grpc import MapServiceAsyncStub
    from meshd.api.v1.node_pb2_grpc import NodeServiceAsyncStub
    from meshd.api.v1.service_pb2_grpc import ServiceServiceAsyncStub
    from meshd.api.v1.short_circuit_pb2_grpc import ShortCircuitServiceAsyncStub
    from meshd.api.v1.status_pb2_grpc import StatusServiceAsyncStub


@dataclass(frozen=True, slots=True)
class FakeAgent:
    """What a test needs of it."""

    config: Config
    mesh: Mesh
    dataplane: FakeDataplane
    server: ControlServer
    channel: grpc.aio.Channel

    @property
    def services(self) -> ServiceServiceAsyncStub:
        return ServiceServiceStub(self.channel)

    @property
    def backends(self) -> BackendServiceAsyncStub:
        return BackendServiceStub(self.channel)

    @property
    def nodes(self) -> NodeServiceAsyncStub:
        return NodeServiceStub(self.channel)

    @property
    def clusters(self) -> ClusterServiceAsyncStub:
        return ClusterServiceStub(self.channel)

    @property
    def maps(self) -> MapServiceAsyncStub:
        return MapServiceStub(self.channel)

    @property
    def short_circuits(self) -> ShortCircuitServiceAsyncStub:
        return ShortCircuitServiceStub(self.channel)

    @property
    def status(self) -> StatusServiceAsyncStub:
        return StatusServiceStub(self.channel)


@asynccontextmanager
async def serving(
    directory: Path,
    api: Api | None = None,
    patience_s: float = 10.0,
    *,
    clustermesh: ClusterMesh | None = None,
) -> AsyncIterator[FakeAgent]:
    """An agent whose run and state directories are below ``directory``; what it kept there is in force again."""
    config = Config(
        node_name="n1",
        cluster_name="cm-1",
        run_dir=directory / "run",
        state_dir=directory / "state",
        api=api or Api(),
        cluster_id=1,
        clustermesh=clustermesh or ClusterMesh(),
    )
    mesh = Mesh()
    dataplane = FakeDataplane(mesh)
    changes = Changes(mesh, config.state_dir / "journal")
    changes.load()
    server = ControlServer(config, mesh, changes, dataplane.introspection(), patience_s=patience_s)
    running = asyncio.create_task(server.run())
    planning = asyncio.create_task(dataplane.run())
    listening = asyncio.create_task(server.listening.wait())
    try:
        await asyncio.wait({running, listening}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        async with grpc.aio.insecure_channel(f"unix:{config.socket}") as channel:
            yield FakeAgent(config, mesh, dataplane, server, channel)
    finally:
        for task in (running, planning, listening):
            task.cancel()
        for task in (planning, listening):
            with suppress(asyncio.CancelledError):
                await task
        # A server that could not start has told why already.
        with suppress(asyncio.CancelledError, Exception):
            await running
