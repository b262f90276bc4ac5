"""What would be chosen if a cluster, a node or a zone were out of reach: `choice.py`, asked twice of one mesh. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

from meshd.dataplane.candidate import Able, Candidate, Place
from meshd.dataplane.choice import ladder_of, shares, standing
from meshd.dataplane.ladder import cluster_of, groups_of, weight_of
from meshd.dataplane.out_of_reach import pod_ranges
from meshd.dataplane.socket_lb import Planner
from meshd.model import Address, Frontend, Node, Service, ServiceName
from meshd.model.failover_plan import FailoverPlan, Loss, Taken, TakenBy
from meshd.state import Mesh


def failover_plans(planner: Planner, mesh: Mesh, name: ServiceName, loss: Loss) -> list[FailoverPlan]:
    """What ``loss`` would do to the service; none: it has no backend there, or nobody names it.

    Seen from this node. Frontends of which one is external, of another family or has other backends may fare differently.
    """
    service = mesh.service(name)
    if service is None:
        return []
    place, nodes = planner.place(mesh), _nodes(mesh, loss)
    found: dict[tuple[int, bool, tuple[TakenBy, ...]], list[Frontend]] = {}
    for able in planner.able(mesh, service):
        lost = [_is_lost(each, loss, place, nodes) for each in able.candidates]
        if any(lost):
            found.setdefault(_outcome(service, able, lost, place), []).append(able.frontend)
    return [
        FailoverPlan(name, tuple(frontends), lost_count, nothing_left, taken)
        for (lost_count, nothing_left, taken), frontends in found.items()
    ]


def carries(node: Node, address: Address) -> bool:
    """Whether ``address`` is one of the node's pods, or its own."""
    return address in node.addresses or any(first <= address <= last for first, last in pod_ranges(node))


def _outcome(
    service: Service, able: Able, lost: Sequence[bool], place: Place
) -> tuple[int, bool, tuple[TakenBy, ...]]:
    after = [
        each._replace(reachable=each.reachable and not gone)
        for each, gone in zip(able.candidates, lost, strict=True)
    ]
    was = _taken(service, able.candidates, place, external=able.external)
    # Where nothing else is left, what is out of reach is chosen all the same, and who dials it gets no answer.
    left = shares(service, [each for each in after if each.reachable], place, external=able.external)
    will = _taken(service, after, place, external=able.external) if left else {}
    clusters = sorted({*was, *will}, key=lambda name: (name != place.cluster, name))
    return (
        sum(lost),
        any(taken.share for taken in was.values()) and not left,
        tuple(TakenBy(name, was.get(name, Taken()), will.get(name, Taken())) for name in clusters),
    )


def _taken(
    service: Service, candidates: Sequence[Candidate], place: Place, *, external: bool
) -> dict[str, Taken]:
    """Cluster -> what it takes, also of those that take nothing and state a capacity."""
    share: defaultdict[str, Fraction] = defaultdict(Fraction)
    backends: defaultdict[str, int] = defaultdict(int)
    for part in shares(service, candidates, place, external=external):
        total = sum(map(weight_of, part.candidates))
        for each in part.candidates:
            name = cluster_of(each, place)
            share[name] += part.share * weight_of(each) / total
            backends[name] += 1
    capacity = _capacities(service, candidates, place, external=external)
    return {
        name: Taken(float(share[name]), backends[name], capacity.get(name)) for name in {*share, *capacity}
    }


def _capacities(
    service: Service, candidates: Sequence[Candidate], place: Place, *, external: bool
) -> dict[str, float]:
    """Cluster -> what was said that it can take; without those of which this is said of some backends only, or of none."""
    found = standing(service, candidates, place, external=external)
    capacities: defaultdict[str, Fraction] = defaultdict(Fraction)
    unstated: set[str] = set()
    for rung in groups_of(ladder_of(service), found.usable, found.unhealthy, place):
        for group in rung:
            for each in group.usable:
                name = cluster_of(each, place)
                if group.capacity is None:
                    unstated.add(name)
                else:
                    capacities[name] += group.capacity * weight_of(each) / group.weight
    return {name: float(capacity) for name, capacity in capacities.items() if name not in unstated}


def _nodes(mesh: Mesh, loss: Loss) -> list[Node]:
    """What sources say of the node that is lost; of another cluster's, backends do not say on which they are."""
    named = (node for node in mesh.nodes.values() if loss.node and node.name == loss.node)
    return [node for node in named if node.cluster == loss.cluster]


def _is_lost(candidate: Candidate, loss: Loss, place: Place, nodes: Sequence[Node]) -> bool:
    if cluster_of(candidate, place) != loss.cluster:
        return False
    backend = candidate.backend
    if loss.node:
        return backend.node == loss.node or any(carries(node, backend.address) for node in nodes)
    return not loss.zone or backend.zone == loss.zone
