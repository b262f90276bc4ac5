"""All peers of a directory, copied into one etcd, as KVStoreMesh does it: so a thousand nodes read one etcd that is near.

Of those who do it for one cluster, one is elected; a successor finds what is there, and takes nothing away.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import structlog

from clustermesh import keys
from clustermesh.call import KvOptions
from clustermesh.election import Office, campaign
from clustermesh.errors import (
    ClustermeshError,
    DirectoryUnreadable,
    InvalidRecord,
    KvError,
    OptionsError,
    StoreReplaced,
)
from clustermesh.evidence import HEARTBEAT_LIMIT_S
from clustermesh.kv import Kv
from clustermesh.lease_pool import LeasePool
from clustermesh.mirror_peer import MirroredPeer
from clustermesh.mirror_store import MirrorStore, now
from clustermesh.peers import Peer, read_directory
from clustermesh.records import decode_config
from clustermesh.returned import until_returned
from clustermesh.single_key import until_absent
from clustermesh.together import until_failure

log = structlog.get_logger()

RETRY_FIRST_S, RETRY_LAST_S = 0.2, 5.0
SAY_GOODBYE_S = 2.0


@dataclass(frozen=True, slots=True)
class MirrorOptions:
    """Times in seconds.

    ``election_ttl_s``: how long a dead mirror is waited for. ``data_ttl_s``: how long what says that it lives outlives it.
    ``drain_s``: between the cluster-config of a peer that no file names any more and its records. ``most_bytes``: of one
    peer.
    """

    election_ttl_s: int = 15
    data_ttl_s: int = 900
    heartbeat_s: float = 60.0
    heartbeat_limit_s: float = HEARTBEAT_LIMIT_S
    scan_s: float = 1.0
    drain_s: float = 180.0
    most_bytes: int = 256 << 20
    kv: KvOptions = field(default_factory=KvOptions)


class Mirror:
    """Copies every peer in ``directory`` into ``kv``, the etcd of cluster ``own_name``, while it is the elected one."""

    def __init__(
        self, directory: Path, own_name: str, own_id: int, kv: Kv, *, options: MirrorOptions | None = None
    ) -> None:
        if (problem := keys.cluster_name_problem(own_name)) is not None:
            raise OptionsError(f"cluster name {own_name!r} {problem}")
        self._directory = directory
        self._own_name = own_name
        self._own_id = own_id
        self._kv = kv
        self._options = options or MirrorOptions()
        self._name = f"mirror/{secrets.token_hex(8)}"
        self._pool = LeasePool(kv, self._options.data_ttl_s)
        # Once seen, for good: when a publisher dies its cluster-config goes, too.
        self._is_shared = False

    async def run(self) -> NoReturn:
        """Stand for election, copy while in office, again and again until cancelled. What was copied stays."""
        pause_s = RETRY_FIRST_S
        while True:
            started = time.monotonic()
            failure = await self._try_once()
            if failure is None or time.monotonic() - started > RETRY_LAST_S:
                pause_s = RETRY_FIRST_S
            if failure is None:
                continue
            if isinstance(failure, StoreReplaced):
                self._kv.unpin()  # a new etcd of our own cluster is one to fill
            log.warning("mirroring interrupted, what was copied stays", reason=str(failure), retry_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_LAST_S)

    async def _try_once(self) -> ClustermeshError | None:
        key = keys.mirror(self._own_name)
        try:
            await self._pool.revive()
            office = await campaign(self._kv, key, self._name, self._options.election_ttl_s)
            if isinstance(office, str):
                log.info("another mirror is at work", holder=office)
                await until_absent(self._kv, key)
                return None
            log.info("elected mirror", cluster=self._own_name)
            return await self._serve(office)
        except KvError as error:
            return error

    async def _serve(self, office: Office) -> ClustermeshError:
        """One term in office; why it ended."""
        store = MirrorStore(self._kv, office.fence, self._pool)
        try:
            revision = (await self._kv.find(keys.HEARTBEAT)).revision
            return await until_failure(
                self._kv.keep(office.lease),
                self._pool.keep(),
                self._beat(store),
                # Restored from an older snapshot, it does not hold what it held.
                until_returned(self._kv, revision),
                _Term(self._directory, self._own_name, self._own_id, store, self._options).run(),
            )
        except asyncio.CancelledError:
            # Best effort: without it a successor waits for the lease to end.
            with contextlib.suppress(KvError, TimeoutError):
                async with asyncio.timeout(SAY_GOODBYE_S):
                    await self._kv.revoke(office.lease)
            raise

    async def _beat(self, store: MirrorStore) -> NoReturn:
        """The heartbeat, but where this cluster's own publisher writes: who reads that one must hear when it dies."""
        while True:
            if not self._is_shared:
                self._is_shared = await store.find(keys.cluster_config(self._own_name)) is not None
            if not self._is_shared:
                await store.put_leased(keys.HEARTBEAT, now())
            await asyncio.sleep(self._options.heartbeat_s)


class _Term:
    """Follows ``directory`` for one term in office."""

    def __init__(
        self, directory: Path, own_name: str, own_id: int, store: MirrorStore, options: MirrorOptions
    ) -> None:
        self._directory = directory
        self._own_name = own_name
        self._own_id = own_id
        self._store = store
        self._options = options
        self._known: Mapping[str, Peer] = {}
        self._missing: set[str] = set()
        self._ids: dict[int, str] = {}
        self._tasks: dict[str, asyncio.Task[NoReturn]] = {}
        self._drains: dict[str, asyncio.Task[None]] = {}
        self._told: dict[str, str] = {}
        self._unreadable = ""

    async def run(self) -> NoReturn:
        """Until cancelled; KvError as soon as one of the parts cannot write."""
        try:
            left = await self._mirrored()
            while True:
                left -= await self._look(left)
                working = [*self._tasks.values(), *self._drains.values()]
                for task in working:
                    if task.done() and (error := task.exception()) is not None:
                        raise error
                await asyncio.sleep(self._options.scan_s)
        finally:
            tasks = [*self._tasks.values(), *self._drains.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, left: set[str]) -> set[str]:
        """Read the directory; which of ``left``, the clusters of which an earlier term left something, are dealt with."""
        try:
            scan = read_directory(self._directory, self._own_name, self._known)
        except DirectoryUnreadable as error:
            if error.reason != self._unreadable:
                log.warning("peer directory unreadable", directory=str(self._directory), reason=error.reason)
            self._unreadable = error.reason
            return set()
        self._unreadable = ""
        refused = {name: error.reason for name, error in scan.refused.items()}
        for name in refused.keys() - self._told.keys():
            log.error("peer file refused, its last good version stays", peer=name, reason=refused[name])
        self._told = refused
        # A file that is just being rewritten looks removed for a moment.
        missing = self._known.keys() - scan.peers.keys()
        peers = {**scan.peers, **{name: self._known[name] for name in missing - self._missing}}
        self._missing = set(missing)
        for name in [*(self._known.keys() - peers.keys()), *(left - peers.keys() - refused.keys())]:
            await self._stop(name)
            self._ids = {number: holder for number, holder in self._ids.items() if holder != name}
            if name not in self._drains:
                self._drains[name] = asyncio.create_task(self._drain(name))
        for name, peer in peers.items():
            if self._known.get(name) != peer:
                await self._start(peer)
        self._known = peers
        return left - refused.keys()

    async def _start(self, peer: Peer) -> None:
        await self._stop(peer.name)
        drain = self._drains.pop(peer.name, None)
        if drain is not None:
            drain.cancel()
            await asyncio.wait([drain])
        log.info("peer configured", cluster=peer.name, endpoints=[end.target for end in peer.endpoints])
        mirrored = MirroredPeer(
            peer,
            self._store,
            lambda cluster_id: self._claim(peer.name, cluster_id),
            most_bytes=self._options.most_bytes,
            heartbeat_limit_s=self._options.heartbeat_limit_s,
            options=self._options.kv,
        )
        self._tasks[peer.name] = asyncio.create_task(mirrored.run())

    async def _stop(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _drain(self, name: str) -> None:
        """No file names ``name``: its cluster-config goes first, so that readers know that it leaves; its records later."""
        log.info("peer removed", cluster=name, records_go_in_s=self._options.drain_s)
        await self._store.delete_leased([keys.cluster_config(name)])
        await asyncio.sleep(self._options.drain_s)
        prefix = f"{keys.synced_prefix(name)}{keys.CACHE}/"
        await self._store.delete_leased(list(await self._store.records(prefix)))
        for resource in keys.CANARY_RESOURCES:
            prefix = keys.records_prefix(name, resource, cached=True)
            await self._store.write({}, list(await self._store.records(prefix)))

    async def _mirrored(self) -> set[str]:
        """The clusters of which something is copied here, by whomever."""
        found = {
            key.split("/")[4] for key in await self._store.records(f"{keys.CACHE}/") if key.count("/") > 4
        }
        for key, value in (await self._store.records(keys.cluster_config(""))).items():
            with contextlib.suppress(InvalidRecord):
                if decode_config(key, value or b"").cached:
                    found.add(key.rpartition("/")[2])
        return found - {self._own_name}

    def _claim(self, name: str, cluster_id: int) -> str | None:
        """Reserve ``cluster_id`` for ``name``; who has it if somebody else does."""
        holder = self._own_name if cluster_id == self._own_id else self._ids.get(cluster_id, name)
        if holder != name:
            return holder
        self._ids = {number: other for number, other in self._ids.items() if other != name}
        self._ids[cluster_id] = name
        return None
