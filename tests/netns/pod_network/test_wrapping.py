"""Tunnelled packets past the tunnel's device: what the other node's kernel sends and takes, without ours seeing two packets.

The other node is a vxlan device of the world, with a pod's addresses on it, and sends no UDP checksums as nodes do.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from meshd.dataplane.pod_network import rows
from meshd.dataplane.pod_network.places import TUNNEL
from meshd.kernel import netlink
from meshd.kernel.netlink import in_netns, link_index
from meshd.kernel.rtnetlink_vxlan import VxlanDevice, add_vxlan
from tests.bpf.packets import ACK, SYN, TCP, UDP, Packet
from tests.bpf.translation import address
from tests.netns.pod_network.frames import ETH_P_ALL
from tests.netns.pod_network.host import NODE, ROUTER, Host, Pod
from tests.netns.pod_network.traffic import asked, asked_by_datagram, pinged, serving

# To take IPv6 out of IPv4 came with Linux 6.3: of the kernels that are tested, those can that have tcx. Others use the
# device.
FAMILIES = pytest.mark.parametrize(
    "family", [4, pytest.param(6, marks=pytest.mark.needs("tcx"))], ids=["v4", "v6"]
)
PORT, UNMANAGED, NOBODY, IDENTITY = 8472, 3, 71, 0x1ABCD
FAR = {4: "10.244.2.9", 6: "fd00:20::9"}
NUMBERS = {4: 2, 6: 10}  # AF_INET, AF_INET6
MTU = 1450


@pytest.fixture
def tunnel(node: Host) -> Iterator[Host]:
    """The node with its tunnel and two pods, and another one with the pod FAR."""
    name = f"{node.run_name}t"
    node.exchange(add_vxlan(VxlanDevice(name, PORT, MTU)))
    index = link_index(node.netns, name)
    in_netns(node.netns, name, lambda route: route.link("set", index=index, state="up"))
    node.attach(index, TUNNEL)
    settings = rows.SettingsRow(address(NODE[4]), address(NODE[6]), index)
    node.write("pod_network_settings", bytes(4), node.codecs.pod_network.settings.encode(settings))
    for family in (4, 6):
        node.write_destination(f"{FAR[family]}/{24 if family == 4 else 64}", "TUNNEL", tunnel=ROUTER[4])
        node.write_destination(ROUTER[family], "NODE", tunnel=ROUTER[4])
    for number in (7, 8):
        node.add_pod(number, mtu=MTU)
    in_netns(node.world, "far", partial(_far_device, node=node))
    netlink.set_up(node.world, far(node), [ip_interface(each) for each in FAR.values()])
    in_netns(node.world, "far", partial(_far_routes, node=node))
    yield node


def far(node: Host) -> str:
    return f"{node.run_name}v"


def _far_device(route: Any, node: Host) -> None:
    """Any: pyroute2 has no types."""
    route.link(
        "add", ifname=far(node), kind="vxlan", vxlan_id=UNMANAGED, vxlan_port=PORT, vxlan_group=NODE[4],
        vxlan_local=ROUTER[4], vxlan_udp_csum=False, mtu=MTU,
        # Nodes take frames for whomever; this one only those of the first pod.
        address=node.pods[0].link.host_mac,
    )  # fmt: skip


def _far_routes(route: Any, node: Host) -> None:
    index = link_index(node.world, far(node))
    for pod in node.pods:
        for family, at in pod.ip.items():
            route.route("add", dst=str(ip_network(at)), oif=index, family=NUMBERS[family])
            route.neigh(
                "add", dst=at, lladdr="02:00:00:00:00:cc", ifindex=index, family=NUMBERS[family], state=128
            )


def through_device(node: Host) -> int:
    """How many packets of pods went through the tunnel's device, in or out."""
    text = node.netns.run(Path("/proc/thread-self/net/dev").read_text)
    [line] = [line for line in text.splitlines() if line.strip().startswith(f"{node.run_name}t:")]
    figures = line.partition(":")[2].split()
    return int(figures[1]) + int(figures[9])


@FAMILIES
def test_streams_datagrams_and_echoes_pass_both_ways_without_the_device(tunnel: Host, family: int) -> None:
    pod = tunnel.pods[0]
    before = through_device(tunnel)
    with serving(tunnel.world, 8080), serving(tunnel.world, 5353, socket.SOCK_DGRAM, FAR[family]):
        assert asked(pod.netns, FAR[family], 8080, 4_000_000) == pod.ip[family]
        assert asked_by_datagram(pod.netns, FAR[family], 5353) == pod.ip[family]
    with serving(pod.netns, 8080):
        assert asked(tunnel.world, pod.ip[family], 8080, 4_000_000) == FAR[family]
    assert pinged(pod.netns, FAR[family])[0] == FAR[family]
    assert dropped(tunnel) == {}
    assert tunnel.event("TO_TUNNEL") > 50
    # The device looks for neighbours of its own when it comes up.
    assert through_device(tunnel) - before < 20


def dropped(node: Host) -> dict[str, int]:
    """What was dropped, but for what the other node's device says of itself to whoever may be on its link."""
    return {name: packets for name, packets in node.dropped().items() if name != "MALFORMED to pod"}


def sniffed(node: Host, packet: Packet) -> bytes:
    """What leaves the node's uplink when the first pod sends ``packet``."""
    kind = socket.htons(ETH_P_ALL)
    with node.world.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, kind)) as far_end:
        far_end.bind((f"{node.run_name}w", ETH_P_ALL))
        far_end.settimeout(5)
        send_raw(node, node.pods[0], packet)
        while True:
            frame = far_end.recv(1 << 16)
            if frame[12:14] == b"\x08\x00" and frame[23] == UDP and frame.endswith(packet.payload):
                return frame


def send_raw(node: Host, pod: Pod, packet: Packet) -> None:
    kind = socket.htons(ETH_P_ALL)
    with pod.netns.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, kind)) as device:
        device.bind(("eth0", 0))
        macs = bytes.fromhex((pod.link.host_mac + pod.link.mac).replace(":", ""))
        device.send(macs + packet.frame()[12:])


@FAMILIES
def test_what_stands_outside_is_what_the_device_would_write(tunnel: Host, family: int) -> None:
    packet = Packet(TCP, tunnel.pods[0].ip[family], 40000, FAR[family], 80, flags=SYN, payload=b"mine")
    frame = sniffed(tunnel, packet)
    inner = replace(packet, ttl=63).network()
    assert frame[64 : 64 + len(inner)] == inner
    head = struct.unpack("!BBHHHBBH4s4s", frame[14:34])
    assert (head[0], head[1], head[2], head[5], head[6]) == (0x45, 0, 50 + len(inner), 64, UDP)
    assert (socket.inet_ntoa(head[8]), socket.inet_ntoa(head[9])) == (NODE[4], ROUTER[4])
    assert sum_of(frame[14:34]) == 0xFFFF
    _, to, size, checksum, flags, number = struct.unpack("!HHHHII", frame[34:50])
    assert (to, size, checksum, flags, number) == (PORT, 30 + len(inner), 0, 0x08000000, UNMANAGED << 8)
    assert frame[62:64] == (b"\x08\x00" if family == 4 else b"\x86\xdd")


@FAMILIES
@pytest.mark.parametrize(
    ("takes", "identity", "number"),
    [(False, IDENTITY, UNMANAGED), (True, IDENTITY, IDENTITY), (True, UNMANAGED, UNMANAGED)],
    ids=["to who takes none", "to who takes it", "without one"],
)
def test_the_number_is_the_pods_identity_where_the_other_node_takes_it(
    tunnel: Host, family: int, takes: bool, identity: int, number: int
) -> None:
    for pod, who in zip(tunnel.pods, (identity, IDENTITY + 1), strict=True):
        tunnel.write_pod(pod, identity=who)
    far_pods = f"{FAR[family]}/{24 if family == 4 else 64}"
    tunnel.write_destination(far_pods, "TUNNEL", tunnel=ROUTER[4], takes_identities=takes)
    packet = Packet(TCP, tunnel.pods[0].ip[family], 40000, FAR[family], 80, flags=SYN, payload=b"mine")
    assert struct.unpack("!II", sniffed(tunnel, packet)[42:50]) == (0x08000000, number << 8)


def sum_of(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def wrapped(
    inner: Packet, number: int = UNMANAGED, source: str = ROUTER[4], tos: int = 0, checksum: int = 0
) -> bytes:
    """What follows the link addresses of a frame in which another node sends ``inner``."""
    vxlan = struct.pack("!II", 0x08000000, number << 8)
    payload = vxlan + inner.frame()
    udp = struct.pack("!HHHH", 50000, PORT, 8 + len(payload), checksum) + payload
    head = struct.pack("!BBHHHBBH", 0x45, tos, 20 + len(udp), 1, 0, 64, UDP, 0)
    head += socket.inet_aton(source) + socket.inet_aton(NODE[4])
    head = head[:10] + struct.pack("!H", 0xFFFF - sum_of(head)) + head[12:]
    return b"\x08\x00" + head + udp


TAKEN_OUT, LEFT, DROPPED = 7, 0, 2


@FAMILIES
def test_a_connection_of_another_node_is_taken_out_at_the_uplink(tunnel: Host, family: int) -> None:
    first = Packet(TCP, FAR[family], 40000, tunnel.pods[0].ip[family], 80, flags=SYN)
    run = tunnel.run_frame("pod_network_from_uplink", None, wrapped(first))
    pod = tunnel.pods[0].link
    assert run.retval == TAKEN_OUT
    assert run.data[:12].hex(":") == f"{pod.mac}:{pod.host_mac}"
    assert run.data[12:] == replace(first, ttl=63).frame()[12:]
    assert (dropped(tunnel), tunnel.event("TO_POD")) == ({}, 1)


# What another node sends around a first packet, and what becomes of it.
OUTSIDES = {
    "as nodes do": ({}, TAKEN_OUT),
    "with a checksum": ({"checksum": 0x1234}, LEFT),
    "marked as congested": ({"tos": 3}, LEFT),
    "under nobody's number": ({"number": NOBODY}, DROPPED),
    "as a node that nobody knows": ({"source": "192.0.2.99"}, DROPPED),
}


@FAMILIES
@pytest.mark.parametrize("outside", OUTSIDES)
def test_only_what_is_plain_is_taken_out_and_only_of_whom_it_says(
    tunnel: Host, family: int, outside: str
) -> None:
    changes, verdict = OUTSIDES[outside]
    first = Packet(TCP, FAR[family], 40000, tunnel.pods[0].ip[family], 80, flags=SYN)
    frame = wrapped(first, **changes)  # type: ignore[arg-type] # of the table
    assert tunnel.run_frame("pod_network_from_uplink", None, frame).retval == verdict
    assert bool(dropped(tunnel)) is (verdict == DROPPED)


@FAMILIES
def test_a_kept_way_is_for_the_node_and_the_number_it_was_found_for(tunnel: Host, family: int) -> None:
    first = Packet(TCP, FAR[family], 40000, tunnel.pods[0].ip[family], 80, flags=SYN)
    data = replace(first, flags=ACK)
    tunnel.run_frame("pod_network_from_uplink", None, wrapped(first))
    tunnel.run("pod_network_from_pod", tunnel.pods[0], replace(first.reply(), flags=SYN | ACK))
    verdicts = [
        tunnel.run_frame("pod_network_from_uplink", None, each).retval
        for each in (wrapped(data), wrapped(data), wrapped(data, NOBODY), wrapped(data, source="192.0.2.99"))
    ]
    assert verdicts == [TAKEN_OUT, TAKEN_OUT, DROPPED, DROPPED]
    assert dropped(tunnel) == {"TUNNEL_IDENTITY to pod": 1, "TUNNEL_UNKNOWN_NODE to pod": 1}


@FAMILIES
def test_what_comes_without_a_tunnel_is_not_what_came_through_it(tunnel: Host, family: int) -> None:
    first = Packet(TCP, FAR[family], 40000, tunnel.pods[0].ip[family], 80, flags=SYN)
    tunnel.run_frame("pod_network_from_uplink", None, wrapped(first))
    assert tunnel.run("pod_network_from_uplink", None, replace(first, flags=ACK)).retval == DROPPED
    assert dropped(tunnel) == {"SOURCE_NOT_NATIVE to pod": 1}


def test_datagrams_that_are_cut_on_their_way_out_arrive(tunnel: Host) -> None:
    """UDP GSO, which the device knows how to cut."""
    pod, size = tunnel.pods[0], 1200
    with tunnel.world.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((FAR[4], 6000))
        server.settimeout(5)
        with pod.netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setsockopt(socket.IPPROTO_UDP, 103, size)  # UDP_SEGMENT
            client.connect((FAR[4], 6000))
            client.send(b"".join(bytes([each]) * size for each in range(8)))
        assert [server.recv(1 << 16)[:1] for _ in range(8)] == [bytes([each]) for each in range(8)]
