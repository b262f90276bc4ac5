"""What one process says of itself: its node's record and its workloads' addresses, whoever publishes the cluster.

Written under leases of its own, several keys in a transaction, and only what differs from what etcd holds. What was
written stays until the leases end, so a restart takes nothing away: the successor finds its keys, puts them under its
own leases, and deletes what an earlier process of the same node left and nobody wants any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

import structlog

from clustermesh.errors import ClustermeshError, KvError, KvRefused, StoreReplaced
from clustermesh.keys import HEARTBEAT
from clustermesh.kv import Kv
from clustermesh.lease_pool import KEYS_PER_LEASE, LeasePool
from clustermesh.operations import Compare, Delete, Get, KeyValue, Put
from clustermesh.publication import Held, batches, to_put
from clustermesh.returned import until_returned
from clustermesh.together import until_failure

log = structlog.get_logger()

RETRY_FIRST_S, RETRY_LAST_S = 0.2, 5.0
GATHER_S = 0.05
"""Workloads that come or go together are written together."""

IsLeftover = Callable[[str, bytes], bool]
"""(key, value) -> whether an earlier process of ours wrote it."""


class OwnKeys:
    """Keeps what it is told in ``kv`` for as long as ``run()`` runs, and ``ttl_s`` seconds longer."""

    def __init__(
        self, kv: Kv, *, ttl_s: int = 900, audit_s: float = 300.0, keys_per_lease: int = KEYS_PER_LEASE
    ) -> None:
        self._kv = kv
        self._pool = LeasePool(kv, ttl_s, keys_per_lease)
        self._audit_s = audit_s
        self._wanted: dict[str, bytes] = {}
        self._dirty: set[str] = set()
        self._leftovers: dict[str, IsLeftover] = {}
        self._changed = asyncio.Event()
        self._generation = 0
        self._written = 0
        self._progress = asyncio.Condition()
        self.failed: dict[str, str] = {}
        """Key -> why etcd refused it."""
        self.last_error = ""

    def update(self, puts: Mapping[str, bytes], deletes: Iterable[str] = ()) -> None:
        """Say ``puts`` from now on, and ``deletes`` no more; what is said already changes nothing."""
        changed = {key for key, value in puts.items() if self._wanted.get(key) != value}
        self._wanted.update(puts)
        changed |= {key for key in deletes if self._wanted.pop(key, None) is not None}
        self._note(changed)

    def clear_leftovers(self, prefix: str, is_leftover: IsLeftover) -> None:
        """What is wanted below ``prefix`` is complete: delete what an earlier process of ours left there."""
        self._leftovers[prefix] = is_leftover
        self._note(set())

    async def settled(self) -> None:
        """Return when all that was said before the call is in etcd (or refused: see ``failed``)."""
        generation = self._generation
        async with self._progress:
            await self._progress.wait_for(lambda: self._written >= generation)

    async def run(self) -> NoReturn:
        """Write, keep and put right until cancelled; what was written then stays until its lease ends."""
        pause_s = RETRY_FIRST_S
        while True:
            failure: ClustermeshError
            written = self._written
            try:
                await self._pool.revive()
                revision = (await self._kv.find(HEARTBEAT)).revision
                failure = await until_failure(
                    self._pool.keep(), self._follow(), until_returned(self._kv, revision)
                )
            except KvError as error:
                failure = error
            if isinstance(failure, StoreReplaced):
                self._kv.unpin()  # a new etcd of our own cluster is one to fill
            pause_s = RETRY_FIRST_S if self._written > written else min(pause_s * 2, RETRY_LAST_S)
            self.last_error = str(failure)
            log.warning("own records interrupted", reason=str(failure), retry_s=pause_s)
            await asyncio.sleep(pause_s)

    async def _follow(self) -> NoReturn:
        """Everything first, then what changes; everything again after every ``audit_s``."""
        while True:
            self._dirty.update(self._wanted)
            self.failed.clear()
            try:
                async with asyncio.timeout(self._audit_s):
                    while True:
                        await self._write_changes()
                        await self._changed.wait()
                        await asyncio.sleep(GATHER_S)
            except TimeoutError:
                continue

    async def _write_changes(self) -> None:
        self._changed.clear()
        generation, dirty = self._generation, self._dirty
        self._dirty = set()
        try:
            await self._write(sorted(dirty))
        except BaseException:
            self._dirty |= dirty
            raise
        self.last_error = ""
        async with self._progress:
            self._written = generation
            self._progress.notify_all()

    async def _write(self, taken: list[str]) -> None:
        held = await self._held(taken)
        puts = to_put(self._wanted, held, taken, self._pool.ids)
        for batch in batches(puts, self._wanted):
            await self._put(batch)
        gone = [key for key in taken if key not in self._wanted]
        await self._delete([key for key in gone if key in held and held[key].lease in self._pool.ids], held)
        for key in gone:
            self._pool.release(key)
        for prefix, is_leftover in list(self._leftovers.items()):
            await self._clear(prefix, is_leftover)
            del self._leftovers[prefix]

    async def _held(self, keys: Iterable[str]) -> dict[str, Held]:
        """What etcd holds of ``keys``, with the newest value of each."""
        found: dict[str, Held] = {}
        for batch in batches(keys, {}):
            answer = await self._kv.txn([], [Get(key) for key in batch], repeatable=True)
            found |= {item.key: Held(item.value, item.lease) for item in answer.found if item is not None}
        return found

    async def _put(self, batch: list[str]) -> None:
        wanted = {key: self._wanted[key] for key in batch if key in self._wanted}
        leases = {key: (await self._pool.lease_for(key)).id for key in wanted}
        try:
            puts = [Put(key, value, leases[key]) for key, value in wanted.items()]
            await self._kv.txn([], puts, repeatable=True)
        except KvRefused as error:
            # One record that etcd refuses must not hold up the others of its batch.
            if len(batch) > 1:
                for key in batch:
                    await self._put([key])
                return
            self.failed[batch[0]] = error.reason
            log.error("own record refused by etcd", key=batch[0], reason=error.reason)

    async def _delete(self, keys: Iterable[str], held: Mapping[str, Held]) -> None:
        """``keys`` go, each only if it is still under the lease it was seen under: else somebody else says it now."""
        for batch in batches(keys, {}):
            if not await self._delete_all(batch, held):
                for key in batch:
                    await self._delete_all([key], held)

    async def _delete_all(self, batch: list[str], held: Mapping[str, Held]) -> bool:
        conditions = [Compare(key, "lease", held[key].lease) for key in batch]
        return (await self._kv.txn(conditions, [Delete(key) for key in batch], repeatable=True)).succeeded

    async def _clear(self, prefix: str, is_leftover: IsLeftover) -> None:
        items = [item for item in (await self._kv.list(prefix)).items if item.key not in self._wanted]
        for item in items:
            if item.value is not None and is_leftover(item.key, item.value):
                await self._delete_unchanged(item)

    async def _delete_unchanged(self, item: KeyValue) -> None:
        unchanged = Compare(item.key, "mod", item.mod_revision)
        await self._kv.txn([unchanged], [Delete(item.key)], repeatable=True)

    def _note(self, changed: set[str]) -> None:
        self._dirty |= changed
        self._generation += 1
        self._changed.set()
