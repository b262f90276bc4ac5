"""Desired rows, observed rows and the difference: pure memory.

``observed`` changes only after the kernel took a write, so what is left to do is always the difference, also after a
failure in the middle. Each row belongs to the plan key that wants it; of the contested maps no other key can have it then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from meshd.dataplane.rows import Rows
from meshd.errors import MapFull, MeshError
from meshd.state import PlanKey


class RowTaken(MeshError):
    """Another object has this row already; ``owner`` names it. It is tried again when that one lets go."""

    def __init__(self, map_name: str, owner: PlanKey) -> None:
        self.map_name = map_name
        self.owner = owner
        super().__init__(f"{owner} already has this row of map {map_name}; that one stays in force")


@dataclass(slots=True)
class Writes:
    """What a staged key needs: rows to put, keys to delete, by map."""

    puts: Rows = field(default_factory=dict)
    deletes: dict[str, set[bytes]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.puts.values()) or any(self.deletes.values())


class Delta:
    """Rows of the maps in ``capacity`` (name -> max_entries)."""

    def __init__(
        self,
        capacity: Mapping[str, int],
        observed: Mapping[str, dict[bytes, bytes]],
        contested: frozenset[str],
    ) -> None:
        self.capacity = dict(capacity)
        self.observed: Rows = {name: dict(observed.get(name, {})) for name in capacity}
        self._contested = contested
        self._desired: dict[PlanKey, Rows] = {}
        # Rows that a key wanted once and does not any more, until all that it wants since is written.
        self._left: dict[PlanKey, dict[str, set[bytes]]] = {}
        self._owner: dict[str, dict[bytes, PlanKey]] = {name: {} for name in capacity}

    def stage(self, key: PlanKey, rows: Rows) -> Writes:
        """Make ``rows`` what ``key`` wants; the writes that lead there from what the kernel holds.

        Raises:
            RowTaken: another key owns one of the rows. Nothing of ``rows`` is taken over; what ``key`` had stays, but
                another key may have those of its contested rows that are not in ``rows``.
            MapFull: a map has no room for all of them. They are wanted from now on, but nothing may be written.
        """
        try:
            self._refuse_taken(key, rows)
        except RowTaken:
            self._disown(key, rows)
            raise
        writes = Writes()
        for name, wanted in rows.items():
            observed = self.observed[name]
            writes.puts[name] = {k: v for k, v in wanted.items() if observed.get(k) != v}
            self._owner[name].update(dict.fromkeys(wanted, key))
        writes.deletes = self._let_go(key, rows)
        if any(rows.values()):
            self._desired[key] = rows
        else:
            self._desired.pop(key, None)
        return writes

    def _disown(self, key: PlanKey, rows: Rows) -> None:
        """Two services that exchange their frontends would wait for each other for ever."""
        desired = self._desired.get(key, {})
        for name in self._contested & desired.keys():
            for row in desired[name].keys() - rows.get(name, {}).keys():
                del desired[name][row]
                del self._owner[name][row]
                self._left.setdefault(key, {}).setdefault(name, set()).add(row)

    def _let_go(self, key: PlanKey, rows: Rows) -> dict[str, set[bytes]]:
        """Rows in the kernel that ``key`` wanted since it was last written, and that ``rows`` lack."""
        left = self._left.get(key, {})
        for name, had in self._desired.get(key, {}).items():
            gone = had.keys() - rows.get(name, {}).keys()
            for row in gone:
                if self._owner[name].get(row) == key:
                    del self._owner[name][row]
            if gone:
                left.setdefault(name, set()).update(gone)
        if left:
            self._left[key] = left
        return {
            name: {row for row in gone if row in self.observed[name] and row not in rows.get(name, {})}
            for name, gone in left.items()
        }

    def settled(self, key: PlanKey) -> None:
        """Everything that `stage` said of ``key`` is done."""
        self._left.pop(key, None)

    def gives_up(self, key: PlanKey, rows: Rows) -> bool:
        """Whether ``key`` has a contested row that is not in ``rows``, so that another key could take it over."""
        before = self._desired.get(key, {})
        return any(before.get(name, {}).keys() - rows.get(name, {}).keys() for name in self._contested)

    def check_room(self, writes: Writes, planned: Mapping[str, int]) -> None:
        """That all of ``writes`` fits beside what is in the maps and the ``planned`` new rows of others.

        Raises:
            MapFull: names the map, the entries needed and those free.
        """
        for name, puts in writes.puts.items():
            needed = sum(1 for row in puts if row not in self.observed[name])
            free = self.free(name) - planned.get(name, 0)
            if needed > free:
                raise MapFull(name, needed, max(free, 0))

    def free(self, name: str) -> int:
        """Entries that the map has left."""
        return self.capacity[name] - len(self.observed[name])

    def wrote(self, name: str, rows: Mapping[bytes, bytes]) -> None:
        """The kernel took these rows."""
        self.observed[name].update(rows)

    def deleted(self, name: str, keys: Iterator[bytes]) -> None:
        """The kernel has these keys no more."""
        for key in keys:
            self.observed[name].pop(key, None)

    def owner(self, name: str, row: bytes) -> PlanKey | None:
        """The key that wants this row."""
        return self._owner[name].get(row)

    def unowned(self, name: str) -> Iterator[tuple[bytes, bytes]]:
        """Rows in the kernel that nobody wants."""
        owner = self._owner[name]
        return ((key, value) for key, value in self.observed[name].items() if key not in owner)

    def desired(self, key: PlanKey) -> Rows:
        """The rows that ``key`` wants."""
        return self._desired.get(key, {})

    def is_planned(self, key: PlanKey) -> bool:
        """Whether ``key`` wants any row."""
        return key in self._desired

    def _refuse_taken(self, key: PlanKey, rows: Rows) -> None:
        for name in self._contested & rows.keys():
            owners = self._owner[name]
            for row in rows[name]:
                owner = owners.get(row)
                if owner is not None and owner != key:
                    raise RowTaken(name, owner)
