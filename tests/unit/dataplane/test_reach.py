"""How the pods of another node are reached: the table of the decision, which must be the same seen from both ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshd.dataplane.reach import Here, Reached, Via, reach
from meshd.model import Address, Node, NodeState, parse_address

V4, V6 = parse_address("192.168.0.1"), parse_address("fd00::1")
OTHER_V4, OTHER_V6 = parse_address("192.168.0.2"), parse_address("fd00::2")
NO_MESHD = "it is no meshd node, so it can be reached by native routing only, and that would take a tunnel"


def near(_: Address) -> bool:
    return True


def far(_: Address) -> bool:
    return False


def node(routing: str, *addresses: Address) -> Node:
    return Node("cm-2", "n2", "cluster:cm-2", addresses or (OTHER_V4,), ("10.2.2.0/24",), routing=routing)


@pytest.mark.parametrize(
    ("here", "there", "on_link", "via"),
    [
        ("native", "native", True, Via.NATIVE),
        ("native", "native", False, Via.NATIVE),
        ("native", "auto", True, Via.NATIVE),
        ("native", "auto", False, Via.TUNNEL),
        ("auto", "auto", True, Via.NATIVE),
        ("auto", "auto", False, Via.TUNNEL),
        ("vxlan", "native", True, Via.TUNNEL),
        ("vxlan", "auto", True, Via.TUNNEL),
        ("vxlan", "vxlan", True, Via.TUNNEL),
        ("vxlan", "vxlan", False, Via.TUNNEL),
    ],
)
def test_two_nodes_of_ours_decide_alike(here: str, there: str, on_link: bool, via: Via) -> None:
    is_near = near if on_link else far
    assert reach(Here(here, V4), node(there), is_near).via is via
    assert reach(Here(there, V4), node(here), is_near).via is via


@pytest.mark.parametrize(
    ("here", "on_link", "expected"),
    [
        ("native", True, Reached(Via.NATIVE, gateways=(OTHER_V4,))),
        ("native", False, Reached(Via.NATIVE)),
        ("auto", True, Reached(Via.NATIVE, gateways=(OTHER_V4,))),
        ("auto", False, Reached(Via.NOT, reason=NO_MESHD)),
        ("vxlan", True, Reached(Via.NOT, reason=NO_MESHD)),
    ],
)
def test_a_node_that_is_none_of_ours_is_never_reached_through_a_tunnel(
    here: str, on_link: bool, expected: Reached
) -> None:
    assert reach(Here(here, V4), node(""), near if on_link else far) == expected


@pytest.mark.parametrize(
    ("own", "others", "tunnel"),
    [
        ((V4, V6), (OTHER_V6, OTHER_V4), OTHER_V4),
        ((V4, None), (OTHER_V6, OTHER_V4), OTHER_V4),
        ((None, V6), (OTHER_V4, OTHER_V6), OTHER_V6),
        ((V4, V6), (OTHER_V6,), OTHER_V6),
    ],
)
def test_a_tunnel_is_between_addresses_of_one_family(
    own: tuple[Address | None, Address | None], others: tuple[Address, ...], tunnel: Address
) -> None:
    assert reach(Here("vxlan", *own), node("vxlan", *others), far) == Reached(Via.TUNNEL, tunnel=tunnel)


def test_routes_go_through_those_addresses_that_share_a_link_with_us() -> None:
    def is_near(address: Address) -> bool:
        return address == OTHER_V4

    found = reach(Here("native", V4, V6), node("native", OTHER_V4, OTHER_V6), is_near)
    assert found == Reached(Via.NATIVE, gateways=(OTHER_V4,))
    assert (found.gateway(v4=True), found.gateway(v4=False)) == (OTHER_V4, None)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (node("native", OTHER_V6), "it has no address of a family in which this node has one"),
        (node("ipsec"), "it says routing 'ipsec', which is not known here"),
        (replace(node("auto"), state=NodeState.REFUSED, reason="it lies"), "it lies"),
    ],
)
def test_some_nodes_are_not_reached_and_it_is_said_why(wrong: Node, reason: str) -> None:
    assert reach(Here("auto", V4), wrong, near) == Reached(Via.NOT, reason=reason)


def test_a_stale_node_is_reached_as_it_was() -> None:
    stale = replace(node("auto"), state=NodeState.STALE)
    assert reach(Here("auto", V4), stale, near) == Reached(Via.NATIVE, gateways=(OTHER_V4,))
