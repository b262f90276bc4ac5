"""Builds whose maps have other layouts follow each other, and what the other's programs carried goes on."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from meshd.dataplane.pod_network.places import UPLINK
from meshd.kernel.netns import Netns
from tests import another_build
from tests.netns.cni.node import CniNode
from tests.netns.pod_network_agent.commands import drops
from tests.netns.pod_network_agent.datagrams import datagrams
from tests.netns.pod_network_agent.in_kernel import filters_on, pins, pods, programs_on
from tests.netns.pod_network_agent.traffic import stream
from tests.netns.pod_network_agent.world import WORLD, is_settled


def replaced(node: CniNode, uplink: str, build: str) -> None:
    """The agent is killed and that of another build runs, which has put its programs everywhere."""
    before = {*programs_on(node, uplink, UPLINK).values()}
    for link in node.links():
        before |= {*filters_on(node, link).values()}
    node.agent.kill()
    node.agent.options["bpfObject"] = build
    if not build:
        del node.agent.options["bpfObject"]
    node.start()
    node.agent.wait(partial(has_others, node, uplink, before))
    node.agent.wait(lambda: is_settled(node) and not others_left(node))


def has_others(node: CniNode, uplink: str, before: set[int]) -> bool:
    now = {*programs_on(node, uplink, UPLINK).values()}
    for link in node.links():
        now |= {*filters_on(node, link).values()}
    return before.isdisjoint(now)


def others_left(node: CniNode) -> list[str]:
    """Maps that are pinned in more than one layout."""
    names = sorted(pin.name.rpartition("_")[0] for pin in pins(node).glob("maps/*"))
    return [name for name, following in pairwise(names) if name == following]


def test_connections_of_pods_outlive_an_upgrade_and_a_downgrade_between_layouts(
    node: CniNode, world: Netns, unique_name: str
) -> None:
    first, _ = node.add("one")
    second, two = node.add("two")
    with (
        stream(first, world, WORLD[0]) as v4,
        stream(first, world, WORLD[1], 9001) as v6,
        stream(first, second, two.addresses[0], 9002) as near,
    ):
        for build in (str(another_build.other_object()), ""):
            replaced(node, f"{unique_name}u", build)
            assert v4.goes_on()
            assert v6.goes_on()
            assert near.goes_on()
            assert set(two.addresses) <= pods(node).keys()


def test_no_datagram_is_lost_to_a_build_with_other_layouts(
    node: CniNode, world: Netns, unique_name: str
) -> None:
    pod, _ = node.add("one")
    with datagrams(pod, world, WORLD[0]) as asked:
        for build in (str(another_build.other_object()), ""):
            before = asked.answered
            replaced(node, f"{unique_name}u", build)
            node.agent.wait(partial(lambda before: asked.answered > before + 100, before))
    assert asked.lost == 0, (asked.answered, drops(node))
