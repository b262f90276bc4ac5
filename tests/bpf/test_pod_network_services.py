"""Services for packets whose sockets nobody hooked: from pods, from outside through the node, and from the host."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.bpf.packets import ACK, SYN, TCP, UDP, Packet, echo
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
    destination_of,
    node,
    service_rows,
    source_of,
)

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
VIP = {4: "10.96.0.10", 6: "fd96::10"}
REMOTE = {4: "10.244.2.9", 6: "fd00:20::9"}
BEHIND = {4: "10.244.3.9", 6: "fd00:30::9"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, run_name: str) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("nat"), run_name) as made:
        for family in (4, 6):
            made.pod(OTHER_POD[family], cookie=78)
            made.destination(REMOTE[family], "DESTINATION_NATIVE")
            made.destination(BEHIND[family], "DESTINATION_TUNNEL")
        yield made


@pytest.fixture
def alone(shared: Node) -> Iterator[Node]:
    """The node, without flows, services and affinities."""
    for table in ("flows", "new_flows", "pod_flows", "frontends", "slots", "members", "affinities"):
        shared.loaded.maps[table].delete_batch(list(shared.loaded.maps[table].keys()))
    yield shared


def request(family: int, protocol: int = TCP, port: int = 40000) -> Packet:
    """A pod asks the service."""
    return Packet(protocol, POD[family], port, VIP[family], 80, flags=SYN)


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
@pytest.mark.parametrize("where", [OTHER_POD, REMOTE, BEHIND], ids=["local", "native", "tunnel"])
@FAMILIES
def test_a_pod_reaches_a_backend_and_hears_from_the_frontend(
    alone: Node, family: int, where: dict[int, str], protocol: int
) -> None:
    alone.serve(protocol, (VIP[family], 80), (where[family], 8080))
    packet = request(family, protocol)
    sent = packet.between(POD[family], 40000, where[family], 8080)
    out = alone.send("nat_from_pod", packet)
    assert (out.outcome, out.frame) == (TRANSLATED, sent.frame())
    back = alone.send("nat_from_pod" if where is OTHER_POD else "nat_to_frontend", sent.reply())
    assert (back.outcome, back.frame) == (TRANSLATED, packet.reply().frame())


@FAMILIES
def test_a_backend_outside_gets_the_nodes_address_as_well(alone: Node, family: int) -> None:
    alone.serve(TCP, (VIP[family], 80), (WORLD[family], 8080))
    packet = request(family)
    out = alone.send("nat_from_pod", packet)
    at, port = source_of(out.frame)
    assert (at, destination_of(out.frame)) == (UPLINK[family], (WORLD[family], 8080))
    sent = packet.between(at, port, WORLD[family], 8080)
    assert alone.send("nat_to_frontend", sent.reply()).frame == packet.reply().frame()


@FAMILIES
def test_a_pod_that_serves_itself_talks_to_the_frontend(alone: Node, family: int) -> None:
    alone.serve(TCP, (VIP[family], 80), (POD[family], 8080))
    packet = request(family)
    sent = packet.between(VIP[family], 40000, POD[family], 8080)
    assert alone.send("nat_from_pod", packet).frame == sent.frame()
    assert alone.send("nat_from_pod", sent.reply()).frame == packet.reply().frame()


@FAMILIES
def test_a_pod_that_serves_itself_from_the_port_it_asks_from_gets_another(alone: Node, family: int) -> None:
    """Both sides of the flow would be the same pair of ends."""
    alone.serve(TCP, (VIP[family], 80), (POD[family], 80))
    packet = request(family, port=80)
    out = alone.send("nat_from_pod", packet)
    at, port = source_of(out.frame)
    assert (at, port in PORTS) == (VIP[family], True)
    sent = packet.between(VIP[family], port, POD[family], 80)
    assert alone.send("nat_from_pod", sent.reply()).frame == packet.reply().frame()


@FAMILIES
def test_a_flow_to_the_backend_itself_and_one_through_the_frontend_do_not_meet(
    alone: Node, family: int
) -> None:
    alone.serve(TCP, (VIP[family], 80), (OTHER_POD[family], 8080))
    direct = Packet(TCP, POD[family], 40000, OTHER_POD[family], 8080, flags=SYN)
    assert alone.send("nat_from_pod", direct).outcome == PASSED
    packet = request(family)
    out = alone.send("nat_from_pod", packet)
    at, port = source_of(out.frame)
    assert (at, port in PORTS, destination_of(out.frame)) == (POD[family], True, (OTHER_POD[family], 8080))
    sent = packet.between(at, port, OTHER_POD[family], 8080)
    assert alone.send("nat_from_pod", sent.reply()).frame == packet.reply().frame()
    assert alone.send("nat_from_pod", direct.reply()).outcome == PASSED


@FAMILIES
def test_a_service_without_backends_is_a_reason_to_drop(alone: Node, family: int) -> None:
    alone.serve(TCP, (VIP[family], 80))
    seen = alone.send("nat_from_pod", request(family))
    assert seen.outcome == alone.dropped("DROP_NO_BACKEND")
    assert alone.flows("new_flows") == {}


@FAMILIES
def test_another_port_of_the_frontends_address_is_none_of_ours(alone: Node, family: int) -> None:
    alone.destination(VIP[family], "DESTINATION_EXCLUDED")
    alone.serve(TCP, (VIP[family], 80), (OTHER_POD[family], 8080))
    for packet in (
        Packet(TCP, POD[family], 40000, VIP[family], 81, flags=SYN),
        Packet(UDP, POD[family], 40000, VIP[family], 80),
        echo(POD[family], VIP[family], 99),
    ):
        assert alone.send("nat_from_pod", packet).outcome == PASSED


def drill(node: Node, protocol: int, normal: tuple[str, int], other: tuple[str, int], until_ns: int) -> None:
    """The service has ``normal``, and until then ``other``."""
    codecs, at = node.codecs.services, (VIP[4], 80)
    *drill_rows, (_, _, stand_in) = service_rows(codecs, protocol, at, [other])
    *rows, (_, frontend, value) = service_rows(codecs, protocol, at, [normal])
    drilled = codecs.service.decode(stand_in)
    row = codecs.service.decode(value)._replace(
        drill_list=drilled.list, drill_slots=drilled.slots, drill_until_ns=until_ns
    )
    for name, key, packed in (*drill_rows, *rows, ("frontends", frontend, codecs.service.encode(row))):
        node.loaded.maps[name].update(key, packed)


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_a_drill_is_served_while_its_time_lasts(alone: Node, protocol: int) -> None:
    normal, other = (OTHER_POD[4], 8080), (REMOTE[4], 8080)
    drill(alone, protocol, normal, other, time.monotonic_ns() + 60 * 10**9)
    assert destination_of(alone.send("nat_from_pod", request(4, protocol)).frame) == other
    drill(alone, protocol, normal, other, time.monotonic_ns() - 1)
    assert destination_of(alone.send("nat_from_pod", request(4, protocol, 40001)).frame) == normal
    # The flow that the drill began: a connection stays, datagrams choose anew.
    kept = destination_of(alone.send("nat_from_pod", request(4, protocol)).frame)
    assert kept == (other if protocol == TCP else normal)


def test_a_connection_stays_with_its_backend_when_the_service_gets_another(alone: Node) -> None:
    alone.serve(TCP, (VIP[4], 80), (OTHER_POD[4], 8080))
    alone.send("nat_from_pod", request(4))
    alone.serve(TCP, (VIP[4], 80), (REMOTE[4], 9090))
    assert destination_of(alone.send("nat_from_pod", request(4)).frame) == (OTHER_POD[4], 8080)


@FAMILIES
def test_datagrams_choose_anew_when_their_backend_serves_no_more(alone: Node, family: int) -> None:
    alone.serve(UDP, (VIP[family], 80), (OTHER_POD[family], 8080))
    packet = request(family, UDP)
    sent = packet.between(POD[family], 40000, OTHER_POD[family], 8080)
    alone.send("nat_from_pod", packet)
    alone.send("nat_from_pod", sent.reply())
    alone.serve(UDP, (VIP[family], 80), (REMOTE[family], 9090))
    assert destination_of(alone.send("nat_from_pod", packet).frame) == (REMOTE[family], 9090)
    assert alone.send("nat_from_pod", sent.reply()).outcome == PASSED
    assert alone.owned(POD[family]) == 1


@FAMILIES
def test_a_client_keeps_its_backend_while_affinity_lasts(alone: Node, family: int) -> None:
    backends = [(OTHER_POD[family], port) for port in range(8000, 8016)]
    alone.serve(TCP, (VIP[family], 80), *backends, sticky_s=60)
    pods = {
        destination_of(alone.send("nat_from_pod", request(family, port=port)).frame)
        for port in range(5000, 5020)
    }
    outside = {
        destination_of(
            alone.send("nat_to_frontend", replace(request(family, port=port), source=WORLD[family])).frame
        )
        for port in range(5000, 5020)
    }
    assert (len(pods), len(outside)) == (1, 1)


def test_without_affinity_every_backend_gets_some(alone: Node) -> None:
    backends = [(OTHER_POD[4], port) for port in range(8000, 8004)]
    alone.serve(TCP, (VIP[4], 80), *backends)
    chosen = {
        destination_of(alone.send("nat_from_pod", request(4, port=port)).frame) for port in range(5000, 5100)
    }
    assert chosen == set(backends)


@FAMILIES
def test_from_outside_a_backend_on_this_node_sees_the_client(alone: Node, family: int) -> None:
    alone.serve(TCP, (VIP[family], 80), (POD[family], 8080))
    packet = Packet(TCP, WORLD[family], 40000, VIP[family], 80, flags=SYN)
    sent = packet.between(WORLD[family], 40000, POD[family], 8080)
    assert alone.send("nat_to_frontend", packet).frame == sent.frame()
    answer = alone.send("nat_from_pod", replace(sent.reply(), flags=SYN | ACK))
    assert answer.frame == replace(packet.reply(), flags=SYN | ACK).frame()
    assert alone.owned(POD[family]) == 0
    assert alone.send("nat_to_frontend", replace(packet, flags=ACK)).frame == replace(sent, flags=ACK).frame()
    assert alone.owned(POD[family]) == 1


@pytest.mark.parametrize(
    ("where", "through"),
    [(REMOTE, UPLINK), (WORLD, UPLINK), (BEHIND, NODE)],
    ids=["native", "world", "tunnel"],
)
@FAMILIES
def test_from_outside_a_backend_elsewhere_answers_to_this_node(
    alone: Node, family: int, where: dict[int, str], through: dict[int, str]
) -> None:
    alone.serve(TCP, (VIP[family], 80), (where[family], 8080))
    packet = Packet(TCP, ROUTER[family], 40000, VIP[family], 80, flags=SYN)
    out = alone.send("nat_to_frontend", packet)
    at, port = source_of(out.frame)
    assert (at, port in PORTS) == (through[family], True)
    sent = packet.between(at, port, where[family], 8080)
    assert out.frame == sent.frame()
    assert alone.send("nat_to_frontend", sent.reply()).frame == packet.reply().frame()


@FAMILIES
def test_what_goes_to_no_frontend_passes_and_leaves_no_entry(alone: Node, family: int) -> None:
    packet = Packet(TCP, WORLD[family], 40000, UPLINK[family], 22, flags=SYN)
    seen = alone.send("nat_to_frontend", packet)
    assert (seen.outcome, seen.frame) == (PASSED, packet.frame())
    assert alone.flows("new_flows") == {}
