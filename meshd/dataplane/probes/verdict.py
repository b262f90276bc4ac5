"""What silence means: whether a node is down, or this one only cannot hear it. Pure.

A node is down when nothing at all came from it for max(500 ms, 4 x RTT + 200 ms), and at least 8 questions in a row went
unanswered, and nothing speaks against this observer. How many others are silent as well says nothing about the observer:
what does is that it was kept from asking, that it could not send, or that nobody answers who stood beside it until then.
What it did not hear while it doubted itself proves nothing afterwards: when it hears again, answers do not all come at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from meshd.kernel.prober import Health, Sample
from meshd.model import Reachability

LEAST_SILENCE_S = 0.5
LEAST_UNANSWERED = 8
# Whoever answered so much later than the silent one was last heard: this host could hear then.
APART_S = 0.2
# A reference that was silent before the other was says nothing of what happened since.
BESIDE_S = 1.0

RETURN_S = 1.0
RETURN_MOST_S = 64.0
# Each fall within this time doubles how long a node has to answer before it counts again.
FLAPS_WITHIN_S = 600.0
LOSS_OVER_S = 10.0


def silence_limit_s(rtt_s: float) -> float:
    """For so long nothing may come from a node that is there."""
    return max(LEAST_SILENCE_S, 4 * rtt_s + APART_S)


def against_us(sample: Sample, references: Iterable[Sample], newest_answer_at: float) -> str:
    """Why the silence of who has ``sample`` may be this observer's own fault, as a phrase; empty: nothing says so.

    ``references`` are near: nodes of this cluster, and what the configuration names. ``newest_answer_at``: of anybody, in
    monotonic seconds; whoever it was, this host heard then.
    """
    if sample.unsent > sample.unanswered:
        return f"this node could not send: errno {sample.last_error}"
    if newest_answer_at > sample.answered_at + APART_S:
        return ""
    beside = [each for each in references if each.answered_at > sample.answered_at - BESIDE_S]
    if not beside:
        return ""
    return f"none of {len(beside)} near this node answers either"


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment from which on silence counts: how late we were by then in all, and how many questions were unanswered."""

    at: float = 0.0
    late_s: float = 0.0
    unanswered: int = 0

    def is_long_ago(self, sample: Sample, health: Health) -> bool:
        """Whether so long, and to so many questions, nobody who is there would have been silent since."""
        # What we slept through, nobody could have answered.
        silence = health.now - self.at - (health.late_s - self.late_s)
        enough = sample.unanswered + sample.unsent - self.unanswered >= LEAST_UNANSWERED
        return enough and silence > silence_limit_s(sample.rtt_s)


@dataclass(slots=True)
class Judge:
    """Of one node. ``since``: monotonic time of the last change of ``state``; ``suspicion``: why it is not down in spite of
    its silence. ``downs``: when it fell, of late."""

    state: Reachability = Reachability.UNKNOWN
    since: float = 0.0
    suspicion: str = ""
    downs: deque[float] = field(default_factory=deque)
    _heard_since: float = 0.0
    _answered: Mark = Mark()
    _doubted: Mark = Mark()
    _counts: deque[tuple[float, int, int]] = field(default_factory=deque)

    def look(
        self, sample: Sample, health: Health, interval_s: float, doubt: Callable[[Sample], str]
    ) -> Reachability:
        """What it is now. ``doubt``: what `against_us` says; asked only where it matters."""
        now = health.now
        self._count(now, sample)
        if sample.answered_at != self._answered.at:
            self._answered = self._doubted = Mark(sample.answered_at, health.late_s)
        if self.state is not Reachability.UP:
            self._may_return(sample, now, interval_s)
        elif self._answered.is_long_ago(sample, health):
            if said := doubt(sample):
                self.suspicion = said
                self._doubted = Mark(now, health.late_s, sample.unanswered + sample.unsent)
            elif self._doubted.is_long_ago(sample, health):
                self._set(Reachability.DOWN, now)
                self.downs.append(now)
                self._heard_since = 0.0
        else:
            self.suspicion = ""
        return self.state

    def loss(self) -> float:
        """The share of questions of the last ten seconds that nobody answered, 0..1."""
        if len(self._counts) < 2:
            return 0.0
        (_, asked, answered), (_, asked_now, answered_now) = self._counts[0], self._counts[-1]
        lost = (asked_now - asked) - (answered_now - answered)
        # One or two are under way.
        return max(lost - 2, 0) / max(asked_now - asked, 1)

    def return_after_s(self, now: float) -> float:
        """For so long a node that is down has to answer until it counts again."""
        while self.downs and now - self.downs[0] > FLAPS_WITHIN_S:
            self.downs.popleft()
        return float(min(RETURN_S * 2 ** max(len(self.downs) - 1, 0), RETURN_MOST_S))

    def _may_return(self, sample: Sample, now: float, interval_s: float) -> None:
        if not sample.answered_at:
            return  # never heard: nobody knows
        if self.state is Reachability.UNKNOWN:
            self._set(Reachability.UP, now)
            return
        gap = now - sample.answered_at
        if sample.answered_at <= self.since or gap > 4 * interval_s + 2 * sample.rtt_s:
            self._heard_since = 0.0
            return
        self._heard_since = self._heard_since or sample.answered_at
        if now - self._heard_since >= self.return_after_s(now):
            self._set(Reachability.UP, now)

    def _set(self, state: Reachability, now: float) -> None:
        self.state, self.since, self.suspicion = state, now, ""

    def _count(self, now: float, sample: Sample) -> None:
        if not self._counts or now - self._counts[-1][0] >= 1.0:
            self._counts.append((now, sample.asked, sample.answered))
        while now - self._counts[0][0] > LOSS_OVER_S:
            self._counts.popleft()
