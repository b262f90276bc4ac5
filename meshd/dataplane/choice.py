"""Which backends a service uses: constraints first, then what can serve, then preferences. Pure.

A constraint (`internalTrafficPolicy: Local`) may leave nothing. A preference never does while one backend could serve.
The rules on nodes and zones are kube-proxy's (Kubernetes, pkg/proxy/topology.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from meshd.model import Affinity, Backend, Service, TrafficDistribution


class Place(NamedTuple):
    """Where clients are: this node, and its zone (empty: not known)."""

    node: str
    zone: str = ""


class Candidate(NamedTuple):
    """A backend as one source names it; ``remote``: it runs in another cluster.

    ``reachable``: not known to be out of reach. One that is stays alive: who is connected to it is left alone.
    """

    backend: Backend
    source: str
    remote: bool
    reachable: bool = True


def is_ready(service: Service, backend: Backend) -> bool:
    """Kubernetes: publishNotReadyAddresses takes every address that is not on its way out for ready."""
    return (backend.ready or service.publish_not_ready) and not backend.terminating


def is_serving(backend: Backend) -> bool:
    """On its way out, and still answering (KEP-1669)."""
    return backend.terminating and backend.serving


def alive(service: Service, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """The candidates whose existing connections are left alone."""
    return (c for c in candidates if is_ready(service, c.backend) or is_serving(c.backend))


def choose(
    service: Service, candidates: Iterable[Candidate], place: Place, *, external: bool = False
) -> list[Candidate]:
    """The backends that new connections from ``place`` go to; empty: refuse them.

    ``external``: to a frontend of `Service.external`, which internalTrafficPolicy does not speak of.
    """
    local = service.internal_traffic_local and not external
    allowed = within_reach(service, [c for c in candidates if not local or is_on_node(c, place.node)])
    ready = [c for c in allowed if is_ready(service, c.backend)]
    if ready:
        preferred = prefer(service.affinity, weighted(ready))
        # Hints spread traffic over zones; where only this node may serve there is nothing to spread.
        return preferred if local else near(service, preferred, place)
    # Those on their way out help out wherever they are.
    return prefer(service.affinity, weighted([c for c in allowed if is_serving(c.backend)]))


def within_reach(service: Service, candidates: list[Candidate]) -> list[Candidate]:
    """Those that can be reached; all of them unless one of those could serve."""
    reachable = [c for c in candidates if c.reachable]
    return reachable if any(alive(service, reachable)) else candidates


def near(service: Service, ready: list[Candidate], place: Place) -> list[Candidate]:
    """Those that are meant for ``place``; all, unless all say for whom they are and one is for us.

    Kubernetes' controllers make hints of trafficDistribution. Where nobody made hints the service's word is taken directly.
    """
    if all(c.backend.for_nodes for c in ready):
        ours = [c for c in ready if not c.remote and place.node in c.backend.for_nodes]
        if ours:
            return ours
    if all(c.backend.for_zones for c in ready):
        return [c for c in ready if place.zone in c.backend.for_zones] or ready
    if any(c.backend.for_zones or c.backend.for_nodes for c in ready):
        return ready  # hints are on their way, or somebody could not make them
    return _distributed(service.traffic_distribution, ready, place)


def _distributed(wish: TrafficDistribution, ready: list[Candidate], place: Place) -> list[Candidate]:
    if wish is TrafficDistribution.ANY:
        return ready
    if wish is TrafficDistribution.SAME_NODE:
        on_node = [c for c in ready if is_on_node(c, place.node)]
        if on_node:
            return on_node
    return [c for c in ready if place.zone and c.backend.zone == place.zone] or ready


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
