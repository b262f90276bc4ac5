"""Rows of one kind with revisions, so that a reader can resume where it stopped without anybody buffering for it.

Rows stand in the order of their last change: what happened after revision r is the tail of the table. A reader that is
slow finds the newest value of each row, never a queue; one that is slower than the deletions we remember is told so.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Compacted(Exception):
    """Deletions after the asked revision are forgotten: list again. ``floor`` is the oldest revision one can resume from."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        super().__init__(f"deletions up to revision {floor} are forgotten; list again")


class Change(NamedTuple, Generic[K, V]):
    revision: int
    key: K
    value: V | None


class Table(Generic[K, V]):
    """A dict of rows, each with the revision of its last change; remembers the last ``remembered`` deletions."""

    def __init__(self, remembered: int = 4096) -> None:
        self._rows: dict[K, tuple[int, V]] = {}
        self._deleted: dict[K, int] = {}
        self._remembered = remembered
        self._floor = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: K) -> bool:
        return key in self._rows

    def get(self, key: K) -> V | None:
        row = self._rows.get(key)
        return row[1] if row else None

    def revision_of(self, key: K) -> int:
        """The revision of the row's last change; 0 if there is no such row."""
        row = self._rows.get(key)
        return row[0] if row else 0

    def items(self) -> Iterator[tuple[K, V]]:
        return ((key, row[1]) for key, row in self._rows.items())

    def values(self) -> Iterator[V]:
        return (row[1] for row in self._rows.values())

    def put(self, revision: int, key: K, value: V) -> None:
        self._rows.pop(key, None)
        self._deleted.pop(key, None)
        self._rows[key] = (revision, value)

    def delete(self, revision: int, key: K) -> None:
        if self._rows.pop(key, None) is None:
            return
        self._deleted[key] = revision
        if len(self._deleted) > self._remembered:
            oldest = next(iter(self._deleted))
            self._floor = self._deleted.pop(oldest)

    def changes(self, after: int) -> list[Change[K, V]]:
        """What changed after revision ``after``, oldest first; value None: deleted.

        Raises:
            Compacted: deletions since then are forgotten.
        """
        if after < self._floor:
            raise Compacted(self._floor)
        found: list[Change[K, V]] = []
        for key in reversed(self._rows):
            revision, value = self._rows[key]
            if revision <= after:
                break
            found.append(Change(revision, key, value))
        for key in reversed(self._deleted):
            revision = self._deleted[key]
            if revision <= after:
                break
            found.append(Change(revision, key, None))
        return sorted(found, key=lambda change: change.revision)
