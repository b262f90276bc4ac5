"""Which share of the traffic the backends of each place take."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.dataplane.candidate import Candidate, Place, is_on_node
from meshd.dataplane.choice import alive, choose, is_ready, shares
from meshd.model import (
    Affinity,
    Backend,
    BackendPort,
    Protocol,
    Service,
    ServiceName,
    TrafficDistribution,
    parse_address,
)
from meshd.model.failover import parse_ladder

# We are node n1 in zone z1 of cluster c1, in region r1.
PLACE = Place("n1", "z1", "c1", "r1")
REGIONS = {"z1": "r1", "z2": "r1", "z3": "r2"}
CONDITIONS: dict[str, dict[str, object]] = {
    "ready": {},
    "unready": {"ready": False, "serving": False},
    "ending": {"ready": False, "terminating": True},
    "dead": {"ready": False, "serving": False, "terminating": True},
}


def candidate(
    number: int, cluster: str, zone: str, *, state: str = "ready", weight: int = 100, reachable: bool = True
) -> Candidate:
    backend = Backend(
        parse_address(f"10.0.{number // 256}.{number % 256}"),
        (BackendPort("", Protocol.TCP, 80),),
        node=f"n{number % 3 + 1}",
        zone=zone,
        weight=weight,
        **CONDITIONS[state],  # type: ignore[arg-type]
    )
    remote = cluster != "c1"
    source = f"cluster:{cluster}" if remote else "manifests"
    return Candidate(backend, source, remote, reachable, region=REGIONS.get(zone, ""))


def candidates(text: str) -> list[Candidate]:
    """``2*c1/z1 1*c2:unready 1*c3!``: in zone z1 of c1 two, in c2 one that is not ready, in c3 one that is out of reach."""
    found: list[Candidate] = []
    for group in text.split():
        count, _, rest = group.rstrip("!").partition("*")
        where, _, state = rest.partition(":")
        cluster, _, zone = where.partition("/")
        state, _, weight = state.partition("=")
        for _ in range(int(count)):
            found.append(
                candidate(len(found), cluster, zone, state=state or "ready",
                          weight=int(weight or 100), reachable=not group.endswith("!"))
            )  # fmt: skip
    return found


def service(ladder: str = "", minimum: int | None = None, **facts: object) -> Service:
    failover = parse_ladder(ladder) if ladder else ()
    return Service(
        ServiceName("default", "s"), "manifests", failover=failover, min_healthy_percent=minimum, **facts  # type: ignore[arg-type]
    )  # fmt: skip


def spread(service: Service, given: list[Candidate]) -> dict[str, str]:
    """Cluster and zone -> its share of the weights that new connections are spread by."""
    found = Counter[str]()
    for each in choose(service, given, PLACE):
        cluster = each.source.removeprefix("cluster:") if each.remote else "c1"
        found[cluster + (f"/{each.backend.zone}" if each.backend.zone else "")] += each.backend.weight
    return {place: str(Fraction(weight, found.total())) for place, weight in found.items()}


A3_B1 = "local, cluster:c2 weight 3 + cluster:c3 weight 1"
CAPACITIES = "local capacity 10, cluster:c2 weight 3 capacity 30 + cluster:c3 weight 1 capacity 200"
LADDERS: list[tuple[str, str, int | None, str, dict[str, str]]] = [
    ("the first rung takes all", "local, any", None, "2*c1 3*c2", {"c1": "1"}),
    ("also with a few unhealthy", "local, any", None, "7*c1 3*c1:unready 3*c2", {"c1": "1"}),
    ("below the minimum in proportion", "local, any", None, "1*c1 1*c1:unready 3*c2", {"c1": "5/7", "c2": "2/7"}),
    ("half of the minimum, half of it", "local, any", 100, "1*c1 1*c1:unready 3*c2", {"c1": "1/2", "c2": "1/2"}),
    ("no minimum, one is enough", "local, any", 0, "1*c1 9*c1:unready 3*c2", {"c1": "1"}),
    ("out of reach is unhealthy", "local, any", 100, "1*c1 3*c1! 3*c2", {"c1": "1/4", "c2": "3/4"}),
    ("all out of reach is as before", "local, any", 100, "2*c1! 3*c2!", {"c1": "1"}),
    ("who goes by wish is no loss", "local, any", 100, "1*c1 3*c1:ending 3*c2", {"c1": "1"}),
    ("who is drained is no loss", "local, any", 100, "1*c1 3*c1:ready=0 3*c2", {"c1": "1"}),
    ("health counts by weight", "local, any", 100, "1*c1:ready=30 1*c1:unready=10 1*c2", {"c1": "3/4", "c2": "1/4"}),
    ("nobody there, so the next", "local, cluster:c3, any", None, "3*c2 1*c3", {"c3": "1"}),
    ("what is named above is not below", "local, any", 50, "1*c1 3*c1:unready 1*c2", {"c1": "1/2", "c2": "1/2"}),
    ("spill over two rungs", "local, cluster:c2, cluster:c3", 100, "1*c1 1*c1:unready 1*c2 1*c2! 1*c3",
     {"c1": "1/2", "c2": "1/4", "c3": "1/4"}),
    ("no rung left, so those there take more", "local, cluster:c2", 100, "1*c1 1*c1:unready 1*c2 3*c2! 9*c3",
     {"c1": "4/5", "c2": "1/5"}),
    ("nobody on the ladder, so the others", "local, cluster:c2", None, "2*c3 2*c4", {"c3": "1/2", "c4": "1/2"}),
    ("only the ladder's, if it has any", "local", None, "1*c1 9*c1:unready 9*c3", {"c1": "1"}),
    ("weights of targets", A3_B1, None, "1*c2 5*c3", {"c2": "3/4", "c3": "1/4"}),
    ("weights of targets, one has nobody", A3_B1, None, "5*c3", {"c3": "1"}),
    ("weights of targets, one is ill", A3_B1, 100, "1*c2 1*c2! 2*c3 1*c3:dead",
     {"c2": "3/5", "c3": "2/5"}),
    ("weights of targets, and a spill", A3_B1 + ", any", 100, "1*c2 1*c2! 1*c3 1*c3! 1*c9",
     {"c2": "3/8", "c3": "1/8", "c9": "1/2"}),
    ("no weights, so those of backends", "cluster:c2 + cluster:c3", None, "1*c2 5*c3", {"c2": "1/6", "c3": "5/6"}),
    ("region after zone", "zone, region, any", None, "1*c1/z2 1*c2/z1 1*c2/z3", {"c2/z1": "1"}),
    ("nobody in the zone", "zone, region, any", None, "1*c1/z2 1*c2/z2 2*c2/z3 2*c1", {"c1/z2": "1/2", "c2/z2": "1/2"}),
    ("in the region too few", "region, any", 100, "1*c2/z2 1*c2/z2! 2*c1/z3", {"c2/z2": "1/2", "c1/z3": "1/2"}),
    ("nobody in the region", "zone, region", None, "1*c2/z3 1*c3", {"c2/z3": "1/2", "c3": "1/2"}),
    ("zone before cluster", "zone, local, any", None, "1*c1/z2 1*c2/z1 1*c2/z3", {"c2/z1": "1"}),
    ("node first", "node, any", None, "3*c1/z1 3*c2/z1", {"c1/z1": "1"}),
    ("own cluster by name", "cluster:c2, cluster:c1, any", None, "1*c1 1*c9", {"c1": "1"}),
    ("remote", "remote", None, "1*c1 1*c2", {"c2": "1"}),
    ("a capacity is not passed", "local capacity 40, any", None, "2*c1 1*c2", {"c1": "2/5", "c2": "3/5"}),
    ("a capacity above all", "local capacity 150, any", None, "2*c1 1*c2", {"c1": "1"}),
    ("half of it, half of its capacity", "local capacity 150, any", 0, "1*c1 1*c1! 1*c2", {"c1": "3/4", "c2": "1/4"}),
    ("who is full leaves the others of its rung more", "cluster:c2 weight 3 capacity 50 + cluster:c3 weight 1, any", None,
     "1*c2 1*c3 1*c4", {"c2": "1/2", "c3": "1/2"}),
    ("all of a rung full", "cluster:c2 weight 3 capacity 50 + cluster:c3 weight 1 capacity 20, any", None,
     "1*c2 1*c3 1*c4", {"c2": "1/2", "c3": "1/5", "c4": "3/10"}),
    ("capacity and no weights", "cluster:c2 capacity 10 + cluster:c3, any", None, "1*c2 1*c3 1*c4",
     {"c2": "1/10", "c3": "9/10"}),
    ("at the end of the ladder those without a capacity", "cluster:c2 capacity 10, local", 100, "1*c2 1*c1 1*c1! 1*c4",
     {"c2": "1/10", "c1": "9/10"}),
    ("at the end of the ladder beyond all capacities", "local capacity 20, cluster:c2 capacity 30", None, "1*c1 1*c2 1*c4",
     {"c1": "2/5", "c2": "3/5"}),
    ("all end, so the first that serve", "cluster:c2, any", None, "1*c1:ending 1*c2:ending 8*c2:unready", {"c2": "1"}),
    ("ready elsewhere before ending here", "local", None, "1*c1:ending 1*c2", {"c2": "1"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "ladder", "minimum", "given", "expected"), LADDERS, ids=[row[0] for row in LADDERS]
)
def test_a_ladder_shares_out(
    rule: str, ladder: str, minimum: int | None, given: str, expected: dict[str, str]
) -> None:
    assert spread(service(ladder, minimum), candidates(given)) == expected


def test_a_minimum_alone_is_that_of_the_affinitys_ladder() -> None:
    given = candidates("1*c1 1*c1:unready 1*c2")
    assert spread(service(affinity=Affinity.LOCAL), given) == {"c1": "1"}
    assert spread(service(minimum=100, affinity=Affinity.LOCAL), given) == {"c1": "1/2", "c2": "1/2"}


def test_a_ladder_does_not_widen_the_local_constraint() -> None:
    given = [candidate(1, "c1", "z1"), candidate(2, "c2", "z1")]  # on n2 and n3
    assert choose(service("local, any", internal_traffic_local=True), given, PLACE) == []


def test_nodes_are_preferred_by_the_wish_of_traffic_distribution_within_what_a_target_takes() -> None:
    near = service(A3_B1, traffic_distribution=TrafficDistribution.SAME_ZONE)
    given = candidates("1*c2/z1 1*c2/z2 1*c3/z2 1*c3/z3")
    assert spread(near, given) == {"c2/z1": "3/4", "c3/z2": "1/8", "c3/z3": "1/8"}


def test_what_a_stated_capacity_refuses_is_said() -> None:
    (first, second, rest) = shares(service(CAPACITIES), candidates("1*c1 1*c2 1*c3"), PLACE)
    assert (first.refused, second.refused, rest.refused) == (
        Fraction(9, 10), Fraction(9, 10) * Fraction(3, 4) - Fraction(3, 10), Fraction(0),
    )  # fmt: skip
    assert (first.capacity, second.capacity, rest.capacity) == (Fraction(1, 10), Fraction(3, 10), Fraction(2))
    assert [str(each.target) for each in (first, second, rest)] == [
        "local capacity 10", "cluster:c2 weight 3 capacity 30", "cluster:c3 weight 1 capacity 200",
    ]  # fmt: skip


numbers = st.integers(0, 40)
some = st.builds(
    candidate,
    numbers,
    st.sampled_from(["c1", "c2", "c3"]),
    st.sampled_from(["", "z1", "z2"]),
    state=st.sampled_from(sorted(CONDITIONS)),
    weight=st.sampled_from([0, 1, 7, 100, 65535]),
    reachable=st.booleans(),
)
# Each backend once, and by its address.
meshes = st.lists(some, max_size=25, unique_by=lambda each: each.backend.address)
texts = [
    "",
    "local, any",
    "node, zone, local, any",
    A3_B1,
    "cluster:c3 + local, remote",
    "remote",
    "cluster:c9",
]
services = st.builds(
    service,
    st.sampled_from(texts),
    st.sampled_from([None, 0, 1, 70, 100]),
    affinity=st.sampled_from(Affinity),
    publish_not_ready=st.booleans(),
)


@settings(deadline=None)
@given(services, meshes)
def test_a_preference_never_leaves_nothing_and_never_takes_who_cannot_serve(
    wanted: Service, given: list[Candidate]
) -> None:
    chosen = {each.backend.address for each in choose(wanted, given, PLACE)}
    able = list(alive(wanted, given))
    reachable = [each for each in able if each.reachable] or able
    assert chosen <= {each.backend.address for each in reachable}
    assert bool(chosen) == bool(able)


@settings(deadline=None)
@given(services, meshes)
def test_shares_are_everything_together_and_weights_follow_them(
    wanted: Service, given: list[Candidate]
) -> None:
    parts = shares(wanted, given, PLACE)
    chosen = choose(wanted, given, PLACE)
    assert sum(part.share for part in parts) == (1 if parts else 0)
    total = sum(max(each.backend.weight, 1) for each in chosen)
    weights = {each.backend.address: Fraction(max(each.backend.weight, 1), total) for each in chosen}
    unstated = any(part.capacity is None for part in parts)
    for part in parts:
        assert part.capacity is None or not unstated or part.share <= part.capacity
        taken = sum(weights[each.backend.address] for each in part.candidates)
        assert abs(taken - part.share) < Fraction(1, 2**20)


@settings(deadline=None)
@given(services, meshes, st.randoms())
def test_the_order_in_which_backends_are_named_does_not_matter(
    wanted: Service, given: list[Candidate], chance: random.Random
) -> None:
    def chosen() -> dict[bytes, int]:
        return {each.backend.address: each.backend.weight for each in choose(wanted, given, PLACE)}

    before = chosen()
    chance.shuffle(given)
    assert chosen() == before


@settings(deadline=None)
@given(st.sampled_from(Affinity), st.booleans(), meshes)
def test_affinities_choose_one_side_while_it_has_one_backend(
    affinity: Affinity, internal: bool, given: list[Candidate]
) -> None:
    """What they meant before there were ladders (Cilium, global-services.rst), written down a second time."""
    wanted = service(affinity=affinity, internal_traffic_local=internal)
    allowed = [each for each in given if not internal or is_on_node(each, "n1")]
    able = list(alive(wanted, allowed))
    able = [each for each in able if each.reachable] or able
    able = [each for each in able if is_ready(wanted, each.backend)] or able
    able = [each for each in able if each.backend.weight] or able
    side = [each for each in able if each.remote == (affinity is Affinity.REMOTE)]
    expected = side if affinity is not Affinity.NONE and side else able
    assert choose(wanted, given, PLACE) == expected
