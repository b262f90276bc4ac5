"""Pods of one node talk to each other past the host's stack, and to the host and the world as ever."""

from __future__ import annotations

import socket

import pytest

from tests.netns.pod_network.host import NODE, WORLD, Host, Pod
from tests.netns.pod_network.traffic import asked, asked_by_datagram, pinged, serving

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])


@FAMILIES
def test_a_stream_between_pods_arrives_byte_for_byte_past_the_stack(
    node: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    client, server = pods
    with serving(server.netns, 8080):
        assert asked(client.netns, server.ip[family], 8080, 4_000_000) == client.ip[family]
    assert node.dropped() == {}
    assert node.event("TO_POD") > 50
    assert node.event("TO_STACK") == 0


@FAMILIES
def test_datagrams_and_echo_requests_between_pods_are_answered(
    node: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    client, server = pods
    with serving(server.netns, 5353, socket.SOCK_DGRAM):
        assert asked_by_datagram(client.netns, server.ip[family], 5353) == client.ip[family]
    assert pinged(client.netns, server.ip[family]) == (server.ip[family], 129 if family == 6 else 0)
    assert (node.event("TO_POD"), node.event("TO_STACK")) == (4, 0)


@FAMILIES
def test_host_and_pod_reach_each_other(node: Host, pods: tuple[Pod, Pod], family: int) -> None:
    pod = pods[0]
    with serving(pod.netns, 8080), serving(node.netns, 9090):
        assert asked(node.netns, pod.ip[family], 8080) == NODE[family]
        assert asked(pod.netns, NODE[family], 9090) == pod.ip[family]
    assert pinged(node.netns, pod.ip[family])[0] == pod.ip[family]
    assert pinged(pod.netns, NODE[family])[0] == NODE[family]
    assert node.dropped() == {}


@FAMILIES
def test_the_world_sees_the_node_where_a_pod_asks(node: Host, pods: tuple[Pod, Pod], family: int) -> None:
    pod = pods[0]
    with serving(node.world, 80), serving(node.world, 53, socket.SOCK_DGRAM, WORLD[family]):
        assert asked(pod.netns, WORLD[family], 80, 1_000_000) == NODE[family]
        assert asked_by_datagram(pod.netns, WORLD[family], 53) == NODE[family]
    assert pinged(pod.netns, WORLD[family])[0] == WORLD[family]
    assert node.dropped() == {}
    assert node.event("TO_STACK") == 0


@FAMILIES
def test_whom_the_world_reaches_by_address_answers_under_it(
    node: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    pod = pods[0]
    node.known_outside(pod)
    with serving(pod.netns, 8080), serving(pod.netns, 5353, socket.SOCK_DGRAM):
        assert asked(node.world, pod.ip[family], 8080, 1_000_000)
        assert asked_by_datagram(node.world, pod.ip[family], 5353)
    assert pinged(node.world, pod.ip[family])[0] == pod.ip[family]
    assert (node.dropped(), node.event("TO_STACK")) == ({}, 0)
