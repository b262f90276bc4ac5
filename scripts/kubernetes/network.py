"""The network of a site: a bridge for nodes and API servers, whose own end is everybody's router, and a world behind that.

The world outside knows the way back to nodes and none to pods, as the world does: a pod that wants an answer from there
needs its node's address. Nothing is in this machine's own namespace but one end of a link to each API server.
"""

from __future__ import annotations

import itertools
import zlib
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network
from pathlib import Path

from meshd.errors import KernelError
from meshd.kernel import netlink
from meshd.kernel.netlink import VethEnd
from meshd.kernel.netns import Netns
from scripts.kubernetes import layout
from scripts.kubernetes.layout import Addresses, Cluster, Node, Site

EVERYTHING = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
ROUTING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


def make(site: Site) -> None:
    """Router and world; clusters and nodes are joined one by one."""
    with Netns.create_named(site.router) as router, Netns.create_named(site.outside) as outside:
        netlink.create_bridge(router, site.bridge, addresses=layout.ROUTER)
        near = VethEnd(router, f"{site.name}o", layout.OUTSIDE_ROUTER)
        netlink.create_veth(near, VethEnd(outside, "eth0", layout.OUTSIDE))
        _route_everything(outside, layout.OUTSIDE_ROUTER)
        for setting in ROUTING:
            router.write_sysctl(setting, "1")


def join_control_plane(cluster: Cluster) -> IPv4Address:
    """The namespace of ``cluster``'s control plane, on the bridge; the address that this machine reaches it at."""
    with Netns.create_named(cluster.netns) as netns:
        _join(cluster.site, netns, f"{cluster.site.name}{cluster.number}c", cluster.control)
        return _reach(cluster, netns)


def join_node(node: Node) -> None:
    """The namespace of ``node``, on the bridge."""
    with Netns.create_named(node.netns) as netns:
        _join(node.cluster.site, netns, node.link, node.addresses)


def _join(site: Site, netns: Netns, link: str, addresses: Addresses) -> None:
    with Netns.open(site.router) as router:
        netlink.create_veth(VethEnd(netns, "eth0", tuple(addresses)), VethEnd(router, link))
        netlink.add_port(router, site.bridge, link)
    _route_everything(netns, layout.ROUTER)


def _route_everything(netns: Netns, router: tuple[IPv4Interface, IPv6Interface]) -> None:
    v4, v6 = router
    netlink.add_route(netns, EVERYTHING[0], v4.ip)
    netlink.add_route(netns, EVERYTHING[1], v6.ip)


def _reach(cluster: Cluster, netns: Netns) -> IPv4Address:
    """A link between ``netns`` and this machine; which addresses it has follows from names, unless these are taken."""
    link = cluster.access
    wish = zlib.crc32(link.encode())
    taken = _addresses_here()
    for number in range(wish, wish + 100):
        near, far = layout.access(number)
        if near.ip not in taken:
            with Netns.current() as here:
                netlink.create_veth(VethEnd(here, link, (near,)), VethEnd(netns, "access", (far,)))
            return far.ip
    raise KernelError("configure", f"link {link}: all tried addresses of {layout.ACCESS} are taken", 0)


def _addresses_here() -> set[IPv4Address]:
    """IPv4 addresses of this machine, as the routing table for local ones has them."""
    found = set()
    lines = Path("/proc/net/fib_trie").read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        if "/32 host LOCAL" in line:
            found.add(IPv4Address(above.split()[-1]))
    return found


def add_pod_route(node: Node, via: Node, pods: str) -> None:
    """``node`` reaches ``pods`` through the node ``via``: what a plugin without a network between nodes needs."""
    destination = ip_network(pods)
    gateway = via.addresses.v4.ip if destination.version == 4 else via.addresses.v6.ip
    with Netns.open(node.netns) as netns:
        netlink.add_route(netns, destination, gateway)
