"""meshd.v1.BackendService: a backend of source "api" is a slice of its own, named like its address."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import structlog

from meshd.api.v1 import backend_pb2, backend_pb2_grpc, watch_pb2
from meshd.errors import InvalidObject, UnknownObject
from meshd.model import Address, BackendSlice, ServiceName, format_address, parse_address
from meshd.servers.control.callers import Context, current_caller
from meshd.servers.control.changes import Change, Changes
from meshd.servers.control.outcome import until_settled
from meshd.servers.control.pages import PAGE_MAX, encode, messages, page
from meshd.servers.control.replies import Replies, plan_key
from meshd.servers.control.requests import SOURCE, backend_from, service_name
from meshd.servers.control.services import refuse_foreign
from meshd.servers.control.watch import Watch
from meshd.servers.introspection import Introspection
from meshd.state import Mesh
from meshd.state.table import Change as Changed

log = structlog.get_logger(__name__)

Key = tuple[str, ServiceName, str]


@dataclass(frozen=True, slots=True)
class Backends(backend_pb2_grpc.BackendServiceServicer):
    """Backends of the mesh; those of source "api" can be changed. ``cluster`` is this agent's."""

    mesh: Mesh
    introspection: Introspection
    changes: Changes
    cluster: str

    async def GetBackend(
        self, request: backend_pb2.GetBackendRequest, context: Context
    ) -> backend_pb2.GetBackendResponse:
        service = ServiceName(request.namespace, request.service)
        source = request.source or SOURCE
        address = address_in(request.address)
        replies = Replies(self.mesh, self.introspection)
        for part in self.mesh.slices_of(service):
            if part.source != source:
                continue
            for backend, message in zip(part.backends, replies.backends(part), strict=True):
                if backend.address == address:
                    return backend_pb2.GetBackendResponse(backend=message)
        raise UnknownObject(f"backend {request.address} of {service} of source {source}")

    async def ListBackends(
        self, request: backend_pb2.ListBackendsRequest, context: Context
    ) -> backend_pb2.ListBackendsResponse:
        names = [
            (service.namespace, service.name, source, slice_name)
            for source, service, slice_name in self._keys(request)
            if request.source in {"", source} and wanted(request, service)
        ]
        shown, token = await page(names, request.page_size, request.page_token)
        replies = Replies(self.mesh, self.introspection)
        parts = (
            self.mesh.slices.get((source, ServiceName(namespace, name), slice_name))
            for namespace, name, source, slice_name in shown
        )
        limit = min(request.page_size, PAGE_MAX) or PAGE_MAX
        backends, taken = await messages(parts, lambda part: replies.backends(part) if part else (), limit)
        if taken < len(shown):
            token = encode(shown[taken - 1])
        return backend_pb2.ListBackendsResponse(
            backends=backends, next_page_token=token, revision=self.mesh.revision
        )

    async def WatchBackends(
        self, request: backend_pb2.WatchBackendsRequest, context: Context
    ) -> AsyncIterator[backend_pb2.WatchBackendsResponse]:
        def events(changes: Sequence[Changed[Key, BackendSlice]]) -> list[backend_pb2.BackendSliceEvent]:
            replies = Replies(self.mesh, self.introspection)
            return [slice_event(replies, change) for change in changes if wanted(request, change.key[1])]

        def respond(
            events: list[backend_pb2.BackendSliceEvent], revision: int, synced: bool
        ) -> backend_pb2.WatchBackendsResponse:
            return backend_pb2.WatchBackendsResponse(
                events=events, instance=self.mesh.instance, revision=revision, synced=synced
            )

        watch = Watch(self.mesh, self.mesh.slices, events, respond)
        async for message in watch.stream(request.resume):
            yield message

    async def ApplyBackend(
        self, request: backend_pb2.ApplyBackendRequest, context: Context
    ) -> backend_pb2.ApplyBackendResponse:
        part = backend_from(request.backend, self.cluster)
        name = f"backend {part.name} of {part.service}"

        def check() -> None:
            if self.mesh.service(part.service) is None:
                raise UnknownObject(f"service {part.service}")
            # Backends count only from the source whose service is in force.
            refuse_foreign(self.mesh, part.service)

        check()
        if request.validate_only:
            return backend_pb2.ApplyBackendResponse(backend=request.backend, revision=self.mesh.revision)
        revision = await self.changes.make(Change(puts=(part,), check=check))
        self._log("backend applied", part.service, part.name, revision)
        if request.wait or not request.HasField("wait"):
            await until_settled(self.mesh, context, revision, plan_key(part.service), name)
        (message,) = Replies(self.mesh, self.introspection).backends(part)
        return backend_pb2.ApplyBackendResponse(backend=message, revision=revision)

    async def DeleteBackend(
        self, request: backend_pb2.DeleteBackendRequest, context: Context
    ) -> backend_pb2.DeleteBackendResponse:
        service = service_name("", request.namespace, request.service, "backend of")
        slice_name = format_address(address_in(request.address))
        key = (SOURCE, service, slice_name)
        if key not in self.mesh.slices:
            refuse_foreign(self.mesh, service)
            return backend_pb2.DeleteBackendResponse(existed=False, revision=self.mesh.revision)
        revision = await self.changes.make(Change(deletes=((BackendSlice, key),)))
        self._log("backend deleted", service, slice_name, revision)
        if request.wait or not request.HasField("wait"):
            name = f"deletion of backend {slice_name} of {service}"
            await until_settled(self.mesh, context, revision, plan_key(service), name)
        return backend_pb2.DeleteBackendResponse(existed=True, revision=revision)

    def _keys(self, request: backend_pb2.ListBackendsRequest) -> Iterator[Key]:
        if request.namespace and request.service:
            return (part.key for part in self.mesh.slices_of(ServiceName(request.namespace, request.service)))
        return (key for key, _ in self.mesh.slices.items())

    def _log(self, event: str, service: ServiceName, backend: str, revision: int) -> None:
        caller = current_caller()
        role = caller.role.name.lower()
        log.info(
            event, service=str(service), backend=backend, revision=revision, caller=caller.name, role=role
        )


def address_in(text: str) -> Address:
    """The address in a request.

    Raises:
        InvalidObject: it is none.
    """
    try:
        return parse_address(text)
    except ValueError as error:
        raise InvalidObject("backend", "address", str(error)) from error


def wanted(
    request: backend_pb2.ListBackendsRequest | backend_pb2.WatchBackendsRequest, service: ServiceName
) -> bool:
    """Whether the caller asked for backends of ``service``."""
    return request.namespace in {"", service.namespace} and request.service in {"", service.name}


def slice_event(replies: Replies, change: Changed[Key, BackendSlice]) -> backend_pb2.BackendSliceEvent:
    """What the slice names now; nothing if it is gone."""
    source, service, name = change.key
    put = change.value is not None
    return backend_pb2.BackendSliceEvent(
        type=watch_pb2.EVENT_TYPE_PUT if put else watch_pb2.EVENT_TYPE_DELETE,
        namespace=service.namespace,
        service=service.name,
        source=source,
        slice=name,
        backends=() if change.value is None else replies.backends(change.value),
    )
