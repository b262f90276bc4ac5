"""The mesh as its sources want it: the only writer of Desired, and the place where one waits for an effect.

Sources and servers call :meth:`Mesh.apply` and :meth:`Mesh.replace` with model values; each call is one revision. The
reconciler takes the plan keys that changed, and reports for each of them what became of it (outcomes.py).

A source that has not finished its first complete list since the start may have left rows in the kernel that we have not
been told of yet: :meth:`Mesh.is_complete` is what decides whether their absence means anything.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from meshd.model import (
    BackendSlice,
    Cluster,
    Identity,
    Namespace,
    Node,
    NodeState,
    Outage,
    Service,
    ServiceName,
    Workload,
)
from meshd.model.cluster import KUBERNETES, REMOTE_PREFIX
from meshd.model.failover import Where, speaks_of
from meshd.model.outage import PROBES
from meshd.state.outcomes import Outcomes, PlanKey
from meshd.state.table import Table

Object = Service | BackendSlice | Namespace | Workload | Identity | Node | Cluster | Outage

# Precedence of sources that name the same service: the first that names it wins. Remote clusters name backends only.
PRECEDENCE = ("kubernetes", "manifests", "api")
# Of a workload's namespace nobody knows better than the container runtime that made it.
WORKLOAD_PRECEDENCE = ("cni", *PRECEDENCE)


class SourceState(Enum):
    LISTING = "listing"
    COMPLETE = "complete"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """``complete_once``: the first complete list since the start is done, so an absent object is a deleted one.
    ``restored``: until then a journal of an earlier run speaks for it. ``overdue``: it has been out of reach for too long.
    """

    state: SourceState
    complete_once: bool
    reason: str = ""
    restored: bool = False
    overdue: bool = False


class Mesh(Outcomes):
    """Tables of model values keyed by (source, name, ...), one revision for all of them."""

    def __init__(self) -> None:
        super().__init__()
        # Revisions begin anew with every process; who resumes from one must know of which.
        self.instance = secrets.token_hex(8)
        self.services: Table[tuple[str, ServiceName], Service] = Table()
        self.slices: Table[tuple[str, ServiceName, str], BackendSlice] = Table()
        self.namespaces: Table[tuple[str, str], Namespace] = Table()
        self.workloads: Table[tuple[str, str, str], Workload] = Table()
        self.identities: Table[tuple[str, str, str], Identity] = Table()
        self.nodes: Table[tuple[str, str, str], Node] = Table()
        self.clusters: Table[tuple[str, str], Cluster] = Table()
        self.outages: Table[tuple[str, str, str], Outage] = Table()
        self._tables: dict[type, Table[Any, Any]] = {  # Any: one table a type, and the type is the key
            Service: self.services,
            BackendSlice: self.slices,
            Namespace: self.namespaces,
            Workload: self.workloads,
            Identity: self.identities,
            Node: self.nodes,
            Cluster: self.clusters,
            Outage: self.outages,
        }
        # By source, kept current so that a status of a large mesh need not walk it.
        self.service_counts: Counter[str] = Counter()
        self.backend_counts: Counter[str] = Counter()
        # Those whose ladder speaks of regions: where nodes are decides which backends they use.
        self._by_region: set[tuple[str, ServiceName]] = set()
        self._by_service: dict[ServiceName, tuple[set[str], set[tuple[str, ServiceName, str]]]] = {}
        self._sources: dict[str, SourceStatus] = {}
        self._observers: list[Callable[[str, list[Object], list[tuple[type, Hashable]]], None]] = []

    # Writing

    def apply(
        self, source: str, puts: Iterable[Object] = (), deletes: Iterable[tuple[type, Hashable]] = ()
    ) -> int:
        """Put and delete objects of ``source`` as one revision, which is returned. What is equal changes nothing.

        Deletes name a type and the value's ``key``. An absent one is no error.
        """
        revision = self.revision + 1
        changed_puts = [value for value in puts if self._put(source, revision, value)]
        changed_deletes = [(kind, key) for kind, key in deletes if self._delete(source, revision, kind, key)]
        if changed_puts or changed_deletes:
            self.revision = revision
            for observe in self._observers:
                observe(source, changed_puts, changed_deletes)
            self._wake()
        return self.revision

    def replace(self, source: str, objects: Iterable[Object]) -> int:
        """The complete list of ``source``: what it does not name is gone. Returns the revision.

        The source is complete from here on, so its rows in the kernel that nobody names any more may be deleted.
        """
        objects = list(objects)
        named = {(type(value), value.key) for value in objects}
        absent = [
            (kind, key)
            for kind, table in self._tables.items()
            for key, value in table.items()
            if value.source == source and (kind, key) not in named
        ]
        # First the state, then the objects: what the reconciler plans next already knows that the list is complete.
        self._set_source(source, SourceStatus(SourceState.COMPLETE, complete_once=True))
        return self.apply(source, objects, absent)

    def listing(self, source: str) -> None:
        """``source`` exists and has not listed yet; its rows in the kernel stand until it has."""
        if source not in self._sources:
            self._set_source(source, SourceStatus(SourceState.LISTING, complete_once=False))

    def restore(self, source: str, objects: Iterable[Object]) -> int:
        """What a journal of an earlier run says of ``source``: in force until it has listed."""
        self._set_source(source, SourceStatus(SourceState.LISTING, complete_once=False, restored=True))
        return self.apply(source, objects)

    def mark_stale(self, source: str, reason: str) -> None:
        """``source`` cannot be reached: everything it said stands, marked stale."""
        known = self._sources.get(source) or SourceStatus(SourceState.LISTING, complete_once=False)
        self._set_source(source, replace(known, state=SourceState.STALE, reason=reason))

    def mark_overdue(self, source: str) -> None:
        """``source`` has been out of reach for too long; that is over once it is complete."""
        known = self._sources.get(source)
        if known is not None and known.state is not SourceState.COMPLETE:
            self._set_source(source, replace(known, overdue=True))

    def mark_complete(self, source: str) -> None:
        """What the mesh holds of ``source`` is all there is (again)."""
        self._set_source(source, SourceStatus(SourceState.COMPLETE, complete_once=True))

    def forget(self, source: str) -> int:
        """The configuration, read completely, no longer names ``source``: it counts as having listed nothing."""
        revision = self.replace(source, ())
        if self._sources.pop(source, None) is not None:
            self._mark_key(PlanKey("source", source), revision)
            self._wake()
        return revision

    # Reading

    @property
    def sources(self) -> dict[str, SourceStatus]:
        return dict(self._sources)

    def is_complete(self, source: str) -> bool:
        """Whether an object that ``source`` does not name is certainly gone.

        A source nobody configured is complete: it has, once the configuration is read, nothing to say.
        """
        known = self._sources.get(source)
        return known is None or known.complete_once

    def is_unheard(self, source: str) -> bool:
        """Whether nothing is known of what ``source`` wants, neither from itself nor from a journal."""
        known = self._sources.get(source)
        return known is not None and not known.complete_once and not known.restored

    def is_overdue(self, source: str) -> bool:
        """Whether ``source`` has been out of reach for too long."""
        known = self._sources.get(source)
        return known is not None and known.overdue

    def objects_of(self, source: str) -> Iterator[Object]:
        """Everything that ``source`` says now, in the order of its last change."""
        for table in self._tables.values():
            yield from (value for value in table.values() if value.source == source)

    def service(self, name: ServiceName) -> Service | None:
        """The service of that name that is in force: of several sources the first in PRECEDENCE."""
        sources = self._by_service.get(name, (set(), set()))[0]
        if not sources:
            return None
        return self.services.get((min(sources, key=precedence), name))

    def owner(self, name: ServiceName) -> str | None:
        """The source whose service of that name is in force."""
        service = self.service(name)
        return service.source if service else None

    def slices_of(self, name: ServiceName) -> Iterator[BackendSlice]:
        """All slices that any source has for the service, in no order."""
        for key in self._by_service.get(name, (set(), set()))[1]:
            value = self.slices.get(key)
            if value is not None:
                yield value

    def namespace(self, name: str) -> Namespace | None:
        """The namespace of that name that is in force."""
        found = [value for source in PRECEDENCE if (value := self.namespaces.get((source, name))) is not None]
        return found[0] if found else None

    def service_names(self) -> list[ServiceName]:
        return list(self._by_service)

    def observe(self, call: Callable[[str, list[Object], list[tuple[type, Hashable]]], None]) -> None:
        """Call ``call(source, puts, deletes)`` for each revision from now on (the journal does)."""
        self._observers.append(call)

    # Inside

    def _put(self, source: str, revision: int, value: Object) -> bool:
        if value.source != source:
            raise ValueError(f"{source} may not write objects of {value.source}")
        table = self._tables[type(value)]
        before = table.get(value.key)
        if before == value:
            return False
        self._count(source, before, -1)
        self._count(source, value, 1)
        table.put(revision, value.key, value)
        self._index(value, present=True)
        self._mark(value, revision)
        self._mark_regions(before, value, revision)
        return True

    def _delete(self, source: str, revision: int, kind: type, key: Hashable) -> bool:
        table = self._tables[kind]
        value = table.get(key)
        if value is None or value.source != source:
            return False
        self._count(source, value, -1)
        table.delete(revision, key)
        self._index(value, present=False)
        self._mark(value, revision)
        self._mark_regions(value, None, revision)
        return True

    def _count(self, source: str, value: Object | None, step: int) -> None:
        if isinstance(value, Service):
            self.service_counts[source] += step
        elif isinstance(value, BackendSlice):
            self.backend_counts[source] += step * len(value.backends)

    def _index(self, value: Object, *, present: bool) -> None:
        item: Hashable
        if isinstance(value, Service):
            name, part, item = value.name, 0, value.source
            if present and speaks_of(value.failover, Where.REGION):
                self._by_region.add(value.key)
            else:
                self._by_region.discard(value.key)
        elif isinstance(value, BackendSlice):
            name, part, item = value.service, 1, value.key
        else:
            return
        entry = self._by_service.setdefault(name, (set(), set()))
        members: set[Any] = entry[part]  # Any: sources in one, slice keys in the other
        if present:
            members.add(item)
        else:
            members.discard(item)
            if not entry[0] and not entry[1]:
                del self._by_service[name]

    def _mark(self, value: Object, revision: int) -> None:
        for key in self._plan_keys(value):
            self._mark_key(key, revision)

    def _mark_regions(self, before: Object | None, after: Object | None, revision: int) -> None:
        """What is to be planned anew because a node is in another region, or has other pods there."""
        if self._by_region and _in_region(before) != _in_region(after):
            for _, name in self._by_region:
                self._mark_key(PlanKey("service", str(name)), revision)

    def _plan_keys(self, value: Object) -> Iterator[PlanKey]:
        match value:
            case Service(name=name) | BackendSlice(service=name):
                yield PlanKey("service", str(name))
            case Workload() | Identity():
                yield PlanKey("workload", str(value))
            case Node() if value.is_of_etcd or value.source == KUBERNETES:
                yield PlanKey("node", str(value))
                if self.outages.get((PROBES, value.cluster, value.name)) is not None:
                    yield from self._using(value.cluster)
            case Outage(cluster=cluster):
                yield from self._using(cluster)
            case Namespace(name=namespace):
                yield from (PlanKey("service", str(n)) for n in self._by_service if n.namespace == namespace)
                yield from (
                    PlanKey("workload", str(w)) for w in self.workloads.values() if w.namespace == namespace
                )
            case _:
                return

    def _using(self, cluster: str) -> Iterator[PlanKey]:
        """The services that have backends in remote cluster ``cluster``."""
        names = {each.service for each in self.slices.values() if each.source == REMOTE_PREFIX + cluster}
        return (PlanKey("service", str(name)) for name in names)

    def _set_source(self, source: str, status: SourceStatus) -> None:
        before = self._sources.get(source)
        self._sources[source] = status
        if before is None:
            self._mark_key(PlanKey("source", source), self.revision)
        if before != status:
            came = status.complete_once and not (before and before.complete_once)
            if came or status.overdue != (before is not None and before.overdue):
                # Rows that the kernel kept for this source may go now, or its backends count for more or less: plan what it
                # may have touched.
                for name in self._by_service:
                    self._mark_key(PlanKey("service", str(name)), self.revision)
            self._wake()


def _in_region(value: Object | None) -> tuple[object, ...]:
    """What a node has in a region; empty: it is none, or in none that is known."""
    if not isinstance(value, Node) or not value.region or value.state is NodeState.REFUSED:
        return ()
    return value.region, value.addresses, value.pod_cidrs, value.extra


def precedence(source: str) -> int:
    """0 is strongest; sources outside PRECEDENCE come last."""
    return PRECEDENCE.index(source) if source in PRECEDENCE else len(PRECEDENCE)
