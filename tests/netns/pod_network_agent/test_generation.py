"""What programs remember of their ways ends with every change: of rows that the agent writes, and of the host's routes."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from meshd.dataplane.pod_network.rows import WAY_GENERATION
from meshd.kernel.netlink import add_route
from tests.netns.cni.node import CniNode
from tests.netns.pod_network_agent.in_kernel import number


def test_a_pod_that_comes_or_goes_ends_what_programs_remember(node: CniNode) -> None:
    seen = [number(node, WAY_GENERATION)]
    pod, _ = node.add("one")
    node.agent.wait(lambda: number(node, WAY_GENERATION) > seen[-1])
    seen.append(number(node, WAY_GENERATION))
    assert node.ask("DEL", "one", pod).status == 0
    node.agent.wait(lambda: number(node, WAY_GENERATION) > seen[-1])


def test_a_route_of_the_host_ends_what_programs_remember(node: CniNode) -> None:
    _, one = node.add("one")
    # The agent hears of the pod's own routes first.
    node.agent.wait(lambda: is_quiet(node))
    before = number(node, WAY_GENERATION)
    add_route(node.netns, ip_network("203.0.113.0/24"), via=ip_address(one.addresses[0]))
    node.agent.wait(lambda: number(node, WAY_GENERATION) > before)


def is_quiet(node: CniNode) -> bool:
    status = node.agent.status()
    return status is not None and status.pending == 0
