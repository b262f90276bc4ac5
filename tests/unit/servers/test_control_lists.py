"""Lists, single objects, status, maps, health and reflection over gRPC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from meshd.api.v1 import backend_pb2, cluster_pb2, map_pb2, node_pb2, service_pb2, status_pb2
from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Cluster,
    ClusterState,
    Frontend,
    Node,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from tests.fakes.agent import FakeAgent, serving

TIMEOUT_S = 20.0


def services(count: int, source: str = "manifests") -> list[Service]:
    return [Service(ServiceName(f"ns{number % 3}", f"s{number:04}"), source) for number in range(count)]


async def all_pages(agent: FakeAgent, page_size: int) -> tuple[int, list[str]]:
    """How many pages, and the names on them."""
    pages, names, token = 0, [], ""
    while True:
        request = service_pb2.ListServicesRequest(page_size=page_size, page_token=token)
        answer = await agent.services.ListServices(request, timeout=TIMEOUT_S)
        pages += 1
        names += [f"{one.namespace}/{one.name}/{one.source}" for one in answer.services]
        token = answer.next_page_token
        if not token:
            return pages, names


@pytest.mark.parametrize(
    ("page_size", "pages"), [(1, 10), (3, 4), (5, 2), (9, 2), (10, 1), (0, 1), (5000, 1)]
)
async def test_pages_hold_every_service_once_and_in_order(tmp_path: Path, page_size: int, pages: int) -> None:
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", reversed(services(10)))
        expected = sorted(f"{one.name}/manifests" for one in services(10))
        assert await all_pages(agent, page_size) == (pages, expected)


async def test_more_services_than_one_turn_of_the_loop_looks_at_are_in_order_too(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", reversed(services(9000)))
        expected = sorted(f"{one.name}/manifests" for one in services(9000))
        assert await all_pages(agent, 1000) == (9, expected)


async def test_a_page_token_of_elsewhere_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        request = service_pb2.ListServicesRequest(page_token="x")  # noqa: S106 - no secret
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await agent.services.ListServices(request, timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_services_of_all_sources_are_listed_with_who_is_in_force(tmp_path: Path) -> None:
    name = ServiceName("default", "web")
    async with serving(tmp_path) as agent:
        agent.mesh.replace("kubernetes", [Service(name, "kubernetes")])
        agent.mesh.listing("manifests")
        agent.mesh.apply("manifests", [Service(name, "manifests")])
        await agent.mesh.settled(agent.mesh.revision)
        answer = await agent.services.ListServices(service_pb2.ListServicesRequest(), timeout=TIMEOUT_S)
        assert [
            (one.source, one.status.programmed, one.status.reason, one.status.stale)
            for one in answer.services
        ] == [
            ("kubernetes", service_pb2.PROGRAMMED_SETTLED, "", False),
            ("manifests", service_pb2.PROGRAMMED_OVERRIDDEN, "overridden by kubernetes", True),
        ]
        request = service_pb2.GetServiceRequest(namespace="default", name="web")
        assert (await agent.services.GetService(request, timeout=TIMEOUT_S)).service.source == "kubernetes"


async def test_a_service_says_where_else_it_is_dialled_and_what_of_it_is_not_in_force(tmp_path: Path) -> None:
    frontend = Frontend(parse_address("192.0.2.1"), 30080, Protocol.TCP, "http")
    remark = "spec.externalIPs: 8.8.8.8 is not in kubernetes.externalIPs.allowed; left to the network"
    async with serving(tmp_path) as agent:
        name = ServiceName("default", "web")
        agent.mesh.replace(
            "kubernetes", [Service(name, "kubernetes", external=(frontend,), remarks=(remark,))]
        )
        for key in agent.mesh.take_changes():
            agent.mesh.report(key, None)
        request = service_pb2.GetServiceRequest(namespace="default", name="web")
        answer = await agent.services.GetService(request, timeout=TIMEOUT_S)
        (shown,) = answer.service.external
        assert (shown.address, shown.port, shown.port_name) == ("192.0.2.1", 30080, "http")
        assert answer.service.status.programmed == service_pb2.PROGRAMMED_SETTLED
        assert answer.service.status.reason == remark


async def test_backends_of_every_source_are_listed_with_cluster_conditions_and_staleness(
    tmp_path: Path,
) -> None:
    name = ServiceName("default", "web")
    ports = (BackendPort("http", Protocol.TCP, 8080),)
    local = Backend(parse_address("10.1.0.1"), ports, node="n1", zone="z1", weight=3)
    leaving = Backend(parse_address("fd00::2"), ports, ready=False, terminating=True)
    async with serving(tmp_path) as agent:
        agent.mesh.replace(
            "manifests", [Service(name, "manifests"), BackendSlice(name, "a", "manifests", "cm-1", (local,))]
        )
        agent.mesh.replace("cluster:cm-2", [BackendSlice(name, "b", "cluster:cm-2", "cm-2", (leaving,))])
        agent.mesh.mark_stale("cluster:cm-2", "etcd does not answer")
        answer = await agent.backends.ListBackends(backend_pb2.ListBackendsRequest(), timeout=TIMEOUT_S)
        assert [
            (
                one.cluster,
                one.address,
                one.ready,
                one.serving,
                one.terminating,
                one.stale,
                one.weight,
                one.node,
            )
            for one in answer.backends
        ] == [
            ("cm-2", "fd00::2", False, True, True, True, 100, ""),
            ("cm-1", "10.1.0.1", True, True, False, False, 3, "n1"),
        ]


async def test_backends_of_one_service_are_found_by_name(tmp_path: Path) -> None:
    names = [ServiceName("default", "web"), ServiceName("default", "other")]
    backend = Backend(parse_address("10.1.0.1"), (BackendPort("", Protocol.TCP, 1),))
    async with serving(tmp_path) as agent:
        agent.mesh.replace(
            "manifests", [BackendSlice(name, "a", "manifests", "cm-1", (backend,)) for name in names]
        )
        request = backend_pb2.ListBackendsRequest(namespace="default", service="web")
        answer = await agent.backends.ListBackends(request, timeout=TIMEOUT_S)
        assert [(one.service, one.address) for one in answer.backends] == [("web", "10.1.0.1")]


async def test_pages_of_backends_never_split_a_slice_and_hold_every_backend_once(tmp_path: Path) -> None:
    ports = (BackendPort("", Protocol.TCP, 1),)
    parts = [
        BackendSlice(
            ServiceName("default", f"s{number:02}"),
            "a",
            "manifests",
            "cm-1",
            tuple(Backend(parse_address(f"10.1.{number}.{last}"), ports) for last in range(3)),
        )
        for number in range(10)
    ]
    sizes: list[int] = []
    seen, token = [], ""
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", parts)
        while token or not sizes:
            request = backend_pb2.ListBackendsRequest(page_size=4, page_token=token)
            answer = await agent.backends.ListBackends(request, timeout=TIMEOUT_S)
            sizes.append(len(answer.backends))
            seen += [one.address for one in answer.backends]
            token = answer.next_page_token
    assert sizes == [6] * 5
    assert seen == [f"10.1.{number}.{last}" for number in range(10) for last in range(3)]


async def test_what_is_not_there_is_not_found_by_name(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        for call, name in (
            (
                agent.services.GetService(service_pb2.GetServiceRequest(namespace="a", name="b")),
                "service a/b",
            ),
            (agent.nodes.GetNode(node_pb2.GetNodeRequest(name="n9")), "node cm-1/n9"),
            (agent.clusters.GetCluster(cluster_pb2.GetClusterRequest(name="cm-9")), "cluster cm-9"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert caught.value.details() == f"{name} does not exist"


async def test_nodes_and_clusters_are_listed(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.mesh.replace(
            "manifests",
            [
                Node("cm-1", "n1", "manifests", (parse_address("10.0.0.1"),), ("10.1.0.0/24",), "z1"),
                Cluster("cm-2", "manifests", 2, state=ClusterState.SYNCED, since_s=1700000000.5),
            ],
        )
        nodes = await agent.nodes.ListNodes(node_pb2.ListNodesRequest(), timeout=TIMEOUT_S)
        assert [(one.name, list(one.addresses), list(one.pod_cidrs)) for one in nodes.nodes] == [
            ("n1", ["10.0.0.1"], ["10.1.0.0/24"])
        ]
        clusters = await agent.clusters.ListClusters(cluster_pb2.ListClustersRequest(), timeout=TIMEOUT_S)
        found = clusters.clusters[0]
        assert (found.name, found.id, found.since.ToNanoseconds()) == ("cm-2", 2, 1700000000500000000)
        assert dict(found.peer.refused) == {"wrong cluster": 2}


async def test_status_says_what_is_there_what_is_missing_and_what_to_worry_about(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", services(3))
        agent.mesh.listing("cluster:cm-2")
        status = await agent.status.GetStatus(status_pb2.GetStatusRequest(), timeout=TIMEOUT_S)
        assert (status.node, status.cluster, status.services) == ("n1", "cm-1", 3)
        assert status.version.commit == "abc123"
        assert [(one.name, one.complete_once, one.services) for one in status.sources] == [
            ("api", True, 0),
            ("cluster:cm-2", False, 0),
            ("manifests", True, 3),
        ]
        assert [one.name for one in status.features if not one.present] == ["fentry"]
        assert list(status.warnings) == [
            "source cluster:cm-2 has not listed yet, nothing of it is deleted until it has listed",
            "map slots is 95% full; raise maps.slots",
        ]
        assert status.figures[0].labels["service"] == "default/web"


async def test_the_configuration_is_shown_with_the_names_of_files_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        answer = await agent.status.GetConfig(status_pb2.GetConfigRequest(), timeout=TIMEOUT_S)
        assert yaml.safe_load(answer.yaml)["nodeName"] == "n1"


async def test_a_map_is_dumped_by_field_with_all_bits(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        entries = [
            entry
            async for answer in agent.maps.DumpMap(map_pb2.DumpMapRequest(name="slots"), timeout=TIMEOUT_S)
            for entry in answer.entries
        ]
        assert len(entries) == 1200
        assert json.loads(entries[7].key) == {"number": 7, "address": "0a600001"}
        assert json.loads(entries[7].value) == {"weight": 2**63 + 7}


async def test_a_map_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        call = agent.maps.DumpMap(map_pb2.DumpMapRequest(name="x"), timeout=TIMEOUT_S)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(call))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_maps_are_listed_with_what_they_hold(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        answer = await agent.maps.ListMaps(map_pb2.ListMapsRequest(), timeout=TIMEOUT_S)
        assert [(one.name, one.HasField("entries"), one.entries) for one in answer.maps] == [
            ("counters", False, 0),
            ("slots", True, 950),
        ]


@pytest.mark.parametrize("service", ["", "meshd.v1.ServiceService", "meshd.v1.StatusService"])
async def test_health_is_serving_overall_and_for_each_service(tmp_path: Path, service: str) -> None:
    async with serving(tmp_path) as agent:
        stub: Any = health_pb2_grpc.HealthStub(agent.channel)  # its types name no method
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        async for change in stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S):
            assert change.status == health_pb2.HealthCheckResponse.SERVING
            break


async def test_reflection_names_the_services(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        # Any: its types know blocking channels only.
        channel: Any = agent.channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = await anext(aiter(stub.ServerReflectionInfo(iter([request]), timeout=TIMEOUT_S)))
        names = {one.name for one in answer.list_services_response.service}
        assert {"meshd.v1.ServiceService", "grpc.health.v1.Health"} <= names
