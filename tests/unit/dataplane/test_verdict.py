"""When silence means that a node is down, and when that this one does not hear: with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.dataplane.probes.verdict import Judge, against_us, silence_limit_s
from meshd.kernel.prober import Health, Sample
from meshd.model import Reachability

EVERY_S = 0.05
UP, DOWN, UNKNOWN = Reachability.UP, Reachability.DOWN, Reachability.UNKNOWN


@dataclass
class World:
    """Asks every 50 ms; ``answers(time of the question)`` says which are answered, after ``rtt_s``."""

    answers: Callable[[float], bool]
    rtt_s: float = 0.001
    now: float = 100.0
    late_s: float = 0.0
    judge: Judge = field(default_factory=Judge)
    asked: list[float] = field(default_factory=list)
    lost: int = 0
    seen: list[tuple[float, Reachability]] = field(default_factory=list)

    def sample(self) -> Sample:
        newest = reversed(self.asked)
        last = next((at for at in newest if self.answers(at) and at + self.rtt_s <= self.now), 0.0)
        answered_at = last + self.rtt_s if last else 0.0
        unanswered = 0
        while unanswered < len(self.asked) and self.asked[-1 - unanswered] > answered_at:
            unanswered += 1
        answered = len(self.asked) - self.lost
        return Sample(unanswered, 0, len(self.asked), answered, self.now, answered_at, self.rtt_s, 0)

    def go_on(self, seconds: float, doubt: str = "") -> Reachability:
        for _ in range(round(seconds / EVERY_S)):
            self.now += EVERY_S
            self.asked.append(self.now)
            self.lost += not self.answers(self.now)
            state = self.judge.look(self.sample(), Health(self.now, self.late_s), EVERY_S, lambda _: doubt)
            if not self.seen or self.seen[-1][1] is not state:
                self.seen.append((self.now, state))
        return self.judge.state

    def since(self, state: Reachability, begun: float) -> float:
        return next(at for at, each in self.seen if each is state and at > begun) - begun


def cut_at(*spans: tuple[float, float]) -> Callable[[float], bool]:
    return lambda at: not any(first <= at < last for first, last in spans)


def nobody_doubts(_: Sample) -> str:
    return ""


@pytest.mark.parametrize("rtt_s", [0.0005, 0.02, 0.05, 0.1, 0.3])
def test_a_cut_is_noticed_in_time_at_every_round_trip_time(rtt_s: float) -> None:
    world = World(cut_at((103.0, 999.0)), rtt_s)
    assert world.go_on(3) is UP
    world.go_on(4)
    # The last answers come until one round trip after the cut.
    limit = silence_limit_s(rtt_s) + rtt_s + 2 * EVERY_S
    assert limit <= 0.9 or rtt_s > 0.05
    assert world.since(DOWN, 103.0) <= limit


def test_who_never_answered_is_not_down() -> None:
    world = World(lambda _: False)
    assert world.go_on(60) is UNKNOWN


def test_who_pauses_for_less_than_the_limit_is_not_down() -> None:
    world = World(cut_at(*((start, start + 0.4) for start in range(101, 120))))
    assert world.go_on(20) is UP
    assert world.judge.loss() > 0.2


def test_few_questions_prove_nothing() -> None:
    judge = Judge()
    judge.look(Sample(0, 0, 1, 1, 100.0, 100.0, 0.001, 0), Health(100.0, 0.0), 1.0, nobody_doubts)
    state = judge.look(Sample(7, 0, 8, 1, 107.0, 100.0, 0.001, 0), Health(107.0, 0.0), 1.0, nobody_doubts)
    assert state is UP
    assert (
        judge.look(Sample(8, 0, 9, 1, 108.0, 100.0, 0.001, 0), Health(108.0, 0.0), 1.0, nobody_doubts) is DOWN
    )


def test_what_we_slept_through_is_no_silence() -> None:
    world = World(lambda _: True)
    world.go_on(2)
    # Kept from running for three seconds; then eight questions at once could not be answered yet.
    heard = world.sample()
    late = heard._replace(unanswered=8)
    assert world.judge.look(late, Health(world.now + 3.0, 3.0), EVERY_S, nobody_doubts) is UP
    assert world.judge.look(late, Health(world.now + 3.6, 3.0), EVERY_S, nobody_doubts) is DOWN


def test_doubt_keeps_it_up_and_is_told_until_it_was_silent_for_long_enough_after_it() -> None:
    world = World(cut_at((101.0, 999.0)))
    world.go_on(1)
    assert world.go_on(5, "somebody doubts") is UP
    assert world.judge.suspicion == "somebody doubts"
    assert world.go_on(0.45) is UP
    assert world.judge.suspicion == "somebody doubts"
    assert world.go_on(0.1) is DOWN
    assert world.judge.suspicion == ""


def test_when_this_host_hears_again_who_answers_a_moment_after_the_first_is_not_down() -> None:
    world = World(cut_at((101.0, 106.3)))
    world.go_on(1)
    world.go_on(5, "this host hears nobody")
    assert world.go_on(3) is UP
    assert DOWN not in [state for _, state in world.seen]


def test_it_returns_after_a_second_of_answers_and_later_each_time() -> None:
    world = World(cut_at((101, 103), (110, 112), (120, 122)))
    world.go_on(30)
    states = [state for _, state in world.seen]
    assert states == [UNKNOWN, UP, DOWN, UP, DOWN, UP, DOWN, UP]
    returned = [at for at, state in world.seen if state is UP][1:]  # the first was heard, not back
    waited = [at - healed for at, healed in zip(returned, (103, 112, 122), strict=True)]
    assert [round(each) for each in waited] == [1, 2, 4]


def test_a_link_that_flaps_does_not_flap_the_choice() -> None:
    # A second each way, for five minutes: 150 falls of the link.
    world = World(lambda at: int(at) % 2 == 0)
    world.go_on(300)
    assert len(world.seen) <= 9


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1200, max_size=1200))
def test_loss_alone_never_makes_it_fall(lost: list[bool]) -> None:
    """At most every other question is lost, in any pattern that answers one of eight."""
    answered = [not each or number % 8 == 0 for number, each in enumerate(lost)]
    world = World(lambda at: answered[round((at - 100) / EVERY_S) % len(answered)])
    assert world.go_on(60) in {UP, UNKNOWN}
    assert DOWN not in [state for _, state in world.seen]


def heard(at: float) -> Sample:
    return Sample(0, 0, 10, 10, at, at, 0.001, 0)


SILENT = heard(100.0)


@pytest.mark.parametrize(
    ("references", "others", "doubted"),
    [
        pytest.param([], [], False, id="nobody else is asked"),
        pytest.param([heard(100.6)], [], False, id="a reference answers"),
        pytest.param([heard(100.01)], [], True, id="the reference fell silent with it"),
        pytest.param([heard(100.01), heard(100.6)], [], False, id="one of two references answers"),
        pytest.param([heard(60.0)], [], False, id="the reference was silent long before"),
        pytest.param([heard(0.0)], [], False, id="the reference never answered"),
        pytest.param([], [heard(100.01), heard(100.0)], False, id="all others fell silent with it"),
        pytest.param([heard(100.01)], [heard(100.6)], False, id="another one answers, so we hear"),
        pytest.param([heard(100.01)], [heard(100.02)], True, id="nobody answers any more"),
    ],
)
def test_who_speaks_against_us(references: list[Sample], others: list[Sample], doubted: bool) -> None:
    newest = max(each.answered_at for each in (SILENT, *references, *others))
    assert bool(against_us(SILENT, references, newest)) is doubted


def test_what_could_not_be_sent_speaks_against_us() -> None:
    unsent = SILENT._replace(unsent=10, last_error=101)
    assert "could not send" in against_us(unsent, [heard(100.6)], 100.6)
