"""The table of flows, packet by packet: what begins one, when it is answered, when it is over, and who is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from meshd.dataplane.pod_network.flow_rows import FlowRow, KeptWayRow
from tests.bpf.packets import ACK, FIN, RST, SYN, TCP, UDP, Packet, echo
from tests.netns.pod_network.host import WORLD, Host, Pod, host

# What is left to the stack is left to the other filters of a pod's link first: TC_ACT_UNSPEC.
ON, SHOT, REDIRECT = 0xFFFFFFFF, 2, 7
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
QUOTA, TABLE, NEW = 4, 8, 256


@pytest.fixture(scope="module")
def shared(run_name: str) -> Iterator[Host]:
    with host(f"{run_name}f", {"flows": TABLE, "new_flows": NEW}, flow_quota=QUOTA) as made:
        made.add_pod(7)
        made.add_pod(8)
        made.known_outside(*made.pods)
        yield made


@pytest.fixture
def node(shared: Host) -> Host:
    """The node without flows."""
    for table in ("flows", "new_flows", "pod_flows"):
        shared.loaded.maps[table].delete_batch(list(shared.loaded.maps[table].keys()))
    return shared


def syn(node: Host, family: int, port: int = 40000) -> Packet:
    """The first pod connects to the second."""
    client, server = node.pods[0], node.pods[1]
    return Packet(TCP, client.ip[family], port, server.ip[family], 80, flags=SYN)


def pod_of(node: Host, packet: Packet) -> Pod:
    return next(pod for pod in node.pods if packet.source in pod.ip.values())


def send(node: Host, *packets: Packet) -> list[int]:
    """The verdicts on packets of pods."""
    return [node.run("pod_network_from_pod", pod_of(node, packet), packet).retval for packet in packets]


def only(rows: list[FlowRow]) -> FlowRow:
    assert len(rows) == 1
    return rows[0]


def flags_of(node: Host, table: str) -> set[str]:
    """The names of the flags of the one flow in a table; FLOW_REVERSED, which says how it is stored, apart."""
    flags = only(list(node.flows(table).values())).flags
    return {name[5:] for name, bit in node.codecs.flow_flags.items() if flags & bit} - {"REVERSED"}


@FAMILIES
def test_a_connection_is_settled_by_the_third_packet(node: Host, family: int) -> None:
    first = syn(node, family)
    assert send(node, first) == [REDIRECT]
    assert (flags_of(node, "new_flows"), node.flows()) == (set(), {})
    assert send(node, replace(first.reply(), flags=SYN | ACK)) == [REDIRECT]
    assert (flags_of(node, "new_flows"), node.flows()) == ({"REPLIED"}, {})
    assert send(node, replace(first, flags=ACK)) == [REDIRECT]
    assert (flags_of(node, "flows"), node.flows("new_flows")) == ({"REPLIED"}, {})
    assert node.owned(node.pods[0].ip[family]) == 1


@FAMILIES
@pytest.mark.parametrize("kind", ["udp", "echo"])
def test_what_has_no_handshake_is_settled_by_the_first_answer(node: Host, family: int, kind: str) -> None:
    client, server = node.pods[0].ip[family], node.pods[1].ip[family]
    first = Packet(UDP, client, 4000, server, 53) if kind == "udp" else echo(client, server, 99)
    assert send(node, first, first) == [REDIRECT, REDIRECT]
    assert node.flows() == {}
    assert send(node, first.reply()) == [REDIRECT]
    assert (flags_of(node, "flows"), node.flows("new_flows")) == ({"REPLIED"}, {})


@FAMILIES
@pytest.mark.parametrize("flags", [ACK, SYN | ACK, RST], ids=["ack", "syn-ack", "rst"])
def test_what_begins_nothing_and_belongs_to_nothing_is_the_stacks(
    node: Host, family: int, flags: int
) -> None:
    assert send(node, replace(syn(node, family), flags=flags)) == [ON]
    assert (node.flows(), node.flows("new_flows")) == ({}, {})


def established(node: Host, family: int, port: int = 40000) -> Packet:
    """A data packet of a connection that was made."""
    first = syn(node, family, port)
    send(node, first, replace(first.reply(), flags=SYN | ACK), replace(first, flags=ACK))
    return replace(first, flags=ACK)


@FAMILIES
@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (("client",), {"REPLIED", "FIN_INITIATOR"}),
        (("server",), {"REPLIED", "FIN_RESPONDER"}),
        (("client", "server"), {"REPLIED", "FIN_INITIATOR", "FIN_RESPONDER"}),
        (("reset",), {"REPLIED", "RESET"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_the_end_of_a_connection_is_in_its_flow(
    node: Host, family: int, ends: tuple[str, ...], expected: set[str]
) -> None:
    data = established(node, family)
    packets = {
        "client": replace(data, flags=FIN | ACK),
        "server": replace(data.reply(), flags=FIN | ACK),
        "reset": replace(data.reply(), flags=RST),
    }
    assert send(node, *(packets[end] for end in ends)) == [REDIRECT] * len(ends)
    assert flags_of(node, "flows") == expected


@FAMILIES
@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_after_which_an_end_speaks_on_was_none(node: Host, family: int, who: str) -> None:
    data = established(node, family)
    spoken = data if who == "client" else data.reply()
    send(node, replace(spoken.reply(), flags=RST))
    assert "RESET" in flags_of(node, "flows")
    assert send(node, spoken) == [REDIRECT]
    assert flags_of(node, "flows") == {"REPLIED"}


@FAMILIES
def test_ends_that_are_used_again_begin_a_new_flow(node: Host, family: int) -> None:
    data = established(node, family)
    send(node, replace(data, flags=RST))
    assert send(node, replace(data, flags=SYN)) == [REDIRECT]
    assert (flags_of(node, "new_flows"), node.flows()) == (set(), {})
    assert node.owned(node.pods[0].ip[family]) == 1


@FAMILIES
def test_ends_are_used_again_by_the_other_side(node: Host, family: int) -> None:
    data = established(node, family)
    send(node, replace(data, flags=FIN | ACK), replace(data.reply(), flags=FIN | ACK))
    assert send(node, replace(data.reply(), flags=SYN)) == [REDIRECT]
    assert send(node, replace(data, flags=SYN | ACK), replace(data.reply(), flags=ACK)) == [REDIRECT] * 2
    assert flags_of(node, "flows") == {"REPLIED"}
    assert node.owned(node.pods[1].ip[family]) == 1


@FAMILIES
def test_a_repeated_first_packet_changes_nothing(node: Host, family: int) -> None:
    first = syn(node, family)
    assert send(node, first, first, first) == [REDIRECT] * 3
    assert (len(node.flows("new_flows")), node.owned(node.pods[0].ip[family])) == (1, 1)


@FAMILIES
def test_a_pod_has_its_quota_and_others_have_theirs(node: Host, family: int) -> None:
    before = node.dropped().get("FLOW_QUOTA from pod", 0)
    verdicts = send(node, *(syn(node, family, port) for port in range(40000, 40000 + QUOTA + 2)))
    assert verdicts == [REDIRECT] * QUOTA + [SHOT] * 2
    assert node.dropped()["FLOW_QUOTA from pod"] - before == 2
    assert send(node, syn(node, family, 40000)) == [REDIRECT]
    other = syn(node, family)
    back = other.between(other.destination, 50000, other.source, 80)
    assert send(node, back) == [REDIRECT]


@FAMILIES
def test_a_full_table_refuses_the_answer_and_not_what_is_in_it(node: Host, family: int) -> None:
    kept = established(node, family)
    own = node.flows()
    key, row = next(iter(own.items()))
    for port in range(TABLE - 1):
        filler = key._replace(source_port=60000 + port)
        node.write("flows", node.codecs.tuple.encode(filler), node.codecs.flow.encode(row))
    before = node.dropped().get("FLOW_TABLE_FULL from pod", 0)
    first = syn(node, family, 41000)
    answered = send(node, first, replace(first.reply(), flags=SYN | ACK), replace(first, flags=ACK))
    assert answered == [REDIRECT, REDIRECT, SHOT]
    assert node.dropped()["FLOW_TABLE_FULL from pod"] - before == 1
    assert send(node, kept, kept.reply()) == [REDIRECT, REDIRECT]


@FAMILIES
def test_many_first_packets_from_outside_push_out_only_their_like(node: Host, family: int) -> None:
    kept = established(node, family)
    target = node.pods[1].ip[family]
    for port in range(600):
        packet = Packet(TCP, WORLD[family], 1024 + port, target, 80, flags=SYN)
        node.run("pod_network_from_uplink", None, packet)
    assert len(node.flows("new_flows")) <= NEW
    assert send(node, kept, kept.reply()) == [REDIRECT, REDIRECT]
    # Nobody answered, so the pod may still begin what it likes.
    assert node.owned(target) == 0
    back = kept.between(target, 50000, kept.source, 80)
    assert (
        send(node, *(replace(back, source_port=50000 + each, flags=SYN) for each in range(QUOTA)))
        == [REDIRECT] * QUOTA
    )


@FAMILIES
def test_a_later_start_of_the_clock_renews_the_flow(node: Host, family: int) -> None:
    data = established(node, family)
    key, row = next(iter(node.flows().items()))
    stale = row._replace(last_seen_ns=1, way=KeptWayRow(), way_reversed=KeptWayRow())
    node.write("flows", node.codecs.tuple.encode(key), node.codecs.flow.encode(stale))
    send(node, data)
    assert only(list(node.flows().values())).last_seen_ns > 1
