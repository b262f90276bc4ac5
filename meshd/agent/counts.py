"""How many entries the maps have that the kernel writes.

The kernel keeps no count and a walk of a large map takes long, so it is made on a worker thread, and only when somebody
asks: who asks is told the last count, and starts the next.
"""

from __future__ import annotations

import asyncio
import time

from meshd.kernel.maps import Map

# A count that is younger is not made again.
FRESH_S = 1.0


class Counts:
    """Counts by map name; the first of each map is made at once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, int]] = {}
        self._running: set[asyncio.Task[None]] = set()

    def of(self, counted: Map) -> int:
        """The entries of ``counted``, as of the last time somebody asked."""
        known = self._known.get(counted.name)
        if known is None:
            known = self._known[counted.name] = (time.monotonic(), counted.count())
        elif time.monotonic() - known[0] > FRESH_S:
            self._known[counted.name] = (time.monotonic(), known[1])
            task = asyncio.get_running_loop().create_task(self._count(counted))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return known[1]

    async def _count(self, counted: Map) -> None:
        count = await asyncio.to_thread(counted.count)
        self._known[counted.name] = (time.monotonic(), count)
