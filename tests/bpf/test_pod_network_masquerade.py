"""What leaves the cluster has the node's address and a port of the range, and its answers find the pod."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bpf.packets import ACK, SYN, TCP, UDP, Packet, echo, fragments
from tests.bpf.translation import (
    NODE,
    OTHER_POD,
    PASSED,
    POD,
    PORTS,
    ROUTER,
    TRANSLATED,
    UPLINK,
    WORLD,
    Node,
    node,
    source_of,
)

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, run_name: str) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("nat"), run_name) as made:
        yield made


@pytest.fixture
def alone(shared: Node) -> Iterator[Node]:
    """The node, without a flow."""
    for table in ("flows", "new_flows", "pod_flows", "fragments"):
        shared.loaded.maps[table].delete_batch(list(shared.loaded.maps[table].keys()))
    yield shared


def first_packets(family: int) -> list[Packet]:
    """One of each protocol, from the pod to the world."""
    return [
        Packet(TCP, POD[family], 40000, WORLD[family], 443, flags=SYN),
        Packet(UDP, POD[family], 40000, WORLD[family], 53),
        echo(POD[family], WORLD[family], 4711),
    ]


def as_sent(packet: Packet, port: int) -> Packet:
    """``packet`` under the uplink's address and ``port``."""
    remote = packet.destination_port if packet.protocol in (TCP, UDP) else port
    return packet.between(UPLINK[packet.family], port, packet.destination, remote)


@FAMILIES
def test_a_flow_leaves_under_the_uplinks_address_and_its_answer_comes_back(alone: Node, family: int) -> None:
    for packet in first_packets(family):
        out = alone.send("nat_from_pod", packet)
        at, port = source_of(out.frame)
        assert (out.outcome, at) == (TRANSLATED, UPLINK[family])
        assert port in PORTS
        sent = as_sent(packet, port)
        assert out.frame == sent.frame()
        back = alone.send("nat_to_frontend", sent.reply())
        assert (back.outcome, back.frame) == (TRANSLATED, packet.reply().frame())


@FAMILIES
def test_every_packet_of_a_flow_has_the_same_port(alone: Node, family: int) -> None:
    packet = Packet(TCP, POD[family], 40000, WORLD[family], 443, flags=SYN)
    ports = {source_of(alone.send("nat_from_pod", packet).frame)[1] for _ in range(10)}
    assert len(ports) == 1


def test_a_port_of_the_range_is_kept(alone: Node) -> None:
    packet = Packet(UDP, POD[4], PORTS[7], WORLD[4], 53)
    assert source_of(alone.send("nat_from_pod", packet).frame) == (UPLINK[4], PORTS[7])


def test_two_pods_with_the_same_port_get_different_ones(alone: Node) -> None:
    alone.pod(OTHER_POD[4])
    ports = set()
    for at in (POD[4], OTHER_POD[4]):
        packet = Packet(TCP, at, PORTS[7], WORLD[4], 443, flags=SYN)
        ports.add(source_of(alone.send("nat_from_pod", packet).frame)[1])
    assert len(ports) == 2


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
@FAMILIES
def test_a_port_that_a_socket_of_the_host_holds_is_passed_over(
    alone: Node, family: int, kind: socket.SocketKind
) -> None:
    address_family = socket.AF_INET if family == 4 else socket.AF_INET6
    with alone.netns.socket(address_family, kind) as held:
        held.bind(("0.0.0.0" if family == 4 else "::", PORTS[7]))
        if kind is socket.SOCK_STREAM:
            held.listen()
        protocol = TCP if kind is socket.SOCK_STREAM else UDP
        packet = Packet(protocol, POD[family], PORTS[7], WORLD[family], 443, flags=SYN)
        _, port = source_of(alone.send("nat_from_pod", packet).frame)
    assert port in set(PORTS) - {PORTS[7]}


def test_the_last_port_of_a_small_range_is_found_and_then_the_flow_is_refused(
    tmp_path: Path, run_name: str
) -> None:
    last = PORTS[0] + 15
    with node(tmp_path, f"{run_name}s", masquerade_port_last=last) as small:
        used = set()
        for port in range(16):
            seen = small.send("nat_from_pod", Packet(UDP, POD[4], 5000 + port, WORLD[4], 53))
            used.add(source_of(seen.frame)[1])
        assert used == set(range(PORTS[0], last + 1))
        before = small.flows("new_flows")
        refused = small.send("nat_from_pod", Packet(UDP, POD[4], 6000, WORLD[4], 53))
        assert refused.outcome == small.dropped("DROP_NO_MASQUERADE_PORT")
        assert small.flows("new_flows").keys() == before.keys()
        assert small.owned(POD[4]) == 16
        elsewhere = small.send("nat_from_pod", Packet(UDP, POD[4], 6000, ROUTER[4], 53))
        assert elsewhere.outcome == TRANSLATED


def test_a_pod_at_its_quota_begins_no_flow_and_another_does(tmp_path: Path, run_name: str) -> None:
    with node(tmp_path, f"{run_name}q", flow_quota=3) as limited:
        limited.pod(OTHER_POD[4])
        outcomes = [
            limited.send("nat_from_pod", Packet(UDP, POD[4], 5000 + port, WORLD[4], 53)).outcome
            for port in range(4)
        ]
        assert outcomes == [TRANSLATED] * 3 + [limited.dropped("DROP_FLOW_QUOTA")]
        assert len(limited.flows("new_flows")) == 6
        other = limited.send("nat_from_pod", Packet(UDP, OTHER_POD[4], 5000, WORLD[4], 53))
        assert other.outcome == TRANSLATED


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("DESTINATION_WORLD", TRANSLATED),
        ("DESTINATION_NODE", TRANSLATED),
        ("DESTINATION_HOST", PASSED),
        ("DESTINATION_LOCAL_PODS", PASSED),
        ("DESTINATION_NATIVE", PASSED),
        ("DESTINATION_TUNNEL", PASSED),
        ("DESTINATION_EXCLUDED", PASSED),
        ("DESTINATION_STACK", PASSED),
    ],
)
@FAMILIES
def test_only_what_is_outside_is_masqueraded(alone: Node, family: int, kind: str, outcome: int) -> None:
    target = {4: "198.51.100.9", 6: "2001:db8:9::9"}[family]
    alone.destination(f"{target}/{32 if family == 4 else 128}", kind)
    packet = Packet(UDP, POD[family], 40000, target, 53)
    assert alone.send("nat_from_pod", packet).outcome == outcome


@FAMILIES
def test_masquerade_can_be_switched_off(tmp_path: Path, run_name: str, family: int) -> None:
    with node(tmp_path, f"{run_name}o", masquerade=0) as off:
        for packet in first_packets(family):
            seen = off.send("nat_from_pod", packet)
            assert (seen.outcome, seen.frame) == (PASSED, packet.frame())


@FAMILIES
def test_an_uplink_without_an_address_of_the_family_is_a_reason_to_drop(
    tmp_path: Path, run_name: str, family: int
) -> None:
    with node(tmp_path, f"{run_name}a") as bare:
        made = bare.codecs.pod_network
        bare.loaded.maps["uplinks"].update(made.u32.encode(bare.uplink), bytes(32))
        seen = bare.send("nat_from_pod", first_packets(family)[0])
        assert seen.outcome == bare.dropped("DROP_NO_MASQUERADE_ADDRESS")
        assert bare.flows("new_flows") == {}


@FAMILIES
def test_a_flow_through_another_device_is_left_to_the_stack(
    tmp_path: Path, run_name: str, family: int
) -> None:
    with node(tmp_path, f"{run_name}d") as other:
        other.loaded.maps["uplinks"].delete(other.codecs.pod_network.u32.encode(other.uplink))
        packet = first_packets(family)[0]
        seen = other.send("nat_from_pod", packet)
        assert (seen.outcome, seen.frame) == (PASSED, packet.frame())


@FAMILIES
def test_an_answer_settles_both_entries(alone: Node, family: int) -> None:
    packet = first_packets(family)[1]
    sent = as_sent(packet, source_of(alone.send("nat_from_pod", packet).frame)[1])
    assert (len(alone.flows()), len(alone.flows("new_flows"))) == (0, 2)
    alone.send("nat_to_frontend", sent.reply())
    assert (len(alone.flows()), len(alone.flows("new_flows"))) == (2, 0)


@FAMILIES
def test_a_flow_that_two_cpus_begin_at_once_has_one_translation(alone: Node, family: int) -> None:
    for packet in first_packets(family):
        assert alone.send("nat_begin_twice", packet).outcome == PASSED
    assert len(alone.flows("new_flows")) == 2 * 3
    assert alone.owned(POD[family]) == 3


@FAMILIES
def test_who_answers_without_having_been_asked_gets_nowhere(alone: Node, family: int) -> None:
    packet = first_packets(family)[1]
    sent = as_sent(packet, source_of(alone.send("nat_from_pod", packet).frame)[1])
    stranger = sent.reply().between(NODE[family], 53, UPLINK[family], sent.source_port)
    assert alone.send("nat_to_frontend", stranger).outcome == PASSED


@FAMILIES
def test_a_packet_that_the_stack_sends_out_for_a_pod_is_masqueraded_there(alone: Node, family: int) -> None:
    for packet in first_packets(family):
        out = alone.send("nat_after_stack", packet)
        assert out.frame == as_sent(packet, source_of(out.frame)[1]).frame()
    via_stack = alone.codecs.flags["FLOW_VIA_STACK"]
    entries = alone.flows("new_flows").values()
    primary = [flow for flow in entries if not flow.flags & alone.codecs.flags["FLOW_ALIAS"]]
    assert [bool(flow.flags & via_stack) for flow in primary] == [True] * 3


@FAMILIES
def test_all_fragments_of_a_packet_leave_under_one_address(alone: Node, family: int) -> None:
    packet = Packet(UDP, POD[family], 40000, WORLD[family], 53, bytes(range(256)))
    first, second = fragments(packet, 64)
    out = alone.run("nat_from_pod", first)
    sent = as_sent(packet, source_of(out.frame)[1])
    assert [out.frame, alone.run("nat_from_pod", second).frame] == list(fragments(sent, 64))


def test_an_established_flow_costs_no_new_entry(alone: Node) -> None:
    packet = Packet(TCP, POD[4], 40000, WORLD[4], 443, flags=SYN)
    sent = as_sent(packet, source_of(alone.send("nat_from_pod", packet).frame)[1])
    alone.send("nat_to_frontend", sent.reply())
    data = Packet(TCP, POD[4], 40000, WORLD[4], 443, b"data", flags=ACK)
    assert alone.send("nat_from_pod", data).frame == as_sent(data, sent.source_port).frame()
    assert alone.owned(POD[4]) == 1
