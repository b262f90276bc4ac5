"""A dataplane without a kernel: takes changed keys from a mesh and reports an outcome for each, as the reconciler does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Literal

from meshd.dataplane.failover_plan import failover_plans
from meshd.dataplane.held import Held
from meshd.dataplane.layouts import layouts
from meshd.dataplane.socket_lb import Planner
from meshd.errors import UnknownObject
from meshd.kernel.object import BpfObject
from meshd.model import ServiceName
from meshd.model.failover_history import Failover
from meshd.model.failover_plan import FailoverPlan, Loss
from meshd.servers.introspection import (
    Build,
    Drop,
    Feature,
    Figure,
    Introspection,
    KernelMap,
    MapRow,
    Peer,
    Program,
    Reconcile,
    Removal,
    Sample,
)
from meshd.state import Mesh, PlanKey
from tests.fakes.drills import FakeDrills
from tests.fakes.short_circuit import FakeShortCircuit


class FakeDataplane:
    """``refused``: keys whose rows fail, with why. While ``held`` nothing is reported: the kernel is slow."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.refused: dict[PlanKey, Exception] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.seen: list[PlanKey] = []
        # None: no programs count them.
        self.drops: list[Drop] | None = None
        self.failovers: list[Failover] = []
        self.drills = FakeDrills()
        self.short_circuit = FakeShortCircuit()
        # What stands of cluster cm-2, the only peer.
        self.removals: list[Removal] = []
        self.refused_records = {"wrong cluster": 2}
        self.pin_origin: Literal["stated", "learned", "none yet"] = "none yet"
        self.pin_cluster_id = 0
        self.pin_networks: tuple[str, ...] = ()
        self.relearn_error: Exception | None = None
        self.rows = [
            MapRow({"number": number, "address": b"\x0a\x60\0\x01"}, {"weight": 2**63 + number})
            for number in range(1200)
        ]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.open.wait()
            for key in self.mesh.take_changes():
                self.seen.append(key)
                self.mesh.report(key, self.refused.get(key))
            await self.mesh.moved()

    def introspection(self) -> Introspection:
        """What an agent with this dataplane shows."""
        return Introspection(
            build=Build("0.1.0", "abc123", "6.18.5", "3.11.2", time.time()),
            features=lambda: [
                Feature("cgroup_sock_addr", True, "socket_lb"),
                Feature("fentry", False, "telemetry", "not in this kernel", "no drop reasons"),
            ],
            programs=lambda: [Program("connect4", 7, "cgroup /"), Program("trace", left_out="needs fentry")],
            maps=lambda: [
                KernelMap("slots", "hash", 16, 40, 1000, 950, 65536, "/sys/fs/bpf/slots"),
                KernelMap("counters", "percpu_array", 4, 8, 16, None, 4096),
            ],
            dump=self.dump,
            figures=lambda: [
                Figure(
                    "sockets_destroyed",
                    "Sockets closed because their backend went.",
                    "counter",
                    (Sample(3, {"service": "default/web"}),),
                )
            ],
            peers=lambda: [
                Peer(
                    "cm-2",
                    ("https://10.0.0.2:2379",),
                    5,
                    0.02,
                    1.5,
                    self.refused_records,
                    1,
                    "refused",
                    stale_services=len(self.removals),
                    held_services=sum(one.held for one in self.removals),
                    held_backends=sum(one.backends for one in self.removals if one.held),
                    held_since_s=min((one.since_s for one in self.removals if one.held), default=None),
                    pin_origin=self.pin_origin,
                    pin_cluster_id=self.pin_cluster_id,
                    pin_networks=self.pin_networks,
                )
            ],
            reconcile=lambda: Reconcile(0.0, 4, 2),
            backends_in_use=self.backends_in_use,
            short_circuit=self.short_circuit,
            failover_plans=self.failover_plans,
            failovers=lambda: self.failovers,
            drills=self.drills,
            drops=lambda: self.drops,
            confirm_removals=self.confirm_removals,
            relearn_pin=self.relearn_pin,
        )

    def failover_plans(self, name: ServiceName, loss: Loss) -> list[FailoverPlan]:
        """The real ones: nothing of them needs a kernel."""
        with BpfObject.open() as bpf:
            made = layouts(bpf.btf)
        return failover_plans(Planner(made, "node-1", Held(made, {}), cluster="cm-1"), self.mesh, name, loss)

    def confirm_removals(self, cluster: str) -> list[Removal] | None:
        """As the agent's; only cm-2 is a peer."""
        if cluster != "cm-2":
            return None
        gone, self.removals = self.removals, []
        return gone

    def relearn_pin(self, cluster: str) -> bool | None:
        """As the agent's; only cm-2 is a peer."""
        if self.relearn_error is not None:
            raise self.relearn_error
        if cluster != "cm-2":
            return None
        was, self.pin_origin = self.pin_origin, "none yet"
        return was == "learned"

    def dump(self, name: str) -> Iterator[MapRow]:
        """The rows of map "slots"."""
        if name != "slots":
            raise UnknownObject(f"map {name}")
        return iter(self.rows)

    def backends_in_use(self, name: ServiceName) -> int:
        """Ready ones, whatever the source: choosing is the real dataplane's."""
        return sum(backend.ready for part in self.mesh.slices_of(name) for backend in part.backends)
