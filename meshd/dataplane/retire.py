"""Rows that nobody names any more, but that a program may still be reading: deleted after a grace period.

The grace period is the kernel's own: an expedited or normal RCU grace period ends only when every program that was running
when it began has ended (cgroup programs run in a read-side section: kernel/bpf/cgroup.c, bpf_prog_run_array_cg).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

import structlog

from meshd.dataplane.delta import Delta
from meshd.dataplane.spacing import Spacing
from meshd.errors import KernelError
from meshd.kernel.maps import Map

log = structlog.get_logger(__name__)

# Rows deleted before the loop gets to do something else.
SLICE = 4096
RETRY_S = 1.0
# A program takes microseconds, and cannot be preempted for long.
LONG_AFTER_S = 1.0


class Retired:
    """``wait_for_programs`` blocks until every program that runs now has ended; it is called on a worker thread."""

    def __init__(
        self,
        maps: Mapping[str, Map],
        names: frozenset[str],
        delta: Delta,
        wait_for_programs: Callable[[], None],
    ) -> None:
        self.maps = names
        self._kernel_maps = maps
        self._delta = delta
        self._wait_for_programs = wait_for_programs
        self._freed: Callable[[], None] = lambda: None
        self._taken: dict[str, set[bytes]] = {}
        self._rows: dict[str, set[bytes]] = {name: set() for name in names}
        self._added = asyncio.Event()

    def tell(self, freed: Callable[[], None]) -> None:
        """Call ``freed`` whenever rows were deleted."""
        self._freed = freed

    def add(self, name: str, rows: Iterable[bytes]) -> None:
        """These rows are named by nobody from now on."""
        self._rows[name].update(rows)
        self._added.set()

    @property
    def waiting(self) -> int:
        """Rows that wait for their grace period."""
        return sum(self.waiting_in(name) for name in self.maps)

    def waiting_in(self, name: str) -> int:
        """Rows of one map that wait for their grace period."""
        return len(self._rows.get(name, ())) + len(self._taken.get(name, ()))

    async def run(self) -> None:
        """Until cancelled."""
        spacing = Spacing()
        while True:
            await self._added.wait()
            await spacing.wait()
            self._added.clear()
            self._taken, self._rows = self._rows, {name: set() for name in self.maps}
            await grace_period(self._wait_for_programs)
            for name, rows in self._taken.items():
                await self._delete(name, rows)
            self._freed()

    async def _delete(self, name: str, rows: set[bytes]) -> None:
        while rows:
            # Somebody may want a row again meanwhile: the same list came back.
            part = [rows.pop() for _ in range(min(SLICE, len(rows)))]
            part = [row for row in part if self._delta.owner(name, row) is None]
            try:
                self._kernel_maps[name].delete_batch(part)
            except KernelError as error:
                log.warning("rows of nobody not deleted, trying again", map=name, reason=str(error))
                self.add(name, [*part, *rows])
                rows.clear()
                await asyncio.sleep(RETRY_S)
                return
            self._delta.deleted(name, iter(part))
            await asyncio.sleep(0)


async def grace_period(wait_for_programs: Callable[[], None]) -> None:
    """Until every program that runs now has ended; where the kernel does not tell, long after any could still run."""
    try:
        await asyncio.to_thread(wait_for_programs)
    except KernelError as error:
        log.warning("the kernel does not tell when programs have ended, waiting", reason=str(error))
        await asyncio.sleep(LONG_AFTER_S)
