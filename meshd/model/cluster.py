"""Nodes, namespaces and clusters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from meshd.model.address import Address


@dataclass(frozen=True, slots=True)
class Namespace:
    """A Kubernetes namespace, as far as it decides something. None: not said there."""

    name: str
    source: str
    global_services: bool | None = None
    socket_lb: bool | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.source, self.name


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of a cluster. ``pod_cidrs`` as text (``10.1.0.0/24``)."""

    cluster: str
    name: str
    source: str
    addresses: tuple[Address, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    zone: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.source, self.cluster, self.name


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
