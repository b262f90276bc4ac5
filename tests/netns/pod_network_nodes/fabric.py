"""Nodes of one or two clusters on a bridge, with an etcd each: what agents tell each other there, and what pods reach.

Node N has 192.168.70.N and fd78::N, its pods 10.77.N.0/24 and fd77:0:0:N::/64. The bridge's own end plays the router of
the default route, and everything else there is.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any  # JSON

import yaml

from meshd.api.v1 import map_pb2, map_pb2_grpc, node_pb2
from meshd.api.v1.node_pb2_grpc import NodeServiceStub
from meshd.kernel import netlink
from meshd.kernel.netlink import VethEnd
from meshd.kernel.netns import Netns
from tests.e2e.cluster_etcd import Etcd
from tests.netns.cni.node import CniNode
from tests.patience import patience

ROUTER = ("192.168.70.254/24", "fd78::fe/64")

# enum destination_kind of bpf/maps/pod_network.h, as far as rows of other nodes have them.
KINDS = {3: "NATIVE", 4: "TUNNEL", 5: "NODE"}


class FabricNode(CniNode):
    """A node of ``cluster`` on the bridge. ``more``: options of its agent."""

    def __init__(self, fabric: Fabric, cluster: str, number: int, routing: str, **more: object) -> None:
        name = f"{fabric.name}{number}"
        super().__init__(fabric.directory / name, name, number)
        self.cluster = cluster
        self.v4, self.v6 = f"192.168.70.{number}", f"fd78::{number}"
        addresses = ip_interface(f"{self.v4}/24"), ip_interface(f"{self.v6}/64")
        near = VethEnd(self.netns, f"{name}u", addresses)
        netlink.create_veth(near, VethEnd(fabric.netns, f"{name}p"))
        netlink.add_port(fabric.netns, fabric.bridge, f"{name}p")
        for router, everything in zip(ROUTER, ("0.0.0.0/0", "::/0"), strict=True):
            netlink.add_route(self.netns, ip_network(everything), ip_interface(router).ip)
        self.agent.options = {
            "nodeName": f"n{number}",
            "clusterName": cluster,
            "clusterId": int(cluster[-1]),
            "podNetwork": {"routing": routing},
            "auditIntervalS": patience(1),
            "clustermesh": {
                "etcd": str(fabric.client_file(cluster)),
                "peers": str(fabric.peers(cluster)),
                "electionLeaseS": patience(1),
                "dataLeaseS": patience(4),
            },
        } | more

    def nodes(self) -> dict[str, node_pb2.Node]:
        """What its agent says of the other nodes, by cluster/name."""
        with self.agent.channel() as channel:
            found = NodeServiceStub(channel).ListNodes(node_pb2.ListNodesRequest(), timeout=patience(5))
        return {f"{node.cluster}/{node.name}": node for node in found.nodes if node.source != "node"}

    def node(self) -> node_pb2.Node:
        """What its agent says of itself."""
        with self.agent.channel() as channel:
            found = NodeServiceStub(channel).ListNodes(node_pb2.ListNodesRequest(), timeout=patience(5))
        return next(node for node in found.nodes if node.source == "node")

    def knows(self, *names: str) -> bool:
        """Whether these are the nodes it knows, all of them as their records say."""
        return {name for name, node in self.nodes().items() if node.state == node_pb2.NODE_STATE_FRESH} == {
            *names
        }

    def destinations(self) -> dict[str, str]:
        """What is where, as its kernel has it: prefix (of 128 bits) -> kind, of what is of other nodes."""
        return {
            f"{key['address']['bytes']}/{key['prefix_length']}": KINDS[value["kind"]]
            for key, value in self.dump("destinations")
            if value["kind"] in KINDS
        }

    def dump(self, name: str) -> list[tuple[Any, Any]]:
        """Keys and values of a map in its kernel, as JSON."""
        with self.agent.channel() as channel:
            request = map_pb2.DumpMapRequest(name=name)
            parts = map_pb2_grpc.MapServiceStub(channel).DumpMap(request, timeout=patience(5))
            return [(json.loads(row.key), json.loads(row.value)) for part in parts for row in part.entries]

    def ip(self, *arguments: str) -> list[dict[str, object]]:
        """What `ip -j` shows in its namespace."""
        return self.netns.run(lambda: shown_here(*arguments))

    def routes(self) -> dict[str, dict[str, object]]:
        """Routes of ours by destination."""
        return {
            str(route["dst"]): route
            for family in ("-4", "-6")
            for route in self.ip(family, "route", "show", "proto", "177")
        }

    def run_ip(self, *arguments: str) -> None:
        """`ip` in its namespace, which must do it."""
        self.netns.run(lambda: subprocess.run(["ip", *arguments], check=True))


class Fabric:
    """`node` makes nodes, `close` takes everything away."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self.bridge = f"{name}b"
        self.netns = Netns.create(f"{name}f")
        netlink.create_bridge(self.netns, self.bridge, addresses=map(ip_interface, ROUTER))
        self._etcds: dict[str, Etcd] = {}
        self._nodes: list[FabricNode] = []

    def node(self, number: int, cluster: str = "cm-1", routing: str = "auto", **more: object) -> FabricNode:
        """Node ``number`` without a running agent; its cluster's etcd runs."""
        self.etcd(cluster)
        self._nodes.append(FabricNode(self, cluster, number, routing, **more))
        return self._nodes[-1]

    def etcd(self, cluster: str) -> Etcd:
        """The etcd of a cluster, on the bridge."""
        if cluster not in self._etcds:
            address = f"192.168.70.{240 + int(cluster[-1])}"
            netlink.set_up(self.netns, self.bridge, [ip_interface(f"{address}/24")])
            made = self._etcds[cluster] = Etcd(self.netns, address)
            made.launch()
            made.listening()
            self.client_file(cluster).write_text(yaml.safe_dump({"endpoints": [made.url]}))
            self.peers(cluster).mkdir()
        return self._etcds[cluster]

    def join(self, *clusters: str) -> None:
        """They follow each other."""
        for cluster in clusters:
            self.etcd(cluster)
        for cluster in clusters:
            for other in clusters:
                if other != cluster:
                    (self.peers(cluster) / other).write_text(self.client_file(other).read_text())

    def client_file(self, cluster: str) -> Path:
        return self.directory / f"{cluster}-etcd.yaml"

    def peers(self, cluster: str) -> Path:
        return self.directory / f"{cluster}-peers"

    def close(self) -> None:
        with contextlib.ExitStack() as left:
            left.callback(self.netns.close)
            for etcd in self._etcds.values():
                left.callback(etcd.remove)
            for node in self._nodes:
                left.callback(node.close)


def shown_here(*arguments: str) -> list[dict[str, object]]:
    """What `ip -j` shows in the namespace of the calling thread."""
    done = subprocess.run(["ip", "-j", "-d", *arguments], capture_output=True, text=True, check=False)
    found: list[dict[str, object]] = json.loads(done.stdout or "[]")
    return found
