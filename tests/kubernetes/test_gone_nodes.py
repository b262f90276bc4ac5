"""A node whose record in etcd vanished goes with its Node object in a real API server, and stands while that is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, ip_address

from clustermesh import keys
from clustermesh.kv import Kv
from clustermesh.node_reader import NodeCopies, NodeReader
from clustermesh.node_record import Node as NodeRecord
from clustermesh.node_record import NodeAddress, encode_node
from meshd.model import NodeState
from meshd.model.cluster import ETCD
from meshd.sources.gone_nodes import GoneNodes
from meshd.sources.node_registry import NodeRegistry
from meshd.state import SourceState
from tests.kubernetes.api_server import ApiServerAlone
from tests.kubernetes.following import Following, following

# What Config calls a cluster that nobody named.
CLUSTER = "default"
FRESH, STALE = NodeState.FRESH, NodeState.STALE


def record(number: int) -> NodeRecord:
    address = NodeAddress("InternalIP", ip_address(f"192.0.2.{number}"))
    return NodeRecord(f"n{number}", CLUSTER, 0, (address,), IPv4Network(f"10.1.{number}.0/24"))


async def make(api_server: ApiServerAlone, kv: Kv, number: int) -> None:
    """Node ``number`` has an object in the API server and a record in etcd."""
    name = f"n{number}"
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    await asyncio.to_thread(api_server.kubectl, "apply", "-f", "-", content=json.dumps(body))
    await kv.put(keys.node(CLUSTER, name), encode_node(record(number)))


@asynccontextmanager
async def node_of(mesh: Following, kv: Kv) -> AsyncIterator[None]:
    """What an agent on n1 makes of records and objects."""
    registry = NodeRegistry(mesh.mesh, CLUSTER, "n1")
    reader = NodeReader(
        kv,
        CLUSTER,
        0,
        sink=registry,
        copies=NodeCopies(),
        max_connected_clusters=255,
        canaries=False,
        trouble=lambda kind, reason: None,
        settle=lambda kind: None,
    )
    tasks = [asyncio.create_task(each.run()) for each in (reader, GoneNodes(mesh.mesh, CLUSTER, "n1"))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def states(mesh: Following) -> dict[str, NodeState]:
    return {node.name: node.state for node in mesh.mesh.nodes.values() if node.source == ETCD}


async def test_a_stale_node_goes_with_its_node_object_and_not_while_the_api_server_is_away(
    api_server: ApiServerAlone,
) -> None:
    delete = ("delete", "node", "--wait=false")
    async with api_server.etcd.kv() as kv:
        for number in (1, 2, 3):
            await make(api_server, kv, number)
        async with following(api_server.admin) as mesh, node_of(mesh, kv):
            await mesh.until(lambda: states(mesh) == {"n2": FRESH, "n3": FRESH})
            await mesh.until(lambda: mesh.state is SourceState.COMPLETE)
            # The record first: it says no more than that nobody renews it.
            await kv.delete(keys.node(CLUSTER, "n2"))
            await mesh.until(lambda: states(mesh)["n2"] is STALE)
            # The object first: whoever speaks for itself is there.
            await asyncio.to_thread(api_server.kubectl, *delete, "n3")
            await mesh.until(lambda: ("kubernetes", CLUSTER, "n3") not in mesh.mesh.nodes)
            assert states(mesh) == {"n2": STALE, "n3": FRESH}
            await asyncio.to_thread(api_server.kill)
            await mesh.until(lambda: mesh.state is SourceState.STALE)
            await kv.delete(keys.node(CLUSTER, "n3"))
            await mesh.until(lambda: states(mesh)["n3"] is STALE)
            assert states(mesh) == {"n2": STALE, "n3": STALE}
            await asyncio.to_thread(api_server.start)
            await mesh.until(lambda: states(mesh) == {"n2": STALE})
            await asyncio.to_thread(api_server.kubectl, *delete, "n2")
            await mesh.until(lambda: states(mesh) == {})
