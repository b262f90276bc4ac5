"""What speaks for and against an outage once it is found: further silence, and what real connections saw. Pure.

An outage is confirmed when the node was silent for its whole window once more, a second at least, while this host heard
others, and no backend of the node accepted a connection meanwhile. It is contradicted, for as long as it goes on, by one
connection that was accepted when the silence was one already: then pods can be reached whatever the probes say, and nothing
may be closed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from meshd.dataplane.attempts import Noted
from meshd.dataplane.layouts import AttemptsRow
from meshd.dataplane.probes.verdict import BESIDE_S, LEAST_UNANSWERED, silence_limit_s
from meshd.kernel.prober import Health, Sample

AGAIN_LEAST_S = 1.0
_WRAPS = 1 << 32
_NONE = AttemptsRow(0, 0, 0, 0, 0)
_NS = 1e-9


class Connects(NamedTuple):
    """Connections to the backends of a silent node. ``unanswered`` and ``answered``: since it fell silent; a refusal is no
    answer. ``last_at``: when the last one began, monotonic seconds; 0: not known."""

    unanswered: int = 0
    answered: int = 0
    last_at: float = 0.0

    def __str__(self) -> str:
        return f"{self.unanswered} unanswered, {self.answered} answered"


def telling_from(silent_since: float, rtt_s: float, interval_s: float) -> float:
    """An answer after this time says that the node could still be reached though its probes had gone unanswered.

    One before may have come just before the cut: probes go out every ``interval_s``, and some are lost on the way.
    """
    return silent_since + max(silence_limit_s(rtt_s) / 4, 3 * interval_s) + rtt_s


def hears_others(sample: Sample, references: Iterable[Sample], newest_answer_at: float, since: float) -> bool:
    """Whether this host heard anybody after ``since``, or nobody stood beside the silent one whom it could have heard."""
    beside = (each.answered_at > max(sample.answered_at - BESIDE_S, 0.0) for each in references)
    return newest_answer_at > since or not any(beside)


@dataclass(slots=True)
class Tally:
    """Sums over the backends of one node, look by look. The hooks count since ever, so what was before is taken off."""

    silent_since: float
    telling_from: float
    connects: Connects = field(default_factory=Connects)
    _before: dict[bytes, AttemptsRow] = field(default_factory=dict)

    def look(self, noted: Noted) -> None:
        """What ``noted`` says now."""
        unanswered, answered, last_at = self.connects
        for backend, found in noted.items():
            row = found or _NONE
            before = self._before.get(backend)
            begun_more, answered_more = self._first(row) if before is None else _grown(before, row)
            unanswered, answered = unanswered + begun_more - answered_more, answered + answered_more
            last_at = max(last_at, row.last_ns * _NS)
            self._before[backend] = row
        self.connects = Connects(max(unanswered, 0), answered, last_at)

    def _first(self, row: AttemptsRow) -> tuple[int, int]:
        """Of those from before the first look it is known how many were unanswered at the end, and when one was answered."""
        unanswered = row.unanswered if row.last_ns * _NS > self.silent_since else 0
        answered = int(row.answered_ns * _NS > self.telling_from)
        return unanswered + answered, answered


def _grown(before: AttemptsRow, row: AttemptsRow) -> tuple[int, int]:
    begun, answered = (row.begun - before.begun) % _WRAPS, (row.answered - before.answered) % _WRAPS
    if max(begun, answered) > _WRAPS // 2:
        return row.begun, row.answered  # it was pushed out, and made anew
    return begun, answered


@dataclass(slots=True)
class _Mark:
    at: float
    late_s: float
    unanswered: int


@dataclass(slots=True)
class Confirmation:
    """Of one outage; what an earlier process found of it may be handed in."""

    tally: Tally
    confirmed: bool = False
    contradicted: bool = False
    _mark: _Mark | None = None

    def look(
        self, sample: Sample, health: Health, noted: Noted, hears_others_since: Callable[[float], bool]
    ) -> None:
        """``sample``: of the silent node; ``hears_others_since``: see `hears_others`."""
        self.tally.look(noted)
        if self.tally.connects.answered:
            self.contradicted, self.confirmed = True, False
        mark = self._mark
        if mark is None or sample.answered_at > mark.at:
            # The window begins, or begins anew. What an earlier process confirmed stays so until something is heard.
            self.confirmed = self.confirmed and mark is None
            self._mark = _Mark(health.now, health.late_s, sample.unanswered)
        elif not self.contradicted and not self.confirmed and _is_long_ago(mark, sample, health):
            if hears_others_since(mark.at):
                self.confirmed = True
            else:
                self._mark = _Mark(health.now, health.late_s, sample.unanswered)


def _is_long_ago(mark: _Mark, sample: Sample, health: Health) -> bool:
    """Whether the node was silent for its whole window since ``mark``, and to questions that were sent."""
    silence = health.now - mark.at - (health.late_s - mark.late_s)
    asked = sample.unanswered - mark.unanswered
    return asked >= LEAST_UNANSWERED and silence >= max(AGAIN_LEAST_S, silence_limit_s(sample.rtt_s))
