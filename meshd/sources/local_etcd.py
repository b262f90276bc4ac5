"""This cluster's own etcd: the agent's part in the election of the publisher, and what the node says of itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NoReturn

import structlog

from clustermesh.errors import PeerFileError, StoreReplaced
from clustermesh.kv import Kv
from clustermesh.node_reader import NodeCopies, NodeReader
from clustermesh.own_keys import OwnKeys
from clustermesh.peers import Peer, parse_file
from clustermesh.presence import Presence
from clustermesh.publisher import Publisher, PublisherOptions, PublisherStatus
from clustermesh.records import ClusterConfig
from clustermesh.together import until_failure
from meshd.model import NodeState
from meshd.model.cluster import ETCD
from meshd.sources.cluster_drill import ClusterDrill
from meshd.sources.cluster_switch import ClusterSwitch
from meshd.sources.node_registry import NodeRegistry
from meshd.sources.own_publication import OwnPublication
from meshd.sources.publish import Publishing
from meshd.state import Mesh

RETRY_S = 1.0
RETRY_FIRST_S, RETRY_LAST_S = 0.2, 5.0

log = structlog.get_logger(__name__)


class LocalEtcd:
    """What ``node`` of ``cluster`` writes into the etcd that the client file ``etcd`` describes.

    ``nodes`` is told of the other nodes; None: these are not read. ``switch`` and ``drill``: of the whole cluster.
    ``publish``: stand for election as the cluster's publisher, too. ``max_connected_clusters`` (255 or 511) must be the
    same in all clusters of a mesh. ``export_mode``: as what services are written (clustermesh.records.EXPORT_MODES).
    """

    def __init__(
        self,
        mesh: Mesh,
        etcd: Path,
        cluster: str,
        cluster_id: int,
        node: str,
        *,
        nodes: NodeRegistry | None = None,
        switch: ClusterSwitch | None = None,
        drill: ClusterDrill | None = None,
        publish: bool = True,
        max_connected_clusters: int = 255,
        export_mode: str = "",
        options: PublisherOptions | None = None,
    ) -> None:
        self._mesh = mesh
        self._etcd = etcd
        self._cluster = cluster
        self._cluster_id = cluster_id
        self._node = node
        self._nodes = nodes
        self._switch = switch
        self._drill = drill
        self._troubles: dict[str, str] = {}
        self._publish = publish
        self._max_connected_clusters = max_connected_clusters
        self._export_mode = export_mode
        self._options = options or PublisherOptions()
        self._publisher: Publisher | None = None
        self._presence = Presence(cluster, node, self._options.election_ttl_s)
        self.last_error = ""

    def absent_agents(self) -> list[str]:
        """Nodes of this cluster whose agents are not there, by name; empty also while that is not known.

        One that publishes no health address may be of a build that does not say whether it is there.
        """
        present = self._presence.present
        if present is None:
            return []
        nodes = (node for node in self._mesh.nodes.values() if node.source == ETCD and node.health)
        return sorted(
            node.name for node in nodes if node.state is NodeState.FRESH and node.name not in present
        )

    @property
    def publisher(self) -> PublisherStatus:
        """Our part in publishing; ``stopped`` where we take none."""
        return self._publisher.status if self._publisher is not None else PublisherStatus()

    async def run(self) -> None:
        """Register the node, publish when elected, until cancelled; what was written then stands until its lease ends."""
        peer = await self._read_file()
        async with (
            Kv(peer.endpoints, credentials=peer.credentials, tls=peer.tls) as kv,
            asyncio.TaskGroup() as tasks,
        ):
            own = OwnKeys(kv, ttl_s=self._options.data_ttl_s, audit_s=self._options.audit_s)
            publication = OwnPublication(
                self._mesh,
                kv,
                own,
                self._cluster,
                self._cluster_id,
                self._node,
                max_connected_clusters=self._max_connected_clusters,
                audit_s=self._options.audit_s,
            )
            tasks.create_task(publication.run())
            tasks.create_task(own.run())
            if self._nodes is not None:
                tasks.create_task(self._follow_nodes(kv, self._nodes))
                tasks.create_task(self._presence.run(kv))
            if self._switch is not None:
                tasks.create_task(self._switch.follow(kv, own))
            if self._drill is not None:
                tasks.create_task(self._drill.follow(kv, own))
            if self._publish:
                config = ClusterConfig(
                    self._cluster_id,
                    max_connected_clusters=self._max_connected_clusters,
                    endpoint_slices_export_mode=self._export_mode,
                )
                self._publisher = Publisher(kv, self._cluster, config, node=self._node, options=self._options)
                tasks.create_task(self._publisher.run())
                publishing = Publishing(self._mesh, self._publisher, self._cluster, self._cluster_id)
                tasks.create_task(publishing.run())

    async def _read_file(self) -> Peer:
        while True:
            try:
                return parse_file(str(self._etcd), self._cluster, self._etcd.read_bytes())
            except (OSError, PeerFileError) as error:
                reason = error.strerror if isinstance(error, OSError) else error.reason
                if self.last_error != reason:
                    log.error(
                        "nothing is published: client file unusable", file=str(self._etcd), reason=reason
                    )
                self.last_error = reason or "cannot be read"
            await asyncio.sleep(RETRY_S)

    async def _follow_nodes(self, kv: Kv, nodes: NodeRegistry) -> NoReturn:
        """Nodes and addresses of this cluster. No canary is waited for: that a record is not there yet takes nobody away."""
        copies, pause_s = NodeCopies(), RETRY_FIRST_S
        self._mesh.listing(ETCD)
        while True:
            reader = NodeReader(
                kv,
                self._cluster,
                self._cluster_id,
                sink=nodes,
                copies=copies,
                max_connected_clusters=self._max_connected_clusters,
                canaries=False,
                identities=False,
                trouble=self._trouble,
                settle=self._settle,
            )
            failure = await until_failure(reader.run())
            if isinstance(failure, StoreReplaced):
                kv.unpin()
            pause_s = RETRY_FIRST_S if reader.listed.is_set() else min(2 * pause_s, RETRY_LAST_S)
            self._trouble("nodes", str(failure))
            log.warning("nodes of this cluster not read", reason=str(failure), retry_s=pause_s)
            await asyncio.sleep(pause_s)

    def _trouble(self, kind: str, reason: str) -> None:
        self._troubles[kind] = reason
        self._mesh.mark_stale(ETCD, reason)

    def _settle(self, kind: str) -> None:
        self._troubles.pop(kind, None)
        # Addresses are listed after nodes: with the first list of them everything is there.
        if not self._troubles and (kind == "addresses" or self._mesh.is_complete(ETCD)):
            self._mesh.mark_complete(ETCD)
