"""When a node is settled: its meshd says over gRPC that every source is read and every row is in the kernel."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from meshd.api.v1 import cluster_pb2, status_pb2, status_pb2_grpc
from meshd.lab.lab import Lab
from meshd.lab.layout import Node
from meshd.lab.record import LabError

POLL_S = 0.05
CALL_TIMEOUT_S = 2.0
SETTLE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Expected:
    """What a node must hold before it counts as settled."""

    remote_clusters: frozenset[str]
    backends: int


async def status(socket: Path, timeout_s: float = CALL_TIMEOUT_S) -> status_pb2.GetStatusResponse:
    """What the meshd behind ``socket`` says of itself.

    Raises:
        grpc.aio.AioRpcError: nobody answers.
    """
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        stub = status_pb2_grpc.StatusServiceStub(channel)
        answer: status_pb2.GetStatusResponse = await stub.GetStatus(
            status_pb2.GetStatusRequest(), timeout=timeout_s
        )
        return answer


def lacking(said: status_pb2.GetStatusResponse, expected: Expected) -> str:
    """What is missing until the node is settled, in words; empty: nothing."""
    for source in said.sources:
        if source.state != status_pb2.SOURCE_STATE_COMPLETE:
            return f"source {source.name} is not read completely {source.reason}".rstrip()
    synced = {c.name for c in said.clusters if c.state == cluster_pb2.CLUSTER_STATE_SYNCED}
    if missing := expected.remote_clusters - synced:
        return f"cluster {min(missing)} is not synced"
    if said.failed_count:
        return f"row {said.failed[0].name}: {said.failed[0].reason}"
    if said.backends < expected.backends:
        return f"{said.backends} of {expected.backends} backends are known"
    if said.pending:
        return f"{said.pending} changes wait for the kernel"
    return ""


async def settled(lab: Lab, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
    """Returns when every node of ``lab`` is settled.

    Raises:
        LabError: a meshd ended, or a node lacks something after ``timeout_s``: which and what.
    """
    await asyncio.gather(*(node_settled(lab, node, timeout_s) for node in lab.nodes))


async def node_settled(lab: Lab, node: Node, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
    """The same for one node."""
    deadline = time.monotonic() + timeout_s
    started = lab.running[f"meshd/{node.name}"]
    while missing := await reason(lab, node):
        if started.process.poll() is not None:
            raise LabError(
                f"{started.program.name} ended with {started.process.returncode}{started.last_words()}"
            )
        if time.monotonic() > deadline:
            raise LabError(
                f"{started.program.name} is not settled after {timeout_s:g} s: {missing}{started.last_words()}"
            )
        await asyncio.sleep(POLL_S)


async def reason(lab: Lab, node: Node) -> str:
    """What ``node`` lacks until it is settled, in words; empty: nothing."""
    try:
        return lacking(await status(lab.places.socket(node)), expected(lab, node))
    except grpc.aio.AioRpcError as error:
        return f"no answer ({error.code().name})"


def expected(lab: Lab, node: Node) -> Expected:
    """What ``node`` must know: every other cluster, and both addresses of every pod that serves somewhere."""
    others = frozenset(cluster.name for cluster in lab.clusters if cluster.name != node.cluster)
    serving = [pod for pod in lab.record.pods.values() if lab.serves(pod)]
    return Expected(others, 2 * len(serving))
