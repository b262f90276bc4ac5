"""Ways that are kept with a flow: for how long they hold, and for which packets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from meshd.dataplane.pod_network.flow_rows import FlowRow, KeptWayRow
from meshd.kernel import program
from meshd.kernel.netlink import add_route
from tests.bpf.packets import ACK, FIN, SYN, TCP, Packet
from tests.bpf.translation import address
from tests.netns.pod_network.host import NODE, WORLD, Host, Pod, host

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
FROM_POD, FROM_UPLINK = "pod_network_from_pod", "pod_network_from_uplink"
STACK, UPLINK_STACK, SHOT, REDIRECT = 0xFFFFFFFF, 0, 2, 7
AN_HOUR_NS = 3600 * 10**9
# Devices of one node may still be going while the next is made.
_NUMBERS = itertools.count()


@pytest.fixture(params=[AN_HOUR_NS], ids=["held"])
def node(run_name: str, request: pytest.FixtureRequest) -> Iterator[Host]:
    """A node that keeps a way for an hour, so that no test depends on how long it takes itself."""
    with host(f"{run_name}w{next(_NUMBERS)}", way_age_ns=request.param) as made:
        made.add_pod(7)
        made.add_pod(8)
        made.known_outside(*made.pods)
        yield made


HOLDING_NOTHING = pytest.mark.parametrize("node", [0], ids=["not-held"], indirect=True)


def run(node: Host, packet: Packet) -> program.TestRun:
    """A packet of a pod, or else one that came in at the uplink."""
    pod = next((each for each in node.pods if packet.source in each.ip.values()), None)
    return node.run(FROM_POD if pod else FROM_UPLINK, pod, packet)


def established(node: Host, family: int, to: str) -> Packet:
    """A data packet of a connection of the first pod, both of whose sides have sent one."""
    data = Packet(TCP, node.pods[0].ip[family], 40000, to, 80, flags=ACK)
    packets = (replace(data, flags=SYN), replace(data.reply(), flags=SYN | ACK), data, data, data.reply())
    assert [run(node, each).retval for each in packets] == [REDIRECT] * len(packets)
    return data


def other_rows(node: Host) -> None:
    """Says that rows have changed, as the agent does."""
    number = int.from_bytes(node.loaded.maps["way_generation"].lookup(bytes(4)) or b"", "little")
    node.write("way_generation", bytes(4), (number + 1).to_bytes(4, "little"))


def forget_pod(node: Host, pod: Pod) -> None:
    for each in pod.ip.values():
        node.loaded.maps["pods"].delete_batch([address(each).bytes])


@FAMILIES
def test_a_kept_way_holds_until_rows_are_said_to_have_changed(node: Host, family: int) -> None:
    data = established(node, family, node.pods[1].ip[family])
    forget_pod(node, node.pods[1])
    assert run(node, data).retval == REDIRECT
    other_rows(node)
    assert run(node, data).retval == SHOT
    assert node.dropped() == {"NO_SUCH_POD from pod": 1}


@FAMILIES
@HOLDING_NOTHING
def test_a_way_that_is_too_old_is_found_anew_though_no_row_changed(node: Host, family: int) -> None:
    data = established(node, family, node.pods[1].ip[family])
    forget_pod(node, node.pods[1])
    assert run(node, data).retval == SHOT


@FAMILIES
def test_both_directions_have_a_way_of_their_own(node: Host, family: int) -> None:
    data = established(node, family, node.pods[1].ip[family])
    [flow] = node.flows().values()
    there, back = (flow.way_reversed, flow.way) if is_reversed(node, flow) else (flow.way, flow.way_reversed)
    client, server = (pod.link.ifindex for pod in node.pods)
    assert (there.from_ifindex, there.way.ifindex) == (client, server)
    assert (back.from_ifindex, back.way.ifindex) == (server, client)
    macs = [run(node, each).data[:12] for each in (data, data.reply())]
    assert macs == [
        bytes.fromhex((pod.link.mac + pod.link.host_mac).replace(":", "")) for pod in node.pods[::-1]
    ]


def is_reversed(node: Host, flow: FlowRow) -> bool:
    return bool(flow.flags & node.codecs.flow_flags["FLOW_REVERSED"])


@FAMILIES
def test_a_kept_way_is_for_the_device_it_was_found_for(node: Host, family: int) -> None:
    data = established(node, family, node.pods[1].ip[family])
    assert node.run(FROM_POD, node.pods[1], data).retval == SHOT
    assert node.dropped() == {"SOURCE_NOT_THE_PODS from pod": 1}


@FAMILIES
def test_who_gets_the_address_of_a_pod_that_is_gone_gets_none_of_its_packets(node: Host, family: int) -> None:
    data = established(node, family, node.pods[1].ip[family])
    before = run(node, data).data[:12]
    heir = replace(node.add_pod(9), ip=node.pods[1].ip)
    node.write_pod(replace(heir, link=replace(heir.link, addresses=node.pods[1].link.addresses)))
    # Not even before the agent has said that rows changed.
    assert run(node, data).data[:12] == before
    assert node.run(FROM_POD, heir, data.reply()).retval == REDIRECT
    assert node.run(FROM_POD, node.pods[1], data.reply()).retval == REDIRECT
    other_rows(node)
    assert node.run(FROM_POD, node.pods[1], data.reply()).retval == SHOT


@FAMILIES
def test_a_changed_route_counts_from_the_next_generation(node: Host, family: int) -> None:
    data = established(node, family, WORLD[family])
    node.loaded.maps["uplinks"].delete_batch([node.uplink.to_bytes(4, "little")])
    add_route(node.netns, ip_network(WORLD[family]), via=ip_address(node.pods[1].ip[family]))
    assert run(node, data).retval == REDIRECT
    other_rows(node)
    assert run(node, data).retval == STACK
    assert node.event("TO_STACK") == 1


@FAMILIES
def test_what_comes_from_outside_is_looked_at_again_when_rows_have_changed(node: Host, family: int) -> None:
    data = established(node, family, WORLD[family])
    node.write_destination(WORLD[family], "TUNNEL", tunnel=NODE[4])
    assert run(node, data.reply()).retval == REDIRECT
    other_rows(node)
    assert run(node, data.reply()).retval == SHOT
    assert node.dropped() == {"SOURCE_NOT_NATIVE to pod": 1}


@FAMILIES
@pytest.mark.parametrize(
    ("change", "verdict"),
    [({"ttl": 1}, STACK), ({"payload": bytes(3000)}, STACK), ({"flags": ACK | FIN}, REDIRECT)],
    ids=["at-its-last-hop", "too-big", "the-last-one"],
)
def test_a_kept_way_is_for_packets_that_it_is_right_for(
    node: Host, family: int, change: dict[str, int], verdict: int
) -> None:
    data = established(node, family, WORLD[family])
    assert run(node, replace(data, **change)).retval == verdict  # type: ignore[arg-type] # of the table
    [flow] = node.flows().values()
    assert bool(flow.flags & node.codecs.flow_flags["FLOW_FIN_INITIATOR"]) is ("flags" in change)


@FAMILIES
def test_a_connection_that_is_begun_anew_finds_a_way_of_its_own(node: Host, family: int) -> None:
    data = established(node, family, node.pods[1].ip[family])
    for each in (data, data.reply()):
        run(node, replace(each, flags=ACK | FIN))
    forget_pod(node, node.pods[1])
    assert run(node, replace(data, flags=SYN)).retval == SHOT
    [flow] = node.flows("new_flows").values()
    assert (flow.way, flow.way_reversed) == (KeptWayRow(), KeptWayRow())
