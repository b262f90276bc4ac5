"""From the Mesh to the publisher: the services that this cluster shares, as records, each time one changes.

A record is handed over only when the source of its service has listed completely since the start: half a list would take
backends from remote clusters that are still there. What is not shared any more is taken back by name; what etcd holds from
before and nobody names now, once every local source has listed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

import structlog

from clustermesh.errors import InvalidRecord
from clustermesh.publisher import Publisher
from clustermesh.records import ClusterService, Port, Zone
from meshd.model import Address, Backend, Service, ServiceName, format_address
from meshd.state import Compacted, Mesh
from meshd.state.mesh import PRECEDENCE
from meshd.state.sharing import is_global

# Services looked at in one turn of the event loop; below 2 ms.
SLICE_SERVICES = 50

log = structlog.get_logger(__name__)

_IP = IPv4Address | IPv6Address


def record_of(mesh: Mesh, service: Service, cluster: str, cluster_id: int) -> ClusterService | None:
    """What ``cluster`` says of ``service`` to the others; None: nothing, it is not global or not shared.

    Backends that are ready or still serving, of the source that the service is of; those on their way out are named.
    """
    if not (service.shared and is_global(mesh, service)):
        return None
    backends = [
        backend
        for part in mesh.slices_of(service.name)
        if part.source == service.source
        for backend in part.backends
        if backend.ready or backend.serving or (service.publish_not_ready and not backend.terminating)
    ]
    backends.sort(key=lambda backend: backend.address)
    frontends: dict[_IP, dict[str, Port]] = {}
    for frontend in service.frontends:
        ports = frontends.setdefault(_ip(frontend.address), {})
        ports[frontend.port_name] = Port(frontend.protocol.name, frontend.port)
    return ClusterService(
        cluster=cluster,
        namespace=service.name.namespace,
        name=service.name.name,
        cluster_id=cluster_id,
        frontends=frontends,
        backends=_by_address(backends),
        zones={_ip(backend.address): Zone(backend.zone) for backend in backends if backend.zone},
        terminating=tuple(_ip(backend.address) for backend in backends if backend.terminating),
    )


class Publishing:
    """Keeps ``publisher`` told of what ``cluster`` shares, while ``run`` runs."""

    def __init__(self, mesh: Mesh, publisher: Publisher, cluster: str, cluster_id: int) -> None:
        self._mesh = mesh
        self._publisher = publisher
        self._cluster = cluster
        self._cluster_id = cluster_id
        self._published: set[ServiceName] = set()
        self._refused: dict[ServiceName, str] = {}

    @property
    def refused(self) -> Mapping[ServiceName, str]:
        """Services that cannot be published as they are, and why; what was published of them before stands."""
        return dict(self._refused)

    async def run(self) -> None:
        """Until cancelled."""
        complete: frozenset[str] | None = None
        revision = 0
        while True:
            now_complete, now = self._complete_sources(), self._mesh.revision
            names = self._changed(revision) if now_complete == complete else self._all()
            first_time = now_complete != complete and self._is_complete(now_complete)
            complete, revision = now_complete, now
            await self._tell(names)
            if first_time:
                self._tell_that_this_is_all()
            if (self._mesh.revision, self._complete_sources()) == (revision, complete):
                await self._mesh.moved()

    def _complete_sources(self) -> frozenset[str]:
        return frozenset(name for name in self._local_sources() if self._mesh.is_complete(name))

    def _local_sources(self) -> list[str]:
        return [name for name in self._mesh.sources if name in PRECEDENCE]

    def _is_complete(self, complete: frozenset[str]) -> bool:
        return bool(complete) and complete.issuperset(self._local_sources())

    def _all(self) -> set[ServiceName]:
        return {*self._mesh.service_names(), *self._published}

    def _changed(self, revision: int) -> set[ServiceName]:
        mesh = self._mesh
        try:
            names = {change.key[1] for change in mesh.services.changes(revision)}
            names |= {change.key[1] for change in mesh.slices.changes(revision)}
            namespaces = {change.key[1] for change in mesh.namespaces.changes(revision)}
        except Compacted:
            return self._all()
        if namespaces:
            names |= {name for name in self._all() if name.namespace in namespaces}
        return names

    async def _tell(self, names: Iterable[ServiceName]) -> None:
        for count, name in enumerate(names):
            self._tell_one(name)
            if count % SLICE_SERVICES == SLICE_SERVICES - 1:
                await asyncio.sleep(0)

    def _tell_one(self, name: ServiceName) -> None:
        service = self._mesh.service(name)
        if service is not None and not self._is_exact(service):
            return
        record = self._record(service) if service is not None else None
        if record is not None:
            self._upsert(name, record)
        elif name in self._published:
            self._publisher.delete(name.namespace, name.name)
            self._published.discard(name)
            self._refused.pop(name, None)

    def _upsert(self, name: ServiceName, record: ClusterService) -> None:
        try:
            self._publisher.upsert(record)
        except InvalidRecord as error:
            reason = f"{error.field}: {error.reason}"
            if self._refused.get(name) != reason:
                log.error(
                    "service cannot be published", service=str(name), field=error.field, reason=error.reason
                )
            self._refused[name] = reason
            return
        self._published.add(name)
        self._refused.pop(name, None)

    def _tell_that_this_is_all(self) -> None:
        services = (self._mesh.service(name) for name in self._mesh.service_names())
        records = (
            self._record(service) for service in services if service is not None and self._is_exact(service)
        )
        self._publisher.set_services([record for record in records if record is not None], complete=True)
        log.info("what this cluster shares is complete", services=len(self._published))

    def _record(self, service: Service) -> ClusterService | None:
        return record_of(self._mesh, service, self._cluster, self._cluster_id)

    def _is_exact(self, service: Service) -> bool:
        return service.source in PRECEDENCE and self._mesh.is_complete(service.source)


def _by_address(backends: Iterable[Backend]) -> dict[_IP, dict[str, Port]]:
    found: dict[_IP, dict[str, Port]] = {}
    for backend in backends:
        ports = found.setdefault(_ip(backend.address), {})
        ports.update({port.port_name: Port(port.protocol.name, port.port) for port in backend.ports})
    return found


def _ip(address: Address) -> _IP:
    return ip_address(format_address(address))
