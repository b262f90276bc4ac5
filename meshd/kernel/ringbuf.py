"""Events from BPF programs: C drains the ring buffer into one arena without the GIL, Python then reads fixed-size records.

A full arena stops the drain and loses nothing: what is left stays in the ring for the next one. What the ring itself had no
room for is known only to the program that met it, which counts that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshd.kernel._libbpf import ffi, lib
from meshd.kernel.maps import Map
from meshd.kernel.result import checked


@dataclass(frozen=True, slots=True)
class Drained:
    """One drain. ``data`` is ``count`` records without gaps; ``more`` says that the arena was filled."""

    data: bytes
    count: int
    more: bool


class RingBuffer:
    """The reading end of one ring buffer map; it has one reader at a time, in the whole system."""

    def __init__(self, ring: Map, record_size: int, capacity: int = 4096) -> None:
        """Events of ``record_size`` bytes, at most ``capacity`` a drain. ``ring`` may be closed afterwards."""
        self.name = ring.name
        self._raw: Any = ffi.new("struct meshd_ring *")  # cffi data has no static type
        checked(
            lib.meshd_ring_open(self._raw, ring.fd, record_size, capacity), "open", f"ring buffer {self.name}"
        )
        self._open = True

    def fileno(self) -> int:
        """Readable while events wait; for select, epoll and `loop.add_reader`."""
        return int(lib.meshd_ring_epoll_fd(self._raw))

    @property
    def malformed(self) -> int:
        """Events of another size than ``record_size`` since the start: programs of another build write to this ring."""
        return int(self._raw.malformed)

    def drain(self) -> Drained:
        """Takes all events that wait, up to the arena's capacity, in the order they were written."""
        more = checked(lib.meshd_ring_drain(self._raw), "drain", f"ring buffer {self.name}")
        count = self._raw.used
        return Drained(bytes(ffi.buffer(self._raw.arena, count * self._raw.record_size)), count, more == 1)

    def watch(self, loop: asyncio.AbstractEventLoop, handle: Callable[[Drained], None]) -> None:
        """Calls ``handle`` on ``loop`` with every drain that found events, until `unwatch`.

        One arena a turn of the loop: a flood of events does not starve the others on it.
        """

        def wake() -> None:
            drained = self.drain()
            if drained.count:
                handle(drained)

        loop.add_reader(self.fileno(), wake)

    def unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends `watch`; events stay in the ring."""
        loop.remove_reader(self.fileno())

    def close(self) -> None:
        """Frees arena and mapping; may be repeated."""
        if self._open:
            self._open = False
            lib.meshd_ring_close(self._raw)
