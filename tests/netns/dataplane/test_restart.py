"""What a start does to rows that are in the kernel already: nothing, until their source has spoken."""

from __future__ import annotations

import asyncio

import pytest

from meshd.dataplane.dataplane import Dataplane
from meshd.state import Mesh
from tests.netns.dataplane.node import BACKENDS4, VIP4, Node, backend, backends, service, serving

LOCAL, REMOTE = BACKENDS4[:2]


def both_clusters(node: Node) -> None:
    node.mesh.replace("cluster:cm-2", [backends(backend(REMOTE), source="cluster:cm-2", cluster="cm-2")])
    node.mesh.replace("manifests", [service(is_global=True), backends(backend(LOCAL))])


def kernel_rows(dataplane: Dataplane) -> dict[str, dict[bytes, bytes]]:
    return {name: dict(each.items()) for name, each in dataplane.maps.items()}


async def settle_retired(dataplane: Dataplane) -> None:
    while any(
        kernel_rows(dataplane)[name].keys() != dataplane.delta.observed[name].keys()
        for name in dataplane.maps
    ):
        await asyncio.sleep(0)


async def test_a_restart_with_the_same_desired_state_writes_nothing(node: Node) -> None:
    async with node.agent() as dataplane:
        both_clusters(node)
        await node.settle()
        before = kernel_rows(dataplane)
    node.mesh = Mesh()
    node.mesh.listing("manifests")
    async with node.agent() as dataplane:
        written: list[str] = []
        for each in dataplane.maps.values():
            each.update_batch = lambda entries, flags=0: written.extend(map(repr, entries))  # type: ignore[method-assign]
        both_clusters(node)
        await node.settle()
        assert kernel_rows(dataplane) == before
        assert written == []


async def test_rows_stand_while_no_source_has_listed(node: Node) -> None:
    with serving(node, LOCAL, REMOTE):
        async with node.agent() as dataplane:
            both_clusters(node)
            await node.settle()
            before = kernel_rows(dataplane)
        node.mesh = Mesh()
        node.mesh.listing("manifests")
        node.mesh.listing("cluster:cm-2")
        async with node.agent() as dataplane:
            await node.settle()
            assert kernel_rows(dataplane) == before
            assert {node.ask(VIP4) for _ in range(40)} == {LOCAL, REMOTE}


async def test_a_source_that_has_not_listed_keeps_its_backends_when_another_plans_the_service(
    node: Node,
) -> None:
    with serving(node, *BACKENDS4):
        async with node.agent():
            both_clusters(node)
            await node.settle()
        node.mesh = Mesh()
        node.mesh.listing("manifests")
        node.mesh.listing("cluster:cm-2")
        async with node.agent():
            node.mesh.replace("manifests", [service(is_global=True), backends(backend(BACKENDS4[2]))])
            await node.settle()
            assert {node.ask(VIP4) for _ in range(40)} == {BACKENDS4[2], REMOTE}
            node.mesh.replace("cluster:cm-2", [])
            await node.settle()
            assert {node.ask(VIP4) for _ in range(40)} == {BACKENDS4[2]}


@pytest.mark.parametrize("how", ["listed nothing", "no longer configured"])
async def test_rows_go_when_their_source_has_listed_without_them(node: Node, how: str) -> None:
    async with node.agent():
        both_clusters(node)
        await node.settle()
    node.mesh = Mesh()
    if how == "listed nothing":
        node.mesh.listing("manifests")
        node.mesh.listing("cluster:cm-2")
    async with node.agent() as dataplane:
        if how == "listed nothing":
            node.mesh.replace("manifests", [])
            assert kernel_rows(dataplane)["frontends"]
            node.mesh.replace("cluster:cm-2", [])
        async with asyncio.timeout(5):
            while any(rows for name, rows in kernel_rows(dataplane).items() if name != "sources"):
                await asyncio.sleep(0)


async def test_what_a_journal_says_is_in_force_until_the_source_has_listed(node: Node) -> None:
    with serving(node, *BACKENDS4):
        async with node.agent():
            node.mesh.listing("manifests")
            node.mesh.restore("manifests", [service(), backends(backend(LOCAL))])
            await node.settle()
            assert node.ask(VIP4) == LOCAL
            node.mesh.replace("manifests", [service(), backends(backend(REMOTE))])
            await node.settle()
            assert node.ask(VIP4) == REMOTE


async def test_old_lists_are_gone_after_their_grace_period(node: Node) -> None:
    async with node.agent() as dataplane:
        node.mesh.replace("manifests", [service(), backends(*map(backend, BACKENDS4))])
        await node.settle()
        for address in BACKENDS4:
            await node.settle(node.mesh.apply("manifests", [backends(backend(address))]))
        async with asyncio.timeout(5):
            while len(kernel_rows(dataplane)["slots"]) != 2:
                await asyncio.sleep(0)


async def test_an_audit_puts_right_what_somebody_else_changed(node: Node) -> None:
    with serving(node, LOCAL):
        async with node.agent() as dataplane:
            node.mesh.replace("manifests", [service(), backends(backend(LOCAL))])
            await node.settle()
            before = kernel_rows(dataplane)
            frontends, slots = dataplane.maps["frontends"], dataplane.maps["slots"]
            changed, removed = list(before["frontends"])[:2]
            frontends.update(changed, bytes(frontends.value_size))
            frontends.delete(removed)
            foreign = bytes(slots.key_size)
            slots.update(foreign, bytes(slots.value_size))
            repaired = await dataplane.auditor.audit()
            assert kernel_rows(dataplane) == before
            assert {name: set(rows) for name, rows in repaired.items()} == {
                "frontends": {changed, removed},
                "slots": {foreign},
            }
            assert dataplane.auditor.repaired == {"frontends": 2, "slots": 1}
            assert node.ask(VIP4) == LOCAL


async def test_hooks_stay_when_the_agent_ends_and_are_updated_in_place_by_the_next(node: Node) -> None:
    with serving(node, LOCAL):
        async with node.agent() as dataplane:
            node.mesh.replace("manifests", [service(), backends(backend(LOCAL))])
            await node.settle()
            before = {name: link.info() for name, link in dataplane._links.items()}
        assert node.ask(VIP4) == LOCAL
        async with node.agent() as dataplane:
            after = {name: link.info() for name, link in dataplane._links.items()}
            assert {name: info.link_id for name, info in after.items()} == {
                name: info.link_id for name, info in before.items()
            }
            assert all(after[name].program_id != before[name].program_id for name in after)
            assert all(dataplane.hooks().values())
