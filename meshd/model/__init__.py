"""What a mesh consists of: frozen values without I/O. Every source converts to these where its bytes arrive."""

from meshd.model.address import Address, format_address, is_ipv4, parse_address
from meshd.model.cluster import Cluster, ClusterState, Namespace, Node, NodeState
from meshd.model.outage import Outage, Reachability
from meshd.model.service import (
    Affinity,
    Backend,
    BackendPort,
    BackendSlice,
    Frontend,
    OnStale,
    Protocol,
    Service,
    ServiceName,
    TrafficDistribution,
)
from meshd.model.workload import Identity, Workload

__all__ = [
    "Address",
    "Affinity",
    "Backend",
    "BackendPort",
    "BackendSlice",
    "Cluster",
    "ClusterState",
    "Frontend",
    "Identity",
    "Namespace",
    "Node",
    "NodeState",
    "OnStale",
    "Outage",
    "Protocol",
    "Reachability",
    "Service",
    "ServiceName",
    "TrafficDistribution",
    "Workload",
    "format_address",
    "is_ipv4",
    "parse_address",
]
