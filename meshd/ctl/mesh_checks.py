"""What is wrong with a mesh by what the agent of a node knows of it. Pure; what etcds say: clustermesh/doctor.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from clustermesh.finding import Finding, error, information, some, warning
from meshd.api.v1 import cluster_pb2, node_pb2, status_pb2

# What a road may lose without anybody noticing.
LOSS = 0.02
# Sources that are the mesh; others are not this doctor's.
OF_MESH = ("etcd", "clustermesh")


@dataclass(frozen=True, slots=True)
class Known:
    """Answers of one agent. ``version``: of this meshctl."""

    status: status_pb2.GetStatusResponse
    clusters: tuple[cluster_pb2.Cluster, ...] = ()
    nodes: tuple[node_pb2.Node, ...] = ()
    version: str = ""


Check = Callable[[Known], Iterable[Finding]]


def findings(known: Known) -> list[Finding]:
    """All that is wrong, in the order of the checks."""
    return [each for check in CHECKS for each in check(known)]


def versions(known: Known) -> Iterator[Finding]:
    """Agent and meshctl are of one version."""
    other = known.status.version.version
    if other != known.version:
        problem = f"its agent is {other}, this meshctl {known.version}"
        remedy = "use the meshctl of the agent's version; upgrade what is older"
        yield warning("versions", f"node {known.status.node}", problem, remedy)


def sources(known: Known) -> Iterator[Finding]:
    """The cluster's own etcd and the directory of peers can be read."""
    for source in known.status.sources:
        if source.name in OF_MESH and source.state == status_pb2.SOURCE_STATE_STALE:
            remedy = "see what else is said; what it said before stands"
            yield error("sources", f"source {source.name}", f"is out of reach: {source.reason}", remedy)


def clusters(known: Known) -> Iterator[Finding]:
    """Every remote cluster is in sync, and nothing of it is refused."""
    for one in known.clusters:
        where = f"cluster {one.name}"
        if not one.local and one.state != cluster_pb2.CLUSTER_STATE_SYNCED:
            word = cluster_pb2.ClusterState.Name(one.state).removeprefix("CLUSTER_STATE_").lower()
            remedy = "see what is said of its etcd; what it shared before stands"
            yield error(
                "clusters", where, f"is {word}: {one.reason or 'for no reason that is known'}", remedy
            )
        if one.peer.pin_origin == cluster_pb2.PIN_ORIGIN_LEARNED:
            problem = f"its pin is learned, unconfirmed: id {one.peer.pin_cluster_id}, {some(one.peer.pin_networks)}"
            remedy = f"if that is right: `meshctl clustermesh pin {one.name}`"
            yield information("clusters", where, problem, remedy)
        let_go = f"if they are really gone: `meshctl clustermesh confirm {one.name}`"
        if one.peer.held_services:
            problem = f"{one.peer.held_services} services are held: its etcd lost most of what it had at once"
            yield warning("clusters", where, problem, let_go)
        stand = one.peer.stale_services - one.peer.held_services
        if stand > 0 and one.state == cluster_pb2.CLUSTER_STATE_SYNCED:
            yield warning("clusters", where, f"{stand} services stand that its etcd does not name", let_go)
        if refused := sum(one.peer.refused.values()):
            fields = some(f"{name} {count}" for name, count in sorted(one.peer.refused.items()))
            problem = f"records refused since the agent's start: {refused} ({fields})"
            yield warning("clusters", where, problem, "`meshctl status` names those that are refused now")


def nodes(known: Known) -> Iterator[Finding]:
    """Every node is believed, is there, and its pods are reached."""
    for one in known.nodes:
        where, reached = f"node {one.cluster}/{one.name}", one.reachability
        if one.state == node_pb2.NODE_STATE_REFUSED:
            yield error("nodes", where, f"is refused: {one.reason}", "give it what is nobody else's")
        elif one.reason:
            yield error("nodes", where, one.reason, "docs/troubleshooting.md, by symptom")
        if one.state == node_pb2.NODE_STATE_STALE:
            remedy = (
                f"start its agent, or `meshctl node delete {one.cluster}/{one.name}` if it is gone for good"
            )
            yield warning("nodes", where, "is stale: its record is gone, what it said stands", remedy)
        asked = "let UDP 8472 or its routes, and TCP 4240 among pods, through to it (docs/probes.md)"
        if reached == node_pb2.REACHABILITY_DOWN:
            yield error("probes", where, "does not answer probes any more", asked)
        elif reached == node_pb2.REACHABILITY_UNKNOWN:
            yield warning("probes", where, "has never answered a probe", asked)
        elif one.loss > LOSS:
            problem = f"{one.loss:.0%} of the probes of the last ten seconds were lost"
            yield warning(
                "probes", where, problem, "look at the network between, first at its MTU and queues"
            )


CHECKS: tuple[Check, ...] = (versions, sources, clusters, nodes)
