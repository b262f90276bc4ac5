"""Nodes and addresses of a peer, read from a real etcd: in order, validated, and what becomes of them when they vanish."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from clustermesh import keys
from clustermesh.kv import Kv
from clustermesh.node_record import encode_node
from clustermesh.operations import Put
from clustermesh.own_keys import OwnKeys
from clustermesh.peers import Peer
from clustermesh.records import encode_config
from clustermesh.remote import Remote, RemoteOptions
from tests.etcd.node_recording import RecordingNodes
from tests.etcd.process import EtcdProcess
from tests.etcd.recording import RecordingSink
from tests.etcd.test_nodes import NODE, NODE_KEY, addresses
from tests.etcd.test_publisher import CONFIG, running
from tests.etcd.test_remote import share


@asynccontextmanager
async def reading(
    etcd: EtcdProcess, sink: RecordingSink, **options: float
) -> AsyncIterator[tuple[Remote, RecordingNodes]]:
    """Cluster 2 reads cm-1 from ``etcd`` until the block ends, nodes and all."""
    nodes = RecordingNodes(sink)
    settings = RemoteOptions(**options)  # type: ignore[arg-type] # passed through
    remote = Remote(Peer("cm-1", (etcd.endpoint,)), 2, sink, lambda _: None, options=settings, nodes=nodes)
    task = asyncio.create_task(remote.run())
    try:
        yield remote, nodes
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def canary(kv: Kv, *resources: str) -> None:
    """The exporter has written everything of ``resources``."""
    for resource in resources:
        await kv.put(keys.canary("cm-1", resource), b"now")


async def test_nodes_are_told_before_addresses_and_these_before_services(etcd: EtcdProcess, kv: Kv) -> None:
    sink = RecordingSink()
    await share(kv, 2)
    await kv.put(NODE_KEY, encode_node(NODE))
    await kv.txn([], [Put(key, value) for key, value in addresses(2).items()])
    async with reading(etcd, sink) as (remote, nodes):
        await sink.until(lambda: keys.canary("cm-1", "nodes") in remote.status.reason)
        assert sink.events == []
        # A canary of the addresses alone releases nothing.
        await canary(kv, "ip", "identities", "nodes")
        await sink.told("synced", "cm-1")
        assert nodes.nodes == {"n1": NODE}
        assert sorted(nodes.addresses) == ["10.1.0.1", "10.1.0.2"]
        status = remote.status
        assert (status.nodes, status.addresses, status.services) == (1, 2, 2)


async def test_the_order_holds_whatever_was_there_first(etcd: EtcdProcess, kv: Kv) -> None:
    sink = RecordingSink()
    await share(kv, 1)
    await canary(kv, "ip", "identities", "nodes")
    async with reading(etcd, sink):
        await sink.until(lambda: ("synced", "cm-1") in sink.events)
    assert sink.events[:4] == [
        ("nodes", "cm-1"),
        ("addresses", "cm-1"),
        ("replace", "cm-1", "1"),
        ("synced", "cm-1"),
    ]


async def test_the_copy_of_a_kvstoremesh_is_read_below_its_own_prefixes(etcd: EtcdProcess, kv: Kv) -> None:
    sink = RecordingSink()
    await kv.put(keys.cluster_config("cm-1"), encode_config(replace(CONFIG, cached=True)))
    await kv.put("cilium/cache/nodes/v1/cm-1/n1", encode_node(NODE))
    for key, value in addresses(2).items():
        await kv.put(key.replace("cilium/state/ip/v1/default", "cilium/cache/ip/v1/cm-1"), value)
    # Of its own cluster, not of the one that is copied.
    await kv.put(keys.address("10.9.9.9"), addresses(1)[keys.address("10.1.0.1")])
    for resource in ("nodes", "identities", "ip", "services"):
        await kv.put(keys.canary("cm-1", resource, cached=True), b"now")
    async with reading(etcd, sink) as (remote, nodes):
        await sink.told("synced", "cm-1")
    assert (nodes.nodes, sorted(nodes.addresses)) == ({"n1": NODE}, ["10.1.0.1", "10.1.0.2"])
    assert remote.status.refused == {}


async def test_changes_arrive_and_keys_of_one_lease_vanish_at_one_revision(etcd: EtcdProcess, kv: Kv) -> None:
    sink = RecordingSink()
    await share(kv, 1)
    await canary(kv, "ip", "identities", "nodes")
    own = OwnKeys(kv, ttl_s=60)
    async with reading(etcd, sink) as (_, nodes):
        await sink.told("synced", "cm-1")
        async with running(own):
            own.update({NODE_KEY: encode_node(NODE), **addresses(1)})
            await own.settled()
            await sink.until(lambda: len(nodes.nodes) == len(nodes.addresses) == 1)
            held = await kv.get(NODE_KEY)
        assert held is not None
        etcd.ctl("lease", "revoke", f"{held.lease:x}")
        vanished = ("node vanished", "address vanished")
        await sink.until(lambda: {event[0] for event in sink.events} >= set(vanished))
    found = {event[0]: event[-1] for event in sink.events if event[0] in vanished}
    assert found["node vanished"] == found["address vanished"]


async def test_an_address_that_vanishes_without_a_heartbeat_stands_until_there_are_two(
    etcd: EtcdProcess, kv: Kv
) -> None:
    sink = RecordingSink()
    await share(kv, 1)
    for key, value in addresses(2).items():
        await kv.put(key, value)
    await canary(kv, "identities")
    await canary(kv, "ip")
    await canary(kv, "nodes")
    async with reading(etcd, sink, heartbeat_limit_s=1.0):
        await sink.told("stale", "cm-1", "no heartbeat for 1 s")
        await kv.delete(keys.address("10.1.0.1"))
        await kv.put(
            keys.address("10.1.0.3"), next(iter(addresses(3).values())).replace(b"10.1.0.1", b"10.1.0.3")
        )
        await sink.told("address", "cm-1", "10.1.0.3")
        assert not any(event[0] == "address vanished" for event in sink.events)
        await kv.put(keys.HEARTBEAT, b"one")
        await kv.put(keys.HEARTBEAT, b"two")
        await sink.told("addresses", "cm-1", "10.1.0.2", "10.1.0.3")


async def test_a_record_that_speaks_for_somebody_else_is_refused_and_named(etcd: EtcdProcess, kv: Kv) -> None:
    sink = RecordingSink()
    await share(kv, 1)
    wire = json.loads(encode_node(NODE))
    await kv.put(keys.node("cm-1", "n2"), json.dumps(wire | {"Name": "n2", "Cluster": "cm-3"}).encode())
    await kv.put(keys.node("cm-1", "n3"), json.dumps(wire | {"Name": "n3", "ClusterID": 3}).encode())
    good, bad = sorted(addresses(2))
    await kv.put(good, addresses(2)[good])
    await kv.put(bad, json.dumps(json.loads(addresses(2)[bad]) | {"ID": 3 << 16}).encode())
    await canary(kv, "ip", "identities", "nodes")
    async with reading(etcd, sink) as (remote, nodes):
        await sink.told("synced", "cm-1")
        refused = remote.status.refused
    assert sorted(refused) == ["address 10.1.0.2", "node n2", "node n3"]
    assert (nodes.nodes, sorted(nodes.addresses)) == ({}, ["10.1.0.1"])
    assert remote.status.refusals == {"Cluster": 1, "ClusterID": 1, "ID": 1}
