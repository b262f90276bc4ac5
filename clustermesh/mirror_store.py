"""The etcd that peers are copied into, as long as an office is held there: every write demands that it still is.

Records have no lease: whoever is not mirrored for a while stays as it was, and readers of the copy lose nothing. What says
that somebody looks after it has: the cluster-config, the canaries and the heartbeat.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from clustermesh import keys
from clustermesh.errors import KvError
from clustermesh.kv import Kv
from clustermesh.lease_pool import LeasePool
from clustermesh.operations import Compare, Delete, KeyValue, Operation, Put
from clustermesh.publication import batches


class Replaced(KvError):
    """Another mirror was elected; nothing was written."""

    def __init__(self) -> None:
        super().__init__("transaction", "", "another mirror was elected")


class MirrorStore:
    """``kv`` for as long as ``fence`` holds; ``pool``: leases of what has one. Every method may raise KvError."""

    def __init__(self, kv: Kv, fence: Compare, pool: LeasePool) -> None:
        self._kv = kv
        self._fence = fence
        self._pool = pool

    async def records(self, prefix: str) -> dict[str, bytes | None]:
        """Key -> value of all below ``prefix``; None: it is too large to be read."""
        return {item.key: item.value for item in (await self._kv.list(prefix)).items}

    async def find(self, key: str) -> KeyValue | None:
        """What stands under ``key``."""
        return await self._kv.get(key)

    async def write(self, puts: Mapping[str, bytes], deletes: Collection[str] = ()) -> None:
        """``puts`` first, then ``deletes``, each many in a step."""
        for batch in batches(puts, puts):
            await self._transact([Put(key, puts[key]) for key in batch])
        for batch in batches(deletes, {}):
            await self._transact([Delete(key) for key in batch])

    async def put_leased(self, key: str, value: bytes) -> None:
        """``key`` with ``value``, under a lease of ours."""
        await self._transact([Put(key, value, (await self._pool.lease_for(key)).id)])

    async def delete_leased(self, deletes: Collection[str]) -> None:
        """``deletes`` are gone, and their places among our leases free."""
        await self.write({}, deletes)
        for key in deletes:
            self._pool.release(key)

    async def adopt(self, cluster: str) -> None:
        """What a predecessor said of ``cluster`` under leases of its own is under ours, with the same values."""
        prefix = f"{keys.synced_prefix(cluster)}{keys.CACHE}/"
        for key in (keys.cluster_config(cluster), *(await self.records(prefix))):
            lease = (await self._pool.lease_for(key)).id
            there = Compare(key, "create", 0, equal=False)
            # Without it there is nothing to adopt; it may just have gone with its lease.
            await self._kv.txn([self._fence, there], [Put(key, None, lease)], repeatable=True)

    async def _transact(self, operations: Collection[Operation]) -> None:
        if not (await self._kv.txn([self._fence], list(operations), repeatable=True)).succeeded:
            raise Replaced


def now() -> bytes:
    """RFC 3339."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
