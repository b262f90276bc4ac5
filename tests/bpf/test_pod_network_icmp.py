"""ICMP errors about translated packets reach the sender, about the packet that it sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.bpf.packets import SYN, TCP, UDP, IcmpError, Packet, echo
from tests.bpf.translation import (
    OTHER_POD,
    PASSED,
    POD,
    ROUTER,
    TRANSLATED,
    UPLINK,
    WORLD,
    Node,
    node,
    source_of,
)

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
VIP = {4: "10.96.0.10", 6: "fd96::10"}
REMOTE = {4: "10.244.2.9", 6: "fd00:20::9"}

# What the family numbers: unreachable, too big (fragmentation needed), time exceeded, parameter problem.
KINDS = {
    4: [(3, 3, 0), (3, 4, 1400), (11, 0, 0), (12, 0, 5 << 24)],
    6: [(1, 4, 0), (2, 0, 1400), (3, 0, 0), (4, 1, 6)],
}
HEADER = {4: 20, 6: 40}
QUOTED = [8, 16, 18, 20, 28, 1000]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, run_name: str) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("nat"), run_name) as made:
        for family in (4, 6):
            made.pod(OTHER_POD[family], cookie=78)
            made.destination(REMOTE[family], "DESTINATION_NATIVE")
        yield made


@pytest.fixture
def alone(shared: Node) -> Iterator[Node]:
    """The node, without flows and services."""
    for table in ("flows", "new_flows", "pod_flows", "frontends", "slots", "members"):
        shared.loaded.maps[table].delete_batch(list(shared.loaded.maps[table].keys()))
    yield shared


def sent_to_world(made: Node, packet: Packet) -> Packet:
    """What ``packet`` of a pod is after the node gave it its address."""
    at, port = source_of(made.send("nat_from_pod", packet).frame)
    assert at == UPLINK[packet.family]
    remote = packet.destination_port if packet.protocol in (TCP, UDP) else port
    return packet.between(at, port, packet.destination, remote)


def packets(family: int) -> list[Packet]:
    return [
        Packet(TCP, POD[family], 40000, WORLD[family], 443, bytes(30), flags=SYN),
        Packet(UDP, POD[family], 40000, WORLD[family], 53, bytes(30)),
        replace(echo(POD[family], WORLD[family], 4711), payload=bytes(30)),
    ]


@pytest.mark.parametrize("reporter", [ROUTER, WORLD], ids=["from-a-router", "from-the-other-end"])
@FAMILIES
def test_an_error_about_a_masqueraded_packet_reaches_the_pod(
    alone: Node, family: int, reporter: dict[int, str]
) -> None:
    for packet in packets(family):
        sent = sent_to_world(alone, packet)
        for kind, code, rest in KINDS[family]:
            for quoted in QUOTED:
                size = HEADER[family] + quoted
                came = IcmpError(reporter[family], UPLINK[family], sent, kind, code, rest, size)
                wanted = replace(came, destination=POD[family], about=packet)
                seen = alone.run("nat_error", came.frame())
                assert (seen.outcome, seen.frame) == (TRANSLATED, wanted.frame())


@FAMILIES
def test_an_error_of_a_backend_comes_from_the_frontend(alone: Node, family: int) -> None:
    alone.serve(UDP, (VIP[family], 53), (REMOTE[family], 5353))
    packet = Packet(UDP, POD[family], 40000, VIP[family], 53)
    alone.send("nat_from_pod", packet)
    sent = packet.between(POD[family], 40000, REMOTE[family], 5353)
    kind, code, rest = KINDS[family][0]
    came = IcmpError(REMOTE[family], POD[family], sent, kind, code, rest)
    wanted = replace(came, reporter=VIP[family], about=packet)
    seen = alone.run("nat_error", came.frame())
    assert (seen.outcome, seen.frame) == (TRANSLATED, wanted.frame())


@FAMILIES
def test_an_error_about_a_packet_to_itself_through_a_frontend_reaches_the_pod(
    alone: Node, family: int
) -> None:
    alone.serve(UDP, (VIP[family], 53), (POD[family], 5353))
    packet = Packet(UDP, POD[family], 40000, VIP[family], 53)
    alone.send("nat_from_pod", packet)
    sent = packet.between(VIP[family], 40000, POD[family], 5353)
    kind, code, rest = KINDS[family][0]
    came = IcmpError(POD[family], VIP[family], sent, kind, code, rest)
    wanted = replace(came, reporter=VIP[family], destination=POD[family], about=packet)
    seen = alone.run("nat_error_of_pod", came.frame())
    assert (seen.outcome, seen.frame) == (TRANSLATED, wanted.frame())


@FAMILIES
def test_a_pod_complains_about_an_answer_to_who_sent_it(alone: Node, family: int) -> None:
    packet = Packet(UDP, POD[family], 40000, WORLD[family], 53)
    sent = sent_to_world(alone, packet)
    kind, code, rest = KINDS[family][0]
    came = IcmpError(POD[family], WORLD[family], packet.reply(), kind, code, rest)
    wanted = replace(came, reporter=UPLINK[family], about=sent.reply())
    seen = alone.run("nat_error_of_pod", came.frame())
    assert (seen.outcome, seen.frame) == (TRANSLATED, wanted.frame())


@FAMILIES
def test_a_pod_cannot_complain_about_what_another_was_sent(alone: Node, family: int) -> None:
    sent = sent_to_world(alone, Packet(UDP, POD[family], 40000, WORLD[family], 53))
    kind, code, rest = KINDS[family][0]
    came = IcmpError(OTHER_POD[family], UPLINK[family], sent, kind, code, rest)
    seen = alone.run("nat_error_of_pod", came.frame())
    assert (seen.outcome, seen.frame) == (PASSED, came.frame())


@FAMILIES
def test_an_error_about_a_flow_that_nobody_knows_or_translates_passes(alone: Node, family: int) -> None:
    plain = Packet(UDP, POD[family], 40000, REMOTE[family], 53)
    assert alone.send("nat_from_pod", plain).outcome == PASSED
    unknown = Packet(UDP, UPLINK[family], 40000, WORLD[family], 53)
    for about in (plain, unknown):
        came = IcmpError(ROUTER[family], about.source, about, *KINDS[family][0])
        seen = alone.run("nat_error", came.frame())
        assert (seen.outcome, seen.frame) == (PASSED, came.frame())


def test_a_quotation_without_a_checksum_stays_without(alone: Node) -> None:
    packet = Packet(UDP, POD[4], 40000, WORLD[4], 53, unsummed=True)
    sent = sent_to_world(alone, packet)
    came = IcmpError(ROUTER[4], UPLINK[4], sent, 3, 1)
    wanted = replace(came, destination=POD[4], about=packet)
    assert alone.run("nat_error", came.frame()).frame == wanted.frame()


@pytest.mark.parametrize("quoted", range(28))
def test_a_quotation_that_is_too_short_to_be_understood_passes(alone: Node, quoted: int) -> None:
    sent = sent_to_world(alone, Packet(UDP, POD[4], 40000, WORLD[4], 53))
    came = IcmpError(ROUTER[4], UPLINK[4], sent, 3, 1, quoted=quoted)
    seen = alone.run("nat_error", came.frame())
    assert (seen.outcome, seen.frame) == (PASSED, came.frame())


def test_a_quoted_later_fragment_says_of_no_flow_what_it_was(alone: Node) -> None:
    sent = sent_to_world(alone, Packet(UDP, POD[4], 40000, WORLD[4], 53))
    came = bytearray(IcmpError(ROUTER[4], UPLINK[4], sent, 11, 1).frame())
    came[42 + 7] = 8  # the quoted fragment offset
    seen = alone.run("nat_error", bytes(came))
    assert (seen.outcome, seen.frame) == (PASSED, bytes(came))


def test_options_in_the_quoted_header_are_stepped_over(alone: Node) -> None:
    packet = Packet(UDP, POD[4], 40000, WORLD[4], 53)
    sent = sent_to_world(alone, packet)
    options = bytes([7, 7, 4, 0, 0, 0, 0, 0])  # record route
    came = IcmpError(ROUTER[4], UPLINK[4], sent, 3, 1, options=options)
    wanted = replace(came, destination=POD[4], about=packet)
    assert alone.run("nat_error", came.frame()).frame == wanted.frame()


@FAMILIES
def test_another_protocol_in_the_quotation_passes(alone: Node, family: int) -> None:
    about = Packet(132, UPLINK[family], 40000, WORLD[family], 53)
    frame = IcmpError(ROUTER[family], UPLINK[family], about, *KINDS[family][0]).frame()
    seen = alone.run("nat_error", frame)
    assert (seen.outcome, seen.frame) == (PASSED, frame)
