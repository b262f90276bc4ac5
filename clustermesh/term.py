"""One term in office: what the elected publisher does to etcd, every write fenced by the election.

Order: adopt what a predecessor left (same values, our leases), write what is desired, delete what is not
but only once the desired set is complete, then say so with the canary. So no peer sees a key vanish because
a publisher died, and none sees a canary before the records it promises.

Services have two forms, and the cluster-config says which of them a reader finds. When that changes, the canary of a form
that was not written before goes first, and what stands in a form that is not written any more goes with the first audit: by
then readers that follow the cluster-config read the other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

import structlog

from clustermesh import keys
from clustermesh.desired import DesiredServices
from clustermesh.errors import InvalidRecord, KvError, KvRefused
from clustermesh.identity_upkeep import UnusedIdentities
from clustermesh.kv import Kv
from clustermesh.lease_pool import LeasePool
from clustermesh.operations import Compare, Delete, KeyValue, Operation, Put
from clustermesh.publication import Held, batches, to_delete, to_put
from clustermesh.records import SERVICES, SERVICES_AND_SLICES, SLICES, decode_config
from clustermesh.returned import EtcdReturned, until_returned
from clustermesh.together import until_failure

log = structlog.get_logger()

FORMS: Mapping[str, Collection[str]] = {
    SERVICES: ("services",),
    SERVICES_AND_SLICES: ("services", "endpointslices"),
    SLICES: ("endpointslices",),
}
"""What is written in an export mode, and promised by canaries."""


class Deposed(KvError):
    """The election key is not ours any more; nothing was written."""

    def __init__(self) -> None:
        super().__init__("transaction", "", "another publisher was elected, or what was to be kept is gone")


@dataclass(slots=True)
class Tally:
    """What a publisher did, over all its terms. ``failed``: key -> why etcd refused it."""

    puts: int = 0
    deletes: int = 0
    failed: dict[str, str] = field(default_factory=dict)


class Term:
    """Writes for ``cluster`` as long as ``fence`` holds; LeaseLost, Deposed or another KvError ends it."""

    def __init__(
        self,
        kv: Kv,
        cluster: str,
        config: bytes,
        fence: Compare,
        *,
        export_mode: str = SERVICES,
        pool: LeasePool,
        desired: DesiredServices,
        tally: Tally,
    ) -> None:
        self._kv = kv
        self._cluster = cluster
        self._prefixes = {
            "services": keys.services_prefix(cluster),
            "endpointslices": keys.slices_prefix(cluster),
        }
        self._config = {keys.cluster_config(cluster): config}
        self._fence = fence
        self._pool = pool
        self._desired = desired
        self._tally = tally
        self._held: dict[str, Held] = {}
        self._forms = FORMS[export_mode]
        self._audited = False
        self._unused = UnusedIdentities(kv, cluster)

    async def publish(self, audit_s: float) -> NoReturn:
        """Make etcd hold what is desired, as it changes; read it all every ``audit_s`` seconds, and when etcd is back."""
        while True:
            revision = (await self._kv.find(keys.HEARTBEAT)).revision
            self._held = await self._read()
            await self._adopt()
            await self._withdraw_canaries()
            await self._write([*self._config, *self._other_canaries()])
            self._desired.note_all(key for key in self._held if self._is_record(key))
            try:
                async with asyncio.timeout(audit_s):
                    failure = await until_failure(self._follow(), until_returned(self._kv, revision))
                if not isinstance(failure, EtcdReturned):
                    raise failure
            except TimeoutError:
                self._tally.failed.clear()  # tried again now
                self._audited = True
                await self._unused.sweep(self._delete_if)

    async def beat(self, interval_s: float) -> NoReturn:
        """Write the heartbeat now and every ``interval_s`` seconds."""
        while True:
            lease = await self._pool.lease_for(keys.HEARTBEAT)
            await self._transact([Put(keys.HEARTBEAT, _now(), lease.id)])
            await asyncio.sleep(interval_s)

    async def _follow(self) -> NoReturn:
        complete = False
        while True:
            generation, taken = self._desired.take()
            if self._desired.complete and not complete:
                # Only now is it known what a predecessor left in vain.
                complete = True
                taken |= {key for key in self._held if self._is_record(key)}
            await self._write(sorted(taken), complete=complete)
            self._desired.named_deletes.difference_update(taken - self._held.keys())
            if complete:
                await self._write([keys.canary(self._cluster, name) for name in self._forms])
            await self._desired.written(generation)
            await self._desired.changed.wait()

    async def _read(self) -> dict[str, Held]:
        found: list[KeyValue] = []
        for prefix in self._prefixes.values():
            found += (await self._kv.list(prefix)).items
        found += (await self._kv.list(keys.synced_prefix(self._cluster))).items
        for key in (*self._config, keys.HEARTBEAT):
            found += (await self._kv.find(key)).items
        return {item.key: Held(item.value, item.lease) for item in found}

    async def _adopt(self) -> None:
        """Move what a predecessor left to our leases, values untouched: it must not die with the old ones.

        What is desired by now is written in a moment, lease and all.
        """
        own, desired = self._pool.ids, self._desired.values
        foreign = [key for key, held in self._held.items() if held.lease not in own and key not in desired]
        for batch in batches(foreign, {}):
            leases = await self._leases(batch)
            still_there = [Compare(key, "create", 0, equal=False) for key in batch]
            await self._transact([Put(key, None, leases[key]) for key in batch], still_there)
            for key in batch:
                self._held[key] = Held(self._held[key].value, leases[key])

    async def _write(self, candidates: list[str], *, complete: bool = False) -> None:
        """Put, then delete, what differs among ``candidates``, if what is desired now is ``complete``: it may become so
        while this waits for etcd, with more than is seen here."""
        desired = self._wanted(candidates)
        for batch in batches(to_put(desired, self._held, candidates, self._pool.ids), desired):
            await self._apply(batch, desired)
        records = [key for key in candidates if self._is_record(key)]
        named = self._desired.named_deletes
        for batch in batches(to_delete(desired, self._held, records, complete=complete, named=named), {}):
            await self._apply(batch, desired)

    async def _apply(self, batch: list[str], desired: Mapping[str, bytes]) -> None:
        leases = await self._leases(key for key in batch if key in desired)
        try:
            await self._transact(
                [Put(key, desired[key], leases[key]) if key in desired else Delete(key) for key in batch]
            )
        except KvRefused as error:
            await self._blame(batch, desired, error)
            return
        for key in batch:
            self._tally.failed.pop(key, None)
            self._note(key, desired.get(key), leases.get(key, 0))

    async def _blame(self, batch: list[str], desired: Mapping[str, bytes], error: KvRefused) -> None:
        """One record that etcd refuses must not hold up the others of its batch."""
        if len(batch) > 1:
            for key in batch:
                await self._apply([key], desired)
            return
        self._tally.failed[batch[0]] = error.reason
        log.error("record refused by etcd", key=batch[0], reason=error.reason)

    def _note(self, key: str, value: bytes | None, lease: int) -> None:
        if value is not None:
            self._held[key] = Held(value, lease)
            self._tally.puts += 1
            return
        self._held.pop(key, None)
        self._desired.named_deletes.discard(key)
        self._pool.release(key)
        self._tally.deletes += 1

    async def _transact(self, operations: Sequence[Operation], conditions: Iterable[Compare] = ()) -> None:
        if not (await self._kv.txn([self._fence, *conditions], operations, repeatable=True)).succeeded:
            raise Deposed

    async def _delete_if(self, key: str, conditions: Sequence[Compare]) -> bool:
        answer = await self._kv.txn([self._fence, *conditions], [Delete(key)], repeatable=True)
        return answer.succeeded

    async def _leases(self, batch: Iterable[str]) -> dict[str, int]:
        return {key: (await self._pool.lease_for(key)).id for key in batch}

    def _wanted(self, candidates: list[str]) -> dict[str, bytes]:
        """Key -> value for those of ``candidates`` that should exist. A canary keeps its first time."""
        wanted: dict[str, bytes] = {}
        for key in candidates:
            if key in self._desired.values:
                wanted[key] = self._desired.values[key]
            elif key in self._config:
                wanted[key] = self._config[key]
            elif key.startswith(keys.synced_prefix(self._cluster)):
                held = self._held.get(key)
                wanted[key] = held.value if held is not None and held.value is not None else _now()
        return wanted

    def _other_canaries(self) -> list[str]:
        """Canaries of what the publisher has no records of: an empty set is complete at once.

        Nodes write their own keys whenever they come, so there is no moment at which theirs are all there.
        """
        return [keys.canary(self._cluster, name) for name in keys.CANARY_RESOURCES if name not in self._forms]

    def _is_record(self, key: str) -> bool:
        """Whether ``key`` is ours to write, or to delete now."""
        forms = self._prefixes if self._audited else self._forms
        return key.startswith(tuple(self._prefixes[name] for name in forms))

    async def _withdraw_canaries(self) -> None:
        """A canary that stands from before the cluster-config said so promises an empty form."""
        key = next(iter(self._config))
        before: Collection[str] = ()
        if key in self._held:
            with contextlib.suppress(InvalidRecord, KeyError):
                config = decode_config(key, self._held[key].value or b"")
                before = FORMS[config.endpoint_slices_export_mode]
        early = [keys.canary(self._cluster, name) for name in self._forms if name not in before]
        if early := [canary for canary in early if canary in self._held]:
            await self._apply(early, {})


def _now() -> bytes:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
