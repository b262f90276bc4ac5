"""Reading a peer from a real etcd: canaries, staleness, replaced stores, refused records and peers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from clustermesh import keys
from clustermesh.kv import Kv
from clustermesh.peers import Peer
from clustermesh.publisher import Publisher
from clustermesh.records import ClusterConfig, encode_config, encode_service
from clustermesh.remote import Remote, RemoteOptions
from tests.etcd.process import EtcdProcess
from tests.etcd.recording import RecordingSink
from tests.etcd.test_publisher import CONFIG, SHORT, running, service, services

CANARY = keys.canary("cm-1", "services")


@pytest.fixture
def sink() -> RecordingSink:
    """What the reader under test tells."""
    return RecordingSink()


@asynccontextmanager
async def reading(etcd: EtcdProcess, sink: RecordingSink, **options: object) -> AsyncIterator[Remote]:
    """Cluster 2 reads cm-1 from ``etcd`` until the block ends."""
    settings = RemoteOptions(**options)  # type: ignore[arg-type] # passed through
    remote = Remote(Peer("cm-1", (etcd.endpoint,)), 2, sink, lambda _: None, options=settings)
    task = asyncio.create_task(remote.run())
    try:
        yield remote
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def share(kv: Kv, count: int, *, canary: bool = True) -> None:
    """Write what an exporter of cm-1 with ``count`` services would, which lives."""
    await kv.put(keys.HEARTBEAT, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode())
    await kv.put(keys.cluster_config("cm-1"), encode_config(CONFIG))
    for one in services(count):
        await kv.put(keys.service("cm-1", one.namespace, one.name), encode_service(one))
    if canary:
        await kv.put(CANARY, b"2026-01-01T00:00:00Z")


async def test_what_a_publisher_shares_is_read_in_one_call_and_then_as_it_changes(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    publisher = Publisher(kv, "cm-1", CONFIG, options=SHORT)
    publisher.set_services(services(300))
    async with running(publisher), reading(etcd, sink) as remote:
        await sink.told("replace", "cm-1", "300")
        await sink.told("synced", "cm-1")
        changed = service("svc-007", "10.9.9.9")
        publisher.upsert(changed)
        await sink.told("put", "cm-1", "ns/svc-007")
        publisher.delete("ns", "svc-008")
        await sink.told("delete", "cm-1", "ns/svc-008")
        expected = {one.full_name: one for one in services(300) if one.name != "svc-008"} | {
            "ns/svc-007": changed
        }
        assert sink.services["cm-1"] == expected
        await sink.until(lambda: remote.status.heartbeat_age_s is not None)
        assert (remote.status.state, remote.status.services, remote.status.lag_s) == ("synced", 299, 0.0)
        assert remote.status.etcd_cluster_id == kv.cluster_id


async def test_nothing_is_told_before_the_canary(etcd: EtcdProcess, kv: Kv, sink: RecordingSink) -> None:
    await share(kv, 2, canary=False)
    async with reading(etcd, sink) as remote:
        await sink.until(lambda: CANARY in remote.status.reason)
        assert sink.events == []
        await kv.put(keys.service("cm-1", "ns", "svc-002"), encode_service(services(3)[2]))
        await kv.put(CANARY, b"now")
        await sink.told("replace", "cm-1", "3")


async def test_a_peer_without_canaries_is_read_at_once(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 2, canary=False)
    await kv.put(keys.cluster_config("cm-1"), encode_config(replace(CONFIG, synced_canaries=False)))
    async with reading(etcd, sink):
        await sink.told("replace", "cm-1", "2")


async def test_the_copy_of_a_kvstoremesh_is_read_below_its_own_prefix(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 1)
    await kv.put(keys.cluster_config("cm-1"), encode_config(replace(CONFIG, cached=True)))
    for one in services(3):
        await kv.put(f"cilium/cache/services/v1/cm-1/ns/{one.name}", encode_service(one))
    await kv.put("cilium/synced/cm-1/cilium/cache/services/v1", b"now")
    async with reading(etcd, sink):
        await sink.told("replace", "cm-1", "3")


async def test_while_etcd_is_away_everything_is_kept_as_stale_and_synced_again_without_a_list(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 5)
    async with reading(etcd, sink) as remote:
        await sink.told("synced", "cm-1")
        etcd.stop()
        await sink.told("stale", "cm-1")
        assert (remote.status.state, remote.status.services) == ("stale", 5)
        assert remote.status.lag_s > 0
        await etcd.start()
        await sink.told("synced", "cm-1")
        assert [event for event in sink.events if event[0] in {"replace", "delete", "gone"}] == []
        assert len(sink.services["cm-1"]) == 5


async def test_an_etcd_that_came_back_empty_deletes_nothing_until_a_complete_list(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 5)
    async with reading(etcd, sink) as remote:
        await sink.told("synced", "cm-1")
        etcd.kill()
        etcd.wipe()
        await etcd.start()
        # First it looks empty, then half full: neither is taken for deletions.
        await sink.until(lambda: "waiting for cilium/cluster-config/cm-1" in remote.status.reason)
        async with etcd.kv() as fresh:
            await share(fresh, 3, canary=False)
            await sink.until(lambda: CANARY in remote.status.reason)
            assert len(sink.services["cm-1"]) == 5
            assert remote.status.state == "stale"
            await fresh.put(CANARY, b"now")
        await sink.told("replace", "cm-1", "3")
        await sink.told("synced", "cm-1")


async def test_another_etcd_behind_the_address_is_dropped_and_nothing_deleted_for_what_it_lacks(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink, make_etcd: Callable[..., EtcdProcess]
) -> None:
    await share(kv, 5)
    other = make_etcd("other")
    async with reading(etcd, sink) as remote:
        await sink.told("synced", "cm-1")
        first_id = remote.status.etcd_cluster_id
        etcd.kill()
        other.port = etcd.port
        await other.start()
        await sink.until(lambda: "waiting for cilium/cluster-config/cm-1" in remote.status.reason)
        assert "pinned to" in remote.status.last_failure
        assert len(sink.services["cm-1"]) == 5
        async with other.kv() as fresh:
            await share(fresh, 2)
        await sink.told("replace", "cm-1", "2")
        assert remote.status.etcd_cluster_id not in {None, first_id}


async def test_after_a_compaction_leftovers_go_with_a_new_list(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 5)
    async with reading(etcd, sink) as remote:
        await sink.told("synced", "cm-1")
        etcd.stop()
        await sink.told("stale", "cm-1")
        # The history the reader needs is compacted away before it can see this member again.
        hidden = EtcdProcess(etcd.directory, cluster=etcd.cluster)
        await hidden.start()
        async with hidden.kv() as writer:
            await writer.delete(keys.service("cm-1", "ns", "svc-004"))
            await writer.compact(await writer.put("other", b""))
        hidden.stop()
        await etcd.start()
        await sink.until(lambda: bool(sink.events))
        assert sink.events[0] == ("replace", "cm-1", "4")  # not synced before
        await sink.told("synced", "cm-1")
        assert "ns/svc-004" not in sink.services["cm-1"]
        assert remote.status.failures == 0


BAD_VALUES = {
    "of another cluster": encode_service(replace(service("bad"), cluster="cm-3")),
    "under a wrong key": encode_service(service("other")),
    "with a bad address": encode_service(service("bad")).replace(b'"10.0.0.1"', b'"10.0.0.1%eth0"'),
    "of another cluster id": encode_service(replace(service("bad"), cluster_id=3)),
    "cut short": encode_service(service("bad"))[:-7],
    "of nonsense": b"\xff" * 1_400_000,
}


async def test_values_that_are_not_valid_hurt_only_themselves_and_are_counted_and_named(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 2)
    for number, value in enumerate(BAD_VALUES.values()):
        name = "bad" if b'"bad"' in value else f"bad-{number}"
        await kv.put(keys.service("cm-1", "ns" if name == "bad" else f"ns{number}", name), value)
        if name == "bad":
            await kv.put(keys.service("cm-1", f"ns-{number}", name), value)
    async with reading(etcd, sink) as remote:
        await sink.told("synced", "cm-1")
        assert set(sink.services["cm-1"]) == {"ns/svc-000", "ns/svc-001"}
        assert sum(remote.status.refusals.values()) == len(remote.status.refused) >= len(BAD_VALUES)
        await kv.put(keys.service("cm-1", "ns", "svc-002"), encode_service(services(3)[2]))
        await sink.told("put", "cm-1", "ns/svc-002")


@pytest.mark.parametrize("value", BAD_VALUES.values(), ids=BAD_VALUES.keys())
async def test_the_last_good_version_of_a_record_stays_when_a_bad_one_comes(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink, value: bytes
) -> None:
    await share(kv, 2)
    key = keys.service("cm-1", "ns", "svc-000")
    async with reading(etcd, sink) as remote:
        await sink.told("synced", "cm-1")
        await kv.put(key, value)
        await sink.until(lambda: "ns/svc-000" in remote.status.refused)
        assert sink.services["cm-1"]["ns/svc-000"] == services(1)[0]
        await kv.put(key, encode_service(service("svc-000", "10.0.0.77")))
        await sink.told("put", "cm-1", "ns/svc-000")
        assert remote.status.refused == {}


async def test_16_mib_of_nonsense_hurt_only_themselves(
    make_etcd: Callable[..., EtcdProcess], sink: RecordingSink
) -> None:
    etcd = make_etcd(extra=["--max-request-bytes", str(18 << 20)])
    await etcd.start()
    async with etcd.kv() as kv:
        await share(kv, 2)
        await kv.put(keys.service("cm-1", "ns", "nonsense"), b"[" * (16 << 20))
        async with reading(etcd, sink) as remote:
            await sink.told("replace", "cm-1", "2")
            assert list(remote.status.refused) == ["ns/nonsense"]
            await kv.put(keys.service("cm-1", "ns", "nonsense2"), b"\0" * (16 << 20))
            await sink.until(lambda: "ns/nonsense2" in remote.status.refused)
            await kv.put(keys.service("cm-1", "ns", "svc-002"), encode_service(services(3)[2]))
            await sink.until(lambda: "ns/svc-002" in sink.services["cm-1"])


async def test_a_publisher_that_writes_the_same_again_is_not_told_on(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 2)
    async with reading(etcd, sink):
        await sink.told("synced", "cm-1")
        await share(kv, 2)
        await kv.put(keys.service("cm-1", "ns", "svc-002"), encode_service(services(3)[2]))
        await sink.until(lambda: bool(sink.events))
        assert sink.events == [("put", "cm-1", "ns/svc-002")]


REFUSED_CONFIGS = {
    "id 0": (ClusterConfig(0), "cluster id 0 is not within"),
    "our own id": (ClusterConfig(2), "our own cluster id 2"),
    "an id beyond the limit": (ClusterConfig(300), "not within 1..255"),
    "another limit": (ClusterConfig(1, max_connected_clusters=511), "allows 511 connected clusters, we 255"),
    "an unknown export mode": (ClusterConfig(1, endpoint_slices_export_mode="telepathy"), "'telepathy'"),
}


@pytest.mark.parametrize(("config", "reason"), REFUSED_CONFIGS.values(), ids=REFUSED_CONFIGS.keys())
async def test_a_peer_is_refused_for(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink, config: ClusterConfig, reason: str
) -> None:
    await share(kv, 1)
    await kv.put(keys.cluster_config("cm-1"), encode_config(config))
    async with reading(etcd, sink) as remote:
        await sink.until(lambda: reason in remote.status.last_failure)
        assert sink.events == []
        await kv.put(keys.cluster_config("cm-1"), encode_config(CONFIG))
        await sink.told("synced", "cm-1")


async def test_a_changed_cluster_config_is_taken_up_without_a_restart(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 1)
    async with reading(etcd, sink) as remote:
        await sink.told("synced", "cm-1")
        moved = replace(services(1)[0], cluster_id=9)
        await kv.put(keys.service("cm-1", "ns", "svc-000"), encode_service(moved))
        await kv.put(keys.cluster_config("cm-1"), encode_config(replace(CONFIG, cluster_id=9)))
        await sink.until(
            lambda: remote.status.cluster_id == 9 and sink.services["cm-1"] == {"ns/svc-000": moved}
        )


async def test_a_silent_heartbeat_makes_a_peer_stale_and_the_next_one_synced(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 1)
    async with reading(etcd, sink, heartbeat_limit_s=0.3):
        await sink.told("stale", "cm-1", "no heartbeat for 0.3 s")
        await kv.put(keys.HEARTBEAT, b"any value")
        await sink.told("synced", "cm-1")
        # Data goes on while only the heartbeat is missing, and its end is no heartbeat.
        await sink.told("stale", "cm-1")
        await kv.delete(keys.HEARTBEAT)
        await kv.put(keys.service("cm-1", "ns", "svc-001"), encode_service(services(2)[1]))
        await sink.told("put", "cm-1", "ns/svc-001")
        assert ("synced", "cm-1") not in sink.events


def test_the_bad_values_are_bad_for_the_reason_their_name_says() -> None:
    assert json.loads(BAD_VALUES["of another cluster"])["cluster"] == "cm-3"
    assert b"%eth0" in BAD_VALUES["with a bad address"]
