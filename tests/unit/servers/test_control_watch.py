"""Watches over gRPC: everything, then what changes; resumed by revision; cut off when nobody reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from meshd.api.v1 import backend_pb2, cluster_pb2, service_pb2, watch_pb2
from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Cluster,
    ClusterState,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from tests.fakes.agent import FakeAgent, serving

TIMEOUT_S = 20.0


def service(name: str, timeout_s: int = 0) -> Service:
    return Service(ServiceName("default", name), "manifests", affinity_timeout_s=timeout_s)


async def until_synced(
    call: grpc.aio.UnaryStreamCall[service_pb2.WatchServicesRequest, service_pb2.WatchServicesResponse],
) -> tuple[list[str], watch_pb2.ResumePoint]:
    """What the list said, and where it can be resumed."""
    seen: list[str] = []
    async for message in call:
        seen.extend(event.service.name for event in message.events)
        if message.synced:
            return seen, watch_pb2.ResumePoint(instance=message.instance, revision=message.revision)
        assert message.revision == 0
    raise AssertionError("the stream ended")


async def changes_of(
    call: AsyncIterator[service_pb2.WatchServicesResponse], count: int
) -> list[tuple[int, str, int]]:
    """The next ``count`` events."""
    seen: list[tuple[int, str, int]] = []
    while len(seen) < count:
        message = await anext(call)
        seen.extend(
            (event.type, event.service.name, event.service.affinity_timeout_seconds)
            for event in message.events
        )
    return seen


def watch(
    agent: FakeAgent, resume: watch_pb2.ResumePoint | None = None, namespace: str = ""
) -> grpc.aio.UnaryStreamCall[service_pb2.WatchServicesRequest, service_pb2.WatchServicesResponse]:
    request = service_pb2.WatchServicesRequest(resume=resume, namespace=namespace)
    return agent.services.WatchServices(request, timeout=TIMEOUT_S)


async def code_of(call: AsyncIterable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return caught.value


async def test_a_watch_sends_what_is_there_then_a_mark_then_what_changes(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", [service("a"), service("b")])
        call = watch(agent)
        assert (await until_synced(call))[0] == ["a", "b"]
        agent.mesh.replace("manifests", [service("a", 5), service("c")])
        stream = aiter(call)
        assert sorted(await changes_of(stream, 3)) == [
            (watch_pb2.EVENT_TYPE_PUT, "a", 5),
            (watch_pb2.EVENT_TYPE_PUT, "c", 0),
            (watch_pb2.EVENT_TYPE_DELETE, "b", 0),
        ]


async def test_a_watch_of_nothing_is_synced_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        assert (await until_synced(watch(agent)))[0] == []


async def test_a_long_list_comes_in_parts_and_whole(tmp_path: Path) -> None:
    names = [f"s{number}" for number in range(1234)]
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", map(service, names))
        assert (await until_synced(watch(agent)))[0] == names


async def test_a_resumed_watch_sends_only_what_happened_since(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", [service("a"), service("b")])
        call = watch(agent)
        resume = (await until_synced(call))[1]
        call.cancel()
        agent.mesh.replace("manifests", [service("a", 5)])
        stream = aiter(watch(agent, resume))
        assert await changes_of(stream, 2) == [
            (watch_pb2.EVENT_TYPE_PUT, "a", 5),
            (watch_pb2.EVENT_TYPE_DELETE, "b", 0),
        ]


async def test_a_reader_of_one_namespace_hears_of_no_other(tmp_path: Path) -> None:
    other = Service(ServiceName("other", "x"), "manifests")
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", [service("a"), other])
        call = watch(agent, namespace="other")
        assert (await until_synced(call))[0] == ["x"]
        agent.mesh.apply("manifests", [service("a", 5)])
        agent.mesh.apply("manifests", [Service(other.name, "manifests", affinity_timeout_s=7)])
        assert await changes_of(aiter(call), 1) == [(watch_pb2.EVENT_TYPE_PUT, "x", 7)]


async def test_a_revision_whose_deletions_are_forgotten_cannot_be_resumed(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", [service("a")])
        resume = (await until_synced(watch(agent)))[1]
        for number in range(5000):
            agent.mesh.apply("manifests", [service(f"gone-{number}")])
            agent.mesh.apply("manifests", deletes=[(Service, service(f"gone-{number}").key)])
        error = await code_of(watch(agent, resume))
        assert error.code() is grpc.StatusCode.OUT_OF_RANGE
        assert "watch again from nothing" in str(error.details())


@pytest.mark.parametrize(
    ("instance", "revision"),
    [("another", 1), ("", 1), (None, 99)],
    ids=["other process", "no process", "future"],
)
async def test_a_revision_of_elsewhere_cannot_be_resumed(
    tmp_path: Path, instance: str | None, revision: int
) -> None:
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", [service("a")])
        known = (await until_synced(watch(agent)))[1]
        resume = watch_pb2.ResumePoint(
            instance=known.instance if instance is None else instance, revision=revision
        )
        assert (await code_of(watch(agent, resume))).code() is grpc.StatusCode.OUT_OF_RANGE


async def test_a_reader_that_reads_nothing_is_cut_off_and_costs_nothing_more(tmp_path: Path) -> None:
    """The stream's window fills, the write stands, and after the patience the call has ended."""
    async with serving(tmp_path, patience_s=0.3) as agent:
        # Some 40 MB: more than gRPC takes on its way.
        agent.mesh.replace("manifests", [service(f"{'s' * 2000}{number}") for number in range(20_000)])
        call = watch(agent)
        await anext(aiter(call))
        async with asyncio.timeout(TIMEOUT_S):
            while agent.server.streams:
                await asyncio.sleep(0)
        assert agent.server.cut_off == 1
        error = await code_of(call)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "nothing was read for 0.3 s" in str(error.details())


async def test_a_slow_reader_gets_the_newest_value_and_not_those_between(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        call = watch(agent)
        await until_synced(call)
        for timeout_s in range(1, 4001):
            agent.mesh.apply("manifests", [service("a", timeout_s)])
        seen: list[int] = []
        stream = aiter(call)
        while not seen or seen[-1] != 4000:
            seen += [timeout_s for _, _, timeout_s in await changes_of(stream, 1)]
        assert len(seen) == 1


async def test_backends_are_watched_slice_by_slice(tmp_path: Path) -> None:
    def part(*addresses: str) -> BackendSlice:
        backends = tuple(
            Backend(parse_address(one), (BackendPort("", Protocol.TCP, 80),)) for one in addresses
        )
        return BackendSlice(ServiceName("default", "web"), "x", "cluster:cm-2", "cm-2", backends)

    async with serving(tmp_path) as agent:
        agent.mesh.replace("cluster:cm-2", [part("10.0.0.1", "10.0.0.2")])
        stream = aiter(agent.backends.WatchBackends(backend_pb2.WatchBackendsRequest(), timeout=TIMEOUT_S))
        first = await anext(stream)
        assert [one.address for one in first.events[0].backends] == ["10.0.0.1", "10.0.0.2"]
        assert (await anext(stream)).synced
        agent.mesh.replace("cluster:cm-2", [part("10.0.0.2")])
        assert [one.address for one in (await anext(stream)).events[0].backends] == ["10.0.0.2"]
        agent.mesh.forget("cluster:cm-2")
        gone = (await anext(stream)).events[0]
        assert (gone.type, gone.slice, list(gone.backends)) == (watch_pb2.EVENT_TYPE_DELETE, "x", [])


async def test_states_of_clusters_are_watched(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        stream = aiter(agent.clusters.WatchClusters(cluster_pb2.WatchClustersRequest(), timeout=TIMEOUT_S))
        assert (await anext(stream)).synced
        agent.mesh.apply("peers", [Cluster("cm-2", "peers", 2, state=ClusterState.STALE, reason="no route")])
        cluster = (await anext(stream)).events[0].cluster
        assert (cluster.name, cluster.state, cluster.reason) == (
            "cm-2",
            cluster_pb2.CLUSTER_STATE_STALE,
            "no route",
        )
        assert cluster.peer.services == 5
