"""Network namespaces, links, addresses and routes of a lab. No link is ever made in the machine's own namespace.

    pod  eth0 ---- pN  node  eth0 ---- port  fabric (bridge)  port ---- eth0  etcd

Pods reach each other by routing: a node knows the pod addresses of every other node by way of that node's fabric address.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_interface
from pathlib import Path

from meshd.kernel import netlink
from meshd.kernel.netlink import Interface, VethEnd
from meshd.kernel.netns import Netns
from meshd.lab.layout import FABRIC_V4_PREFIX, FABRIC_V6_PREFIX, Addresses, Cluster, Node, Places

UPLINK = "eth0"
BRIDGE = "br0"
# Every node is fe80::1 to its pods: an address of the loopback answers ARP on all links, but not neighbour discovery.
POD_GATEWAY_V6 = IPv6Address("fe80::1")
EVERYWHERE_V4 = IPv4Network("0.0.0.0/0")
EVERYWHERE_V6 = IPv6Network("::/0")
# Duplicate address detection would keep IPv6 unusable for a second (the links' own addresses too); nobody can collide here.
NAMESPACE_SYSCTLS = {
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/dad_transmits": "0",
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}
FORWARDING_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    # Routes of the two directions are the same here; strict filtering would only cost.
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
}


def make_fabric(places: Places) -> None:
    """The namespace with the bridge that joins all nodes and etcds."""
    with _new_namespace(places.fabric_netns, NAMESPACE_SYSCTLS) as fabric:
        netlink.create_bridge(fabric, BRIDGE)


def make_etcd(places: Places, cluster: Cluster) -> None:
    """A namespace for the etcd of ``cluster``, on the fabric."""
    with _new_namespace(places.etcd_netns(cluster.name), NAMESPACE_SYSCTLS) as etcd:
        _join_fabric(places, etcd, f"c{cluster.id}etcd", cluster.etcd)


def make_node(places: Places, node: Node, others: Sequence[Node]) -> None:
    """A namespace that forwards, on the fabric, with the way to the pods of all ``others``."""
    with _new_namespace(places.node_netns(node), {**NAMESPACE_SYSCTLS, **FORWARDING_SYSCTLS}) as netns:
        netlink.set_up(netns, "lo", _whole(node.gateway))
        _join_fabric(places, netns, f"c{node.cluster_id}n{node.number}", node.fabric)
        for other in others:
            v4, v6 = other.pod_cidrs
            netlink.add_route(netns, v4, via=other.fabric.v4)
            netlink.add_route(netns, v6, via=other.fabric.v6)


def make_pod(places: Places, node: Node, path: Path, host: int) -> None:
    """A namespace for one pod at ``path``, linked to its node; ``host`` is its number in the node's pod addresses."""
    addresses, port = node.pod_address(host), f"p{host}"
    with Netns.open(places.node_netns(node)) as outside, _new_namespace(path, NAMESPACE_SYSCTLS) as pod:
        gateway = ip_interface(f"{POD_GATEWAY_V6}/64")
        netlink.create_veth(VethEnd(outside, port, (gateway,)), VethEnd(pod, UPLINK, _whole(addresses)))
        for address in _whole(addresses):
            netlink.add_route(outside, address.network, device=port)
        netlink.add_route(pod, ip_interface(node.gateway.v4).network, device=UPLINK)
        netlink.add_route(pod, EVERYWHERE_V4, via=node.gateway.v4, device=UPLINK)
        netlink.add_route(pod, EVERYWHERE_V6, via=POD_GATEWAY_V6, device=UPLINK)


def _join_fabric(places: Places, member: Netns, port: str, addresses: Addresses) -> None:
    on_fabric = (
        ip_interface(f"{addresses.v4}/{FABRIC_V4_PREFIX}"),
        ip_interface(f"{addresses.v6}/{FABRIC_V6_PREFIX}"),
    )
    with Netns.open(places.fabric_netns) as fabric:
        netlink.create_veth(VethEnd(fabric, port), VethEnd(member, UPLINK, on_fabric))
        netlink.add_port(fabric, BRIDGE, port)


def _whole(addresses: Addresses) -> tuple[Interface, ...]:
    return tuple(ip_interface(address) for address in (addresses.v4, addresses.v6))


def _new_namespace(path: Path, sysctls: dict[str, str]) -> Netns:
    namespace = Netns.create_named(path)
    namespace.run(lambda: [Path("/proc/sys", key).write_text(value) for key, value in sysctls.items()])
    return namespace
