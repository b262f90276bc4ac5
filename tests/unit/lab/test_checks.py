"""Whether a phase showed what it must: each check sees what is right, and each kind of what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from meshd.lab.demo import checks
from meshd.lab.demo.checks import PodCounts, Seen, counts_agree
from meshd.lab.demo.requests import Request

CLIENTS = ("cm-1/x-wing-1", "cm-2/x-wing-1")
CLUSTERS = ("cm-1", "cm-2")
MS = 10**6


def _got(cluster: str, at_ms: int, client: str = CLIENTS[0], family: int = 4) -> Request:
    return Request(client, at_ms * MS, 1000, family, cluster, "rebel-base-1")


def _lost(at_ms: int, client: str = CLIENTS[0]) -> Request:
    return Request(client, at_ms * MS, 1000, 4, lost="ECONNREFUSED")


def _everybody(clusters: Sequence[str], at_ms: int) -> list[Request]:
    return [_got(c, at_ms, client, family) for c in clusters for client in CLIENTS for family in (4, 6)]


def _seen(requests: Sequence[Request], moments: Mapping[str, int]) -> Seen:
    return Seen(0, 10_000 * MS, {name: at * MS for name, at in moments.items()}, requests, CLIENTS, CLUSTERS)


def test_both_clusters_serve_when_every_client_was_answered_by_both_over_both_families() -> None:
    every = _everybody(CLUSTERS, 10)
    assert checks.both_serve(_seen(every, {})) == []
    without = [r for r in every if (r.client, r.cluster, r.family) != (CLIENTS[1], "cm-2", 6)]
    assert checks.both_serve(_seen(without, {})) == ["cm-2/x-wing-1 got no answer from cm-2 over IPv6"]


def test_after_its_backends_have_gone_no_answer_may_come_from_a_cluster() -> None:
    check = checks.left_answers_nothing("cm-2")
    before, after = _everybody(CLUSTERS, 10), _everybody(["cm-1"], 30)
    assert check(_seen([*before, *after], {"gone": 20})) == []
    assert check(_seen([*before, *after, _got("cm-2", 31)], {"gone": 20})) == [
        "cm-1/x-wing-1 got 1 answers from cm-2 after the backends of cm-2 had gone"
    ]


def test_an_outage_shows_something_only_if_answers_of_both_clusters_came_during_it() -> None:
    check = checks.nothing_changes("down", "etcd of cm-1")
    moments = {"down": 10, "started": 20, "settled": 30}
    good = [*_everybody(CLUSTERS, 15), *_everybody(CLUSTERS, 35)]
    assert check(_seen(good, moments)) == []
    only_after = check(_seen(_everybody(CLUSTERS, 35), moments))
    assert "cm-1/x-wing-1 got no answer from cm-1 while etcd of cm-1 was down" in only_after
    assert len(only_after) == 4


def test_failures_must_happen_and_must_end_when_the_removal_is_known() -> None:
    moments = {"change": 10, "settled": 20}
    after = _everybody(CLUSTERS, 25)
    assert checks.failures_end(_seen([_lost(12), *after], moments)) == []
    assert checks.failures_end(_seen(after, moments)) == [
        "no request failed, so the killed backend was not in use"
    ]
    assert checks.failures_end(_seen([_lost(12), _lost(21), *after], moments)) == [
        "1 requests failed that began after its removal was known"
    ]


def test_the_switch_is_the_last_answer_of_the_old_kind_seen_by_the_slowest_caller() -> None:
    requests = [_got("cm-2", 5), _got("cm-2", 12), _got("cm-2", 14, CLIENTS[1]), _got("cm-1", 90)]
    seen = _seen(requests, {"change": 10})
    assert checks.until_last_answer_of("cm-2")(seen) == pytest.approx(5.0)
    assert checks.until_last_answer_of("cm-2")(_seen(requests, {"change": 50})) == 0.0
    assert checks.until_first_answer_of("cm-1")(seen) == pytest.approx(81.0)
    assert checks.until_last_loss(seen) is None
    assert checks.no_switch(seen) is None


COUNTS = [
    ("equal", 2, PodCounts(2, 2), 0, []),
    ("the pod was killed between an answer and its count", 2, PodCounts(2, 1), 0, []),
    ("a late answer was counted as lost by the client", 2, PodCounts(3, 3), 1, []),
    (
        "an answer that nobody got",
        2,
        PodCounts(3, 3),
        0,
        ["backends gave 1 answers that no client got, but 0 requests were lost"],
    ),
    (
        "an answer nobody gave",
        2,
        PodCounts(1, 1),
        0,
        ["clients got 2 answers from cm-1/rebel-base-1, which gave 1"],
    ),
]


@pytest.mark.parametrize(
    ("case", "got", "counted", "lost", "problems"), COUNTS, ids=[row[0] for row in COUNTS]
)
def test_clients_and_backends_counted_the_same(
    case: str, got: int, counted: PodCounts, lost: int, problems: list[str]
) -> None:
    requests = [*(_got("cm-1", n) for n in range(got)), *(_lost(n) for n in range(lost))]
    assert counts_agree(requests, {"cm-1/rebel-base-1": counted}) == problems


def test_an_answer_of_a_pod_that_does_not_exist_is_told() -> None:
    assert counts_agree([_got("cm-1", 1)], {}) == [
        "clients got 1 answers from cm-1/rebel-base-1, which does not exist"
    ]


def _cut(*requests: Request) -> Seen:
    """Cut at 1 s, healed at 4 s, all answer again from 6 s on."""
    return _seen(requests, {"cut": 1000, "healed": 4000, "settled": 6000})


def _own(at_ms: int) -> list[Request]:
    """Every client is answered by its own cluster."""
    return [_got(client.partition("/")[0], at_ms, client, family) for client in CLIENTS for family in (4, 6)]


def test_a_cut_excuses_what_was_in_flight_and_what_could_not_know_and_nothing_after() -> None:
    in_flight, before, after = _lost(999), _lost(1500), _lost(2001)
    seen = _cut(in_flight, before, after, *_own(3000), *_everybody(CLUSTERS, 7000))
    excused = checks.cut_losses(seen)
    assert (excused.in_flight, excused.before_switch) == ([in_flight], [before])
    assert checks.each_serves_itself(seen) == ["connections moved 1001 ms after the cut, 1000 ms are allowed"]


def test_each_cluster_serves_itself_while_the_link_is_cut_and_both_do_again() -> None:
    good = [_lost(1100), *_own(3000), *_everybody(CLUSTERS, 7000)]
    assert checks.each_serves_itself(_cut(*good)) == []
    assert checks.until_last_loss_begun(_cut(*good)) == 100
    assert checks.each_serves_itself(_cut(*good[1:])) == [
        "no request failed at the cut, so nobody used the link"
    ]
    assert checks.each_serves_itself(_cut(*good, _got("cm-2", 3001))) == [
        "cm-1/x-wing-1 got 1 answers from cm-2 while the link was cut"
    ]
    without_return = checks.each_serves_itself(_cut(_lost(1100), *_own(3000), *_own(7000)))
    assert "cm-1/x-wing-1 got no answer from cm-2 after the link was back" in without_return


def test_who_leaves_a_cluster_for_a_moment_though_only_its_etcd_is_away_is_noticed() -> None:
    check = checks.nobody_moves("down", "the etcd of cm-2")
    moments = {"down": 10, "started": 5000, "settled": 6000}
    turns = [_everybody(CLUSTERS, at) for at in range(100, 6500, 100)]
    assert check(_seen([one for turn in turns for one in turn], moments)) == []
    moved = [_got("cm-1", 2000 + at) for at in range(checks.IN_A_ROW)]
    assert check(_seen([*(one for turn in turns for one in turn), *moved], moments)) == [
        "cm-1/x-wing-1 got 40 answers in a row from one cluster only over IPv4 while the etcd of cm-2 was down"
    ]
