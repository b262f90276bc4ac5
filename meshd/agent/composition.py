"""The agent: which parts there are, in which order they start, and who is given whom.

The order of a start: look at the kernel; take over what is pinned; put in force what journals and the kernel say; swap the
programs of the hooks in place; then listen and read the sources. Nothing is deleted before a source has spoken.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Protocol

import structlog

from clustermesh.mesh import MeshOptions
from clustermesh.publisher import PublisherOptions
from clustermesh.remote import RemoteOptions
from meshd.agent import run_lock
from meshd.agent.certificate_figures import certificate_figures
from meshd.agent.cni import CniPlugin
from meshd.agent.drill_view import DrillView
from meshd.agent.failover_figures import failover_figures
from meshd.agent.failover_view import FailoverView
from meshd.agent.introspect import DataplaneView, build, problems
from meshd.agent.kubernetes_node import KubernetesNode, configured
from meshd.agent.kubernetes_view import (
    KUBERNETES,
    api_servers_of,
    kubernetes_source,
    source_figures,
    source_problems,
)
from meshd.agent.node_figures import node_figures, probe_figures
from meshd.agent.own_node import OwnNode
from meshd.agent.pod_network_view import PodNetworkView, traffic_control
from meshd.agent.remote_view import confirm_removals, peers, removal_problems
from meshd.agent.short_circuit_view import ShortCircuitView
from meshd.config import Config
from meshd.dataplane import failover_record
from meshd.dataplane.attempts import Attempts
from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.failover_history import FailoverHistory
from meshd.dataplane.failover_record import FailoverRecord
from meshd.dataplane.opening import left_out, open_object
from meshd.dataplane.pod_network.device_watch import DeviceWatch
from meshd.dataplane.pod_network.expire import expirer_of
from meshd.dataplane.pod_network.node_network import NodeNetwork
from meshd.dataplane.probes.node_probes import NodeProbes
from meshd.dataplane.short_circuit.circuit import short_circuit_of
from meshd.dataplane.short_circuit.removal import LeftOver
from meshd.errors import ConfigError
from meshd.kernel import cgroup, features
from meshd.kernel.features import Feature
from meshd.kubenode.identity import Identity
from meshd.model import Node
from meshd.model.attachment import CNI
from meshd.model.cluster import ETCD, REMOTE_PREFIX
from meshd.model.outage import PROBES
from meshd.model.workload import IDENTITIES
from meshd.servers.control.changes import Changes
from meshd.servers.control.server import ControlServer
from meshd.servers.introspection import Introspection, Routing
from meshd.servers.readiness import Readiness
from meshd.sources.cluster_drill import ClusterDrill
from meshd.sources.cluster_switch import ClusterSwitch
from meshd.sources.gone_nodes import GoneNodes
from meshd.sources.local_etcd import LocalEtcd
from meshd.sources.manifests import SOURCE as MANIFESTS
from meshd.sources.manifests import Manifests
from meshd.sources.node_registry import NodeRegistry
from meshd.sources.own_addresses import OwnAddresses
from meshd.sources.remote import RemoteClusters
from meshd.state import Mesh
from meshd.state.journal import sources_in
from meshd.state.snapshots import Snapshots

log = structlog.get_logger(__name__)


class Component(Protocol):
    """A part that runs until it is cancelled."""

    async def run(self) -> None:
        """Until cancelled."""


class Agent:
    """Everything one node runs. `run` ends by cancellation; hooks and maps stay as they are."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._started_s = time.time()
        self._mesh = Mesh()
        self._readiness = Readiness()
        # Of a node of Kubernetes whose network this agent is.
        self._identity: Identity | None = None

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            ConfigError: this machine or configuration cannot be used; KernelError, VerifierError: the kernel refused
            something. Whatever was attached before goes on.
        """
        async with AsyncExitStack() as stack:
            if self._config.health_listen:
                from meshd.servers.health import serving_health  # noqa: PLC0415 - aiohttp is a heavy import

                await stack.enter_async_context(serving_health(self._config.health_listen, self._readiness))
            await self._run()

    async def _run(self) -> None:
        features.require(self._config.bpffs)
        with run_lock.held(self._config, create=True):
            if self._config.kubernetes.makes_network:
                self._config, self._identity = await configured(self._config, self._readiness)
            config = self._config
            found = features.probe()
            subtree = config.cgroup or cgroup.find_mount()
            if not (subtree / "cgroup.procs").exists():
                raise ConfigError(f"{subtree} is no cgroup v2 directory: make it, or name another (cgroup)")
            tune_collector()
            # Before anything is restored: it looks at every outage.
            past = failover_record.load(config.state_dir)
            history = FailoverHistory(self._mesh, config.cluster_name, past)
            dataplane = self._open(found, history)
            with contextlib.closing(dataplane):
                changes, snapshots = self._restore(dataplane)
                dataplane.attach(subtree)
                await self._serve(dataplane, found, changes, snapshots, history)

    def _open(self, found: Sequence[Feature], history: FailoverHistory) -> Dataplane:
        missing = {feature.name for feature in found if not feature.present}
        without = left_out(missing)
        for feature in found:
            if not feature.present:
                log.info(
                    "kernel feature missing", feature=feature.name, cost=feature.cost, reason=feature.reason
                )
        opened = open_object(self._config, without)
        reused = {name: len(rows) for name, rows in opened.observed.items() if rows}
        log.info(
            "BPF object loaded",
            programs=len(opened.loaded.programs),
            left_out=sorted(without),
            rows_found=reused,
        )
        return Dataplane(self._config, self._mesh, opened, history.written)

    def _restore(self, dataplane: Dataplane) -> tuple[Changes, Snapshots]:
        """What was in force before this start, as far as it is configured still."""
        journals = self._config.state_dir / "journal"
        snapshots = Snapshots(self._mesh, journals, without=("api", CNI))
        if self._config.cni.is_used:
            self._mesh.listing(CNI)
        if self._config.manifests is not None:
            self._mesh.listing(MANIFESTS)
        if self._config.kubernetes.is_used:
            self._mesh.listing(KUBERNETES)
        if self._config.clustermesh.etcd is not None:
            self._mesh.listing(ETCD)
        known = {*dataplane.held.source_names.values(), *sources_in(journals)}
        held = set(dataplane.held.source_names.values())
        restored = snapshots.restore([name for name in known if self._is_configured(name)], held)
        changes = Changes(self._mesh, journals)
        restored["api"] = changes.load()
        log.info("restored from journals", **{name: count for name, count in restored.items() if count})
        return changes, snapshots

    def _is_configured(self, source: str) -> bool:
        """Whether the configuration may still name ``source``; of remote clusters the directory of peers decides later."""
        if source.startswith(REMOTE_PREFIX):
            return self._config.clustermesh.peers is not None
        if source == CNI:
            return self._config.cni.is_used
        if source == KUBERNETES:
            return self._config.kubernetes.is_used
        if source in (ETCD, IDENTITIES):
            return self._config.clustermesh.etcd is not None
        if source == PROBES:
            return self._probes_nodes()
        return source == MANIFESTS and self._config.manifests is not None

    def _probes_nodes(self) -> bool:
        config = self._config
        asks = config.probes.enabled and config.has_pod_network and bool(config.cni.pod_cidrs)
        return asks and config.clustermesh.peers is not None

    async def _serve(
        self,
        dataplane: Dataplane,
        found: Sequence[Feature],
        changes: Changes,
        snapshots: Snapshots,
        history: FailoverHistory,
    ) -> None:
        config = self._config
        limit = config.clustermesh.max_connected_clusters
        own_addresses = OwnAddresses(self._mesh, config.cluster_name, api_servers_of(config))
        nodes = NodeRegistry(self._mesh, config.cluster_name, config.node_name, limit, own_addresses)
        programs = traffic_control(config, self._mesh, dataplane, found)
        view = DataplaneView(config, dataplane, found, programs.places if programs is not None else dict)
        known = [name for name in dataplane.held.source_names.values() if self._is_configured(name)]
        remotes = RemoteClusters(
            self._mesh,
            config.clustermesh.peers,
            config.cluster_name,
            config.cluster_id,
            [*known, *self._mesh.sources],
            options=MeshOptions(
                remote=RemoteOptions(max_connected_clusters=limit, hold_s=config.clustermesh.hold_s)
            ),
            nodes=nodes,
            stale_after_s=config.clustermesh.stale_after_s,
            own=own_addresses,
            learned_pins=config.state_dir / "pins",
        )
        manifests = self._manifests()
        kubernetes = kubernetes_source(self._mesh, config)
        short_circuit = short_circuit_of(config, dataplane.opened)
        short_circuits = ShortCircuitView(config, self._mesh, dataplane, short_circuit, found)
        failover = FailoverView(self._mesh, dataplane.services)
        drills = DrillView(config, self._mesh, dataplane)
        local_etcd = self._local_etcd(nodes, short_circuits.cluster, drills.cluster)
        expirer = expirer_of(dataplane.opened)
        pod_network = PodNetworkView(config, dataplane.opened, dataplane.devices, programs, expirer)
        devices = dataplane.devices
        ways = NodeNetwork(config, self._mesh, devices) if config.has_pod_network else None
        cni = CniPlugin(config, self._mesh, programs, dataplane, ways) if config.cni.is_used else None
        attempts = Attempts(self._mesh, dataplane.layouts, dataplane.opened.loaded.maps["attempts"])
        probes = NodeProbes(config, self._mesh, attempts, history.saw) if self._probes_nodes() else None
        node = None
        if cni is not None and self._identity is not None:
            node = KubernetesNode(config, self._mesh, cni, self._identity, self._readiness)
        introspection = Introspection(
            build=build(self._started_s),
            features=view.features,
            programs=view.programs,
            maps=view.maps,
            dump=view.dump,
            figures=lambda: [
                *view.figures(),
                *pod_network.figures(),
                *short_circuits.figures(),
                *failover.figures(),
                *failover_figures(history),
                *node_figures(self._mesh, nodes),
                *(probe_figures(probes) if probes is not None else ()),
                *certificate_figures(config),
                *source_figures(kubernetes),
                *(node.figures() if node is not None else ()),
            ],
            peers=lambda: peers(remotes.status),
            confirm_removals=lambda cluster: confirm_removals(remotes, cluster),
            relearn_pin=remotes.relearn,
            reconcile=view.reconcile,
            backends_in_use=view.backends_in_use,
            short_circuit=short_circuits,
            failover_plans=failover.plans,
            failovers=lambda: history.failovers,
            drills=drills,
            drops=pod_network.drops,
            routing=lambda node: routing(ways, probes, node),
            problems=lambda: [
                *problems(manifests, remotes, local_etcd),
                *removal_problems(remotes.status),
                *source_problems(kubernetes),
                *nodes.problems(),
                *(ways.problems() if ways is not None else ()),
                *pod_network.problems(),
                *(probes.problems() if probes is not None else ()),
                *short_circuits.problems(),
                *failover.problems(),
                *(node.problems() if node is not None else ()),
            ],
        )
        connections = dataplane.opened.loaded.maps["connections"]
        parts: list[Component | None] = [
            dataplane,
            FailoverRecord(self._mesh, history, config.state_dir, dataplane.layouts, connections),
            snapshots,
            ControlServer(config, self._mesh, changes, introspection),
            remotes,
            manifests,
            kubernetes,
            local_etcd,
            self._gone_nodes(),
            programs,
            expirer,
            short_circuit or LeftOver(config),
            short_circuits.old_rows,
            ways,
            OwnNode(config, self._mesh, devices) if ways is not None else None,
            probes,
            # Where programs are put on devices, the part that does so looks at them.
            DeviceWatch(config, self._mesh, devices) if ways is not None and programs is None else None,
            cni,
            node,
            self._metrics(introspection),
        ]
        async with asyncio.TaskGroup() as tasks:
            for part in parts:
                if part is not None:
                    tasks.create_task(part.run())
            tasks.create_task(self._freeze_when_settled())

    def _manifests(self) -> Manifests | None:
        config = self._config
        if config.manifests is None:
            return None
        return Manifests(self._mesh, config.manifests, config.cluster_name, config.node_name)

    def _metrics(self, introspection: Introspection) -> Component | None:
        if not self._config.metrics.listen:
            return None
        from meshd.servers.metrics import MetricsServer  # noqa: PLC0415 - aiohttp is a heavy import

        return MetricsServer(self._config.metrics.listen, self._mesh, introspection)

    def _local_etcd(
        self, nodes: NodeRegistry, switch: ClusterSwitch | None, drill: ClusterDrill | None
    ) -> LocalEtcd | None:
        config = self._config
        if config.clustermesh.etcd is None:
            return None
        return LocalEtcd(
            self._mesh,
            config.clustermesh.etcd,
            config.cluster_name,
            config.cluster_id,
            config.node_name,
            nodes=nodes,
            switch=switch,
            drill=drill,
            publish=config.clustermesh.publish,
            max_connected_clusters=config.clustermesh.max_connected_clusters,
            export_mode=config.clustermesh.endpoint_slices_export_mode,
            options=PublisherOptions(
                election_ttl_s=config.clustermesh.election_lease_s,
                data_ttl_s=config.clustermesh.data_lease_s,
                heartbeat_s=config.clustermesh.heartbeat_s,
            ),
        )

    def _gone_nodes(self) -> GoneNodes | None:
        """Only where every node of the cluster is one of Kubernetes."""
        config = self._config
        if config.clustermesh.etcd is None or not config.kubernetes.makes_network:
            return None
        return GoneNodes(self._mesh, config.cluster_name, config.node_name)

    async def _freeze_when_settled(self) -> None:
        """The mesh is long-lived: once it stands, the collector need not walk it again and again."""
        while self._mesh.pending or not all(self._mesh.is_complete(name) for name in self._mesh.sources):
            await self._mesh.moved()
        if self._identity is None:
            self._readiness.reason = ""
        gc.collect()
        gc.freeze()


def routing(ways: NodeNetwork | None, probes: NodeProbes | None, node: Node) -> Routing:
    """How the pods of ``node`` are reached, and whether it answers, as callers are shown it."""
    reached = ways.reached(node) if ways is not None else None
    answering = probes.answering_of(node) if probes is not None else None
    made = Routing(reached.via.value, reached.reason) if reached is not None else Routing()
    if answering is None:
        return made
    word = answering.reachability.value
    return made._replace(reachability=word, rtt_s=answering.rtt_s, loss=answering.loss)


def tune_collector() -> None:
    """Fewer collections: a full one of a large mesh takes longer than a removal may."""
    gc.set_threshold(50_000, 20, 50)
