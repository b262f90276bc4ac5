"""Ladders as text: what they mean, and what is wrong with those that are none."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.model.failover import Ladder, Target, Where, format_ladder, parse_ladder

NODE, ZONE, LOCAL = Target(Where.NODE), Target(Where.ZONE), Target(Where.LOCAL)
REGION, REMOTE, ANY = Target(Where.REGION), Target(Where.REMOTE), Target(Where.ANY)


def cluster(name: str, weight: int = 0) -> Target:
    return Target(Where.CLUSTER, name, weight)


@pytest.mark.parametrize(
    ("text", "ladder"),
    [
        ("any", ((ANY,),)),
        ("local, any", ((LOCAL,), (ANY,))),
        (" node ,zone,local , remote", ((NODE,), (ZONE,), (LOCAL,), (REMOTE,))),
        ("local, cluster:cm-2 weight 30, any", ((LOCAL,), (cluster("cm-2", 30),), (ANY,))),
        ("cluster:a weight 3+cluster:b weight  1", ((cluster("a", 3), cluster("b", 1)),)),
        ("local capacity 150, any", ((LOCAL._replace(capacity_percent=150),), (ANY,))),
        ("cluster:a capacity 9 weight 2", ((Target(Where.CLUSTER, "a", 2, 9),),)),
        ("local + cluster:near, any", ((LOCAL, cluster("near")), (ANY,))),
    ],
)
def test_commas_separate_rungs_and_plus_joins_targets(text: str, ladder: Ladder) -> None:
    assert parse_ladder(text) == ladder


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a rung is empty"),
        ("local,, any", "a rung is empty"),
        ("local +", "a rung is empty"),
        ("near", "'near' is not one of node, zone, region, local, remote, any, cluster:NAME"),
        ("regions", "'regions' is not one of"),
        ("cluster", "'cluster' is not one of"),
        ("cluster:", "'cluster:': '' is no name of a cluster"),
        ("cluster:Ä", "'cluster:Ä': 'Ä' is no name of a cluster"),
        ("cluster:" + "a" * 33, "is no name of a cluster"),
        ("local weight 0", "'local weight 0': weight 0 is not a number from 1 to 65535"),
        ("local weight 65536", "weight 65536 is not a number"),
        ("local weight ³", "weight ³ is not a number"),
        (
            "local weight",
            "'local weight': after local only 'weight NUMBER' and 'capacity PERCENT' may follow",
        ),
        ("local weight 3 weight 3", "after local only"),
        ("local weight 3 capacity", "after local only"),
        ("local capacity 1001", "'local capacity 1001': capacity 1001 is not a number from 1 to 1000"),
        ("local 3", "'local 3': after local only"),
        ("a b", "'a' is not one of"),
        ("local weight 2 + remote", "'local weight 2 + remote': either all that share a rung have a weight"),
        ("local, any, local", "local is there twice"),
        ("cluster:a weight 1 + cluster:a weight 2", "cluster:a is there twice"),
        (", ".join(f"cluster:c{number}" for number in range(33)), "33 targets; at most 32"),
    ],
)
def test_what_is_no_ladder_is_refused_with_the_part_and_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_ladder(text)


places = st.sampled_from([NODE, ZONE, REGION, LOCAL, REMOTE, ANY]) | st.integers(0, 99).map(
    lambda n: cluster(f"c{n}")
)


@st.composite
def ladders(draw: st.DrawFn) -> Ladder:
    targets = draw(st.lists(places, min_size=1, max_size=12, unique=True))
    rungs: list[tuple[Target, ...]] = []
    while targets:
        count = draw(st.integers(1, len(targets)))
        rung, targets = targets[:count], targets[count:]
        if draw(st.booleans()):
            rung = [each._replace(weight=draw(st.integers(1, 65535))) for each in rung]
        limits = [draw(st.integers(0, 1000)) for _ in rung]
        rungs.append(tuple(each._replace(capacity_percent=p) for each, p in zip(rung, limits, strict=True)))
    return tuple(rungs)


@settings(deadline=None)
@given(ladders())
def test_the_text_of_a_ladder_is_that_ladder(ladder: Ladder) -> None:
    assert parse_ladder(format_ladder(ladder)) == ladder
