"""Which rungs of a ladder take how much of a service's traffic. Pure.

A rung takes all that reaches it while its healthy share is at least the minimum. Below, it takes in proportion (half of the
minimum: half of the traffic), and the rest goes on to the next rung. So does a target of a rung that shares by weight. These
are Envoy's rules for priorities and locality weights, with the minimum in the place of 100 / overprovisioning factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import gcd, lcm
from typing import NamedTuple

from meshd.dataplane.candidate import Candidate, Place, is_on_node
from meshd.model.cluster import REMOTE_PREFIX
from meshd.model.failover import Ladder, Rung, Target, Where

# Of all weights of a list together: far below what a slot holds, and exact enough for 10^5 backends.
_WEIGHT_SUM_MAX = 1 << 31
_WEIGHT_SUM_ROUNDED = 1 << 28


class Part(NamedTuple):
    """Backends that share ``share`` (0 < share <= 1) of the traffic by their weights."""

    candidates: list[Candidate]
    share: Fraction


class _Group(NamedTuple):
    """Of one target: those that can be used, and all that count for the healthy share."""

    target: Target
    usable: list[Candidate]
    weight: int
    known_weight: int


def climb(
    ladder: Ladder,
    usable: Sequence[Candidate],
    unhealthy: Sequence[Candidate],
    place: Place,
    min_healthy_percent: int,
) -> list[Part]:
    """The parts that take the traffic of clients at ``place``; their shares are 1 together. No ``usable``: none.

    ``unhealthy``: candidates that would count as well if they could be used. Where all rungs together take less than
    everything, each takes in proportion more; where no rung has anybody, the others serve.
    """
    parts: list[Part] = []
    rest = Fraction(1)
    for rung in ladder:
        groups: list[_Group] = []
        for target in rung:
            inside, usable = _split(target, usable, place)
            lost, unhealthy = _split(target, unhealthy, place)
            weight = _weight(inside)
            groups.append(_Group(target, inside, weight, weight + _weight(lost)))
        taken = rest * _fitness(
            sum(group.weight for group in groups),
            sum(group.known_weight for group in groups),
            min_healthy_percent,
        )
        if taken:
            parts += _shared(rung, groups, taken, min_healthy_percent)
            rest -= taken
        if not rest:
            break
    if not parts:
        return [Part(list(usable), Fraction(1))] if usable else []
    return [Part(part.candidates, part.share / (1 - rest)) for part in parts]


def weighed(parts: Sequence[Part]) -> list[Candidate]:
    """The candidates of all ``parts``, with weights that share the traffic as the parts say; of a single part, their own."""
    if len(parts) == 1:
        return parts[0].candidates
    shares: list[tuple[Candidate, Fraction]] = []
    for part in parts:
        total = _weight(part.candidates)
        shares += [(each, part.share * _own_weight(each) / total) for each in part.candidates]
    if not shares:
        return []
    scale = lcm(*{share.denominator for _, share in shares})
    if scale > _WEIGHT_SUM_MAX:
        weights = [max(round(share * _WEIGHT_SUM_ROUNDED), 1) for _, share in shares]
    else:
        weights = [int(share * scale) for _, share in shares]
    divisor = gcd(*weights)
    return [
        each._replace(backend=replace(each.backend, weight=weight // divisor))
        for (each, _), weight in zip(shares, weights, strict=True)
    ]


def _shared(rung: Rung, groups: list[_Group], taken: Fraction, minimum: int) -> list[Part]:
    if not rung[0].weight:
        return [Part([each for group in groups for each in group.usable], taken)]
    pulls = [group.target.weight * _fitness(group.weight, group.known_weight, minimum) for group in groups]
    return [
        Part(group.usable, taken * pull / sum(pulls))
        for group, pull in zip(groups, pulls, strict=True)
        if group.usable
    ]


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
        case Where.LOCAL:
            return not candidate.remote
        case Where.REMOTE:
            return candidate.remote
        case Where.CLUSTER:
            return cluster_of(candidate, place) == target.cluster
        case Where.ANY:
            return True


def cluster_of(candidate: Candidate, place: Place) -> str:
    """The name of the cluster that ``candidate`` runs in."""
    return candidate.source.removeprefix(REMOTE_PREFIX) if candidate.remote else place.cluster


def _weight(candidates: Sequence[Candidate]) -> int:
    return sum(map(_own_weight, candidates))


def _own_weight(candidate: Candidate) -> int:
    """Those of weight 0 are only chosen where there are no others, and then evenly."""
    return max(candidate.backend.weight, 1)
