"""Which removals count, as bookkeeping: a record is a name with a number of backends."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustermesh.evidence import heartbeat_age_s
from clustermesh.removals import Kept, Removals, Verdict, Word

HOLD_S = 900.0
COUNTS, LEAVING, UNSURE = Word.COUNTS, Word.LEAVING, Word.UNSURE


def of(**records: int) -> Removals[int]:
    """``records`` are in force, each with so many backends."""
    removals: Removals[int] = Removals(lambda size: size, hold_s=HOLD_S)
    removals.listed(records, COUNTS, 0.0, nodes_answer=True)
    return removals


def removed(
    removals: Removals[int], names: str, now_s: float, word: Word = COUNTS, *, nodes_answer: bool = True
) -> Verdict[int]:
    return removals.removed(names.split(), word, now_s, nodes_answer=nodes_answer)


def test_a_removal_of_at_most_half_counts_at_once() -> None:
    removals = of(a=5, b=5)
    assert removed(removals, "a", 10.0) == Verdict(("a",))
    assert (removals.in_force, removals.kept) == ({"b": 5}, {})


def test_removals_of_more_than_half_are_held_those_that_went_just_before_included() -> None:
    removals = of(a=3, b=3, c=4)
    assert removed(removals, "a", 10.0).gone == ("a",)
    held = {"a": Kept(3, 69.0, held=True), "b": Kept(3, 69.0, held=True)}
    assert removed(removals, "b", 69.0) == Verdict((), held)
    assert (removals.in_force, removals.kept) == ({"a": 3, "b": 3, "c": 4}, held)


def test_removals_further_apart_than_a_minute_are_not_one() -> None:
    removals = of(a=3, b=3, c=4)
    removed(removals, "a", 10.0)
    assert removed(removals, "b", 71.0).gone == ("b",)


def test_backends_are_counted_and_not_records() -> None:
    removals = of(large=10, a=1, b=1, c=1)
    assert removed(removals, "a b c", 10.0).gone == ("a", "b", "c")
    assert removed(removals, "large", 200.0).gone == ()


def test_services_without_backends_take_none_away() -> None:
    removals = of(a=0, b=0)
    assert removed(removals, "a b", 10.0).gone == ("a", "b")


def test_a_put_counts_at_once_however_much_it_takes() -> None:
    removals = of(a=9, b=1)
    removals.put("a", 0)
    assert removals.in_force == {"a": 0, "b": 1}


def test_what_is_put_again_is_held_no_more() -> None:
    removals = of(a=9, b=1)
    removed(removals, "a", 10.0)
    removals.put("a", 2)
    assert (removals.in_force, removals.kept) == ({"a": 2, "b": 1}, {})


def test_what_came_back_in_between_was_not_taken() -> None:
    removals = of(a=4, b=4, c=2)
    removed(removals, "a", 10.0)
    removals.put("a", 4)
    assert removed(removals, "b", 11.0).gone == ("b",)


def test_where_no_node_answers_the_removal_agrees_with_the_data_path() -> None:
    removals = of(a=9, b=1)
    assert removed(removals, "a b", 10.0, nodes_answer=False).gone == ("a", "b")


def test_after_the_cluster_has_left_nothing_is_held() -> None:
    removals = of(a=9, b=1)
    assert removed(removals, "a b", 10.0, LEAVING).gone == ("a", "b")


def test_while_nobody_vouches_for_it_a_removal_makes_a_record_stale_and_no_more() -> None:
    removals = of(a=1, b=9)
    kept = {"a": Kept(1, 10.0)}
    assert removed(removals, "a", 10.0, UNSURE) == Verdict((), kept)
    assert removed(removals, "a", 20.0, UNSURE) == Verdict()
    assert (removals.in_force, removals.kept) == ({"a": 1, "b": 9}, kept)


@pytest.mark.parametrize(("stale", "held"), [("a", False), ("b", True)])
def test_a_complete_list_judges_anew_what_went_stale(stale: str, held: bool) -> None:
    removals = of(a=1, b=9)
    removed(removals, stale, 10.0, UNSURE)
    rest = {name: size for name, size in removals.in_force.items() if name != stale}
    removals.listed(rest, UNSURE, 20.0, nodes_answer=True)
    assert removals.kept[stale].since_s == 10.0
    removals.listed(rest, COUNTS, 500.0, nodes_answer=True)
    assert {name: kept.held for name, kept in removals.kept.items()} == ({stale: True} if held else {})


def test_a_hold_that_lasted_long_enough_is_over_and_does_not_begin_again() -> None:
    removals = of(a=9, b=1)
    removed(removals, "a", 10.0)
    assert removals.over(10.0 + HOLD_S - 1) == {}
    assert list(removals.over(10.0 + HOLD_S)) == ["a"]
    removals.listed({"b": 1}, COUNTS, 10.0 + HOLD_S, nodes_answer=True)
    assert (removals.in_force, removals.kept) == ({"b": 1}, {})


def test_who_confirms_lets_go_what_is_held_and_what_is_stale_and_no_more() -> None:
    removals = of(a=9, b=1, c=1)
    removed(removals, "a", 10.0)
    removed(removals, "b", 11.0, UNSURE)
    assert sorted(removals.confirm()) == ["a", "b"]
    assert removals.in_force == {"c": 1}
    assert removed(removals, "c", 12.0).gone == ()


def test_a_hold_goes_on_where_an_earlier_process_began_it() -> None:
    removals: Removals[int] = Removals(lambda size: size, hold_s=HOLD_S)
    removals.restore({"b": 1}, {"a": Kept(9, 100.0, held=True), "late": Kept(1, 9e9)}, 400.0)
    assert removals.kept["late"].since_s == 400.0
    removals.listed({"b": 1}, COUNTS, 410.0, nodes_answer=True)
    assert removals.kept["a"] == Kept(9, 100.0, held=True)
    assert list(removals.over(100.0 + HOLD_S)) == ["a"]


def test_what_must_not_be_in_force_is_not_held() -> None:
    removals = of(a=9, b=1)
    removals.forget(lambda size: size == 9)
    assert removed(removals, "a", 10.0) == Verdict()
    assert removals.in_force == {"b": 1}


NAMES = st.sampled_from("abcdefgh")
STEPS = st.one_of(
    st.tuples(st.just("put"), NAMES, st.integers(0, 5)),
    st.tuples(st.just("removed"), st.lists(NAMES, max_size=8), st.sampled_from(Word), st.booleans()),
    st.tuples(st.just("listed"), st.dictionaries(NAMES, st.integers(0, 5)), st.sampled_from(Word)),
    st.tuples(st.just("over")),
    st.tuples(st.just("confirm")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 20, 59, 61, 950]), STEPS), max_size=30))
def test_whatever_happens_nothing_is_lost_that_did_not_count(
    steps: list[tuple[int, tuple[object, ...]]],
) -> None:
    removals: Removals[int] = Removals(lambda size: size, hold_s=HOLD_S)
    said: dict[str, int] = {}
    now_s = 0.0
    for pause_s, (what, *how) in steps:
        now_s += pause_s
        before = dict(removals.in_force)
        match what, how:
            case "put", [str(name), int(size)]:
                said[name] = size
                removals.put(name, size)
                assert removals.in_force == before | {name: size}
            case "removed", [list(names), Word() as word, bool(answer)]:
                for name in names:
                    said.pop(name, None)
                verdict = removals.removed(names, word, now_s, nodes_answer=answer)
                check(removals, before, verdict, word, answer)
            case "listed", [dict(records), Word() as word]:
                said = dict(records)
                verdict = removals.listed(records, word, now_s, nodes_answer=True)
                check(removals, before | said, verdict, word, True)
            case "over", _:
                assert all(
                    kept.held and now_s - kept.since_s >= HOLD_S for kept in removals.over(now_s).values()
                )
            case "confirm", _:
                removals.confirm()
                assert removals.in_force == said
        # What etcd says is in force as it says it, and the rest of what is in force is kept.
        assert {name: removals.in_force[name] for name in said} == said
        assert removals.in_force.keys() == said.keys() | removals.kept.keys()
        assert not said.keys() & removals.kept.keys()


def check(
    removals: Removals[int], before: Mapping[str, int], verdict: Verdict[int], word: Word, answer: bool
) -> None:
    """Of what was in force ``before``, exactly what the verdict says went; and it went rightly."""
    assert before.keys() - removals.in_force.keys() == set(verdict.gone) - removals.in_force.keys()
    assert removals.in_force.keys() >= before.keys() - set(verdict.gone)
    if word is UNSURE:
        assert verdict.gone == ()
        assert not any(kept.held for kept in verdict.kept.values())
    if word is LEAVING or not answer:
        assert verdict.kept == {} or word is UNSURE
    if word is COUNTS and answer and verdict.gone:
        left = sum(size for name, size in removals.in_force.items() if not is_held(removals, name))
        assert sum(before[name] for name in verdict.gone) <= left


def is_held(removals: Removals[int], name: str) -> bool:
    return name in removals.kept and removals.kept[name].held


@pytest.mark.parametrize(
    ("value", "age_s"),
    [
        (b"1970-01-01T00:16:40Z", 100.0),
        (b"1970-01-01T01:16:40+01:00", 100.0),
        (b"1970-01-01T00:18:22Z", 0.0),
        (b"1970-01-01T00:30:00Z", None),
        (b"any value", None),
        (b"\xff", None),
        (None, None),
    ],
)
def test_a_heartbeat_tells_its_age_unless_it_comes_from_the_future(
    value: bytes | None, age_s: float | None
) -> None:
    assert heartbeat_age_s(value, 1100.0) == age_s
