"""The services a cluster wants to share, as key and bytes.

With a note of what changed since it was last written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from clustermesh import keys
from clustermesh.errors import InvalidRecord
from clustermesh.records import MAX_VALUE_BYTES, ClusterService, encode_service

REQUEST_OVERHEAD_BYTES = 4096


class DesiredServices:
    """``values``: key -> bytes. ``complete``: the source has listed everything once.

    ``named_deletes``: keys that were taken back by name, which may be deleted before the set is complete.
    """

    def __init__(self, cluster: str, cluster_id: int) -> None:
        self.values: dict[str, bytes] = {}
        self.complete = False
        self.named_deletes: set[str] = set()
        self.changed = asyncio.Event()
        self._cluster = cluster
        self._cluster_id = cluster_id
        self._dirty: set[str] = set()
        self._noting = False
        self._generation = 0
        self._written = 0
        self._progress = asyncio.Condition()

    @property
    def pending(self) -> int:
        """How many keys changed and were not taken yet."""
        return len(self._dirty)

    def replace(self, services: Iterable[ClusterService], *, complete: bool) -> dict[str, InvalidRecord]:
        """See Publisher.set_services."""
        refused: dict[str, InvalidRecord] = {}
        wanted: dict[str, bytes] = {}
        for service in services:
            key = self._key(service)
            try:
                wanted[key] = self._encode(key, service)
            except InvalidRecord as error:
                refused[service.full_name] = error
                if key in self.values:
                    wanted[key] = self.values[key]
        changed = {key for key, value in wanted.items() if self.values.get(key) != value}
        if complete:
            changed |= self.values.keys() - wanted.keys()
            self.values = wanted
        else:
            self.values.update(wanted)
        self.complete = self.complete or complete
        self.named_deletes = set() if self.complete else self.named_deletes - wanted.keys()
        self._note(changed)
        return refused

    def upsert(self, service: ClusterService) -> None:
        """See Publisher.upsert."""
        key = self._key(service)
        value = self._encode(key, service)
        self.named_deletes.discard(key)
        if self.values.get(key) != value:
            self.values[key] = value
            self._note({key})

    def delete(self, namespace: str, name: str) -> None:
        """See Publisher.delete."""
        key = keys.service(self._cluster, namespace, name)
        self.values.pop(key, None)
        if not self.complete:
            self.named_deletes.add(key)
        self._note({key})

    def note_all(self, held: Iterable[str]) -> None:
        """Begin noting changes: everything desired and everything ``held`` is to be looked at."""
        self._noting = True
        self._dirty = {*self.values, *held}
        self.changed.set()

    def stop_noting(self) -> None:
        """Nobody writes: whoever begins to will look at everything, so changes need not pile up."""
        self._noting = False
        self._dirty.clear()

    def take(self) -> tuple[int, set[str]]:
        """The changed keys, now in the caller's care, and the generation that is written once they are."""
        taken, self._dirty = self._dirty, set()
        self.changed.clear()
        return self._generation, taken

    async def written(self, generation: int) -> None:
        """Everything handed over up to ``generation`` is in etcd, or refused by it."""
        async with self._progress:
            self._written = max(self._written, generation)
            self._progress.notify_all()

    async def settled(self) -> None:
        """Return when everything handed over before the call is written."""
        generation = self._generation
        async with self._progress:
            await self._progress.wait_for(lambda: self._written >= generation)

    def _note(self, changed: Iterable[str]) -> None:
        if self._noting:
            self._dirty.update(changed)
        self._generation += 1
        self.changed.set()

    def _key(self, service: ClusterService) -> str:
        return keys.service(self._cluster, service.namespace, service.name)

    def _encode(self, key: str, service: ClusterService) -> bytes:
        if (service.cluster, service.cluster_id) != (self._cluster, self._cluster_id):
            ours = f"{self._cluster!r} ({self._cluster_id})"
            raise InvalidRecord(
                key, "cluster", f"is {service.cluster!r} ({service.cluster_id}), this is {ours}"
            )
        value = encode_service(service)
        if len(value) > MAX_VALUE_BYTES - REQUEST_OVERHEAD_BYTES:
            raise InvalidRecord(key, "value", f"{len(value)} bytes are more than etcd takes in a request")
        return value
