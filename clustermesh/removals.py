"""Which removals count: what a cluster's etcd no longer names either goes, or stands, marked.

A record that vanishes may have been deleted by its publisher, have died with a lease, or never have come back with the
backup that etcd was restored from. A removal that nobody vouches for is no removal: the record goes stale. Nor is one of
many that take more than half of a cluster's backends at once while the cluster's nodes answer: those are held. Both stand
until they are put again. Pure bookkeeping; whoever keeps it says what time it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import takewhile
from typing import Generic, TypeVar

RecordT = TypeVar("RecordT")

WINDOW_S = 60.0
HOLD_S = 900.0


class Word(Enum):
    """What a cluster's word is worth: nothing is removed while it is UNSURE, nothing held while it is LEAVING in order."""

    COUNTS = "counts"
    LEAVING = "leaving"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Kept(Generic[RecordT]):
    """A record that stands although etcd does not name it, since ``since_s`` (Unix time).

    ``held``: its removal was one of many. Else nobody vouched for it, and it is just stale.
    """

    record: RecordT
    since_s: float
    held: bool = False


@dataclass(frozen=True, slots=True)
class Verdict(Generic[RecordT]):
    """What follows from removals: names of records that go, and what is kept from now on, by name.

    A name of ``kept`` may be that of a record that went a moment ago.
    """

    gone: tuple[str, ...] = ()
    kept: Mapping[str, Kept[RecordT]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Taken(Generic[RecordT]):
    """A removal that counted at ``at_s``."""

    at_s: float
    record: RecordT


class Removals(Generic[RecordT]):
    """The records of one cluster that are in force, ``kept`` among them; ``size(record)`` is how many backends it has.

    All times are Unix seconds.
    """

    def __init__(
        self, size: Callable[[RecordT], int], *, window_s: float = WINDOW_S, hold_s: float = HOLD_S
    ) -> None:
        self._size = size
        self._window_s = window_s
        self.hold_s = hold_s
        self._in_force: dict[str, RecordT] = {}
        self._kept: dict[str, Kept[RecordT]] = {}
        # Removals of the last `window_s`, the oldest first, also of what is held now; and their backends.
        self._taken: dict[str, _Taken[RecordT]] = {}
        self._taken_size = 0
        # Backends in force that are not held.
        self._left_size = 0

    @property
    def in_force(self) -> Mapping[str, RecordT]:
        """What counts now, by name."""
        return self._in_force

    @property
    def kept(self) -> Mapping[str, Kept[RecordT]]:
        """What of it stands although etcd does not name it."""
        return self._kept

    def restore(
        self, records: Mapping[str, RecordT], kept: Mapping[str, Kept[RecordT]], now_s: float
    ) -> None:
        """What an earlier process had in force, and what of that it kept."""
        for name, record in records.items():
            self.put(name, record)
        for name, each in kept.items():
            # A clock that was set back meanwhile must not make a hold longer.
            self._keep(name, Kept(each.record, min(each.since_s, now_s), each.held))

    def put(self, name: str, record: RecordT) -> None:
        """Etcd names ``record``: that counts at once, however many backends it takes away."""
        self._drop(name)
        self._forget_taken(name)
        self._in_force[name] = record
        self._left_size += self._size(record)

    def removed(
        self, names: Iterable[str], word: Word, now_s: float, *, nodes_answer: bool
    ) -> Verdict[RecordT]:
        """Etcd does not name ``names`` any more. Those that are held already stay so."""
        found = {
            name: self._in_force[name] for name in names if name in self._in_force and not self._is_held(name)
        }
        if word is Word.UNSURE:
            fresh = {name: record for name, record in found.items() if name not in self._kept}
            return Verdict(
                kept={name: self._keep(name, Kept(record, now_s)) for name, record in fresh.items()}
            )
        for name in found:
            self._drop(name)
        if word is Word.LEAVING:
            return Verdict(tuple(found))
        self._forget_until(now_s - self._window_s)
        for name, record in found.items():
            self._taken[name] = _Taken(now_s, record)
            self._taken_size += self._size(record)
        # More than half of what there was before the window.
        most = self._taken_size > self._left_size
        held = self._hold_taken(now_s) if nodes_answer and most else {}
        return Verdict(tuple(name for name in found if name not in held), held)

    def listed(
        self, records: Mapping[str, RecordT], word: Word, now_s: float, *, nodes_answer: bool
    ) -> Verdict[RecordT]:
        """Etcd names ``records`` and nothing else; what went stale is judged anew."""
        for name, record in records.items():
            self.put(name, record)
        absent = [name for name in self._in_force if name not in records]
        return self.removed(absent, word, now_s, nodes_answer=nodes_answer)

    def over(self, now_s: float) -> dict[str, Kept[RecordT]]:
        """What was held for long enough; it is not in force any more."""
        self._forget_until(now_s - self._window_s)
        return self._let_go(
            [name for name, each in self._kept.items() if each.held and now_s - each.since_s >= self.hold_s]
        )

    def confirm(self) -> dict[str, Kept[RecordT]]:
        """All that was kept; it is not in force any more."""
        return self._let_go(list(self._kept))

    def forget(self, is_unwanted: Callable[[RecordT], bool]) -> None:
        """Records that are ``is_unwanted`` were never to be in force: that is no removal."""
        known = {name: taken.record for name, taken in self._taken.items()} | self._in_force
        for name, record in known.items():
            if is_unwanted(record):
                self._drop(name)
                self._forget_taken(name)

    # Inside

    def _hold_taken(self, now_s: float) -> dict[str, Kept[RecordT]]:
        return {
            name: self._keep(name, Kept(taken.record, now_s, held=True))
            for name, taken in self._taken.items()
            if not self._is_held(name)
        }

    def _let_go(self, names: Iterable[str]) -> dict[str, Kept[RecordT]]:
        going = {name: self._kept[name] for name in names}
        for name in going:
            self._drop(name)
            self._forget_taken(name)
        return going

    def _is_held(self, name: str) -> bool:
        return name in self._kept and self._kept[name].held

    def _keep(self, name: str, kept: Kept[RecordT]) -> Kept[RecordT]:
        self._drop(name)
        self._in_force[name] = kept.record
        self._kept[name] = kept
        if not kept.held:
            self._left_size += self._size(kept.record)
        return kept

    def _drop(self, name: str) -> None:
        if name not in self._in_force:
            return
        record, kept = self._in_force.pop(name), self._kept.pop(name, None)
        if kept is None or not kept.held:
            self._left_size -= self._size(record)

    def _forget_taken(self, name: str) -> None:
        taken = self._taken.pop(name, None)
        if taken is not None:
            self._taken_size -= self._size(taken.record)

    def _forget_until(self, when_s: float) -> None:
        old = [name for name, _ in takewhile(lambda item: item[1].at_s <= when_s, self._taken.items())]
        for name in old:
            self._forget_taken(name)
