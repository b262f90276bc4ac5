"""Which rungs of a ladder take how much of a service's traffic. Pure.

A rung takes all that reaches it while its healthy share is at least the minimum. Below, it takes in proportion (half of the
minimum: half of the traffic), and the rest goes on to the next rung. So does a target of a rung that shares by weight. These
are Envoy's rules for priorities and locality weights, with the minimum in the place of 100 / overprovisioning factor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from math import gcd, lcm
from typing import NamedTuple

from meshd.dataplane.candidate import Candidate, Place, is_on_node
from meshd.model.cluster import REMOTE_PREFIX
from meshd.model.failover import Ladder, Target, Where

# Of all weights of a list together: far below what a slot holds, and exact enough for 10^5 backends.
_WEIGHT_SUM_MAX = 1 << 31
_WEIGHT_SUM_ROUNDED = 1 << 28


class Part(NamedTuple):
    """Backends that share ``share`` (0 < share <= 1) of the traffic by their weights.

    ``target``: of several on a rung, or with a capacity; None: the share is a rung's. ``capacity``: the stated one, as far
    as the target is healthy; None: nothing is stated. ``refused``: what it would have had above that, which goes on to
    others, and comes back if nobody takes it.
    """

    candidates: list[Candidate]
    share: Fraction
    target: Target | None = None
    capacity: Fraction | None = None
    refused: Fraction = Fraction(0)


class Group(NamedTuple):
    """Of one target: those that can be used, their weight, and that of all that count for the healthy share."""

    target: Target
    usable: list[Candidate]
    weight: int
    known_weight: int

    @property
    def capacity(self) -> Fraction | None:
        """Half of its backends, half of its capacity."""
        percent = self.target.capacity_percent
        return Fraction(percent * self.weight, 100 * self.known_weight) if percent else None


def climb(
    ladder: Ladder,
    usable: Sequence[Candidate],
    unhealthy: Sequence[Candidate],
    place: Place,
    min_healthy_percent: int,
) -> list[Part]:
    """The parts that take the traffic of clients at ``place``; their shares are 1 together. No ``usable``: none.

    ``unhealthy``: candidates that would count as well if they could be used. Where all rungs together take less than
    everything, each of those that state no capacity takes in proportion more, or each if all do; where no rung has anybody,
    the others serve.
    """
    parts: list[Part] = []
    rest = Fraction(1)
    for groups in groups_of(ladder, usable, unhealthy, place):
        taken = rest * _fitness(
            sum(group.weight for group in groups),
            sum(group.known_weight for group in groups),
            min_healthy_percent,
        )
        if taken:
            added = _shared(groups, taken, min_healthy_percent)
            parts += added
            rest -= sum(part.share for part in added)
        if not rest:
            break
    if not parts:
        return [Part(list(usable), Fraction(1))] if usable else []
    return _all_of_it(parts, rest)


def groups_of(
    ladder: Ladder, usable: Sequence[Candidate], unhealthy: Sequence[Candidate], place: Place
) -> Iterator[list[Group]]:
    """The groups of each rung; a candidate is in the first that speaks of it."""
    for rung in ladder:
        groups: list[Group] = []
        for target in rung:
            inside, usable = _split(target, usable, place)
            lost, unhealthy = _split(target, unhealthy, place)
            weight = _weight(inside)
            groups.append(Group(target, inside, weight, weight + _weight(lost)))
        yield groups


def _all_of_it(parts: list[Part], rest: Fraction) -> list[Part]:
    """``parts`` with the ``rest`` that is left at the end of the ladder."""
    unstated = sum(part.share for part in parts if part.capacity is None)
    factor = 1 + rest / (unstated or 1 - rest)
    return [
        part._replace(share=part.share * factor) if part.capacity is None or not unstated else part
        for part in parts
    ]


def weighed(parts: Sequence[Part]) -> list[Candidate]:
    """The candidates of all ``parts``, each once, with weights that share the traffic as the parts say.

    Of a single part, their own.
    """
    if len(parts) == 1:
        return parts[0].candidates
    named: dict[int, Candidate] = {}
    shares: defaultdict[int, Fraction] = defaultdict(Fraction)
    for part in parts:
        total = _weight(part.candidates)
        for each in part.candidates:
            named.setdefault(id(each.backend), each)
            shares[id(each.backend)] += part.share * weight_of(each) / total
    if not shares:
        return []
    scale = lcm(*{share.denominator for share in shares.values()})
    if scale > _WEIGHT_SUM_MAX:
        weights = [max(round(share * _WEIGHT_SUM_ROUNDED), 1) for share in shares.values()]
    else:
        weights = [int(share * scale) for share in shares.values()]
    divisor = gcd(*weights)
    return [
        each._replace(backend=replace(each.backend, weight=weight // divisor))
        for each, weight in zip(named.values(), weights, strict=True)
    ]


def _shared(groups: list[Group], taken: Fraction, minimum: int) -> list[Part]:
    """What the groups of one rung take of ``taken``: all of it, unless their capacities are stated and too small."""
    groups = [group for group in groups if group.usable]
    if not any(group.target.weight or group.target.capacity_percent for group in groups):
        return [Part([each for group in groups for each in group.usable], taken)]
    pulls = [
        group.target.weight * _fitness(group.weight, group.known_weight, minimum)
        if group.target.weight
        else Fraction(group.weight)
        for group in groups
    ]
    wanted = [taken * pull / sum(pulls) for pull in pulls]
    given = _filled(pulls, [group.capacity for group in groups], taken)
    return [
        Part(group.usable, share, group.target, group.capacity, max(wish - share, Fraction(0)))
        for group, share, wish in zip(groups, given, wanted, strict=True)
    ]


def _filled(pulls: list[Fraction], capacities: list[Fraction | None], rest: Fraction) -> list[Fraction]:
    """What each takes of ``rest``, in proportion to ``pulls`` and none above its capacity."""
    found = [Fraction(0)] * len(pulls)
    open_ones = dict(enumerate(capacities))
    while open_ones:
        total = sum(pulls[index] for index in open_ones)
        full = {
            index: capacity
            for index, capacity in open_ones.items()
            if capacity is not None and rest * pulls[index] / total > capacity
        }
        if not full:
            break
        # Who is full leaves the others more, and another one may be full then.
        for index, capacity in full.items():
            found[index] = capacity
            rest -= capacity
            del open_ones[index]
    for index in open_ones:
        found[index] = rest * pulls[index] / sum(pulls[each] for each in open_ones)
    return found


def _fitness(weight: int, known_weight: int, minimum: int) -> Fraction:
    """Which part of what it is meant to take it can take; one backend is enough where there is no minimum."""
    if not weight or not minimum:
        return Fraction(bool(weight))
    return min(Fraction(weight * 100, known_weight * minimum), Fraction(1))


def _split(
    target: Target, candidates: Sequence[Candidate], place: Place
) -> tuple[list[Candidate], list[Candidate]]:
    inside: list[Candidate] = []
    outside: list[Candidate] = []
    for each in candidates:
        (inside if is_in(target, each, place) else outside).append(each)
    return inside, outside


def is_in(target: Target, candidate: Candidate, place: Place) -> bool:
    """Whether ``target`` speaks of ``candidate``, as seen from ``place``."""
    match target.where:
        case Where.NODE:
            return is_on_node(candidate, place.node)
        case Where.ZONE:
            return bool(place.zone) and candidate.backend.zone == place.zone
        case Where.REGION:
            return bool(place.region) and candidate.region == place.region
        case Where.LOCAL | Where.REMOTE:
            return candidate.remote is (target.where is Where.REMOTE)
        case Where.CLUSTER:
            return cluster_of(candidate, place) == target.cluster
        case Where.ANY:
            return True


def cluster_of(candidate: Candidate, place: Place) -> str:
    """The name of the cluster that ``candidate`` runs in."""
    return candidate.source.removeprefix(REMOTE_PREFIX) if candidate.remote else place.cluster


def _weight(candidates: Sequence[Candidate]) -> int:
    return sum(map(weight_of, candidates))


def weight_of(candidate: Candidate) -> int:
    """Those of weight 0 are only chosen where there are no others, and then evenly."""
    return max(candidate.backend.weight, 1)
