"""Apply and delete over gRPC: checked, on disk, in force, settled; and every way in which they are refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo
from google.rpc.status_pb2 import Status
from structlog.testing import capture_logs

from meshd.api.v1 import backend_pb2, service_pb2
from meshd.api.v1.service_pb2 import PROTOCOL_TCP, PROTOCOL_UDP
from meshd.errors import MapFull
from meshd.model import Service, ServiceName
from meshd.state import PlanKey
from tests.fakes.agent import serving

Answer = TypeVar("Answer")

TIMEOUT_S = 20.0


def web(**changed: object) -> service_pb2.Service:
    frontend = service_pb2.Frontend(address="10.96.0.1", port=80, protocol=PROTOCOL_TCP, port_name="http")
    fields: dict[str, object] = {"namespace": "default", "name": "web", "frontends": [frontend]}
    return service_pb2.Service(**(fields | changed))  # type: ignore[arg-type] # fields of all types


def backend(address: str = "10.1.0.5", **changed: object) -> backend_pb2.Backend:
    port = backend_pb2.BackendPort(port_name="http", protocol=PROTOCOL_TCP, port=8080)
    fields: dict[str, object] = {
        "namespace": "default",
        "service": "web",
        "address": address,
        "ports": [port],
    }
    return backend_pb2.Backend(**(fields | changed))  # type: ignore[arg-type] # fields of all types


def apply(message: service_pb2.Service, **options: bool) -> service_pb2.ApplyServiceRequest:
    return service_pb2.ApplyServiceRequest(service=message, **options)


async def refusal(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def details(error: grpc.aio.AioRpcError) -> Status:
    trailers = dict(error.trailing_metadata() or ())
    return Status.FromString(trailers["grpc-status-details-bin"])


def detail(error: grpc.aio.AioRpcError, kind: type[Answer]) -> Answer:
    for packed in details(error).details:
        if packed.Is(kind.DESCRIPTOR):  # type: ignore[attr-defined] # every message has one
            found = kind()
            packed.Unpack(found)
            return found
    raise AssertionError(f"no {kind.__name__} in {details(error)}")


async def test_an_applied_service_is_in_force_and_settled_when_the_answer_comes(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        answer = await agent.services.ApplyService(apply(web()), timeout=TIMEOUT_S)
        assert PlanKey("service", "default/web") in agent.dataplane.seen
        assert agent.mesh.owner(ServiceName("default", "web")) == "api"
        assert answer.revision == agent.mesh.revision
        assert answer.service.status.programmed == service_pb2.PROGRAMMED_SETTLED


async def test_what_was_applied_and_deleted_is_remembered_by_the_next_start(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        for name in ("web", "goner"):
            await agent.services.ApplyService(apply(web(name=name)), timeout=TIMEOUT_S)
        await agent.backends.ApplyBackend(
            backend_pb2.ApplyBackendRequest(backend=backend(weight=7)), timeout=TIMEOUT_S
        )
        request = service_pb2.DeleteServiceRequest(namespace="default", name="goner")
        assert (await agent.services.DeleteService(request, timeout=TIMEOUT_S)).existed
    async with serving(tmp_path) as agent:
        listed = await agent.services.ListServices(service_pb2.ListServicesRequest(), timeout=TIMEOUT_S)
        found = await agent.backends.ListBackends(backend_pb2.ListBackendsRequest(), timeout=TIMEOUT_S)
        assert [service.name for service in listed.services] == ["web"]
        assert [(one.address, one.weight, one.source) for one in found.backends] == [("10.1.0.5", 7, "api")]
        assert agent.mesh.is_complete("api")


async def test_a_ladder_is_kept_over_a_restart_and_shown_as_it_was_said(tmp_path: Path) -> None:
    ladder = "local, cluster:cm-2 weight 3 + cluster:cm-3 weight 1, any"
    async with serving(tmp_path) as agent:
        laddered = web(failover=ladder, min_healthy_percent=40, ramp_seconds=60, close_on_failover=True)
        await agent.services.ApplyService(apply(laddered), timeout=TIMEOUT_S)
    async with serving(tmp_path) as agent:
        request = service_pb2.GetServiceRequest(namespace="default", name="web")
        found = (await agent.services.GetService(request, timeout=TIMEOUT_S)).service
        assert (found.failover, found.min_healthy_percent, found.ramp_seconds) == (ladder, 40, 60)
        assert found.close_on_failover


async def test_a_bad_ladder_and_a_bad_minimum_are_named(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        bad = web(failover="local, near", min_healthy_percent=101, ramp_seconds=86401)
        error = await refusal(agent.services.ApplyService(apply(bad), timeout=TIMEOUT_S))
        found = {each.field: each.description for each in detail(error, BadRequest).field_violations}
        wrong = {"service.failover", "service.min_healthy_percent", "service.ramp_seconds"}
        assert set(found) == wrong
        assert "service default/web: 'near' is not one of" in found["service.failover"]
        assert not list(agent.mesh.services.values())


async def test_a_change_is_on_disk_before_the_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.open.clear()
        await agent.services.ApplyService(apply(web(), wait=False), timeout=TIMEOUT_S)
        journal = agent.config.state_dir / "journal" / "api.journal"
        assert '"name":["default","web"]' in journal.read_text()


async def test_many_changes_at_once_are_all_made_in_the_order_of_one_journal(tmp_path: Path) -> None:
    names = [f"web-{number}" for number in range(200)]
    async with serving(tmp_path) as agent:
        await asyncio.gather(
            *(agent.services.ApplyService(apply(web(name=name)), timeout=TIMEOUT_S) for name in names)
        )
    async with serving(tmp_path) as agent:
        assert sorted(service.name.name for service in agent.mesh.services.values()) == sorted(names)


async def test_a_name_that_another_source_owns_is_refused_with_the_owner(tmp_path: Path) -> None:
    name = ServiceName("default", "web")
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", [Service(name, "manifests")])
        delete = service_pb2.DeleteServiceRequest(namespace="default", name="web")
        add = backend_pb2.ApplyBackendRequest(backend=backend())
        for call in (
            agent.services.ApplyService(apply(web()), timeout=TIMEOUT_S),
            agent.services.DeleteService(delete, timeout=TIMEOUT_S),
            agent.backends.ApplyBackend(add, timeout=TIMEOUT_S),
        ):
            error = await refusal(call)
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert detail(error, ResourceInfo).owner == "manifests"
            assert detail(error, ResourceInfo).resource_name == "service default/web"
        assert list(agent.mesh.services.values()) == [Service(name, "manifests")]


async def test_a_service_that_another_source_took_over_can_still_be_deleted(tmp_path: Path) -> None:
    name = ServiceName("default", "web")
    async with serving(tmp_path) as agent:
        await agent.services.ApplyService(apply(web()), timeout=TIMEOUT_S)
        agent.mesh.replace("manifests", [Service(name, "manifests")])
        request = service_pb2.GetServiceRequest(namespace="default", name="web", source="api")
        found = (await agent.services.GetService(request, timeout=TIMEOUT_S)).service
        assert found.status.programmed == service_pb2.PROGRAMMED_OVERRIDDEN
        assert found.status.reason == "overridden by manifests"
        delete = service_pb2.DeleteServiceRequest(namespace="default", name="web")
        assert (await agent.services.DeleteService(delete, timeout=TIMEOUT_S)).existed


async def test_deleting_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        delete = service_pb2.DeleteServiceRequest(namespace="default", name="web")
        assert not (await agent.services.DeleteService(delete, timeout=TIMEOUT_S)).existed
        gone = backend_pb2.DeleteBackendRequest(namespace="default", service="web", address="10.1.0.5")
        assert not (await agent.backends.DeleteBackend(gone, timeout=TIMEOUT_S)).existed


async def test_a_backend_of_a_service_that_nobody_names_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        request = backend_pb2.ApplyBackendRequest(backend=backend())
        error = await refusal(agent.backends.ApplyBackend(request, timeout=TIMEOUT_S))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert detail(error, ResourceInfo).resource_name == "service default/web"


async def test_rows_that_the_kernel_refuses_are_named_in_the_answer_and_the_change_stands(
    tmp_path: Path,
) -> None:
    key = PlanKey("service", "default/web")
    async with serving(tmp_path) as agent:
        agent.dataplane.refused[key] = MapFull("slots", 9, 3)
        error = await refusal(agent.services.ApplyService(apply(web()), timeout=TIMEOUT_S))
        assert error.code() is grpc.StatusCode.ABORTED
        assert detail(error, ResourceInfo).resource_name == "service default/web"
        assert "9 entries needed, 3 free" in detail(error, ResourceInfo).description
        request = service_pb2.GetServiceRequest(namespace="default", name="web")
        found = (await agent.services.GetService(request, timeout=TIMEOUT_S)).service
        assert found.status.programmed == service_pb2.PROGRAMMED_FAILED


async def test_somebody_elses_failed_rows_do_not_fail_the_caller(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.refused[PlanKey("service", "default/bad")] = MapFull("slots", 9, 3)
        await refusal(agent.services.ApplyService(apply(web(name="bad")), timeout=TIMEOUT_S))
        await agent.services.ApplyService(apply(web()), timeout=TIMEOUT_S)


async def test_a_deadline_says_that_the_change_is_accepted_and_at_which_revision(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.open.clear()
        error = await refusal(agent.services.ApplyService(apply(web()), timeout=1.0))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert f"accepted at revision {agent.mesh.revision}" in str(error.details())
        assert detail(error, ErrorInfo).reason == "NOT_SETTLED"
        assert detail(error, ErrorInfo).metadata["revision"] == str(agent.mesh.revision)
        assert agent.mesh.owner(ServiceName("default", "web")) == "api"


async def test_validate_only_changes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        await agent.services.ApplyService(apply(web(), validate_only=True), timeout=TIMEOUT_S)
        assert agent.mesh.revision == 0


def frontend(**changed: object) -> service_pb2.Frontend:
    fields: dict[str, object] = {"address": "10.96.0.1", "port": 80, "protocol": "PROTOCOL_TCP"}
    return service_pb2.Frontend(**(fields | changed))  # type: ignore[arg-type] # fields of all types


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (web(name=""), "service.name"),
        (web(name="Web"), "service.name"),
        (web(name="-web"), "service.name"),
        (web(name="w" * 64), "service.name"),
        (web(namespace="a.b"), "service.namespace"),
        (web(frontends=[]), "service.frontends"),
        (web(frontends=[frontend(address="web.example")]), "service.frontends[0].address"),
        (web(frontends=[frontend(address="")]), "service.frontends[0].address"),
        (web(frontends=[frontend(address="127.0.0.1")]), "service.frontends[0].address"),
        (web(frontends=[frontend(address="::")]), "service.frontends[0].address"),
        (web(frontends=[frontend(address="ff02::1")]), "service.frontends[0].address"),
        (web(frontends=[frontend(address="fe80::1%eth0")]), "service.frontends[0].address"),
        (web(frontends=[frontend(port=0)]), "service.frontends[0].port"),
        (web(frontends=[frontend(port=65536)]), "service.frontends[0].port"),
        (web(frontends=[frontend(protocol=0)]), "service.frontends[0].protocol"),
        (web(frontends=[frontend(protocol=99)]), "service.frontends[0].protocol"),
        (web(frontends=[frontend(port_name="HTTP")]), "service.frontends[0].port_name"),
        (web(frontends=[frontend(), frontend(port_name="other")]), "service.frontends[1]"),
        (web(frontends=[frontend(), frontend(address="::ffff:10.96.0.1")]), "service.frontends[1]"),
        (web(affinity_timeout_seconds=86401), "service.affinity_timeout_seconds"),
        (web(affinity=17), "service.affinity"),
        (web(on_stale=17), "service.on_stale"),
    ],
)
async def test_a_service_that_is_wrong_is_refused_by_field(
    tmp_path: Path, message: service_pb2.Service, field: str
) -> None:
    async with serving(tmp_path) as agent:
        error = await refusal(agent.services.ApplyService(apply(message), timeout=TIMEOUT_S))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert [one.field for one in detail(error, BadRequest).field_violations] == [field]
        assert agent.mesh.revision == 0


async def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    message = web(frontends=[frontend(port=0), frontend(address="x")], affinity=17)
    async with serving(tmp_path) as agent:
        error = await refusal(agent.services.ApplyService(apply(message), timeout=TIMEOUT_S))
        assert [one.field for one in detail(error, BadRequest).field_violations] == [
            "service.frontends[0].port",
            "service.frontends[1].address",
            "service.affinity",
        ]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (backend(service=""), "backend.service"),
        (backend("300.1.1.1"), "backend.address"),
        (backend("169.254.0.1"), "backend.address"),
        (backend(ports=[]), "backend.ports"),
        (
            backend(ports=[backend_pb2.BackendPort(port=70000, protocol=PROTOCOL_UDP)]),
            "backend.ports[0].port",
        ),
        (backend(ports=[backend_pb2.BackendPort(port=1, protocol=PROTOCOL_UDP)] * 2), "backend.ports[1]"),
        (backend(weight=65536), "backend.weight"),
        (backend(ready=True, terminating=True), "backend.ready"),
        (backend(ready=True, serving=False), "backend.ready"),
        (backend(node="Node 1"), "backend.node"),
        (backend(zone="a b"), "backend.zone"),
        (backend(cluster="CM"), "backend.cluster"),
    ],
)
async def test_a_backend_that_is_wrong_is_refused_by_field(
    tmp_path: Path, message: backend_pb2.Backend, field: str
) -> None:
    async with serving(tmp_path) as agent:
        await agent.services.ApplyService(apply(web()), timeout=TIMEOUT_S)
        request = backend_pb2.ApplyBackendRequest(backend=message)
        error = await refusal(agent.backends.ApplyBackend(request, timeout=TIMEOUT_S))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert [one.field for one in detail(error, BadRequest).field_violations] == [field]
        assert len(agent.mesh.slices) == 0


async def test_a_terminating_backend_serves_and_is_not_ready(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        await agent.services.ApplyService(apply(web()), timeout=TIMEOUT_S)
        request = backend_pb2.ApplyBackendRequest(backend=backend(terminating=True))
        found = (await agent.backends.ApplyBackend(request, timeout=TIMEOUT_S)).backend
        assert (found.ready, found.serving, found.terminating) == (False, True, True)


async def test_every_change_is_logged_with_who_made_it(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with serving(tmp_path) as agent:
            await agent.services.ApplyService(apply(web()), timeout=TIMEOUT_S)
            request = backend_pb2.ApplyBackendRequest(backend=backend())
            await agent.backends.ApplyBackend(request, timeout=TIMEOUT_S)
            delete = service_pb2.DeleteServiceRequest(namespace="default", name="web")
            await agent.services.DeleteService(delete, timeout=TIMEOUT_S)
    made = [
        (line["event"], line["service"], line["caller"], line["role"]) for line in logs if "caller" in line
    ]
    caller = f"uid {os.getuid()} pid {os.getpid()}"
    assert made == [
        ("service applied", "default/web", caller, "admin"),
        ("backend applied", "default/web", caller, "admin"),
        ("service deleted", "default/web", caller, "admin"),
    ]
