"""Which clusters take the new connections to a service. Pure.

Part of every plan, so in a pass or two over the candidates, and by source: there are few of those.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from meshd.dataplane.candidate import Able, Candidate, Place
from meshd.dataplane.choice import is_ready, is_serving
from meshd.dataplane.rows import Takers
from meshd.model import Address, OnStale, Service
from meshd.model.cluster import REMOTE_PREFIX


def takers(
    service: Service,
    all_able: Iterable[Able],
    all_chosen: Iterable[Sequence[Candidate]],
    place: Place,
    *,
    is_global: bool,
) -> Takers:
    """``all_chosen``: who was chosen for each of ``all_able``, none where that one is refused."""
    usable: set[str] = set()
    stale: set[str] = set()
    silent: defaultdict[str, set[Address]] = defaultdict(set)
    for able in all_able:
        for each in able.candidates:
            if each.on_stale is OnStale.DROP:
                stale.add(each.source)
            elif not each.reachable:
                silent[each.source].add(each.backend.address)
            elif each.source not in usable and (is_ready(service, each.backend) or is_serving(each.backend)):
                usable.add(each.source)
    return Takers(
        _shares(all_chosen, place),
        frozenset(_cluster(source, place) for source in usable),
        {_cluster(source, place): len(addresses) for source, addresses in silent.items()},
        frozenset(_cluster(source, place) for source in stale),
        is_global,
    )


def _shares(all_chosen: Iterable[Sequence[Candidate]], place: Place) -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    serving = [chosen for chosen in all_chosen if chosen]
    for chosen in serving:
        weights: defaultdict[str, int] = defaultdict(int)
        for each in chosen:
            weights[each.source] += each.backend.weight or 1
        total = sum(weights.values()) * len(serving)
        for source, weight in weights.items():
            found[_cluster(source, place)] += weight / total
    return {cluster: min(share, 1.0) for cluster, share in found.items()}


def _cluster(source: str, place: Place) -> str:
    return source.removeprefix(REMOTE_PREFIX) if source.startswith(REMOTE_PREFIX) else place.cluster
