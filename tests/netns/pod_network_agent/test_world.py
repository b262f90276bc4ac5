"""Pods and what is outside of the cluster: a namespace behind the node's uplink that knows no way to pods."""

from __future__ import annotations

import signal
import socket
from ipaddress import IPv4Address, ip_interface, ip_network
from pathlib import Path

import pytest

from meshd.dataplane.pod_network.places import UPLINK
from meshd.dataplane.pod_network.sysctls import RESERVED_PORTS
from meshd.kernel import netlink
from meshd.kernel.netns import Netns
from tests.netns.cni.node import CniNode, reaches
from tests.netns.pod_network_agent.commands import cleanup, drops
from tests.netns.pod_network_agent.in_kernel import programs_on
from tests.netns.pod_network_agent.traffic import stream
from tests.netns.pod_network_agent.world import WORLD


def peers_of(world: Netns, port: int) -> set[str]:
    """Who is connected to ``port`` in the world, as it sees them."""
    lines = world.run(lambda: Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:])
    fields = [line.split() for line in lines]
    remote = {each[2] for each in fields if each[1].endswith(f":{port:04X}") and each[3] == "01"}
    return {socket.inet_ntoa(bytes.fromhex(each.partition(":")[0])[::-1]) for each in remote}


def test_a_pod_reaches_the_world_under_the_nodes_address_in_both_families(
    node: CniNode, world: Netns
) -> None:
    pod, _ = node.add("one")
    with stream(pod, world, WORLD[0]) as v4, stream(pod, world, WORLD[1], 9001) as v6:
        assert v4.goes_on()
        assert v6.goes_on()
        assert peers_of(world, 9000) == {"192.168.99.1"}
    assert all(reaches(pod, address) for address in WORLD)


@pytest.mark.parametrize(
    ("options", "reserved"),
    [({"masquerade": False}, ""), ({"masqueradeExcluded": ["192.168.99.0/24"]}, "50000-65535")],
)
def test_where_nothing_is_masqueraded_a_pod_goes_under_its_own_address(
    node: CniNode, world: Netns, options: dict[str, object], reserved: str
) -> None:
    node.agent.kill()
    node.agent.options["podNetwork"] = options
    node.start()
    netlink.add_route(world, ip_network("10.77.1.0/24"), IPv4Address("192.168.99.1"))
    pod, one = node.add("one")
    with stream(pod, world, WORLD[0]):
        assert peers_of(world, 9000) == {one.addresses[0]}
    assert node.netns.read_sysctl(RESERVED_PORTS) == reserved


def test_masqueraded_connections_outlive_the_agent_and_its_successor(node: CniNode, world: Netns) -> None:
    pod, _ = node.add("one")
    with stream(pod, world, WORLD[0]) as v4, stream(pod, world, WORLD[1], 9001) as v6:
        for number in (signal.SIGKILL, signal.SIGTERM):
            node.agent.kill(number)
            assert v4.goes_on()
            assert v6.goes_on()
            node.start()
            assert v4.goes_on()
            assert v6.goes_on()


def test_a_cleanup_refuses_to_end_masqueraded_connections_unless_told_to(
    node: CniNode, world: Netns, unique_name: str
) -> None:
    uplink = f"{unique_name}u"
    pod, _ = node.add("one")
    with stream(pod, world, WORLD[0]) as v4, stream(pod, world, WORLD[0], 9001):
        node.agent.kill()
        there = programs_on(node, uplink, UPLINK)
        status, said = cleanup(node)
        assert (status, "2 masqueraded flows" in said, "--drop-translated" in said) == (1, True, True), said
        assert programs_on(node, uplink, UPLINK) == there
        assert v4.goes_on()
    status, said = cleanup(node, "--drop-translated")
    assert status == 0, said
    assert programs_on(node, uplink, UPLINK) == {}


def test_what_a_pod_sends_under_another_name_is_dropped_and_counted(node: CniNode, world: Netns) -> None:
    pod, _ = node.add("one")
    with Netns.open(pod) as opened:
        netlink.set_up(opened, "eth0", [ip_interface("10.77.1.99/32")])
        with opened.socket(socket.AF_INET, socket.SOCK_DGRAM) as liar:
            liar.bind(("10.77.1.99", 0))
            liar.sendto(b"it was me", (WORLD[0], 9))
    assert drops(node) == {("source_not_the_pods", "from_pod"): 1}
