"""meshd.v1.ServiceService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import structlog

from meshd.api.v1 import service_pb2, service_pb2_grpc, watch_pb2
from meshd.errors import OwnedByOther, UnknownObject
from meshd.model import Service, ServiceName
from meshd.servers.control.callers import Context, current_caller
from meshd.servers.control.changes import Change, Changes
from meshd.servers.control.outcome import until_settled
from meshd.servers.control.pages import messages, page
from meshd.servers.control.replies import Replies, plan_key
from meshd.servers.control.requests import SOURCE, service_from, service_name
from meshd.servers.control.watch import Watch
from meshd.servers.introspection import Introspection
from meshd.state import Mesh
from meshd.state.table import Change as Changed

log = structlog.get_logger(__name__)

Key = tuple[str, ServiceName]


@dataclass(frozen=True, slots=True)
class Services(service_pb2_grpc.ServiceServiceServicer):
    """Services of the mesh; those of source "api" can be changed."""

    mesh: Mesh
    introspection: Introspection
    changes: Changes

    async def GetService(
        self, request: service_pb2.GetServiceRequest, context: Context
    ) -> service_pb2.GetServiceResponse:
        name = ServiceName(request.namespace, request.name)
        found = self.mesh.services.get((request.source, name)) if request.source else self.mesh.service(name)
        if found is None:
            raise UnknownObject(
                f"service {name}" + (f" of source {request.source}" if request.source else "")
            )
        return service_pb2.GetServiceResponse(service=self._replies().service(found))

    async def ListServices(
        self, request: service_pb2.ListServicesRequest, context: Context
    ) -> service_pb2.ListServicesResponse:
        names = [
            (name.namespace, name.name, source)
            for (source, name), _ in self.mesh.services.items()
            if request.namespace in {"", name.namespace} and request.source in {"", source}
        ]
        shown, token = await page(names, request.page_size, request.page_token)
        replies = self._replies()
        found = (self.mesh.services.get((source, ServiceName(*name))) for *name, source in shown)
        services, _ = await messages(found, lambda value: [replies.service(value)] if value else [])
        return service_pb2.ListServicesResponse(
            services=services, next_page_token=token, revision=self.mesh.revision
        )

    async def WatchServices(
        self, request: service_pb2.WatchServicesRequest, context: Context
    ) -> AsyncIterator[service_pb2.WatchServicesResponse]:
        def events(changes: Sequence[Changed[Key, Service]]) -> list[service_pb2.ServiceEvent]:
            replies = self._replies()
            return [
                service_event(replies, change)
                for change in changes
                if request.namespace in {"", change.key[1].namespace}
            ]

        def respond(
            events: list[service_pb2.ServiceEvent], revision: int, synced: bool
        ) -> service_pb2.WatchServicesResponse:
            return service_pb2.WatchServicesResponse(
                events=events, instance=self.mesh.instance, revision=revision, synced=synced
            )

        watch = Watch(self.mesh, self.mesh.services, events, respond)
        async for message in watch.stream(request.resume):
            yield message

    async def ApplyService(
        self, request: service_pb2.ApplyServiceRequest, context: Context
    ) -> service_pb2.ApplyServiceResponse:
        value = service_from(request.service)

        def check() -> None:
            refuse_foreign(self.mesh, value.name)

        check()
        if request.validate_only:
            return service_pb2.ApplyServiceResponse(service=request.service, revision=self.mesh.revision)
        revision = await self.changes.make(Change(puts=(value,), check=check))
        self._log("service applied", value.name, revision)
        if request.wait or not request.HasField("wait"):
            await until_settled(self.mesh, context, revision, plan_key(value.name), f"service {value.name}")
        return service_pb2.ApplyServiceResponse(service=self._replies().service(value), revision=revision)

    async def DeleteService(
        self, request: service_pb2.DeleteServiceRequest, context: Context
    ) -> service_pb2.DeleteServiceResponse:
        name = service_name("", request.namespace, request.name)
        key = (SOURCE, name)
        existed = key in self.mesh.services
        if not existed:
            refuse_foreign(self.mesh, name)
            return service_pb2.DeleteServiceResponse(existed=False, revision=self.mesh.revision)
        revision = await self.changes.make(Change(deletes=((Service, key),)))
        self._log("service deleted", name, revision)
        if request.wait or not request.HasField("wait"):
            await until_settled(self.mesh, context, revision, plan_key(name), f"deletion of service {name}")
        return service_pb2.DeleteServiceResponse(existed=existed, revision=revision)

    def _replies(self) -> Replies:
        return Replies(self.mesh, self.introspection)

    def _log(self, event: str, name: ServiceName, revision: int) -> None:
        caller = current_caller()
        log.info(
            event, service=str(name), revision=revision, caller=caller.name, role=caller.role.name.lower()
        )


def refuse_foreign(mesh: Mesh, name: ServiceName) -> None:
    """Go on only if no other source's service of that name is in force.

    Raises:
        OwnedByOther: names the source.
    """
    owner = mesh.owner(name)
    if owner not in {None, SOURCE}:
        raise OwnedByOther(f"service {name}", str(owner))


def service_event(replies: Replies, change: Changed[Key, Service]) -> service_pb2.ServiceEvent:
    """What happened to a service; a deleted one has its name and source only."""
    if change.value is not None:
        return service_pb2.ServiceEvent(type=watch_pb2.EVENT_TYPE_PUT, service=replies.service(change.value))
    source, name = change.key
    gone = service_pb2.Service(namespace=name.namespace, name=name.name, source=source)
    return service_pb2.ServiceEvent(type=watch_pb2.EVENT_TYPE_DELETE, service=gone)
