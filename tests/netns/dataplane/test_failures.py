"""A row that cannot be written hurts its own object only."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from meshd.config import Maps
from meshd.dataplane.delta import RowTaken
from meshd.errors import MapFull, RowsFailed
from meshd.kernel import cgroup
from meshd.model import Frontend, Protocol, Service, ServiceName, parse_address
from meshd.state import PlanKey
from tests.netns.dataplane.node import (
    BACKENDS4,
    NAME,
    VIP4,
    Node,
    backend,
    backends,
    nothing_unwanted,
    service,
    serving,
)


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


async def test_what_a_failed_change_replaced_goes_when_a_later_one_is_written(node: Node) -> None:
    async with node.agent(maps=Maps(slots=4)) as dataplane:
        node.mesh.replace("manifests", [service(), backends(backend(BACKENDS4[0]))])
        await node.settle()
        with pytest.raises(RowsFailed):
            await node.settle(node.mesh.apply("manifests", [backends(*map(backend, BACKENDS4))]))
        assert dataplane.backends_in_use(NAME) == 1
        await node.settle(node.mesh.apply("manifests", [backends(backend(BACKENDS4[1]))]))
        await nothing_unwanted(dataplane)


async def test_a_change_waits_for_the_room_of_rows_that_are_on_their_way_out(node: Node) -> None:
    async with node.agent(maps=Maps(slots=5)):
        node.mesh.replace("manifests", [service(), backends(backend(BACKENDS4[0]))])
        await node.settle()
        for address in (*BACKENDS4, *BACKENDS4):
            await node.settle(node.mesh.apply("manifests", [backends(backend(address))]))


async def test_a_service_that_found_a_map_full_is_written_as_soon_as_there_is_room(node: Node) -> None:
    async with node.agent(maps=Maps(slots=16)) as dataplane:
        revision = node.mesh.replace("manifests", other("first", "10.96.0.20", 12))  # type: ignore[arg-type]
        await node.settle(revision)
        node.mesh.apply("manifests", other("big", "10.96.0.21", 12))  # type: ignore[arg-type]
        for _ in range(9):  # The next retry is due in half a minute.
            with pytest.raises(RowsFailed):
                await node.settle()
            dataplane.reconciler.retry_due(float("inf"))
        node.mesh.apply("manifests", other("first", "10.96.0.20", 1))  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            while node.mesh.failed or node.mesh.pending:
                await node.mesh.moved()


async def test_a_service_that_found_its_frontend_taken_has_it_as_soon_as_the_owner_goes(node: Node) -> None:
    async with node.agent() as dataplane:
        node.mesh.replace("manifests", [service(), *other("heir", VIP4)])  # type: ignore[list-item]
        for _ in range(9):  # The next retry is due in half a minute.
            with pytest.raises(RowsFailed):
                await node.settle()
            dataplane.reconciler.retry_due(float("inf"))
        with pytest.raises(RowsFailed):
            await node.settle()
        await node.settle(node.mesh.apply("manifests", deletes=[(Service, service().key)]))
        assert dataplane.backends_in_use(ServiceName("default", "heir")) == 1


@pytest.mark.parametrize("others", [0, 200])
@pytest.mark.parametrize("heir_first", [True, False])
async def test_a_frontend_that_moves_to_another_service_is_never_nobodys(
    node: Node, heir_first: bool, others: int
) -> None:
    bystanders = [
        each for n in range(others) for each in other(f"bystander-{n}", f"10.96.{n // 100 + 1}.{n % 100}")
    ]
    heir = other("heir", VIP4)
    with serving(node, BACKENDS4[0]):
        async with node.agent() as dataplane:
            node.mesh.replace("manifests", [service(), backends(backend(BACKENDS4[0]))])
            await node.settle()
            frontends = dataplane.maps["frontends"]
            key = next(key for key in dict(frontends.items()) if key[10:16] == b"\xff\xff\x0a\x60\x00\x0a"
                       and dataplane.layouts.endpoint.decode(key).port == 80)  # fmt: skip
            objects = [*heir, *bystanders] if heir_first else [*bystanders, *heir]
            node.mesh.apply("manifests", [replace(service(), frontends=())] if not heir_first else [])
            node.mesh.replace("manifests", objects)  # type: ignore[arg-type]
            while node.mesh.pending:
                assert frontends.lookup(key) is not None
                await asyncio.sleep(0)
            await node.settle()
            assert dataplane.backends_in_use(ServiceName("default", "heir")) == 1


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


async def test_three_services_may_change_places(node: Node) -> None:
    vips = ["10.96.0.20", "10.96.0.21", "10.96.0.22"]
    async with node.agent() as dataplane:
        first = [each for n, vip in enumerate(vips) for each in other(f"service-{n}", vip)]
        await node.settle(node.mesh.replace("manifests", first))  # type: ignore[arg-type]
        before = dataplane.maps["frontends"].count()
        then = [each for n, vip in enumerate(vips[1:] + vips[:1]) for each in other(f"service-{n}", vip)]
        await node.settle(node.mesh.replace("manifests", then))  # type: ignore[arg-type]
        assert dataplane.maps["frontends"].count() == before
        await nothing_unwanted(dataplane)


async def test_an_agent_whose_cgroup_was_removed_says_so_and_goes_on(node: Node) -> None:
    child = node.cgroup / "child"
    cgroup.create(child)
    async with node.agent(audit_interval_s=0.01) as dataplane:
        dataplane.attach(child)
        cgroup.remove_tree(child)
        audits = dataplane.auditor.audits
        async with asyncio.timeout(5):
            while dataplane.auditor.audits < audits + 3:
                await asyncio.sleep(0.01)
        node.mesh.replace("manifests", [service(), backends(backend(BACKENDS4[0]))])
        async with asyncio.timeout(5):
            await node.settle()
