"""Whether a fault had its right outcome: each kind of what is wrong is seen, and what must be is let pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from meshd.lab.demo.requests import Request
from meshd.lab.faults.effect import Effect, both_ways
from meshd.lab.faults.expected import expected
from meshd.lab.faults.verdict import QUIET, Injection, Trial, Verdict, Written, judge, row_limit
from meshd.lab.faults.words import Attempt, Fall
from tests.unit.lab.test_faults_expected import BACKENDS, CLUSTERS, CM_1, CM_2, EVERY

MS = 10**6
CUT = Effect(silent=both_ways(CM_1, CM_2))
NODE_OF = {pod.id: pod.node for pod in BACKENDS} | {f"{node[:4]}/x-wing-{node[-1]}": node for node in EVERY}
CLIENTS = {node: client for client, node in NODE_OF.items() if "x-wing" in client}


def _trial(effect: Effect) -> Trial:
    """Injected at 1 s, in force at 1.1 s, healing from 6 s to 7 s, settled at 8 s, over at 10 s."""
    wanted = expected(CLUSTERS, BACKENDS, effect)
    injection = Injection("fault", 1000 * MS, 1100 * MS, wanted)
    return Trial(wanted, [injection], 0, 1100 * MS, 6000 * MS, 7000 * MS, 8000 * MS, 10_000 * MS)


def _dialled(effect: Effect) -> list[Attempt]:
    """What diallers see where the fault is what its plan says, every half second."""
    outlooks = expected(CLUSTERS, BACKENDS, effect).outlooks
    found = []
    for at_ms in range(0, 10_000, 500):
        for node, outlook in outlooks.items():
            for pod in BACKENDS:
                is_open = pod.id in outlook.serving or not 1000 <= at_ms < 6500
                found.append(Attempt(node, at_ms * MS, 400, pod.id, "open" if is_open else "silent"))
    return found


def _answered(effect: Effect, left_at_ms: int = 1000) -> list[Request]:
    """Every client asks every 10 ms, and the backends take turns; those that are left answer nothing from then on."""
    outlooks = expected(CLUSTERS, BACKENDS, effect).outlooks
    found = []
    alive = {node: outlook for node, outlook in outlooks.items() if not outlook.gone}
    for number, at_ms in enumerate(range(0, 10_000, 10)):
        for node, outlook in alive.items():
            usable = [p for p in BACKENDS if p.id in outlook.serving or not left_at_ms <= at_ms < 8000]
            pod = usable[number % len(usable)]
            found.append(Request(CLIENTS[node], at_ms * MS, 500, 4, pod.cluster, pod.name))
    return found


def _fell(observer: str, node: str, at_ms: int = 1520) -> Fall:
    return Fall(observer, node, at_ms * MS, 510)


def _judged(
    effect: Effect,
    requests: Sequence[Request],
    falls: Sequence[Fall] = (),
    attempts: Sequence[Attempt] | None = None,
) -> Verdict:
    dialled = _dialled(effect) if attempts is None else attempts
    return judge(_trial(effect), Written(requests, dialled, falls, NODE_OF))


def _lost(node: str, at_ms: int) -> Request:
    return Request(CLIENTS[node], at_ms * MS, 2_000_000, 4, lost="deadline")


def test_a_cut_link_that_is_left_in_time_is_as_it_must_be_and_is_measured() -> None:
    requests = [*_answered(CUT), _lost("cm-1-n1", 1005), _lost("cm-1-n1", 1405), _lost("cm-2-n1", 995)]
    verdict = _judged(CUT, requests, [_fell("cm-1-n1", "cm-2-n1")])
    assert (verdict.ok, verdict.wrong, verdict.problems) == (True, [], [])
    assert verdict.excused == {"before_switch": 2, "in_flight": 1}
    assert verdict.detection_ms == [520.0]
    assert sorted(verdict.switch_ms) == [0.0, 0.0, 0.0, 405.0]


def test_a_request_that_is_lost_after_the_switch_is_lost() -> None:
    late = _lost("cm-1-n1", 1005 + 10 * (QUIET + 20))
    assert _judged(CUT, [*_answered(CUT), _lost("cm-1-n1", 1005), late]).lost == [late]


def test_a_fault_that_nobody_feels_and_that_takes_long_to_begin_excuses_nothing() -> None:
    trial = _trial(CUT)
    (cut,) = trial.injections
    slow = Injection("slow", 1200 * MS, 4500 * MS, expected(CLUSTERS, BACKENDS, Effect()))
    both = replace(trial, injections=[cut, slow], in_force_ns=4500 * MS)
    before, after = _lost("cm-1-n1", 1405), _lost("cm-1-n1", 4005)
    verdict = judge(both, Written([*_answered(CUT), before, after], _dialled(CUT), [], NODE_OF))
    assert (verdict.lost, verdict.excused) == ([after], {"before_switch": 1})


def test_hooks_without_an_agent_may_try_again_who_they_left_but_not_at_once() -> None:
    effect = CUT | Effect(without_agent=frozenset({"cm-1-n1"}))
    trial = replace(_trial(effect), healing_ns=20_000 * MS, healed_ns=21_000 * MS, settled_ns=22_000 * MS)
    soon, late = _lost("cm-1-n1", 5005), _lost("cm-1-n1", 12_005)
    written = Written([*_answered(effect), soon, late], [], [], NODE_OF)
    verdict = judge(trial, written)
    assert (verdict.lost, verdict.excused) == ([soon], {"tried_again": 1})


def test_loss_that_loses_nothing_shows_nothing() -> None:
    lossy = Effect(lossy=frozenset({("cm-1-n1", "")}))
    assert _judged(lossy, _answered(lossy)).problems == [
        "of 54 attempts of diallers where packets get lost all were let in"
    ]


def test_a_node_that_is_not_far_away_when_it_should_be_shows_nothing() -> None:
    far = Effect(late=frozenset({"cm-1-n1"}))
    near = _judged(far, _answered(far)).problems
    assert "cm-1/rebel-base-1 should be far from cm-2-n1, and is not" in near
    assert not any("far from cm-1-n1" in each and "cm-1/rebel-base-1" in each for each in near)
    late = [each._replace(latency_us=300_000) for each in _dialled(far)]
    assert _judged(far, _answered(far), attempts=late).problems == []


def test_a_request_lost_by_who_can_reach_everybody_is_lost() -> None:
    lost = _lost("cm-3-n1", 1005)
    assert _judged(CUT, [*_answered(CUT), lost]).lost == [lost]


def test_requests_lost_before_the_fault_or_after_it_was_undone_are_lost() -> None:
    early = replace_latency(_lost("cm-1-n1", 100))
    late = _lost("cm-1-n1", 7100)
    assert _judged(CUT, [*_answered(CUT), early, late]).lost == [early, late]


def replace_latency(request: Request) -> Request:
    return request._replace(latency_us=1000, lost="ECONNREFUSED")


def test_an_agent_that_blames_who_accepts_connections_fails_over_wrongly() -> None:
    verdict = _judged(Effect(), _answered(Effect()), [_fell("cm-1-n1", "cm-2-n1", 2000)])
    assert verdict.wrong == [
        "the agent of cm-1-n1 says that cm-2-n1 does not answer for 510 ms;"
        " meanwhile the dialler beside it was let in there 1 times"
    ]


def test_an_agent_that_is_itself_cut_off_and_blames_others_fails_over_wrongly() -> None:
    uplink = Effect(silent=both_ways(["cm-2-n1"], EVERY))
    assert len(_judged(uplink, _answered(uplink), [_fell("cm-2-n1", "cm-1-n1")]).wrong) == 1
    assert _judged(uplink, _answered(uplink), [_fell("cm-1-n1", "cm-2-n1")]).wrong == []


def test_who_died_of_a_second_fault_may_have_blamed_who_died_of_the_first() -> None:
    first = Effect(silent=both_ways(["cm-1-n2"], EVERY), dead=frozenset({"cm-1-n2"}))
    both = first | Effect(silent=both_ways(["cm-3-n1"], EVERY), dead=frozenset({"cm-3-n1"}))
    alone = Injection("first", 1000 * MS, 1100 * MS, expected(CLUSTERS, BACKENDS, first))
    written = Written(_answered(both), _dialled(both), [_fell("cm-3-n1", "cm-1-n2")], NODE_OF)
    trial = _trial(both)
    assert len(judge(trial, written).wrong) == 1
    assert judge(replace(trial, injections=[alone, *trial.injections]), written).wrong == []


def test_a_blame_before_the_fault_is_no_detection() -> None:
    verdict = _judged(CUT, _answered(CUT), [_fell("cm-1-n1", "cm-2-n1", 900)])
    assert (len(verdict.wrong), verdict.detection_ms) == (1, [])


def test_clients_that_leave_a_cluster_that_serves_are_seen_by_their_answers() -> None:
    moved = [
        each._replace(cluster="cm-1", pod="rebel-base-1")
        if each.client == CLIENTS["cm-3-n1"] and 2000 * MS < each.begun_ns < 4000 * MS
        else each
        for each in _answered(Effect())
    ]
    wrong = _judged(Effect(), moved).wrong
    assert [each.split(":")[0] for each in wrong] == [
        "clients of cm-3-n1 left cm-2, which serves",
        "clients of cm-3-n1 left cm-3, which serves",
    ]


def test_clients_that_do_not_come_back_are_seen_by_their_answers() -> None:
    stayed = [
        each._replace(cluster="cm-1", pod="rebel-base-1")
        if each.client == CLIENTS["cm-1-n1"] and each.begun_ns >= 8000 * MS and each.cluster == "cm-2"
        else each
        for each in _answered(CUT)
    ]
    (wrong,) = _judged(CUT, stayed).wrong
    assert wrong.startswith("clients of cm-1-n1 left cm-2, which serves after all was as before")


def test_a_fault_that_was_not_what_its_plan_says_shows_nothing() -> None:
    verdict = _judged(CUT, _answered(CUT), attempts=_dialled(Effect()))
    assert "cm-2/rebel-base-1 should not be reached from cm-1-n1, and accepted 9 of 9" in verdict.problems
    nobody = _judged(Effect(), _answered(Effect()), attempts=[])
    assert "the dialler of cm-1-n1 did not try cm-1/rebel-base-1" in nobody.problems
    dead = [replace_outcome(each) for each in _dialled(Effect())]
    assert any(
        "should be reached" in each for each in _judged(Effect(), _answered(Effect()), attempts=dead).problems
    )


def replace_outcome(attempt: Attempt) -> Attempt:
    return attempt._replace(outcome="silent")


def test_what_went_wrong_in_doing_it_is_a_problem() -> None:
    trial = replace(_trial(Effect()), problems=("it was not done",))
    written = Written(_answered(Effect()), _dialled(Effect()), [], NODE_OF)
    assert judge(trial, written).problems == ["it was not done"]


def test_a_row_is_as_long_as_chance_never_makes_it() -> None:
    assert row_limit(2, 6) == 52
    assert row_limit(1, 6) == 114
