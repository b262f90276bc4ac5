"""Which rows of an earlier run go, and that nothing that failed meanwhile decides it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from meshd.errors import RowsFailed
from meshd.model import Frontend, Protocol, Service, ServiceName, parse_address
from meshd.state import Mesh
from meshd.state.mesh import Object
from tests.netns.dataplane.node import BACKENDS4, NAME, Node, backend, backends, nothing_unwanted

FIRST, SECOND = "10.96.1.1", "10.96.1.2"


def small(name: ServiceName, *vips: str) -> Service:
    """A service of TCP 80 on each of ``vips``."""
    frontends = tuple(Frontend(parse_address(vip), 80, Protocol.TCP, "http") for vip in vips)
    return Service(name, "manifests", frontends)


def many(count: int) -> list[Object]:
    """That many services with a backend each."""
    found: list[Object] = []
    for number in range(count):
        name = ServiceName("many", f"service-{number}")
        found += [
            small(name, f"10.97.0.{number + 1}"),
            replace(backends(backend(BACKENDS4[0])), service=name),
        ]
    return found


async def test_nothing_is_swept_while_a_service_is_not_planned_yet_though_others_failed(node: Node) -> None:
    services = many(100)
    async with node.agent():
        node.mesh.replace("manifests", services)
        await node.settle()
    node.mesh = Mesh()
    node.mesh.listing("manifests")
    thieves = [small(ServiceName("thieves", f"thief-{number}"), FIRST) for number in range(41)]
    async with node.agent() as dataplane:
        node.mesh.replace("manifests", [*thieves, *services])
        with pytest.raises(RowsFailed):
            await node.settle()
        assert dataplane.sweeper.swept == 0


async def test_a_workload_that_failed_does_not_keep_rows_of_nobody(node: Node) -> None:
    async with node.agent():
        node.mesh.replace("manifests", many(3))
        await node.settle()
    node.mesh = Mesh()
    node.mesh.listing("manifests")
    async with node.agent() as dataplane:
        lost = replace(node.workload("lost"), netns="/proc/self/fd/999", socket_lb=False)
        node.mesh.replace("manifests", [*many(1), lost])
        async with asyncio.timeout(5):
            while len(dict(dataplane.maps["frontends"].items())) != 1:
                await asyncio.sleep(0.005)


async def test_a_service_that_failed_at_the_start_keeps_its_rows_and_leaves_none_behind_when_it_is_well(
    node: Node,
) -> None:
    async with node.agent():
        node.mesh.replace("manifests", [small(NAME, FIRST), backends(*map(backend, BACKENDS4))])
        await node.settle()
    node.mesh = Mesh()
    node.mesh.listing("manifests")
    async with node.agent() as dataplane:
        before = dict(dataplane.maps["frontends"].items())
        thief = small(ServiceName("default", "a-thief"), SECOND)
        node.mesh.replace("manifests", [thief, small(NAME, FIRST, SECOND), backends(backend(BACKENDS4[0]))])
        with pytest.raises(RowsFailed):
            await node.settle()
        # Another source completes: reason enough to sweep again.
        node.mesh.replace("cluster:cm-2", [])
        with pytest.raises(RowsFailed):
            await node.settle()
        assert before.items() <= dict(dataplane.maps["frontends"].items()).items()
        await node.settle(node.mesh.apply("manifests", deletes=[(Service, thief.key)]))
        await nothing_unwanted(dataplane)
