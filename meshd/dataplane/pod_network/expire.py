"""Runs the program that removes flows which nobody uses any more, and remembers what it counted.

How often depends on how full the tables are: a walk over a large one costs a CPU some milliseconds, and a full one refuses
new flows. The program decides by itself what has timed out, so a late run removes no flow that a punctual one would keep.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import structlog

from meshd.dataplane.opening import Opened
from meshd.dataplane.pod_network.places import EXPIRE
from meshd.dataplane.pod_network.rows import KERNEL_MAPS
from meshd.errors import KernelError
from meshd.kernel.btf import Btf
from meshd.kernel.program import Program

log = structlog.get_logger(__name__)

# Between two runs: with an empty table, and with a full one.
RARELY_S, OFTEN_S = 10.0, 0.5
RETRY_S = 10.0


class CountsRow(NamedTuple):
    unanswered: int
    established: int
    closing: int
    datagram: int
    echo: int


class ExpiryRow(NamedTuple):
    kept: CountsRow
    expired: CountsRow
    orphans: int
    masqueraded: int
    services: int


def expirer_of(opened: Opened) -> Expirer | None:
    """None: the program is not loaded, because there is no pod network or the kernel cannot run it."""
    program = opened.loaded.programs.get(EXPIRE)
    if program is None:
        return None
    capacity = opened.loaded.maps["flows"].info.max_entries
    return Expirer(opened.btf, program, capacity, lambda: opened.takeover.is_pending(KERNEL_MAPS))


class Expirer:
    """``capacity``: flows that the table of answered ones holds. ``is_being_filled``: it lacks what another build's programs
    know, and half of a translated flow looks like one that is over. ``last``: what the last run answered."""

    def __init__(
        self, btf: Btf, program: Program, capacity: int, is_being_filled: Callable[[], bool] = lambda: False
    ) -> None:
        """Raises LayoutError: the object's structs have other fields than this build knows."""
        self._codec = btf.codec("flow_expiry", ExpiryRow)
        self._program = program
        self.capacity = capacity
        self._is_being_filled = is_being_filled
        self.last: ExpiryRow | None = None
        self.expired: Counter[str] = Counter()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._is_being_filled():
                await asyncio.sleep(OFTEN_S)
                continue
            try:
                await asyncio.to_thread(self.expire)
            except KernelError as error:
                log.error("flows are not expired, tried again", reason=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            await asyncio.sleep(pause_s(self._fullness()))

    def expire(self) -> ExpiryRow:
        """One run; it blocks for as long as the walk takes.

        Raises:
            KernelError: the kernel refused to run the program.
        """
        run = self._program.test_run(context=bytes(self._codec.size))
        self.last = self._codec.decode(run.context)
        self.expired.update(self.last.expired._asdict())
        return self.last

    def _fullness(self) -> float:
        kept = self.last.kept if self.last is not None else None
        # A translated flow has two entries.
        entries = sum(kept) + self.last.masqueraded + self.last.services if kept and self.last else 0
        return min(entries / self.capacity, 1.0)


def pause_s(fullness: float) -> float:
    """Until the next run, for a table of which this part (0..1) is taken."""
    return RARELY_S + (OFTEN_S - RARELY_S) * fullness
