"""The ring buffer: every event once and in order, however small the arena; the event loop wakes for it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from meshd.kernel.btf import Btf
from meshd.kernel.object import BpfObject, Loaded
from meshd.kernel.ringbuf import Drained, RingBuffer

SIZE = 16


class Event(NamedTuple):
    sequence: int
    cpu: int


@pytest.fixture
def rings(probe: Loaded) -> Iterator[Callable[[int], RingBuffer]]:
    opened: list[RingBuffer] = []

    def open_ring(capacity: int) -> RingBuffer:
        opened.append(RingBuffer(probe.maps["events"], SIZE, capacity))
        return opened[-1]

    yield open_ring
    for ring in opened:
        ring.close()


@pytest.fixture
def btf(probe_object: Path) -> Btf:
    with BpfObject.open(probe_object) as bpf:
        return bpf.btf


def emit(probe: Loaded, count: int, size: int = SIZE) -> int:
    """Has a program emit events; how many found no room in the ring."""
    return probe.programs["emit"].test_run(context=struct.pack("=II", count, size)).retval


def test_events_arrive_once_and_in_order(probe: Loaded, rings: Callable[[int], RingBuffer], btf: Btf) -> None:
    ring = rings(4096)
    assert emit(probe, 1000) == 0
    drained = ring.drain()
    events = btf.codec("probe_event", Event).decode_many(drained.data)
    assert events == [Event(sequence, 0) for sequence in range(1000)]
    assert (drained.count, drained.more) == (1000, False)


def test_an_arena_that_is_too_small_leaves_the_rest_in_the_ring(
    probe: Loaded, rings: Callable[[int], RingBuffer], btf: Btf
) -> None:
    ring = rings(300)
    emit(probe, 1000)
    drains = [ring.drain() for _ in range(5)]
    assert [(d.count, d.more) for d in drains] == [
        (300, True),
        (300, True),
        (300, True),
        (100, False),
        (0, False),
    ]
    data = b"".join(drained.data for drained in drains)
    assert [e.sequence for e in btf.codec("probe_event", Event).decode_many(data)] == list(range(1000))


def test_a_ring_that_is_full_tells_its_program_and_keeps_what_it_has(
    probe: Loaded, rings: Callable[[int], RingBuffer]
) -> None:
    ring = rings(65536)
    lost = emit(probe, 4000)
    assert lost > 0
    assert ring.drain().count == 4000 - lost


def test_events_of_another_size_are_counted_not_delivered(
    probe: Loaded, rings: Callable[[int], RingBuffer]
) -> None:
    ring = rings(64)
    emit(probe, 3, size=5)
    emit(probe, 2)
    assert (ring.drain().count, ring.malformed) == (2, 3)


async def test_the_event_loop_wakes_for_events(probe: Loaded, rings: Callable[[int], RingBuffer]) -> None:
    ring = rings(100)
    loop = asyncio.get_running_loop()
    received: list[Drained] = []
    complete = asyncio.Event()

    def handle(drained: Drained) -> None:
        received.append(drained)
        if sum(d.count for d in received) == 250:
            complete.set()

    ring.watch(loop, handle)
    try:
        emit(probe, 250)
        await asyncio.wait_for(complete.wait(), 5)
    finally:
        ring.unwatch(loop)
    assert [d.count for d in received] == [100, 100, 50]
