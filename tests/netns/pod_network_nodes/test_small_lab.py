"""Two nodes of a cluster with a pod each: what every kernel has to carry, in one lab, because agents start slowly in QEMU.

Tests share the nodes and come in the order of the file. The router of the fabric is the world: it knows no way to pods.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from meshd.dataplane.devices import TUNNEL_DEVICE
from meshd.dataplane.pod_network.places import POD, TUNNEL, UPLINK
from meshd.kernel import netlink
from meshd.kernel.netns import Netns
from tests.netns.cni.node import pod_cidrs, reaches
from tests.netns.pod_network.traffic import asked, serving
from tests.netns.pod_network_agent.commands import drops
from tests.netns.pod_network_agent.in_kernel import programs_on
from tests.netns.pod_network_agent.traffic import stream
from tests.netns.pod_network_nodes.fabric import ROUTER, Fabric, FabricNode
from tests.netns.pod_network_nodes.test_services import VIPS, routed, write_services

pytestmark = pytest.mark.needs("etcd")

# More than one segment, and more than what fits into a socket's buffer at once.
SIZE = 200_000
WORLD = [str(ip_interface(each).ip) for each in ROUTER]


@dataclass(frozen=True, slots=True)
class Lab:
    """``here`` is a pod of ``first``, ``there`` one of ``second``; each with its addresses, IPv4 and IPv6."""

    fabric: Fabric
    first: FabricNode
    second: FabricNode
    here: Path
    mine: list[str]
    there: Path
    theirs: list[str]


@pytest.fixture(scope="module")
def lab(run_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Natively routed."""
    fabric = Fabric(tmp_path_factory.mktemp("lab"), f"{run_name}L")
    try:
        first, second = (fabric.node(number, routing="native") for number in (1, 2))
        start(first, second, "native")
        (here, mine), (there, theirs) = first.add("here"), second.add("there")
        yield Lab(fabric, first, second, here, mine.addresses, there, theirs.addresses)
    finally:
        fabric.close()


def start(first: FabricNode, second: FabricNode, routing: str) -> None:
    """Starts both agents, and waits until each has its programs and the routes to the other's pods."""
    for node in (first, second):
        node.agent.options["podNetwork"] = {"routing": routing}
        node.start()
    for node, other in ((first, second), (second, first)):
        node.agent.wait(lambda node=node: routed(node, routing))  # type: ignore[misc] # a bound default
        node.agent.wait(lambda node=node, other=other: node.routes().keys() >= {*pod_cidrs(other)})  # type: ignore[misc] # the same
        node.agent.wait(lambda node=node: is_on_uplink(node))  # type: ignore[misc] # the same


def is_on_uplink(node: FabricNode) -> bool:
    return programs_on(node, f"{node.name}u", UPLINK).keys() == set(UPLINK.programs)


def all_programs(node: FabricNode) -> set[int]:
    """The ids of those on its uplink and on the links of its pods."""
    places = [(f"{node.name}u", UPLINK), *((link, POD) for link in node.links())]
    return {number for name, place in places for number in programs_on(node, name, place).values()}


def reach(node: FabricNode, netns: Netns | Path, *addresses: str) -> None:
    """Returns when all of them answer; that the first packet of a pod arrives is `test_native.py`'s to show."""
    node.agent.wait(lambda: all(reaches(netns, address) for address in addresses))


def test_pods_and_hosts_of_two_nodes_reach_each_other_by_plain_routing(lab: Lab) -> None:
    reach(lab.first, lab.here, *lab.theirs)
    reach(lab.second, lab.there, *lab.mine)
    reach(lab.first, lab.first.netns, *lab.theirs)
    reach(lab.first, lab.here, lab.second.v4, lab.second.v6)


def test_a_pod_reaches_the_world_under_its_nodes_address(lab: Lab) -> None:
    with Netns.open(lab.here) as pod, serving(lab.fabric.netns, 8081):
        assert [asked(pod, address, 8081, SIZE) for address in WORLD] == [lab.first.v4, lab.first.v6]


def test_a_service_leads_pods_hosts_and_the_world_to_a_pod_of_the_other_node(lab: Lab) -> None:
    write_services(lab.first, lab.theirs)
    for vip in VIPS:
        through = lab.first.v4 if ip_address(vip).version == 4 else lab.first.v6
        netlink.add_route(lab.fabric.netns, ip_network(vip), via=ip_address(through))
    with Netns.open(lab.here) as pod, Netns.open(lab.there) as server, serving(server, 8080):
        assert [asked(pod, vip, 80, SIZE) for vip in VIPS] == lab.mine
        assert [asked(lab.first.netns, vip, 80, SIZE) for vip in VIPS] == [lab.first.v4, lab.first.v6]
        assert [asked(lab.fabric.netns, vip, 80, SIZE) for vip in VIPS] == [lab.first.v4, lab.first.v6]


def test_connections_outlive_a_killed_agent_and_the_programs_of_its_successor(lab: Lab) -> None:
    with (
        stream(lab.here, lab.there, lab.theirs[0]) as v4,
        stream(lab.here, lab.there, lab.theirs[1], 9001) as v6,
        stream(lab.here, lab.fabric.netns, WORLD[0], 9002) as masqueraded,
    ):
        before = all_programs(lab.first)
        assert before
        lab.first.agent.kill()
        assert [each.goes_on() for each in (v4, v6, masqueraded)] == [True] * 3
        assert all_programs(lab.first) == before
        lab.first.start()
        lab.first.agent.wait(lambda: before.isdisjoint(all_programs(lab.first)))
        assert len(all_programs(lab.first)) == len(before)
        assert [each.goes_on() for each in (v4, v6, masqueraded)] == [True] * 3
    assert drops(lab.first) == {}


def test_pods_of_two_nodes_reach_each_other_in_a_tunnel(lab: Lab) -> None:
    for node in (lab.first, lab.second):
        node.agent.kill()
    start(lab.first, lab.second, "vxlan")
    here, mine = lab.first.add("here-too")
    there, theirs = lab.second.add("there-too")
    for node in (lab.first, lab.second):
        assert programs_on(node, TUNNEL_DEVICE, TUNNEL).keys() == set(TUNNEL.programs)
    assert lab.first.routes()["10.77.2.0/24"]["dev"] == TUNNEL_DEVICE
    reach(lab.first, here, *theirs.addresses)
    reach(lab.second, there, *mine.addresses)
    with Netns.open(here) as pod, Netns.open(there) as server, serving(server, 8080):
        assert [asked(pod, address, 8080, SIZE) for address in theirs.addresses] == mine.addresses
