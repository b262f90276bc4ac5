"""An ADD has a lane of its own: what else loads or fails in the agent does not hold it up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.agent.agent_node import endpoint_slice
from tests.netns.agent.agent_node import service as service_of
from tests.netns.cni.node import CniNode, reaches


def test_a_pod_is_added_while_ten_thousand_services_are_still_being_written(node: CniNode) -> None:
    documents = [service(number) for number in range(10_000)]
    netns = node.pod("one")
    node.agent.write("many", *documents)
    node.agent.wait(lambda: pending(node) > 1000)
    answer = node.ask("ADD", "one", netns)
    assert answer.status == 0
    assert pending(node) > 0


def service(number: int) -> dict[str, object]:
    address = f"10.96.{number >> 8}.{number & 255}"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"s{number}", "namespace": "default"},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80, "protocol": "TCP"}]},
    }


def pending(node: CniNode) -> int:
    status = node.agent.status()
    return status.pending if status else 0


@pytest.fixture
def small(tmp_path: Path, unique_name: str) -> Iterator[CniNode]:
    """A node whose maps have room for eight backends."""
    made = CniNode(tmp_path / "small", unique_name)
    made.agent.options["maps"] = {"slots": 8}
    try:
        made.start()
        yield made
    finally:
        made.close()


def failing(node: CniNode) -> list[str]:
    status = node.agent.status()
    return [each.name for each in status.failed] if status else []


def test_pods_are_added_and_deleted_beside_a_service_that_never_fits(small: CniNode) -> None:
    addresses = [f"192.0.2.{number}" for number in range(1, 30)]
    small.agent.write("large", service_of("large", "10.96.0.10"), endpoint_slice("large", *addresses))
    small.agent.wait(lambda: failing(small) != [])
    first, one = small.add("one")
    _, two = small.add("two")
    assert all(reaches(first, address) for address in two.addresses)
    assert small.ask("CHECK", "one", first, prevResult=one.said).status == 0
    assert small.ask("DEL", "one", first).status == 0
    assert [name for name in failing(small) if "large" in name] == failing(small) != []
