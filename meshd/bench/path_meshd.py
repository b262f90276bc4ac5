"""The paths through meshd: real agents on nodes of their own, and pods that get their interfaces from them over CNI.

The two nodes of a pair find each other through an etcd, as the nodes of a cluster do.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meshd.bench.agents import Agent
from meshd.bench.etcds import Etcd
from meshd.bench.path_lanes import Found
from meshd.bench.path_network import Network, Node
from meshd.bench.path_probes import End
from meshd.bench.path_results import ACROSS, MESHD, MESHD_VXLAN, SAME
from meshd.bench.places import BenchError, Place
from meshd.kernel.netlink import in_netns
from meshd.lab import cni
from meshd.lab.cni import Container

TIMEOUT_S = 20.0
_LOOK_EVERY_S = 0.02


class MeshNode:
    """A node with a running agent; it ends with ``stack``. ``options``: of the agent's configuration."""

    def __init__(
        self, network: Network, stack: contextlib.ExitStack, node: Node, options: dict[str, object]
    ) -> None:
        self.node = node
        self._network = network
        place = Place(node.name, node.netns, node.netns, node.cgroup)
        self.socket = network.places.run / f"{node.cgroup.name}-cni.sock"
        own = {
            "nodeName": node.cgroup.name,
            "nodeAddresses": [str(node.wire)],
            "cni": {"podCidrs": [str(node.pods)], "socket": str(self.socket)},
        }
        self.agent = stack.enter_context(Agent(network.places, place, own | options))
        deadline = time.monotonic() + TIMEOUT_S
        while not cni.is_served(self.socket):
            if time.monotonic() > deadline:
                raise BenchError(f"meshd of {node.name} gives pods no interfaces after {TIMEOUT_S:g} s")
            time.sleep(_LOOK_EVERY_S)

    def pod(self, number: int) -> End:
        """A new pod, by ADD."""
        netns = self._network.namespace(f"pod {number} of {self.node.name}")
        container = Container(
            f"{self.node.cgroup.name}-{number}",
            # The namespace needs no name in the file system: it ends with this process.
            netns=Path(f"/proc/{os.getpid()}/fd/{netns.fd}"),
            namespace="bench",
            name=f"pod-{number}",
        )
        (address,) = cni.add(self.socket, container)
        return self._network.end(self.node, netns, number, address)


def native(network: Network, stack: contextlib.ExitStack, agents: list[Agent]) -> Iterator[Found]:
    """Pods of one node, and of two that reach each other by plain routing; adds to ``agents``."""
    left, right = _pair(network, stack, "native")
    agents += [left.agent, right.agent]
    client = left.pod(1)
    yield MESHD, SAME, client, left.pod(2)
    yield MESHD, ACROSS, client, right.pod(1)


def vxlan(network: Network, stack: contextlib.ExitStack, agents: list[Agent]) -> Iterator[Found]:
    """Pods of two nodes that reach each other through a tunnel; adds to ``agents``."""
    left, right = _pair(network, stack, "vxlan")
    agents += [left.agent, right.agent]
    yield MESHD_VXLAN, ACROSS, left.pod(1), right.pod(1)


def _pair(network: Network, stack: contextlib.ExitStack, routing: str) -> tuple[MeshNode, MeshNode]:
    """Two nodes whose agents know each other."""
    name = f"meshd-{routing}"
    nodes = network.pair(name)
    etcd = Etcd(network.places, stack, name, nodes[0].netns, nodes[0].wire)
    etcd.wait()
    client_file = etcd.directory / "etcd.yaml"
    client_file.write_text(etcd.access("client"))
    options: dict[str, object] = {
        "clusterName": name,
        "clusterId": 1,
        "clustermesh": {"etcd": str(client_file)},
        "podNetwork": {"routing": routing},
    }
    left, right = (MeshNode(network, stack, node, options) for node in nodes)
    for here, there in (nodes, nodes[::-1]):
        _wait_for_route(here, there)
    return left, right


def _wait_for_route(here: Node, there: Node) -> None:
    """Returns when the agent of ``here`` has made the route to the pods of ``there``."""

    def is_there(route: Any) -> bool:  # Any: pyroute2 has no types
        wanted = str(there.pods.network_address), there.pods.prefixlen
        return any((each.get("dst"), each["dst_len"]) == wanted for each in route.get_routes(family=2))

    deadline = time.monotonic() + TIMEOUT_S
    while not in_netns(here.netns, f"route to {there.pods}", is_there):
        if time.monotonic() > deadline:
            raise BenchError(
                f"meshd of {here.name} has not made a route to the pods of {there.name} in {TIMEOUT_S:g} s"
            )
        time.sleep(_LOOK_EVERY_S)
