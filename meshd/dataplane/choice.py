"""Which backends a service uses: constraints first, then what can serve, then preferences. Pure.

A constraint (`internalTrafficPolicy: Local`) may leave nothing. A preference never does while one backend could serve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from meshd.model import Affinity, Backend, Service


class Candidate(NamedTuple):
    """A backend as one source names it; ``remote``: it runs in another cluster."""

    backend: Backend
    source: str
    remote: bool


def is_ready(service: Service, backend: Backend) -> bool:
    """Kubernetes: publishNotReadyAddresses takes every address that is not on its way out for ready."""
    return (backend.ready or service.publish_not_ready) and not backend.terminating


def is_serving(backend: Backend) -> bool:
    """On its way out, and still answering (KEP-1669)."""
    return backend.terminating and backend.serving


def alive(service: Service, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """The candidates whose existing connections are left alone."""
    return (c for c in candidates if is_ready(service, c.backend) or is_serving(c.backend))


def choose(service: Service, candidates: Iterable[Candidate], node: str) -> list[Candidate]:
    """The backends that new connections of this ``node`` go to; empty: refuse them."""
    allowed = [c for c in candidates if not service.internal_traffic_local or is_on_node(c, node)]
    tiers: tuple[Callable[[Backend], bool], ...] = (lambda b: is_ready(service, b), is_serving)
    for tier in tiers:
        able = [c for c in allowed if tier(c.backend)]
        if able:
            return prefer(service.affinity, weighted(able))
    return []


def is_on_node(candidate: Candidate, node: str) -> bool:
    """A remote cluster's backends are never local, whatever its nodes are called."""
    return not candidate.remote and candidate.backend.node == node


def weighted(candidates: list[Candidate]) -> list[Candidate]:
    """Without those of weight 0, unless there are no others."""
    return [c for c in candidates if c.backend.weight > 0] or candidates


def prefer(affinity: Affinity, candidates: list[Candidate]) -> list[Candidate]:
    """The candidates on the preferred side; all of them if that side has none."""
    if affinity is Affinity.NONE:
        return candidates
    return [c for c in candidates if c.remote == (affinity is Affinity.REMOTE)] or candidates
