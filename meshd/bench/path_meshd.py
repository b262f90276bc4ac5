"""The paths through meshd: real agents on nodes of their own, and pods that get their interfaces from them over CNI."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from meshd.bench.agents import Agent
from meshd.bench.path_lanes import ACROSS, SAME, Found
from meshd.bench.path_network import Network, Node
from meshd.bench.path_probes import End
from meshd.bench.places import Place
from meshd.kernel.netlink import add_route
from meshd.lab import cni
from meshd.lab.cni import Container

MESHD = "meshd"


class MeshNode:
    """A node with a running agent; it ends with ``stack``."""

    def __init__(self, network: Network, stack: contextlib.ExitStack, node: Node) -> None:
        self.node = node
        self._network = network
        place = Place(node.name, node.netns, node.netns, node.cgroup)
        self.socket = network.places.run / f"{node.cgroup.name}-cni.sock"
        options: dict[str, object] = {
            "nodeName": node.cgroup.name,
            "cni": {"podCidrs": [str(node.pods)], "socket": str(self.socket)},
        }
        self.agent = stack.enter_context(Agent(network.places, place, options))

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
    pair = network.pair("meshd")
    left, right = (MeshNode(network, stack, node) for node in pair)
    agents += [left.agent, right.agent]
    for here, there in (pair, pair[::-1]):
        add_route(here.netns, there.pods, via=there.wire)
    client = left.pod(1)
    yield MESHD, SAME, client, left.pod(2)
    yield MESHD, ACROSS, client, right.pod(1)
