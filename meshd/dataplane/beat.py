"""Tells the hooks several times a second that an agent is there; while it is not, they see for themselves who answers
(bpf/lib/absence.h). An agent whose event loop hangs is not there either."""

from __future__ import annotations

import asyncio
import struct
import time

from meshd.errors import KernelError
from meshd.kernel.maps import Map

# The hooks miss the agent after a second.
EVERY_S = 0.25
_ONLY = bytes(4)


class Beat:
    """``row``: the map; None: an object of another build has none."""

    def __init__(self, row: Map | None) -> None:
        self._row = row

    async def run(self) -> None:
        """Until cancelled."""
        while self._row is not None:
            self.strike()
            await asyncio.sleep(EVERY_S)

    def strike(self) -> None:
        """Now. A refusal is none of ours to solve: the hooks then go by what they see."""
        if self._row is None:
            return
        try:
            self._row.update(_ONLY, struct.pack("=Q", time.clock_gettime_ns(time.CLOCK_MONOTONIC)))
        except KernelError:
            return
