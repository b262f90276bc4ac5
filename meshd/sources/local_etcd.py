"""This cluster's own etcd: the agent's part in the election of the publisher, and the record of its own node."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import structlog

from clustermesh.errors import PeerFileError
from clustermesh.kv import Kv
from clustermesh.node_record import Node as NodeRecord
from clustermesh.node_record import NodeAddress
from clustermesh.node_registration import NodeRegistration
from clustermesh.peers import Peer, parse_file
from clustermesh.publisher import Publisher, PublisherOptions, PublisherStatus
from clustermesh.records import ClusterConfig
from meshd.model import Node, format_address
from meshd.sources.kubernetes_objects import ZONE_LABEL
from meshd.sources.publish import Publishing
from meshd.state import Mesh
from meshd.state.mesh import PRECEDENCE

RETRY_S = 1.0

log = structlog.get_logger(__name__)


class LocalEtcd:
    """What ``node`` of ``cluster`` writes into the etcd that the client file ``etcd`` describes.

    ``publish``: stand for election as the cluster's publisher, too. ``max_connected_clusters`` (255 or 511) must be the
    same in all clusters of a mesh.
    """

    def __init__(
        self,
        mesh: Mesh,
        etcd: Path,
        cluster: str,
        cluster_id: int,
        node: str,
        *,
        publish: bool = True,
        max_connected_clusters: int = 255,
        options: PublisherOptions | None = None,
    ) -> None:
        self._mesh = mesh
        self._etcd = etcd
        self._cluster = cluster
        self._cluster_id = cluster_id
        self._node = node
        self._publish = publish
        self._max_connected_clusters = max_connected_clusters
        self._options = options or PublisherOptions()
        self._publisher: Publisher | None = None
        self.last_error = ""

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
            registration = NodeRegistration(kv, self._node_record(), ttl_s=self._options.data_ttl_s)
            tasks.create_task(registration.run())
            tasks.create_task(self._follow_node(registration))
            if self._publish:
                config = ClusterConfig(self._cluster_id, max_connected_clusters=self._max_connected_clusters)
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

    async def _follow_node(self, registration: NodeRegistration) -> None:
        while True:
            registration.update(self._node_record())
            revision = self._mesh.revision
            while self._mesh.revision == revision:
                await self._mesh.moved()

    def _node_record(self) -> NodeRecord:
        keys = [(source, self._cluster, self._node) for source in PRECEDENCE]
        known = next((node for key in keys if (node := self._mesh.nodes.get(key)) is not None), None)
        return node_record(known or Node(self._cluster, self._node, ""), self._cluster_id)


def node_record(node: Node, cluster_id: int) -> NodeRecord:
    """What the other clusters are told of ``node``; the first network of each family is its main one."""
    networks = [ipaddress.ip_network(text) for text in node.pod_cidrs]
    v4 = tuple(network for network in networks if isinstance(network, ipaddress.IPv4Network))
    v6 = tuple(network for network in networks if isinstance(network, ipaddress.IPv6Network))
    return NodeRecord(
        name=node.name,
        cluster=node.cluster,
        cluster_id=cluster_id,
        addresses=tuple(_addresses(node)),
        ipv4_network=v4[0] if v4 else None,
        ipv4_secondary_networks=v4[1:],
        ipv6_network=v6[0] if v6 else None,
        ipv6_secondary_networks=v6[1:],
        labels={ZONE_LABEL: node.zone} if node.zone else None,
    )


def _addresses(node: Node) -> Iterator[NodeAddress]:
    for address in node.addresses:
        yield NodeAddress("InternalIP", ipaddress.ip_address(format_address(address)))
