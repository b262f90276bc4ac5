"""Compares what the kernel holds with what we wrote, in slices, and puts right what somebody else changed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import structlog

from meshd.dataplane.delta import Delta
from meshd.dataplane.generation import Generation
from meshd.dataplane.rows import Rows
from meshd.errors import KernelError
from meshd.kernel.maps import Map

log = structlog.get_logger(__name__)

SLICE = 1024


class Auditor:
    """``repaired`` counts rows put right, by map. ``generations`` hear of these maps."""

    def __init__(
        self, maps: Mapping[str, Map], delta: Delta, interval_s: float, generations: Sequence[Generation] = ()
    ) -> None:
        self._maps = maps
        self._delta = delta
        self._interval_s = interval_s
        self._generations = generations
        self.repaired: Counter[str] = Counter()
        self.audits = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.audit()
            except KernelError as error:
                log.warning("audit failed", reason=str(error))

    async def audit(self) -> Rows:
        """One pass over all maps; the rows that differed, with the value they have again."""
        found: Rows = {}
        for name, kernel_map in self._maps.items():
            differing = await self._audit_map(name, kernel_map)
            if differing:
                found[name] = differing
                self.repaired[name] += len(differing)
                log.warning("rows changed by someone else", map=name, rows=len(differing))
        self.audits += 1
        return found

    async def _audit_map(self, name: str, kernel_map: Map) -> dict[bytes, bytes]:
        observed = self._delta.observed[name]
        unseen = set(observed)
        found: dict[bytes, bytes] = {}
        rows = iter(kernel_map.items())
        while part := list(islice(rows, SLICE)):
            unseen.difference_update(key for key, _ in part)
            # A batch is older than the loop's next turn: look at a row as it is now before calling it wrong.
            suspects = [key for key, value in part if observed.get(key) != value]
            found |= self._put_right(name, kernel_map, suspects)
            await asyncio.sleep(0)
        return found | self._put_right(name, kernel_map, unseen)

    def _put_right(self, name: str, kernel_map: Map, suspects: Iterable[bytes]) -> dict[bytes, bytes]:
        """Compares and writes without letting anybody else run between: what is expected now is not later."""
        observed = self._delta.observed[name]
        differing: dict[bytes, bytes] = {}
        foreign: list[bytes] = []
        for key in suspects:
            expected = observed.get(key)
            if kernel_map.lookup(key) == expected:
                continue
            if expected is None:
                foreign.append(key)
            else:
                differing[key] = expected
        kernel_map.update_batch(differing)
        kernel_map.delete_batch(foreign)
        if differing or foreign:
            for each in self._generations:
                each.changed((name,))
        return differing | dict.fromkeys(foreign, b"")
