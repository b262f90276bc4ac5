"""The paths of `meshctl bench path`: two ends each, and the network in between, ready to be measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from meshd.bench import netfilter, nftables
from meshd.bench.path_network import MTU, TUNNEL_BYTES, Network, Node, tunnel
from meshd.bench.path_probes import End, Server
from meshd.bench.path_results import ACROSS, BRIDGE, KERNEL_VXLAN, LOOPBACK, ROUTING, SAME, Results
from meshd.bench.places import Place
from meshd.bench.population import population
from meshd.kernel.netlink import add_route

# So many services kube-proxy has rules for; only the first packet of a connection asks them.
SERVICES = 1_000


@dataclass(frozen=True, slots=True)
class Lane:
    """One path, its server running, and what was measured of it."""

    client: End
    server: Server
    results: Results

    @classmethod
    def opened(cls, path: str, span: str, client: End, server: End, stack: contextlib.ExitStack) -> Lane:
        """A path of which nothing was measured yet; its server ends with ``stack``."""
        running = Server(server)
        stack.callback(running.close)
        return cls(client, running, Results(path, span))


# Path, span, client, server.
Found = tuple[str, str, End, End]


def routing(network: Network) -> Iterator[Found]:
    """The baselines of both spans: veth pairs and routes, and nothing besides."""
    left, right = network.pair("routing")
    for here, there in ((left, right), (right, left)):
        add_route(here.netns, there.pods, via=there.wire)
    client = network.routed_pod(left, 1)
    yield ROUTING, SAME, client, network.routed_pod(left, 2)
    yield ROUTING, ACROSS, client, network.routed_pod(right, 1)


def bridge(network: Network) -> Iterator[Found]:
    """Pods on a Linux bridge, with the rules of kube-proxy and connection tracking."""
    node = network.node("bridge")
    network.bridge(node)
    ends = [network.bridged_pod(node, number) for number in (1, 2)]
    load_rules(network, node)
    yield BRIDGE, SAME, ends[0], ends[1]


def load_rules(network: Network, node: Node) -> None:
    """kube-proxy's rules on ``node``, for SERVICES services."""
    place = Place(node.name, node.netns, node.netns, node.cgroup)
    netfilter.load(network.places, place, ("nft", "-f", "-"), nftables.ruleset(population(SERVICES)))


def kernel_vxlan(network: Network) -> Iterator[Found]:
    """Pods behind a VXLAN device of the kernel, as flannel makes it."""
    left, right = network.pair("vxlan")
    for here, there in ((left, right), (right, left)):
        tunnel(here, there)
    mtu = MTU - TUNNEL_BYTES
    yield KERNEL_VXLAN, ACROSS, network.routed_pod(left, 1, mtu), network.routed_pod(right, 1, mtu)


def loopback(network: Network) -> Iterator[Found]:
    """Both ends in one namespace."""
    node = network.node("loopback")
    end = network.end(node, node.netns, 1, "127.0.0.1")
    yield LOOPBACK, SAME, end, end
