"""What comes out of a tunnel is who it says it is, and what goes in says who it is.

The other node is a plain vxlan device of the world for each number that it may speak under.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from meshd.dataplane.pod_network import rows
from meshd.dataplane.pod_network.places import TUNNEL
from meshd.kernel import netlink
from meshd.kernel.netlink import in_netns, link_index
from meshd.kernel.rtnetlink_vxlan import VxlanDevice, add_vxlan
from tests.bpf.packets import ACK, SYN, TCP, Packet, echo
from tests.bpf.translation import address
from tests.netns.pod_network.frames import ETH_P_ALL, send, to
from tests.netns.pod_network.host import NODE, ROUTER, WORLD, Host, Pod
from tests.netns.pod_network.traffic import PATIENCE_S, asked_by_datagram, serving

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
PORT = 8472
UNMANAGED, IN_RANGE, REMOTE_NODE, NOBODY = 3, 70, 6, 71
FAR = {4: "10.244.2.9", 6: "fd00:20::9"}
FAR_CIDR = {4: "10.244.2.0/24", 6: "fd00:20::/64"}
ANY_MAC = "02:00:00:00:00:cc"


def device(node: Host, number: int) -> str:
    return f"{node.run_name}v{number}"


@pytest.fixture(params=[4, 6], ids=["over-v4", "over-v6"])
def tunnel(node: Host, request: pytest.FixtureRequest) -> Iterator[Host]:
    """The node with its tunnel, in which the world is another node with the pods of FAR_CIDR."""
    outer: int = request.param
    name = f"{node.run_name}t"
    node.exchange(add_vxlan(VxlanDevice(name, PORT, 1430)))
    index = link_index(node.netns, name)
    in_netns(node.netns, name, lambda route: route.link("set", index=index, state="up"))
    node.attach(index, TUNNEL)
    settings = rows.SettingsRow(address(NODE[4]), address(NODE[6]), index)
    node.write("pod_network_settings", bytes(4), node.codecs.pod_network.settings.encode(settings))
    for family in (4, 6):
        node.write_destination(
            FAR_CIDR[family], "TUNNEL", tunnel=ROUTER[outer], identities=(IN_RANGE, IN_RANGE)
        )
        node.write_destination(ROUTER[family], "NODE", tunnel=ROUTER[outer])
    for number in (UNMANAGED, IN_RANGE, REMOTE_NODE, NOBODY):
        in_netns(node.world, "tunnel", partial(_far_end, node=node, number=number, outer=outer))
        # It would look for neighbours, which is not to be counted here.
        node.world.write_sysctl(f"net/ipv6/conf/{device(node, number)}/disable_ipv6", "1")
        netlink.set_up(node.world, device(node, number))
    yield node


def _far_end(route: Any, node: Host, number: int, outer: int) -> None:
    """Any: pyroute2 has no types."""
    ends = {"vxlan_group": NODE[outer], "vxlan_local": ROUTER[outer]}
    if outer == 6:
        ends = {"vxlan_group6": NODE[outer], "vxlan_local6": ROUTER[outer]}
    route.link(
        "add", ifname=device(node, number), kind="vxlan", vxlan_id=number, vxlan_port=PORT,
        vxlan_udp_zero_csum6_rx=True, **ends,
    )  # fmt: skip


def said(node: Host, number: int, source: str) -> None:
    """The other node sends a first packet to the first pod, under ``number``."""
    family = 6 if ":" in source else 4
    packet = Packet(TCP, source, 1000, node.pods[0].ip[family], 80, flags=SYN)
    send(node.world, device(node, number), to(ANY_MAC, packet.frame()))


@FAMILIES
@pytest.mark.parametrize("number", [UNMANAGED, IN_RANGE], ids=["unmanaged", "of-its-cluster"])
def test_a_pod_of_another_node_is_heard(
    tunnel: Host, pods: tuple[Pod, Pod], family: int, number: int
) -> None:
    said(tunnel, number, FAR[family])
    assert (tunnel.dropped(), tunnel.event("TO_POD")) == ({}, 1)


@FAMILIES
def test_another_node_is_heard_as_a_node(tunnel: Host, pods: tuple[Pod, Pod], family: int) -> None:
    said(tunnel, REMOTE_NODE, ROUTER[family])
    assert (tunnel.dropped(), tunnel.event("TO_POD")) == ({}, 1)


# Who is said to speak, under which number, and what is found wrong with it.
IMPOSTORS = {
    "a pod under another cluster's number": (NOBODY, FAR, "TUNNEL_IDENTITY"),
    "a pod under the number of nodes": (REMOTE_NODE, FAR, "TUNNEL_IDENTITY"),
    "a node under the number of pods": (UNMANAGED, ROUTER, "TUNNEL_IDENTITY"),
    "the world": (UNMANAGED, WORLD, "TUNNEL_SOURCE"),
    "this node": (UNMANAGED, NODE, "TUNNEL_SOURCE"),
    "a pod of this node": (UNMANAGED, {4: "10.244.1.8", 6: "fd00:10::8"}, "TUNNEL_SOURCE"),
    "a pod of a third node": (UNMANAGED, {4: "10.244.3.1", 6: "fd00:30::1"}, "TUNNEL_SOURCE"),
}


@FAMILIES
def test_who_is_not_who_it_says_is_dropped_with_the_reason(
    tunnel: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    third = {4: "10.244.3.0/24", 6: "fd00:30::/64"}[family]
    tunnel.write_destination(third, "TUNNEL", tunnel="192.0.2.77")
    found = {}
    for who, (number, source, _) in IMPOSTORS.items():
        before = tunnel.dropped()
        said(tunnel, number, source[family])
        found[who] = {name for name, packets in tunnel.dropped().items() if packets != before.get(name, 0)}
    assert found == {who: {f"{reason} to pod"} for who, (_, _, reason) in IMPOSTORS.items()}


@FAMILIES
def test_nobody_is_heard_from_a_node_that_is_not_known(
    tunnel: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    for each in (4, 6):
        tunnel.write_destination(ROUTER[each], "WORLD")
        tunnel.write_destination(FAR_CIDR[each], "TUNNEL", tunnel="192.0.2.77")
    said(tunnel, UNMANAGED, FAR[family])
    assert tunnel.dropped() == {"TUNNEL_UNKNOWN_NODE to pod": 1}


def heard(node: Host, speak: Callable[[], None], wanted: bytes, number: int = UNMANAGED) -> None:
    """Waits, after ``speak``, until a frame that ends with ``wanted`` has come to the other node under ``number``."""
    kind = socket.htons(ETH_P_ALL)
    with node.world.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, kind)) as far:
        far.bind((device(node, number), ETH_P_ALL))
        far.settimeout(PATIENCE_S)
        speak()
        while not far.recv(1 << 16).endswith(wanted):
            pass


@FAMILIES
def test_a_pod_speaks_in_the_tunnel_under_its_number(
    tunnel: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    packet = Packet(TCP, pods[0].ip[family], 40000, FAR[family], 80, flags=SYN)
    frame = to(pods[0].link.host_mac, packet.frame())
    heard(tunnel, lambda: send(pods[0].netns, "eth0", frame), replace(packet, ttl=63).network())
    assert (tunnel.dropped(), tunnel.event("TO_TUNNEL")) == ({}, 1)


@FAMILIES
@pytest.mark.parametrize("via_stack", [True, False], ids=["by-the-stack", "by-programs"])
def test_a_pod_speaks_under_its_identity_to_who_takes_it(
    tunnel: Host, pods: tuple[Pod, Pod], family: int, via_stack: bool, request: pytest.FixtureRequest
) -> None:
    over = ROUTER[request.node.callspec.params["tunnel"]]
    tunnel.write_pod(pods[0], identity=IN_RANGE)
    if via_stack:
        route_to_far(tunnel, family)
    for port, takes, number in ((40000, True, IN_RANGE), (40001, False, UNMANAGED)):
        tunnel.write_destination(FAR_CIDR[family], "TUNNEL", tunnel=over, takes_identities=takes)
        # Of a connection that is older than the programs the stack carries everything.
        flags = ACK if via_stack else SYN
        packet = Packet(TCP, pods[0].ip[family], port, FAR[family], 80, flags=flags)
        frame = to(pods[0].link.host_mac, packet.frame())
        heard(tunnel, partial(send, pods[0].netns, "eth0", frame), replace(packet, ttl=63).network(), number)
    assert (tunnel.dropped(), tunnel.event("TO_STACK" if via_stack else "TO_TUNNEL")) == ({}, 2)


def route_to_far(node: Host, family: int) -> None:
    """The host's own way to the far pods, as the agent makes it."""
    name = f"{node.run_name}t"
    index = link_index(node.netns, name)
    numbers = {4: 2, 6: 10}
    in_netns(
        node.netns,
        name,
        lambda route: route.route("add", dst=FAR_CIDR[family], oif=index, family=numbers[family]),
    )
    in_netns(
        node.netns,
        name,
        lambda route: route.neigh(
            "add", dst=FAR[family], lladdr=ANY_MAC, ifindex=index, family=numbers[family], state=128
        ),
    )


@FAMILIES
def test_an_answer_goes_back_into_the_tunnel(tunnel: Host, pods: tuple[Pod, Pod], family: int) -> None:
    request = replace(echo(FAR[family], pods[0].ip[family], 99), payload=b"x")
    answer = replace(request.reply(), ttl=63).transport()
    frame = to(ANY_MAC, request.frame())
    heard(tunnel, lambda: send(tunnel.world, device(tunnel, UNMANAGED), frame), answer)
    assert (tunnel.dropped(), tunnel.event("TO_TUNNEL")) == ({}, 1)


@FAMILIES
def test_what_is_too_big_for_the_tunnel_is_the_stacks(
    tunnel: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    packet = Packet(TCP, pods[0].ip[family], 40000, FAR[family], 80, flags=SYN, payload=bytes(1420))
    tunnel.run("pod_network_from_pod", pods[0], packet)
    assert (tunnel.event("TO_TUNNEL"), tunnel.event("TO_STACK")) == (0, 1)
    small = replace(packet, source_port=40001, payload=bytes(1300))
    tunnel.run("pod_network_from_pod", pods[0], small)
    assert tunnel.event("TO_TUNNEL") == 1


def test_pods_of_the_node_need_no_tunnel(tunnel: Host, pods: tuple[Pod, Pod]) -> None:
    with serving(pods[1].netns, 5353, socket.SOCK_DGRAM):
        assert asked_by_datagram(pods[0].netns, pods[1].ip[4], 5353) == pods[0].ip[4]
    assert tunnel.event("TO_TUNNEL") == 0
