"""A row that cannot be written hurts its own object only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshd.config import Maps
from meshd.dataplane.delta import RowTaken
from meshd.errors import MapFull, RowsFailed
from meshd.model import Frontend, Protocol, Service, ServiceName, parse_address
from meshd.state import PlanKey
from tests.netns.dataplane.node import BACKENDS4, VIP4, Node, backend, backends, service, serving


def other(name: str, vip: str, backend_count: int = 1) -> list[object]:
    """A service of that many backends on one TCP frontend."""
    service_name = ServiceName("default", name)
    part = replace(
        backends(*(backend(f"127.0.1.{n + 1}") for n in range(backend_count))), service=service_name
    )
    return [
        Service(service_name, "manifests", (Frontend(parse_address(vip), 80, Protocol.TCP, "http"),)),
        part,
    ]


async def test_a_full_map_is_refused_before_it_is_half_written(node: Node) -> None:
    with serving(node, BACKENDS4[0]):
        async with node.agent(maps=Maps(slots=16)) as dataplane:
            node.mesh.replace("manifests", [service(), backends(backend(BACKENDS4[0]))])
            await node.settle()
            held = len(dict(dataplane.maps["slots"].items()))
            revision = node.mesh.apply("manifests", other("big", "10.96.0.20", 20))  # type: ignore[arg-type]
            with pytest.raises(RowsFailed) as caught:
                await node.mesh.settled(revision, [PlanKey("service", "default/big")])
            (error,) = caught.value.errors.values()
            assert isinstance(error, MapFull)
            assert (error.map_name, error.needed, error.free) == ("slots", 20, 16 - held)
            assert len(dict(dataplane.maps["slots"].items())) == held
            # Nobody else is held up, and what was in force goes on.
            revision = node.mesh.apply("manifests", other("small", "10.96.0.21"))  # type: ignore[arg-type]
            await node.mesh.settled(revision, [PlanKey("service", "default/small")])
            assert node.ask(VIP4) == BACKENDS4[0]
            # When there is room, it is written.
            revision = node.mesh.apply("manifests", other("big", "10.96.0.20", 4))  # type: ignore[arg-type]
            await node.mesh.settled(revision, [PlanKey("service", "default/big")])


async def test_a_service_that_grows_beyond_the_map_keeps_its_old_backends(node: Node) -> None:
    with serving(node, *BACKENDS4):
        async with node.agent(maps=Maps(slots=4)):
            node.mesh.replace("manifests", [service(), backends(backend(BACKENDS4[0]))])
            await node.settle()
            with pytest.raises(RowsFailed):
                await node.settle(node.mesh.apply("manifests", [backends(*map(backend, BACKENDS4))]))
            assert {node.ask(VIP4) for _ in range(20)} == {BACKENDS4[0]}


async def test_of_two_services_with_one_frontend_the_second_is_told_who_has_it(node: Node) -> None:
    async with node.agent():
        node.mesh.replace("manifests", [service(), backends(backend(BACKENDS4[0]))])
        await node.settle()
        revision = node.mesh.apply("manifests", other("thief", VIP4))  # type: ignore[arg-type]
        with pytest.raises(RowsFailed, match="default/rebel-base already has this row") as caught:
            await node.mesh.settled(revision, [PlanKey("service", "default/thief")])
        (error,) = caught.value.errors.values()
        assert isinstance(error, RowTaken)


async def test_a_workload_whose_namespace_is_missing_is_reported_and_tried_again(node: Node) -> None:
    async with node.agent():
        missing = replace(node.workload("lost"), netns="/proc/self/fd/999", socket_lb=False)
        revision = node.mesh.apply("manifests", [missing])
        with pytest.raises(RowsFailed, match="network namespace"):
            await node.mesh.settled(revision)
        await node.settle(node.mesh.apply("manifests", [node.workload("lost", socket_lb=False)]))
