"""Many keys on few leases: at most a thousand a lease, because etcd drops all keys of a lease in one step."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from clustermesh.errors import KvUnavailable, LeaseLost
from clustermesh.kv import Kv
from clustermesh.lease import Lease

KEYS_PER_LEASE = 1000


class LeasePool:
    """Hands out leases for keys and keeps all of them alive.

    A key stays with its lease for as long as that lives, so rewriting it never moves it.
    """

    def __init__(self, kv: Kv, ttl_s: int, keys_per_lease: int = KEYS_PER_LEASE) -> None:
        self._kv = kv
        self._ttl_s = ttl_s
        self._keys_per_lease = keys_per_lease
        self._leases: dict[int, Lease] = {}
        self._keys: dict[int, set[str]] = {}
        self._lease_of: dict[str, int] = {}

    @property
    def ids(self) -> frozenset[int]:
        """Ids of all leases held: a stored key with another one is not ours to rely on."""
        return frozenset(self._leases)

    async def lease_for(self, key: str) -> Lease:
        """The lease of ``key``: the one it has, one with room, or a new one."""
        if key in self._lease_of:
            return self._leases[self._lease_of[key]]
        found = next((id_ for id_, keys in self._keys.items() if len(keys) < self._keys_per_lease), None)
        if found is None:
            lease = await self._kv.grant(self._ttl_s)
            self._leases[lease.id], self._keys[lease.id], found = lease, set(), lease.id
        self._keys[found].add(key)
        self._lease_of[key] = found
        return self._leases[found]

    def release(self, key: str) -> None:
        """``key`` was deleted; its place is free."""
        lease_id = self._lease_of.pop(key, None)
        if lease_id is not None:
            self._keys[lease_id].discard(key)

    async def revive(self) -> None:
        """Renew all leases now and forget those that are gone, with the keys they had."""
        for lease in list(self._leases.values()):
            try:
                await self._kv.renew(lease)
            except LeaseLost:
                self._drop(lease)

    async def keep(self) -> NoReturn:
        """Keep all leases alive until cancelled.

        Raises:
            LeaseLost: one is gone; it is forgotten, its keys must be put again.
        """
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            for lease in list(self._leases.values()):
                await self._renew(lease)

    async def _renew(self, lease: Lease) -> None:
        try:
            await self._kv.renew(lease)
        except LeaseLost:
            self._drop(lease)
            raise
        except KvUnavailable as error:
            if lease.expired:
                self._drop(lease)
                raise LeaseLost("lease keepalive", "", f"lease {lease.id:x}: {error.reason}") from error

    def _drop(self, lease: Lease) -> None:
        del self._leases[lease.id]
        for key in self._keys.pop(lease.id):
            del self._lease_of[key]
