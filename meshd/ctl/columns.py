"""The columns of every table, and the words that stand for enums in them."""

from __future__ import annotations

import time

from meshd.api.v1 import backend_pb2, cluster_pb2, map_pb2, node_pb2, service_pb2
from meshd.ctl.output import Column, age, size

EXTERNAL_SHOWN = 3


def word(name: str, prefix: str) -> str:
    """``PROGRAMMED_SETTLED`` is settled."""
    return name.removeprefix(prefix).lower().replace("_", " ")


def protocol(value: service_pb2.Protocol.ValueType) -> str:
    """TCP or UDP."""
    return service_pb2.Protocol.Name(value).removeprefix("PROTOCOL_")


def endpoint(address: str, port: int) -> str:
    """``10.0.0.1:80`` or ``[fd00::1]:80``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def frontends(service: service_pb2.Service) -> str:
    """What clients dial; of a node port, which is as long as there are nodes, the beginning."""
    dialled = [*service.frontends, *service.external[:EXTERNAL_SHOWN]]
    texts = [f"{endpoint(one.address, one.port)}/{protocol(one.protocol)}" for one in dialled]
    more = len(service.external) - EXTERNAL_SHOWN
    return ",".join([*texts, *([f"+{more}"] if more > 0 else [])]) or "-"


def service_state(service: service_pb2.Service) -> str:
    """What the kernel holds of it, and why."""
    state = word(service_pb2.Programmed.Name(service.status.programmed), "PROGRAMMED_")
    reason = service.status.reason.removeprefix("overridden ")
    return f"{state}{' ' if state == 'overridden' else ': '}{reason}" if reason else state


def source(name: str, stale: bool) -> str:
    """Who owns it; stale: what it said stands, although it may have changed its mind."""
    return f"{name} (stale)" if stale else name


def backend_state(backend: backend_pb2.Backend) -> str:
    """Its conditions in a word or two."""
    if backend.terminating:
        return "terminating (serving)" if backend.serving else "terminating"
    return "ready" if backend.ready else "not ready"


def ports(backend: backend_pb2.Backend) -> str:
    """Where it serves."""
    return ",".join(
        f"{one.port_name + '=' if one.port_name else ''}{one.port}/{protocol(one.protocol)}"
        for one in backend.ports
    )


def node_state(node: node_pb2.Node) -> str:
    """Of its record, and what is wrong with it."""
    known = node.state != node_pb2.NODE_STATE_UNSPECIFIED
    state = word(node_pb2.NodeState.Name(node.state), "NODE_STATE_") if known else "-"
    return f"{state}: {node.reason}" if node.reason else state


def cluster_state(cluster: cluster_pb2.Cluster) -> str:
    """Its state and the reason."""
    if cluster.local:
        return "local"
    state = word(cluster_pb2.ClusterState.Name(cluster.state), "CLUSTER_STATE_")
    return f"{state}: {cluster.reason}" if cluster.reason else state


def cluster_lag(cluster: cluster_pb2.Cluster) -> str:
    """How long its last change took to arrive."""
    return f"{cluster.peer.lag_seconds * 1000:.0f} ms" if cluster.peer.HasField("lag_seconds") else "-"


def heartbeat(cluster: cluster_pb2.Cluster) -> str:
    """The age of its last sign of life."""
    known = cluster.peer.HasField("heartbeat_age_seconds")
    return f"{cluster.peer.heartbeat_age_seconds:.0f}s" if known else "-"


def pin_origin(cluster: cluster_pb2.Cluster) -> str:
    """Who said what a remote cluster may name."""
    if not cluster.peer.pin_origin:
        return "-"
    return word(cluster_pb2.PinOrigin.Name(cluster.peer.pin_origin), "PIN_ORIGIN_")


def stale_services(cluster: cluster_pb2.Cluster) -> str:
    """What nobody vouches for, and how much of that is held for how long."""
    peer = cluster.peer
    if not peer.HasField("held_since"):
        return str(peer.stale_services) if cluster.HasField("peer") else "-"
    return f"{peer.stale_services} ({peer.held_services} held {age(peer.held_since.seconds, time.time())})"


def fullness(one: map_pb2.Map) -> str:
    """How much of its room is taken."""
    return f"{one.entries / one.capacity:.1%}" if one.HasField("entries") and one.capacity else "-"


def yes(value: bool) -> str:
    """As people say it."""
    return "yes" if value else "no"


def said(service: service_pb2.Service) -> str:
    """Whether it is global, or who decides that."""
    return yes(getattr(service, "global")) if service.HasField("global") else "namespace"


SERVICES: tuple[Column[service_pb2.Service], ...] = (
    Column("NAMESPACE", lambda one: one.namespace),
    Column("NAME", lambda one: one.name),
    Column("FRONTENDS", frontends),
    Column("BACKENDS", lambda one: f"{one.status.backends_in_use}/{one.status.backends_known}"),
    Column("SOURCE", lambda one: source(one.source, one.status.stale)),
    Column("STATE", service_state),
    Column("GLOBAL", said, wide=True),
    Column("SHARED", lambda one: yes(one.shared), wide=True),
    Column("AFFINITY", lambda one: word(service_pb2.Affinity.Name(one.affinity), "AFFINITY_"), wide=True),
    Column("FAILOVER", lambda one: one.failover or "-", wide=True),
    Column("SESSION", lambda one: f"{one.affinity_timeout_seconds}s", wide=True),
    Column("REVISION", lambda one: str(one.status.revision), wide=True),
)

BACKENDS: tuple[Column[backend_pb2.Backend], ...] = (
    Column("NAMESPACE", lambda one: one.namespace),
    Column("SERVICE", lambda one: one.service),
    Column("ADDRESS", lambda one: one.address),
    Column("PORTS", ports),
    Column("STATE", backend_state),
    Column("CLUSTER", lambda one: one.cluster),
    Column("SOURCE", lambda one: source(one.source, one.stale)),
    Column("NODE", lambda one: one.node or "-", wide=True),
    Column("ZONE", lambda one: one.zone or "-", wide=True),
    Column("WEIGHT", lambda one: str(one.weight), wide=True),
    Column("SLICE", lambda one: one.slice, wide=True),
    Column("REVISION", lambda one: str(one.revision), wide=True),
)


def answers(one: node_pb2.Node) -> str:
    """How soon a node answers probes, and what is lost of them; ``down`` or ``unknown``."""
    if not one.reachability:
        return "-"
    if one.reachability != node_pb2.REACHABILITY_UP:
        return word(node_pb2.Reachability.Name(one.reachability), "REACHABILITY_")
    lost = f", {one.loss:.0%} lost" if one.loss >= 0.005 else ""
    return f"{one.rtt_seconds * 1000:.1f} ms{lost}"


NODES: tuple[Column[node_pb2.Node], ...] = (
    Column("CLUSTER", lambda one: one.cluster),
    Column("NAME", lambda one: one.name),
    Column("ADDRESSES", lambda one: ",".join(one.addresses) or "-"),
    Column("POD CIDRS", lambda one: ",".join(one.pod_cidrs) or "-"),
    Column("ROUTING", lambda one: one.routing or "-"),
    Column("ANSWERS", answers),
    Column("STATE", node_state),
    Column("SOURCE", lambda one: source(one.source, one.stale)),
    Column("ZONE", lambda one: one.zone or "-", wide=True),
    Column("REGION", lambda one: one.region or "-", wide=True),
    Column("IDENTITIES", lambda one: yes(one.takes_identities), wide=True),
    Column("REVISION", lambda one: str(one.revision), wide=True),
)

CLUSTERS: tuple[Column[cluster_pb2.Cluster], ...] = (
    Column("NAME", lambda one: one.name),
    Column("ID", lambda one: str(one.id)),
    Column("STATE", cluster_state),
    Column("SINCE", lambda one: age(one.since.seconds, time.time()) if one.HasField("since") else "-"),
    Column("SERVICES", lambda one: str(one.peer.services) if one.HasField("peer") else "-"),
    Column("STALE", stale_services),
    Column("LAG", cluster_lag),
    Column("HEARTBEAT", heartbeat),
    Column("PIN", pin_origin),
    Column("REFUSED", lambda one: str(sum(one.peer.refused.values())), wide=True),
    Column("RECONNECTS", lambda one: str(one.peer.reconnects), wide=True),
    Column("NETWORKS", lambda one: ",".join(one.peer.pin_networks) or "-", wide=True),
    Column("ENDPOINTS", lambda one: ",".join(one.peer.endpoints) or "-", wide=True),
    Column("LAST ERROR", lambda one: one.peer.last_error or "-", wide=True),
)

MAPS: tuple[Column[map_pb2.Map], ...] = (
    Column("NAME", lambda one: one.name),
    Column("TYPE", lambda one: one.type),
    Column("ENTRIES", lambda one: str(one.entries) if one.HasField("entries") else "-"),
    Column("CAPACITY", lambda one: str(one.capacity)),
    Column("FULL", fullness),
    Column("MEMORY", lambda one: size(one.memory_bytes)),
    Column("KEY", lambda one: f"{one.key_bytes} B", wide=True),
    Column("VALUE", lambda one: f"{one.value_bytes} B", wide=True),
    Column("PIN", lambda one: one.pin or "-", wide=True),
)
