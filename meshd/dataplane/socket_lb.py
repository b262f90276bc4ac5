"""Service addresses answered at the socket: from services and backends to the rows of `bpf/maps/socket_lb.h`.

Everything here is pure, but for what slow returns remember (returns.py). The same desired state gives the same rows in every
process, so a restart that finds them in the kernel has nothing to write (lists are numbered by their content, see
layouts.list_number).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from meshd.dataplane.alias import alias_slots
from meshd.dataplane.candidate import Able, Candidate, Place
from meshd.dataplane.choice import alive
from meshd.dataplane.drills import Drills, as_lost
from meshd.dataplane.held import Held
from meshd.dataplane.layouts import (
    Endpoint,
    Layouts,
    Member,
    MemberKey,
    ServiceRow,
    Slot,
    SlotKey,
    SourceName,
    WorkloadRow,
    list_number,
    source_number,
)
from meshd.dataplane.out_of_reach import OutOfReach
from meshd.dataplane.ramp import choose_with_returns
from meshd.dataplane.regions import Regions
from meshd.dataplane.returns import Returns
from meshd.dataplane.rows import Plan, Rows, ServedFrontend
from meshd.dataplane.staleness import Staleness
from meshd.dataplane.takers import takers
from meshd.model import (
    Address,
    Backend,
    BackendPort,
    Frontend,
    OnStale,
    Protocol,
    Service,
    ServiceName,
    Workload,
    is_ipv4,
)
from meshd.model.cluster import REMOTE_PREFIX
from meshd.model.drill import Drill
from meshd.model.failover import Where, speaks_of
from meshd.state import Mesh, sharing
from meshd.state.mesh import PRECEDENCE, precedence

# In the order of writing; deleted in the reverse order. A frontend comes after what it names.
MAPS = ("sources", "members", "slots", "frontends", "workloads")

# A program may still read rows of these after the frontend no longer names them: deleted after a grace period.
RETIRED = frozenset({"members", "slots"})

# Two services may want the same row of these; the first that has it keeps it, the other is told who.
CONTESTED = frozenset({"frontends", "workloads"})


@dataclass(frozen=True, slots=True)
class Planner:
    """What plans depend on besides the mesh: where this is, and what the kernel held at the start.

    ``zone``, ``region`` empty: those that a source says this node is in.
    """

    layouts: Layouts
    node: str
    held: Held
    zone: str = ""
    cluster: str = ""
    out_of_reach: OutOfReach = field(default_factory=OutOfReach)
    returns: Returns = field(default_factory=Returns)
    staleness: Staleness = field(default_factory=Staleness)
    drills: Drills = field(default_factory=Drills)
    region: str = ""
    regions: Regions = field(default_factory=Regions)

    def service(self, mesh: Mesh, name: ServiceName) -> Plan:
        """The rows of one service; none if no source names it (any more)."""
        service = mesh.service(name)
        if service is None:
            self.returns.forget(name)
            return Plan({})
        rows: Rows = {"members": {}, "slots": {}, "frontends": {}}
        served, all_chosen = {}, []
        place, all_able = self.place(mesh), list(self.able(mesh, service))
        returns = self.returns.look(service, all_able, place)
        drill = self.drills.of(name)
        if drill is not None:
            self.drills.planned_anew()
        for able in all_able:
            wanted = choose_with_returns(service, able.candidates, place, returns, external=able.external)
            key = self._frontend(service, able, wanted, rows)
            if drill is not None:
                lost = as_lost(able.candidates, drill.lose, place)
                instead = choose_with_returns(service, lost, place, returns, external=able.external)
                self._drilled(service, able.frontend, distinct(instead, able.frontend), drill, rows, place)
            served[key] = self._served(service, able, wanted)
            all_chosen.append(wanted)
        is_global = sharing.is_global(mesh, service)
        return Plan(rows, served, takers(service, all_able, all_chosen, place, is_global=is_global))

    def able(self, mesh: Mesh, service: Service) -> Iterator[Able]:
        """Each frontend of ``service`` that is answered here, with all backends that could be chosen for it."""
        candidates = list(self._candidates(mesh, service))
        for external, frontends in ((False, service.frontends), (True, service.external)):
            for frontend in frontends:
                key = self._key(frontend)
                if not self._belongs_to_a_stronger_source(mesh, service, key):
                    found = [*matching(candidates, frontend), *self._held(mesh, service, key, frontend)]
                    yield Able(frontend, external, found)

    def place(self, mesh: Mesh) -> Place:
        """Where this node's clients are."""
        named = (mesh.nodes.get((source, self.cluster, self.node)) for source in PRECEDENCE)
        said = next((node for node in named if node is not None), None)
        zone = self.zone or (said.zone if said is not None else "")
        region = self.region or (said.region if said is not None else "")
        return Place(self.node, zone, self.cluster, region)

    def source(self, mesh: Mesh, name: str) -> Plan:
        """The row that says what the number of a source means."""
        if name not in mesh.sources:
            return Plan({})
        key = self.layouts.u32.encode(source_number(name))
        return Plan({"sources": {key: self.layouts.source_name.encode(SourceName(name.encode()))}})

    def workload(self, mesh: Mesh, workload: Workload | None, netns_cookie: int) -> Plan:
        """The row of a workload that is left out; others need none."""
        if workload is None or socket_lb_wanted(mesh, workload):
            return Plan({})
        key = self.layouts.u64.encode(netns_cookie)
        return Plan({"workloads": {key: self.layouts.workload.encode(WorkloadRow(self.layouts.left_out))}})

    def _candidates(self, mesh: Mesh, service: Service) -> Iterator[Candidate]:
        """Backends that count: the service's own source's, and remote clusters' if it is global."""
        is_global = sharing.is_global(mesh, service)
        # In an order of their own: of an endpoint that two of them name, every start must take the same.
        for part in sorted(mesh.slices_of(service.name), key=lambda each: each.key):
            remote = is_remote_source(part.source)
            if part.source == service.source or (remote and is_global):
                stale = self.staleness.of(mesh, service, part.source, part)
                yield from (
                    self._candidate(mesh, service, each, part.source, stale) for each in part.backends
                )

    def _candidate(
        self, mesh: Mesh, service: Service, backend: Backend, source: str, stale: OnStale
    ) -> Candidate:
        """``backend`` as ``source`` names it, with what is known of its node."""
        remote = is_remote_source(source)
        silent = remote and self.out_of_reach.has(mesh, source, backend.address)
        lost = silent and self.out_of_reach.is_confirmed(mesh, source, backend.address)
        region = self._region(mesh, service, source, backend)
        return Candidate(backend, source, remote, not silent, stale, lost, region)

    def _region(self, mesh: Mesh, service: Service, source: str, backend: Backend) -> str:
        """The region of a backend, where the service asks for it."""
        if not speaks_of(service.failover, Where.REGION):
            return ""
        if is_remote_source(source):
            return self.regions.of(mesh, source.removeprefix(REMOTE_PREFIX), backend)
        if backend.node == self.node:
            return self.place(mesh).region
        return self.regions.of(mesh, self.cluster, backend)

    def _key(self, frontend: Frontend) -> bytes:
        return self.layouts.endpoint.encode(Endpoint(frontend.address, frontend.port, frontend.protocol))

    def _belongs_to_a_stronger_source(self, mesh: Mesh, service: Service, key: bytes) -> bool:
        """Whether the kernel held this frontend at the start for a source that goes before the service's, and that has not
        listed since: its row stands until then."""
        holder = self.held.owner(key)
        return (
            holder is not None
            and precedence(holder) < precedence(service.source)
            and not mesh.is_complete(holder)
        )

    def _frontend(self, service: Service, able: Able, wanted: Iterable[Candidate], rows: Rows) -> bytes:
        """Adds the rows of one frontend; its packed key."""
        frontend, external, candidates = able
        endpoint, key = Endpoint(frontend.address, frontend.port, frontend.protocol), self._key(frontend)
        chosen = distinct(wanted, frontend)
        number = self._list(endpoint, chosen, rows, wants_members(service, frontend))
        source = source_number(service.source)
        # What became of connections is only asked of nodes of other clusters.
        is_noted = any(each.remote for each in candidates)
        flags = (self.layouts.external if external else 0) | (self.layouts.noted if is_noted else 0)
        rows["frontends"][key] = self.layouts.service.encode(
            ServiceRow(number, len(chosen), service.affinity_timeout_s, source, flags)
        )
        return key

    def _served(self, service: Service, able: Able, wanted: Iterable[Candidate]) -> ServedFrontend:
        """Who may keep connections through the frontend: where nobody within reach is ``wanted``, also who is lost."""
        staying = distinct(alive(service, able.candidates), able.frontend)
        lost: set[Endpoint] = set()
        if service.close_on_failover and any(each.reachable for each in wanted):
            lost = {endpoint for endpoint, each in staying.items() if each.lost}
        encode = self.layouts.endpoint.encode
        backends = tuple(encode(each) for each in staying if each not in lost)
        return ServedFrontend(str(service.name), backends, service.close_tcp, frozenset(map(encode, lost)))

    def _drilled(
        self,
        service: Service,
        frontend: Frontend,
        chosen: dict[Endpoint, Candidate],
        drill: Drill,
        rows: Rows,
        place: Place,
    ) -> None:
        """Puts the list of ``drill``, with these backends, beside the normal one of the frontend, whose row is there."""
        endpoint, key = Endpoint(frontend.address, frontend.port, frontend.protocol), self._key(frontend)
        number = self._list(endpoint, chosen, rows, wants_members(service, frontend))
        packed = ((self.layouts.endpoint.encode(each), one) for each, one in chosen.items())
        self.drills.note(number, packed, place)
        row = self.layouts.service.decode(rows["frontends"][key])
        rows["frontends"][key] = self.layouts.service.encode(
            row._replace(drill_list=number, drill_slots=len(chosen), drill_until_ns=drill.until_ns)
        )

    def _held(self, mesh: Mesh, service: Service, key: bytes, frontend: Frontend) -> Iterator[Candidate]:
        """What the kernel held at the start for sources that have not listed yet."""
        for backend in self.held.backends(key):
            counts = backend.source == service.source or (
                is_remote_source(backend.source) and may_be_global(mesh, service)
            )
            if counts and mesh.is_unheard(backend.source):
                port = BackendPort(frontend.port_name, frontend.protocol, backend.endpoint.port)
                found = Backend(Address(backend.endpoint.address), (port,), weight=backend.weight)
                stale = self.staleness.of(mesh, service, backend.source)
                yield self._candidate(mesh, service, found, backend.source, stale)

    def _list(
        self, frontend: Endpoint, chosen: dict[Endpoint, Candidate], rows: Rows, has_members: bool
    ) -> int:
        """Adds the slots of a list (and its members) under the number its content gives it; 0: an empty list."""
        if not chosen:
            return 0
        endpoints = list(chosen)
        weights = [max(chosen[each].backend.weight, 1) for each in endpoints]
        packed = [
            self.layouts.slot.encode(
                Slot(
                    slot.threshold,
                    weights[index],
                    source_number(chosen[endpoints[index]].source),
                    endpoints[index],
                    endpoints[slot.alias],
                )
            )
            for index, slot in enumerate(alias_slots(weights))
        ]
        # Of its own frontend only: members are found by the list's number alone.
        number = list_number(
            b"".join((self.layouts.endpoint.encode(frontend), *packed, bytes([has_members])))
        )
        for index, value in enumerate(packed):
            rows["slots"][self.layouts.slot_key.encode(SlotKey(number, index, frontend))] = value
        if has_members:
            for endpoint, weight in zip(endpoints, weights, strict=True):
                member = self.layouts.member_key.encode(MemberKey(number, endpoint))
                rows["members"][member] = self.layouts.member.encode(Member(weight))
        return number


def wants_members(service: Service, frontend: Frontend) -> bool:
    """Whether a client may come back to its backend, if that is still one of the list."""
    return service.affinity_timeout_s > 0 or frontend.protocol is Protocol.UDP


def may_be_global(mesh: Mesh, service: Service) -> bool:
    """Whether ``service`` is global, or its namespace may still say so."""
    if sharing.is_global(mesh, service):
        return True
    silent = not all(mesh.is_complete(source) for source in PRECEDENCE)
    return service.is_global is None and mesh.namespace(service.name.namespace) is None and silent


def is_remote_source(source: str) -> bool:
    return source.startswith("cluster:")


def socket_lb_wanted(mesh: Mesh, workload: Workload) -> bool:
    """Whether service addresses are translated at this workload's sockets: its own word, its namespace's, else yes."""
    if workload.socket_lb is not None:
        return workload.socket_lb
    namespace = mesh.namespace(workload.namespace)
    return not (namespace and namespace.socket_lb is False)


def matching(candidates: Iterable[Candidate], frontend: Frontend) -> Iterator[Candidate]:
    """The candidates of the frontend's address family that have a port for it."""
    family = is_ipv4(frontend.address)
    for candidate in candidates:
        if is_ipv4(candidate.backend.address) == family and port_for(candidate.backend, frontend) is not None:
            yield candidate


def port_for(backend: Backend, frontend: Frontend) -> int | None:
    """The port behind ``frontend``: joined by name and protocol."""
    for port in backend.ports:
        if port.port_name == frontend.port_name and port.protocol == frontend.protocol:
            return port.port
    return None


def distinct(candidates: Iterable[Candidate], frontend: Frontend) -> dict[Endpoint, Candidate]:
    """Endpoint -> candidate, each endpoint once and in an order that does not depend on who came first."""
    found: dict[Endpoint, Candidate] = {}
    for candidate in candidates:
        port = port_for(candidate.backend, frontend)
        if port is not None:
            found.setdefault(Endpoint(candidate.backend.address, port, frontend.protocol), candidate)
    return dict(sorted(found.items()))
