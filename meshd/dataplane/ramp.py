"""Slow return: a cluster that serves again gets its share of a service bit by bit. Pure.

The choice is mixed from two: the one without the cluster, in the way it was missing, and the one with it. So whoever took
its share over gives it back evenly, whatever the ladder says, and at the beginning nothing jumps.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from meshd.dataplane.candidate import Candidate, Place
from meshd.dataplane.choice import shares
from meshd.dataplane.ladder import Part, cluster_of, weighed
from meshd.model import Service


class Return(NamedTuple):
    """``progress``: 0 to 1. ``was_known``: while it was away its backends were there, and did not serve."""

    cluster: str
    progress: Fraction
    was_known: bool


def choose_with_returns(
    service: Service,
    candidates: Sequence[Candidate],
    place: Place,
    returns: Sequence[Return] = (),
    *,
    external: bool = False,
) -> list[Candidate]:
    """As `choice.choose`, while the clusters of ``returns`` are on their way back."""
    return weighed(mixed(service, candidates, place, returns, external=external))


def mixed(
    service: Service,
    candidates: Sequence[Candidate],
    place: Place,
    returns: Sequence[Return],
    *,
    external: bool = False,
) -> list[Part]:
    """The parts of the choices without the returning clusters, with the one that is furthest, and so on; 1 together.

    Where nobody else serves, who returns takes everything at once. Parts may name a candidate several times.
    """
    found: list[Part] = []
    given = Fraction(0)
    # From all that are back to none of them: each choice counts for what the next one does not have yet.
    ordered = sorted(returns, key=lambda each: (each.progress, each.cluster))
    for index in range(len(ordered) + 1):
        progress = ordered[index].progress if index < len(ordered) else Fraction(1)
        away = ordered[:index]
        parts = shares(service, _without(candidates, away, place), place, external=external)
        if not parts:
            break
        found += [part._replace(share=part.share * (progress - given)) for part in parts if progress > given]
        given = max(progress, given)
    return [part._replace(share=part.share / given) for part in found] if given else []


def _without(candidates: Sequence[Candidate], away: Sequence[Return], place: Place) -> list[Candidate]:
    known = {each.cluster: each.was_known for each in away}
    found: list[Candidate] = []
    for each in candidates:
        cluster = cluster_of(each, place)
        if cluster not in known:
            found.append(each)
        elif known[cluster]:
            found.append(each._replace(reachable=False))
    return found
