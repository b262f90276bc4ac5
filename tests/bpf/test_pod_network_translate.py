"""A packet with other ends is byte for byte the packet that its new ends would have sent."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies

from meshd.kernel.object import BpfObject, Loaded
from tests.bpf.compiled import compiled
from tests.bpf.packets import ICMP, TCP, UDP, Packet, echo, fragments, mapped


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """The object of tests/bpf/programs/pod_network_rewrite.bpf.c, loaded."""
    path = compiled("pod_network_rewrite", directory=tmp_path_factory.mktemp("rewrite"))
    with BpfObject.open(path) as bpf:
        loaded = bpf.load()
    try:
        yield loaded
    finally:
        loaded.close()


def rewritten(harness: Loaded, frame: bytes, to: Packet) -> bytes:
    """``frame`` after rewrite() to the ends of ``to``."""
    ends = mapped(to.source) + mapped(to.destination)
    ends += struct.pack("!HHB3x", to.source_port, to.destination_port, to.protocol)
    harness.maps["wanted"].update(bytes(4), ends)
    run = harness.programs["rewrite_packet"].test_run(frame)
    assert run.retval == 0
    return run.data


V4 = ("10.244.1.7", "192.0.2.99", "203.0.113.5", "198.51.100.200")
V6 = ("fd00:10::7", "2001:db8::99", "2001:db8:1::5", "2001:db8:ffff:fffe::200")
BODIES = (b"", b"x", bytes(range(256)) * 5)


def segments() -> list[Packet]:
    """TCP, UDP, and UDP without a checksum, of both families and several lengths."""
    made = []
    for source, destination, *_ in (V4, V6):
        for body in BODIES:
            made.append(Packet(TCP, source, 40000, destination, 443, body))
            made.append(Packet(UDP, source, 40000, destination, 53, body))
    made.append(Packet(UDP, V4[0], 40000, V4[1], 53, unsummed=True))
    return made


def others(packet: Packet) -> tuple[str, str]:
    return (V4 if packet.family == 4 else V6)[2:]


def name(packet: Packet) -> str:
    kind = {TCP: "tcp", UDP: "udp"}.get(packet.protocol, "echo")
    return f"{kind}{packet.family}-{len(packet.payload)}{'-unsummed' if packet.unsummed else ''}"


@pytest.mark.parametrize("packet", segments(), ids=name)
def test_both_ends_change_and_so_does_every_checksum(harness: Loaded, packet: Packet) -> None:
    source, destination = others(packet)
    wanted = packet.between(source, 61234, destination, 8443)
    assert rewritten(harness, packet.frame(), wanted) == wanted.frame()


@pytest.mark.parametrize("packet", segments(), ids=name)
def test_one_end_may_stay_as_it_is(harness: Loaded, packet: Packet) -> None:
    source, destination = others(packet)
    only_source = replace(packet, source=source)
    only_port = replace(packet, destination_port=1)
    only_destination = replace(packet, destination=destination, destination_port=65535)
    for wanted in (packet, only_source, only_port, only_destination):
        assert rewritten(harness, packet.frame(), wanted) == wanted.frame()


@pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
def test_an_echo_gets_another_identifier_in_both_directions(
    harness: Loaded, ends: tuple[str, str, str, str]
) -> None:
    request = echo(ends[0], ends[1], 17)
    for packet in (request, request.reply()):
        wanted = packet.between(ends[2], 0xFFEE, ends[3], 0xFFEE)
        assert rewritten(harness, packet.frame(), wanted) == wanted.frame()


def test_a_checksum_that_comes_out_as_zero_is_sent_as_its_other_form(harness: Loaded) -> None:
    """RFC 768: in UDP zero says that there is none."""
    packet = Packet(UDP, V4[0], 40000, V4[1], 53, b"")
    wanted = next(
        candidate
        for port in range(1, 0xFFFF)
        if (candidate := packet.between(V4[2], port, V4[3], 53)).frame().endswith(b"\xff\xff")
    )
    assert rewritten(harness, packet.frame(), wanted) == wanted.frame()


@pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
def test_of_a_fragmented_packet_the_first_part_carries_the_checksum_of_all(
    harness: Loaded, ends: tuple[str, str, str, str]
) -> None:
    packet = Packet(UDP, ends[0], 40000, ends[1], 53, bytes(range(200)))
    wanted = packet.between(ends[2], 61000, ends[3], 5353)
    for frame, expected in zip(fragments(packet, 48), fragments(wanted, 48), strict=True):
        assert rewritten(harness, frame, wanted) == expected


ADDRESSES_V4 = strategies.ip_addresses(v=4).map(str)
ADDRESSES_V6 = strategies.ip_addresses(network="2000::/3").map(str)
NUMBERS = strategies.integers(1, 0xFFFF)


@pytest.mark.parametrize("addresses", [ADDRESSES_V4, ADDRESSES_V6], ids=["v4", "v6"])
def test_no_ends_and_no_payload_make_a_checksum_wrong(
    harness: Loaded, addresses: strategies.SearchStrategy[str]
) -> None:
    segments = strategies.builds(
        Packet, strategies.sampled_from((TCP, UDP)), addresses, NUMBERS, addresses, NUMBERS,
        payload=strategies.binary(max_size=100), flags=strategies.integers(0, 255),
    )  # fmt: skip

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(segments, strategies.tuples(addresses, NUMBERS, addresses, NUMBERS))
    def rewrite_any(packet: Packet, ends: tuple[str, int, str, int]) -> None:
        wanted = packet.between(*ends)
        assert rewritten(harness, packet.frame(), wanted) == wanted.frame()

    rewrite_any()


def test_another_protocol_changes_its_addresses_only(harness: Loaded) -> None:
    packet = Packet(ICMP, V4[0], 0, V4[1], 0, kind=13)  # a timestamp request
    wanted = packet.between(V4[2], 0, V4[3], 0)
    assert rewritten(harness, packet.frame(), wanted) == wanted.frame()
