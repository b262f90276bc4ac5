"""Plan keys that cannot be written yet, and what each of them waits for: another key's row, or room in a map.

A retry after some time would do, but a frontend that moves from one service to another would be nobody's meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meshd.dataplane.delta import RowTaken
from meshd.errors import MapFull
from meshd.state import PlanKey


class Blocked:
    """Pure memory; a key waits for one thing at a time, the last one it met."""

    def __init__(self) -> None:
        self._waits: dict[PlanKey, RowTaken | MapFull] = {}
        self._by_owner: dict[PlanKey, dict[PlanKey, None]] = {}
        self._for_room: dict[str, dict[PlanKey, None]] = {}

    def add(self, key: PlanKey, reason: RowTaken | MapFull) -> None:
        """``key`` could not be written because of ``reason``."""
        self.discard(key)
        self._waits[key] = reason
        self._waiters(reason)[key] = None

    def discard(self, key: PlanKey) -> None:
        """``key`` waits no more: it was written, or failed for another reason."""
        reason = self._waits.pop(key, None)
        if reason is None:
            return
        del self._waiters(reason)[key]
        if isinstance(reason, RowTaken) and not self._by_owner[reason.owner]:
            del self._by_owner[reason.owner]

    def on(self, owner: PlanKey) -> list[PlanKey]:
        """Who waits for a row of ``owner``."""
        return list(self._by_owner.get(owner, ()))

    def fitting(self, free: Mapping[str, int]) -> Iterator[PlanKey]:
        """Those that the ``free`` entries (by map) suffice for, in the order in which they were refused."""
        for name, keys in self._for_room.items():
            left = free.get(name, 0)
            for key in keys:
                reason = self._waits[key]
                if isinstance(reason, MapFull) and reason.needed <= left:
                    left -= reason.needed
                    yield key

    def _waiters(self, reason: RowTaken | MapFull) -> dict[PlanKey, None]:
        if isinstance(reason, RowTaken):
            return self._by_owner.setdefault(reason.owner, {})
        return self._for_room.setdefault(reason.map_name, {})
