"""A peer that says more than it was joined for, against a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network

from clustermesh import keys
from clustermesh.kv import Kv
from clustermesh.peers import Peer
from clustermesh.pin import Pin
from clustermesh.records import encode_config, encode_service
from clustermesh.remote import Remote
from tests.etcd.process import EtcdProcess
from tests.etcd.recording import RecordingSink
from tests.etcd.test_publisher import CONFIG, service

OWN = ip_network("10.1.0.0/16")


@asynccontextmanager
async def reading(
    etcd: EtcdProcess, sink: RecordingSink, pin: Pin, known: Remote | None = None
) -> AsyncIterator[Remote]:
    """Cluster 2 reads cm-1, which it was joined with as ``pin`` says."""
    peer = Peer("cm-1", (etcd.endpoint,), pin=pin)
    remote = Remote(peer, 2, sink, lambda _: None, known=known.known if known else None)
    task = asyncio.create_task(remote.run())
    try:
        yield remote
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def share(kv: Kv, **backends: str) -> None:
    await kv.put(keys.cluster_config("cm-1"), encode_config(CONFIG))
    for name, address in backends.items():
        await kv.put(keys.service("cm-1", "ns", name), encode_service(service(name, address)))
    await kv.put(keys.canary("cm-1", "services"), b"2026-01-01T00:00:00Z")


async def test_a_service_with_a_backend_elsewhere_is_refused_alone(etcd: EtcdProcess, kv: Kv) -> None:
    sink = RecordingSink()
    await share(kv, mine="10.1.0.9", stolen="10.2.0.9")
    async with reading(etcd, sink, Pin(1, (OWN,))) as remote:
        await sink.told("synced", "cm-1")
        assert set(sink.services["cm-1"]) == {"ns/mine"}
        assert remote.status.refused == {
            "ns/stolen": "backends: 10.2.0.9 is in no network that the peer was joined with"
        }


async def test_a_peer_with_another_id_is_not_connected(etcd: EtcdProcess, kv: Kv) -> None:
    sink = RecordingSink()
    await share(kv, mine="10.1.0.9")
    async with reading(etcd, sink, Pin(7, (OWN,))) as remote:
        await sink.until(lambda: "joined as 7" in remote.status.reason)
        assert (remote.status.state, sink.services.get("cm-1")) == ("connecting", None)


async def test_a_narrower_pin_takes_away_what_it_does_not_allow(etcd: EtcdProcess, kv: Kv) -> None:
    sink = RecordingSink()
    await share(kv, mine="10.1.0.9", stolen="10.2.0.9")
    async with reading(etcd, sink, Pin()) as before:
        await sink.told("synced", "cm-1")
        assert set(sink.services["cm-1"]) == {"ns/mine", "ns/stolen"}
    async with reading(etcd, sink, Pin(1, (OWN,)), before):
        await sink.until(lambda: set(sink.services["cm-1"]) == {"ns/mine"})
