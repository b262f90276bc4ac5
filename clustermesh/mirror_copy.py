"""The copy of one kind of records of one peer: what is read there is written here byte by byte, below the cache's prefix."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import structlog

from clustermesh import keys
from clustermesh.address_record import decode_address
from clustermesh.endpoint_slice import decode_slice
from clustermesh.errors import InvalidRecord
from clustermesh.mirror_store import MirrorStore, now
from clustermesh.node_record import decode_node
from clustermesh.pin import ANY, Pin
from clustermesh.records import ClusterConfig, decode_service
from clustermesh.reflector import Copy, Decode
from clustermesh.removals import Word

log = structlog.get_logger()

GATHER_S = 0.02
"""Changes that come together are written together."""


@dataclass(slots=True)
class Room:
    """How much one peer may have here, so that none can fill the etcd of all. Keys count, too."""

    most_bytes: int
    taken: dict[str, int] = field(default_factory=dict)
    total: int = 0

    def take(self, key: str, size: int) -> None:
        """``key`` has ``size`` bytes now; InvalidRecord if there is no room for them."""
        wanted = self.total - self.taken.get(key, 0) + size
        if wanted > self.most_bytes:
            raise InvalidRecord(key, "value", f"the copy has no room for it within {self.most_bytes} bytes")
        self.taken[key], self.total = size, wanted

    def give_back(self, key: str) -> None:
        """``key`` is gone."""
        self.total -= self.taken.pop(key, 0)


def judged(resource: str, cluster: str, config: ClusterConfig, pin: Pin, room: Room) -> Decode[bytes]:
    """What a value must be to be copied: of a peer with a pin, a record that this allows; of others, anything."""
    cluster_id, most = config.cluster_id, config.max_connected_clusters

    def check(key: str, name: str, value: bytes) -> None:
        match resource:
            case "nodes":
                pin.node(key, decode_node(key, value, cluster=cluster, name=name, cluster_id=cluster_id))
            case "services":
                pin.service(
                    key, decode_service(key, value, cluster=cluster, name=name, cluster_id=cluster_id)
                )
            case "endpointslices":
                pin.endpoint_slice(
                    key, decode_slice(key, value, cluster=cluster, name=name, cluster_id=cluster_id)
                )
            case "ip":
                pin.address(
                    key,
                    decode_address(key, value, name=name, cluster_id=cluster_id, max_connected_clusters=most),
                )

    def copied(key: str, name: str, value: bytes) -> bytes:
        if pin != ANY:
            check(key, name, value)
        room.take(key, len(key) + len(value))
        return value

    return copied


class CopyWriter:
    """Keeps what ``store`` has of ``resource`` of ``cluster`` equal to ``copy``, which a reflector keeps; its outlet.

    ``word()``: what the peer's word is worth: what vanishes while it is not sure stands, until a list is read when it is.
    ``forgotten(name)`` is told of what is not there any more.
    """

    def __init__(
        self,
        store: MirrorStore,
        cluster: str,
        resource: str,
        word: Callable[[], Word],
        forgotten: Callable[[str, str], None],
    ) -> None:
        self.copy: Copy[bytes] = Copy()
        self.is_written = asyncio.Event()
        self._store = store
        self._prefix = keys.records_prefix(cluster, resource, cached=True)
        self._canary = keys.canary(cluster, resource, cached=True)
        self._word = word
        self._forgotten = forgotten
        self._resource = resource
        self._log = log.bind(cluster=cluster, kind=resource)
        self._dirty: set[str] = set()
        self._is_listed = False
        self._is_swept = True
        self._changed = asyncio.Event()
        self._canary_lock = asyncio.Lock()

    # What a reflector tells

    def replace(self, records: Mapping[str, bytes]) -> None:
        """This is all there is."""
        self._dirty |= records.keys()
        self._is_listed = True
        # Else what it lacks may be missing only because its publisher is dead.
        if self._word() is not Word.UNSURE:
            self._is_swept = False
        self._changed.set()

    def put(self, name: str, record: bytes) -> None:
        """This record is new or changed."""
        self._dirty.add(name)
        self._changed.set()

    def delete(self, names: Sequence[str], revision: int) -> None:
        """These records are gone."""
        if self._word() is Word.UNSURE:
            self._log.warning("removals do not count, records stay in the copy", records=len(names))
            return
        self._dirty.update(names)
        self._changed.set()

    def fresh(self) -> None:
        """Changes arrive."""

    def stale(self, reason: str) -> None:
        """What is here stays."""
        self._log.info("not followed now, the copy stays", reason=reason)

    # What is written

    async def run(self) -> NoReturn:
        """Write until cancelled; KvError when the store cannot be relied on, or is not ours to write any more."""
        held = await self._store.records(self._prefix)
        while True:
            await self._changed.wait()
            await asyncio.sleep(GATHER_S)
            self._changed.clear()
            # Before anything is awaited: a list that comes meanwhile is not written yet.
            is_listed = self._is_listed
            names, self._dirty = self._dirty, set()
            if not self._is_swept:
                self._is_swept = True
                names |= {key.removeprefix(self._prefix) for key in held}
            await self._write(names, held)
            if is_listed and not self.is_written.is_set():
                await self._say_complete()

    async def withdraw(self) -> None:
        """What is here is not said to be complete, until a list was written again."""
        async with self._canary_lock:
            self._is_listed = False
            self.is_written.clear()
            await self._store.delete_leased([self._canary])

    async def _say_complete(self) -> None:
        async with self._canary_lock:
            if self._is_listed:
                if await self._store.find(self._canary) is None:
                    await self._store.put_leased(self._canary, now())
                self.is_written.set()

    async def _write(self, names: set[str], held: dict[str, bytes | None]) -> None:
        records = self.copy.records
        puts = {self._prefix + name: records[name] for name in sorted(names & records.keys())}
        puts = {key: value for key, value in puts.items() if held.get(key) != value}
        absent = sorted(names - records.keys())
        gone = [key for key in (self._prefix + name for name in absent) if key in held]
        await self._store.write(puts, gone)
        held.update(puts)
        for key in gone:
            del held[key]
        for name in absent:
            # Unless it came back meanwhile.
            if name not in records:
                self._forgotten(self._resource, name)
