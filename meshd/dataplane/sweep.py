"""Rows that were in the kernel at the start and that nobody wants: deleted, but only when their source has spoken.

A source's silence means nothing until it has finished its first complete list since the start. Until then its rows stand,
for ever if need be. What could not be planned is wanted all the same, and holds up nobody else's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from meshd.dataplane.delta import Delta
from meshd.dataplane.generation import Generation
from meshd.dataplane.held import Held
from meshd.dataplane.retire import Retired
from meshd.errors import KernelError
from meshd.kernel.maps import Map
from meshd.state import Mesh, PlanKey

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Sweeper:
    """``order``: the maps in the order of writing. ``unwanted``: map -> rows to delete now, nothing that one of the
    failed keys may want. ``all_spoke`` is called after the sweep that follows the last source's first list.
    ``generations`` hear of maps whose rows were deleted. ``swept`` counts these rows.
    """

    mesh: Mesh
    delta: Delta
    held: Held
    order: Sequence[str]
    unwanted: Callable[[set[PlanKey]], Mapping[str, set[bytes]]]
    maps: Mapping[str, Map]
    retired: Retired
    all_spoke: Callable[[], None]
    generations: Sequence[Generation] = ()
    swept: int = 0
    _complete: set[str] | None = None
    _protected: set[PlanKey] = field(default_factory=set)

    async def run(self) -> None:
        """Until cancelled: sweeps after the start, when a source has finished its first list, and when what had failed
        at the last sweep is well."""
        while True:
            moved = self.mesh.moved_event()
            try:
                self.sweep_if_due()
            except KernelError as error:
                log.warning("rows of nobody not deleted, tried again at the next change", reason=str(error))
            await moved.wait()

    def sweep_if_due(self) -> None:
        """Deletes what is unwanted, if that may have changed and everything was planned since.

        Raises:
            KernelError: some rows could not be deleted; the next call tries again.
        """
        sources = self.mesh.sources
        complete = {name for name in sources if self.mesh.is_complete(name)}
        if complete == self._complete and self._protected.issubset(self.mesh.failed_keys):
            return
        if not may_sweep(self.mesh):
            return
        failed = set(self.mesh.failed_keys)
        self._sweep(failed)
        spoke = complete != self._complete and len(complete) == len(sources)
        self._complete, self._protected = complete, failed
        if spoke:
            self.held.release()
            self.all_spoke()

    def _sweep(self, failed: set[PlanKey]) -> None:
        found = self.unwanted(failed)
        for name in reversed(self.order):
            rows = found.get(name)
            if not rows:
                continue
            if name in self.retired.maps:
                self.retired.add(name, rows)
            else:
                self.maps[name].delete_batch(rows)
                self.delta.deleted(name, iter(rows))
                for each in self.generations:
                    each.changed((name,))
            log.info("rows of nobody deleted", map=name, rows=len(rows))
            self.swept += len(rows)


def may_sweep(mesh: Mesh) -> bool:
    """Whether everything that is wanted has been planned or has failed, so that an unowned row that nobody who failed
    could want is one that nobody wants."""
    return all(key in mesh.failed_keys for key in mesh.pending_keys)
