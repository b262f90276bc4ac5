"""The local cluster's voice: of all its nodes one is elected and keeps the cluster's records in etcd as
they should be.

Order of a term in office: adopt what a predecessor left (same values, our leases), write what is desired,
delete what is not but only once the desired set is complete, then say so with the canary. So no peer sees a
key vanish because a publisher died, and none sees a canary before the records it promises. Every write is
fenced by the election.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, NoReturn

import structlog

from clustermesh import keys
from clustermesh.election import Office, campaign
from clustermesh.errors import (
    ClustermeshError,
    InvalidRecord,
    KvError,
    KvRefused,
    OptionsError,
    StoreReplaced,
)
from clustermesh.kv import Compare, Delete, Kv, Operation, Put
from clustermesh.lease_pool import KEYS_PER_LEASE, LeasePool
from clustermesh.publication import Held, batches, to_delete, to_put
from clustermesh.records import MAX_VALUE_BYTES, ClusterConfig, ClusterService, encode_config, encode_service
from clustermesh.single_key import until_absent
from clustermesh.together import until_failure

log = structlog.get_logger()

RETRY_FIRST_S, RETRY_LAST_S = 0.2, 5.0
REQUEST_OVERHEAD_BYTES = 4096
SAY_GOODBYE_S = 2.0


@dataclass(frozen=True, slots=True)
class PublisherOptions:
    """Times in seconds.

    ``election_ttl_s`` is how long a dead publisher is waited for, ``data_ttl_s`` how long its records
    outlive it; the first must be the shorter, or records would vanish before a successor could adopt them.
    Below 15 s a change of etcd's leader can end a lease. ``audit_s``: how often etcd is read again and
    compared.
    """

    election_ttl_s: int = 15
    data_ttl_s: int = 900
    heartbeat_s: float = 60.0
    audit_s: float = 300.0
    keys_per_lease: int = KEYS_PER_LEASE

    def __post_init__(self) -> None:
        if not 0 < self.election_ttl_s < self.data_ttl_s:
            raise OptionsError(
                f"election lease of {self.election_ttl_s} s must be shorter than the data lease of "
                f"{self.data_ttl_s} s, or records vanish before a successor is elected"
            )


Role = Literal["stopped", "candidate", "standby", "publisher"]


@dataclass(frozen=True, slots=True)
class PublisherStatus:
    """``role`` since ``since`` (Unix seconds); ``holder`` is who publishes.

    ``failed``: key -> why etcd refused it.
    """

    role: Role = "stopped"
    since: float = 0.0
    holder: str = ""
    services: int = 0
    complete: bool = False
    pending: int = 0
    puts: int = 0
    deletes: int = 0
    terms: int = 0
    last_error: str = ""
    failed: Mapping[str, str] | None = None


class _Deposed(ClustermeshError):
    """The election key is not ours any more; nothing was written."""


class Publisher:
    """Publishes ``cluster`` into ``kv`` whenever this process is the elected one. ``run()`` does the work.

    The desired services may be changed at any time, before, during and after being elected; only the newest
    counts.
    """

    def __init__(
        self,
        kv: Kv,
        cluster: str,
        config: ClusterConfig,
        *,
        node: str = "",
        options: PublisherOptions | None = None,
    ) -> None:
        if (problem := keys.cluster_name_problem(cluster)) is not None:
            raise OptionsError(f"cluster name {cluster!r} {problem}")
        if not 0 < config.cluster_id <= config.max_connected_clusters:
            raise OptionsError(
                f"cluster id {config.cluster_id} is not within 1..{config.max_connected_clusters}"
            )
        self._kv = kv
        self._cluster = cluster
        self._cluster_id = config.cluster_id
        self._options = options or PublisherOptions()
        self._name = f"{node or 'publisher'}/{secrets.token_hex(8)}"
        self._pool = LeasePool(kv, self._options.data_ttl_s, self._options.keys_per_lease)
        self._fixed = {keys.cluster_config(cluster): encode_config(config)}
        self._services: dict[str, bytes] = {}
        self._complete = False
        self._held: dict[str, Held] = {}
        self._dirty: set[str] = set()
        self._named_deletes: set[str] = set()
        self._failed: dict[str, str] = {}
        self._wake = asyncio.Event()
        self._generation = 0
        self._written = 0
        self._progress = asyncio.Condition()
        self._status = PublisherStatus()

    def set_services(
        self, services: Iterable[ClusterService], *, complete: bool = True
    ) -> dict[str, InvalidRecord]:
        """Replace the desired services (``complete``) or merely add to them (the source has not listed all
        yet).

        Returns the ones that cannot be published, by ``namespace/name``: they keep what was published of
        them before.
        """
        refused: dict[str, InvalidRecord] = {}
        wanted: dict[str, bytes] = {}
        for service in services:
            key = keys.service(self._cluster, service.namespace, service.name)
            try:
                wanted[key] = self._encode(key, service)
            except InvalidRecord as error:
                refused[service.full_name] = error
                if key in self._services:
                    wanted[key] = self._services[key]
        gone = self._services.keys() - wanted.keys() if complete else set()
        changed = {key for key, value in wanted.items() if self._services.get(key) != value}
        for key in gone:
            del self._services[key]
        self._services.update(wanted)
        self._named_deletes -= wanted.keys()
        became_complete = complete and not self._complete
        self._complete = self._complete or complete
        self._touch(changed | gone | (self._held.keys() if became_complete else set()))
        return refused

    def upsert(self, service: ClusterService) -> None:
        """Add or change one. InvalidRecord if it cannot be published; then nothing changes."""
        key = keys.service(self._cluster, service.namespace, service.name)
        value = self._encode(key, service)
        self._named_deletes.discard(key)
        if self._services.get(key) != value:
            self._services[key] = value
            self._touch({key})

    def delete(self, namespace: str, name: str) -> None:
        """Take one back, also before the desired set is complete. An absent one is no error."""
        key = keys.service(self._cluster, namespace, name)
        self._services.pop(key, None)
        self._named_deletes.add(key)
        self._touch({key})

    async def settled(self) -> None:
        """Return when all that was handed over before the call is in etcd (or refused: see status.failed).

        Only an elected publisher writes, so on a standby this waits until it is elected.
        """
        generation = self._generation
        async with self._progress:
            await self._progress.wait_for(lambda: self._written >= generation)

    @property
    def status(self) -> PublisherStatus:
        """Role, counters and the last failure."""
        return replace(
            self._status,
            services=len(self._services),
            complete=self._complete,
            pending=len(self._dirty),
            failed=dict(self._failed),
        )

    async def run(self) -> NoReturn:
        """Stand for election, publish while in office, again and again until cancelled.

        When cancelled the records stay, kept by their leases, and the office is given up at once.
        """
        pause_s = RETRY_FIRST_S
        while True:
            self._enter("candidate")
            failure: ClustermeshError
            try:
                await self._pool.revive()
                office = await campaign(
                    self._kv, keys.publisher(self._cluster), self._name, self._options.election_ttl_s
                )
                if isinstance(office, str):
                    self._enter("standby", holder=office)
                    pause_s = RETRY_FIRST_S
                    await until_absent(self._kv, keys.publisher(self._cluster))
                    continue
                self._enter("publisher", holder=self._name, terms=self._status.terms + 1)
                log.info("elected publisher", cluster=self._cluster)
                failure = await self._serve(office)
                if self._status.since + RETRY_LAST_S < time.time():
                    pause_s = RETRY_FIRST_S
            except KvError as error:
                failure = error
            if isinstance(failure, StoreReplaced):
                self._kv.unpin()  # a new etcd of our own cluster is one to fill
            self._status = replace(self._status, last_error=str(failure))
            log.warning("publishing interrupted", cluster=self._cluster, reason=str(failure), retry_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_LAST_S)

    async def _serve(self, office: Office) -> ClustermeshError:
        """One term in office; why it ended."""
        try:
            failure = await until_failure(
                self._kv.keep(office.lease),
                self._pool.keep(),
                self._publish(office.fence),
                self._beat(office.fence),
            )
        except asyncio.CancelledError:
            await self._resign(office)
            raise
        return failure

    async def _resign(self, office: Office) -> None:
        # Best effort: without it a successor waits for the lease to end.
        with contextlib.suppress(KvError, TimeoutError):
            async with asyncio.timeout(SAY_GOODBYE_S):
                await self._kv.revoke(office.lease)

    async def _publish(self, fence: Compare) -> NoReturn:
        while True:
            self._held = await self._read()
            await self._adopt(fence)
            await self._write(fence, [*self._fixed, *self._other_canaries()])
            self._touch(self._services.keys() | self._held.keys(), new=False)
            try:
                async with asyncio.timeout(self._options.audit_s):
                    await self._follow(fence)
            except TimeoutError:
                self._failed.clear()  # the audit tries them again

    async def _follow(self, fence: Compare) -> NoReturn:
        """Write whatever changes, as it changes."""
        while True:
            self._wake.clear()
            generation, dirty, self._dirty = self._generation, self._dirty, set()
            await self._write(fence, sorted(key for key in dirty if self._is_service(key)))
            self._named_deletes.difference_update(dirty - self._held.keys())
            if self._complete:
                await self._write(fence, [keys.canary(self._cluster, "services")])
            await self._say_written(generation)
            await self._wake.wait()

    async def _read(self) -> dict[str, Held]:
        found = list((await self._kv.list(keys.services_prefix(self._cluster))).items)
        found += (await self._kv.list(keys.synced_prefix(self._cluster))).items
        for key in (*self._fixed, keys.HEARTBEAT):
            item = await self._kv.get(key)
            found += [] if item is None else [item]
        return {item.key: Held(item.value, item.lease) for item in found}

    async def _adopt(self, fence: Compare) -> None:
        """Move what a predecessor left to our leases, values untouched: it must not die with the old ones.

        What is desired by now is written in a moment, lease and all.
        """
        own = self._pool.ids
        foreign = [
            key for key, held in self._held.items() if held.lease not in own and key not in self._services
        ]
        for batch in batches(foreign, {}):
            leases = {key: (await self._pool.lease_for(key)).id for key in batch}
            still_there = [Compare(key, "create", 0, equal=False) for key in batch]
            puts = [Put(key, None, lease) for key, lease in leases.items()]
            if not (await self._kv.txn([fence, *still_there], puts, repeatable=True)).succeeded:
                raise _Deposed("a record vanished or another publisher was elected while adopting")
            for key, lease in leases.items():
                self._held[key] = Held(self._held[key].value, lease)

    async def _write(self, fence: Compare, candidates: list[str]) -> None:
        """Put and delete what differs among ``candidates``.

        In that order, so that nothing is missing in between.
        """
        desired = self._desired(candidates)
        for batch in batches(to_put(desired, self._held, candidates, self._pool.ids), desired):
            await self._apply(fence, batch, desired)
        services = [key for key in candidates if self._is_service(key)]
        gone = to_delete(desired, self._held, services, complete=self._complete, named=self._named_deletes)
        for batch in batches(gone, {}):
            await self._apply(fence, batch, desired)

    async def _apply(self, fence: Compare, batch: list[str], desired: Mapping[str, bytes]) -> None:
        leases = {key: (await self._pool.lease_for(key)).id for key in batch if key in desired}
        operations: list[Operation] = [
            Put(key, desired[key], leases[key]) if key in desired else Delete(key) for key in batch
        ]
        try:
            result = await self._kv.txn([fence], operations, repeatable=True)
        except KvRefused as error:
            await self._blame(fence, batch, desired, error)
            return
        if not result.succeeded:
            raise _Deposed("another publisher was elected")
        for key in batch:
            self._failed.pop(key, None)
            self._note(key, desired.get(key), leases.get(key, 0))

    async def _blame(
        self, fence: Compare, batch: list[str], desired: Mapping[str, bytes], error: KvRefused
    ) -> None:
        """One record that etcd refuses must not hold up the others of its batch."""
        if len(batch) > 1:
            for key in batch:
                await self._apply(fence, [key], desired)
            return
        self._failed[batch[0]] = error.reason
        log.error("record refused by etcd", key=batch[0], reason=error.reason)

    def _note(self, key: str, value: bytes | None, lease: int) -> None:
        if value is None:
            self._held.pop(key, None)
            self._named_deletes.discard(key)
            self._pool.release(key)
            self._status = replace(self._status, deletes=self._status.deletes + 1)
        else:
            self._held[key] = Held(value, lease)
            self._status = replace(self._status, puts=self._status.puts + 1)

    async def _beat(self, fence: Compare) -> NoReturn:
        while True:
            lease = await self._pool.lease_for(keys.HEARTBEAT)
            beat = Put(keys.HEARTBEAT, _now(), lease.id)
            if not (await self._kv.txn([fence], [beat], repeatable=True)).succeeded:
                raise _Deposed("another publisher was elected")
            await asyncio.sleep(self._options.heartbeat_s)

    def _desired(self, candidates: list[str]) -> dict[str, bytes]:
        """Key -> value for those of ``candidates`` that should exist.

        A canary keeps the time it was first written.
        """
        desired: dict[str, bytes] = {}
        for key in candidates:
            if key in self._services:
                desired[key] = self._services[key]
            elif key in self._fixed:
                desired[key] = self._fixed[key]
            elif key.startswith(keys.synced_prefix(self._cluster)):
                held = self._held.get(key)
                desired[key] = held.value if held is not None and held.value is not None else _now()
        return desired

    def _other_canaries(self) -> list[str]:
        """Canaries of what this publisher has no records of: an empty set is written as soon as one looks
        at it.

        Nodes write their own keys whenever they come, so there is no moment at which theirs are all there.
        """
        return [keys.canary(self._cluster, name) for name in keys.CANARY_RESOURCES if name != "services"]

    def _encode(self, key: str, service: ClusterService) -> bytes:
        if service.cluster != self._cluster or service.cluster_id != self._cluster_id:
            reason = f"is {service.cluster!r} ({service.cluster_id}), this is {self._cluster!r} ({self._cluster_id})"
            raise InvalidRecord(key, "cluster", reason)
        value = encode_service(service)
        if len(value) > MAX_VALUE_BYTES - REQUEST_OVERHEAD_BYTES:
            raise InvalidRecord(key, "value", f"{len(value)} bytes are more than etcd takes in a request")
        return value

    def _is_service(self, key: str) -> bool:
        return key.startswith(keys.services_prefix(self._cluster))

    def _touch(self, changed: Iterable[str], *, new: bool = True) -> None:
        self._dirty.update(changed)
        self._generation += new
        self._wake.set()

    async def _say_written(self, generation: int) -> None:
        async with self._progress:
            self._written = generation
            self._progress.notify_all()

    def _enter(self, role: Role, *, holder: str = "", terms: int | None = None) -> None:
        terms = self._status.terms if terms is None else terms
        self._status = replace(self._status, role=role, since=time.time(), holder=holder, terms=terms)


def _now() -> bytes:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
