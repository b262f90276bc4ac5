"""Slow return: what a cluster that serves again is given, from step to step."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.dataplane.candidate import Able, Candidate, Place
from meshd.dataplane.choice import choose
from meshd.dataplane.ladder import cluster_of
from meshd.dataplane.ramp import Return, choose_with_returns, mixed
from meshd.dataplane.returns import STEPS, Returns
from meshd.model import (
    Backend,
    BackendPort,
    Frontend,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from meshd.model.failover import parse_ladder

PLACE = Place("n1", "z1", "c1")
FRONTEND = Frontend(parse_address("10.96.0.1"), 80, Protocol.TCP)


def candidate(cluster: str, number: int = 1, *, reachable: bool = True, ready: bool = True) -> Candidate:
    address = parse_address(f"10.{cluster[1:]}.0.{number}")
    backend = Backend(address, (BackendPort("", Protocol.TCP, 80),), ready=ready, serving=ready)
    remote = cluster != "c1"
    return Candidate(backend, f"cluster:{cluster}" if remote else "manifests", remote, reachable)


def service(ladder: str, ramp_s: int = 60) -> Service:
    failover = parse_ladder(ladder) if ladder else ()
    return Service(
        ServiceName("default", "s"),
        "manifests",
        (FRONTEND,),
        failover=failover,
        ramp_s=ramp_s,
        is_global=True,
    )


def spread(chosen: list[Candidate]) -> dict[str, str]:
    """Cluster -> its share."""
    total = sum(each.backend.weight for each in chosen)
    found: dict[str, Fraction] = {}
    for each in chosen:
        cluster = cluster_of(each, PLACE)
        found[cluster] = found.get(cluster, Fraction(0)) + Fraction(each.backend.weight, total)
    return {cluster: str(share) for cluster, share in sorted(found.items())}


def back(cluster: str, progress: str, *, was_known: bool = True) -> Return:
    return Return(cluster, Fraction(progress), was_known)


A3_B1 = "cluster:c2 weight 3 + cluster:c3 weight 1, any"
RETURNS: list[tuple[str, str, list[Return], dict[str, str]]] = [
    ("the first rung is back", "local, any", [back("c1", "1/20")], {"c1": "1/20", "c2": "19/40", "c3": "19/40"}),
    ("half of the way", "local, cluster:c3", [back("c1", "1/2")], {"c1": "1/2", "c3": "1/2"}),
    ("a lower rung is back", "local, any", [back("c3", "1/20")], {"c1": "1"}),
    ("no ladder", "", [back("c3", "1/4")], {"c1": "11/24", "c2": "11/24", "c3": "1/12"}),
    # While c2 was out of reach its rung was half healthy, and kept 5/7.
    ("one of a rung was out of reach", A3_B1, [back("c2", "1/10")], {"c1": "9/35", "c2": "3/40", "c3": "187/280"}),
    ("one of a rung was not there", A3_B1, [back("c2", "1/10", was_known=False)], {"c2": "3/40", "c3": "37/40"}),
    ("two, one after the other", "local, cluster:c2, cluster:c3", [back("c1", "1/5"), back("c2", "3/5")],
     {"c1": "1/5", "c2": "2/5", "c3": "2/5"}),
    ("two at once", "local, cluster:c2, cluster:c3", [back("c1", "1/5"), back("c2", "1/5")], {"c1": "1/5", "c3": "4/5"}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "ladder", "returns", "expected"), RETURNS, ids=[row[0] for row in RETURNS])
def test_a_cluster_is_given_its_share_back_step_by_step(
    rule: str, ladder: str, returns: list[Return], expected: dict[str, str]
) -> None:
    candidates = [candidate(cluster) for cluster in ("c1", "c2", "c3")]
    assert spread(choose_with_returns(service(ladder), candidates, PLACE, returns)) == expected


@pytest.mark.parametrize("was_known", [False, True])
def test_where_nobody_else_serves_who_returns_takes_everything_at_once(*, was_known: bool) -> None:
    given = [candidate("c1"), candidate("c2", ready=False)]
    returns = [back("c1", "1/20", was_known=was_known)]
    assert spread(choose_with_returns(service("local, any"), given, PLACE, returns)) == {"c1": "1"}


clusters = st.sampled_from(["c1", "c2", "c3"])
meshes = st.lists(
    st.builds(candidate, clusters, st.integers(1, 9), reachable=st.booleans(), ready=st.booleans()),
    max_size=12,
    unique_by=lambda each: each.backend.address,
)
returning = st.lists(
    st.builds(Return, clusters, st.integers(1, 20).map(lambda n: Fraction(n, 20)), st.booleans()),
    max_size=3,
    unique_by=lambda each: each.cluster,
)


@settings(deadline=None)
@given(st.sampled_from(["", "local, any", A3_B1]), meshes, returning)
def test_a_return_never_leaves_nothing_and_ends_as_if_there_had_been_none(
    ladder: str, candidates: list[Candidate], returns: list[Return]
) -> None:
    wanted = service(ladder)
    expected = choose(wanted, candidates, PLACE)
    parts = mixed(wanted, candidates, PLACE, returns)
    assert sum(part.share for part in parts) == (1 if expected else 0)
    done = [each._replace(progress=Fraction(1)) for each in returns]
    assert choose_with_returns(wanted, candidates, PLACE, done) == expected


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def look(returns: Returns, *present: Candidate, ramp_s: int = 60) -> list[Return]:
    """Who returns to a service with these candidates."""
    return list(returns.look(service("", ramp_s), [Able(FRONTEND, False, list(present))], PLACE))


def test_a_cluster_that_serves_again_returns_in_steps() -> None:
    clock = Clock()
    returns = Returns(clock)
    here, there, silent = candidate("c1"), candidate("c2"), candidate("c2", reachable=False)
    assert look(returns, here, there) == []
    assert look(returns, here, silent) == []
    assert look(returns, here, there) == [Return("c2", Fraction(1, STEPS), was_known=True)]
    clock.now += 30
    assert look(returns, here, there) == [Return("c2", Fraction(STEPS // 2 + 1, STEPS), was_known=True)]
    clock.now += 30
    assert look(returns, here, there) == []
    assert look(returns, here, there) == []


def test_a_cluster_that_was_not_there_returns_as_one() -> None:
    returns = Returns(Clock())
    look(returns, candidate("c1"), candidate("c2"))
    look(returns, candidate("c1"))
    assert look(returns, candidate("c1"), candidate("c2")) == [
        Return("c2", Fraction(1, STEPS), was_known=False)
    ]


def test_who_goes_again_begins_again() -> None:
    clock = Clock()
    returns = Returns(clock)
    for present in (
        [candidate("c1"), candidate("c2")],
        [candidate("c1")],
        [candidate("c1"), candidate("c2")],
    ):
        look(returns, *present)
    clock.now += 30
    look(returns, candidate("c1"))
    clock.now += 30
    assert [each.progress for each in look(returns, candidate("c1"), candidate("c2"))] == [Fraction(1, STEPS)]


def test_what_is_seen_for_the_first_time_does_not_return() -> None:
    returns = Returns(Clock())
    assert look(returns, candidate("c1")) == []
    assert look(returns, candidate("c1"), candidate("c2")) == []


def test_without_a_ramp_nothing_is_remembered() -> None:
    returns = Returns(Clock())
    for present in ([candidate("c1"), candidate("c2")], [candidate("c1")]):
        look(returns, *present)
    look(returns, candidate("c1"), ramp_s=0)
    assert look(returns, candidate("c1"), candidate("c2")) == []


def test_a_service_that_went_is_forgotten() -> None:
    returns = Returns(Clock())
    for present in ([candidate("c1"), candidate("c2")], [candidate("c1")]):
        look(returns, *present)
    returns.forget(ServiceName("default", "s"))
    assert look(returns, candidate("c1"), candidate("c2")) == []
