"""Nodes, namespaces and clusters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from meshd.model.address import Address


@dataclass(frozen=True, slots=True)
class Namespace:
    """A Kubernetes namespace, as far as it decides something. None: not said there. ``labels`` by key."""

    name: str
    source: str
    global_services: bool | None = None
    socket_lb: bool | None = None
    short_circuit: bool | None = None
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return self.source, self.name


# Sources of nodes: this machine's own, as the agent finds it; the others of its cluster; those of another cluster, by name.
OWN_NODE = "node"
ETCD = "etcd"
REMOTE_PREFIX = "cluster:"
# And all of its cluster, as the API server knows them.
KUBERNETES = "kubernetes"


class NodeState(Enum):
    """Of a node that speaks for itself in etcd.

    STALE: its record is gone, and what it said stands. REFUSED: it claims what is somebody else's, nothing of it counts.
    """

    FRESH = "fresh"
    STALE = "stale"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of a cluster. ``pod_cidrs`` as text (``10.1.0.0/24``).

    ``extra``: addresses of its pods outside these. ``routing``: how its pods may be reached (native, vxlan, auto); empty: it
    is no node of ours, or nobody said. ``health``: addresses of its own among those of its pods, which answer whoever asks
    whether it is there. ``identities``: first and last of what workloads of its cluster may be.
    ``takes_identities``: in a tunnel it is told of each pod who it is, not only that it is one.
    ``reason``: why it is refused, or why its newest record is.
    """

    cluster: str
    name: str
    source: str
    addresses: tuple[Address, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    zone: str = ""
    extra: tuple[Address, ...] = ()
    routing: str = ""
    health: tuple[Address, ...] = ()
    identities: tuple[int, int] = (0, 0)
    state: NodeState = NodeState.FRESH
    reason: str = ""
    takes_identities: bool = False
    region: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.source, self.cluster, self.name

    @property
    def is_of_etcd(self) -> bool:
        """Whether it is another one than this, and speaks for itself."""
        return self.source == ETCD or self.source.startswith(REMOTE_PREFIX)

    def __str__(self) -> str:
        return f"{self.cluster}/{self.name}"


class ClusterState(Enum):
    """Of a remote cluster, as this node sees it."""

    CONNECTING = "connecting"
    SYNCED = "synced"
    STALE = "stale"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster this node knows. ``since_s`` is Unix time of the last change of ``state``."""

    name: str
    source: str
    id: int = 0
    local: bool = False
    state: ClusterState = ClusterState.CONNECTING
    since_s: float = 0.0
    reason: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.source, self.name
