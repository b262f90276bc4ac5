"""A source that is not the sender's is found in every dress: tags, long headers, foreign links, mapped addresses."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from meshd.dataplane.pod_network import rows
from meshd.kernel.netns import Netns
from tests.bpf.packets import SYN, TCP, UDP, Packet, with_network_header
from tests.bpf.translation import address
from tests.netns.pod_network.frames import send, to
from tests.netns.pod_network.host import NODE, ROUTER, UPLINK_MAC, WORLD, Host, Pod
from tests.netns.pod_network.traffic import PATIENCE_S

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
PORT = 7000
TUNNEL_PORT = 8472
DESTINATION_OPTIONS = 60
EVERYBODY = "ff:ff:ff:ff:ff:ff"


@contextmanager
def ear(netns: Netns, family: int) -> Iterator[Callable[[], str]]:
    """Says who sent the next datagram to PORT."""
    with netns.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as heard:
        heard.bind(("", PORT))
        heard.settimeout(PATIENCE_S)
        yield lambda: str(heard.recvfrom(2048)[1][0])


def datagram(source: str, destination: str) -> Packet:
    return Packet(UDP, source, 1000, destination, PORT)


def tagged(frame: bytes, *numbers: int) -> bytes:
    """The frame with VLAN tags; number 0 says no more than a priority (IEEE 802.1Q, 9.6)."""
    return frame[:12] + b"".join(struct.pack("!HH", 0x8100, number) for number in numbers) + frame[12:]


def long_winded(packet: Packet) -> bytes:
    """With more extension headers than anybody sends."""
    data, following = packet.transport(), packet.protocol
    for _ in range(9):
        data, following = struct.pack("!BB", following, 0) + bytes(6) + data, DESTINATION_OPTIONS
    return bytes(12) + b"\x86\xdd" + with_network_header(packet, data, protocol=following)


@FAMILIES
@pytest.mark.parametrize("tags", [(0,), (0, 0)], ids=["once", "twice"])
def test_a_pod_does_not_speak_as_another_behind_a_priority_tag(
    node: Host, pods: tuple[Pod, Pod], family: int, tags: tuple[int, ...]
) -> None:
    pod, other = pods
    false = to(pod.link.host_mac, datagram(WORLD[family], other.ip[family]).frame())
    true = to(pod.link.host_mac, datagram(pod.ip[family], other.ip[family]).frame())
    with ear(other.netns, family) as heard:
        send(pod.netns, "eth0", tagged(false, *tags), true)
        assert heard() == pod.ip[family]
    assert node.dropped() == {"MALFORMED from pod" if len(tags) > 1 else "SOURCE_NOT_THE_PODS from pod": 1}


@FAMILIES
@pytest.mark.parametrize("tags", [(0,), (0, 0)], ids=["once", "twice"])
def test_nobody_outside_speaks_as_a_pod_behind_a_priority_tag(
    node: Host, pods: tuple[Pod, Pod], family: int, tags: tuple[int, ...]
) -> None:
    pod, other = pods
    node.known_outside(*pods)
    false = to(UPLINK_MAC, datagram(other.ip[family], pod.ip[family]).frame())
    true = to(UPLINK_MAC, datagram(ROUTER[family], pod.ip[family]).frame())
    with ear(pod.netns, family) as heard:
        send(node.world, f"{node.run_name}w", tagged(false, *tags), true)
        assert heard() == ROUTER[family]
    assert sum(node.dropped().values()) == 1


@FAMILIES
def test_who_is_outside_and_tags_its_frames_with_a_priority_is_carried(
    node: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    node.known_outside(*pods)
    with ear(pods[0].netns, family) as heard:
        frame = to(UPLINK_MAC, datagram(ROUTER[family], pods[0].ip[family]).frame())
        send(node.world, f"{node.run_name}w", tagged(frame, 0))
        assert heard() == ROUTER[family]
    assert (node.dropped(), node.event("TO_POD")) == ({}, 1)


def test_nobody_outside_speaks_as_a_pod_behind_many_extension_headers(
    node: Host, pods: tuple[Pod, Pod]
) -> None:
    pod, other = pods
    node.known_outside(*pods)
    false = to(UPLINK_MAC, long_winded(datagram(other.ip[6], pod.ip[6])))
    true = to(UPLINK_MAC, datagram(ROUTER[6], pod.ip[6]).frame())
    with ear(pod.netns, 6) as heard:
        send(node.world, f"{node.run_name}w", false, true)
        assert heard() == ROUTER[6]
    assert node.dropped() == {"SOURCE_LOCAL_POD to pod": 1}


def test_nobody_outside_speaks_as_a_pod_to_everybody_on_the_link(node: Host, pods: tuple[Pod, Pod]) -> None:
    false = to(EVERYBODY, datagram(pods[0].ip[4], NODE[4]).frame())
    true = to(UPLINK_MAC, datagram(ROUTER[4], NODE[4]).frame())
    with ear(node.netns, 4) as heard:
        send(node.world, f"{node.run_name}w", false, true)
        assert heard() == ROUTER[4]
    assert node.dropped() == {"SOURCE_LOCAL_POD to pod": 1}


@FAMILIES
def test_nobody_outside_speaks_as_the_node_to_its_pods(
    node: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    node.known_outside(*pods)
    false = to(UPLINK_MAC, datagram(NODE[family], pods[0].ip[family]).frame())
    true = to(UPLINK_MAC, datagram(ROUTER[family], pods[0].ip[family]).frame())
    with ear(pods[0].netns, family) as heard:
        send(node.world, f"{node.run_name}w", false, true)
        assert heard() == ROUTER[family]
    assert sum(node.dropped().values()) == 1


@pytest.mark.parametrize("ends", ["both", "destination"])
def test_a_v6_packet_between_v4_addresses_is_broken(node: Host, pods: tuple[Pod, Pod], ends: str) -> None:
    pod, other = pods
    source = f"::ffff:{pod.ip[4]}" if ends == "both" else pod.ip[6]
    for destination in (other.ip[4], WORLD[4]):
        packet = Packet(TCP, source, 1000, f"::ffff:{destination}", 80, flags=SYN)
        send(pod.netns, "eth0", to(pod.link.host_mac, packet.frame()))
    assert node.dropped() == {"MALFORMED from pod": 2}
    assert node.flows("new_flows") == {}


@FAMILIES
def test_a_pod_makes_no_tunnel_of_its_own_in_the_name_of_the_node(
    node: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    """Other nodes believe what comes to their tunnel from this node's address."""
    pod = pods[0]
    settings = rows.SettingsRow(address(NODE[4]), address(NODE[6]), node.uplink)
    node.write("pod_network_settings", bytes(4), node.codecs.pod_network.settings.encode(settings))
    forged = replace(datagram(pod.ip[family], ROUTER[family]), destination_port=TUNNEL_PORT)
    true = datagram(pod.ip[family], ROUTER[family])
    with ear(node.world, family) as heard:
        send(pod.netns, "eth0", *(to(pod.link.host_mac, each.frame()) for each in (forged, true)))
        assert heard() == NODE[family]
    assert node.dropped() == {"TUNNEL_SOURCE from pod": 1}
