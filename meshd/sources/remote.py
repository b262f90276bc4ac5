"""Sources ``cluster:NAME``: what remote clusters share, from the clustermesh package into the Mesh.

Each service that a cluster shares is one backend slice; the service itself, with its frontends, is always a local
source's. Everything else here is about when to believe: a cluster out of reach keeps what it said, one that the
completely read directory of peers does not name has nothing to say, and until that directory was read once, whatever
the kernel or the journal knows of a cluster stands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from clustermesh.mesh import ClusterMesh, MeshOptions, MeshStatus
from clustermesh.records import ClusterService, Port
from clustermesh.remote import RemoteStatus
from meshd.model import (
    Address,
    Backend,
    BackendPort,
    BackendSlice,
    Cluster,
    ClusterState,
    Protocol,
    ServiceName,
    parse_address,
)
from meshd.model.cluster import REMOTE_PREFIX as PREFIX
from meshd.sources.node_registry import NodeRegistry
from meshd.state import Mesh, SourceState

SOURCE = "clustermesh"
"""The source of the clusters themselves; what they share is of ``cluster:NAME``."""
SLICE = "clustermesh"
# Why a peer is still connecting is told by its status only, so it is looked at this often.
REFRESH_S = 1.0

_PROTOCOLS = {protocol.name: protocol for protocol in Protocol}


def source_of(cluster: str) -> str:
    """The source under which the objects of ``cluster`` stand in the mesh."""
    return PREFIX + cluster


def slice_of(service: ClusterService) -> BackendSlice:
    """The backends of ``service``: a cluster names only those that serve, and says which of them are on their way out.

    Ports keep their names, which join them to the local service's; SCTP is not translated and left out.
    """
    return BackendSlice(
        service=ServiceName(service.namespace, service.name),
        name=SLICE,
        source=source_of(service.cluster),
        cluster=service.cluster,
        backends=tuple(
            Backend(
                address=_address(address),
                ports=tuple(_ports(ports.items())),
                ready=address not in service.terminating,
                terminating=address in service.terminating,
                zone=service.zones[address].zone if address in service.zones else "",
            )
            for address, ports in service.backends.items()
        ),
    )


class RemoteClusters:
    """The clusters of the mesh: ``cluster`` itself, and those that a file in ``peers`` (None: nothing) names.

    ``known_sources`` are the names of sources that the kernel or a journal has rows of; those of clusters count as
    listing until the directory was read completely. ``nodes`` is told of their nodes; None: these are not read.
    """

    def __init__(
        self,
        mesh: Mesh,
        peers: Path | None,
        cluster: str,
        cluster_id: int,
        known_sources: Iterable[str] = (),
        *,
        options: MeshOptions | None = None,
        nodes: NodeRegistry | None = None,
    ) -> None:
        self._mesh = mesh
        self._directory = peers
        self._nodes = nodes
        self._clusters = (
            ClusterMesh(peers, cluster, cluster_id, self, options=options, nodes=nodes)
            if peers is not None
            else None
        )
        self._own = Cluster(
            cluster, SOURCE, cluster_id, local=True, state=ClusterState.SYNCED, since_s=time.time()
        )
        self._unclaimed = {source for source in known_sources if source.startswith(PREFIX)}
        self._named: frozenset[str] | None = None
        mesh.listing(SOURCE)
        mesh.apply(SOURCE, [self._own])
        for source in self._unclaimed:
            mesh.listing(source)

    @property
    def status(self) -> MeshStatus:
        """Every peer in detail."""
        return self._clusters.status if self._clusters is not None else MeshStatus((), "", {})

    async def run(self) -> None:
        """Follow all peers until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._clusters is None:
                self.peers(frozenset())
            else:
                tasks.create_task(self._clusters.run())
            while True:
                await asyncio.sleep(REFRESH_S)
                self._refresh()
                if self._nodes is not None:
                    self._nodes.retry()

    # What the clustermesh package tells (its Sink)

    def peers(self, clusters: frozenset[str]) -> None:
        """The directory was read completely and names ``clusters``."""
        for source in self._unclaimed - {source_of(cluster) for cluster in clusters}:
            self._mesh.forget(source)
        self._unclaimed = {source_of(cluster) for cluster in clusters}
        for source in self._unclaimed:
            self._mesh.listing(source)
        self._named = clusters
        self._refresh()

    def replace(self, cluster: str, services: Sequence[ClusterService]) -> None:
        """All that ``cluster`` shares. Its nodes are told apart, and before."""
        source = source_of(cluster)
        was = self._mesh.sources.get(source)
        nodes = [node for node in self._mesh.nodes.values() if node.source == source]
        self._mesh.replace(source, [*nodes, *(slice_of(service) for service in services)])
        if was is not None and was.state is SourceState.STALE:
            self._mesh.mark_stale(source, was.reason)  # until the cluster is said to be in sync

    def put(self, cluster: str, service: ClusterService) -> None:
        """One service is new or changed."""
        self._mesh.apply(source_of(cluster), [slice_of(service)])

    def delete(self, cluster: str, name: str) -> None:
        """``cluster`` does not share ``name`` (namespace/name) any more."""
        source = source_of(cluster)
        service = ServiceName(*name.split("/", 1))
        self._mesh.apply(source, deletes=[(BackendSlice, (source, service, SLICE))])

    def synced(self, cluster: str) -> None:
        """What was told is all there is."""
        self._mesh.mark_complete(source_of(cluster))
        self._refresh()

    def stale(self, cluster: str, reason: str) -> None:
        """Out of reach; what it said stands."""
        self._mesh.mark_stale(source_of(cluster), reason)
        self._refresh()

    def gone(self, cluster: str) -> None:
        """No file names it any more."""
        self._mesh.forget(source_of(cluster))
        self._unclaimed.discard(source_of(cluster))

    # The clusters themselves

    def _refresh(self) -> None:
        """Make the rows of the clusters what is known of them now."""
        if self._named is not None:
            rows = {row.name: row for row in (*self._peer_rows(self._named), self._own)}
            absent = [
                (Cluster, key)
                for key, row in self._mesh.clusters.items()
                if row.source == SOURCE and row.name not in rows
            ]
            self._mesh.apply(SOURCE, rows.values(), absent)
        self._say_whether_the_directory_is_read()

    def _say_whether_the_directory_is_read(self) -> None:
        error = self.status.directory_error
        state = self._mesh.sources[SOURCE].state
        if error:
            self._mesh.mark_stale(SOURCE, f"{self._directory}: {error}")
        elif self._named is not None and state is not SourceState.COMPLETE:
            self._mesh.mark_complete(SOURCE)

    def _peer_rows(self, named: Iterable[str]) -> Iterator[Cluster]:
        status = self.status
        known = {peer.cluster: peer for peer in status.peers}
        for name in named:
            if name in known:
                yield _row(known[name])
            else:
                reason = status.refused_files.get(name, "")
                before = self._mesh.clusters.get((SOURCE, name))
                since_s = before.since_s if before is not None else time.time()
                yield Cluster(name, SOURCE, since_s=since_s, reason=reason)


def _row(peer: RemoteStatus) -> Cluster:
    return Cluster(
        peer.cluster,
        SOURCE,
        peer.cluster_id,
        state=ClusterState(peer.state),
        since_s=peer.since,
        reason=peer.reason,
    )


def _address(address: IPv4Address | IPv6Address) -> Address:
    return parse_address(str(address))


def _ports(named: Iterable[tuple[str, Port]]) -> Iterator[BackendPort]:
    for name, port in named:
        if port.protocol in _PROTOCOLS:
            yield BackendPort(name, _PROTOCOLS[port.protocol], port.number)
