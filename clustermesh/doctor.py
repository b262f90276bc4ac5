"""What is wrong with a mesh as one cluster sees it. Pure: a snapshot in, findings out.

A check is a function from the snapshot to findings. Here are those of what is configured, in etcd_checks.py those of what
etcds answer. Nothing is said of what is as it should be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from clustermesh import etcd_checks, keys
from clustermesh.addresses import Network
from clustermesh.etcd_checks import SKEW_S
from clustermesh.finding import Finding, Severity, error, ordered, some, warning
from clustermesh.overlap import overlapping
from clustermesh.records import EXPORT_MODES
from clustermesh.snapshot import Snapshot

# A certificate that ends sooner is worth a word.
SOON = timedelta(days=30)

Check = Callable[[Snapshot], Iterable[Finding]]


def findings(snapshot: Snapshot) -> list[Finding]:
    """All that is wrong, errors first; [] if nothing is."""
    return ordered(each for check in CHECKS for each in check(snapshot))


def files(snapshot: Snapshot) -> Iterator[Finding]:
    """Client files that nobody can use, and peers that are not pinned."""
    for path, reason in snapshot.refused.items():
        yield error("files", path, reason, "mend the file; what it said before stays in force until then")
    for etcd in snapshot.etcds:
        if not (etcd.is_own or (etcd.pin.cluster_id and etcd.pin.networks)):
            yield warning(
                "files",
                etcd.path,
                f"cluster {etcd.cluster} is not pinned: it may name any address",
                "join it with an invitation, or add meshd.io/pin with its cluster-id and networks",
            )


def identity(snapshot: Snapshot) -> Iterator[Finding]:
    """Names and ids: each once in a mesh, within its limits, and as pinned."""
    ids: dict[int, str] = {snapshot.cluster_id: snapshot.name} if snapshot.cluster_id else {}
    limit, remedy = snapshot.max_connected_clusters, "give every cluster of the mesh an id of its own"
    if (problem := keys.cluster_name_problem(snapshot.name)) is not None:
        yield error("identity", f"cluster {snapshot.name}", f"its name {problem}", "give it another name")
    for etcd in snapshot.etcds:
        if etcd.config is None:
            continue
        where, number = f"cluster {etcd.cluster}", etcd.config.cluster_id
        if not 1 <= number <= limit:
            yield error("identity", where, f"its cluster id {number} is not within 1..{limit}", remedy)
        if etcd.is_own:
            if snapshot.cluster_id not in (0, number):
                problem = f"etcd says that its id is {number}, its configuration {snapshot.cluster_id}"
                yield error("identity", where, problem, "give all nodes of the cluster the same clusterId")
        elif number in ids:
            yield error("identity", where, f"its cluster id {number} is that of {ids[number]}", remedy)
        else:
            ids[number] = etcd.cluster
        if (text := etcd.pin.config_problem(number)) is not None:
            yield error("identity", where, text, "if that is meant, let it invite you anew and join it")
        if (mode := etcd.config.endpoint_slices_export_mode) not in EXPORT_MODES:
            remedy_of_mode = "let it export services or endpoint slices in a mode that is known here"
            yield error(
                "identity", where, f"its export mode {mode!r} is not one that can be read", remedy_of_mode
            )
        if etcd.config.max_connected_clusters != limit:
            problem = f"it allows {etcd.config.max_connected_clusters} clusters, this one {limit}"
            yield error("identity", where, problem, "use the same maxConnectedClusters in all clusters")


def networks(snapshot: Snapshot) -> Iterator[Finding]:
    """No address belongs to two clusters, or to two nodes."""
    claimed: list[tuple[Network, tuple[str, str]]] = []
    # What was learned is wider than what is there: neighbours may have the same.
    pinned = {
        each.cluster: each.pin.networks for each in snapshot.etcds if not (each.is_own or each.pin.is_learned)
    }
    for name, found in (*pinned.items(), (snapshot.name, snapshot.networks)):
        claimed += [(network, (name, "")) for network in found]
    for etcd in snapshot.etcds:
        claimed += [(each, (etcd.cluster, node.name)) for node in etcd.nodes for each in node.networks]
    # Where networks overlap, many do: one finding for each pair of clusters.
    between: dict[tuple[str, str], list[str]] = {}
    for (one, first), (other, second) in overlapping(claimed):
        # Nodes lie inside the networks that their cluster was joined with.
        if first[0] != second[0] or (first[1] and second[1]):
            text = f"{one} of {_owner(first)} overlaps {other} of {_owner(second)}"
            between.setdefault((min(first[0], second[0]), max(first[0], second[0])), []).append(text)
    for (one_name, other_name), texts in sorted(between.items()):
        where = f"clusters {one_name} and {other_name}" if one_name != other_name else f"cluster {one_name}"
        remedy = "give one of them other addresses: packets for one would go to the other"
        yield error("networks", where, some(texts), remedy)


def _owner(of: tuple[str, str]) -> str:
    return f"node {of[0]}/{of[1]}" if of[1] else f"cluster {of[0]}"


def certificates(snapshot: Snapshot) -> Iterator[Finding]:
    """What is shown to an etcd can be read, and lasts."""
    for etcd in snapshot.etcds:
        again = (
            "`rotate certificates`"
            if etcd.is_own
            else f"let {etcd.cluster} invite this cluster anew and join it"
        )
        for one in etcd.certificates:
            if one.problem:
                yield error("certificates", one.path, one.problem, again)
            elif one.begins is not None and one.begins > snapshot.now:
                yield error(
                    "certificates", one.path, f"begins only {_day(one.begins)}", "set the clock right"
                )
            elif one.ends is not None:
                yield from _ending(str(one.path), one.ends, snapshot.now, again)


def members(snapshot: Snapshot) -> Iterator[Finding]:
    """Every server of every etcd answers, encrypted, with a certificate that is for it."""
    for etcd in snapshot.etcds:
        again = "`rotate certificates` there" if not etcd.is_own else "`rotate certificates`"
        for one in etcd.members:
            where = f"etcd of {etcd.cluster} at {one.address}"
            if not one.secure:
                problem = "is not encrypted: whoever is on the way can say what the cluster shares"
                yield warning("members", where, problem, "serve and dial https with certificates")
            if one.problem:
                severity = Severity.ERROR if etcd.problem else Severity.WARNING
                remedy = "start it, or let this machine reach it; if it moved, correct the endpoints"
                yield Finding(severity, "members", where, f"does not answer: {one.problem}", remedy)
            if one.chain_problem:
                yield error("members", where, f"its certificate is not believed: {one.chain_problem}", again)
            elif one.ends is not None:
                yield from _ending(f"certificate of the {where}", one.ends, snapshot.now, again)
        versions = {".".join(one.version.split(".")[:2]) for one in etcd.members if one.version}
        if len(versions) > 1:
            problem = f"its members are of versions {', '.join(sorted(versions))}"
            yield warning("members", f"etcd of {etcd.cluster}", problem, "bring all to one minor version")


def _ending(where: str, ends: datetime, now: datetime, remedy: str) -> Iterator[Finding]:
    if ends <= now:
        yield error("certificates", where, f"ended {_day(ends)}", remedy)
    elif ends - now < SOON:
        yield warning("certificates", where, f"ends {_day(ends)}, in {(ends - now).days} days", remedy)


def clocks(snapshot: Snapshot) -> Iterator[Finding]:
    """All clocks agree: certificates and the age of what is read depend on them."""
    for etcd in snapshot.etcds:
        for one in etcd.members:
            if one.clock_ahead_s is not None and abs(one.clock_ahead_s) > SKEW_S:
                order = "ahead of" if one.clock_ahead_s > 0 else "behind"
                problem = f"its clock is {abs(one.clock_ahead_s):.0f} s {order} ours"
                where = f"etcd of {etcd.cluster} at {one.address}"
                yield warning("clocks", where, problem, "let both keep time with NTP")


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d}"


CHECKS: tuple[Check, ...] = (
    files,
    identity,
    networks,
    certificates,
    members,
    clocks,
    etcd_checks.answers,
    etcd_checks.access,
    etcd_checks.freshness,
    etcd_checks.leases,
    etcd_checks.records,
)
