"""Rows that were in the kernel at the start and that nobody wants: deleted, but only when their source has spoken.

A source's silence means nothing until it has finished its first complete list since the start. Until then its rows stand,
for ever if need be. What could not be planned is wanted all the same, and holds up nobody else's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import structlog

from meshd.dataplane.delta import Delta
from meshd.dataplane.held import Held
from meshd.dataplane.layouts import Endpoint, Layouts, source_number
from meshd.dataplane.retire import Retired
from meshd.dataplane.socket_lb import MAPS
from meshd.errors import KernelError
from meshd.kernel.maps import Map
from meshd.model import ServiceName
from meshd.state import Mesh, PlanKey

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Sweeper:
    """``all_spoke`` is called after the sweep that follows the last source's first list. ``swept`` counts rows deleted."""

    mesh: Mesh
    delta: Delta
    held: Held
    layouts: Layouts
    maps: Mapping[str, Map]
    retired: Retired
    all_spoke: Callable[[], None]
    swept: int = 0
    _complete: set[str] | None = None
    _protected: set[PlanKey] = field(default_factory=set)

    async def run(self) -> None:
        """Until cancelled: sweeps after the start, when a source has finished its first list, and when what had failed
        at the last sweep is well."""
        while True:
            moved = self.mesh.moved_event()
            try:
                self.sweep_if_due()
            except KernelError as error:
                log.warning("rows of nobody not deleted, tried again at the next change", reason=str(error))
            await moved.wait()

    def sweep_if_due(self) -> None:
        """Deletes what is unwanted, if that may have changed and everything was planned since.

        Raises:
            KernelError: some rows could not be deleted; the next call tries again.
        """
        sources = self.mesh.sources
        complete = {name for name in sources if self.mesh.is_complete(name)}
        if complete == self._complete and self._protected.issubset(self.mesh.failed_keys):
            return
        if not may_sweep(self.mesh):
            return
        failed = set(self.mesh.failed_keys)
        self._sweep(failed)
        spoke = complete != self._complete and len(complete) == len(sources)
        self._complete, self._protected = complete, failed
        if spoke:
            self.held.release()
            self.all_spoke()

    def _sweep(self, failed: set[PlanKey]) -> None:
        found = unwanted(self.mesh, self.delta, self.held, self.layouts, failed)
        for name in reversed(MAPS):
            rows = found.get(name)
            if not rows:
                continue
            if name in self.retired.maps:
                self.retired.add(name, rows)
            else:
                self.maps[name].delete_batch(rows)
                self.delta.deleted(name, iter(rows))
            log.info("rows of nobody deleted", map=name, rows=len(rows))
            self.swept += len(rows)


def may_sweep(mesh: Mesh) -> bool:
    """Whether everything that is wanted has been planned or has failed, so that an unowned row that nobody who failed
    could want is one that nobody wants."""
    return all(key in mesh.failed_keys for key in mesh.pending_keys)


def unwanted(
    mesh: Mesh, delta: Delta, held: Held, layouts: Layouts, failed: set[PlanKey]
) -> dict[str, set[bytes]]:
    """Map -> packed keys to delete now; nothing that one of the ``failed`` keys may want."""
    is_gone = _source_is_gone(mesh, held)
    protected = set(_frontends_of(mesh, layouts, failed))
    frontends = {
        key
        for key, value in delta.unowned("frontends")
        if key not in protected and is_gone(layouts.service.decode(value).source)
    }
    remaining = _named_lists(delta, layouts, frontends)
    found = {
        "frontends": frontends,
        "slots": set(_slots(delta, layouts, remaining)),
        "members": set(_members(delta, layouts, {number for _, number in remaining})),
    }
    if all(mesh.is_complete(source) for source in mesh.sources):
        kinds = {key.kind for key in failed}
        for kind, name in (("workload", "workloads"), ("source", "sources")):
            if kind not in kinds:
                found[name] = {key for key, _ in delta.unowned(name)}
    return found


def _frontends_of(mesh: Mesh, layouts: Layouts, keys: set[PlanKey]) -> Iterator[bytes]:
    """The packed frontends of those services, whether they could be planned or not."""
    for key in keys:
        if key.kind == "service":
            service = mesh.service(ServiceName(*key.name.split("/", 1)))
            for address, port, protocol, _ in service.frontends if service is not None else ():
                yield layouts.endpoint.encode(Endpoint(address, port, protocol))


def _source_is_gone(mesh: Mesh, held: Held) -> Callable[[int], bool]:
    numbers = held.source_names | {source_number(source): source for source in mesh.sources}
    all_complete = all(mesh.is_complete(source) for source in mesh.sources)

    def is_gone(number: int) -> bool:
        name = numbers.get(number)
        return all_complete if name is None else mesh.is_complete(name)

    return is_gone


def _named_lists(delta: Delta, layouts: Layouts, without: set[bytes]) -> set[tuple[bytes, int]]:
    """(frontend, list) that a row of ``frontends`` names."""
    return {
        (key, layouts.service.decode(value).list)
        for key, value in delta.observed["frontends"].items()
        if key not in without
    }


def _slots(delta: Delta, layouts: Layouts, named: set[tuple[bytes, int]]) -> Iterator[bytes]:
    for key, _ in delta.unowned("slots"):
        slot = layouts.slot_key.decode(key)
        if (layouts.endpoint.encode(slot.frontend), slot.list) not in named:
            yield key


def _members(delta: Delta, layouts: Layouts, named: set[int]) -> Iterator[bytes]:
    for key, _ in delta.unowned("members"):
        if layouts.member_key.decode(key).list not in named:
            yield key
