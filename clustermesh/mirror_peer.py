"""One peer that is copied: its cluster-config first, then all kinds of records side by side, each with its canary last.

That is the order that KVStoreMesh keeps and readers rely on. A peer that is out of reach leaves what is there.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import NoReturn

import structlog

from clustermesh import keys
from clustermesh.call import KvOptions
from clustermesh.errors import ClustermeshError, InvalidRecord, KvError, PeerRefused
from clustermesh.evidence import HEARTBEAT_LIMIT_S, Evidence
from clustermesh.kv import Kv
from clustermesh.mirror_copy import CopyWriter, Room, judged
from clustermesh.mirror_store import MirrorStore
from clustermesh.operations import KeyValue
from clustermesh.peers import Peer
from clustermesh.records import ClusterConfig, decode_config
from clustermesh.reflector import Reflector
from clustermesh.single_key import changes, until_present
from clustermesh.together import until_failure

log = structlog.get_logger()

RETRY_FIRST_S, RETRY_LAST_S = 0.2, 5.0


class MirroredPeer:
    """Copies ``peer`` into ``store``. ``claim(cluster id)`` returns the other cluster that has this id, if any."""

    def __init__(
        self,
        peer: Peer,
        store: MirrorStore,
        claim: Callable[[int], str | None],
        *,
        most_bytes: int,
        heartbeat_limit_s: float = HEARTBEAT_LIMIT_S,
        options: KvOptions | None = None,
    ) -> None:
        self.peer = peer
        self._store = store
        self._claim = claim
        self._options = options or KvOptions()
        self._room = Room(most_bytes)
        self._evidence = Evidence(heartbeat_limit_s, self._list_again)
        self._reflectors: tuple[Reflector[bytes], ...] = ()
        self._source: dict[str, str] = {}
        self._writers = {
            resource: CopyWriter(store, peer.name, resource, lambda: self._evidence.word, self._forgotten)
            for resource in keys.CANARY_RESOURCES
        }

    async def run(self) -> NoReturn:
        """Copy until cancelled; KvError of the store's when that cannot be written any more."""
        await self._store.adopt(self.peer.name)
        failure = await until_failure(
            *(writer.run() for writer in self._writers.values()), self._read(), self._tell()
        )
        raise failure

    async def _tell(self) -> NoReturn:
        for writer in self._writers.values():
            await writer.is_written.wait()
        records = {name: len(writer.copy.records) for name, writer in self._writers.items()}
        log.info("peer mirrored", cluster=self.peer.name, **records)
        await asyncio.Event().wait()
        raise AssertionError

    async def _read(self) -> NoReturn:
        """Connect to the peer, and connect again."""
        pause_s = RETRY_FIRST_S
        while True:
            started = time.monotonic()
            peer = self.peer
            try:
                async with Kv(
                    peer.endpoints, credentials=peer.credentials, tls=peer.tls, options=self._options
                ) as kv:
                    failure: ClustermeshError = await self._session(kv)
            except (_OfStore, KvError, PeerRefused, InvalidRecord) as error:
                if isinstance(error, _OfStore):
                    raise error.error from error
                failure = error
            if time.monotonic() - started > RETRY_LAST_S:
                pause_s = RETRY_FIRST_S
            log.warning(
                "peer interrupted, its copy stays",
                cluster=peer.name,
                reason=str(failure),
                retry_s=pause_s,
            )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_LAST_S)

    async def _session(self, kv: Kv) -> ClustermeshError:
        item, revision = await self._await_config(kv)
        config = decode_config(item.key, item.value or b"")
        self._check(config)
        await self._say_config(item.key, as_cached(item.key, item.value or b""))
        self._evidence.config_seen(present=True)
        beat_revision = await self._evidence.find_heartbeat(kv)
        self._reflectors = tuple(self._reflector(kv, resource, config) for resource in self._writers)
        return await until_failure(
            *(reflector.run() for reflector in self._reflectors),
            self._watch_config(kv, revision, item.value),
            self._evidence.watch_heartbeat(kv, beat_revision),
        )

    def _reflector(self, kv: Kv, resource: str, config: ClusterConfig) -> Reflector[bytes]:
        name, cached = self.peer.name, config.cached
        self._source[resource] = keys.records_prefix(name, resource, cached=cached)
        return Reflector(
            kv,
            self._source[resource],
            keys.canary(name, resource, cached=cached) if config.synced_canaries else None,
            decode=judged(resource, name, config, self.peer.pin, self._room),
            copy=self._writers[resource].copy,
            outlet=self._writers[resource],
        )

    async def _await_config(self, kv: Kv) -> tuple[KeyValue, int]:
        key = keys.cluster_config(self.peer.name)
        while True:
            found = await kv.find(key)
            if found.items:
                return found.items[0], found.revision
            await until_present(kv, key, found.revision)

    def _check(self, config: ClusterConfig) -> None:
        name = self.peer.name
        if config.cluster_id <= 0:
            raise PeerRefused(name, f"its cluster id is {config.cluster_id}")
        if (problem := self.peer.pin.config_problem(config.cluster_id)) is not None:
            raise PeerRefused(name, problem)
        if (other := self._claim(config.cluster_id)) is not None:
            raise PeerRefused(name, f"its cluster id {config.cluster_id} is that of {other}")

    async def _say_config(self, key: str, value: bytes) -> None:
        """Before any record. Canaries of a copy that was made for another cluster-config promise nothing for this one."""
        try:
            held = await self._store.find(key)
            if held is not None and held.value != value:
                for writer in self._writers.values():
                    await writer.withdraw()
            await self._store.put_leased(key, value)
        except KvError as error:
            raise _OfStore(error) from error

    async def _watch_config(self, kv: Kv, revision: int, known: bytes | None) -> None:
        key = keys.cluster_config(self.peer.name)
        async with aclosing(changes(kv, key, revision)) as told:
            async for value, changed_at in told:
                if value is not None and value != known:
                    raise PeerRefused(self.peer.name, "its cluster-config changed; connecting anew")
                self._evidence.config_seen(present=value is not None)
                await self._follow_leave(kv, key, value, changed_at)

    async def _follow_leave(self, kv: Kv, key: str, value: bytes | None, changed_at: int) -> None:
        """Who reads the copy hears that the peer leaves, too, before its records go."""
        has_left = value is None and await self._evidence.is_outlived(kv, key, changed_at)
        try:
            if value is not None:
                await self._store.put_leased(key, as_cached(key, value))
            elif has_left:
                await self._store.delete_leased([key])
        except KvError as error:
            raise _OfStore(error) from error

    def _list_again(self) -> None:
        for reflector in self._reflectors:
            reflector.list_again()

    def _forgotten(self, resource: str, name: str) -> None:
        if resource in self._source:
            self._room.give_back(self._source[resource] + name)


class _OfStore(ClustermeshError):
    """An error of the store that is written, which is not the peer's."""

    def __init__(self, error: KvError) -> None:
        self.error = error
        super().__init__(str(error))


def as_cached(key: str, value: bytes) -> bytes:
    """The cluster-config ``value`` of a peer as it stands beside a copy: all else, also what is not known here, stays.

    InvalidRecord if it is none.
    """
    try:
        document = json.loads(value)
        capabilities: Mapping[str, object] = document.get("capabilities") or {}
        document["capabilities"] = {**capabilities, "syncedCanaries": True, "cached": True}
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidRecord(key, "value", f"is no cluster-config ({error})") from error
    return json.dumps(document, separators=(",", ":")).encode()
