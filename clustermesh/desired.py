"""The services a cluster wants to share, as key and bytes, in the form or forms in which it exports them.

With a note of what changed since it was last written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from clustermesh import keys
from clustermesh.endpoint_slice import encode_slice
from clustermesh.errors import InvalidRecord
from clustermesh.records import (
    MAX_VALUE_BYTES,
    SERVICES,
    SERVICES_AND_SLICES,
    SLICES,
    ClusterService,
    encode_service,
)
from clustermesh.service_slices import slices_of

REQUEST_OVERHEAD_BYTES = 4096


class DesiredServices:
    """``values``: key -> bytes. ``complete``: the source has listed everything once.

    ``named_deletes``: keys that were taken back by name, which may be deleted before the set is complete.
    """

    def __init__(self, cluster: str, cluster_id: int, export_mode: str = SERVICES) -> None:
        self.values: dict[str, bytes] = {}
        self.complete = False
        self.named_deletes: set[str] = set()
        self.changed = asyncio.Event()
        self._cluster = cluster
        self._cluster_id = cluster_id
        self._export_mode = export_mode
        self._keys: dict[str, frozenset[str]] = {}
        self._dirty: set[str] = set()
        self._noting = False
        self._generation = 0
        self._written = 0
        self._progress = asyncio.Condition()

    @property
    def pending(self) -> int:
        """How many keys changed and were not taken yet."""
        return len(self._dirty)

    @property
    def services(self) -> int:
        """How many services are desired."""
        return len(self._keys)

    def replace(self, services: Iterable[ClusterService], *, complete: bool) -> dict[str, InvalidRecord]:
        """See Publisher.set_services."""
        refused: dict[str, InvalidRecord] = {}
        wanted: dict[str, bytes] = {}
        keys_of: dict[str, frozenset[str]] = {}
        for service in services:
            name = service.full_name
            try:
                records = self._encode(service)
            except InvalidRecord as error:
                refused[name] = error
                if name not in self._keys:
                    continue
                records = {key: self.values[key] for key in self._keys[name]}
            wanted.update(records)
            keys_of[name] = frozenset(records)
        changed = {key for key, value in wanted.items() if self.values.get(key) != value}
        dropped = {key for name in keys_of for key in self._keys.get(name, ())} - wanted.keys()
        if complete:
            changed |= self.values.keys() - wanted.keys()
            self.values, self._keys = wanted, keys_of
        else:
            changed |= dropped
            self.values = {key: value for key, value in self.values.items() if key not in dropped} | wanted
            self._keys.update(keys_of)
        self.complete = self.complete or complete
        self.named_deletes = set() if self.complete else (self.named_deletes | dropped) - wanted.keys()
        self._note(changed)
        return refused

    def upsert(self, service: ClusterService) -> None:
        """See Publisher.upsert."""
        records = self._encode(service)
        dropped = self._keys.get(service.full_name, frozenset()) - records.keys()
        changed = {key for key, value in records.items() if self.values.get(key) != value} | dropped
        self._keys[service.full_name] = frozenset(records)
        self.values.update(records)
        self._drop(dropped)
        self.named_deletes -= records.keys()
        if changed:
            self._note(changed)

    def delete(self, namespace: str, name: str) -> None:
        """See Publisher.delete."""
        dropped = {
            *self._keys.pop(f"{namespace}/{name}", ()),
            keys.service(self._cluster, namespace, name),
        }
        self._drop(dropped)
        self._note(dropped)

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

    def _drop(self, dropped: Iterable[str]) -> None:
        for key in dropped:
            self.values.pop(key, None)
            if not self.complete:
                self.named_deletes.add(key)

    def _encode(self, service: ClusterService) -> dict[str, bytes]:
        """Key -> value of all that ``service`` is in etcd."""
        key = keys.service(self._cluster, service.namespace, service.name)
        if (service.cluster, service.cluster_id) != (self._cluster, self._cluster_id):
            ours = f"{self._cluster!r} ({self._cluster_id})"
            raise InvalidRecord(
                key, "cluster", f"is {service.cluster!r} ({service.cluster_id}), this is {ours}"
            )
        made: dict[str, bytes] = {}
        if self._export_mode in (SERVICES, SERVICES_AND_SLICES):
            made[key] = encode_service(service)
        if self._export_mode in (SERVICES_AND_SLICES, SLICES):
            for one in slices_of(service):
                made[keys.endpoint_slice(self._cluster, one.namespace, one.name)] = encode_slice(one)
        for each, value in made.items():
            if len(value) > MAX_VALUE_BYTES - REQUEST_OVERHEAD_BYTES:
                raise InvalidRecord(
                    each, "value", f"{len(value)} bytes are more than etcd takes in a request"
                )
        return made
