"""Which entries pod_network_expire removes, what it counts, and that two entries of one flow go together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from meshd.dataplane.pod_network.flow_rows import FlowRow, TupleRow
from tests.bpf.packets import ACK, FIN, RST, SYN, TCP, UDP, Packet, echo, mapped
from tests.bpf.translation import (
    OTHER_POD,
    POD,
    UPLINK,
    WORLD,
    CountsRow,
    ExpiryRow,
    Node,
    address,
    node,
    source_of,
)

LIMITS_S = {"unanswered": 20, "established": 5_000_000, "closing": 10, "datagram": 300, "echo": 40}
STATES = tuple(LIMITS_S)
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, run_name: str) -> Iterator[Node]:
    knobs = {f"timeout_{state}_s": limit for state, limit in LIMITS_S.items()}
    with node(tmp_path_factory.mktemp("nat"), run_name, **knobs) as made:
        for family in (4, 6):
            made.pod(OTHER_POD[family], cookie=78)
        yield made


@pytest.fixture
def alone(shared: Node) -> Iterator[Node]:
    """The node, without flows and services."""
    for table in ("flows", "new_flows", "pod_flows", "pod_flows_counted", "frontends", "slots", "members"):
        shared.loaded.maps[table].delete_batch(list(shared.loaded.maps[table].keys()))
    yield shared


def expire(made: Node) -> ExpiryRow:
    """Runs it once; what it answers."""
    size = made.codecs.expiry.size
    run = made.loaded.programs["nat_expire"].test_run(context=bytes(size))
    return made.codecs.expiry.decode(run.context)


def ago(seconds: float) -> int:
    """When it was so long ago, as the kernel counts it: also before the machine was started, where that number wraps."""
    return (time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(seconds * 10**9)) % 2**64


def age(made: Node, seconds: float) -> None:
    """Makes every entry look as if it was seen so long ago."""
    seen = ago(seconds)
    for table in ("flows", "new_flows"):
        for key, flow in made.flows(table).items():
            aged = made.codecs.flow.encode(flow._replace(last_seen_ns=seen))
            made.loaded.maps[table].update(made.codecs.tuple.encode(key), aged)


def ask(made: Node, packet: Packet) -> Packet:
    """Sends the first packet of a flow to the world; what it became."""
    port = source_of(made.send("nat_from_pod", packet).frame)[1]
    remote = packet.destination_port if packet.protocol in (TCP, UDP) else port
    return packet.between(UPLINK[packet.family], port, packet.destination, remote)


def connect(made: Node, family: int, port: int = 40000) -> tuple[Packet, Packet]:
    """A connection to the world, with all three packets; a segment of it as the pod sends it, and as it leaves."""
    first = Packet(TCP, POD[family], port, WORLD[family], 443, flags=SYN)
    sent = ask(made, first)
    made.send("nat_to_frontend", replace(sent.reply(), flags=SYN | ACK))
    made.send("nat_from_pod", replace(first, flags=ACK))
    return replace(first, flags=ACK), replace(sent, flags=ACK)


def begin(made: Node, state: str, family: int) -> None:
    """A flow in that state."""
    if state == "unanswered":
        ask(made, Packet(TCP, POD[family], 40000, WORLD[family], 443, flags=SYN))
    elif state == "established":
        connect(made, family)
    elif state == "closing":
        segment, _ = connect(made, family)
        made.send("nat_from_pod", replace(segment, flags=FIN | ACK))
    elif state == "datagram":
        made.send("nat_to_frontend", ask(made, Packet(UDP, POD[family], 40000, WORLD[family], 53)).reply())
    else:
        made.send("nat_to_frontend", ask(made, echo(POD[family], WORLD[family], 4711)).reply())


@pytest.mark.parametrize("state", STATES)
@FAMILIES
def test_a_flow_goes_with_both_entries_when_the_time_of_its_state_is_over(
    alone: Node, family: int, state: str
) -> None:
    begin(alone, state, family)
    age(alone, LIMITS_S[state] - 1)
    young = expire(alone)
    assert (young.kept, young.expired) == (CountsRow(**{state: 1}), CountsRow())
    assert len(alone.flows()) + len(alone.flows("new_flows")) == 2
    age(alone, LIMITS_S[state] + 1)
    old = expire(alone)
    assert (old.kept, old.expired) == (CountsRow(), CountsRow(**{state: 1}))
    assert (alone.flows(), alone.flows("new_flows")) == ({}, {})
    assert alone.owned(POD[family]) == 0


@pytest.mark.parametrize("flags", [RST, FIN | ACK], ids=["reset", "fin"])
@pytest.mark.parametrize("by", ["pod", "world"])
def test_either_side_ends_a_connection(alone: Node, by: str, flags: int) -> None:
    segment, sent = connect(alone, 4)
    if by == "pod":
        alone.send("nat_from_pod", replace(segment, flags=flags))
    else:
        alone.send("nat_to_frontend", replace(sent.reply(), flags=flags))
    assert expire(alone).kept == CountsRow(closing=1)


def test_packets_of_either_side_keep_a_flow_alive(alone: Node) -> None:
    segment, sent = connect(alone, 4)
    for program, packet in (("nat_from_pod", segment), ("nat_to_frontend", sent.reply())):
        age(alone, LIMITS_S["established"] + 1)
        alone.send(program, packet)
        assert expire(alone).kept == CountsRow(established=1)


def test_what_was_translated_is_counted_for_whom_it_concerns(alone: Node) -> None:
    alone.serve(TCP, ("10.96.0.10", 80), (OTHER_POD[4], 8080))
    alone.serve(TCP, ("10.96.0.11", 80), (WORLD[4], 8080))
    connect(alone, 4)
    alone.send("nat_from_pod", Packet(TCP, POD[4], 40001, "10.96.0.10", 80, flags=SYN))
    alone.send("nat_from_pod", Packet(TCP, POD[4], 40002, "10.96.0.11", 80, flags=SYN))
    alone.send("nat_from_pod", Packet(TCP, POD[4], 40003, OTHER_POD[4], 80, flags=SYN))
    seen = expire(alone)
    assert (sum(seen.kept), seen.masqueraded, seen.services) == (4, 2, 2)


def test_flows_are_counted_anew_for_each_pod(alone: Node) -> None:
    for port in range(5):
        alone.send("nat_from_pod", Packet(UDP, POD[4], 5000 + port, WORLD[4], 53))
    alone.send("nat_from_pod", Packet(UDP, OTHER_POD[4], 5000, WORLD[4], 53))
    alone.loaded.maps["pod_flows"].update(mapped(POD[4]), (1000).to_bytes(8, "little"))
    alone.loaded.maps["pod_flows"].update(mapped("10.244.1.99"), (7).to_bytes(8, "little"))
    expire(alone)
    counts = [alone.owned(at) for at in (POD[4], OTHER_POD[4], "10.244.1.99")]
    assert counts == [5, 1, 0]
    expire(alone)
    assert [alone.owned(at) for at in (POD[4], OTHER_POD[4])] == [5, 1]


def remove(made: Node, alias: bool) -> None:
    """Pushes out one of the two entries that are there."""
    is_alias = made.codecs.flags["FLOW_ALIAS"]
    for key, flow in made.flows("new_flows").items():
        if bool(flow.flags & is_alias) == alias:
            made.loaded.maps["new_flows"].delete(made.codecs.tuple.encode(key))


def test_a_second_entry_whose_first_was_pushed_out_goes_but_not_at_once(alone: Node) -> None:
    ask(alone, Packet(UDP, POD[4], 40000, WORLD[4], 53))
    remove(alone, alias=False)
    assert (expire(alone).orphans, len(alone.flows("new_flows"))) == (0, 1)
    age(alone, 6)
    assert (expire(alone).orphans, alone.flows("new_flows")) == (1, {})


def test_a_second_entry_of_an_earlier_life_of_the_flow_goes(alone: Node) -> None:
    """The first was pushed out, and the flow began anew with another port."""
    packet = Packet(UDP, POD[4], 40000, WORLD[4], 53)
    before = ask(alone, packet)
    remove(alone, alias=False)
    after = ask(alone, packet)
    assert before.source_port != after.source_port
    age(alone, 6)
    assert expire(alone).orphans == 1
    assert len(alone.flows("new_flows")) == 2
    assert alone.send("nat_to_frontend", after.reply()).frame == packet.reply().frame()


def test_a_first_entry_whose_second_was_pushed_out_gets_it_back_with_the_next_packet(alone: Node) -> None:
    packet = Packet(UDP, POD[4], 40000, WORLD[4], 53)
    sent = ask(alone, packet)
    remove(alone, alias=True)
    assert alone.send("nat_from_pod", packet).frame == sent.frame()
    assert alone.send("nat_to_frontend", sent.reply()).frame == packet.reply().frame()


def taken_over(made: Node) -> tuple[Packet, Packet, Packet]:
    """A flow whose second entry was pushed out and whose port another pod then got; the first packet of each, and how
    the other's leaves."""
    packet = Packet(UDP, POD[4], 40000, WORLD[4], 53)
    sent = ask(made, packet)
    remove(made, alias=True)
    other = Packet(UDP, OTHER_POD[4], sent.source_port, WORLD[4], 53)
    assert ask(made, other) == replace(sent, payload=other.payload)
    return packet, other, sent


def test_a_flow_whose_port_was_given_to_another_begins_anew(alone: Node) -> None:
    packet, other, sent = taken_over(alone)
    lost = alone.send("nat_from_pod", packet)
    assert lost.outcome == alone.dropped("DROP_NO_FLOW")
    again = ask(alone, packet)
    assert again.source_port != sent.source_port
    assert alone.send("nat_to_frontend", again.reply()).frame == packet.reply().frame()
    assert alone.send("nat_to_frontend", sent.reply()).frame == other.reply().frame()
    assert [alone.owned(at) for at in (POD[4], OTHER_POD[4])] == [1, 1]


def test_a_flow_that_expires_takes_nothing_from_whom_its_port_was_given_to(alone: Node) -> None:
    _, other, sent = taken_over(alone)
    alone.send("nat_to_frontend", sent.reply())
    age(alone, LIMITS_S["unanswered"] + 1)
    answer = expire(alone)
    assert (answer.kept, answer.expired) == (CountsRow(datagram=1), CountsRow(unanswered=1))
    assert alone.send("nat_to_frontend", sent.reply()).frame == other.reply().frame()


def test_thousands_of_flows_are_expired_in_one_run(alone: Node) -> None:
    made = alone.codecs
    seen = ago(LIMITS_S["datagram"] + 1)
    entries = {}
    for number in range(50_000):
        at = f"203.0.{number >> 8 & 255}.{number & 255}"
        key = TupleRow(address(POD[4]), address(at), 5000, 53, UDP)
        flow = FlowRow(seen, key, address(POD[4]), 0)
        entries[made.tuple.encode(key)] = made.flow.encode(flow)
    alone.loaded.maps["flows"].update_batch(entries)
    connect(alone, 4)
    answer = expire(alone)
    assert answer.expired == CountsRow(datagram=50_000)
    assert (sum(answer.kept), len(alone.flows())) == (1, 2)
