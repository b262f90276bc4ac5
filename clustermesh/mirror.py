"""All peers of a directory, copied into one etcd, as KVStoreMesh does it: so a thousand nodes read one etcd that is near.

Of those who do it for one cluster, one is elected; a successor finds what is there, and takes nothing away.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import structlog

from clustermesh import keys
from clustermesh.call import KvOptions
from clustermesh.election import Office, again_and_again, campaign, given_up
from clustermesh.errors import ClustermeshError, InvalidRecord, KvError, OptionsError
from clustermesh.evidence import HEARTBEAT_LIMIT_S
from clustermesh.kv import Kv
from clustermesh.lease_pool import LeasePool
from clustermesh.mirror_peer import MirroredPeer
from clustermesh.mirror_store import MirrorStore, now
from clustermesh.peer_directory import ClaimedIds, PeerDirectory
from clustermesh.peers import Peer
from clustermesh.records import decode_config
from clustermesh.returned import until_returned
from clustermesh.single_key import until_absent
from clustermesh.together import until_failure

log = structlog.get_logger()


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

        def failed(failure: ClustermeshError, retry_s: float) -> None:
            log.warning("mirroring interrupted, what was copied stays", reason=str(failure), retry_s=retry_s)

        await again_and_again(self._kv, self._try_once, failed)

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
        async with given_up(self._kv, office):
            revision = (await self._kv.find(keys.HEARTBEAT)).revision
            return await until_failure(
                self._kv.keep(office.lease),
                self._pool.keep(),
                self._beat(store),
                # Restored from an older snapshot, it does not hold what it held.
                until_returned(self._kv, revision),
                _Term(self._directory, self._own_name, self._own_id, store, self._options).run(),
            )

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
        self._directory = PeerDirectory(directory, own_name)
        self._own_name = own_name
        self._store = store
        self._options = options
        self._known: Mapping[str, Peer] = {}
        self._ids = ClaimedIds({own_id: own_name})
        self._tasks: dict[str, asyncio.Task[NoReturn]] = {}
        self._drains: dict[str, asyncio.Task[None]] = {}

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
        peers = self._directory.look(self._known)
        if peers is None:
            return set()
        refused = self._directory.refused.keys()
        for name in [*(self._known.keys() - peers.keys()), *(left - peers.keys() - refused)]:
            await self._stop(name)
            self._ids.release(name)
            if name not in self._drains:
                self._drains[name] = asyncio.create_task(self._drain(name))
        for name, peer in peers.items():
            if self._known.get(name) != peer:
                await self._start(peer)
        self._known = peers
        return left - refused

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
            lambda cluster_id: self._ids.claim(peer.name, cluster_id),
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
