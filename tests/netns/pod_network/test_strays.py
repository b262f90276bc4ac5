"""Packets of flows that nobody knows, and resets that neither end sent."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network

import pytest

from meshd.kernel.netlink import add_route
from tests.bpf.packets import ACK, RST, TCP, UDP, IcmpError, Packet
from tests.netns.pod_network.frames import ETH_P_ALL, send, to
from tests.netns.pod_network.host import NODE, ROUTER, UPLINK_MAC, WORLD, Host, Pod
from tests.netns.pod_network.traffic import PATIENCE_S, Stream, family_of, serving

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
PORT = 7000


def routed(node: Host, pod: Pod) -> None:
    """Gives the world a route to the pod, of which the node is not told."""
    for family, at in pod.ip.items():
        add_route(node.world, ip_network(at), via=ip_address(NODE[family]))


def port_unreachable(reporter: str, about: Packet) -> bytes:
    kind, code = (3, 3) if about.family == 4 else (1, 4)
    return IcmpError(reporter, about.source, about, kind, code).frame()


def forget_flows(node: Host) -> None:
    for table in ("flows", "new_flows"):
        node.loaded.maps[table].delete_batch(list(node.loaded.maps[table].keys()))


@FAMILIES
@pytest.mark.parametrize("stray", ["segment", "error"])
def test_what_belongs_to_no_flow_does_not_leave_under_the_pods_own_address(
    node: Host, pods: tuple[Pod, Pod], family: int, stray: str
) -> None:
    pod = pods[0]
    own = pod.ip[family]
    strays = {
        "segment": Packet(TCP, own, 4000, WORLD[family], 443, flags=ACK).frame(),
        "error": port_unreachable(own, Packet(UDP, WORLD[family], 53, own, 4000)),
    }
    known = Packet(UDP, own, 4001, ROUTER[family], PORT)
    kind = socket.htons(ETH_P_ALL)
    with (
        node.world.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, kind)) as wire,
        node.world.socket(family_of(own), socket.SOCK_DGRAM) as last,
    ):
        wire.bind((f"{node.run_name}w", ETH_P_ALL))
        wire.settimeout(PATIENCE_S)
        last.bind(("", PORT))
        last.settimeout(PATIENCE_S)
        send(pod.netns, "eth0", *(to(pod.link.host_mac, each) for each in (strays[stray], known.frame())))
        assert last.recvfrom(2048)[1][0] == NODE[family]
        wire.setblocking(False)
        seen = []
        while frame := received(wire):
            seen.append(frame)
    assert seen
    assert not [frame for frame in seen if socket.inet_pton(family_of(own), own) in frame[14:]]
    assert node.dropped() == {"NO_FLOW from pod": 1}


def received(wire: socket.socket) -> bytes:
    """The next frame that has come; empty: none."""
    try:
        return wire.recv(1 << 16)
    except BlockingIOError:
        return b""


@FAMILIES
def test_who_spoke_to_the_pod_itself_is_refused_by_the_pod_itself(
    node: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    routed(node, pods[0])
    with node.world.socket(family_of(pods[0].ip[family]), socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_S)
        client.connect((pods[0].ip[family], PORT))
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)
    assert node.dropped() == {}


@FAMILIES
def test_a_connection_from_outside_goes_on_when_its_flow_was_forgotten(
    node: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    routed(node, pods[0])
    with serving(pods[0].netns, 80), Stream(node.world, pods[0].ip[family], 80) as stream:
        forget_flows(node)
        stream.exchange(100_000)
        assert stream.asker == ROUTER[family]
    assert node.dropped() == {}


@FAMILIES
def test_a_reset_that_neither_end_can_have_sent_ends_no_connection_in_use(
    node: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    """Whoever can send in the server's name has only the port to guess."""
    with serving(node.world, 80), Stream(pods[0].netns, WORLD[family], 80) as stream:
        guesses = [
            Packet(TCP, WORLD[family], 80, NODE[family], port, b"", flags=RST) for port in range(50000, 51000)
        ]
        send(node.world, f"{node.run_name}w", *(to(UPLINK_MAC, each.frame()) for each in guesses))
        reset = node.codecs.flow_flags["FLOW_RESET"]
        assert any(row.flags & reset for row in node.flows().values())
        stream.exchange(10)
        assert not any(row.flags & reset for row in node.flows().values())
