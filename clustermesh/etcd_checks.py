"""What is wrong with the etcds of a mesh as they answer: who may do what there, what is in them, and who renews it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from clustermesh import keys
from clustermesh.evidence import HEARTBEAT_LIMIT_S
from clustermesh.finding import SHOWN, Finding, Severity, error, some, warning
from clustermesh.records import SERVICES
from clustermesh.snapshot import Etcd, Snapshot

# What readers of Cilium and of meshd wait for.
AWAITED = ("nodes", "identities", "ip")
# The Date of an answer is in whole seconds, and an answer takes its time.
SKEW_S = 3.0


def answers(snapshot: Snapshot) -> Iterator[Finding]:
    """Every etcd can be read, and names the cluster."""
    for etcd in snapshot.etcds:
        where = f"etcd of {etcd.cluster}"
        if etcd.problem:
            remedy = (
                "see what else is said of it; if it refuses the certificate, let it invite this cluster anew"
            )
            yield error("answers", where, f"cannot be read: {etcd.problem}", remedy)
        elif etcd.config_problem:
            yield error("answers", where, etcd.config_problem, "see who else writes to that etcd")
        elif etcd.config is None:
            problem = f"there is no {keys.cluster_config(etcd.cluster)}: nobody publishes under this name"
            remedy = (
                "start an agent there with clustermesh.etcd, or name the file as that cluster calls itself"
            )
            yield error("answers", where, problem, remedy)
        for alarm in sorted(etcd.alarms):
            yield error("answers", where, f"alarm {alarm}", "docs/join-clusters.md, The mesh's own etcd")


def access(snapshot: Snapshot) -> Iterator[Finding]:
    """Peers may read what is shared, and nothing else; nobody may without a certificate."""
    for etcd in snapshot.etcds:
        where = f"etcd of {etcd.cluster}"
        if etcd.is_own:
            yield from _users(etcd, where)
            continue
        if etcd.writable:
            problem = f"our certificate may write there: {some(etcd.writable)}"
            yield error(
                "access", where, problem, "`restrict` there: any node of this cluster could change it"
            )
        if etcd.readable:
            problem = f"our certificate may read what is not shared: {some(etcd.readable)}"
            yield warning("access", where, problem, "`restrict` there")


def _users(etcd: Etcd, where: str) -> Iterator[Finding]:
    users = etcd.users
    if users is None:
        return
    if not users.enabled:
        problem = "asks nobody who they are: every certificate of its authority may write"
        yield error("access", where, problem, "`restrict`")
    may_all = sorted(name for name, roles in users.roles.items() if "root" in roles)
    for name in may_all:
        if name not in ("root", f"admin-{etcd.cluster}"):
            problem = f"user {name} may do everything"
            yield error("access", where, problem, f"take it the role root, or delete the user {name}")
    for grant in users.grants:
        what = "write" if grant.writes else "read"
        if grant.writes or grant.private:
            severity = Severity.ERROR if grant.writes else Severity.WARNING
            problem = f"role {grant.role} may {what} {grant.text}"
            yield Finding(severity, "access", where, problem, "revoke that permission, then `restrict`")
    for name, roles in sorted(users.roles.items()):
        if name.startswith("remote-") and "remote" not in roles:
            problem = f"user {name} has not the role remote, so {name.removeprefix('remote-')} reads nothing"
            yield error("access", where, problem, f"`invite {name.removeprefix('remote-')}` again")


def freshness(snapshot: Snapshot) -> Iterator[Finding]:
    """Lists are complete, and who wrote them lives."""
    for etcd in snapshot.etcds:
        if etcd.config is None:
            continue
        where, restart = f"etcd of {etcd.cluster}", "see that an agent there is elected and can write"
        of_services = "services" if etcd.config.endpoint_slices_export_mode == SERVICES else "endpointslices"
        awaited = (*AWAITED, of_services)
        wanted = [keys.canary(etcd.cluster, each, cached=etcd.config.cached) for each in awaited]
        missing = [key for key in wanted if key not in etcd.canaries]
        if etcd.config.synced_canaries and missing:
            problem = f"not all is written: {some(missing)} is missing, so readers wait"
            yield error("freshness", where, problem, restart)
        if etcd.heartbeat_at is None:
            yield error("freshness", where, f"there is no {keys.HEARTBEAT}: nobody publishes", restart)
            continue
        ahead_s = etcd.clock_ahead_s or 0.0
        written_s = (snapshot.now + timedelta(seconds=ahead_s) - etcd.heartbeat_at).total_seconds()
        # What arrived does not depend on anybody's clock.
        age_s = written_s if etcd.heard_s is None else etcd.heard_s
        if age_s > HEARTBEAT_LIMIT_S:
            problem = f"the last heartbeat was written {age_s:.0f} s ago: what it lists may be outdated"
            yield error("freshness", where, problem, restart)
        off_s = min(written_s, 0.0) if etcd.heard_s is None else written_s - etcd.heard_s
        if abs(off_s) > SKEW_S:
            order = "behind" if off_s > 0 else "ahead of"
            whose = "that of the etcd" if etcd.clock_ahead_s is not None else "ours"
            problem = f"the clock of its publisher is {abs(off_s):.0f} s {order} {whose}"
            yield warning("clocks", where, problem, "let all nodes there keep time with NTP")


def leases(snapshot: Snapshot) -> Iterator[Finding]:
    """What is published goes when nobody renews it, and somebody does."""
    for etcd in snapshot.etcds:
        for one in etcd.leases:
            where = f"{one.key} in the etcd of {etcd.cluster}"
            if not one.granted_s:
                problem = "has no lease: it stays when the cluster is gone"
                yield warning("leases", where, problem, "delete it and let the publisher write it again")
            elif one.left_s < one.granted_s / 2:
                left = (
                    "gone" if one.left_s < 0 else f"not renewed: {one.left_s} of {one.granted_s} s are left"
                )
                yield error("leases", where, f"its lease is {left}", "see that an agent there can write")


def records(snapshot: Snapshot) -> Iterator[Finding]:
    """What is shared is valid, and lies where the cluster was joined for."""
    for etcd in snapshot.etcds:
        for text in etcd.invalid[:SHOWN]:
            yield error("records", f"etcd of {etcd.cluster}", text, "correct it there; agents pass it over")
        if len(etcd.invalid) > SHOWN:
            more = f"{len(etcd.invalid) - SHOWN} more records are not valid"
            yield error("records", f"etcd of {etcd.cluster}", more, "`clustermesh dump` lists them")
