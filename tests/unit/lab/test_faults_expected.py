"""The right outcome of each kind of fault follows from the lab's plan alone."""

from __future__ import annotations

import random

import pytest

from meshd.lab.faults.effect import Effect, both_ways, one_way
from meshd.lab.faults.expected import Expected, Outlook, expected
from meshd.lab.faults.ground import spec
from meshd.lab.faults.kinds import KINDS, series
from meshd.lab.layout import clusters
from meshd.lab.record import Pod

CLUSTERS = clusters(spec(240))
BACKENDS = [
    Pod(cluster.name, node.name, "default", f"rebel-base-{node.number}", 10, {}, ())
    for cluster in CLUSTERS
    for node in cluster.nodes
]
CM_1, CM_2, CM_3 = (tuple(node.name for node in cluster.nodes) for cluster in CLUSTERS)
EVERY = (*CM_1, *CM_2, *CM_3)


def _of(*nodes: str) -> frozenset[str]:
    return frozenset(pod.id for pod in BACKENDS if pod.node in nodes)


def _expected(effect: Effect, *, is_single: bool = True) -> Expected:
    return expected(CLUSTERS, BACKENDS, effect, is_single=is_single)


def test_without_an_effect_on_the_data_path_nobody_is_left() -> None:
    for effect in (Effect(), Effect(without_agent=frozenset(EVERY))):
        found = _expected(effect)
        assert found.may_fall == frozenset()
        assert {each.serving for each in found.outlooks.values()} == {_of(*EVERY)}


@pytest.mark.parametrize("silent", [both_ways(CM_1, CM_2), one_way(CM_1, CM_2), one_way(CM_2, CM_1)])
def test_clusters_leave_each_other_whichever_direction_is_cut(silent: frozenset[tuple[str, str]]) -> None:
    found = _expected(Effect(silent=silent))
    assert found.outlooks["cm-1-n1"] == Outlook(_of(*CM_1, *CM_3), _of(*CM_2))
    assert found.outlooks["cm-2-n2"] == Outlook(_of(*CM_2, *CM_3), _of(*CM_1))
    assert found.outlooks["cm-3-n1"] == Outlook(_of(*EVERY))
    assert found.must_fall == both_ways(CM_1, CM_2)


def test_a_node_that_hears_nobody_blames_nobody_and_its_neighbour_says_nothing_of_it() -> None:
    found = _expected(Effect(silent=both_ways(["cm-2-n1"], EVERY)))
    assert found.outlooks["cm-2-n1"].unsaved == _of(*set(EVERY) - {"cm-2-n1"})
    assert found.outlooks["cm-2-n2"].unsaved == _of("cm-2-n1")
    assert found.outlooks["cm-1-n1"].left == _of("cm-2-n1")
    assert found.may_fall == {(other, "cm-2-n1") for other in (*CM_1, *CM_3)}


def test_who_was_cut_off_in_two_steps_may_blame_others() -> None:
    cut_off = Effect(silent=both_ways(["cm-2-n1"], EVERY))
    assert ("cm-2-n1", "cm-1-n1") in _expected(cut_off, is_single=False).may_fall
    assert ("cm-2-n1", "cm-1-n1") not in _expected(cut_off, is_single=False).must_fall


def test_a_cluster_that_died_is_left_by_all_others_and_has_no_clients() -> None:
    found = _expected(Effect(silent=both_ways(CM_3, EVERY), dead=frozenset(CM_3)))
    assert found.outlooks["cm-3-n1"] == Outlook(gone=True)
    assert {found.outlooks[node].left for node in (*CM_1, *CM_2)} == {_of(*CM_3)}
    assert all(found.outlooks[node].must_switch for node in (*CM_1, *CM_2))


def test_a_node_without_agent_must_switch_by_its_hooks_but_cannot_say_anything() -> None:
    found = _expected(Effect(silent=both_ways(CM_1, CM_2), without_agent=frozenset({"cm-1-n1"})))
    assert (found.outlooks["cm-1-n1"].must_switch, found.outlooks["cm-1-n1"].hooks_only) == (True, True)
    assert {observer for observer, _ in found.must_fall} == {"cm-1-n2", *CM_2}


def test_a_killed_backend_is_left_by_whoever_hears_its_cluster() -> None:
    dead = BACKENDS[0].id
    found = _expected(Effect(killed=frozenset({dead}), without_agent=frozenset({"cm-3-n1"})))
    assert found.outlooks["cm-2-n1"].left == {dead}
    assert found.outlooks["cm-3-n1"].unsaved == {dead}


def test_a_series_has_every_kind_in_turn_and_is_the_same_for_the_same_seed() -> None:
    def trials(seed: int) -> list[tuple[str, ...]]:
        return list(series(random.Random(seed), 300, list(KINDS)))  # noqa: S311 - to be repeated

    assert trials(7) == trials(7) != trials(8)
    assert sum(map(len, trials(7))) == 300
    assert {first for first, *_ in trials(7)} == set(KINDS)
    assert any(len(each) == 2 for each in trials(7))
