"""A drill on the real kernel: the programs go by its list while its time lasts, and no longer, whoever is there."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace

import pytest

from meshd.dataplane.dataplane import Dataplane
from meshd.model.drill import Drill
from meshd.state import Mesh, PlanKey
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

HERE, THERE, _ = BACKENDS4
KEY = PlanKey("service", str(NAME))
SOURCE = "cluster:cm-2"


def fill(mesh: Mesh, **facts: object) -> None:
    """One backend in each of two clusters."""
    remote = backends(backend(THERE), source=SOURCE, cluster="cm-2")
    mesh.replace(SOURCE, [remote])
    mesh.replace("manifests", [service(is_global=True, **facts), backends(backend(HERE))])


async def begin(node: Node, dataplane: Dataplane, for_s: float) -> Drill:
    """The kernel holds it when this returns."""
    drill = Drill("1", NAME, "cm-2", time.monotonic_ns() + int(for_s * 1e9))
    dataplane.drills.begin(drill)
    await planned(node)
    return drill


async def planned(node: Node) -> None:
    node.mesh.touch(KEY)
    await node.mesh.settled(node.mesh.revision, [KEY])


def ask_datagram(made: socket.socket) -> str:
    made.sendto(b"x", (VIP4, 53))
    return made.recvfrom(64)[0].split()[0].decode()


def answering(node: Node) -> set[str]:
    return {node.ask(VIP4) for _ in range(40)}


async def test_programs_go_back_by_themselves_when_the_time_is_over_and_the_agent_dead(node: Node) -> None:
    with serving(node, HERE, THERE):
        async with node.agent() as dataplane:
            fill(node.mesh)
            await node.settle()
            assert answering(node) == {HERE, THERE}
            kept = [node.connect(VIP4, 80) for _ in range(12)]
            drill = await begin(node, dataplane, 6)
            assert answering(node) == {HERE}
            assert dataplane.drills.planned() == {"cm-1": 1.0}
            given = dataplane.drills.given(list(dataplane.drill_choices()))
            assert given == {"cm-1": 40}
            # Who was connected before stays.
            assert {each.recv(64).decode() for each in kept} == {HERE, THERE}
        # Now there is no agent.
        assert answering(node) == {HERE}
        assert time.monotonic_ns() < drill.until_ns
        await asyncio.sleep((drill.until_ns - time.monotonic_ns()) / 1e9)
        assert answering(node) == {HERE, THERE}


async def test_a_drill_that_is_ended_leaves_no_rows(node: Node) -> None:
    async with node.agent() as dataplane:
        fill(node.mesh)
        await node.settle()
        before = {name: dict(dataplane.maps[name].items()) for name in ("frontends", "slots", "members")}
        await begin(node, dataplane, 60)
        during = dict(dataplane.maps["slots"].items())
        assert before["slots"].items() < during.items()
        dataplane.drills.end()
        await planned(node)
        await nothing_unwanted(dataplane)
        assert {name: dict(dataplane.maps[name].items()) for name in before} == before


async def test_rows_of_a_drill_stand_over_a_restart_until_its_service_is_planned(node: Node) -> None:
    with serving(node, HERE, THERE):
        async with node.agent() as dataplane:
            fill(node.mesh)
            await node.settle()
            await begin(node, dataplane, 60)
        node.mesh = Mesh()
        node.mesh.listing("manifests")
        node.mesh.listing(SOURCE)
        async with node.agent() as dataplane:
            await node.settle()
            assert answering(node) == {HERE}
            fill(node.mesh)
            await node.settle()
            # The new agent knows of no drill.
            assert answering(node) == {HERE, THERE}


async def test_where_nobody_else_serves_the_choice_stays(node: Node) -> None:
    with serving(node, THERE):
        async with node.agent() as dataplane:
            fill(node.mesh)
            node.mesh.apply("manifests", [backends(backend(HERE, ready=False, serving=False))])
            await node.settle()
            await begin(node, dataplane, 60)
            assert answering(node) == {THERE}
            assert dataplane.drills.planned() == {"cm-2": 1.0}


@pytest.mark.parametrize("sticky_s", [0, 60])
async def test_datagrams_and_clients_that_keep_their_backend_move_as_well(node: Node, sticky_s: int) -> None:
    with serving(node, HERE, THERE):
        async with node.agent() as dataplane:
            # First only cm-2 serves, so everybody is there.
            fill(node.mesh, affinity_timeout_s=sticky_s)
            only = replace(service(is_global=True), affinity_timeout_s=sticky_s)
            node.mesh.replace("manifests", [only, backends()])
            await node.settle()
            made = node.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
            assert (ask_datagram(made), node.ask(VIP4)) == (THERE, THERE)
            await node.settle(node.mesh.apply("manifests", [backends(backend(HERE))]))
            assert ask_datagram(made) == THERE
            await begin(node, dataplane, 60)
            assert (ask_datagram(made), node.ask(VIP4)) == (HERE, HERE)
