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
from pathlib import Path
from typing import NoReturn

import structlog

from clustermesh.known import Known
from clustermesh.learner import LearnedPins
from clustermesh.mesh import ClusterMesh, MeshOptions, MeshStatus
from clustermesh.records import ClusterService
from clustermesh.remote import RemoteStatus
from clustermesh.sink import KeptService
from meshd.errors import JournalError
from meshd.model import BackendSlice, Cluster, ClusterState, ServiceName
from meshd.model.cluster import REMOTE_PREFIX as PREFIX
from meshd.sources.node_registry import NodeRegistry
from meshd.sources.own_addresses import OwnAddresses
from meshd.sources.remote_slices import SLICE, kept_slice, known_of, slice_of, source_of
from meshd.state import Mesh, SourceState

log = structlog.get_logger(__name__)

SOURCE = "clustermesh"
"""The source of the clusters themselves; what they share is of ``cluster:NAME``."""
# Why a peer is still connecting is told by its status only, so it is looked at this often.
REFRESH_S = 1.0
# All that all peers share is gone through, some 0.1 s for 40,000 backends, and what is ours may change all the time.
JUDGED_APART_S = 5.0


class RemoteClusters:
    """The clusters of the mesh: ``cluster`` itself, and those that a file in ``peers`` (None: nothing) names.

    ``known_sources`` are the names of sources that the kernel or a journal has rows of; those of clusters count as
    listing until the directory was read completely. ``nodes`` is told of their nodes; None: these are not read.
    ``stale_after_s``: what nobody vouched for for so long is overdue.
    ``own``: where none of them may have backends; None: what ``mesh`` knows.
    ``learned_pins``: the directory of what peers that nobody pinned named first; None: they are not held to that.
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
        stale_after_s: float = 300.0,
        own: OwnAddresses | None = None,
        learned_pins: Path | None = None,
    ) -> None:
        self._mesh = mesh
        self._directory = peers
        self._nodes = nodes
        self._own_addresses = own or OwnAddresses(mesh, cluster)
        self._clusters = (
            ClusterMesh(
                peers,
                cluster,
                cluster_id,
                self,
                options=options,
                nodes=nodes,
                restored=self._restored,
                nodes_answer=self._do_nodes_answer,
                forbids=self._own_addresses.reason,
                forbids_network=self._own_addresses.reason_of_network,
                pins=LearnedPins(learned_pins) if learned_pins is not None else None,
            )
            if peers is not None
            else None
        )
        self._own = Cluster(
            cluster, SOURCE, cluster_id, local=True, state=ClusterState.SYNCED, since_s=time.time()
        )
        self._unclaimed = {source for source in known_sources if source.startswith(PREFIX)}
        self._named: frozenset[str] | None = None
        self._stale_after_s = stale_after_s
        # Source -> since when it has been out of reach, by the monotonic clock.
        self._stale_since: dict[str, float] = {}
        mesh.listing(SOURCE)
        mesh.apply(SOURCE, [self._own])
        for source in self._unclaimed:
            mesh.listing(source)

    @property
    def status(self) -> MeshStatus:
        """Every peer in detail."""
        return self._clusters.status if self._clusters is not None else MeshStatus((), "", {})

    def confirm(self, cluster: str) -> Sequence[KeptService] | None:
        """All that stood although ``cluster`` does not name it is gone now; what that was. None: there is no such peer."""
        gone = self._clusters.confirm(cluster) if self._clusters is not None else None
        return None if gone is None else tuple(gone.values())

    def relearn(self, cluster: str) -> bool | None:
        """What was learned of ``cluster`` is forgotten; whether something was. None: there is no such peer.

        Raises:
            JournalError: it could not be forgotten, and holds.
        """
        try:
            return self._clusters.relearn(cluster) if self._clusters is not None else None
        except OSError as error:
            raise JournalError(str(error.filename), error.strerror or "cannot be removed") from error

    async def run(self) -> None:
        """Follow all peers until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._clusters is None:
                self.peers(frozenset())
            else:
                tasks.create_task(self._clusters.run())
            tasks.create_task(self._judge())
            while True:
                await asyncio.sleep(REFRESH_S)
                self._refresh()
                self._mark_overdue()
                if self._nodes is not None:
                    self._nodes.retry()

    async def _judge(self) -> NoReturn:
        """What becomes ours is not theirs any more."""
        judged = self._own_addresses.generation
        while True:
            await asyncio.sleep(REFRESH_S)
            if self._clusters is not None and judged != self._own_addresses.generation:
                judged = self._own_addresses.generation
                self._clusters.judge_again()
                await asyncio.sleep(JUDGED_APART_S)

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

    def replace(self, cluster: str, services: Sequence[ClusterService], kept: Sequence[KeptService]) -> None:
        """All that ``cluster`` shares, and what of it stands. Its nodes are told apart, and before."""
        source = source_of(cluster)
        was = self._mesh.sources.get(source)
        nodes = [node for node in self._mesh.nodes.values() if node.source == source]
        standing = [self._kept_slice(each) for each in kept]
        self._mesh.replace(source, [*nodes, *(slice_of(service) for service in services), *standing])
        if was is not None and was.state is SourceState.STALE:
            self._mesh.mark_stale(source, was.reason)  # until the cluster is said to be in sync
            if was.overdue:
                self._mesh.mark_overdue(source)

    def put(self, cluster: str, service: ClusterService) -> None:
        """One service is new or changed."""
        self._mesh.apply(source_of(cluster), [slice_of(service)])

    def keep(self, cluster: str, kept: Sequence[KeptService]) -> None:
        """``cluster`` does not name these any more, and they stand."""
        self._mesh.apply(source_of(cluster), [self._kept_slice(each) for each in kept])

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

    # What has been stale for too long

    def _mark_overdue(self) -> None:
        """Time passes: what was stale may have been so for too long."""
        now_s = time.monotonic()
        states = {name: status for name, status in self._mesh.sources.items() if name.startswith(PREFIX)}
        out_of_reach = {name for name, status in states.items() if status.state is not SourceState.COMPLETE}
        self._stale_since = {name: self._stale_since.get(name, now_s) for name in out_of_reach}
        for name, since_s in self._stale_since.items():
            if now_s - since_s >= self._stale_after_s and not states[name].overdue:
                log.warning("source stale for too long", source=name, stale_after_s=self._stale_after_s)
                self._mesh.mark_overdue(name)
        for peer in self.status.peers:
            late = [self._kept_slice(each) for each in peer.kept.values() if self._has_grown_overdue(each)]
            self._mesh.apply(source_of(peer.cluster), late)

    def _has_grown_overdue(self, kept: KeptService) -> bool:
        service = kept.record
        key = source_of(service.cluster), ServiceName(service.namespace, service.name), SLICE
        part = self._mesh.slices.get(key)
        is_late = time.time() - kept.since_s >= self._stale_after_s
        return is_late and part is not None and not part.overdue

    def _kept_slice(self, kept: KeptService) -> BackendSlice:
        return kept_slice(kept, time.time(), self._stale_after_s)

    def _restored(self, cluster: str) -> Known:
        """What the mesh holds of ``cluster``: a journal told of it."""
        source = source_of(cluster)
        return known_of((part for part in self._mesh.slices.values() if part.source == source), time.time())

    def _do_nodes_answer(self, cluster: str) -> bool:
        """Whether one node of ``cluster`` may be there: what was never probed, or never answered, is not down."""
        source = source_of(cluster)
        nodes = [(node.cluster, node.name) for node in self._mesh.nodes.values() if node.source == source]
        down = {(outage.cluster, outage.node) for outage in self._mesh.outages.values()}
        return not nodes or any(node not in down for node in nodes)

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
