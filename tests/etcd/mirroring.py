"""A mirror, who reads its copy, and what tests look at in both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from clustermesh import keys
from clustermesh.kv import Kv
from clustermesh.mirror import Mirror, MirrorOptions
from clustermesh.peers import Peer
from clustermesh.remote import Remote, RemoteOptions
from tests.etcd.node_recording import RecordingNodes
from tests.etcd.process import EtcdProcess
from tests.etcd.recording import RecordingSink

QUICK = MirrorOptions(election_ttl_s=3, data_ttl_s=60, scan_s=0.05, drain_s=0.3)
Make = Callable[..., EtcdProcess]


@asynccontextmanager
async def mirroring(
    directory: Path, into: EtcdProcess, options: MirrorOptions = QUICK
) -> AsyncIterator[Mirror]:
    """cm-9 copies the peers of ``directory`` into ``into``."""
    async with into.kv() as kv:
        mirror = Mirror(directory, "cm-9", 9, kv, options=options)
        task = asyncio.create_task(mirror.run())
        try:
            yield mirror
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def reading(
    into: EtcdProcess, sink: RecordingSink, name: str, **options: float
) -> AsyncIterator[tuple[Remote, RecordingNodes]]:
    """A node of cm-9 reads the copy of ``name``."""
    nodes = RecordingNodes(sink)
    settings = RemoteOptions(**options)  # type: ignore[arg-type] # passed through
    remote = Remote(Peer(name, (into.endpoint,)), 9, sink, lambda _: None, nodes=nodes, options=settings)
    task = asyncio.create_task(remote.run())
    try:
        yield remote, nodes
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def beat(kv: Kv) -> None:
    """The peer's publisher lives."""
    await kv.put(keys.HEARTBEAT, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode())


async def stored(kv: Kv, prefix: str = "cilium/") -> dict[str, bytes | None]:
    """What stands below ``prefix``, less the heartbeat."""
    return {item.key: item.value for item in (await kv.list(prefix)).items if item.key != keys.HEARTBEAT}


async def mirrored(kv: Kv, *names: str) -> None:
    """All canaries of the copies of ``names`` are there."""
    wanted = {
        keys.canary(name, resource, cached=True) for name in names for resource in keys.CANARY_RESOURCES
    }

    async def are_there() -> bool:
        return wanted <= (await stored(kv, "cilium/synced/")).keys()

    await until_so(are_there)


async def until_so(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until ``condition()`` is true."""
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.05)


async def all_canaries(kv: Kv, cluster: str) -> None:
    """Those that share() leaves out: an exporter that has none of a kind says so."""
    for resource in keys.CANARY_RESOURCES:
        await kv.put(keys.canary(cluster, resource), b"now")
