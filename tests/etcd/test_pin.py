"""A peer that says more than it was joined for, against a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network

from clustermesh import keys
from clustermesh.addresses import Address
from clustermesh.kv import Kv
from clustermesh.peers import Peer
from clustermesh.pin import Forbids, Pin, nothing
from clustermesh.records import encode_config, encode_service
from clustermesh.remote import Remote
from tests.etcd.process import EtcdProcess
from tests.etcd.recording import RecordingSink
from tests.etcd.test_publisher import CONFIG, service

OWN = ip_network("10.1.0.0/16")


@asynccontextmanager
async def reading(
    etcd: EtcdProcess,
    sink: RecordingSink,
    pin: Pin,
    known: Remote | None = None,
    forbids: Forbids = nothing,
) -> AsyncIterator[Remote]:
    """Cluster 2 reads cm-1, which it was joined with as ``pin`` says."""
    peer = Peer("cm-1", (etcd.endpoint,), pin=pin)
    remote = Remote(peer, 2, sink, lambda _: None, known=known.known if known else None, forbids=forbids)
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


async def test_a_backend_where_none_may_be_is_refused_whatever_the_pin_says(
    etcd: EtcdProcess, kv: Kv
) -> None:
    sink, ours = RecordingSink(), {ip_address("10.1.0.8")}

    def forbids(address: Address) -> str:
        return "is ours" if address in ours else ""

    await share(kv, mine="10.1.0.9", ours="10.1.0.8", later="10.1.0.7")
    async with reading(etcd, sink, Pin(1, (OWN,)), forbids=forbids) as remote:
        await sink.told("synced", "cm-1")
        assert set(sink.services["cm-1"]) == {"ns/mine", "ns/later"}
        assert remote.status.refused == {"ns/ours": "backends: 10.1.0.8 is ours"}
        # What was in force is not kept as a last good version.
        ours.add(ip_address("10.1.0.7"))
        remote.judge_again()
        await sink.until(lambda: set(sink.services["cm-1"]) == {"ns/mine"})
        await sink.until(lambda: set(remote.status.refused) == {"ns/ours", "ns/later"})
        assert sink.services["cm-1"].keys() == {"ns/mine"}


async def test_what_becomes_forbidden_goes_also_while_the_peer_is_out_of_reach(
    etcd: EtcdProcess, kv: Kv
) -> None:
    sink, ours = RecordingSink(), set[Address]()
    await share(kv, mine="10.1.0.9", later="10.1.0.7")
    forbids = lambda address: "is ours" if address in ours else ""  # noqa: E731 - as short as it gets
    async with reading(etcd, sink, Pin(1, (OWN,)), forbids=forbids) as remote:
        await sink.told("synced", "cm-1")
        etcd.kill()
        await sink.told("stale", "cm-1")
        ours.add(ip_address("10.1.0.7"))
        remote.judge_again()
        assert set(sink.services["cm-1"]) == {"ns/mine"}
        assert remote.status.services == 1
