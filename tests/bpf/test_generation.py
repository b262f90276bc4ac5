"""The number that says that rows have changed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshd.dataplane.generation import Generation
from meshd.dataplane.pod_network.rows import WAY_GENERATION
from meshd.kernel.maps import Map
from meshd.kernel.object import BpfObject


@pytest.fixture
def number() -> Iterator[Map]:
    with BpfObject.open() as bpf:
        bpf.leave_out_maps(set(bpf.maps()) - {WAY_GENERATION})
        bpf.load_only(())
        loaded = bpf.load()
    try:
        yield loaded.maps[WAY_GENERATION]
    finally:
        loaded.close()


def read(number: Map) -> int:
    return int.from_bytes(number.lookup(bytes(4)) or b"", "little")


def test_it_is_another_after_each_change_of_its_maps_and_of_no_others(number: Map) -> None:
    generation = Generation(number, ["pods", "uplinks"])
    found = []
    for changed in (["frontends"], ["pods"], ["frontends", "uplinks"], []):
        generation.changed(changed)
        found.append(read(number))
    assert found == [0, 1, 2, 2]


def test_another_agent_counts_on(number: Map) -> None:
    for _ in range(2):
        Generation(number).advance()
    assert read(number) == 2


def test_the_last_number_is_followed_by_the_first(number: Map) -> None:
    number.update(bytes(4), (2**32 - 1).to_bytes(4, "little"))
    Generation(number).advance()
    assert read(number) == 0


def test_an_object_without_ways_has_nothing_to_count() -> None:
    Generation(None, ["pods"]).changed(["pods"])
