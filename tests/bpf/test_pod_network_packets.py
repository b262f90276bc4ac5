"""How frames of a pod are read: which are carried, which are left to the host's stack, and which are broken."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from tests.bpf.packets import ACK, SYN, TCP, UDP, Packet, with_network_header
from tests.netns.pod_network.host import Host, host

# A verdict that leaves a packet to the stack leaves it to the other filters of a pod's link first: TC_ACT_UNSPEC.
STACK, SHOT, CARRIED = 0xFFFFFFFF, 2, 7
HOP_BY_HOP, DESTINATION_OPTIONS, AUTHENTICATION, NO_NEXT = 0, 60, 51, 59
SCTP = 132


@pytest.fixture(scope="module")
def node(run_name: str) -> Iterator[Host]:
    with host(f"{run_name}h") as made:
        made.add_pod(7)
        made.add_pod(8)
        yield made


def first(node: Host, family: int, **facts: object) -> Packet:
    """The first packet of a connection from one pod to the other."""
    source, destination = node.pods[0].ip[family], node.pods[1].ip[family]
    return Packet(TCP, source, 40000, destination, 80, **{"flags": SYN, **facts})  # type: ignore[arg-type]


def typed(kind: int, network: bytes) -> bytes:
    """What follows the link addresses of a frame."""
    return struct.pack("!H", kind) + network


def v4(network: bytes) -> bytes:
    return typed(0x0800, network)


def v6(network: bytes) -> bytes:
    return typed(0x86DD, network)


def with_extensions(packet: Packet, *kinds: int) -> bytes:
    """An IPv6 packet with extension headers of 8 bytes each (AH: of 16)."""
    data = packet.transport()
    following = packet.protocol
    for kind in reversed(kinds):
        size, length = (2, 16) if kind == AUTHENTICATION else (0, 8)
        data = struct.pack("!BB", following, size) + bytes(length - 2) + data
        following = kind
    return with_network_header(packet, data, protocol=following)


CARRIES: dict[str, Callable[[Host], bytes]] = {
    "tcp over v4": lambda node: v4(first(node, 4).network()),
    "tcp over v6": lambda node: v6(first(node, 6).network()),
    "padded by the link": lambda node: v4(first(node, 4, payload=b"").network() + bytes(20)),
    "a datagram without content": lambda node: v4(
        Packet(UDP, node.pods[0].ip[4], 1, node.pods[1].ip[4], 2, payload=b"").network()
    ),
    "one extension header": lambda node: v6(with_extensions(first(node, 6), HOP_BY_HOP)),
    "several of them": lambda node: v6(
        with_extensions(first(node, 6), HOP_BY_HOP, DESTINATION_OPTIONS, AUTHENTICATION)
    ),
}
LEAVES: dict[str, Callable[[Host], bytes]] = {
    "vlan": lambda node: typed(0x8100, struct.pack("!HH", 5, 0x0800) + first(node, 4).network()),
    "v4 options": lambda node: v4(first(node, 4).network(options=bytes([1] * 40))),
    "a source route": lambda node: v4(
        first(node, 4).network(options=b"\x83\x07\x04" + socket.inet_aton(node.pods[1].ip[4]) + b"\0")
    ),
    "lldp": lambda _: typed(0x88CC, bytes(60)),
    "sctp": lambda node: v4(with_network_header(first(node, 4), bytes(40), protocol=SCTP)),
    "nothing within": lambda node: v6(with_network_header(first(node, 6), b"", protocol=NO_NEXT)),
    "its last hop in v4": lambda node: v4(first(node, 4, ttl=1).network()),
    "its last hop in v6": lambda node: v6(first(node, 6, ttl=1).network()),
    "of no connection we know": lambda node: v4(
        Packet(TCP, node.pods[0].ip[4], 1, node.pods[1].ip[4], 2, flags=ACK).network()
    ),
}
BREAKS: dict[str, Callable[[Host], bytes]] = {
    "v4 cut off": lambda node: v4(first(node, 4).network()[:-1]),
    "v6 cut off": lambda node: v6(first(node, 6).network()[:-1]),
    "another version": lambda node: v4(b"\x65" + first(node, 4).network()[1:]),
    "a header shorter than itself": lambda node: v4(b"\x44" + first(node, 4).network()[1:]),
    "a length within its header": lambda node: v4(
        first(node, 4).network()[:2] + b"\0\x13" + first(node, 4).network()[4:]
    ),
    "half a tcp header": lambda node: v4(
        with_network_header(first(node, 4), first(node, 4).transport()[:12])
    ),
    "half a udp header": lambda node: v6(with_network_header(first(node, 6), bytes(4), protocol=UDP)),
    "extension headers without end": lambda node: v6(
        with_extensions(first(node, 6), HOP_BY_HOP, *[DESTINATION_OPTIONS] * 8)
    ),
    "an extension header cut off": lambda node: v6(
        with_network_header(first(node, 6), b"\x06\x00", protocol=DESTINATION_OPTIONS)
    ),
}


def verdict(node: Host, rest: bytes) -> int:
    return node.run_frame("pod_network_from_pod", node.pods[0], rest).retval


@pytest.mark.parametrize("frame", CARRIES.values(), ids=CARRIES)
def test_a_frame_is_carried(node: Host, frame: Callable[[Host], bytes]) -> None:
    before = node.event("TO_POD")
    assert verdict(node, frame(node)) == CARRIED
    assert node.event("TO_POD") == before + 1


@pytest.mark.parametrize("frame", LEAVES.values(), ids=LEAVES)
def test_a_frame_is_left_to_the_stack(node: Host, frame: Callable[[Host], bytes]) -> None:
    before = node.event("TO_STACK")
    assert verdict(node, frame(node)) == STACK
    assert node.event("TO_STACK") == before + 1


@pytest.mark.parametrize("frame", BREAKS.values(), ids=BREAKS)
def test_a_broken_frame_is_dropped(node: Host, frame: Callable[[Host], bytes]) -> None:
    before = node.dropped().get("MALFORMED from pod", 0)
    assert verdict(node, frame(node)) == SHOT
    assert node.dropped()["MALFORMED from pod"] == before + 1


@pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
def test_a_carried_packet_is_one_hop_older_and_between_other_links(node: Host, family: int) -> None:
    packet, other = first(node, family, ttl=64), node.pods[1].link
    left = node.run("pod_network_from_pod", node.pods[0], packet).data
    links = bytes.fromhex((other.mac + other.host_mac).replace(":", ""))
    assert left[:12] == links
    assert left[14:] == first(node, family, ttl=63).network()
