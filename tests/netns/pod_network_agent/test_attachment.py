"""Programs and rows of pods and uplinks: there when needed, replaced in place, put back, and gone in the end."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_interface, ip_network

import pytest

from meshd.dataplane.pod_network.filters import detach
from meshd.dataplane.pod_network.places import POD, UPLINK
from meshd.kernel import netlink
from meshd.kernel.links import Link
from meshd.kernel.netlink import VethEnd
from meshd.kernel.netns import Netns
from meshd.kernel.route_socket import RouteSocket
from meshd.model import parse_address
from tests.netns.cni.node import CniNode, reaches
from tests.netns.pod_network_agent.in_kernel import filters_on, index_of, links_of, pins, pods, uplinks

BOTH = set(POD.programs)
VIA_STACK, OBSERVED = 1, 2


def test_a_pod_has_programs_and_rows_when_its_add_is_answered(node: CniNode) -> None:
    netns, answer = node.add("one")
    [link] = node.links()
    assert filters_on(node, link).keys() == BOTH
    found = pods(node)
    assert found.keys() == set(answer.addresses)
    with Netns.open(netns) as opened:
        assert {(row.ifindex, row.netns_cookie, row.flags) for row in found.values()} == {
            (index_of(node, link), opened.cookie(), 0)
        }


def test_rows_are_gone_when_a_del_is_answered(node: CniNode) -> None:
    netns, _ = node.add("one")
    node.add("two")
    node.ask("DEL", "one", netns)
    node.agent.wait(lambda: pods(node).keys() == {"10.77.1.2", "fd77:0:0:1::2"})


def test_a_killed_agent_leaves_programs_and_the_next_one_replaces_them_in_place(node: CniNode) -> None:
    node.add("one")
    node.add("two")
    before = [filters_on(node, link) for link in node.links()]
    node.agent.kill()
    assert [filters_on(node, link) for link in node.links()] == before
    rows = pods(node)
    node.start()
    node.agent.wait(
        lambda: all(
            set(filters_on(node, link).values()).isdisjoint(old.values())
            for link, old in zip(node.links(), before, strict=True)
        )
    )
    assert [filters_on(node, link).keys() for link in node.links()] == [BOTH, BOTH]
    assert pods(node) == rows


def test_what_somebody_takes_off_is_put_back(node: CniNode) -> None:
    node.add("one")
    [link] = node.links()
    before = filters_on(node, link)

    def take_off() -> None:
        with RouteSocket() as route:
            route.exchange(detach(index_of(node, link), POD))

    node.netns.run(take_off)
    node.agent.wait(lambda: filters_on(node, link) == before)
    node.agent.wait(lambda: figure(node, "programs_repaired") == 1)


def figure(node: CniNode, name: str) -> float:
    """What the agent counts under that name."""
    status = node.agent.status()
    return sum(each.value for each in status.figures if each.name == name) if status is not None else 0.0


def test_a_start_that_fails_takes_nothing_off(node: CniNode) -> None:
    node.add("one")
    [link] = node.links()
    before = filters_on(node, link)
    node.agent.kill()
    broken = node.agent.directory / "broken.bpf.o"
    broken.write_bytes(b"no object")
    with pytest.raises(AssertionError, match="cannot be opened"):
        node.agent.start(bpfObject=str(broken))
    del node.agent.options["bpfObject"]
    assert filters_on(node, link) == before
    assert pods(node)


def test_a_device_that_becomes_an_uplink_has_programs_and_a_row_and_keeps_the_programs_until_it_goes(
    node: CniNode, unique_name: str
) -> None:
    name = f"{unique_name}u"
    with Netns.create("world") as world:
        addresses = (ip_interface("192.168.99.1/24"), ip_interface("fd99::1/64"))
        netlink.create_veth(VethEnd(node.netns, name, addresses), VethEnd(world, "uplink"))
        index = index_of(node, name)
        assert uplinks(node) == {}
        netlink.add_route(node.netns, ip_network("0.0.0.0/0"), IPv4Address("192.168.99.2"))
        node.agent.wait(lambda: uplinks(node).keys() == {index})
        node.agent.wait(lambda: links_of(node).keys() == {(index, program) for program in UPLINK.programs})
        row = uplinks(node)[index]
        assert (row.v4.bytes, row.v6.bytes) == (parse_address("192.168.99.1"), parse_address("fd99::1"))
        before = links_of(node)
        netlink.delete_route(node.netns, ip_network("0.0.0.0/0"))
        node.agent.wait(lambda: uplinks(node) == {})
        assert links_of(node) == before, "flows that it has need the programs still"
        netlink.delete_link(node.netns, name)
        node.agent.wait(lambda: not links_of(node))


def test_a_link_of_an_uplink_that_somebody_detached_is_attached_again(
    node: CniNode, unique_name: str
) -> None:
    name = f"{unique_name}u"
    with Netns.create("world") as world:
        netlink.create_veth(
            VethEnd(node.netns, name, (ip_interface("192.168.99.1/24"),)), VethEnd(world, "uplink")
        )
        netlink.add_route(node.netns, ip_network("0.0.0.0/0"), IPv4Address("192.168.99.2"))
        node.agent.wait(lambda: len(links_of(node)) == 2)
        before = links_of(node)
        place = index_of(node, name), UPLINK.ingress
        link = Link.open_pinned(pins(node) / "links" / f"{UPLINK.ingress}_{place[0]}")
        assert link is not None
        link.detach()
        link.close()
        assert links_of(node)[place] == 0
        node.agent.wait(lambda: links_of(node) == before)
        netlink.delete_link(node.netns, name)


def test_an_uplink_that_the_configuration_names_needs_no_route(node: CniNode, unique_name: str) -> None:
    name = f"{unique_name}u"
    node.agent.kill()
    with Netns.create("world") as world:
        netlink.create_veth(VethEnd(node.netns, name), VethEnd(world, "uplink"))
        node.agent.options["podNetwork"] = {"uplinks": [name]}
        node.start()
        node.agent.wait(lambda: uplinks(node).keys() == {index_of(node, name)})


def test_a_pod_with_a_bandwidth_limit_has_links_beside_which_other_queueing_has_its_place(
    node: CniNode,
) -> None:
    limit = {"bandwidth": {"ingressRate": 10**9, "ingressBurst": 10**6}}
    netns, _ = node.add("one", runtimeConfig=limit)
    [link] = node.links()
    assert filters_on(node, link) == {}
    assert links_of(node).keys() == {(index_of(node, link), program) for program in POD.programs}
    assert {row.flags for row in pods(node).values()} == {VIA_STACK}
    assert node.ask("DEL", "one", netns).status == 0
    node.agent.wait(lambda: links_of(node) == {})


def test_a_pod_of_another_plugin_is_observed_at_the_nodes_end_of_its_link(
    node: CniNode, unique_name: str
) -> None:
    name = f"{unique_name}o"
    path = node.pod("one")
    with Netns.open(path) as pod:
        ends = VethEnd(node.netns, name), VethEnd(pod, "eth0", (ip_interface("10.88.0.5/24"),))
        netlink.create_veth(*ends)
        index = index_of(node, name)
        result = {"cniVersion": "1.1.0", "ips": [{"address": "10.88.0.5/24"}]}
        assert node.ask("ADD", "one", path, prevResult=result).status == 0
        assert {address: (row.ifindex, row.flags) for address, row in pods(node).items()} == {
            "10.88.0.5": (index, OBSERVED)
        }
        assert links_of(node).keys() == {(index, program) for program in POD.programs}
        netlink.delete_link(node.netns, name)


def test_programs_of_an_earlier_run_are_named_where_the_pod_network_is_switched_off(node: CniNode) -> None:
    node.add("one")
    node.agent.kill()
    node.agent.options["podNetwork"] = {"enabled": False}
    node.start()
    status = node.agent.status()
    assert status is not None
    assert any("`meshd cleanup` removes them" in each for each in status.warnings)


def test_without_a_pod_network_pods_are_connected_and_have_no_programs(node: CniNode) -> None:
    node.agent.kill()
    node.agent.options["podNetwork"] = {"enabled": False}
    node.start()
    first, _ = node.add("one")
    _, two = node.add("two")
    assert [filters_on(node, link) for link in node.links()] == [{}, {}]
    assert all(reaches(first, address) for address in two.addresses)
