"""One node, and how its cluster tells the others of it."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address

from clustermesh.node_record import Node as NodeRecord
from clustermesh.node_record import NodeAddress
from meshd.model import Node, parse_address

NODE = Node(
    "cm-1",
    "node-1",
    "manifests",
    (parse_address("172.18.0.2"), parse_address("fd00::2")),
    ("fd00:1::/64", "10.1.0.0/24", "10.9.0.0/24"),
    "west",
)
RECORD = NodeRecord(
    name="node-1",
    cluster="cm-1",
    cluster_id=1,
    addresses=(
        NodeAddress("InternalIP", ip_address("172.18.0.2")),
        NodeAddress("InternalIP", ip_address("fd00::2")),
    ),
    ipv4_network=IPv4Network("10.1.0.0/24"),
    ipv6_network=IPv6Network("fd00:1::/64"),
    ipv4_secondary_networks=(IPv4Network("10.9.0.0/24"),),
    labels={"topology.kubernetes.io/zone": "west"},
)
