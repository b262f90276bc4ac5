"""What follows from a lab's id and spec alone: names, paths and addresses. Nothing here touches the machine.

Address plan (all of it in the lab's own network namespaces):

    fabric       10.200.C.0/16   fd00:c8::C:N     one layer-2 network; etcd of cluster C is host 2, node N is host 10+N
    pods         10.C.N.0/24     fd00:C:N::/64    N is the node's number from 1; pods from host 10
    services     172.16+.../20   fd00:C:ffff::/112  one /20 of 172.16.0.0/12 for each cluster id
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from meshd.lab.spec import ClusterSpec, LabSpec

RUN_ROOT = Path("/run/meshd-lab")
STATE_ROOT = Path("/var/lib/meshd-lab")

FABRIC_V4_PREFIX = 16
FABRIC_V6_PREFIX = 64
FIRST_POD_HOST = 10
LAST_POD_HOST = 254
SERVICES_V4 = IPv4Network("172.16.0.0/12")


@dataclass(frozen=True, slots=True)
class Addresses:
    """One address of each family; every node, pod and service has both."""

    v4: IPv4Address
    v6: IPv6Address

    def __iter__(self):  # type: ignore[no-untyped-def]  # two types in turn; callers only print them
        return iter((self.v4, self.v6))


@dataclass(frozen=True, slots=True)
class Node:
    cluster: str
    cluster_id: int
    number: int

    @property
    def name(self) -> str:
        return f"{self.cluster}-n{self.number}"

    @property
    def fabric(self) -> Addresses:
        return fabric_address(self.cluster_id, 10 + self.number)

    @property
    def pod_cidrs(self) -> tuple[IPv4Network, IPv6Network]:
        c, n = self.cluster_id, self.number
        return IPv4Network(f"10.{c}.{n}.0/24"), IPv6Network(f"fd00:{c:x}:{n:x}::/64")

    def pod_address(self, host: int) -> Addresses:
        v4, v6 = self.pod_cidrs
        return Addresses(v4[host], v6[host])


@dataclass(frozen=True, slots=True)
class Cluster:
    name: str
    id: int
    nodes: tuple[Node, ...]

    @property
    def etcd(self) -> Addresses:
        return fabric_address(self.id, 2)

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """In which its nodes and pods have addresses."""
        fabric = fabric_address(self.id, 0)
        return (
            IPv4Network(f"10.{self.id}.0.0/16"),
            IPv6Network(f"fd00:{self.id:x}::/32"),
            IPv4Network((fabric.v4, 24)),
            IPv6Network((fabric.v6, 112)),
        )

    def service_address(self, index: int) -> Addresses:
        """The ClusterIPs of the ``index``-th service (0-based) of this cluster."""
        v4 = IPv4Address(int(SERVICES_V4.network_address) + self.id * 4096 + 1 + index)
        return Addresses(v4, IPv6Address(f"fd00:{self.id:x}:ffff::{1 + index:x}"))


def fabric_address(cluster_id: int, host: int) -> Addresses:
    """``host`` of cluster ``cluster_id`` on the network that joins all nodes and etcds."""
    return Addresses(
        IPv4Address(f"10.200.{cluster_id}.{host}"), IPv6Address(f"fd00:c8::{cluster_id:x}:{host:x}")
    )


def clusters(spec: LabSpec) -> tuple[Cluster, ...]:
    return tuple(_cluster(cluster) for cluster in spec.clusters)


def _cluster(spec: ClusterSpec) -> Cluster:
    nodes = tuple(Node(spec.name, spec.id, number) for number in range(1, spec.nodes + 1))
    return Cluster(spec.name, spec.id, nodes)


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything of lab ``id`` is. Unix socket paths stay below the 108 bytes the kernel takes."""

    id: str
    cgroup_mount: Path
    run_root: Path = RUN_ROOT
    state_root: Path = STATE_ROOT

    @property
    def run(self) -> Path:
        return self.run_root / self.id

    @property
    def state(self) -> Path:
        return self.state_root / self.id

    @property
    def cgroup(self) -> Path:
        return self.cgroup_mount / self.id

    @property
    def record(self) -> Path:
        return self.run / "lab.json"

    @property
    def lock(self) -> Path:
        return self.run / "lock"

    def netns(self, name: str) -> Path:
        return self.run / "netns" / name

    @property
    def fabric_netns(self) -> Path:
        return self.netns("fabric")

    def node_netns(self, node: Node) -> Path:
        return self.netns(node.name)

    def etcd_netns(self, cluster: str) -> Path:
        return self.netns(f"{cluster}-etcd")

    def cluster(self, cluster: str) -> Path:
        return self.run / "clusters" / cluster

    def manifests(self, cluster: str) -> Path:
        return self.cluster(cluster) / "manifests"

    def peers(self, cluster: str) -> Path:
        return self.cluster(cluster) / "peers"

    def pki(self, cluster: str) -> Path:
        return self.cluster(cluster) / "pki"

    def etcd_client(self, cluster: str) -> Path:
        return self.cluster(cluster) / "etcd.yaml"

    def etcd_data(self, cluster: str) -> Path:
        return self.state / "etcd" / cluster

    def etcd_cgroup(self, cluster: str) -> Path:
        return self.cgroup / cluster / "etcd"

    def etcd_log(self, cluster: str) -> Path:
        return self.cluster(cluster) / "etcd.log"

    def node(self, node: Node) -> Path:
        return self.run / "nodes" / node.name

    def node_cgroup(self, node: Node) -> Path:
        """All of the node: meshd's socket hooks act on what is below."""
        return self.cgroup / node.cluster / node.name

    def agent_cgroup(self, node: Node) -> Path:
        return self.node_cgroup(node) / "meshd"

    def agent_log(self, node: Node) -> Path:
        return self.node(node) / "meshd.log"

    def socket(self, node: Node) -> Path:
        return self.node(node) / "run" / "meshd.sock"

    def cni_socket(self, node: Node) -> Path:
        return self.node(node) / "run" / "cni.sock"

    def bpffs(self, node: Node) -> Path:
        return self.run / "bpf" / node.name

    def pod(self, cluster: str, pod: str) -> Path:
        return self.run / "pods" / cluster / pod

    def pod_netns(self, cluster: str, pod: str) -> Path:
        return self.netns(f"{cluster}.{pod}")

    def pod_cgroup(self, node: Node, pod: str) -> Path:
        return self.node_cgroup(node) / "pods" / pod
