"""The networks of the baselines: nodes and pods as namespaces, joined as people join them without meshd.

    pod  eth0 ---- pN  node  uplink ---- uplink  node  pN ---- eth0  pod

The cable between two nodes is a veth pair: what both sides of it cost is in every path, and nothing else.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_network
from pathlib import Path
from typing import Any

from meshd.bench.path_probes import End
from meshd.bench.places import Places
from meshd.kernel import cgroup
from meshd.kernel.netlink import VethEnd, add_route, create_bridge, create_veth, in_netns, set_up
from meshd.kernel.netns import Netns

UPLINK, POD_LINK, BRIDGE, TUNNEL = "uplink", "eth0", "br0", "vxlan0"
EVERYWHERE = IPv4Network("0.0.0.0/0")
WIRE = IPv4Network("192.168.77.0/24")
# What VXLAN adds to a packet over IPv4: Ethernet 14, IPv4 20, UDP 8, VXLAN 8.
TUNNEL_BYTES = 50
MTU = 1500
_VXLAN_ID, _VXLAN_PORT = 1, 4789
_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
}
# Everything speaks IPv4, and what IPv6 announces of itself at odd moments would be measured along.
_QUIET = ("net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6")


@dataclass(frozen=True, slots=True)
class Node:
    """A namespace that forwards. ``number``: 1 or 2 of a pair; ``cgroup``: of all that runs on the node."""

    name: str
    number: int
    netns: Netns
    cgroup: Path

    @property
    def wire(self) -> IPv4Address:
        return WIRE[self.number]

    @property
    def pods(self) -> IPv4Network:
        return IPv4Network(f"10.80.{self.number}.0/24")

    def pod(self, number: int) -> IPv4Address:
        return self.pods[number]


class Network:
    """Makes nodes and pods that end with ``stack``."""

    def __init__(self, places: Places, stack: contextlib.ExitStack) -> None:
        self.places = places
        self._stack = stack

    def node(self, name: str, number: int = 1) -> Node:
        """A node without pods and without a cable."""
        netns = self.namespace(name)
        for key, value in _SYSCTLS.items():
            netns.write_sysctl(key, value)
        group = self.places.cgroup / name.replace(" ", "-")
        cgroup.create(group)
        return Node(name, number, netns, group)

    def pair(self, name: str) -> tuple[Node, Node]:
        """Two nodes with a cable, and no way to each other's pods yet."""
        left, right = (self.node(f"{name} {number}", number) for number in (1, 2))
        ends = [
            VethEnd(each.netns, UPLINK, (IPv4Interface(f"{each.wire}/{WIRE.prefixlen}"),), mtu=MTU)
            for each in (left, right)
        ]
        create_veth(*ends)
        return left, right

    def namespace(self, name: str) -> Netns:
        """A new namespace whose loopback is up."""
        netns = self._stack.enter_context(Netns.create(name))
        for key in _QUIET:
            netns.write_sysctl(key, "1")
        set_up(netns, "lo")
        return netns

    def end(self, node: Node, netns: Netns, number: int, address: object) -> End:
        """Pod ``number`` of ``node`` as an end of a path."""
        name = f"pod {number} of {node.name}"
        group = node.cgroup / f"pod-{number}"
        cgroup.create(group)
        return End(name, netns, group, str(address))

    def routed_pod(self, node: Node, number: int, mtu: int = MTU) -> End:
        """A pod behind a veth pair of its own, to which the node routes its address."""
        netns = self.namespace(f"pod {number} of {node.name}")
        address, port = node.pod(number), f"p{number}"
        gateway = IPv4Interface(f"{node.pod(254)}/32")
        create_veth(
            VethEnd(node.netns, port, (gateway,), mtu=mtu),
            VethEnd(netns, POD_LINK, (IPv4Interface(f"{address}/32"),), mtu=mtu),
        )
        add_route(node.netns, IPv4Network(address), device=port)
        add_route(netns, gateway.network, device=POD_LINK)
        add_route(netns, EVERYWHERE, via=gateway.ip, device=POD_LINK)
        return self.end(node, netns, number, address)

    def bridge(self, node: Node) -> None:
        """A bridge for `bridged_pod`, whose packets netfilter sees as kube-proxy requires it (br_netfilter)."""
        create_bridge(node.netns, BRIDGE, addresses=[IPv4Interface(f"{node.pod(254)}/{node.pods.prefixlen}")])
        node.netns.write_sysctl("net/bridge/bridge-nf-call-iptables", "1")

    def bridged_pod(self, node: Node, number: int) -> End:
        """A pod on the node's bridge."""
        netns = self.namespace(f"pod {number} of {node.name}")
        address, port = node.pod(number), f"p{number}"
        create_veth(
            VethEnd(node.netns, port),
            VethEnd(netns, POD_LINK, (IPv4Interface(f"{address}/{node.pods.prefixlen}"),)),
        )
        create_bridge(node.netns, BRIDGE, ports=[port])
        add_route(netns, EVERYWHERE, via=node.pod(254))
        return self.end(node, netns, number, address)


def tunnel(here: Node, there: Node) -> None:
    """A VXLAN device on ``here`` through which the pods of ``there`` are reached."""

    def add(route: Any) -> None:  # Any: pyroute2 has no types
        options = {"vxlan_id": _VXLAN_ID, "vxlan_port": _VXLAN_PORT, "vxlan_learning": False}
        ends = {"vxlan_local": str(here.wire), "vxlan_group": str(there.wire)}
        route.link("add", ifname=TUNNEL, kind="vxlan", mtu=MTU - TUNNEL_BYTES, **options, **ends)

    in_netns(here.netns, f"link {TUNNEL}", add)
    # An address on the tunnel, as flannel has it: the next hop of the other's pods.
    set_up(here.netns, TUNNEL, [IPv4Interface(f"{here.pod(0)}/32")])
    add_route(here.netns, ip_network(f"{there.pod(0)}/32"), device=TUNNEL)
    add_route(here.netns, there.pods, via=there.pod(0), device=TUNNEL)
