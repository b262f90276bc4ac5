"""Service addresses for sockets that no hook sees: asked by pods, from outside through the node, and by the host."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from meshd.kernel.netns import Netns
from tests.bpf.packets import TCP, UDP
from tests.netns.pod_network.beyond import FAR, VIP, far, known_frontend, serve
from tests.netns.pod_network.host import NODE, ROUTER, Host, Pod
from tests.netns.pod_network.traffic import asked, asked_by_datagram, serving

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
BOTH = ((TCP, socket.SOCK_STREAM), (UDP, socket.SOCK_DGRAM))
PROTOCOLS = pytest.mark.parametrize(("protocol", "kind"), BOTH, ids=["tcp", "udp"])


@pytest.fixture
def beyond(node: Host) -> Iterator[Netns]:
    with far(node) as made:
        yield made


def ask(netns: Netns, protocol: int, address: str) -> str:
    """Who asks for the service, as the backend sees it; the answer has to come from the frontend."""
    if protocol == TCP:
        return asked(netns, address, 80, 1_000_000)
    return asked_by_datagram(netns, address, 80)


@PROTOCOLS
@FAMILIES
def test_a_pod_reaches_a_pod(
    node: Host, pods: tuple[Pod, Pod], family: int, protocol: int, kind: socket.SocketKind
) -> None:
    client, server = pods
    serve(node, protocol, (VIP[family], 80), (server.ip[family], 8080))
    with serving(server.netns, 8080, kind):
        assert ask(client.netns, protocol, VIP[family]) == client.ip[family]
    assert (node.dropped(), node.event("TO_STACK")) == ({}, 0)


@PROTOCOLS
@FAMILIES
def test_a_pod_reaches_itself(
    node: Host, pods: tuple[Pod, Pod], family: int, protocol: int, kind: socket.SocketKind
) -> None:
    pod, _ = pods
    serve(node, protocol, (VIP[family], 80), (pod.ip[family], 8080))
    with serving(pod.netns, 8080, kind):
        assert ask(pod.netns, protocol, VIP[family]) == VIP[family]
    assert node.dropped() == {}


@PROTOCOLS
@FAMILIES
def test_a_pod_reaches_a_backend_outside_under_the_nodes_address(
    node: Host, pods: tuple[Pod, Pod], beyond: Netns, family: int, protocol: int, kind: socket.SocketKind
) -> None:
    serve(node, protocol, (VIP[family], 80), (FAR[family], 8080))
    with serving(beyond, 8080, kind):
        assert ask(pods[0].netns, protocol, VIP[family]) == NODE[family]
    assert (node.dropped(), node.event("TO_STACK")) == ({}, 0)


@PROTOCOLS
@FAMILIES
def test_from_outside_a_pod_of_this_node_sees_who_asks(
    node: Host, pods: tuple[Pod, Pod], family: int, protocol: int, kind: socket.SocketKind
) -> None:
    known_frontend(node)
    serve(node, protocol, (VIP[family], 80), (pods[0].ip[family], 8080))
    with serving(pods[0].netns, 8080, kind):
        assert ask(node.world, protocol, VIP[family]) == ROUTER[family]
    assert node.dropped() == {}


@PROTOCOLS
@FAMILIES
def test_from_outside_a_backend_elsewhere_answers_through_this_node(
    node: Host, beyond: Netns, family: int, protocol: int, kind: socket.SocketKind
) -> None:
    known_frontend(node)
    serve(node, protocol, (VIP[family], 80), (FAR[family], 8080))
    with serving(beyond, 8080, kind):
        assert ask(node.world, protocol, VIP[family]) == NODE[family]
    assert node.dropped() == {}


@PROTOCOLS
@FAMILIES
def test_from_outside_a_node_port_is_the_hosts_and_from_a_pod_it_is_ours(
    node: Host, pods: tuple[Pod, Pod], family: int, protocol: int, kind: socket.SocketKind
) -> None:
    client, server = pods
    serve(node, protocol, (NODE[family], 80), (server.ip[family], 8080), external=True)
    # In kube-proxy's place.
    with serving(node.netns, 80, kind):
        assert ask(node.world, protocol, NODE[family]) == ROUTER[family]
    with serving(server.netns, 8080, kind):
        assert ask(client.netns, protocol, NODE[family]) == client.ip[family]
    assert node.dropped() == {}


@PROTOCOLS
@FAMILIES
def test_the_host_reaches_a_pod(
    node: Host, pods: tuple[Pod, Pod], family: int, protocol: int, kind: socket.SocketKind
) -> None:
    serve(node, protocol, (VIP[family], 80), (pods[0].ip[family], 8080))
    with serving(pods[0].netns, 8080, kind):
        assert ask(node.netns, protocol, VIP[family]) == NODE[family]
    assert node.dropped() == {}


@PROTOCOLS
@FAMILIES
def test_the_host_reaches_a_backend_outside(
    node: Host, beyond: Netns, family: int, protocol: int, kind: socket.SocketKind
) -> None:
    serve(node, protocol, (VIP[family], 80), (FAR[family], 8080))
    with serving(beyond, 8080, kind):
        assert ask(node.netns, protocol, VIP[family]) == NODE[family]
    assert node.dropped() == {}
