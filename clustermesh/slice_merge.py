"""Endpoint slices of a cluster, told on as its services: one ClusterService for all slices of one service.

So whoever is told of services need not know in which of two forms a cluster writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from clustermesh.addresses import Address
from clustermesh.endpoint_slice import MAX_SERVICE_BACKENDS, EndpointSlice
from clustermesh.errors import InvalidRecord
from clustermesh.records import ClusterService, Ports
from clustermesh.reflector import Copy, Outlet

log = structlog.get_logger()


@dataclass(slots=True)
class SliceCopies:
    """What is known of a cluster's slices, and why some services cannot be made of them, kept across connections."""

    slices: Copy[EndpointSlice] = field(default_factory=Copy)
    too_large: dict[str, str] = field(default_factory=dict)

    def forget_refused(self) -> None:
        """Slices are not read any more."""
        self.slices.refused.clear()
        self.too_large.clear()

    @property
    def refused(self) -> dict[str, str]:
        """Name -> why, of slices that cannot be used now, and of services."""
        found = {f"endpoint slice {name}": reason for name, reason in self.slices.refused.items()}
        return found | {f"service {name}": reason for name, reason in self.too_large.items()}

    @property
    def refusals(self) -> Counter[str]:
        """Field at fault -> how often, ever."""
        return self.slices.refusals


class SliceMerge:
    """Outlet of slices that tells ``outlet`` of services, and keeps ``services`` what it was told last.

    A service that has too many backends is refused and named; its last good version stands.
    """

    def __init__(
        self, copies: SliceCopies, services: Copy[ClusterService], outlet: Outlet[ClusterService]
    ) -> None:
        self._copies = copies
        self._services = services
        self._outlet = outlet
        self._parts: dict[str, dict[str, EndpointSlice]] = {}
        self._service_of: dict[str, str] = {}

    def replace(self, records: Mapping[str, EndpointSlice]) -> None:
        """These are all slices."""
        self._parts, self._service_of, self._copies.too_large = {}, {}, {}
        for one in records.values():
            self._add(one)
        before, told = self._services.records, dict[str, ClusterService]()
        for name in self._parts:
            service = self._merged(name) or before.get(name)
            if service is not None:
                told[name] = service
        self._services.records = told
        self._outlet.replace(dict(told))

    def put(self, name: str, record: EndpointSlice) -> None:
        """``record`` is new or changed."""
        was = self._remove(record.full_name)
        self._add(record)
        # Its label may name another service than before.
        if was is not None and was != record.full_service_name:
            if was in self._parts:
                self._put(was)
            else:
                self._delete([was], 0)
        self._put(record.full_service_name)

    def delete(self, names: Sequence[str], revision: int) -> None:
        """These slices are gone since ``revision``; services that lose all of theirs go together."""
        touched = dict.fromkeys(service for name in names if (service := self._remove(name)) is not None)
        self._delete([service for service in touched if service not in self._parts], revision)
        for service in touched:
            if service in self._parts:
                self._put(service)

    def fresh(self) -> None:
        self._outlet.fresh()

    def stale(self, reason: str) -> None:
        self._outlet.stale(reason)

    def _add(self, one: EndpointSlice) -> None:
        self._parts.setdefault(one.full_service_name, {})[one.full_name] = one
        self._service_of[one.full_name] = one.full_service_name

    def _remove(self, name: str) -> str | None:
        service = self._service_of.pop(name, None)
        if service is not None:
            del self._parts[service][name]
            if not self._parts[service]:
                del self._parts[service]
        return service

    def _delete(self, services: Iterable[str], revision: int) -> None:
        gone = []
        for name in services:
            self._copies.too_large.pop(name, None)
            if self._services.records.pop(name, None) is not None:
                gone.append(name)
        if gone:
            self._outlet.delete(gone, revision)

    def _put(self, name: str) -> None:
        """Service ``name`` as its slices, at least one, are now."""
        service = self._merged(name)
        if service is not None and service != self._services.records.get(name):
            self._services.records[name] = service
            self._outlet.put(name, service)

    def _merged(self, name: str) -> ClusterService | None:
        """The service; None, counted and named, if it has too many backends."""
        self._copies.too_large.pop(name, None)
        try:
            return merged(self._parts[name].values())
        except InvalidRecord as error:
            self._copies.slices.refusals[error.field] += 1
            self._copies.too_large[name] = f"{error.field}: {error.reason}"
            log.warning("service refused", service=name, field=error.field, reason=error.reason)
            return None


def merged(parts: Iterable[EndpointSlice]) -> ClusterService:
    """The service that ``parts``, at least one, are slices of; an address in several of them has the ports of all.

    On its way out is who is ready in none of them. Frontends and labels are the local service's business.

    Raises:
        InvalidRecord: more than MAX_SERVICE_BACKENDS.
    """
    backends: dict[Address, Ports] = {}
    leaving: set[Address] = set()
    ready: set[Address] = set()
    found = sorted(parts, key=lambda one: one.name)
    for one in found:
        for at in one.backends:
            had = backends.get(at)
            backends[at] = {**had, **one.ports} if had is not None and had != one.ports else one.ports
        leaving |= one.leaving
        ready.update(at for at in one.backends if at not in one.leaving)
        if len(backends) > MAX_SERVICE_BACKENDS:
            first, reason = found[0], f"more than the {MAX_SERVICE_BACKENDS} that are allowed in one service"
            raise InvalidRecord(first.full_service_name, "backends", reason)
    return ClusterService(
        cluster=found[0].cluster,
        namespace=found[0].namespace,
        name=found[0].service,
        cluster_id=found[0].cluster_id,
        backends=backends,
        hostnames={at: name for one in found for at, name in one.hostnames.items()},
        zones={at: zone for one in found for at, zone in one.zones.items()},
        terminating=tuple(sorted(leaving - ready, key=lambda at: at.packed)),
    )


def services_of(slices: Iterable[EndpointSlice]) -> dict[str, ClusterService]:
    """All services that ``slices`` are of, by ``namespace/name``; InvalidRecord like merged()."""
    parts: dict[str, list[EndpointSlice]] = {}
    for one in slices:
        parts.setdefault(one.full_service_name, []).append(one)
    return {name: merged(some) for name, some in parts.items()}
