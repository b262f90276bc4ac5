"""The host's routes, the tunnel device, and the question of who is near, in throwaway namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from meshd.dataplane.devices import TUNNEL_DEVICE, Found, Uplink
from meshd.dataplane.pod_network import routes, tunnel
from meshd.dataplane.reach import Here, Reached, Via
from meshd.dataplane.ways import Ways
from meshd.errors import KernelError
from meshd.kernel import netlink
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink_routes import OwnedRoute
from meshd.model import Node, parse_address
from tests.netns.conftest import NetnsPair

NETWORK, NETWORK6 = ip_network("10.2.2.0/24"), ip_network("fd02:2::/64")
GATEWAY, GATEWAY6 = ip_address("10.77.0.2"), ip_address("fd77::2")
PEER = parse_address("10.77.0.2")


@pytest.fixture
def route(netns_pair: NetnsPair) -> Iterator[RouteSocket]:
    with netns_pair.client.run(RouteSocket) as made:
        yield made


@pytest.fixture
def device(netns_pair: NetnsPair) -> int:
    return netlink.link_index(netns_pair.client, netns_pair.client_device)


def test_routes_are_added_changed_and_removed_and_nothing_is_done_twice(
    route: RouteSocket, device: int
) -> None:
    wanted = {
        NETWORK: OwnedRoute(NETWORK, GATEWAY),
        NETWORK6: OwnedRoute(NETWORK6, GATEWAY6),
        ip_network("10.1.1.0/24"): OwnedRoute(ip_network("10.1.1.0/24")),
        ip_network("fd01:1::/64"): OwnedRoute(ip_network("fd01:1::/64")),
        ip_network("10.3.0.0/24"): OwnedRoute(
            ip_network("10.3.0.0/24"), None, device, ip_address("10.77.0.1"), 1450
        ),
    }
    assert routes.apply(route, wanted) == routes.Outcome(5)
    assert routes.apply(route, wanted) == routes.Outcome(0)
    assert set(routes.present(route)) == set(wanted)
    wanted[NETWORK] = OwnedRoute(NETWORK, None, device)
    del wanted[NETWORK6]
    assert routes.apply(route, wanted) == routes.Outcome(2)
    assert routes.present(route)[NETWORK].oif == device
    assert routes.remove_all(route) == 4
    assert routes.present(route) == {}


def test_what_an_earlier_run_left_stays_until_everybody_has_spoken(route: RouteSocket) -> None:
    first, second = OwnedRoute(NETWORK, GATEWAY), OwnedRoute(NETWORK6, GATEWAY6)
    routes.apply(route, {NETWORK: first, NETWORK6: second})
    routes.apply(route, {}, complete=False, had={NETWORK})
    assert set(routes.present(route)) == {NETWORK6}
    routes.apply(route, {})
    assert routes.present(route) == {}


def test_a_route_of_somebody_else_is_neither_replaced_nor_removed(
    route: RouteSocket, netns_pair: NetnsPair
) -> None:
    netlink.add_route(netns_pair.client, NETWORK, ip_address("10.77.0.3"))
    outcome = routes.apply(route, {NETWORK: OwnedRoute(NETWORK, GATEWAY)})
    assert outcome.refused == {"10.2.2.0/24": "somebody else has a route there, which stands"}
    assert routes.remove_all(route) == 0
    netlink.delete_route(netns_pair.client, NETWORK)
    assert routes.apply(route, {NETWORK: OwnedRoute(NETWORK, GATEWAY)}).changed == 1


def test_a_route_of_somebody_else_that_leads_the_same_way_is_as_good(
    route: RouteSocket, netns_pair: NetnsPair
) -> None:
    netlink.add_route(netns_pair.client, NETWORK, GATEWAY)
    assert routes.apply(route, {NETWORK: OwnedRoute(NETWORK, GATEWAY)}) == routes.Outcome()


def test_a_route_that_cannot_be_is_named_and_keeps_no_other_away(route: RouteSocket) -> None:
    nowhere = ip_network("10.9.0.0/24")
    wanted = {nowhere: OwnedRoute(nowhere, ip_address("198.51.100.1")), NETWORK: OwnedRoute(NETWORK, GATEWAY)}
    outcome = routes.apply(route, wanted)
    assert (outcome.changed, list(outcome.refused)) == (1, ["10.9.0.0/24"])


def test_which_routes_are_wanted_follows_from_how_nodes_are_reached() -> None:
    first, second = parse_address("192.168.0.1"), parse_address("fd00::1")
    found = Found(node_v4=first, node_v6=second)
    native = Node(
        "cm-1", "n2", "etcd", (), ("10.2.2.0/24", "fd02:2::/64"), extra=(parse_address("172.20.0.7"),)
    )
    tunnelled, hidden = replace(native, pod_cidrs=("10.3.0.0/24", "fd03::/64"), extra=()), replace(native)
    reached = [
        (native, Reached(Via.NATIVE, gateways=(PEER,))),
        (tunnelled, Reached(Via.TUNNEL, tunnel=PEER)),
        (hidden, Reached(Via.NOT, reason="x")),
    ]
    wanted = routes.wanted(reached, ["10.1.1.0/24"], found, 7, 1450)
    assert set(wanted.values()) == {
        OwnedRoute(ip_network("10.1.1.0/24")),
        # IPv6 has no gateway that is near: the network between knows the way, or nobody does.
        OwnedRoute(NETWORK, GATEWAY),
        OwnedRoute(ip_network("172.20.0.7/32"), GATEWAY),
        OwnedRoute(ip_network("10.3.0.0/24"), None, 7, ip_address("192.168.0.1"), 1450),
        OwnedRoute(ip_network("fd03::/64"), None, 7, ip_address("fd00::1"), 1450),
    }


def test_the_tunnel_device_is_made_once_and_put_right(route: RouteSocket, netns_pair: NetnsPair) -> None:
    found = Found(uplinks=(Uplink(1, "a", mtu=1500), Uplink(2, "b", mtu=1400)), node_v4=PEER)
    wanted = tunnel.wanted(found, 8472)
    assert (wanted.mtu, tunnel.wanted(replace(found, node_v4=None), 8472).mtu) == (1350, 1330)
    index = tunnel.ensure(route, wanted)
    assert tunnel.look(route) == replace(wanted, index=index)
    assert tunnel.ensure(route, wanted) == index
    smaller = replace(wanted, mtu=1300)
    assert tunnel.ensure(route, smaller) == index
    assert tunnel.look(route) == replace(smaller, index=index)
    # A port cannot be changed: there is a new device.
    other = replace(wanted, port=8473)
    assert tunnel.ensure(route, other) not in {0, index}
    there = tunnel.look(route)
    assert (there.port if there else 0, netlink.link_names(netns_pair.client).count(TUNNEL_DEVICE)) == (
        8473,
        1,
    )
    assert (tunnel.delete(route), tunnel.delete(route)) == (True, False)


def test_a_device_of_that_name_that_is_no_tunnel_is_left_alone(
    route: RouteSocket, netns_pair: NetnsPair
) -> None:
    netlink.create_bridge(netns_pair.client, TUNNEL_DEVICE)
    with pytest.raises(KernelError):
        tunnel.ensure(route, tunnel.wanted(Found(), 8472))
    assert TUNNEL_DEVICE in netlink.link_names(netns_pair.client)
    assert not tunnel.delete(route)


def test_who_is_near_is_asked_once_and_again_when_it_is_looked_at_again(netns_pair: NetnsPair) -> None:
    def node(address: str) -> Node:
        return Node("cm-1", "n2", "etcd", (parse_address(address),), routing="auto")

    def look() -> None:
        ways = Ways()
        assert ways.reached(node("10.77.0.2")) is None
        ways.here = Here("auto", parse_address("10.77.0.1"), parse_address("fd77::1"))

        def via(address: str) -> Via:
            reached = ways.reached(node(address))
            assert reached is not None
            return reached.via

        assert (via("10.77.0.2"), via("fd77::2")) == (Via.NATIVE, Via.NATIVE)
        # This machine's own, one behind a router, and one to which no way leads.
        netlink.add_route(netns_pair.client, ip_network("198.51.100.0/24"), GATEWAY)
        assert (via("10.77.0.1"), via("198.51.100.7"), via("203.0.113.7")) == (Via.TUNNEL,) * 3
        assert ways.look_again() == set()
        netlink.set_up(netns_pair.client, netns_pair.client_device, [ip_interface("203.0.113.1/24")])
        assert ways.look_again() == {parse_address("203.0.113.7")}
        assert via("203.0.113.7") is Via.NATIVE
        ways.close()

    netns_pair.client.run(look)
