"""The control API's server: what the agent makes once and runs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from meshd.api.v1 import (
    backend_pb2,
    backend_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    failover_pb2,
    failover_pb2_grpc,
    map_pb2,
    map_pb2_grpc,
    metrics_pb2,
    metrics_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
    service_pb2,
    service_pb2_grpc,
    short_circuit_pb2,
    short_circuit_pb2_grpc,
    status_pb2,
    status_pb2_grpc,
)
from meshd.config import Config
from meshd.servers.control.backends import Backends
from meshd.servers.control.callers import Gate
from meshd.servers.control.changes import Changes
from meshd.servers.control.drops import Metrics
from meshd.servers.control.endpoint import listen_tls, listen_unix, reserved
from meshd.servers.control.failover import Failovers
from meshd.servers.control.maps import Maps
from meshd.servers.control.nodes import Clusters, Nodes
from meshd.servers.control.services import Services
from meshd.servers.control.short_circuit import ShortCircuits
from meshd.servers.control.status import Status
from meshd.servers.control.unix_callers import accepted
from meshd.servers.introspection import Introspection
from meshd.state import Mesh

log = structlog.get_logger(__name__)

# A reader of a stream who takes nothing for this long is cut off.
PATIENCE_S = 10.0
# Calls that are being answered get this long when the agent stops; watches end at once after it.
GRACE_S = 0.5
# At once; more are refused with RESOURCE_EXHAUSTED. Watches count.
CALLS_MAX = 512

NAMES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (status_pb2, "StatusService"),
        (service_pb2, "ServiceService"),
        (backend_pb2, "BackendService"),
        (node_pb2, "NodeService"),
        (cluster_pb2, "ClusterService"),
        (map_pb2, "MapService"),
        (metrics_pb2, "MetricsService"),
        (short_circuit_pb2, "ShortCircuitService"),
        (failover_pb2, "FailoverService"),
    )
)

OPTIONS = (
    ("grpc.max_concurrent_streams", CALLS_MAX),
    # A second server on the same port would get some of our calls.
    ("grpc.so_reuseport", 0),
    # A caller who is gone without a word (a lost node) is noticed.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class ControlServer:
    """Serves the control API on ``config.socket``, and on ``config.api.listen`` if there is one.

    ``changes`` must be loaded. Use: ``await server.run()``; ``server.listening`` is set once calls are answered.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        changes: Changes,
        introspection: Introspection,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._config = config
        self._mesh = mesh
        self._changes = changes
        self._introspection = introspection
        self._gate = Gate(config.api.roles, patience_s)
        self.listening = asyncio.Event()
        # Of api.listen, for a configuration that leaves the choice to the kernel (port 0); 0: it does not listen.
        self.port = 0

    @property
    def streams(self) -> int:
        """Watches and other streams that are being answered now."""
        return self._gate.streams

    @property
    def cut_off(self) -> int:
        """Readers of streams that were too slow, since the start."""
        return self._gate.cut_off

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            ConfigError: the socket is in use, or something else of the configuration cannot be had.
        """
        async with AsyncExitStack() as held:
            held.enter_context(reserved(self._config.socket))
            server = grpc.aio.server(
                interceptors=[self._gate],
                options=OPTIONS,
                maximum_concurrent_rpcs=CALLS_MAX,
            )
            state = self._add_services(server)
            try:
                await self._listen(server)
                for name in ("", *NAMES):
                    await state.set(name, health_pb2.HealthCheckResponse.SERVING)
                await held.enter_async_context(accepted(self._config.socket))
                self.listening.set()
                await self._changes.run()
            finally:
                await state.enter_graceful_shutdown()
                await server.stop(GRACE_S)

    def _add_services(self, server: grpc.aio.Server) -> health.HealthServicer:
        config, mesh, changes, shown = self._config, self._mesh, self._changes, self._introspection
        state = health.HealthServicer()
        status_pb2_grpc.add_StatusServiceServicer_to_server(Status(config, mesh, shown), server)
        service_pb2_grpc.add_ServiceServiceServicer_to_server(Services(mesh, shown, changes), server)
        backends = Backends(mesh, shown, changes, config.cluster_name)
        backend_pb2_grpc.add_BackendServiceServicer_to_server(backends, server)
        node_pb2_grpc.add_NodeServiceServicer_to_server(Nodes(mesh, shown, config.cluster_name), server)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(Clusters(mesh, shown), server)
        map_pb2_grpc.add_MapServiceServicer_to_server(Maps(shown), server)
        metrics_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(shown), server)
        short_circuits = ShortCircuits(shown.short_circuit)
        short_circuit_pb2_grpc.add_ShortCircuitServiceServicer_to_server(short_circuits, server)
        failovers = Failovers(mesh, shown, config.cluster_name)
        failover_pb2_grpc.add_FailoverServiceServicer_to_server(failovers, server)
        health_pb2_grpc.add_HealthServicer_to_server(state, server)
        names = (*NAMES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        return state

    async def _listen(self, server: grpc.aio.Server) -> None:
        api = self._config.api
        listen_unix(server, self._config.socket)
        if api.listen and api.tls is not None:
            self.port = listen_tls(server, api.listen, api.tls)
        await server.start()
        log.info("control API listens", socket=str(self._config.socket), address=api.listen or "nowhere else")
