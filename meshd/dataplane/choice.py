"""Which backends a service uses: constraints first, then what can serve, then preferences. Pure.

A constraint (`internalTrafficPolicy: Local`) may leave nothing. A preference never does while one backend could serve.
The rules on nodes and zones are kube-proxy's (Kubernetes, pkg/proxy/topology.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from meshd.dataplane.candidate import Candidate, Place, is_on_node
from meshd.dataplane.ladder import Part, climb, weighed
from meshd.model import Affinity, Backend, OnStale, Service, TrafficDistribution
from meshd.model.failover import Ladder, parse_ladder

# One backend of the preferred side is enough: as in Cilium.
AFFINITY_LADDERS = {
    Affinity.NONE: parse_ladder("any"),
    Affinity.LOCAL: parse_ladder("local, any"),
    Affinity.REMOTE: parse_ladder("remote, any"),
}
# Of a ladder that says nothing: between Envoy (100 / overprovisioning factor 1.4: 71) and Google's load balancers (70).
MIN_HEALTHY_PERCENT = 70


class Standing(NamedTuple):
    """``unhealthy``: who else counts for the healthy share. Not ``ready``: those that can be used are ending."""

    usable: list[Candidate]
    unhealthy: list[Candidate]
    ready: bool


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

    Where several rungs or weighted targets share the traffic, with weights that do so. ``external``: to a frontend of
    `Service.external`, which internalTrafficPolicy does not speak of.
    """
    return weighed(shares(service, candidates, place, external=external))


def shares(
    service: Service, candidates: Iterable[Candidate], place: Place, *, external: bool = False
) -> list[Part]:
    """As `choose`, the groups of backends with the share of the traffic that each group takes."""
    local = service.internal_traffic_local and not external
    found = standing(service, candidates, place, external=external)
    minimum = min_healthy_percent(service) if found.ready else 0
    parts = climb(ladder_of(service), found.usable, found.unhealthy, place, minimum)
    if local or not found.ready:
        return parts  # Hints spread traffic over zones; where only this node may serve there is nothing to spread.
    return [part._replace(candidates=near(service, part.candidates, place)) for part in parts]


def standing(
    service: Service, candidates: Iterable[Candidate], place: Place, *, external: bool = False
) -> Standing:
    """Who can be used at all, before preferences."""
    local = service.internal_traffic_local and not external
    allowed = [c for c in candidates if not local or is_on_node(c, place.node)]
    within = within_reach(service, [c for c in allowed if c.on_stale is not OnStale.DROP])
    ready = vouched_for(weighted([c for c in within if is_ready(service, c.backend)]))
    if not ready:
        # Those on their way out help out wherever they are, and how many more there were says nothing.
        serving = [c for c in within if is_serving(c.backend)]
        return Standing(vouched_for(weighted(serving)), [], ready=False)
    usable = set(map(id, ready))
    lost = [c for c in allowed if id(c) not in usable and c.backend.weight and not c.backend.terminating]
    return Standing(ready, lost, ready=True)


def ladder_of(service: Service) -> Ladder:
    """The service's own ladder, or the one that its affinity stands for."""
    return service.failover or AFFINITY_LADDERS[service.affinity]


def min_healthy_percent(service: Service) -> int:
    """Which share of a rung must be healthy for it to take everything; 0: one backend is enough."""
    if service.min_healthy_percent is not None:
        return service.min_healthy_percent
    return MIN_HEALTHY_PERCENT if service.failover else 0


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


def vouched_for(candidates: list[Candidate]) -> list[Candidate]:
    """Without those that are a last resort, unless there are no others."""
    return [c for c in candidates if c.on_stale is OnStale.KEEP] or candidates


def weighted(candidates: list[Candidate]) -> list[Candidate]:
    """Without those of weight 0, unless there are no others."""
    return [c for c in candidates if c.backend.weight > 0] or candidates
