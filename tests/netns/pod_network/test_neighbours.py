"""A pod that asks who has an address on its link is told the host's end."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Any

from meshd.kernel.netlink import in_netns
from tests.bpf.packets import ICMPV6, Packet, checksum, pseudo_header, with_network_header
from tests.netns.pod_network.frames import exchange, mac, send, to
from tests.netns.pod_network.host import Host, Pod
from tests.netns.pod_network.traffic import asked, serving

ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD
BROADCAST = "ff:ff:ff:ff:ff:ff"


def arp(operation: int, sender: tuple[str, str], target: tuple[str, str]) -> bytes:
    """A frame with an ARP message; ends are link address and address."""
    ends = b"".join(mac(link) + socket.inet_aton(at) for link, at in (sender, target))
    message = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + ends
    return to(BROADCAST, bytes(12) + struct.pack("!H", ETH_P_ARP) + message, sender[0])


@dataclass(frozen=True, slots=True)
class Advertised:
    """What an advertisement says."""

    source: bytes
    kind: int
    flags: int
    target: bytes
    option: bytes
    is_sound: bool


def solicitation(pod: Pod, target: str) -> bytes:
    """A frame in which a pod asks for ``target``."""
    at = socket.inet_pton(socket.AF_INET6, target)
    ends = Packet(ICMPV6, pod.ip[6], 0, "ff02::1:ff00:1", 0, ttl=255)
    message = struct.pack("!BBHI", 135, 0, 0, 0) + at + b"\1\1" + mac(pod.link.mac)
    found = checksum(pseudo_header(ends, ICMPV6, len(message)) + message)
    message = message[:2] + struct.pack("!H", found) + message[4:]
    frame = bytes(12) + struct.pack("!H", ETH_P_IPV6) + with_network_header(ends, message)
    return to("33:33:ff:00:00:01", frame, pod.link.mac)


def read(frame: bytes) -> Advertised:
    network, message = frame[14:54], frame[54:]
    covered = network[8:40] + struct.pack("!II", len(message), ICMPV6) + message
    return Advertised(
        network[8:24], message[0], message[4], message[8:24], message[24:], checksum(covered) == 0
    )


def test_a_request_for_any_address_is_answered_with_the_hosts_end(node: Host, pods: tuple[Pod, Pod]) -> None:
    pod, other = pods
    for wanted in ("169.254.1.1", other.ip[4], "10.1.2.3"):
        asked = arp(1, (pod.link.mac, pod.ip[4]), ("00:00:00:00:00:00", wanted))
        expected = arp(2, (pod.link.host_mac, wanted), (pod.link.mac, pod.ip[4]))
        assert exchange(pod.netns, "eth0", asked, ETH_P_ARP) == to(pod.link.mac, expected, pod.link.host_mac)
    assert node.event("NEIGHBOUR_ANSWERED") == 3


def test_nobody_has_the_address_that_a_pod_is_about_to_take(node: Host, pods: tuple[Pod, Pod]) -> None:
    pod = pods[0]
    probe = arp(1, (pod.link.mac, "0.0.0.0"), ("00:00:00:00:00:00", pod.ip[4]))
    announced = arp(1, (pod.link.mac, pod.ip[4]), ("00:00:00:00:00:00", pod.ip[4]))
    send(pod.netns, "eth0", probe, announced)
    assert (node.event("NEIGHBOUR_ANSWERED"), node.dropped()) == (0, {})


def test_a_request_in_the_name_of_another_is_dropped(node: Host, pods: tuple[Pod, Pod]) -> None:
    pod, other = pods
    send(pod.netns, "eth0", arp(1, (pod.link.mac, other.ip[4]), ("00:00:00:00:00:00", "169.254.1.1")))
    assert node.dropped() == {"SOURCE_NOT_THE_PODS from pod": 1}


def test_a_solicitation_is_answered_with_the_hosts_end(node: Host, pods: tuple[Pod, Pod]) -> None:
    pod, other = pods
    for wanted in ("fe80::1", other.ip[6]):
        said = read(exchange(pod.netns, "eth0", solicitation(pod, wanted), ETH_P_IPV6))
        at = socket.inet_pton(socket.AF_INET6, wanted)
        option = b"\2\1" + mac(pod.link.host_mac)
        assert said == Advertised(at, 136, 0xE0, at, option, is_sound=True)


def forget_all(route: Any) -> None:
    """Any: pyroute2 has no types."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for each in route.get_neighbours(family=family):
            route.neigh("del", family=family, ifindex=each["ifindex"], dst=each.get("dst"))


def test_a_pod_that_lost_its_neighbours_finds_them_again(node: Host, pods: tuple[Pod, Pod]) -> None:
    pod, other = pods
    in_netns(pod.netns, "neighbours", forget_all)
    with serving(other.netns, 80):
        for family in (4, 6):
            assert asked(pod.netns, other.ip[family], 80) == pod.ip[family]
    assert node.event("NEIGHBOUR_ANSWERED") >= 1
