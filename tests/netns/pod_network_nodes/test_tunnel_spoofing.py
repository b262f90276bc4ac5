"""Nobody speaks as another through the tunnel: what a stranger on the underlay makes by hand is dropped, by reason."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.api.v1 import metrics_pb2, metrics_pb2_grpc
from meshd.kernel.netns import Netns
from tests.bpf.packets import echo
from tests.netns.pod_network_nodes.fabric import Fabric, FabricNode
from tests.netns.pod_network_nodes.test_vxlan import tunnelled
from tests.patience import patience

pytestmark = pytest.mark.needs("etcd")

PORT, UNMANAGED, REMOTE_NODE = 8472, 3, 6
IDENTIFIER = 4242
NODE, STRANGER = "192.168.70.2", "192.168.70.99"
POD, ELSEWHERE = "10.77.2.50", "10.77.3.50"


class Attacked:
    """Node 1 with a pod; its peers are node 2 in its own and node 3 in another cluster."""

    def __init__(self, fabric: Fabric) -> None:
        fabric.join("cm-1", "cm-2")
        self.fabric = fabric
        self.node = fabric.node(1, routing="vxlan")
        nodes = [self.node, *(fabric.node(2, routing="vxlan"), fabric.node(3, "cm-2", "vxlan"))]
        for node in nodes:
            node.start()
        tunnelled(*nodes)
        self.pod, answer = self.node.add("pod")
        self.address = answer.addresses[0]

    def send(self, outer: str, identity: int, inner: str, destination: str) -> None:
        """A packet in a tunnel, from anybody to node 1."""
        frame = echo(inner, destination, IDENTIFIER).frame()
        vxlan = struct.pack("!II", 0x08 << 24, identity << 8) + frame
        datagram = struct.pack("!HHHH", 50000, PORT, 8 + len(vxlan), 0) + vxlan
        ends = socket.inet_aton(outer) + socket.inet_aton(self.node.v4)
        # The kernel writes length and checksum (raw(7)).
        header = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0) + ends
        with self.fabric.netns.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(header + datagram, (self.node.v4, 0))

    def drops(self) -> dict[str, int]:
        return drops_of(self.node)


def drops_of(node: FabricNode) -> dict[str, int]:
    """Packets by reason, of those that go to pods."""
    with node.agent.channel() as channel:
        stub = metrics_pb2_grpc.MetricsServiceStub(channel)
        found = stub.ListDrops(metrics_pb2.ListDropsRequest(), timeout=patience(5)).drops
    return {drop.reason: drop.packets for drop in found if drop.direction == "to_pod"}


def heard(pod: Path) -> Iterator[str]:
    """Sources of echo requests that the pod gets, one by one; begins to listen at the first call."""
    with (
        Netns.open(pod) as opened,
        opened.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as ear,
    ):
        ear.settimeout(patience(5))
        yield ""
        while True:
            packet, (source, _) = ear.recvfrom(2048)
            if packet[20] == 8 and packet[24:26] == IDENTIFIER.to_bytes(2, "big"):
                yield source


def test_who_is_not_who_he_says_is_dropped_and_counted_and_the_right_one_is_heard(fabric: Fabric) -> None:
    attacked = Attacked(fabric)
    sources = heard(attacked.pod)
    next(sources)
    cases = [
        # outer source, number, inner source, why not
        (STRANGER, UNMANAGED, POD, "tunnel_unknown_node"),
        ("192.168.70.3", UNMANAGED, POD, "tunnel_source"),
        (STRANGER, UNMANAGED, "198.51.100.1", "tunnel_unknown_node"),
        (NODE, UNMANAGED, ELSEWHERE, "tunnel_source"),
        (NODE, UNMANAGED, "10.77.1.9", "tunnel_source"),
        (NODE, UNMANAGED, "192.168.70.1", "tunnel_source"),
        (NODE, REMOTE_NODE, POD, "tunnel_identity"),
        (NODE, UNMANAGED, NODE, "tunnel_identity"),
        (NODE, 2 << 16, POD, "tunnel_identity"),
        (NODE, 5, POD, "tunnel_identity"),
    ]
    for outer, identity, inner, reason in cases:
        before = attacked.drops()
        attacked.send(outer, identity, inner, attacked.address)
        expected = before | {reason: before.get(reason, 0) + 1}
        attacked.node.agent.wait(lambda before=before: attacked.drops() != before)  # type: ignore[misc] # a bound default
        assert (outer, identity, inner, attacked.drops()) == (outer, identity, inner, expected)
    for outer, identity, inner in ((NODE, UNMANAGED, POD), (NODE, 1 << 16, POD), (NODE, REMOTE_NODE, NODE)):
        attacked.send(outer, identity, inner, attacked.address)
        assert next(sources) == inner
    sources.close()  # type: ignore[attr-defined] # a generator
