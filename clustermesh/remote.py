"""One peer cluster: connecting, synced, stale, and what it shares in each of these states.

Data of an unreachable or suspicious peer is kept, marked stale, for as long as it takes: only the peer
itself (a deletion seen on its watch, a complete list without the record) or its removal from the
configuration takes a service away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Protocol

import structlog

from clustermesh import keys
from clustermesh.call import KvOptions
from clustermesh.endpoint_slice import EndpointSlice, decode_slice
from clustermesh.errors import ClustermeshError, InvalidRecord, KvError, PeerRefused
from clustermesh.kv import Kv
from clustermesh.node_reader import NodeCopies, NodeReader, NodeSink
from clustermesh.operations import KeyValue
from clustermesh.peers import Peer
from clustermesh.records import (
    EXPORT_MODES,
    SERVICES,
    ClusterConfig,
    ClusterService,
    decode_config,
    decode_service,
)
from clustermesh.reflector import Copy, Reflector, counts
from clustermesh.single_key import until_present, values
from clustermesh.slice_merge import SliceCopies, SliceMerge
from clustermesh.together import until_failure

log = structlog.get_logger()


class Sink(Protocol):
    """Who is told what peers share. Called on the event loop; must not block."""

    def peers(self, clusters: frozenset[str]) -> None:
        """The completely read configuration names these clusters and no others."""

    def replace(self, cluster: str, services: Sequence[ClusterService]) -> None:
        """This is all that ``cluster`` shares; whatever else is known of it is to be deleted."""

    def put(self, cluster: str, service: ClusterService) -> None:
        """``service`` of ``cluster`` is new or changed."""

    def delete(self, cluster: str, name: str) -> None:
        """``cluster`` does not share ``name`` (namespace/name) any more."""

    def synced(self, cluster: str) -> None:
        """What was told of ``cluster`` is all there is, and changes arrive."""

    def stale(self, cluster: str, reason: str) -> None:
        """Changes of ``cluster`` may be missing; nothing is to be deleted for that."""

    def gone(self, cluster: str) -> None:
        """``cluster`` was removed from the configuration: it shares nothing any more."""


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """Times in seconds.

    ``max_connected_clusters`` must be the same in all clusters of a mesh (255 or 511).
    """

    heartbeat_limit_s: float = 120.0
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
    ``heartbeat_age_s`` None: none came yet.
    """

    cluster: str
    state: State
    since: float
    reason: str
    cluster_id: int
    services: int
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


class Remote:
    """Follows ``peer`` and tells ``sink`` of its services and ``nodes`` of its nodes and their workloads' addresses.

    ``claim(cluster id)`` returns the other peer that has this id, if any. ``nodes`` None: only services are read.
    """

    def __init__(
        self,
        peer: Peer,
        own_id: int,
        sink: Sink,
        claim: Callable[[int], str | None],
        *,
        options: RemoteOptions | None = None,
        copy: Copy[ClusterService] | None = None,
        nodes: NodeSink | None = None,
        node_copies: NodeCopies | None = None,
        slice_copies: SliceCopies | None = None,
    ) -> None:
        self.peer = peer
        self.copy = copy or Copy()
        self.slice_copies = slice_copies or SliceCopies()
        self.node_copies = node_copies or NodeCopies()
        self._forget_what_is_not_allowed()
        self._nodes = nodes
        self._own_id = own_id
        self._sink = sink
        self._claim = claim
        self._options = options or RemoteOptions()
        self._troubles: dict[str, str] = {"session": "not connected yet"}
        self._listed = copy is not None
        self._since = time.time()
        self._out_of_sync_at: float | None = time.monotonic()
        self._beat = asyncio.Event()
        self._beat_at: float | None = None
        self._etcd_cluster_id: int | None = None
        self._config: ClusterConfig | None = None
        self._failures = 0
        self._last_failure = ""

    def _forget_what_is_not_allowed(self) -> None:
        """The last good version of a record stays in force, unless the pin says now that it never was good."""
        nodes = self.node_copies
        copies: tuple[Copy[Any], ...] = (self.copy, self.slice_copies.slices, nodes.nodes, nodes.addresses)
        for copy in copies:
            copy.records = {
                name: record for name, record in copy.records.items() if self.peer.pin.allows(record)
            }

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
            services=len(self.copy.records),
            nodes=len(self.node_copies.nodes.records),
            addresses=len(self.node_copies.addresses.records),
            identities=len(self.node_copies.identities.records),
            lag_s=0.0 if self._out_of_sync_at is None else now - self._out_of_sync_at,
            refused={**self.copy.refused, **self.slice_copies.refused, **self.node_copies.refused},
            refusals=counts(self.copy.refusals + self.slice_copies.refusals + self.node_copies.refusals),
            heartbeat_age_s=None if self._beat_at is None else now - self._beat_at,
            etcd_cluster_id=self._etcd_cluster_id,
            failures=self._failures,
            last_failure=self._last_failure,
            config=self._config,
        )

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
        self._check(config)
        self._config, self._etcd_cluster_id = config, kv.cluster_id
        return await until_failure(
            *self._readers(kv, config, self._services_reader(kv, config)),
            self._watch_config(kv, revision, config),
            self._watch_heartbeat(kv),
            self._miss_heartbeat(),
        )

    def _services_reader(self, kv: Kv, config: ClusterConfig) -> Callable[[], Coroutine[Any, Any, NoReturn]]:
        """Reads services in one form.

        Where a cluster writes both, endpoint slices: they say who is on the way out whoever wrote them, and have room for
        services that no single value has.
        """
        name, outlet = self.peer.name, _ToSink(self, self._sink)
        cached, cluster_id, pin = config.cached, config.cluster_id, self.peer.pin

        def service(key: str, full_name: str, value: bytes) -> ClusterService:
            read = decode_service(key, value, cluster=name, name=full_name, cluster_id=cluster_id)
            return pin.service(key, read)

        def endpoint_slice(key: str, full_name: str, value: bytes) -> EndpointSlice:
            read = decode_slice(key, value, cluster=name, name=full_name, cluster_id=cluster_id)
            return pin.endpoint_slice(key, read)

        def canary(resource: str) -> str | None:
            return keys.canary(name, resource, cached=cached) if config.synced_canaries else None

        if config.endpoint_slices_export_mode == SERVICES:
            self.slice_copies.forget_refused()
            prefix = keys.services_prefix(name, cached=cached)
            return Reflector(
                kv, prefix, canary("services"), decode=service, copy=self.copy, outlet=outlet
            ).run
        self.copy.refused.clear()
        slices, prefix = self.slice_copies.slices, keys.slices_prefix(name, cached=cached)
        merge = SliceMerge(self.slice_copies, self.copy, outlet)
        return Reflector(
            kv, prefix, canary("endpointslices"), decode=endpoint_slice, copy=slices, outlet=merge
        ).run

    def _readers(
        self, kv: Kv, config: ClusterConfig, services: Callable[[], Coroutine[Any, Any, NoReturn]]
    ) -> Sequence[Coroutine[Any, Any, NoReturn]]:
        """Nodes, identities, addresses, then services: a backend is told only when the way to it was, and who it is."""
        if self._nodes is None:
            return (services(),)
        reader = NodeReader(
            kv,
            self.peer.name,
            config.cluster_id,
            sink=self._nodes,
            copies=self.node_copies,
            max_connected_clusters=config.max_connected_clusters,
            cached=config.cached,
            canaries=config.synced_canaries,
            pin=self.peer.pin,
            trouble=self.trouble,
            settle=self.settle,
        )

        async def when_listed() -> NoReturn:
            await reader.listed.wait()
            await services()

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
        if (problem := self.peer.pin.config_problem(config.cluster_id)) is not None:
            raise PeerRefused(name, problem)
        if (other := self._claim(config.cluster_id)) is not None:
            raise PeerRefused(name, f"its cluster id {config.cluster_id} is that of {other}")

    async def _watch_config(self, kv: Kv, revision: int, config: ClusterConfig) -> None:
        key = keys.cluster_config(self.peer.name)
        async with aclosing(values(kv, key, revision)) as changes:
            async for value in changes:
                # Its deletion announces nothing yet: the records have their own leases and deletions.
                if value is not None and decode_config(key, value) != config:
                    raise PeerRefused(self.peer.name, "its cluster-config changed; connecting anew")

    async def _watch_heartbeat(self, kv: Kv) -> None:
        found = await kv.find(keys.HEARTBEAT)
        async with aclosing(values(kv, keys.HEARTBEAT, found.revision)) as beats:
            async for _ in beats:
                self._beat_at = time.monotonic()
                self._beat.set()

    async def _miss_heartbeat(self) -> NoReturn:
        limit_s = self._options.heartbeat_limit_s
        while True:
            self._beat.clear()
            try:
                async with asyncio.timeout(limit_s):
                    await self._beat.wait()
                self.settle("heartbeat")
            except TimeoutError:
                self.trouble("heartbeat", f"no heartbeat for {limit_s:g} s")

    def _state(self) -> State:
        if not self._troubles:
            return "synced"
        return "stale" if self._listed else "connecting"

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
            self._since, self._out_of_sync_at, self._listed = time.time(), None, True
            log.info("peer synced", cluster=self.peer.name, services=len(self.copy.records))
            self._sink.synced(self.peer.name)


class _ToSink:
    """The reflector's outlet: adds the cluster's name, and keeps the state of the remote."""

    def __init__(self, remote: Remote, sink: Sink) -> None:
        self._remote = remote
        self._sink = sink
        self._name = remote.peer.name

    def replace(self, records: Sequence[ClusterService]) -> None:
        self._sink.replace(self._name, records)

    def put(self, record: ClusterService) -> None:
        self._sink.put(self._name, record)

    def delete(self, name: str, revision: int) -> None:
        self._sink.delete(self._name, name)

    def fresh(self) -> None:
        self._remote.settle("session", "watch")

    def stale(self, reason: str) -> None:
        self._remote.trouble("watch", reason)
