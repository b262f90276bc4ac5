"""The short circuit in the agent: whether it is on and why not, who switches it (this node or its cluster), and what servers
show of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import structlog

from meshd.agent.cluster_agreement import agreed
from meshd.agent.short_circuit_figures import Figures
from meshd.agent.short_circuit_reading import Reading
from meshd.config import Config
from meshd.dataplane.dataplane import Dataplane, find_workload
from meshd.dataplane.short_circuit.circuit import ShortCircuit
from meshd.dataplane.short_circuit.intent import FILE, Intent
from meshd.dataplane.short_circuit.old_rows import OldRows
from meshd.dataplane.short_circuit.selection import is_selected
from meshd.errors import IntentNotKept, NoClusterStore
from meshd.kernel.features import Feature as KernelFeature
from meshd.model import Address
from meshd.servers.introspection import Figure
from meshd.servers.short_circuit import Agreement, Connection, Pair, State
from meshd.sources.cluster_switch import ClusterSwitch
from meshd.state import Mesh

log = structlog.get_logger(__name__)

# What kernel features that it needs are needed by.
WORD = "short_circuit"


class ShortCircuitView:
    """``circuit`` None: it is not loaded. ``found``: what the kernel has, and lacks."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        dataplane: Dataplane,
        circuit: ShortCircuit | None,
        found: Sequence[KernelFeature],
    ) -> None:
        self._config = config
        self._mesh = mesh
        self._circuit = circuit
        self._reading = Reading(mesh, dataplane, circuit) if circuit is not None else None
        self._figures = Figures(circuit, self._reading) if circuit and self._reading else None
        # A component of the agent's.
        self.old_rows: OldRows | None = None
        if circuit is not None and self._reading is not None:
            pause_s, maps = config.audit_interval_s, dataplane.opened.loaded.maps
            self.old_rows = OldRows(mesh, dataplane, circuit.made, maps, pause_s, self._reading.sums.fresh)
        self._missing = [one for one in found if one.needed_by == WORD and not one.present]
        # What is said where it is not loaded holds from the first start at which it is.
        self._intent = circuit.intent if circuit is not None else Intent(config.state_dir)
        self._turning = asyncio.Lock()
        self.cluster: ClusterSwitch | None = None
        if config.clustermesh.etcd is not None:
            self.cluster = ClusterSwitch(config.cluster_name, config.node_name, self)
        if circuit is not None and self.cluster is not None:
            circuit.applied = self.cluster.say

    # What servers ask for (meshd/servers/short_circuit.py)

    async def state(self) -> State:
        """As it is now."""
        intent, circuit, reading = self._intent, self._circuit, self._reading
        if circuit is None or reading is None:
            return State(reasons=self.reasons(), node_on=intent.node_on, cluster_on=intent.cluster_on)
        summed = await reading.sums.fresh()
        return State(
            on=self.is_on,
            reasons=self.reasons(),
            node_on=intent.node_on,
            cluster_on=intent.cluster_on,
            selected=circuit.selected(),
            connections=summed.walk.connections,
            leaving=summed.walk.leaving,
            excluded=reading.excluded(),
            outcomes=circuit.events(),
            sent=reading.sent(summed.sent),
        )

    async def keys(self) -> Sequence[bytes]:
        """Of the connections that are admitted now."""
        return await self._reading.keys() if self._reading is not None else ()

    def connection(self, key: bytes) -> Connection | None:
        """None: it is over."""
        return self._reading.connection(key) if self._reading is not None else None

    async def pairs(self) -> Sequence[tuple[Address, Address]]:
        """Every pair that has, or had, a connection, by address."""
        return await self._reading.pairs() if self._reading is not None else ()

    def pair(self, ends: tuple[Address, Address]) -> Pair | None:
        """As of the last list; None: it was in none."""
        return self._reading.pair(ends) if self._reading is not None else None

    async def turn(self, *, on: bool) -> None:
        """Switches it on this node.

        Raises:
            IntentNotKept: it is in force, and not on disk; KernelError: it is not in force.
        """
        await self._say(node=on)

    async def turn_cluster(self, *, on: bool, patience_s: float | None) -> Agreement:
        """Says it to all nodes of the cluster, and waits for their word.

        Raises:
            NoClusterStore: no etcd is configured; ClusterNotTold: it did not take it.
        """
        if self.cluster is None:
            raise NoClusterStore("short circuit")
        return await agreed(self._mesh, self.cluster, on=on, patience_s=patience_s)

    # What the cluster's switch asks for (meshd/sources/cluster_switch.py)

    @property
    def is_on(self) -> bool:
        """Whether messages may be handed over."""
        return self._circuit is not None and self._circuit.switchboard.is_on

    @property
    def cluster_on(self) -> bool:
        """What the cluster said last, as far as this node has heard."""
        return self._intent.cluster_on

    def reasons(self) -> list[str]:
        """Why it is off, each as a sentence; none: it is on."""
        return (
            [] if self.is_on else [*self._obstacles(), *self._said_off()] or ["it is about to be switched on"]
        )

    async def take(self, *, on: bool) -> None:
        """Puts the cluster's intent in force.

        Raises:
            IntentNotKept, KernelError: as of `turn`.
        """
        if on != self._intent.cluster_on:
            log.info("short circuit is switched by the cluster", on=on)
            await self._say(cluster=on)

    # Of status and metrics

    def figures(self) -> Sequence[Figure]:
        """What the programs count; nothing where they are not loaded."""
        return self._figures.all() if self._figures is not None else ()

    def problems(self) -> list[str]:
        """What is not as it should be, each as one sentence."""
        found = []
        obstacles = "; ".join(self._obstacles())
        if obstacles and self._is_wanted():
            found.append(f"workloads are selected for the short circuit, and stay on TCP: {obstacles}")
        for one in self._reading.excluded() if self._reading is not None else ():
            name = one.workload or "a workload that is gone"
            found.append(
                f"connections of {name} stay on TCP, not on the short circuit: its process {one.process} {one.what}"
            )
        return found

    # Inside

    def _obstacles(self) -> Iterator[str]:
        """Why it cannot be on, whatever anybody says."""
        if not self._config.short_circuit.enabled:
            yield "the configuration has it disabled (shortCircuit.enabled)"
        elif not self._config.has_pod_network:
            yield "the configuration has no pod network (cni.podCidrs, podNetwork.enabled)"
        elif self._circuit is None and self._missing:
            lacks = (f"{one.name} ({one.reason})" if one.reason else one.name for one in self._missing)
            yield f"the kernel lacks {', '.join(lacks)}"
        elif self._circuit is None:
            yield "its programs are not loaded"
        elif self._circuit.refusal:
            yield self._circuit.refusal

    def _said_off(self) -> Iterator[str]:
        if not self._intent.node_on:
            yield "it was switched off on this node"
        if not self._intent.cluster_on:
            yield "it was switched off in the cluster"

    def _is_wanted(self) -> bool:
        options = self._config.short_circuit
        if not (options.enabled and self._config.has_pod_network):
            return False
        names = {str(one) for one in self._mesh.workloads.values()}
        placed = (find_workload(self._mesh, name) for name in names)
        return any(is_selected(self._mesh, one, default=options.default) for one in placed)

    async def _say(self, *, node: bool | None = None, cluster: bool | None = None) -> None:
        async with self._turning:
            unkept: OSError | None = None
            try:
                await asyncio.to_thread(self._intent.set, node=node, cluster=cluster)
            except OSError as error:
                unkept = error
            if self._circuit is not None:
                await self._circuit.apply()
            if unkept is not None:
                reason = unkept.strerror or str(unkept)
                raise IntentNotKept(str(self._config.state_dir / FILE), reason, on=self.is_on) from unkept
