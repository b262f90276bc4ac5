"""Rows that were in the kernel at the start and that nobody wants: deleted, but only when their source has spoken.

A source's silence means nothing until it has finished its first complete list since the start. Until then its rows stand,
for ever if need be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meshd.dataplane.delta import Delta, RowTaken
from meshd.dataplane.held import Held
from meshd.dataplane.layouts import Layouts, source_number
from meshd.state import Mesh


def may_sweep(mesh: Mesh, delta: Delta) -> bool:
    """Whether everything that is wanted has been planned, so that an unowned row is one that nobody wants."""
    if mesh.pending - len(mesh.failed) > 0:
        return False
    unplanned = (
        error
        for key, error in mesh.failed.items()
        if not delta.is_planned(key) and not isinstance(error, RowTaken)
    )
    return not any(unplanned)


def unwanted(mesh: Mesh, delta: Delta, held: Held, layouts: Layouts) -> dict[str, set[bytes]]:
    """Map -> packed keys to delete now."""
    is_gone = _source_is_gone(mesh, held)
    frontends = {
        key for key, value in delta.unowned("frontends") if is_gone(layouts.service.decode(value).source)
    }
    remaining = _named_lists(delta, layouts, frontends)
    found = {
        "frontends": frontends,
        "slots": set(_slots(delta, layouts, remaining)),
        "members": set(_members(delta, layouts, {number for _, number in remaining})),
    }
    if all(mesh.is_complete(source) for source in mesh.sources):
        found["workloads"] = {key for key, _ in delta.unowned("workloads")}
        found["sources"] = {key for key, _ in delta.unowned("sources")}
    return found


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
