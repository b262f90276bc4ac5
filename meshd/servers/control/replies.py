"""From model values to what callers see: the object, who owns it, and what the kernel holds of it."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.timestamp_pb2 import Timestamp

from meshd.api.v1 import backend_pb2, cluster_pb2, map_pb2, node_pb2, service_pb2
from meshd.model import (
    Affinity,
    Backend,
    BackendSlice,
    Cluster,
    ClusterState,
    Frontend,
    Node,
    NodeState,
    OnStale,
    Protocol,
    Reachability,
    Service,
    ServiceName,
    format_address,
)
from meshd.model.failover import format_ladder
from meshd.servers.introspection import Introspection, KernelMap, Peer
from meshd.state import Mesh, PlanKey, SourceState

PROTOCOLS = {Protocol.TCP: service_pb2.PROTOCOL_TCP, Protocol.UDP: service_pb2.PROTOCOL_UDP}
AFFINITIES = {
    Affinity.NONE: service_pb2.AFFINITY_NONE,
    Affinity.LOCAL: service_pb2.AFFINITY_LOCAL,
    Affinity.REMOTE: service_pb2.AFFINITY_REMOTE,
}
ON_STALE = {
    None: service_pb2.ON_STALE_UNSPECIFIED,
    OnStale.KEEP: service_pb2.ON_STALE_KEEP,
    OnStale.DEPRIORITISE: service_pb2.ON_STALE_DEPRIORITISE,
    OnStale.DROP: service_pb2.ON_STALE_DROP,
}
NODE_STATES = {
    NodeState.FRESH: node_pb2.NODE_STATE_FRESH,
    NodeState.STALE: node_pb2.NODE_STATE_STALE,
    NodeState.REFUSED: node_pb2.NODE_STATE_REFUSED,
}
REACHABILITIES = {
    "": node_pb2.REACHABILITY_UNSPECIFIED,
    Reachability.UNKNOWN.value: node_pb2.REACHABILITY_UNKNOWN,
    Reachability.UP.value: node_pb2.REACHABILITY_UP,
    Reachability.DOWN.value: node_pb2.REACHABILITY_DOWN,
}
CLUSTER_STATES = {
    ClusterState.CONNECTING: cluster_pb2.CLUSTER_STATE_CONNECTING,
    ClusterState.SYNCED: cluster_pb2.CLUSTER_STATE_SYNCED,
    ClusterState.STALE: cluster_pb2.CLUSTER_STATE_STALE,
    ClusterState.GONE: cluster_pb2.CLUSTER_STATE_GONE,
}


class Replies:
    """Messages for one answer, all of one instant: what is the same for all of its objects is looked up once."""

    def __init__(self, mesh: Mesh, introspection: Introspection) -> None:
        self._mesh = mesh
        self._introspection = introspection
        self._failed = mesh.failed
        self._stale = {
            name
            for name, status in mesh.sources.items()
            if not status.complete_once or status.state is SourceState.STALE
        }
        self._peers: dict[str, Peer] | None = None

    def service(self, value: Service) -> service_pb2.Service:
        """``value`` with its status."""
        message = service_pb2.Service(
            namespace=value.name.namespace,
            name=value.name.name,
            frontends=map(frontend_message, value.frontends),
            external=map(frontend_message, value.external),
            affinity_timeout_seconds=value.affinity_timeout_s,
            internal_traffic_local=value.internal_traffic_local,
            publish_not_ready=value.publish_not_ready,
            shared=value.shared,
            affinity=AFFINITIES[value.affinity],
            failover=format_ladder(value.failover),
            min_healthy_percent=value.min_healthy_percent,
            ramp_seconds=value.ramp_s,
            close_tcp=value.close_tcp,
            close_on_failover=value.close_on_failover,
            on_stale=ON_STALE[value.on_stale],
            source=value.source,
            status=self.service_status(value),
        )
        if value.is_global is not None:
            # A keyword of Python.
            setattr(message, "global", value.is_global)
        return message

    def service_status(self, value: Service) -> service_pb2.ServiceStatus:
        """What the kernel holds of ``value``, and why."""
        programmed, reason = self._programmed(value)
        in_force = programmed != service_pb2.PROGRAMMED_OVERRIDDEN
        return service_pb2.ServiceStatus(
            revision=self._mesh.services.revision_of(value.key),
            programmed=programmed,
            reason=reason,
            backends_in_use=self._introspection.backends_in_use(value.name) if in_force else 0,
            backends_known=sum(len(part.backends) for part in self._mesh.slices_of(value.name)),
            stale=value.source in self._stale,
        )

    def _programmed(self, value: Service) -> tuple[service_pb2.Programmed.ValueType, str]:
        owner = self._mesh.owner(value.name)
        if owner != value.source:
            return service_pb2.PROGRAMMED_OVERRIDDEN, f"overridden by {owner}"
        key = plan_key(value.name)
        if key in self._failed:
            return service_pb2.PROGRAMMED_FAILED, str(self._failed[key])
        if self._mesh.is_pending(key):
            return service_pb2.PROGRAMMED_PENDING, ""
        return service_pb2.PROGRAMMED_SETTLED, "; ".join(value.remarks)

    def backends(self, part: BackendSlice) -> Iterator[backend_pb2.Backend]:
        """Every backend of ``part``, each a message of its own."""
        revision = self._mesh.slices.revision_of(part.key)
        for backend in part.backends:
            yield self._backend(part, backend, revision)

    def _backend(self, part: BackendSlice, backend: Backend, revision: int) -> backend_pb2.Backend:
        return backend_pb2.Backend(
            namespace=part.service.namespace,
            service=part.service.name,
            address=format_address(backend.address),
            ports=[
                backend_pb2.BackendPort(
                    port_name=port.port_name, protocol=PROTOCOLS[port.protocol], port=port.port
                )
                for port in backend.ports
            ],
            ready=backend.ready,
            serving=backend.serving,
            terminating=backend.terminating,
            node=backend.node,
            zone=backend.zone,
            weight=backend.weight,
            cluster=part.cluster,
            source=part.source,
            slice=part.name,
            stale=part.source in self._stale or part.stale_since_s > 0,
            revision=revision,
        )

    def node(self, value: Node) -> node_pb2.Node:
        """``value`` as callers see it."""
        routing = self._introspection.routing(value)
        return node_pb2.Node(
            cluster=value.cluster,
            name=value.name,
            source=value.source,
            addresses=[format_address(address) for address in value.addresses],
            pod_cidrs=value.pod_cidrs,
            zone=value.zone,
            stale=value.source in self._stale,
            revision=self._mesh.nodes.revision_of(value.key),
            state=NODE_STATES[value.state] if value.is_of_etcd else node_pb2.NODE_STATE_UNSPECIFIED,
            reason=value.reason or routing.reason,
            routing=routing.via,
            reachability=REACHABILITIES[routing.reachability],
            rtt_seconds=routing.rtt_s,
            loss=routing.loss,
            takes_identities=value.takes_identities,
            region=value.region,
        )

    def cluster(self, value: Cluster) -> cluster_pb2.Cluster:
        """``value``, with the figures of the connection if it is a remote one."""
        if self._peers is None:
            self._peers = {peer.cluster: peer for peer in self._introspection.peers()}
        peer = self._peers.get(value.name)
        since = Timestamp()
        since.FromNanoseconds(int(value.since_s * 1e9))
        return cluster_pb2.Cluster(
            name=value.name,
            source=value.source,
            id=value.id,
            local=value.local,
            state=CLUSTER_STATES[value.state],
            since=since if value.since_s else None,
            reason=value.reason,
            peer=None if peer is None else peer_message(peer),
            revision=self._mesh.clusters.revision_of(value.key),
        )


PIN_ORIGINS = {
    "stated": cluster_pb2.PIN_ORIGIN_STATED,
    "learned": cluster_pb2.PIN_ORIGIN_LEARNED,
    "none yet": cluster_pb2.PIN_ORIGIN_NONE_YET,
}


def peer_message(peer: Peer) -> cluster_pb2.Peer:
    """The figures of a connection; what is not known is absent."""
    return cluster_pb2.Peer(
        endpoints=peer.endpoints,
        services=peer.services,
        lag_seconds=peer.lag_s,
        heartbeat_age_seconds=peer.heartbeat_age_s,
        refused=peer.refused,
        reconnects=peer.reconnects,
        last_error=peer.last_error,
        stale_services=peer.stale_services,
        held_services=peer.held_services,
        held_backends=peer.held_backends,
        held_since=None if peer.held_since_s is None else timestamp(peer.held_since_s),
        pin_origin=PIN_ORIGINS[peer.pin_origin],
        pin_cluster_id=peer.pin_cluster_id,
        pin_networks=peer.pin_networks,
    )


def timestamp(when_s: float) -> Timestamp:
    """Unix time as a message."""
    made = Timestamp()
    made.FromNanoseconds(int(when_s * 1e9))
    return made


def map_message(value: KernelMap) -> map_pb2.Map:
    """A map as callers see it."""
    return map_pb2.Map(
        name=value.name,
        type=value.kind,
        key_bytes=value.key_bytes,
        value_bytes=value.value_bytes,
        capacity=value.capacity,
        entries=value.entries,
        memory_bytes=value.memory_bytes,
        pin=value.pin,
    )


def plan_key(name: ServiceName) -> PlanKey:
    """What the dataplane plans for the service ``name``."""
    return PlanKey("service", str(name))


def frontend_message(value: Frontend) -> service_pb2.Frontend:
    """An address and port as callers see them."""
    return service_pb2.Frontend(
        address=format_address(value.address),
        port=value.port,
        protocol=PROTOCOLS[value.protocol],
        port_name=value.port_name,
    )
