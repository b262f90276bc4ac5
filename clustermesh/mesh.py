"""All peers of a cluster: one Remote per file of the configuration directory.

For as long as the file is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import structlog

from clustermesh.addresses import Network
from clustermesh.errors import OptionsError
from clustermesh.keys import cluster_name_problem
from clustermesh.known import Known
from clustermesh.learned_pin import ForbidsNetwork, named_by, no_network
from clustermesh.learner import LEARN_S, LearnedPins, Learner
from clustermesh.node_reader import NodeSink
from clustermesh.peer_directory import ClaimedIds, PeerDirectory
from clustermesh.peers import Peer
from clustermesh.pin import REACHED_BY, Forbids, nothing
from clustermesh.remote import Remote, RemoteOptions, RemoteStatus
from clustermesh.sink import KeptService, Sink

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """In seconds. ``scan_s``: how often the directory is read. ``learn_s``: for so long after its first list with nodes a
    peer that nobody pinned may name more networks."""

    scan_s: float = 1.0
    learn_s: float = LEARN_S
    remote: RemoteOptions = field(default_factory=RemoteOptions)


@dataclass(frozen=True, slots=True)
class MeshStatus:
    """Peers by name order; ``directory_error`` "" while the directory can be read; refused files by name."""

    peers: tuple[RemoteStatus, ...]
    directory_error: str
    refused_files: Mapping[str, str]


class ClusterMesh:
    """Connects cluster ``own_name`` to every peer that ``directory`` names; tells ``sink`` what they share.

    ``nodes`` is told of their nodes; None: these are not read. ``restored(cluster)`` is what is in force of it when it comes
    up, from an earlier process; ``nodes_answer(cluster)`` whether the data path reaches its nodes, true where nobody knows.
    ``forbids``: where none may have backends, ``forbids_network``: which networks none may have; judge_again() when that is
    more than before. ``pins``: where it is kept what was learned of peers that nobody pinned; None: nothing is learned.
    """

    def __init__(
        self,
        directory: Path,
        own_name: str,
        own_id: int,
        sink: Sink,
        *,
        options: MeshOptions | None = None,
        nodes: NodeSink | None = None,
        restored: Callable[[str], Known] = lambda _: Known(),
        nodes_answer: Callable[[str], bool] = lambda _: True,
        forbids: Forbids = nothing,
        forbids_network: ForbidsNetwork = no_network,
        pins: LearnedPins | None = None,
    ) -> None:
        if (problem := cluster_name_problem(own_name)) is not None:
            raise OptionsError(f"cluster name {own_name!r} {problem}")
        self._directory = PeerDirectory(directory, own_name)
        self._own_id = own_id
        self._sink = sink
        self._nodes = nodes
        self._restored = restored
        self._nodes_answer = nodes_answer
        self._forbids = forbids
        self._forbids_network = forbids_network
        self._pins = pins
        self._read_anew: set[str] = set()
        self._options = options or MeshOptions()
        self._remotes: dict[str, Remote] = {}
        self._tasks: dict[str, asyncio.Task[NoReturn]] = {}
        self._ids = ClaimedIds()
        self._told: frozenset[str] | None = None

    @property
    def status(self) -> MeshStatus:
        """All peers as they are now."""
        return MeshStatus(
            tuple(remote.status for _, remote in sorted(self._remotes.items())),
            self._directory.error,
            {name: error.reason for name, error in self._directory.refused.items()},
        )

    def confirm(self, cluster: str) -> Mapping[str, KeptService] | None:
        """All that stood although ``cluster`` does not name it is gone now; what that was. None: there is no such peer."""
        remote = self._remotes.get(cluster)
        return None if remote is None else remote.confirm()

    def relearn(self, cluster: str) -> bool | None:
        """What was learned of ``cluster`` is forgotten, its next list is its pin; whether something was. None: there is no
        such peer.

        Raises:
            OSError: it could not be forgotten, and holds.
        """
        if cluster not in self._remotes:
            return None
        was_learned = self._pins is not None and self._pins.forget(cluster)
        if was_learned or self._remotes[cluster].status.pin_origin == "learned":
            log.info("learned pin forgotten", cluster=cluster)
            self._read_anew.add(cluster)
        return cluster in self._read_anew

    def judge_again(self) -> None:
        """What is forbidden is more than before."""
        for remote in self._remotes.values():
            remote.judge_again()

    async def run(self) -> NoReturn:
        """Follow the directory and all its peers until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._refresh(group)
                await asyncio.sleep(self._options.scan_s)

    async def _refresh(self, group: asyncio.TaskGroup) -> None:
        peers = self._directory.look({name: remote.peer for name, remote in self._remotes.items()})
        if peers is not None:
            await self._apply(group, peers)

    async def _apply(self, group: asyncio.TaskGroup, peers: Mapping[str, Peer]) -> None:
        for name in self._remotes.keys() - peers.keys():
            await self._stop(name)
            del self._remotes[name]
            self._ids.release(name)
            log.info("peer removed", cluster=name)
            self._sink.gone(name)
        # A file that cannot be used names its cluster all the same.
        named = frozenset(peers) | self._directory.refused.keys()
        if self._told != named:
            self._told = named
            self._sink.peers(named)
        for name, peer in peers.items():
            known = self._remotes.get(name)
            if known is None or known.peer != peer or name in self._read_anew:
                await self._start(group, peer, known)

    async def _start(self, group: asyncio.TaskGroup, peer: Peer, known: Remote | None) -> None:
        """Follow ``peer``; what ``known``, its former configuration, had read stays until it has listed."""
        if known is not None:
            await self._stop(peer.name)
            known.trouble("session", "its configuration changed; connecting anew")
        log.info("peer configured", cluster=peer.name, endpoints=[end.target for end in peer.endpoints])
        remote = Remote(
            peer,
            self._own_id,
            self._sink,
            lambda cluster_id: self._ids.claim(peer.name, cluster_id),
            options=self._options.remote,
            known=known.known if known is not None else self._restored(peer.name),
            nodes=self._nodes,
            nodes_answer=lambda: self._nodes_answer(peer.name),
            forbids=self._forbids,
            learner=Learner(
                peer.name,
                peer.pin,
                self._pins,
                forbids=self._forbids_network,
                elsewhere=lambda: self._elsewhere(peer.name),
                stated_elsewhere=lambda: self._stated_elsewhere(peer.name),
                learn_s=self._options.learn_s,
            ),
        )
        self._read_anew.discard(peer.name)
        self._remotes[peer.name] = remote
        self._tasks[peer.name] = group.create_task(remote.run())

    async def _stop(self, name: str) -> None:
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.wait([task])

    def _stated_elsewhere(self, name: str) -> Sequence[Network]:
        """What others than ``name`` were joined with."""
        others = (remote for other, remote in self._remotes.items() if other != name)
        return [network for remote in others for network in remote.peer.pin.networks]

    def _elsewhere(self, name: str) -> Iterator[Network]:
        """The same, and what their nodes have."""
        yield from self._stated_elsewhere(name)
        for other, remote in self._remotes.items():
            if other != name:
                for node in remote.known.nodes.nodes.records.values():
                    # Routers' addresses may be the same in every cluster.
                    yield from named_by(node, REACHED_BY - {"CiliumInternalIP"})
