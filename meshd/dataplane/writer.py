"""Writes of a turn to the maps: batched across keys, and when a batch fails, the blame goes to the key whose row it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshd.dataplane.delta import Delta, Writes
from meshd.dataplane.generation import Generation
from meshd.dataplane.retire import Retired
from meshd.errors import KernelError
from meshd.kernel.maps import Map
from meshd.state import PlanKey


class Writer:
    """``maps`` in the order of writing. Rows of maps in ``retired.maps`` are handed to it instead of being deleted.

    ``generations`` hear which maps were written, after each turn.
    """

    def __init__(
        self,
        maps: Mapping[str, Map],
        order: Sequence[str],
        delta: Delta,
        retired: Retired,
        generations: Sequence[Generation] = (),
    ) -> None:
        self._maps = maps
        self._order = order
        self._delta = delta
        self.retired = retired
        self._generations = generations

    def write(self, staged: Mapping[PlanKey, Writes]) -> dict[PlanKey, Exception]:
        """Puts, then deletes. The keys that failed, with the reason; a key that failed has no later row written."""
        failed: dict[PlanKey, Exception] = {}
        for name in self._order:
            self._put(name, staged, failed)
        for name in reversed(self._order):
            self._delete(name, staged, failed)
        touched = {
            name
            for writes in staged.values()
            for name, rows in (*writes.puts.items(), *writes.deletes.items())
            if rows
        }
        for each in self._generations:
            each.changed(touched)
        return failed

    def _put(self, name: str, staged: Mapping[PlanKey, Writes], failed: dict[PlanKey, Exception]) -> None:
        batch: dict[bytes, bytes] = {}
        for key, writes in staged.items():
            if key not in failed:
                batch.update(writes.puts.get(name, {}))
        if not batch:
            return
        try:
            self._maps[name].update_batch(batch)
            self._delta.wrote(name, batch)
        except KernelError:
            # Written again row by row: a repeated write is none, and the row that cannot be written is found.
            self._put_each(name, staged, failed)

    def _put_each(
        self, name: str, staged: Mapping[PlanKey, Writes], failed: dict[PlanKey, Exception]
    ) -> None:
        for key, writes in staged.items():
            if key in failed:
                continue
            for row, value in writes.puts.get(name, {}).items():
                try:
                    self._maps[name].update(row, value)
                except KernelError as error:
                    failed[key] = error
                    break
                self._delta.wrote(name, {row: value})

    def _delete(self, name: str, staged: Mapping[PlanKey, Writes], failed: dict[PlanKey, Exception]) -> None:
        rows = {
            row
            for key, writes in staged.items()
            if key not in failed
            for row in writes.deletes.get(name, ())
            if self._delta.owner(name, row) is None
        }
        if not rows:
            return
        if name in self.retired.maps:
            self.retired.add(name, rows)
            return
        try:
            self._maps[name].delete_batch(rows)
        except KernelError as error:
            failed.update(
                {key: error for key, writes in staged.items() if rows & writes.deletes.get(name, set())}
            )
            return
        self._delta.deleted(name, iter(rows))
