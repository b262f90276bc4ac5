"""Which rows of services nobody wants: those of frontends whose source has spoken without naming them, and their lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meshd.dataplane.delta import Delta
from meshd.dataplane.held import Held
from meshd.dataplane.layouts import Endpoint, Layouts, source_number
from meshd.model import ServiceName
from meshd.state import Mesh, PlanKey


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
            for address, port, protocol, _ in (
                (*service.frontends, *service.external) if service is not None else ()
            ):
                yield layouts.endpoint.encode(Endpoint(address, port, protocol))


def _source_is_gone(mesh: Mesh, held: Held) -> Callable[[int], bool]:
    numbers = held.source_names | {source_number(source): source for source in mesh.sources}
    all_complete = all(mesh.is_complete(source) for source in mesh.sources)

    def is_gone(number: int) -> bool:
        name = numbers.get(number)
        return all_complete if name is None else mesh.is_complete(name)

    return is_gone


def _named_lists(delta: Delta, layouts: Layouts, without: set[bytes]) -> set[tuple[bytes, int]]:
    """(frontend, list) that a row of ``frontends`` names; a drill's list as well, be it over or not."""
    rows = {
        key: layouts.service.decode(value)
        for key, value in delta.observed["frontends"].items()
        if key not in without
    }
    return {(key, number) for key, row in rows.items() for number in (row.list, row.drill_list)}


def _slots(delta: Delta, layouts: Layouts, named: set[tuple[bytes, int]]) -> Iterator[bytes]:
    for key, _ in delta.unowned("slots"):
        slot = layouts.slot_key.decode(key)
        if (layouts.endpoint.encode(slot.frontend), slot.list) not in named:
            yield key


def _members(delta: Delta, layouts: Layouts, named: set[int]) -> Iterator[bytes]:
    for key, _ in delta.unowned("members"):
        if layouts.member_key.decode(key).list not in named:
            yield key
