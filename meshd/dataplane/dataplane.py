"""The dataplane of one node: what is loaded, attached and pinned, and the components that keep it true."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from meshd.config import Config
from meshd.dataplane.attach import attach, attached
from meshd.dataplane.audit import Auditor
from meshd.dataplane.beat import Beat
from meshd.dataplane.delta import Delta
from meshd.dataplane.devices import Devices
from meshd.dataplane.drills import Drills
from meshd.dataplane.feature import Context, Rule, merged
from meshd.dataplane.features import SOCKET_LB, service_planner
from meshd.dataplane.generation import Generation
from meshd.dataplane.held import Held
from meshd.dataplane.layouts import ServiceRow, SlotKey
from meshd.dataplane.opening import Opened, link_pins
from meshd.dataplane.reconciler import Reconciler
from meshd.dataplane.retire import Retired
from meshd.dataplane.returns import Returns
from meshd.dataplane.rows import Plan, ServedFrontend
from meshd.dataplane.socket_closer import SocketCloser
from meshd.dataplane.sweep import Sweeper
from meshd.dataplane.workload_netns import WorkloadNetns
from meshd.dataplane.writer import Writer
from meshd.errors import KernelError
from meshd.kernel.links import Link
from meshd.kernel.rcu import wait_for_programs
from meshd.model import ServiceName, Workload
from meshd.state import Mesh, PlanKey
from meshd.state.mesh import WORKLOAD_PRECEDENCE

log = structlog.get_logger(__name__)


class Dataplane:
    """Built from an opened object; `attach` puts the hooks on, `run` keeps maps and hooks as the mesh wants them.

    ``written`` hears of every plan that the kernel holds.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        opened: Opened,
        written: Callable[[PlanKey, Plan], None] = lambda _key, _plan: None,
    ) -> None:
        self._config = config
        self._mesh = mesh
        self.cgroup: Path | None = None
        self.opened = opened
        self.layouts = opened.layouts
        order = tuple(name for feature in opened.features for name in feature.maps)
        self.maps = {name: opened.loaded.maps[name] for name in order}
        capacity = {name: each.info.max_entries for name, each in self.maps.items()}
        contested = frozenset[str]().union(*(feature.contested for feature in opened.features))
        self.delta = Delta(capacity, opened.observed, contested)
        self.held = Held(opened.layouts, opened.observed)
        self.netns = WorkloadNetns()
        self.devices = Devices()
        self.returns = Returns()
        self.drills = Drills()
        self._context = Context(
            config,
            opened.btf,
            opened.layouts,
            self.held,
            self._workload,
            self.devices,
            self.netns.id_of,
            self.netns.node_cookie,
            self.returns,
            self.drills,
        )
        self.services = service_planner(self._context)
        self._rules: dict[str, list[Rule]] = {}
        for feature in opened.features:
            for kind, rule in feature.rules(self._context).items():
                self._rules.setdefault(kind, []).append(rule)
        retired = frozenset[str]().union(*(feature.retired for feature in opened.features))
        self.retired = Retired(self.maps, retired, self.delta, wait_for_programs)
        self.generations = [
            Generation(
                opened.loaded.maps.get(feature.generation),
                feature.maps,
                opened.loaded.programs.get(feature.advances),
            )
            for feature in opened.features
            if feature.generation
        ]
        writer = Writer(self.maps, order, self.delta, self.retired, self.generations)
        self._writer = writer
        self.reconciler = Reconciler(mesh, self.delta, writer, self.plan, self._lost, written)
        self.closer = SocketCloser(
            opened.layouts,
            opened.loaded.maps["connections"],
            self.netns,
            self.reconciler.served,
            self.delta.observed["frontends"],
            wait_for_programs,
        )
        self.auditor = Auditor(self.maps, self.delta, config.audit_interval_s, self.generations)
        self.sweeper = Sweeper(
            mesh,
            self.delta,
            self.held,
            order,
            self._unwanted,
            self.maps,
            self.retired,
            self.closer.look_at_all,
            self.generations,
        )
        self._beat = Beat(opened.loaded.maps.get("beat"))
        self._links: dict[str, Link] = {}

    def attach(self, cgroup: Path) -> None:
        """Puts every loaded hook on ``cgroup``; links that are there get the new programs in place."""
        self.cgroup = cgroup
        for link in self._links.values():
            link.close()
        takeover, maps = self.opened.takeover, (*SOCKET_LB.maps, *SOCKET_LB.kernel_maps)
        takeover.copy(SOCKET_LB.kernel_maps, again=True)
        self._links = attach(self.opened.loaded.programs, cgroup, link_pins(self._config))
        # What the hooks that were replaced wrote meanwhile.
        takeover.copy(SOCKET_LB.kernel_maps)
        takeover.finish(maps)

    async def run(self) -> None:
        """Until cancelled; the hooks and maps stay as they are."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.reconciler.run())
            tasks.create_task(self.retired.run())
            tasks.create_task(self.closer.run())
            tasks.create_task(self.auditor.run())
            tasks.create_task(self.sweeper.run())
            tasks.create_task(self.returns.run(self._mesh))
            tasks.create_task(self._keep_attached())
            tasks.create_task(self._beat.run())

    def close(self) -> None:
        """Gives all descriptors back; what is pinned goes on working."""
        self.netns.close()
        for link in self._links.values():
            link.close()
        self.opened.takeover.close()
        self.opened.loaded.close()

    def rerouted(self) -> None:
        """The host's routes changed: what programs remember of them is looked up again."""
        for each in self.generations:
            each.advance()

    def plan(self, key: PlanKey) -> Plan:
        """The rows that ``key`` wants now."""
        return merged([rule(self._mesh, key.name) for rule in self._rules.get(key.kind, ())])

    def _workload(self, mesh: Mesh, name: str) -> tuple[Workload | None, int]:
        workload = find_workload(mesh, name)
        return workload, self.netns.cookie_of(name, workload)

    def _unwanted(self, failed: set[PlanKey]) -> dict[str, set[bytes]]:
        found: dict[str, set[bytes]] = {}
        for feature in self.opened.features:
            found |= feature.unwanted(self._context, self._mesh, self.delta, failed)
        return found

    def hooks(self) -> dict[str, bool]:
        """Hook -> whether it acts on our cgroup."""
        if self.cgroup is None:
            return {}
        return dict(attached(link_pins(self._config), self.cgroup))

    def events(self) -> dict[str, int]:
        """What the hooks counted since their map was made: event -> how often, over all CPUs."""
        counters = self.opened.loaded.maps["socket_lb_events"]
        names = {number: name for name, number in self.layouts.events.items()}
        found = {}
        for key, value in counters.items():
            name = names.get(int.from_bytes(key, sys.byteorder))
            if name and name != "SOCKET_LB_EVENTS":
                count = sum(self.layouts.u64.decode_cpus(value))
                found[name.removeprefix("SOCKET_LB_").lower()] = count
        return found

    def backends_in_use(self, name: ServiceName) -> int:
        """Distinct backend addresses that new connections to the service may be given now."""
        found = set()
        for frontend in self.delta.desired(PlanKey("service", str(name))).get("frontends", {}):
            # What the kernel holds, which is less than what is desired where a map is full.
            row = self.delta.observed["frontends"].get(frontend, bytes(self.maps["frontends"].value_size))
            found |= self._addresses(frontend, self.layouts.service.decode(row))
        return len(found)

    def _addresses(self, frontend: bytes, row: ServiceRow) -> set[bytes]:
        endpoint = self.layouts.endpoint.decode(frontend)
        keys = [
            self.layouts.slot_key.encode(SlotKey(row.list, index, endpoint)) for index in range(row.slots)
        ]
        held = [value for key in keys if (value := self.delta.observed["slots"].get(key))]
        return {self.layouts.slot.decode(value).backend.address for value in held}

    def drill_choices(self) -> Iterator[tuple[int, bytes, int]]:
        """List, packed backend, and how often a drill gave it, as the kernel counted. To be read on a worker thread."""
        for key, value in self.opened.loaded.maps["drill_choices"].items():
            number, backend = self.layouts.member_key.decode(key)
            yield number, self.layouts.endpoint.encode(backend), self.layouts.u64.decode(value)

    def lag_s(self, now: float) -> float:
        """For how long the oldest change waits for the kernel; ``now`` is monotonic time."""
        waiting = self._mesh.waiting_since_s
        return max(now - waiting, 0.0) if waiting is not None else 0.0

    def _lost(self, frontends: Mapping[bytes, ServedFrontend]) -> None:
        self.closer.look_at(frontends)

    async def _keep_attached(self) -> None:
        """A hook that somebody took off is put on again."""
        while True:
            await asyncio.sleep(self._config.audit_interval_s)
            try:
                self._attach_missing()
            except (KernelError, OSError) as error:  # OSError: the cgroup is gone
                log.error(
                    "hooks are not on, and cannot be put on", cgroup=str(self.cgroup), reason=str(error)
                )

    def _attach_missing(self) -> None:
        missing = [name for name, on in self.hooks().items() if not on and name in self._links]
        if missing and self.cgroup is not None:
            log.warning("hooks were taken off and are put on again", hooks=missing)
            self.attach(self.cgroup)
            self.auditor.repaired["links"] += len(missing)


def find_workload(mesh: Mesh, name: str) -> Workload | None:
    """The workload ``namespace/name`` that is in force.

    A runtime knows the namespace, and nothing of services: whether they are translated, another source may say.
    """
    namespace, _, pod = name.partition("/")
    named = [mesh.workloads.get((source, namespace, pod)) for source in WORKLOAD_PRECEDENCE]
    found = [workload for workload in named if workload is not None]
    placed = next((workload for workload in found if workload.netns), None)
    if placed is None:
        return None
    said = (workload.socket_lb for workload in found if workload.socket_lb is not None)
    selected = (each.short_circuit for each in found if each.short_circuit is not None)
    return replace(placed, socket_lb=next(said, None), short_circuit=next(selected, None))
