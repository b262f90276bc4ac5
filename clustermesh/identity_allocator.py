"""Numbers for the labels of this node's workloads, the same for the same labels on every node of the cluster.

An identity is two kinds of keys, as Cilium has them: ``id/NUMBER``, which stays until nobody uses it, holds the labels; and
``value/LABELS/NODE``, kept by a node's lease, says who does (own_keys.py writes it). There is no lock: where one looks for a
free number follows from the labels, and a number is taken by a transaction that wants it free. So nodes that see new labels
at the same time try the same numbers in the same order, and all but one find the labels there already.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from hashlib import sha256
from typing import NoReturn

import structlog

from clustermesh import keys
from clustermesh.address_record import identity_range
from clustermesh.errors import KvError, StoreReplaced
from clustermesh.kv import Kv
from clustermesh.operations import Compare, Get, KeyValue, Put

log = structlog.get_logger()

RETRY_FIRST_S, RETRY_LAST_S = 0.2, 5.0
MOST_TRIED = 1000
"""Numbers that others have, in a row. Fewer are to be expected until nearly all of a cluster's are taken."""


class IdentityAllocator:
    """Allocates what ``want()`` names, as long as ``run()`` runs; ``told()`` is called when ``numbers`` changed.

    What is allocated is looked at again every ``audit_s`` seconds, and after every failure.
    """

    def __init__(
        self,
        kv: Kv,
        cluster_id: int,
        max_connected_clusters: int,
        *,
        told: Callable[[], None],
        audit_s: float = 300.0,
    ) -> None:
        self._kv = kv
        self._range = identity_range(cluster_id, max_connected_clusters)
        self._told = told
        self._audit_s = audit_s
        self._wanted: frozenset[str] = frozenset()
        self._numbers: dict[str, int] = {}
        self._checked: set[str] = set()
        self._changed = asyncio.Event()
        self.failed: dict[str, str] = {}
        """Labels -> why they have no number."""

    @property
    def numbers(self) -> Mapping[str, int]:
        """Labels -> number, of those that are wanted and have one."""
        return self._numbers

    @property
    def pending(self) -> frozenset[str]:
        """Labels of which it is not known yet what number they have, or that they get none."""
        return self._wanted - self._numbers.keys() - self.failed.keys()

    def want(self, labels: Collection[str]) -> None:
        """These, and no others, are in use on this node."""
        wanted = frozenset(labels)
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def run(self) -> NoReturn:
        """Allocate and check until cancelled. What is allocated stays."""
        pause_s = RETRY_FIRST_S
        while True:
            try:
                await self._follow()
            except KvError as error:
                if isinstance(error, StoreReplaced):
                    self._kv.unpin()  # a new etcd of our own cluster is one to fill
                log.warning("identities not allocated", reason=str(error), retry_s=pause_s)
            # As soon as one allocation went well, this one was no continued failure.
            pause_s = RETRY_FIRST_S if self._checked else min(2 * pause_s, RETRY_LAST_S)
            self._checked.clear()
            await asyncio.sleep(pause_s)

    async def _follow(self) -> NoReturn:
        while True:
            self._changed.clear()
            for labels in sorted(self._wanted - self._checked):
                await self._settle(labels)
            self._forget()
            try:
                async with asyncio.timeout(self._audit_s):
                    await self._changed.wait()
            except TimeoutError:
                self._checked.clear()

    async def _settle(self, labels: str) -> None:
        number = await self._allocate(labels)
        self._checked.add(labels)
        if number is None:
            reason = f"{MOST_TRIED} identities in a row are taken"
            if self.failed.get(labels) != reason:
                log.error("no identity for workloads", labels=labels, reason=reason)
            self.failed[labels] = reason
        elif self._numbers.get(labels) != number:
            self._numbers[labels] = number
            self.failed.pop(labels, None)
        else:
            return
        self._told()

    def _forget(self) -> None:
        self._numbers = {labels: number for labels, number in self._numbers.items() if labels in self._wanted}
        self.failed = {labels: reason for labels, reason in self.failed.items() if labels in self._wanted}
        self._checked &= self._wanted

    async def _allocate(self, labels: str) -> int | None:
        """The number of ``labels``, theirs from now on; None if none is free where they look for one."""
        value = labels.encode()
        async for number in self._candidates(labels):
            key = keys.identity(number)
            while True:
                taken = await self._kv.txn(
                    [Compare(key, "create", 0)], [Put(key, value)], [Get(key)], repeatable=True
                )
                if taken.succeeded:
                    return number
                held = taken.found[0]
                if held is None:
                    continue  # it went just now
                if held.value != value:
                    break
                if labels in self._numbers or await self._touch(held):
                    return number
        return None

    async def _touch(self, held: KeyValue) -> bool:
        """Write it again, so that whoever wants to delete it for want of users sees that it got one; False: it changed."""
        unchanged = Compare(held.key, "mod", held.mod_revision)
        return (await self._kv.txn([unchanged], [Put(held.key, held.value)], repeatable=False)).succeeded

    async def _candidates(self, labels: str) -> AsyncIterator[int]:
        """Numbers to try: the one we had, those that others use, then those where ``labels`` look for a free one."""
        if labels in self._numbers:
            yield self._numbers[labels]
        for number in await self._used(labels):
            yield number
        for number in self._places(labels):
            yield number

    async def _used(self, labels: str) -> list[int]:
        """Numbers that nodes say ``labels`` have. They are only tried: somebody's word is not more than that."""
        prefix = keys.identity_use(labels, "")
        found: set[int] = set()
        for item in (await self._kv.list(prefix)).items:
            # Behind a slash there may be more labels, too.
            if "/" not in item.key.removeprefix(prefix) and (item.value or b"").isdigit():
                found.add(int(item.value or b"0"))
        first, last = self._range
        return sorted(number for number in found if first <= number <= last)

    def _places(self, labels: str) -> Iterator[int]:
        first, last = self._range
        size = last - first + 1
        start = int.from_bytes(sha256(labels.encode()).digest()[:8], "big") % size
        return (first + (start + step) % size for step in range(min(MOST_TRIED, size)))
