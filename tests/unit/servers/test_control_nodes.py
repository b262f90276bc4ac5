"""Nodes as callers see them, and forgetting one."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from meshd.api.v1 import node_pb2
from meshd.model import Node, NodeState, parse_address
from meshd.model.cluster import OWN_NODE
from meshd.state import PlanKey
from tests.fakes.agent import FakeAgent, serving
from tests.unit.ctl.running import meshctl

TIMEOUT_S = 20.0


def node(
    name: str, number: int, state: NodeState, source: str = "etcd", cluster: str = "cm-1", reason: str = ""
) -> Node:
    address = parse_address(f"192.168.0.{number}")
    return Node(
        cluster,
        name,
        source,
        (address,),
        (f"10.1.{number}.0/24",),
        routing="auto",
        state=state,
        reason=reason,
    )


OWN = Node("cm-1", "n1", OWN_NODE, (parse_address("192.168.0.1"),), ("10.1.1.0/24",))
FRESH = node("n2", 2, NodeState.FRESH)
STALE = node("n3", 3, NodeState.STALE)
ELSEWHERE = node("n3", 4, NodeState.STALE, "cluster:cm-2", "cm-2")
REFUSED = node("n5", 5, NodeState.REFUSED, reason="10.1.1.0/24 belongs to this node")


def fill(agent: FakeAgent) -> None:
    agent.mesh.replace(OWN_NODE, [OWN])
    agent.mesh.replace("etcd", [FRESH, STALE, REFUSED])
    agent.mesh.replace("cluster:cm-2", [ELSEWHERE])


async def test_a_node_says_in_which_state_its_record_is(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        fill(agent)
        found = (await agent.nodes.ListNodes(node_pb2.ListNodesRequest(), timeout=TIMEOUT_S)).nodes
        listed = await meshctl(agent, "node", "list")
    assert {
        f"{one.cluster}/{one.name}": (node_pb2.NodeState.Name(one.state), one.reason) for one in found
    } == {
        "cm-1/n1": ("NODE_STATE_UNSPECIFIED", ""),
        "cm-1/n2": ("NODE_STATE_FRESH", ""),
        "cm-1/n3": ("NODE_STATE_STALE", ""),
        "cm-1/n5": ("NODE_STATE_REFUSED", "10.1.1.0/24 belongs to this node"),
        "cm-2/n3": ("NODE_STATE_STALE", ""),
    }
    assert listed.out.splitlines()[0].split() == [
        *("CLUSTER", "NAME", "ADDRESSES", "POD", "CIDRS", "ROUTING", "ANSWERS", "STATE", "SOURCE"),
    ]
    assert "refused: 10.1.1.0/24 belongs to this node" in listed.out


async def test_a_stale_node_is_forgotten_by_whoever_says_so_and_the_log_says_who(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        fill(agent)
        await agent.mesh.settled(agent.mesh.revision)
        agent.dataplane.seen.clear()
        with capture_logs() as logs:
            done = await meshctl(agent, "node", "delete", "n3", "cm-2/n3")
        assert (done.status, done.err) == (0, "")
        assert ("etcd", "cm-1", "n3") not in agent.mesh.nodes
        assert ("cluster:cm-2", "cm-2", "n3") not in agent.mesh.nodes
        # It waited for the kernel.
        assert agent.dataplane.seen == [PlanKey("node", "cm-1/n3"), PlanKey("node", "cm-2/n3")]
    told = [entry for entry in logs if entry["event"] == "node deleted"]
    assert [entry["node"] for entry in told] == ["cm-1/n3", "cm-2/n3"]
    assert [entry["role"] for entry in told] == ["admin", "admin"]
    assert all(entry["caller"] for entry in told)


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("n2", grpc.StatusCode.FAILED_PRECONDITION, "node cm-1/n2 is owned by source etcd"),
        ("n5", grpc.StatusCode.FAILED_PRECONDITION, "node cm-1/n5 is owned by source etcd"),
        ("n1", grpc.StatusCode.FAILED_PRECONDITION, "node cm-1/n1 is owned by source node"),
        ("n9", grpc.StatusCode.NOT_FOUND, "node cm-1/n9 does not exist"),
    ],
)
async def test_a_node_that_is_there_or_never_was_is_not_forgotten(
    tmp_path: Path, name: str, code: grpc.StatusCode, reason: str
) -> None:
    async with serving(tmp_path) as agent:
        fill(agent)
        before = len(agent.mesh.nodes)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await agent.nodes.DeleteNode(node_pb2.DeleteNodeRequest(name=name), timeout=TIMEOUT_S)
        assert (caught.value.code(), str(caught.value.details()).startswith(reason)) == (code, True)
        assert len(agent.mesh.nodes) == before
