"""What CHECK finds of an interface, its programs and its rows, and that an ADD of the same mends it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshd.kernel import netlink
from meshd.kernel.netlink import in_netns
from meshd.kernel.netns import Netns
from tests.netns.cni.node import CniNode
from tests.netns.cni.pinned import pinned


def damage_address(pod: Netns, _node: CniNode) -> None:
    in_netns(pod, "eth0", lambda route: route.flush_addr(index=route.link_lookup(ifname="eth0")[0], family=2))


def damage_interface(pod: Netns, _node: CniNode) -> None:
    netlink.delete_link(pod, "eth0")


def damage_link_address(pod: Netns, _node: CniNode) -> None:
    in_netns(pod, "eth0", lambda route: route.link("set", ifname="eth0", address="02:00:00:00:00:01"))


def damage_default_route(pod: Netns, _node: CniNode) -> None:
    in_netns(pod, "eth0", lambda route: route.route("del", dst="default", family=10))


def damage_neighbour(pod: Netns, _node: CniNode) -> None:
    in_netns(
        pod,
        "eth0",
        lambda route: route.neigh("del", dst="169.254.1.1", ifindex=route.link_lookup(ifname="eth0")[0]),
    )


def damage_link(pod: Netns, _node: CniNode) -> None:
    in_netns(pod, "eth0", lambda route: route.link("set", ifname="eth0", state="down"))


def damage_host_route(_pod: Netns, node: CniNode) -> None:
    in_netns(node.netns, "route", lambda route: route.route("del", dst="10.77.1.1/32", scope=253))


def damage_host_link(_pod: Netns, node: CniNode) -> None:
    in_netns(node.netns, "link", lambda route: route.link("set", ifname=node.links()[0], state="down"))


def damage_programs(_pod: Netns, node: CniNode) -> None:
    in_netns(
        node.netns,
        "qdisc",
        lambda route: route.tc("del", kind="clsact", index=route.link_lookup(ifname=node.links()[0])[0]),
    )


def damage_row_of_address(_pod: Netns, node: CniNode) -> None:
    with pinned(node, "pods") as rows:
        assert rows.delete_batch(list(rows.keys())) == 2


def damage_content_of_row(_pod: Netns, node: CniNode) -> None:
    with pinned(node, "pods") as rows:
        for key in list(rows.keys()):
            rows.update(key, bytes(rows.value_size))


DAMAGES = [
    damage_programs,
    damage_row_of_address,
    damage_content_of_row,
    damage_address,
    damage_interface,
    damage_link_address,
    damage_default_route,
    damage_neighbour,
    damage_link,
    damage_host_route,
    damage_host_link,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda function: function.__name__)
def test_check_finds_what_is_not_as_add_made_it_and_add_mends_it(
    node: CniNode, damage: Callable[[Netns, CniNode], None]
) -> None:
    netns, made = node.add("one")
    assert node.ask("CHECK", "one", netns, prevResult=made.said).status == 0
    with Netns.open(netns) as pod:
        damage(pod, node)
    checked = node.ask("CHECK", "one", netns, prevResult=made.said)
    assert (checked.status, checked.said["code"]) == (1, 101)
    phrases = checked.said["details"].split("; ")
    assert len(phrases) == len(set(phrases)) > 0
    assert node.ask("ADD", "one", netns) == made
    assert node.ask("CHECK", "one", netns, prevResult=made.said).status == 0


def test_check_finds_a_result_that_is_not_ours(node: CniNode) -> None:
    netns, made = node.add("one")
    other = made.said | {"ips": made.said["ips"][:1]}
    assert node.ask("CHECK", "one", netns, prevResult=other).said["code"] == 101
    assert node.ask("CHECK", "one", node.pod("else"), prevResult=made.said).said["code"] == 101
