"""What confirms an outage, and what contradicts it: with a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from meshd.dataplane.layouts import AttemptsRow
from meshd.dataplane.probes.confirmation import Confirmation, Connects, Tally, hears_others, telling_from
from meshd.dataplane.probes.verdict import silence_limit_s
from meshd.kernel.prober import Health, Sample

EVERY_S = 0.05
SILENT_SINCE = 100.0
WEB, DB = b"web", b"db"


def row(last: float, unanswered: int, begun: int, answered: int, answered_at: float = 0.0) -> AttemptsRow:
    return AttemptsRow(int(last * 1e9), int(answered_at * 1e9), unanswered, begun, answered)


@dataclass
class Outage:
    """Found 0.6 s after the node's last answer; one question every 50 ms, all others answer while ``hears``."""

    rtt_s: float = 0.001
    now: float = SILENT_SINCE + 0.6
    unanswered: int = 12
    answered_at: float = SILENT_SINCE
    late_s: float = 0.0
    hears: bool = True
    noted: dict[bytes, AttemptsRow | None] = field(default_factory=dict)
    heard_at: float = 0.0
    one: Confirmation = field(init=False)

    def __post_init__(self) -> None:
        self.one = Confirmation(Tally(SILENT_SINCE, telling_from(SILENT_SINCE, self.rtt_s, EVERY_S)))
        self.look()

    def look(self) -> None:
        sample = Sample(self.unanswered, 0, 99, 9, self.now, self.answered_at, self.rtt_s, 0)
        if self.hears:
            self.heard_at = self.now
        self.one.look(sample, Health(self.now, self.late_s), self.noted, lambda since: self.heard_at > since)

    def go_on(self, seconds: float) -> bool:
        for _ in range(round(seconds / EVERY_S)):
            self.now += EVERY_S
            self.unanswered += 1
            self.look()
        return self.one.confirmed


@pytest.mark.parametrize("rtt_s", [0.001, 0.1, 0.3])
def test_it_is_confirmed_by_a_second_window_of_silence_and_a_second_at_least(rtt_s: float) -> None:
    outage, window = Outage(rtt_s), max(silence_limit_s(rtt_s), 1.0)
    assert not outage.go_on(window - 0.1)
    assert outage.go_on(0.2)


def test_an_answer_begins_the_window_anew_and_takes_a_confirmation_back() -> None:
    outage = Outage()
    outage.go_on(0.9)
    outage.answered_at, outage.unanswered = outage.now, 0
    assert not outage.go_on(0.9)
    assert outage.go_on(0.3)
    outage.answered_at, outage.unanswered = outage.now + 0.01, 0
    assert not outage.go_on(0.9)
    assert outage.go_on(0.3)


def test_who_hears_nobody_else_confirms_nothing_until_it_heard_for_a_whole_window() -> None:
    outage = Outage(hears=False)
    assert not outage.go_on(5)
    outage.hears = True
    assert not outage.go_on(0.05)
    assert outage.go_on(1.1)


def test_what_we_slept_through_and_questions_that_were_not_sent_confirm_nothing() -> None:
    outage = Outage()
    outage.now, outage.late_s = outage.now + 3, 3
    assert not outage.go_on(0.5)
    unsent = Outage()
    unsent.now += 3
    unsent.look()
    assert not unsent.one.confirmed


def test_one_connection_that_was_answered_contradicts_it_for_as_long_as_it_goes_on() -> None:
    outage = Outage(noted={WEB: row(100.5, 3, 50, 47, answered_at=99.9), DB: None})
    assert (outage.one.contradicted, outage.one.tally.connects) == (False, Connects(3, 0, 100.5))
    outage.noted = {WEB: outage.noted[WEB], DB: row(101, 0, 1, 1, answered_at=101)}
    assert not outage.go_on(5)
    assert (outage.one.contradicted, outage.one.tally.connects) == (True, Connects(3, 1, 101))


def test_an_answer_contradicts_what_was_confirmed() -> None:
    outage = Outage(noted={WEB: None})
    assert outage.go_on(2)
    outage.noted = {WEB: row(102, 0, 1, 1, answered_at=102)}
    assert not outage.go_on(EVERY_S)
    assert outage.one.contradicted


@pytest.mark.parametrize(("answered_at", "contradicted"), [(100.12, False), (100.25, True)])
def test_an_answer_just_after_the_last_probe_may_have_come_before_the_cut(
    answered_at: float, contradicted: bool
) -> None:
    outage = Outage(noted={WEB: row(100.5, 2, 50, 48, answered_at)})
    assert outage.one.contradicted == contradicted


def test_connections_are_counted_from_the_silence_on_also_where_the_row_is_made_anew() -> None:
    outage = Outage(noted={WEB: row(99, 7, 60, 50, answered_at=90), DB: row(100.4, 4, 2**32 - 1, 5)})
    assert outage.one.tally.connects == Connects(4, 0, 100.4)
    # The counter wraps.
    outage.noted = {WEB: row(101, 9, 62, 50), DB: row(101.5, 6, 1, 5)}
    outage.look()
    assert outage.one.tally.connects == Connects(8, 0, 101.5)
    outage.noted = {WEB: row(102, 1, 1, 0), DB: None}
    outage.look()
    assert outage.one.tally.connects == Connects(9, 0, 102)


def heard(at: float) -> Sample:
    return Sample(0, 0, 10, 10, at, at, 0.001, 0)


@pytest.mark.parametrize(
    ("references", "newest", "hears"),
    [
        pytest.param([], 100.0, True, id="nobody else is asked"),
        pytest.param([heard(102)], 102.0, True, id="a reference answers"),
        pytest.param([heard(100.9)], 100.9, False, id="the reference fell silent after it"),
        pytest.param([heard(60)], 100.0, True, id="the reference was silent long before"),
        pytest.param([heard(0)], 100.0, True, id="the reference never answered"),
        pytest.param([heard(99.9)], 102.0, True, id="somebody else answers"),
    ],
)
def test_whether_this_host_heard_others(references: list[Sample], newest: float, hears: bool) -> None:
    assert hears_others(heard(100), references, newest, 101.0) is hears
