"""When a node is settled: its meshd says over gRPC that every source is read, and the right backends are in the kernel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio

from meshd.api.v1 import (
    backend_pb2,
    backend_pb2_grpc,
    cluster_pb2,
    node_pb2,
    node_pb2_grpc,
    status_pb2,
    status_pb2_grpc,
)
from meshd.lab import cni
from meshd.lab.lab import Lab
from meshd.lab.layout import Node, Places
from meshd.lab.processes import Started
from meshd.lab.record import LabError

POLL_S = 0.05
CALL_TIMEOUT_S = 2.0
SETTLE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Expected:
    """What a node must hold before it counts as settled: remote clusters, addresses of all ready backends, and the way to
    the pods of all other nodes.
    """

    remote_clusters: frozenset[str]
    backends: frozenset[str]
    nodes: frozenset[str] = frozenset()


def expected(lab: Lab, node: Node) -> Expected:
    """What follows from the lab's record for ``node``."""
    others = frozenset(cluster.name for cluster in lab.clusters if cluster.name != node.cluster)
    ready = [
        pod
        for pod in lab.record.pods.values()
        if pod.id in lab.record.ready and lab.serves_in(pod, node.cluster)
    ]
    backends = frozenset(str(address) for pod in ready for address in lab.addresses(pod))
    return Expected(others, backends, frozenset(other.name for other in lab.nodes if other != node))


def lacking(
    said: status_pb2.GetStatusResponse,
    backends: Sequence[backend_pb2.Backend],
    nodes: Sequence[node_pb2.Node],
    wanted: Expected,
) -> str:
    """What is missing until the node is settled, in words; empty: nothing."""
    return next(_missing(said, backends, nodes, wanted), "")


def _missing(
    said: status_pb2.GetStatusResponse,
    backends: Sequence[backend_pb2.Backend],
    nodes: Sequence[node_pb2.Node],
    wanted: Expected,
) -> Iterator[str]:
    for source in said.sources:
        if source.state != status_pb2.SOURCE_STATE_COMPLETE:
            yield f"source {source.name} is not read completely {source.reason}".rstrip()
    synced = {c.name for c in said.clusters if c.state == cluster_pb2.CLUSTER_STATE_SYNCED}
    for cluster in sorted(wanted.remote_clusters - synced):
        yield f"cluster {cluster} is not synced"
    for row in said.failed:
        yield f"row {row.name}: {row.reason}"
    ready = {backend.address for backend in backends if backend.ready}
    for address in sorted(wanted.backends - ready):
        yield f"backend {address} is not known"
    for address in sorted(ready - wanted.backends):
        yield f"backend {address} is still there"
    for name in sorted(wanted.nodes - {node.name for node in nodes if node.routing}):
        yield f"the pods of {name} are not reached"
    for name in sorted({node.name for node in nodes if node.reachability == node_pb2.REACHABILITY_DOWN}):
        yield f"{name} does not answer"
    if said.pending:
        yield f"{said.pending} changes wait for the kernel"


async def reason(lab: Lab, node: Node) -> str:
    """What ``node`` lacks until it is settled, in words; empty: nothing."""
    async with _channel(lab.places, node) as channel:
        return await _reason(channel, expected(lab, node))


def _channel(places: Places, node: Node) -> grpc.aio.Channel:
    # A meshd that starts makes its socket late: dial again soon, not after gRPC's second.
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
    return grpc.aio.insecure_channel(f"unix:{places.socket(node)}", options)


async def _reason(channel: grpc.aio.Channel, wanted: Expected) -> str:
    try:
        backends, nodes = await _backends(channel), await _nodes(channel)
        # After these: what this says is pending includes all of them.
        return lacking(await _status(channel), backends, nodes, wanted)
    except grpc.aio.AioRpcError as error:
        return f"no answer ({error.code().name})"


async def _status(channel: grpc.aio.Channel) -> status_pb2.GetStatusResponse:
    stub = status_pb2_grpc.StatusServiceStub(channel)
    answer: status_pb2.GetStatusResponse = await stub.GetStatus(
        status_pb2.GetStatusRequest(), timeout=CALL_TIMEOUT_S
    )
    return answer


async def _nodes(channel: grpc.aio.Channel) -> Sequence[node_pb2.Node]:
    """Of all clusters; a lab has not so many that they would not fit into one page."""
    stub = node_pb2_grpc.NodeServiceStub(channel)
    answer: node_pb2.ListNodesResponse = await stub.ListNodes(
        node_pb2.ListNodesRequest(), timeout=CALL_TIMEOUT_S
    )
    return answer.nodes


async def _backends(channel: grpc.aio.Channel) -> list[backend_pb2.Backend]:
    stub = backend_pb2_grpc.BackendServiceStub(channel)
    found: list[backend_pb2.Backend] = []
    request = backend_pb2.ListBackendsRequest()
    while True:
        page: backend_pb2.ListBackendsResponse = await stub.ListBackends(request, timeout=CALL_TIMEOUT_S)
        found += page.backends
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def agents_serve_pods(lab: Lab, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
    """Returns when the meshd of every node gives pods their interfaces.

    Raises:
        LabError: one ended, or does not after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    for node in lab.nodes:
        started = lab.running[f"meshd/{node.name}"]
        while not await asyncio.to_thread(cni.is_served, lab.places.cni_socket(node)):
            _check_runs(started)
            if time.monotonic() > deadline:
                raise LabError(
                    f"{started.program.name} serves no pods after {timeout_s:g} s{started.last_words()}"
                )
            await asyncio.sleep(POLL_S)


def _check_runs(started: Started) -> None:
    if started.process.poll() is not None:
        raise LabError(
            f"{started.program.name} ended with {started.process.returncode}{started.last_words()}"
        )


async def instance(places: Places, node: Node) -> str:
    """Which process of the node's meshd answers: another one after every start.

    Raises:
        LabError: none does.
    """
    return (await _answer(places, node)).instance


async def peers_synced(places: Places, node: Node) -> frozenset[str]:
    """Names of the remote clusters that the node says it is in sync with.

    Raises:
        LabError: its meshd does not answer.
    """
    said = await _answer(places, node)
    return frozenset(
        c.name for c in said.clusters if not c.local and c.state == cluster_pb2.CLUSTER_STATE_SYNCED
    )


async def _answer(places: Places, node: Node) -> status_pb2.GetStatusResponse:
    try:
        async with _channel(places, node) as channel:
            return await _status(channel)
    except grpc.aio.AioRpcError as error:
        raise LabError(f"meshd of {node.name} does not answer: {error.code().name}") from error


async def settled(lab: Lab, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
    """Returns when every node of ``lab`` is settled.

    Raises:
        LabError: a meshd ended, or a node lacks something after ``timeout_s``: which and what.
    """
    try:
        async with asyncio.TaskGroup() as waiting:
            for node in lab.nodes:
                waiting.create_task(node_settled(lab, node, timeout_s))
    except ExceptionGroup as group:
        # What one node says is enough: the others mostly say the same.
        raise group.exceptions[0] from group


async def node_settled(lab: Lab, node: Node, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
    """The same for one node."""
    deadline = time.monotonic() + timeout_s
    started = lab.running[f"meshd/{node.name}"]
    async with _channel(lab.places, node) as channel:
        while missing := await _reason(channel, expected(lab, node)):
            _check_runs(started)
            if time.monotonic() > deadline:
                raise LabError(
                    f"{started.program.name} is not settled after {timeout_s:g} s: {missing}{started.last_words()}"
                )
            await asyncio.sleep(POLL_S)
