"""Worker: speaks for many clusters, each in an etcd of its own, as their publishers do.

    python -m meshd.bench.mesh_peers DIRECTORY      etcd client files, named like the clusters

Requests, one JSON object a line:
    {"populate": [services, backends]}   every cluster shares so many services with so many backends each -> {}
    {"change": [cluster, service, n]}    the service has n of its backends -> {"put_ns": CLOCK_MONOTONIC before the request}
    {"go_on": [rate, first]}             from service ``first`` on, backends come and go ``rate`` times a second -> {}
    {"rest": true}                       no longer -> {"changes": how many that were}
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from clustermesh import keys
from clustermesh.errors import ClustermeshError
from clustermesh.kv import Kv
from clustermesh.peers import parse_file
from clustermesh.records import ClusterConfig, ClusterService, Port, encode_config, encode_service
from meshd.bench.population import BACKEND_PORT, NAMESPACE

FIRST_ID = 2
TOGETHER = 32
HEARTBEAT = b"2026-01-01T00:00:00Z"
RESOURCES = ("nodes", "identities", "ip", "services")
# A /12 for each cluster, from this address on.
_NETWORK, SIZE = int(IPv4Address("16.0.0.0")), 1 << 20


def backends(number: int, service: int, count: int, most: int) -> list[IPv4Address]:
    """The first ``count`` of the ``most`` backends of a service of cluster ``number``."""
    first = _NETWORK + number * SIZE + service * most + 1
    return [IPv4Address(first + each) for each in range(count)]


class Peer:
    """One cluster: ``number`` 0, 1, ..., in the etcd of ``kv``."""

    def __init__(self, name: str, number: int, kv: Kv) -> None:
        self.name = name
        self._number = number
        self._kv = kv
        self._most = 0

    async def populate(self, services: int, most: int) -> None:
        """In the order of a publisher: records, then canaries, then the configuration."""
        self._most = most
        places = asyncio.Semaphore(TOGETHER)

        async def one(service: int) -> None:
            async with places:
                await self.put(service, most)

        await self._kv.put(keys.HEARTBEAT, HEARTBEAT)
        await asyncio.gather(*(one(service) for service in range(services)))
        for resource in RESOURCES:
            await self._kv.put(keys.canary(self.name, resource), HEARTBEAT)
        config = ClusterConfig(FIRST_ID + self._number)
        await self._kv.put(keys.cluster_config(self.name), encode_config(config))

    async def put(self, service: int, count: int) -> None:
        """Service ``service`` has ``count`` backends."""
        ports = {"http": Port("TCP", BACKEND_PORT)}
        found = backends(self._number, service, count, self._most)
        record = ClusterService(
            self.name,
            NAMESPACE,
            f"s{service}",
            FIRST_ID + self._number,
            backends=dict.fromkeys(found, ports),
        )
        await self._kv.put(keys.service(self.name, NAMESPACE, f"s{service}"), encode_service(record))


class Peers:
    """All of them, and what they do by themselves."""

    def __init__(self, peers: Sequence[Peer]) -> None:
        self._peers = peers
        self._services = self._most = self._changes = 0
        self._stream: asyncio.Task[None] | None = None

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
        """What is said to one request."""
        match request:
            case {"populate": [services, most]}:
                self._services, self._most = services, most
                await asyncio.gather(*(peer.populate(services, most) for peer in self._peers))
                return {}
            case {"change": [number, service, count]}:
                began = time.monotonic_ns()
                await self._peers[number].put(service, count)
                return {"put_ns": began}
            case {"go_on": [rate, first]}:
                self._changes = 0
                self._stream = asyncio.create_task(self._go_on(rate, first))
                return {}
            case _:
                if self._stream is not None:
                    self._stream.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await self._stream
                return {"changes": self._changes}

    async def _go_on(self, rate: int, first: int) -> None:
        places = asyncio.Semaphore(TOGETHER)

        async def change(number: int) -> None:
            peer = self._peers[number % len(self._peers)]
            turn = number // len(self._peers)
            service = first + turn // 2 % (self._services - first)
            try:
                await peer.put(service, self._most - 1 + turn % 2)
                self._changes += 1
            finally:
                places.release()

        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in itertools.count():
                await places.acquire()
                tasks.create_task(change(number))
                await asyncio.sleep(max(began + (number + 1) / rate - time.monotonic(), 0.0))


async def work(files: Sequence[Path]) -> None:
    """Answers standard input until it ends. ``files``: of etcd clients, one a cluster."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for number, path in enumerate(files):
            file = parse_file(str(path), path.name, await asyncio.to_thread(path.read_bytes))
            kv = await stack.enter_async_context(Kv(file.endpoints, credentials=None, tls=file.tls))
            found.append(Peer(path.name, number, kv))
        peers = Peers(found)
        while line := await reader.readline():
            try:
                said = await peers.answer(json.loads(line))
            except ClustermeshError as error:
                said = {"error": str(error)}
            print(json.dumps(said), flush=True)
        await peers.answer({"rest": True})


if __name__ == "__main__":
    asyncio.run(work(sorted(Path(sys.argv[1]).iterdir())))
