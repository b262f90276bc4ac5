"""Services, and the backends that stand behind them.

A service and its backends come from different objects (Kubernetes: Service and EndpointSlice) and for a global service from
different clusters, so they are separate values that share a name. ``source`` says who may change a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

from meshd.model.address import Address
from meshd.model.failover import Ladder


class Protocol(IntEnum):
    """IP protocol numbers (IANA) of what can be translated at the socket."""

    TCP = 6
    UDP = 17


class Affinity(Enum):
    """Which clusters' backends a global service prefers; a preference never yields an empty choice."""

    NONE = "none"
    LOCAL = "local"
    REMOTE = "remote"


class OnStale(Enum):
    """What becomes of a remote backend that nobody has vouched for for too long, for new connections only.

    DEPRIORITISE: it is the last resort. DROP: it gets none.
    """

    KEEP = "keep"
    DEPRIORITISE = "deprioritise"
    DROP = "drop"


class TrafficDistribution(Enum):
    """Which backends a service would rather use (Kubernetes, spec.trafficDistribution); a preference, as above."""

    ANY = "any"
    SAME_ZONE = "same zone"
    SAME_NODE = "same node"


class ServiceName(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Frontend(NamedTuple):
    """An address and port that clients dial; ``port_name`` joins it to the backends' ports of the same name."""

    address: Address
    port: int
    protocol: Protocol
    port_name: str = ""


class BackendPort(NamedTuple):
    port_name: str
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class Service:
    """A name that clients dial. ``affinity_timeout_s`` 0: no session affinity."""

    name: ServiceName
    source: str
    frontends: tuple[Frontend, ...] = ()
    affinity_timeout_s: int = 0
    internal_traffic_local: bool = False
    publish_not_ready: bool = False
    # None: what the namespace says (Namespace.global_services).
    is_global: bool | None = False
    shared: bool = True
    affinity: Affinity = Affinity.NONE
    # In the place of `affinity`; empty: that one's ladder.
    failover: Ladder = ()
    # Which share of a rung must be healthy for it to take everything. None: the default of ladders.
    min_healthy_percent: int | None = None
    # For so long the share of a cluster grows that serves again; 0: it has it at once.
    ramp_s: int = 0
    # On removal of a backend, its established TCP connections are closed too, not only connected UDP sockets.
    close_tcp: bool = False
    # When the node of a backend is confirmed to be down and others serve, connections to that backend are closed.
    close_on_failover: bool = False
    traffic_distribution: TrafficDistribution = TrafficDistribution.ANY
    # None: what the configuration says.
    on_stale: OnStale | None = None
    # Dialled besides `frontends`: nodes' addresses, a load balancer's, others. internal_traffic_local is not about them.
    external: tuple[Frontend, ...] = ()
    # What of it is not in force, and why, as sentences.
    remarks: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, ServiceName]:
        return self.source, self.name


@dataclass(frozen=True, slots=True)
class Backend:
    """An address that serves, with the conditions of an EndpointSlice endpoint (KEP-1672).

    ``ready`` implies serving and not terminating. ``weight`` is relative within a service. ``for_zones``, ``for_nodes``: who
    is meant to use it (KEP-2433, hints); empty: nothing is said.
    """

    address: Address
    ports: tuple[BackendPort, ...]
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    zone: str = ""
    weight: int = 100
    for_zones: tuple[str, ...] = ()
    for_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackendSlice:
    """Backends of one service that one source names together and replaces together.

    ``cluster`` is the cluster they run in; slices of remote clusters are used only if the service is global. One that stands
    although its cluster does not name it any more is stale since ``stale_since_s`` (Unix time; 0: it is not stale), ``held``
    if it is one of many that went at once, and ``overdue`` once that has lasted for too long.
    """

    service: ServiceName
    name: str
    source: str
    cluster: str
    backends: tuple[Backend, ...]
    stale_since_s: float = 0.0
    held: bool = False
    overdue: bool = False

    @property
    def key(self) -> tuple[str, ServiceName, str]:
        return self.source, self.service, self.name
