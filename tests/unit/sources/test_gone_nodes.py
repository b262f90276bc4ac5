"""A stale node goes when Kubernetes has no Node of it, and for no other reason that looks like it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from meshd.model import Node, NodeState
from meshd.model.cluster import ETCD, KUBERNETES
from meshd.sources.gone_nodes import GoneNodes, gone_nodes
from meshd.state import Mesh

LOST = Node("cm-1", "n2", ETCD, pod_cidrs=("10.1.2.0/24",), state=NodeState.STALE)
OTHERS = Node("cm-2", "n2", "cluster:cm-2", state=NodeState.STALE)


def kubernetes(*names: str) -> list[Node]:
    return [Node("cm-1", name, KUBERNETES) for name in names]


def mesh_of(*nodes: Node) -> Mesh:
    made = Mesh()
    for node in nodes:
        made.apply(node.source, [node])
    return made


def gone(mesh: Mesh) -> list[str]:
    return [str(node) for node in gone_nodes(mesh, "cm-1", "n1")]


def test_a_stale_node_without_a_node_object_is_gone() -> None:
    mesh = mesh_of(LOST, OTHERS)
    mesh.replace(KUBERNETES, kubernetes("n1"))
    assert gone(mesh) == ["cm-1/n2"]


def test_one_whose_node_object_is_there_stands() -> None:
    mesh = mesh_of(LOST)
    mesh.replace(KUBERNETES, kubernetes("n1", "n2"))
    assert gone(mesh) == []


@pytest.mark.parametrize("state", [NodeState.FRESH, NodeState.REFUSED])
def test_one_that_speaks_for_itself_stands_whatever_kubernetes_says(state: NodeState) -> None:
    mesh = mesh_of(replace(LOST, state=state))
    mesh.replace(KUBERNETES, kubernetes("n1"))
    assert gone(mesh) == []


def test_nothing_is_concluded_before_the_first_complete_list() -> None:
    mesh = mesh_of(LOST)
    mesh.listing(KUBERNETES)
    assert gone(mesh) == []
    mesh.restore(KUBERNETES, kubernetes("n1"))
    assert gone(mesh) == []
    mesh.mark_complete(KUBERNETES)
    assert gone(mesh) == ["cm-1/n2"]


def test_nothing_is_concluded_while_the_api_server_is_away() -> None:
    mesh = mesh_of(LOST)
    mesh.replace(KUBERNETES, kubernetes("n1"))
    mesh.mark_stale(KUBERNETES, "nodes away")
    assert gone(mesh) == []


@pytest.mark.parametrize("names", [(), ("n7",)])
def test_nothing_is_concluded_from_a_list_without_this_node(names: tuple[str, ...]) -> None:
    mesh = mesh_of(LOST)
    mesh.replace(KUBERNETES, kubernetes(*names))
    assert gone(mesh) == []


def test_nothing_is_concluded_where_there_is_no_kubernetes() -> None:
    assert gone(mesh_of(LOST)) == []


@pytest.mark.parametrize("last", ["record", "object", "reach"])
async def test_whichever_goes_last_takes_the_node_away(last: str) -> None:
    there = replace(LOST, state=NodeState.FRESH) if last == "record" else LOST
    mesh = mesh_of(there)
    mesh.replace(KUBERNETES, kubernetes("n1", *(["n2"] if last == "object" else [])))
    if last == "reach":
        mesh.mark_stale(KUBERNETES, "away")
    task = asyncio.create_task(GoneNodes(mesh, "cm-1", "n1").run())
    await asyncio.sleep(0)
    assert LOST.key in mesh.nodes
    match last:
        case "record":
            mesh.apply(ETCD, [LOST])
        case "object":
            mesh.apply(KUBERNETES, deletes=[(Node, (KUBERNETES, "cm-1", "n2"))])
        case _:
            mesh.mark_complete(KUBERNETES)
    async with asyncio.timeout(30):
        while LOST.key in mesh.nodes:
            await mesh.moved()
    task.cancel()
    await asyncio.wait([task])
