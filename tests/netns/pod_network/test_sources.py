"""Nobody speaks as another: packets with a source that is not theirs end at the first program, and are counted."""

from __future__ import annotations

import pytest

from tests.bpf.packets import SYN, TCP, UDP, Packet
from tests.netns.pod_network.frames import send, to
from tests.netns.pod_network.host import NODE, ROUTER, UPLINK_MAC, WORLD, Host, Pod
from tests.netns.pod_network.traffic import asked, serving

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])


@FAMILIES
@pytest.mark.parametrize("kind", ["neighbour", "world", "node"])
def test_a_pod_does_not_speak_as_another(node: Host, pods: tuple[Pod, Pod], family: int, kind: str) -> None:
    pod, other = pods
    source = {"neighbour": other.ip, "world": WORLD, "node": NODE}[kind][family]
    frames = [
        to(pod.link.host_mac, Packet(protocol, source, 1000, other.ip[family], 80, flags=SYN).frame())
        for protocol in (TCP, UDP)
    ]
    send(pod.netns, "eth0", *frames)
    assert node.dropped() == {"SOURCE_NOT_THE_PODS from pod": 2}
    assert node.flows("new_flows") == {}


@FAMILIES
def test_nobody_outside_speaks_as_a_pod_of_the_node(node: Host, pods: tuple[Pod, Pod], family: int) -> None:
    frame = Packet(TCP, pods[1].ip[family], 1000, pods[0].ip[family], 80, flags=SYN).frame()
    send(node.world, f"{node.run_name}w", to(UPLINK_MAC, frame))
    assert node.dropped() == {"SOURCE_LOCAL_POD to pod": 1}


@FAMILIES
def test_who_is_behind_a_tunnel_does_not_come_by_an_uplink(
    node: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    far = {4: "10.244.2.9", 6: "fd00:20::9"}[family]
    node.write_destination(far, "TUNNEL", tunnel=ROUTER[family])
    frame = Packet(TCP, far, 1000, pods[0].ip[family], 80, flags=SYN).frame()
    send(node.world, f"{node.run_name}w", to(UPLINK_MAC, frame))
    assert node.dropped() == {"SOURCE_NOT_NATIVE to pod": 1}


@FAMILIES
def test_a_pod_that_does_not_exist_is_named_as_the_reason(
    node: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    nobody = {4: "10.244.1.99", 6: "fd00:10::99"}[family]
    frame = Packet(TCP, pods[0].ip[family], 1000, nobody, 80, flags=SYN).frame()
    send(pods[0].netns, "eth0", to(pods[0].link.host_mac, frame))
    assert node.dropped() == {"NO_SUCH_POD from pod": 1}


def test_a_pod_is_no_router_on_its_link(node: Host, pods: tuple[Pod, Pod]) -> None:
    advertisement = Packet(58, "fe80::1", 0, "ff02::1", 0, kind=134, ttl=255, payload=bytes(8))
    send(pods[0].netns, "eth0", to("33:33:00:00:00:01", advertisement.frame()))
    assert node.dropped() == {"SOURCE_NOT_THE_PODS from pod": 1}


def test_a_packet_that_is_shorter_than_it_says_is_dropped(node: Host, pods: tuple[Pod, Pod]) -> None:
    whole = Packet(TCP, pods[0].ip[4], 1000, pods[1].ip[4], 80, flags=SYN).frame()
    send(pods[0].netns, "eth0", to(pods[0].link.host_mac, whole[:-4]))
    assert node.dropped() == {"MALFORMED from pod": 1}


@FAMILIES
def test_who_was_refused_may_speak_as_itself(node: Host, pods: tuple[Pod, Pod], family: int) -> None:
    pod, other = pods
    frame = Packet(TCP, other.ip[family], 1000, other.ip[family], 80, flags=SYN).frame()
    send(pod.netns, "eth0", to(pod.link.host_mac, frame))
    with serving(other.netns, 8080):
        assert asked(pod.netns, other.ip[family], 8080) == pod.ip[family]
