"""Containers of Debian's containerd and runc on nodes that find each other, and what they reach outside."""

from __future__ import annotations

import pytest

from tests.netns.pod_network_nodes.fabric import Fabric
from tests.netns.runtime import container, world
from tests.netns.runtime.conftest import RunsOn

pytestmark = pytest.mark.needs("etcd", "command:containerd", "command:runc", "command:busybox")


@pytest.mark.parametrize("routing", ["native", "vxlan"])
def test_containers_of_two_nodes_reach_each_other(
    fabric: Fabric, containerd_on: RunsOn, routing: str
) -> None:
    nodes = fabric.node(1, routing=routing), fabric.node(2, routing=routing)
    for node in nodes:
        node.start()
    for node, other in (nodes, nodes[::-1]):
        name = f"cm-1/n{other.number}"
        node.agent.wait(lambda node=node, name=name: node.knows(name))  # type: ignore[misc] # bound defaults
        assert node.nodes()[name].routing == routing
    one, two = (
        container.run(containerd_on(node), name) for node, name in zip(nodes, ("one", "two"), strict=True)
    )
    for near, far in ((one, two), (two, one)):
        nodes[0].agent.wait(lambda near=near, far=far: near.pings(far.addresses()[0]))  # type: ignore[misc] # as above
        for address in far.addresses():
            assert near.pings(address)
            assert near.get(address) == far.name


def test_the_world_sees_a_container_as_its_node(fabric: Fabric, containerd_on: RunsOn) -> None:
    node = fabric.node(1)
    node.start()
    one = container.run(containerd_on(node), "one")
    with world.world(fabric):
        asked = [one.get(address, world.PORT) for address in world.ADDRESSES]
    assert asked == [node.v4, node.v6]
    assert [one.pings(address) for address in world.ADDRESSES] == [True, True]
