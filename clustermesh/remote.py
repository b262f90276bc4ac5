"""One peer cluster: connecting, synced, stale, and what it shares in each of these states.

Data of an unreachable or suspicious peer is kept, marked stale, for as long as it takes: only the peer itself (a deletion
seen on its watch, a complete list without the record) or its removal from the configuration takes a service away, and the
peer only while its word counts (evidence.py) and it does not take most of what it has at once (removals.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import structlog

from clustermesh import keys
from clustermesh.call import KvOptions
from clustermesh.endpoint_slice import EndpointSlice, decode_slice
from clustermesh.errors import ClustermeshError, InvalidRecord, KvError, PeerRefused
from clustermesh.evidence import HEARTBEAT_LIMIT_S, Evidence
from clustermesh.judge import Judge
from clustermesh.known import Known
from clustermesh.kv import Kv
from clustermesh.learner import Learner, PinOrigin
from clustermesh.node_reader import NodeReader, NodeSink
from clustermesh.node_record import Node
from clustermesh.operations import KeyValue
from clustermesh.peers import Peer
from clustermesh.pin import ANY, Forbids, Pin, check_backends, nothing
from clustermesh.records import (
    EXPORT_MODES,
    SERVICES,
    ClusterConfig,
    ClusterService,
    decode_config,
    decode_service,
)
from clustermesh.reflector import Reflector, counts
from clustermesh.removals import HOLD_S, Word
from clustermesh.single_key import changes, until_present
from clustermesh.sink import KeptService, Sink
from clustermesh.slice_merge import SliceMerge
from clustermesh.together import until_failure

log = structlog.get_logger()


HOLDS_LOOKED_AT_S = 0.5
"""How often it is looked whether a hold is over."""


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """Times in seconds.

    ``max_connected_clusters`` must be the same in all clusters of a mesh (255 or 511). ``heartbeat_limit_s``: an older
    heartbeat makes a peer stale, and its removals not count. ``hold_s``: for so long removals are held that take more than
    half of a peer's backends.
    """

    heartbeat_limit_s: float = HEARTBEAT_LIMIT_S
    hold_s: float = HOLD_S
    retry_first_s: float = 0.2
    retry_last_s: float = 5.0
    max_connected_clusters: int = 255
    kv: KvOptions = field(default_factory=KvOptions)


State = Literal["connecting", "synced", "stale"]


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """One peer. ``since``: Unix seconds of the last change of state.

    ``lag_s``: for how long changes may have been missed, 0 while synced. ``refused``: name -> reason of the
    records that cannot be used now (at most 100); ``refusals``: field at fault -> how often.
    ``heartbeat_age_s`` None: none came yet. ``kept``: services that stand although the peer does not name them.
    ``pin``: what the peer may be and name.
    """

    cluster: str
    state: State
    since: float
    reason: str
    cluster_id: int
    services: int
    kept: Mapping[str, KeptService]
    nodes: int
    addresses: int
    identities: int
    lag_s: float
    refused: Mapping[str, str]
    refusals: Mapping[str, int]
    heartbeat_age_s: float | None
    etcd_cluster_id: int | None
    failures: int
    last_failure: str
    config: ClusterConfig | None
    pin: Pin = ANY
    pin_origin: PinOrigin = "none yet"


class Remote:
    """Follows ``peer`` and tells ``sink`` of its services and ``nodes`` of its nodes and their workloads' addresses.

    ``claim(cluster id)`` returns the other peer that has this id, if any. ``nodes`` None: only services are read.
    ``nodes_answer``: whether the data path reaches the peer's nodes; true where nobody knows.
    ``forbids(address)`` says why no backend may be there, whatever the pin says; "": one may.
    ``learner``: what it is held to; None: to what its file states, and nothing is learned.
    """

    def __init__(
        self,
        peer: Peer,
        own_id: int,
        sink: Sink,
        claim: Callable[[int], str | None],
        *,
        options: RemoteOptions | None = None,
        known: Known | None = None,
        nodes: NodeSink | None = None,
        nodes_answer: Callable[[], bool] = lambda: True,
        forbids: Forbids = nothing,
        learner: Learner | None = None,
    ) -> None:
        self.peer = peer
        self._learner = learner or Learner(peer.name, peer.pin)
        self._options = options or RemoteOptions()
        self._forbids = forbids
        self.known = known or Known()
        self.known.removals.hold_s = self._options.hold_s
        # The last good version of a record stays in force, unless it is said now that it never was good.
        self.known.forget(self._learner.pin, forbids)
        self._nodes = nodes
        self._nodes_answer = nodes_answer
        self._own_id = own_id
        self._sink = sink
        self._claim = claim
        self._troubles: dict[str, str] = {"session": "not connected yet"}
        self._since = time.time()
        self._out_of_sync_at: float | None = time.monotonic()
        self._evidence = Evidence(self._options.heartbeat_limit_s, self._judge_again)
        self._lists_again: Sequence[Callable[[], None]] = ()
        self._etcd_cluster_id: int | None = None
        self._config: ClusterConfig | None = None
        self._failures = 0
        self._last_failure = ""

    def judge_again(self) -> None:
        """What is allowed is less than before: what else is in force is forgotten, and everything listed again."""
        before = list(self.known.removals.in_force)
        if not self.known.forget(self._learner.pin, self._forbids):
            return
        gone = [name for name in before if name not in self.known.removals.in_force]
        log.warning("services with backends that are forbidden now", cluster=self.peer.name, services=gone)
        # At once, also where the peer is out of reach.
        self._tell_gone(gone)
        self._judge_again()

    @property
    def status(self) -> RemoteStatus:
        """As it is now."""
        now = time.monotonic()
        return RemoteStatus(
            cluster=self.peer.name,
            state=self._state(),
            since=self._since,
            reason="; ".join(self._troubles.values()),
            cluster_id=self._config.cluster_id if self._config else 0,
            services=len(self.known.removals.in_force),
            kept=dict(self.known.removals.kept),
            nodes=len(self.known.nodes.nodes.records),
            addresses=len(self.known.nodes.addresses.records),
            identities=len(self.known.nodes.identities.records),
            lag_s=0.0 if self._out_of_sync_at is None else now - self._out_of_sync_at,
            refused=self.known.refused,
            refusals=counts(self.known.refusals),
            heartbeat_age_s=self._evidence.heartbeat_age_s,
            etcd_cluster_id=self._etcd_cluster_id,
            failures=self._failures,
            last_failure=self._last_failure,
            config=self._config,
            pin=self._learner.pin,
            pin_origin=self._learner.origin,
        )

    def confirm(self) -> Mapping[str, KeptService]:
        """All that stood although the peer does not name it is gone now; what that was, by name."""
        gone = self.known.removals.confirm()
        log.info("removals confirmed", cluster=self.peer.name, services=len(gone))
        self._tell_gone(gone)
        return gone

    async def run(self) -> NoReturn:
        """Connect, follow, and connect again until cancelled."""
        pause_s = self._options.retry_first_s
        while True:
            started = time.monotonic()
            try:
                async with Kv(
                    self.peer.endpoints,
                    credentials=self.peer.credentials,
                    tls=self.peer.tls,
                    options=self._options.kv,
                ) as kv:
                    failure: ClustermeshError = await self._session(kv)
            except (KvError, PeerRefused, InvalidRecord) as error:
                failure = error
            self._failures += 1
            self._last_failure = str(failure)
            self.trouble("session", str(failure))
            if time.monotonic() - started > self._options.retry_last_s:
                pause_s = self._options.retry_first_s
            log.warning("peer interrupted", cluster=self.peer.name, reason=str(failure), retry_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, self._options.retry_last_s)

    async def _session(self, kv: Kv) -> ClustermeshError:
        """One connection, pinned to one etcd; why it ended."""
        item, revision = await self._await_config(kv)
        config = decode_config(item.key, item.value or b"")
        self._learner.load()
        if self._learner.problem:
            raise PeerRefused(self.peer.name, self._learner.problem)
        self._check(config)
        self._config, self._etcd_cluster_id = config, kv.cluster_id
        self._evidence.config_seen(present=True)
        self.settle("config")
        beat_revision = await self._evidence.find_heartbeat(kv)
        return await until_failure(
            *self._readers(kv, config, self._services_reader(kv, config)),
            self._watch_config(kv, revision, config),
            self._evidence.watch_heartbeat(kv, beat_revision),
            self._evidence.miss_heartbeat(self.trouble, self.settle),
            self._end_holds(),
        )

    def _services_reader(
        self, kv: Kv, config: ClusterConfig
    ) -> Reflector[ClusterService] | Reflector[EndpointSlice]:
        """Reads services in one form.

        Where a cluster writes both, endpoint slices: they say who is on the way out whoever wrote them, and have room for
        services that no single value has.
        """
        name, known = self.peer.name, self.known
        outlet = Judge(
            known.removals,
            _ToSink(self, self._sink),
            lambda: self._evidence.word,
            self._nodes_answer,
            cluster=name,
            kind="services",
        )
        cached, cluster_id = config.cached, config.cluster_id

        def service(key: str, full_name: str, value: bytes) -> ClusterService:
            read = decode_service(key, value, cluster=name, name=full_name, cluster_id=cluster_id)
            check_backends(key, "backends", read.backends, self._forbids)
            return self._learner.pin.service(key, read)

        def endpoint_slice(key: str, full_name: str, value: bytes) -> EndpointSlice:
            read = decode_slice(key, value, cluster=name, name=full_name, cluster_id=cluster_id)
            check_backends(key, "endpoints", read.backends, self._forbids)
            return self._learner.pin.endpoint_slice(key, read)

        def canary(resource: str) -> str | None:
            return keys.canary(name, resource, cached=cached) if config.synced_canaries else None

        if config.endpoint_slices_export_mode == SERVICES:
            known.slices.forget_refused()
            prefix = keys.services_prefix(name, cached=cached)
            return Reflector(
                kv, prefix, canary("services"), decode=service, copy=known.services, outlet=outlet
            )
        known.services.refused.clear()
        slices, prefix = known.slices.slices, keys.slices_prefix(name, cached=cached)
        merge = SliceMerge(known.slices, known.services, outlet)
        return Reflector(
            kv, prefix, canary("endpointslices"), decode=endpoint_slice, copy=slices, outlet=merge
        )

    def _readers(
        self,
        kv: Kv,
        config: ClusterConfig,
        services: Reflector[ClusterService] | Reflector[EndpointSlice],
    ) -> Sequence[Coroutine[Any, Any, NoReturn]]:
        """Nodes, identities, addresses, then services: a backend is told only when the way to it was, and who it is."""
        self._lists_again = (services.list_again,)

        async def learn(nodes: Sequence[Node]) -> None:
            if await self._learner.learn(config.cluster_id, nodes):
                self.judge_again()
                # What was refused may be allowed now.
                self._judge_again()

        if self._nodes is None:
            return (services.run(),)
        reader = NodeReader(
            kv,
            self.peer.name,
            config.cluster_id,
            sink=self._nodes,
            copies=self.known.nodes,
            max_connected_clusters=config.max_connected_clusters,
            cached=config.cached,
            canaries=config.synced_canaries,
            pin=lambda: self._learner.pin,
            learn=learn,
            teaches=self._learner.would_learn,
            word=lambda: self._evidence.word,
            trouble=self.trouble,
            settle=self.settle,
        )
        self._lists_again = (services.list_again, reader.list_again)

        async def when_listed() -> NoReturn:
            await reader.listed.wait()
            await services.run()

        return (reader.run(), when_listed())

    async def _await_config(self, kv: Kv) -> tuple[KeyValue, int]:
        key = keys.cluster_config(self.peer.name)
        while True:
            found = await kv.find(key)
            if found.items:
                return found.items[0], found.revision
            self._etcd_cluster_id = kv.cluster_id
            self.trouble("session", f"waiting for {key}")
            await until_present(kv, key, found.revision)

    def _check(self, config: ClusterConfig) -> None:
        """PeerRefused unless the two clusters can be in one mesh."""
        name, limit = self.peer.name, self._options.max_connected_clusters
        if not 0 < config.cluster_id <= limit:
            raise PeerRefused(name, f"its cluster id {config.cluster_id} is not within 1..{limit}")
        if config.cluster_id == self._own_id:
            raise PeerRefused(name, f"it has our own cluster id {config.cluster_id}")
        if config.max_connected_clusters != limit:
            raise PeerRefused(
                name, f"it allows {config.max_connected_clusters} connected clusters, we {limit}"
            )
        if config.endpoint_slices_export_mode not in EXPORT_MODES:
            reason = f"its export mode {config.endpoint_slices_export_mode!r} is not one that can be read"
            raise PeerRefused(name, reason)
        if (problem := self._learner.pin.config_problem(config.cluster_id)) is not None:
            raise PeerRefused(name, problem)
        if (other := self._claim(config.cluster_id)) is not None:
            raise PeerRefused(name, f"its cluster id {config.cluster_id} is that of {other}")

    async def _watch_config(self, kv: Kv, revision: int, config: ClusterConfig) -> None:
        key = keys.cluster_config(self.peer.name)
        async with aclosing(changes(kv, key, revision)) as told:
            async for value, changed_at in told:
                if value is not None and decode_config(key, value) != config:
                    raise PeerRefused(self.peer.name, "its cluster-config changed; connecting anew")
                self._evidence.config_seen(present=value is not None)
                if value is not None:
                    self.settle("config")
                elif await self._evidence.is_outlived(kv, key, changed_at):
                    self.trouble("config", "it leaves: its cluster-config was deleted")
                else:
                    self.trouble("config", "its cluster-config is gone")

    async def _end_holds(self) -> NoReturn:
        """Only while the peer is heard: what it put again would not be known else."""
        while True:
            await asyncio.sleep(HOLDS_LOOKED_AT_S)
            if self._evidence.word is not Word.UNSURE and self._troubles.keys() <= {"config"}:
                gone = self.known.removals.over(time.time())
                if gone:
                    log.warning("hold is over, removals count", cluster=self.peer.name, services=len(gone))
                    self._tell_gone(gone)

    def _tell_gone(self, gone: Iterable[str]) -> None:
        for name in gone:
            self._sink.delete(self.peer.name, name)

    def _judge_again(self) -> None:
        """The peer's word counts again: what went stale meanwhile is really gone if a complete list lacks it."""
        for list_again in self._lists_again:
            list_again()

    def _state(self) -> State:
        if not self._troubles:
            return "synced"
        return "stale" if self.known.is_listed else "connecting"

    def trouble(self, kind: str, reason: str) -> None:
        """Something keeps us from being in sync; told to the sink once, when it is the first."""
        was_synced = not self._troubles
        self._troubles[kind] = reason
        if was_synced:
            self._since, self._out_of_sync_at = time.time(), time.monotonic()
            log.warning("peer stale", cluster=self.peer.name, reason=reason)
            self._sink.stale(self.peer.name, reason)

    def settle(self, *kinds: str) -> None:
        """These troubles are over; being in sync is told to the sink when none is left."""
        had = bool(self._troubles)
        for kind in kinds:
            self._troubles.pop(kind, None)
        if had and not self._troubles:
            self._since, self._out_of_sync_at, self.known.is_listed = time.time(), None, True
            log.info("peer synced", cluster=self.peer.name, services=len(self.known.services.records))
            self._sink.synced(self.peer.name)


class _ToSink:
    """Who the judge tells: adds the cluster's name, and keeps the state of the remote."""

    def __init__(self, remote: Remote, sink: Sink) -> None:
        self._remote = remote
        self._sink = sink
        self._name = remote.peer.name

    def replace(self, records: Mapping[str, ClusterService], kept: Mapping[str, KeptService]) -> None:
        self._sink.replace(self._name, tuple(records.values()), tuple(kept.values()))

    def put(self, name: str, record: ClusterService) -> None:
        self._sink.put(self._name, record)

    def keep(self, kept: Mapping[str, KeptService]) -> None:
        self._sink.keep(self._name, tuple(kept.values()))

    def delete(self, names: Sequence[str], revision: int) -> None:
        for name in names:
            self._sink.delete(self._name, name)

    def fresh(self) -> None:
        self._remote.settle("session", "watch")

    def stale(self, reason: str) -> None:
        self._remote.trouble("watch", reason)
