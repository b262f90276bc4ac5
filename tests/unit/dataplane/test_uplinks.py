"""Which devices lead out of the node, from what the kernel says of links, addresses and routes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshd.dataplane.devices import Uplink
from meshd.dataplane.pod_network.links import ATTACHED_GROUP
from meshd.dataplane.pod_network.uplinks import Held, Looked, found
from meshd.kernel.rtnetlink_answers import Link
from meshd.model import parse_address

LO, ETH0, ETH1, POD, WIREGUARD, TUNNEL = 1, 2, 3, 4, 5, 6
MAC = "0a:00:00:00:00:01"


def link(index: int, name: str, mac: str = MAC, group: int = 0) -> Link:
    return Link(index, name, is_up=True, is_running=True, mac=mac, mtu=1400, group=group, peer=0)


LINKS = {
    LO: link(LO, "lo", "00:00:00:00:00:00"),
    ETH0: link(ETH0, "eth0"),
    ETH1: link(ETH1, "eth1"),
    POD: link(POD, "mpod1", group=ATTACHED_GROUP),
    WIREGUARD: link(WIREGUARD, "wg0", mac=""),
    TUNNEL: link(TUNNEL, "tunnel"),
}
V4, SECOND_V4, V6, OF_LO, OF_ETH1 = map(
    parse_address, ("192.0.2.1", "192.0.2.2", "2001:db8::1", "198.51.100.1", "203.0.113.1")
)
HELD = (
    Held(LO, OF_LO, True),
    Held(ETH0, V4, True),
    Held(ETH0, SECOND_V4, False),
    Held(ETH0, V6, True),
    Held(ETH1, OF_ETH1, True),
)
BY_ROUTE = Looked(LINKS, HELD, (ETH0,))


def test_the_device_of_the_default_route_is_an_uplink_with_its_first_addresses() -> None:
    assert found(BY_ROUTE, (), ()).uplinks == (Uplink(ETH0, "eth0", V4, V6, 1400),)


def test_all_addresses_but_those_of_pods_links_are_the_nodes() -> None:
    looked = replace(BY_ROUTE, held=(*HELD, Held(POD, parse_address("10.0.0.9"), True)))
    assert found(looked, (), ()).addresses == {V4, SECOND_V4, V6, OF_LO, OF_ETH1}


@pytest.mark.parametrize(
    ("defaults", "named", "node_addresses", "expected"),
    [
        ((), (), (), []),
        ((ETH1, ETH0), (), (), ["eth1", "eth0"]),
        ((), ("eth1",), (), ["eth1"]),
        ((), (), (OF_ETH1,), ["eth1"]),
        ((ETH0,), ("eth0",), (V4,), ["eth0"]),
        # Those are none, whatever says so.
        ((WIREGUARD,), ("lo", "wg0", "mpod1", "tunnel"), (OF_LO,), []),
    ],
)
def test_routes_names_and_node_addresses_make_uplinks(
    defaults: tuple[int, ...], named: tuple[str, ...], node_addresses: tuple[object, ...], expected: list[str]
) -> None:
    looked = replace(BY_ROUTE, defaults=defaults)
    assert [each.name for each in found(looked, named, node_addresses, "tunnel").uplinks] == expected  # type: ignore[arg-type] # rows of a table


def test_devices_that_lead_out_and_have_no_ethernet_headers_are_named() -> None:
    assert found(replace(BY_ROUTE, defaults=(WIREGUARD, ETH0)), ("lo",), ()).not_carried == ("wg0",)


def test_the_node_is_reached_under_the_address_it_is_given_else_under_that_of_its_way_out() -> None:
    given = found(BY_ROUTE, (), (OF_LO,))
    assert (given.node_v4, given.node_v6) == (OF_LO, V6)
    by_itself = found(BY_ROUTE, (), ())
    assert (by_itself.node_v4, by_itself.node_v6) == (V4, V6)


def test_the_tunnel_device_is_found_by_its_name() -> None:
    assert found(BY_ROUTE, (), (), "tunnel").tunnel_ifindex == TUNNEL
    assert found(BY_ROUTE, (), (), "another").tunnel_ifindex == 0
