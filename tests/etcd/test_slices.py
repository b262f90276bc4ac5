"""Services as endpoint slices, through a real etcd: written, read, and changed from one form to the other under readers."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from clustermesh import keys
from clustermesh.compression import compress
from clustermesh.endpoint_slice import encode_slice
from clustermesh.kv import Kv
from clustermesh.peers import Peer
from clustermesh.pin import Pin
from clustermesh.publisher import Publisher
from clustermesh.records import ClusterConfig, ClusterService, Port, encode_config, encode_service
from clustermesh.remote import Remote
from clustermesh.service_slices import slices_of
from tests.etcd.process import EtcdProcess
from tests.etcd.recording import RecordingSink
from tests.etcd.test_mesh import peer_file, run_cli
from tests.etcd.test_publisher import CONFIG, SHORT, changes_until, running, service, services, stored
from tests.etcd.test_remote import reading

BOTH = replace(CONFIG, endpoint_slices_export_mode="services-and-endpointslices")
SLICES = replace(CONFIG, endpoint_slices_export_mode="endpointslices-only")
SLICES_PREFIX = keys.slices_prefix("cm-1")
CANARY = keys.canary("cm-1", "endpointslices")
QUICK = replace(SHORT, audit_s=0.2)


def slice_keys(*these: ClusterService) -> set[str]:
    return {keys.endpoint_slice("cm-1", one.namespace, one.name) for each in these for one in slices_of(each)}


def as_slices(one: ClusterService) -> ClusterService:
    """What slices tell of ``one``: a service's frontends are the reader's own."""
    return replace(one, frontends={})


async def share_slices(kv: Kv, *these: ClusterService, canary: bool = True) -> None:
    """Write what an exporter of cm-1 would in the mode endpointslices-only."""
    await kv.put(keys.cluster_config("cm-1"), encode_config(SLICES))
    for each in these:
        for one in slices_of(each):
            await kv.put(keys.endpoint_slice("cm-1", one.namespace, one.name), encode_slice(one))
    if canary:
        await kv.put(CANARY, b"now")


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.mark.parametrize("mode", [BOTH, SLICES], ids=["both", "slices"])
async def test_what_is_written_as_slices_is_read_as_services_and_as_it_changes(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink, mode: ClusterConfig
) -> None:
    publisher = Publisher(kv, "cm-1", mode, options=SHORT)
    publisher.set_services(services(150))
    async with running(publisher), reading(etcd, sink) as remote:
        await sink.told("replace", "cm-1", "150")
        await sink.told("synced", "cm-1")
        many = {ip_address("10.0.0.0") + number: {"http": Port("TCP", 80)} for number in range(500)}
        large = replace(service("svc-007"), backends=many, terminating=(ip_address("10.0.0.9"),))
        publisher.upsert(large)
        await sink.until(lambda: sink.services["cm-1"]["ns/svc-007"] == as_slices(large))
        none = replace(large, backends={}, terminating=())
        publisher.upsert(none)
        await sink.until(lambda: sink.services["cm-1"]["ns/svc-007"] == as_slices(none))
        publisher.delete("ns", "svc-008")
        await sink.told("delete", "cm-1", "ns/svc-008")
        await publisher.settled()
        assert (remote.status.state, remote.status.services, publisher.status.services) == (
            "synced",
            149,
            149,
        )
        left = [one for one in services(150) if one.name not in {"svc-007", "svc-008"}]
        assert set(await stored(kv, SLICES_PREFIX)) == slice_keys(*left, none)
        as_values = await stored(kv)
    expected = {keys.service("cm-1", "ns", one.name): encode_service(one) for one in (*left, none)}
    assert as_values == (expected if mode == BOTH else {})


async def test_the_canary_of_slices_comes_after_all_of_them(kv: Kv) -> None:
    publisher = Publisher(kv, "cm-1", SLICES)
    publisher.set_services(services(250))
    async with running(publisher):
        seen = await changes_until(kv, 0, lambda change: change.key == CANARY)
    assert slice_keys(*services(250)) <= {change.key for change in seen[:-1]}


async def test_slices_are_told_only_after_their_canary(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share_slices(kv, *services(2), canary=False)
    await kv.put(keys.canary("cm-1", "services"), b"now")
    async with reading(etcd, sink) as remote:
        await sink.until(lambda: CANARY in remote.status.reason)
        assert sink.events == []
        await kv.put(CANARY, b"now")
        await sink.told("replace", "cm-1", "2")


async def test_slices_that_a_kvstoremesh_copied_are_read_below_its_own_prefix(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share_slices(kv, *services(1))
    await kv.put(keys.cluster_config("cm-1"), encode_config(replace(SLICES, cached=True)))
    for key, value in [(one, slices_of(each)[0]) for each in services(3) for one in slice_keys(each)]:
        await kv.put(key.replace("cilium/state", "cilium/cache"), encode_slice(value))
    await kv.put("cilium/synced/cm-1/cilium/cache/endpointslices/v1", b"now")
    async with reading(etcd, sink):
        await sink.told("replace", "cm-1", "3")


async def test_a_slice_that_is_not_valid_hurts_only_itself_and_its_last_good_version_stays(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share_slices(kv, *services(2))
    (key,) = slice_keys(services(1)[0])
    async with reading(etcd, sink) as remote:
        await sink.told("synced", "cm-1")
        await kv.put(key, b"{}")
        await kv.put(keys.endpoint_slice("cm-1", "ns", "bomb"), compress(bytes(17 << 20)))
        await sink.until(lambda: len(remote.status.refused) == 2)
        assert sorted(remote.status.refused) == [
            "endpoint slice ns/bomb",
            "endpoint slice ns/svc-000-ipv4-0",
        ]
        assert remote.status.refusals == {"value": 2}
        assert sink.services["cm-1"]["ns/svc-000"] == as_slices(services(1)[0])
        await kv.put(key, encode_slice(slices_of(service("svc-000", "10.0.0.77"))[0]))
        await sink.told("put", "cm-1", "ns/svc-000")


async def test_a_slice_with_a_backend_that_the_peer_was_not_joined_with_is_refused(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share_slices(kv, service("good"), service("bad", "192.0.2.1"))
    pin = Pin(1, (ip_network("10.0.0.0/8"),))
    remote = Remote(Peer("cm-1", (etcd.endpoint,), pin=pin), 2, sink, lambda _: None)
    async with running_remote(remote):
        await sink.told("synced", "cm-1")
    assert list(sink.services["cm-1"]) == ["ns/good"]
    assert list(remote.status.refused) == ["endpoint slice ns/bad-ipv4-0"]


@asynccontextmanager
async def running_remote(remote: Remote) -> AsyncIterator[None]:
    task = asyncio.create_task(remote.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


CHANGES = pytest.mark.parametrize(
    ("before", "after"),
    [(CONFIG, SLICES), (SLICES, CONFIG)],
    ids=["to slices", "back"],
)


async def left_to_stored(kv: Kv, config: ClusterConfig) -> None:
    """Wait until there are five services in the form or forms of ``config`` and nothing of another."""
    there = (0 if config == SLICES else 5), (0 if config == CONFIG else 5)
    async with asyncio.timeout(30):
        while (len(await stored(kv)), len(await stored(kv, SLICES_PREFIX))) != there:
            await asyncio.sleep(0.05)


@CHANGES
async def test_who_takes_over_in_another_form_promises_nothing_before_it_is_written(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink, before: ClusterConfig, after: ClusterConfig
) -> None:
    async with reading(etcd, sink) as remote:
        publisher = Publisher(kv, "cm-1", before, options=SHORT)
        publisher.set_services(services(5))
        async with running(publisher):
            await sink.told("synced", "cm-1")
        successor = Publisher(kv, "cm-1", after, options=QUICK)
        # As after a start: it does not know yet all that it shares, so what is there stands.
        successor.set_services(services(2), complete=False)
        async with running(successor):
            await successor.settled()
            await sink.until(
                lambda: (
                    remote.status.config == after
                    and (
                        remote.status.state == "synced" or "waiting for cilium/synced" in remote.status.reason
                    )
                )
            )
            assert len(sink.services["cm-1"]) == 5
            successor.set_services(services(5))
            await sink.until(lambda: remote.status.state == "synced")
            await left_to_stored(kv, after)
            assert len(sink.services["cm-1"]) == 5


@CHANGES
async def test_a_change_of_form_takes_no_backend_away_and_leaves_nothing_of_the_other(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink, before: ClusterConfig, after: ClusterConfig
) -> None:
    async with reading(etcd, sink) as remote:
        publisher = Publisher(kv, "cm-1", before, options=SHORT)
        publisher.set_services(services(5))
        async with running(publisher):
            await sink.told("synced", "cm-1")
        sink.events.clear()
        successor = Publisher(kv, "cm-1", after, options=replace(SHORT, audit_s=1.0))
        successor.set_services(services(5))
        async with running(successor):
            await sink.until(lambda: (remote.status.config, remote.status.state) == (after, "synced"))
            await left_to_stored(kv, after)
        assert [event for event in sink.events if event[0] in {"put", "delete", "gone"}] == []
        assert {event for event in sink.events if event[0] == "replace"} == {("replace", "cm-1", "5")}


async def test_slices_that_a_service_needs_no_more_go_also_before_the_set_is_complete(kv: Kv) -> None:
    publisher = Publisher(kv, "cm-1", SLICES)
    many = {ip_address("10.0.0.0") + number: {"http": Port("TCP", 80)} for number in range(500)}
    large, small = replace(service("svc"), backends=many), service("svc")
    publisher.set_services([large], complete=False)
    async with running(publisher):
        await publisher.settled()
        assert set(await stored(kv, SLICES_PREFIX)) == slice_keys(large)
        publisher.upsert(small)
        await publisher.settled()
        assert set(await stored(kv, SLICES_PREFIX)) == slice_keys(small)
        publisher.set_services([large], complete=False)
        publisher.set_services([small], complete=False)
        await publisher.settled()
        assert set(await stored(kv, SLICES_PREFIX)) == slice_keys(small)


async def test_the_program_publishes_slices_and_dumps_them(
    etcd: EtcdProcess, tmp_path: Path, make_etcd: Callable[..., EtcdProcess]
) -> None:
    (tmp_path / "cm-1").write_text(peer_file(etcd))
    source = tmp_path / "services.json"
    source.write_bytes(b"[" + encode_service(service("web")) + b"]")
    where = ("--config", str(tmp_path / "cm-1"))
    mode = ("--endpoint-slices-export-mode", "endpointslices-only")
    publishing = await run_cli("publish", *where, "--id", "1", "--services", str(source), *mode)
    try:
        assert publishing.stdout is not None
        async with asyncio.timeout(20):
            assert await publishing.stdout.readline() == b"published\n"
        dumped = await run_cli("dump", *where)
        out, _ = await dumped.communicate()
    finally:
        publishing.send_signal(signal.SIGTERM)
        await publishing.communicate()
    assert dumped.returncode == 0
    assert b", synced\n" in out
    assert b"ns/web   yes     -          10.0.0.1:8080/TCP" in out
