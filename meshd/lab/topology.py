"""Network namespaces, links, addresses and routes of a lab. No link is ever made in the machine's own namespace.

    pod  eth0 ---- mpod...  node  eth0 ---- port  fabric (bridge)  port ---- eth0  etcd

Pods' interfaces are the agents' (``cni.py``), and so is the way to pods of other nodes, of which agents tell each other
through etcd: a node knows nobody but its neighbours on the fabric.
"""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path

from meshd.kernel import netlink
from meshd.kernel.netlink import VethEnd
from meshd.kernel.netns import Netns
from meshd.lab.layout import FABRIC_V4_PREFIX, FABRIC_V6_PREFIX, Addresses, Cluster, Node, Places

UPLINK = "eth0"
BRIDGE = "br0"
# Duplicate address detection would keep IPv6 unusable for a second (the links' own addresses too); nobody can collide here.
NAMESPACE_SYSCTLS = {
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/dad_transmits": "0",
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}
# Routes of the two directions are the same here; strict filtering would only cost. Forwarding is switched on by meshd.
NODE_SYSCTLS = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
}


def make_fabric(places: Places) -> None:
    """The namespace with the bridge that joins all nodes and etcds."""
    with _new_namespace(places.fabric_netns, NAMESPACE_SYSCTLS) as fabric:
        netlink.create_bridge(fabric, BRIDGE)


def etcd_port(cluster: Cluster) -> str:
    """The fabric's end of the link of the etcd of ``cluster``."""
    return f"c{cluster.id}etcd"


def node_port(node: Node) -> str:
    """The fabric's end of the link of ``node``."""
    return f"c{node.cluster_id}n{node.number}"


def make_etcd(places: Places, cluster: Cluster) -> None:
    """A namespace for the etcd of ``cluster``, on the fabric."""
    with _new_namespace(places.etcd_netns(cluster.name), NAMESPACE_SYSCTLS) as etcd:
        _join_fabric(places, etcd, etcd_port(cluster), cluster.etcd)


def make_node(places: Places, node: Node) -> None:
    """A namespace on the fabric."""
    with _new_namespace(places.node_netns(node), {**NAMESPACE_SYSCTLS, **NODE_SYSCTLS}) as netns:
        _join_fabric(places, netns, node_port(node), node.fabric)


def make_pod(path: Path) -> None:
    """A namespace at ``path`` with nothing but its loopback, as a container runtime makes it."""
    with _new_namespace(path, NAMESPACE_SYSCTLS) as pod:
        netlink.set_up(pod, "lo")


def _join_fabric(places: Places, member: Netns, port: str, addresses: Addresses) -> None:
    on_fabric = (
        ip_interface(f"{addresses.v4}/{FABRIC_V4_PREFIX}"),
        ip_interface(f"{addresses.v6}/{FABRIC_V6_PREFIX}"),
    )
    with Netns.open(places.fabric_netns) as fabric:
        netlink.create_veth(VethEnd(fabric, port), VethEnd(member, UPLINK, on_fabric))
        netlink.add_port(fabric, BRIDGE, port)


def _new_namespace(path: Path, sysctls: dict[str, str]) -> Netns:
    namespace = Netns.create_named(path)
    namespace.run(lambda: [Path("/proc/sys", key).write_text(value) for key, value in sysctls.items()])
    return namespace
