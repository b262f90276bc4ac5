"""What is outside of the cluster: a namespace behind a node's uplink that knows no way to pods."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network

from meshd.dataplane.pod_network.places import UPLINK
from meshd.kernel import netlink
from meshd.kernel.netlink import VethEnd
from meshd.kernel.netns import Netns
from tests.netns.cni.node import CniNode
from tests.netns.pod_network_agent.in_kernel import programs_on

WORLD = "192.168.99.2", "fd99::2"


@contextmanager
def behind(node: CniNode, name: str) -> Iterator[Netns]:
    """The world behind the uplink ``name`` of ``node``, once that has its programs."""
    with Netns.create("world") as made:
        outside = (ip_interface("192.168.99.2/24"), ip_interface("fd99::2/64"))
        inside = (ip_interface("192.168.99.1/24"), ip_interface("fd99::1/64"))
        netlink.create_veth(VethEnd(node.netns, name, inside), VethEnd(made, "uplink", outside))
        netlink.add_route(node.netns, ip_network("0.0.0.0/0"), IPv4Address(WORLD[0]))
        netlink.add_route(node.netns, ip_network("::/0"), IPv6Address(WORLD[1]))
        node.agent.wait(lambda: programs_on(node, name, UPLINK).keys() == set(UPLINK.programs))
        node.agent.wait(lambda: is_settled(node))
        yield made


def is_settled(node: CniNode) -> bool:
    """Whether the kernel holds all that the agent wants."""
    status = node.agent.status()
    return status is not None and status.pending == 0
