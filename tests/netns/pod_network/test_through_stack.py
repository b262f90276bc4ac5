"""What the host's stack brought to a pod goes back through it; what does not fit or is too old is the stack's to answer."""

from __future__ import annotations

import socket
import subprocess

import pytest

from meshd.kernel.netlink import in_netns
from tests.netns.pod_network.host import NODE, ROUTER, WORLD, Host, Pod
from tests.netns.pod_network.traffic import asked, asked_by_datagram, pinged, serving

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
# Where rewritten datagrams and streams go, as portmap writes it.
PUBLISHED = """
table inet {name} {{
    chain before {{
        type nat hook prerouting priority dstnat;
        ip daddr {node4} meta l4proto {{ tcp, udp }} th dport 8080 dnat ip to {pod4}:80
        ip6 daddr {node6} meta l4proto {{ tcp, udp }} th dport 8080 dnat ip6 to [{pod6}]:80
    }}
}}
"""


def publish(node: Host, pod: Pod) -> None:
    """Port 8080 of the node is port 80 of the pod."""
    rules = PUBLISHED.format(name=node.run_name, node4=NODE[4], node6=NODE[6], pod4=pod.ip[4], pod6=pod.ip[6])
    command = ["nft", "-f", "-"]
    node.netns.run(lambda: subprocess.run(command, input=rules, text=True, check=True))


@pytest.mark.needs("command:nft")
@FAMILIES
def test_a_published_port_works_from_outside(node: Host, pods: tuple[Pod, Pod], family: int) -> None:
    pod = pods[0]
    publish(node, pod)
    with serving(pod.netns, 80), serving(pod.netns, 80, socket.SOCK_DGRAM, pod.ip[family]):
        assert asked(node.world, NODE[family], 8080, 1_000_000) == ROUTER[family]
        assert asked_by_datagram(node.world, NODE[family], 8080) == ROUTER[family]
    assert (node.dropped(), node.event("TO_UPLINK")) == ({}, 0)


@pytest.mark.needs("command:nft")
@FAMILIES
def test_a_published_port_does_not_slow_down_other_flows_of_the_pod(
    node: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    pod = pods[0]
    publish(node, pod)
    with serving(pod.netns, 80), serving(node.world, 80):
        asked(node.world, NODE[family], 8080)
        assert node.event("TO_UPLINK") == 0
        assert asked(pod.netns, WORLD[family], 80, 1_000_000) == NODE[family]
    assert node.event("TO_UPLINK") > 20


@FAMILIES
def test_a_pod_that_needs_the_stack_reaches_all_through_it(node: Host, family: int) -> None:
    slow, other = node.add_pod(7, via_stack=True), node.add_pod(8)
    with serving(slow.netns, 80), serving(other.netns, 80), serving(node.world, 80):
        assert asked(slow.netns, other.ip[family], 80) == slow.ip[family]
        assert asked(other.netns, slow.ip[family], 80) == other.ip[family]
        assert asked(slow.netns, WORLD[family], 80) == NODE[family]
    assert pinged(slow.netns, WORLD[family])[0] == WORLD[family]
    fast = node.event("TO_POD") + node.event("TO_UPLINK")
    assert (node.dropped(), fast) == ({}, 0)


@FAMILIES
def test_the_node_is_a_hop_on_the_way(node: Host, pods: tuple[Pod, Pod], family: int) -> None:
    exceeded = 3 if family == 6 else 11
    for target in (pods[1].ip[family], WORLD[family]):
        who, kind = pinged(pods[0].netns, target, ttl=1)
        assert (kind, who in (NODE[family], NODE[4])) == (exceeded, True)
        assert pinged(pods[0].netns, target, ttl=3)[0] == target


@FAMILIES
def test_the_sender_is_told_what_an_uplink_carries(node: Host, pods: tuple[Pod, Pod], family: int) -> None:
    name = f"{node.run_name}u"
    in_netns(node.netns, name, lambda route: route.link("set", index=node.uplink, mtu=1400))
    too_big = 2 if family == 6 else 3
    assert pinged(pods[0].netns, WORLD[family], size=1420)[1] == too_big
    assert pinged(pods[0].netns, WORLD[family], size=1000)[0] == WORLD[family]
    with serving(node.world, 80):
        assert asked(pods[0].netns, WORLD[family], 80, 1_000_000) == NODE[family]
    assert node.dropped() == {}


@FAMILIES
def test_datagrams_that_come_in_pieces_arrive_whole(node: Host, pods: tuple[Pod, Pod], family: int) -> None:
    client, server = pods
    with (
        serving(server.netns, 5353, socket.SOCK_DGRAM),
        serving(node.world, 53, socket.SOCK_DGRAM, WORLD[family]),
    ):
        assert asked_by_datagram(client.netns, server.ip[family], 5353, 20_000) == client.ip[family]
        assert asked_by_datagram(client.netns, WORLD[family], 53, 20_000) == NODE[family]
    assert node.dropped() == {}
