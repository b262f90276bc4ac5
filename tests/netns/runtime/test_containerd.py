"""Containers of Debian's containerd and runc whose network is meshd."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.netns.agent.agent_node import PORT as SERVICE_PORT
from tests.netns.agent.agent_node import VIP
from tests.netns.cni.node import reaches
from tests.netns.runtime import container
from tests.netns.runtime.container import Container
from tests.netns.runtime.containerd import Containerd

pytestmark = pytest.mark.needs("command:containerd", "command:runc", "command:busybox")


def test_containers_of_a_node_reach_each_other_and_the_host(runtime: Containerd) -> None:
    one, two = (container.run(runtime, name) for name in ("one", "two"))
    assert one.addresses() == ["10.77.1.1", "fd77:0:0:1::1"]
    assert two.addresses() == ["10.77.1.2", "fd77:0:0:1::2"]
    for address in two.addresses():
        assert one.pings(address)
        assert one.get(address) == "two"
    for address in ("192.168.70.1", "fd00::11"):
        assert one.pings(address)
    assert all(reaches(runtime.node.netns, address) for address in one.addresses())


def test_a_container_reaches_a_service_by_its_address(runtime: Containerd) -> None:
    one, two = (container.run(runtime, name) for name in ("one", "two"))
    runtime.node.agent.write_service(two.addresses()[0])
    runtime.node.agent.wait(lambda: one.get(VIP, SERVICE_PORT) == "two")


def test_a_container_that_ends_leaves_nothing(runtime: Containerd) -> None:
    one = container.run(runtime, "one")
    assert one.pings("192.168.70.1")
    one.end()
    runtime.node.agent.wait(lambda: runtime.node.links() == [])
    assert runtime.left_of("one") == []


def test_containers_outlive_containerd(runtime: Containerd) -> None:
    one = container.run(runtime, "one", detached=True)
    runtime.kill()
    assert one.pings("192.168.70.1")
    runtime.start()
    assert runtime.containers() == ["one"]
    two = container.run(runtime, "two")
    assert two.get(one.addresses()[0]) == "one"


def test_a_container_that_cannot_have_an_address_says_why_and_can_be_started_later(
    runtime: Containerd,
) -> None:
    node = runtime.node
    node.agent.kill(signal.SIGTERM)
    node.start(podCidrs=["10.77.1.0/32"], coolDownS=0)
    one = container.run(runtime, "one")
    assert container.launch(runtime, "two").wait() != 0
    assert "no address left in 10.77.1.0/32: 1 usable, 1 in use" in container.log_of(runtime, "two")
    # The runtime keeps what it had made before it asked for a network.
    assert runtime.left_of("two")
    container.remove(runtime, "two")
    assert runtime.left_of("two") == []
    assert len(node.links()) == 1
    one.end()
    assert container.run(runtime, "two").addresses() == ["10.77.1.0"]


def test_a_container_whose_start_the_agent_did_not_survive_can_be_started_again(runtime: Containerd) -> None:
    node = runtime.node
    assert node.agent.agent is not None
    node.agent.agent.send_signal(signal.SIGSTOP)
    client = container.launch(runtime, "one")
    node.agent.wait(lambda: runtime.is_asking("one"))
    node.agent.kill()
    assert client.wait() != 0
    assert str(node.socket) in container.log_of(runtime, "one")
    container.remove(runtime, "one")
    node.start()
    one = container.run(runtime, "one")
    assert one.pings("192.168.70.1")
    assert len(node.links()) == 1


def test_a_container_of_which_the_runtime_never_told_that_it_ended_is_collected(runtime: Containerd) -> None:
    node = runtime.node
    lost, kept = (container.run(runtime, name) for name in ("lost", "kept"))
    lose(lost)
    assert len(node.links()) == 2
    valid: dict[str, Any] = {
        "cni.dev/valid-attachments": [{"containerID": runtime.cni_id("kept"), "ifname": "eth0"}]
    }
    assert node.ask("GC", name="meshd", **valid).status == 0
    node.agent.wait(lambda: len(node.links()) == 1)
    assert kept.pings("192.168.70.1")
    assert container.run(runtime, "lost").pings(kept.addresses()[0])


def lose(made: Container) -> None:
    """Ends a container whose client is dead, so that nobody asks for its DEL."""
    assert made.client is not None
    made.client.kill()
    made.client.wait()
    container.remove(made.runtime, made.name)
