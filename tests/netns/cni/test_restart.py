"""Pods and the life of the agent: what stands without it, and what its next start takes over."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from meshd.kernel import netlink
from meshd.kernel.netns import Netns
from tests.netns.cni.node import CniNode, reaches


@pytest.fixture
def restarted(node: CniNode) -> Iterator[Callable[[], None]]:
    def restart() -> None:
        node.agent.kill()
        node.start()

    yield restart


def test_a_killed_agent_takes_its_pods_over(node: CniNode, restarted: Callable[[], None]) -> None:
    netns, made = node.add("one")
    node.agent.kill()
    assert reaches(netns, "192.168.70.1")
    away = node.ask("ADD", "two", node.pod("two"))
    assert (away.said["code"], str(node.socket) in away.said["msg"]) == (11, True)
    restarted()
    assert node.ask("CHECK", "one", netns, prevResult=made.said).status == 0
    assert node.ask("ADD", "one", netns) == made
    assert node.add("three")[1].addresses[0] == "10.77.1.2"


def test_pods_that_went_while_no_agent_ran_are_released(node: CniNode) -> None:
    lost_link, _ = node.add("lost-link")
    lost_netns, _ = node.add("lost-netns")
    kept, made = node.add("kept")
    node.agent.kill()
    with Netns.open(lost_link) as pod:
        netlink.delete_link(pod, "eth0")
    node.remove_pod(lost_netns)
    node.start()
    assert workloads_released(node) == {"attached": 1, "released": 2}
    assert node.ask("CHECK", "kept", kept, prevResult=made.said).status == 0
    node.agent.wait(lambda: len(node.links()) == 1)


def workloads_released(node: CniNode) -> dict[str, object]:
    last = [line for line in node.agent.log() if line["event"] == "pods taken over"][-1]
    return {name: last[name] for name in ("attached", "released")}
