"""Whole clusters for a test: an etcd each, real `meshd` processes, workloads of their nodes, and servers behind services.

All of it is in one network namespace of the test's own, where every etcd has an address of the loopback, and every backend
one of BACKENDS, on the same device: no cluster may name loopback addresses to another. Which node a workload belongs to is
decided by its cgroup, as on a machine of its own; service addresses have no route at all, so whatever reaches a backend
through one was translated by a hook.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, TypedDict

import yaml

from meshd.api.v1 import cluster_pb2, map_pb2, map_pb2_grpc, status_pb2
from meshd.kernel import netlink
from meshd.kernel.netns import Netns
from tests.e2e.cluster_etcd import Etcd
from tests.netns.agent.agent_node import PORT, AgentNode, endpoint_slice, lines, service

# Annotations, without `meshd.io/`; `global` is no name of an argument in Python.
# A TypedDict, because for a type checker `**` of a plain dict may fill any parameter.
Global = TypedDict("Global", {"global": str}, total=False)
GLOBAL: Global = {"global": "true"}
# For benchmarks (RFC 2544), and nowhere else; on lo all of the network is local.
BACKENDS = "198.18.0.1/15"
ROWS = ("frontends", "slots", "members", "sources")
Document = dict[str, Any]  # Any: a Kubernetes object
Rows = dict[tuple[str, str], str]


class Node(AgentNode):
    """One node of a cluster: `start` and `kill` its `meshd`, `spawn` its workloads, look at what is in its kernel."""

    def __init__(self, cluster: Cluster, number: int, run_name: str) -> None:
        name = f"{cluster.name}-n{number}"
        directory = cluster.directory / name
        directory.mkdir()
        super().__init__(directory, f"{run_name}{name}")
        self.netns.close()
        self.netns = Netns.open(Path(f"/proc/self/fd/{cluster.netns.fd}"), name)
        self.manifests = cluster.manifests
        self.options = {
            "nodeName": name,
            "clusterName": cluster.name,
            "clusterId": cluster.id,
            "clustermesh": {
                "etcd": str(cluster.client_file),
                "peers": str(cluster.peers),
                "electionLeaseS": 2,
                "dataLeaseS": cluster.data_lease_s,
            },
        }

    @property
    def socket(self) -> Path:
        return self.directory / "run" / "meshd.sock"

    def settled(self) -> bool:
        """Every source was read completely, and the kernel has all of it."""
        said = self.status()
        complete = status_pb2.SOURCE_STATE_COMPLETE
        return said is not None and not said.pending and all(s.state == complete for s in said.sources)

    def source(self, name: str) -> status_pb2.Source | None:
        """What the agent says of one source; None: it has none of that name."""
        said = self.status()
        assert said is not None
        return next((source for source in said.sources if source.name == name), None)

    def cluster_row(self, name: str) -> cluster_pb2.Cluster:
        """What the agent says of one cluster."""
        said = self.status()
        assert said is not None
        return next(cluster for cluster in said.clusters if cluster.name == name)

    def rows(self) -> Rows:
        """(map, key) -> value of every row in the kernel that stands for services and backends."""
        with self.channel() as channel:
            stub = map_pb2_grpc.MapServiceStub(channel)
            return {
                (name, entry.key): entry.value
                for name in ROWS
                for part in stub.DumpMap(map_pb2.DumpMapRequest(name=name), timeout=10)
                for entry in part.entries
            }

    def backends(self, vip: str) -> set[str] | None:
        """Addresses that the kernel has behind ``vip``; None: it does not know the address."""
        return backends_in(self.rows(), vip)

    def dial(self, vip: str) -> dict[str, dict[str, int]]:
        """What some twenty connections of a workload of this node came to: answers by backend, failures by reason."""
        return self.under_load(vip, 1, lambda: None)

    def under_load(self, vip: str, clients: int, during: Callable[[], None]) -> dict[str, dict[str, int]]:
        """What ``clients`` processes saw that opened connections to ``vip`` without pause while ``during`` ran."""
        process = self.spawn("clients.py", str(clients), vip, str(PORT))
        output = lines(process)
        assert next(output) == "started"
        during()
        process.send_signal(signal.SIGTERM)
        result: dict[str, dict[str, int]] = json.loads(next(output))
        return result


class Cluster:
    """A cluster: its etcd, its manifests, its peers, and nodes that `add_node` makes."""

    def __init__(self, directory: Path, name: str, number: int, netns: Netns) -> None:
        self.name = name
        self.id = number
        self.netns = netns
        self.directory = directory
        self.etcd = Etcd(netns, f"127.0.{number}.1")
        self.manifests = directory / f"{name}-manifests"
        self.peers = directory / f"{name}-peers"
        self.client_file = directory / f"{name}-etcd.yaml"
        self.nodes: list[Node] = []
        self.data_lease_s = 60
        for made in (self.manifests, self.peers):
            made.mkdir()
        self.client_file.write_text(yaml.safe_dump({"endpoints": [self.etcd.url]}))

    def vip(self, number: int) -> str:
        """The address of the ``number``-th service in this cluster."""
        return f"10.{95 + self.id}.0.{number}"

    def add_node(self, run_name: str) -> Node:
        """A node without a running agent."""
        self.nodes.append(Node(self, len(self.nodes) + 1, run_name))
        return self.nodes[-1]

    def join(self, other: Cluster) -> None:
        """This cluster's nodes follow ``other``."""
        (self.peers / other.name).write_text(other.client_file.read_text())

    def write(
        self, name: str, number: int, ready: tuple[str, ...] = (), waiting: tuple[str, ...] = (), **said: str
    ) -> None:
        """Service ``name`` with its backends, ready and not ready; ``said``: annotations, without `meshd.io/`."""
        document = service(name, self.vip(number))
        document["metadata"]["annotations"] = {f"meshd.io/{key}": value for key, value in said.items()}  # type: ignore[index] # ours
        endpoints: Document = endpoint_slice(name, *ready, *waiting)
        for endpoint in endpoints["endpoints"]:
            endpoint["conditions"]["ready"] = endpoint["addresses"][0] in ready
        self.nodes[0].write(name, document, endpoints)


class TwoClusters:
    """cm-1 and cm-2, which follow each other. `make` them, `start` their agents, and `close` whatever became of that."""

    def __init__(self, directory: Path, run_name: str) -> None:
        self._run_name = run_name
        self.netns = Netns.create(run_name)
        self.first, self.second = (Cluster(directory, f"cm-{n}", n, self.netns) for n in (1, 2))

    def make(self, nodes_of_first: int = 1, data_lease_s: int = 60) -> None:
        """Both etcds run, nodes are there; cm-2 has one. ``data_lease_s``: how long cm-1's records outlive its publisher."""
        self.first.data_lease_s = data_lease_s
        netlink.set_up(self.netns, "lo", [ip_interface(BACKENDS)])
        for cluster, nodes in ((self.first, nodes_of_first), (self.second, 1)):
            cluster.etcd.launch()
            for _ in range(nodes):
                cluster.add_node(self._run_name)
        for cluster in self.clusters:
            cluster.etcd.listening()
        self.first.join(self.second)
        self.second.join(self.first)

    @property
    def clusters(self) -> tuple[Cluster, Cluster]:
        return self.first, self.second

    def serve(self, *addresses: str) -> None:
        """Each of ``addresses`` answers connections with itself, until the end."""
        assert next(lines(self.first.nodes[0].spawn("server.py", *addresses))) == "listening"

    def start(self) -> None:
        """Starts all agents; returns when every one of them has everything."""
        every = [node for cluster in self.clusters for node in cluster.nodes]
        for node in every:
            node.start()
        for node in every:
            node.wait(node.settled)

    def close(self) -> None:
        """Everything goes, also if something of it cannot."""
        with contextlib.ExitStack() as left:
            left.callback(self.netns.close)
            for cluster in self.clusters:
                left.callback(cluster.etcd.remove)
                for node in cluster.nodes:
                    left.callback(node.close)


def backends_in(rows: Rows, vip: str) -> set[str] | None:
    """Addresses behind ``vip`` in ``rows`` of a kernel: those of the list that the frontend names."""
    lists = {
        json.loads(value)["list"]
        for (name, key), value in rows.items()
        if name == "frontends" and json.loads(key)["address"] == vip
    }
    if not lists:
        return None
    return {
        json.loads(value)["backend"]["address"]
        for (name, key), value in rows.items()
        if name == "slots"
        and (found := json.loads(key))["list"] in lists
        and found["frontend"]["address"] == vip
    }
