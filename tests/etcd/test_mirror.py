"""Peers that are copied into one etcd, and read from there as from a KVStoreMesh."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clustermesh import keys
from clustermesh.kv import Kv
from clustermesh.mirror import Mirror, MirrorOptions
from clustermesh.mirror_peer import as_cached
from clustermesh.peers import Peer
from clustermesh.records import decode_config, encode_config, encode_service
from clustermesh.remote import Remote, RemoteOptions
from clustermesh.watch import Batch
from tests.etcd.node_recording import RecordingNodes
from tests.etcd.process import EtcdProcess
from tests.etcd.recording import RecordingSink
from tests.etcd.test_learned_pin import join, node, share
from tests.etcd.test_nodes import addresses
from tests.etcd.test_publisher import CONFIG, service

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


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty directory of peers."""
    (tmp_path / "peers").mkdir()
    return tmp_path / "peers"


@pytest.fixture
async def local(make_etcd: Make) -> EtcdProcess:
    """The etcd that is copied into."""
    process = make_etcd("local")
    await process.start()
    return process


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


async def test_two_peers_are_read_from_the_copy_as_from_themselves(
    etcd: EtcdProcess, kv: Kv, directory: Path, local: EtcdProcess, make_etcd: Make
) -> None:
    other = make_etcd("other")
    await other.start()
    await beat(kv)
    await share(kv, node("n1", "10.1.1.0/24"), mine="10.1.1.9")
    for key, value in addresses(2).items():
        await kv.put(key, value)
    await kv.put(keys.identity(65536 + 3), b"k8s:a=b;k8s:io.cilium.k8s.policy.cluster=cm-1;")
    await all_canaries(kv, "cm-1")
    async with other.kv() as elsewhere:
        await share(elsewhere, node("n1", "10.2.1.0/24", cluster="cm-2"), cluster="cm-2", theirs="10.2.1.9")
        # What another cluster's name is on is none of this peer's.
        await elsewhere.put(
            keys.service("cm-1", "ns", "strange"), encode_service(service("strange", "10.9.9.9"))
        )
        await all_canaries(elsewhere, "cm-2")
        join(directory, etcd, "cm-1")
        join(directory, other, "cm-2")
        sink = RecordingSink()
        async with mirroring(directory, local), local.kv() as copy:
            await mirrored(copy, "cm-1", "cm-2")
            held = await stored(copy, "cilium/cache/")
            source = await stored(kv, "cilium/state/")
            assert {key: value for key, value in held.items() if "/cm-1/" in key} == {
                key.replace("cilium/state/", "cilium/cache/")
                .replace("/ip/v1/default/", "/ip/v1/cm-1/")
                .replace("/identities/v1/id/", "/identities/v1/cm-1/id/"): value
                for key, value in source.items()
            }
            assert {key for key in held if "/cm-2/" in key} == {
                "cilium/cache/nodes/v1/cm-2/n1",
                "cilium/cache/services/v1/cm-2/ns/theirs",
            }
            async with reading(local, sink, "cm-1") as (one, nodes), reading(local, sink, "cm-2"):
                await sink.until(lambda: one.status.state == "synced" and "cm-2" in sink.services)
                assert set(sink.services["cm-1"]) == {"ns/mine"}
                assert set(sink.services["cm-2"]) == {"ns/theirs"}
                assert sorted(nodes.addresses) == ["10.1.0.1", "10.1.0.2"]
                assert (one.status.refused, one.status.cluster_id) == ({}, 1)
                # Changes follow, and deletions.
                await kv.put(keys.service("cm-1", "ns", "new"), encode_service(service("new", "10.1.1.7")))
                await sink.until(lambda: "ns/new" in sink.services["cm-1"])
                await kv.delete(keys.service("cm-1", "ns", "new"))
                await sink.until(lambda: "ns/new" not in sink.services["cm-1"])


async def test_the_order_is_config_records_canary(
    etcd: EtcdProcess, kv: Kv, directory: Path, local: EtcdProcess
) -> None:
    await beat(kv)
    await share(kv, node("n1", "10.1.1.0/24"), one="10.1.1.1", two="10.1.1.2")
    await all_canaries(kv, "cm-1")
    join(directory, etcd)
    async with local.kv() as copy:
        start = (await copy.find("x")).revision
        async with mirroring(directory, local):
            await mirrored(copy, "cm-1")
        seen: list[str] = []
        end = (await copy.find("x")).revision
        async with asyncio.timeout(30):
            async for step in copy.watch("cilium/", after=start):
                if isinstance(step, Batch):
                    seen += [change.key for change in step.changes if change.key != keys.HEARTBEAT]
                    if step.revision >= end - 1:
                        break
    assert seen[0] == keys.cluster_config("cm-1")
    for resource in keys.CANARY_RESOURCES:
        prefix = keys.records_prefix("cm-1", resource, cached=True)
        last = max((place for place, key in enumerate(seen) if key.startswith(prefix)), default=0)
        assert seen.index(keys.canary("cm-1", resource, cached=True)) > last
    config = (await stored_config(local))["capabilities"]
    assert (config["cached"], config["syncedCanaries"]) == (True, True)


async def stored_config(local: EtcdProcess) -> dict[str, dict[str, object]]:
    """The cluster-config beside the copy of cm-1."""
    async with local.kv() as copy:
        item = await copy.get(keys.cluster_config("cm-1"))
    assert item is not None
    read: dict[str, dict[str, object]] = json.loads(item.value or b"")
    return read


async def test_a_peer_that_is_away_or_empty_leaves_what_is_there(
    etcd: EtcdProcess, kv: Kv, directory: Path, local: EtcdProcess
) -> None:
    # So far ahead that what it holds when it is back and empty is older, whenever that is noticed.
    for _ in range(100):
        await beat(kv)
    await share(kv, node("n1", "10.1.1.0/24"), mine="10.1.1.9")
    await all_canaries(kv, "cm-1")
    join(directory, etcd)
    sink = RecordingSink()
    async with mirroring(directory, local), local.kv() as copy:
        await mirrored(copy, "cm-1")
        before = await stored(copy)
        async with reading(local, sink, "cm-1"):
            await sink.told("synced", "cm-1")
            etcd.stop()
            assert await stored(copy) == before
            # Back with nothing: no canary, so nothing follows from what is not there.
            etcd.wipe()
            await etcd.start()
            async with etcd.kv() as fresh:
                await fresh.put(keys.cluster_config("cm-1"), encode_config(CONFIG))
                await fresh.put(keys.service("cm-1", "ns", "new"), encode_service(service("new", "10.1.1.8")))
                await asyncio.sleep(0)
                assert await stored(copy) == before
                # Filled again: what it has now is what there is.
                await beat(fresh)
                await share(fresh, node("n1", "10.1.1.0/24"), mine="10.1.1.9")
                await all_canaries(fresh, "cm-1")
                await sink.until(lambda: "ns/new" in sink.services["cm-1"])
            assert set(sink.services["cm-1"]) == {"ns/mine", "ns/new"}
            assert not any(event[0] in {"delete", "keep", "stale"} for event in sink.events)


async def test_what_vanishes_while_nobody_vouches_for_it_stays_in_the_copy(
    etcd: EtcdProcess, kv: Kv, directory: Path, local: EtcdProcess
) -> None:
    await share(kv, one="10.1.1.1", two="10.1.1.2")
    await all_canaries(kv, "cm-1")
    join(directory, etcd)
    gone = keys.service("cm-1", "ns", "one")
    copied = gone.replace("state", "cache")
    async with mirroring(directory, local), local.kv() as copy:
        await mirrored(copy, "cm-1")
        await kv.delete(gone)
        await kv.put(keys.service("cm-1", "ns", "two"), encode_service(service("two", "10.1.1.3")))

        async def has_followed() -> bool:
            found = await stored(copy, "cilium/cache/services/")
            return found[copied.replace("one", "two")] == encode_service(service("two", "10.1.1.3"))

        await until_so(has_followed)
        assert copied in await stored(copy)
        # Two heartbeats: somebody lives who writes there, and does not name it.
        await beat(kv)
        await beat(kv)

        async def is_gone() -> bool:
            return copied not in await stored(copy)

        await until_so(is_gone)


async def test_a_mirror_that_was_killed_takes_nothing_away_and_its_successor_writes_nothing_twice(
    etcd: EtcdProcess, kv: Kv, directory: Path, local: EtcdProcess, tmp_path: Path
) -> None:
    await beat(kv)
    await share(kv, node("n1", "10.1.1.0/24"), mine="10.1.1.9", other="10.1.1.8")
    await all_canaries(kv, "cm-1")
    join(directory, etcd)
    (tmp_path / "local").write_text(f"endpoints: ['{local.url}']\n")
    arguments = ("--name", "cm-9", "--id", "9", "--peers", str(directory), "--into", str(tmp_path / "local"))
    sink = RecordingSink()
    async with local.kv() as copy:
        killed = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "clustermesh.cli", "mirror", *arguments, "--election-ttl", "2"
        )
        try:
            await mirrored(copy, "cm-1")
        finally:
            killed.kill()
            await killed.wait()
        before = await stored(copy)
        at = (await copy.find("x")).revision
        async with reading(local, sink, "cm-1") as (remote, _):
            await sink.told("synced", "cm-1")
            # Meanwhile something went, and something came.
            await kv.delete(keys.service("cm-1", "ns", "other"))
            await kv.put(keys.service("cm-1", "ns", "new"), encode_service(service("new", "10.1.1.7")))
            async with mirroring(directory, local):
                await sink.until(lambda: set(sink.services["cm-1"]) == {"ns/mine", "ns/new"})
            assert remote.status.state == "synced"
        after = await stored(copy)
        changed = [item.key for item in (await copy.list("cilium/cache/")).items if item.mod_revision > at]
    assert changed == ["cilium/cache/services/v1/cm-1/ns/new"]
    assert before.keys() - after.keys() == {"cilium/cache/services/v1/cm-1/ns/other"}
    assert [event for event in sink.events if event[0] in {"delete", "keep", "stale"}] == [
        ("delete", "cm-1", "ns/other")
    ]


async def test_of_two_mirrors_one_writes_and_the_other_takes_over(
    etcd: EtcdProcess, kv: Kv, directory: Path, local: EtcdProcess
) -> None:
    await beat(kv)
    await share(kv, mine="10.1.1.9")
    await all_canaries(kv, "cm-1")
    join(directory, etcd)
    async with local.kv() as copy, mirroring(directory, local):
        await mirrored(copy, "cm-1")
        first = await copy.get(keys.mirror("cm-9"))
        assert first is not None
        async with mirroring(directory, local):
            # The first one is thrown out: whoever is elected now goes on.
            local.ctl("lease", "revoke", f"{first.lease:x}")

            async def is_another() -> bool:
                found = await copy.get(keys.mirror("cm-9"))
                return found is not None and found.create_revision != first.create_revision

            await until_so(is_another)
            await kv.put(keys.service("cm-1", "ns", "new"), encode_service(service("new", "10.1.1.7")))

            async def is_copied() -> bool:
                return "cilium/cache/services/v1/cm-1/ns/new" in await stored(copy)

            await until_so(is_copied)


async def test_a_peer_whose_file_goes_is_drained_config_first(
    etcd: EtcdProcess, kv: Kv, directory: Path, local: EtcdProcess
) -> None:
    await beat(kv)
    await share(kv, node("n1", "10.1.1.0/24"), mine="10.1.1.9")
    await all_canaries(kv, "cm-1")
    join(directory, etcd)
    async with local.kv() as copy:
        async with mirroring(directory, local):
            await mirrored(copy, "cm-1")
        (directory / "cm-1").unlink()
        # Also if it went while nobody looked.
        start = (await copy.find("x")).revision
        async with mirroring(directory, local):

            async def is_drained() -> bool:
                return await stored(copy) == {}

            await until_so(is_drained)
        gone: list[str] = []
        async with asyncio.timeout(30):
            async for step in copy.watch("cilium/", after=start):
                changes = step.changes if isinstance(step, Batch) else ()
                gone += [change.key for change in changes if change.value is None]
                if any("/services/v1/cm-1/ns/" in key for key in gone):
                    break
    assert gone[0] == keys.cluster_config("cm-1")
    assert "synced" in gone[1]


async def test_a_peer_with_a_pin_gets_nothing_else_into_the_copy_and_none_fills_it(
    etcd: EtcdProcess, kv: Kv, directory: Path, local: EtcdProcess
) -> None:
    await beat(kv)
    await share(kv, node("n1", "10.1.1.0/24"), mine="10.1.1.9", stolen="10.2.1.9")
    await kv.put(keys.service("cm-1", "ns", "huge"), b"{" + b" " * 40_000)
    await all_canaries(kv, "cm-1")
    join(directory, etcd, pin="meshd.io/pin: {cluster-id: 1, networks: [10.1.0.0/16, 192.168.0.0/16]}\n")
    async with local.kv() as copy:
        async with mirroring(directory, local):
            await mirrored(copy, "cm-1")
            assert set(await stored(copy, "cilium/cache/services/")) == {
                "cilium/cache/services/v1/cm-1/ns/mine"
            }
        # Without a pin what it writes is copied as it is, as far as there is room.
        join(directory, etcd)
        async with mirroring(directory, local, replace(QUICK, most_bytes=20_000)):

            async def is_there() -> bool:
                return "cilium/cache/services/v1/cm-1/ns/stolen" in await stored(copy)

            await until_so(is_there)
            await mirrored(copy, "cm-1")
        assert set(await stored(copy, "cilium/cache/services/")) == {
            "cilium/cache/services/v1/cm-1/ns/mine",
            "cilium/cache/services/v1/cm-1/ns/stolen",
        }


async def test_a_leave_is_passed_on_before_the_records_go(
    etcd: EtcdProcess, kv: Kv, directory: Path, local: EtcdProcess
) -> None:
    await beat(kv)
    await share(kv, mine="10.1.1.9")
    await all_canaries(kv, "cm-1")
    join(directory, etcd)
    async with local.kv() as copy, mirroring(directory, local):
        await mirrored(copy, "cm-1")
        await kv.delete(keys.cluster_config("cm-1"))

        async def has_left() -> bool:
            return await copy.get(keys.cluster_config("cm-1")) is None

        await until_so(has_left)
        assert set(await stored(copy, "cilium/cache/services/")) == {"cilium/cache/services/v1/cm-1/ns/mine"}


async def test_another_cluster_config_is_said_before_new_lists_are_promised(
    etcd: EtcdProcess, kv: Kv, directory: Path, local: EtcdProcess
) -> None:
    await beat(kv)
    await share(kv, mine="10.1.1.9")
    await all_canaries(kv, "cm-1")
    join(directory, etcd)
    async with local.kv() as copy, mirroring(directory, local):
        await mirrored(copy, "cm-1")
        start = (await copy.find("x")).revision
        changed = encode_config(replace(CONFIG, endpoint_slices_export_mode="services-and-endpointslices"))
        await kv.put(keys.cluster_config("cm-1"), changed)

        async def is_said() -> bool:
            found = await copy.get(keys.cluster_config("cm-1"))
            return found is not None and found.value == as_cached("", changed)

        await until_so(is_said)
        await mirrored(copy, "cm-1")
        seen: list[tuple[str, bool]] = []
        end = (await copy.find("x")).revision
        async for step in copy.watch("cilium/", after=start):
            if isinstance(step, Batch):
                seen += [(change.key, change.value is None) for change in step.changes]
                if step.revision >= end - 1:
                    break
    canaries = {keys.canary("cm-1", resource, cached=True) for resource in keys.CANARY_RESOURCES}
    place = seen.index((keys.cluster_config("cm-1"), False))
    assert {key for key, is_gone in seen[:place] if is_gone} == canaries
    assert {key for key, is_gone in seen[place:] if not is_gone} >= canaries - {
        key for key, is_gone in seen[:place] if not is_gone
    }


@pytest.mark.parametrize("is_shared", [False, True])
async def test_the_heartbeat_is_the_mirror_s_unless_a_publisher_writes_there_too(
    etcd: EtcdProcess, kv: Kv, directory: Path, local: EtcdProcess, is_shared: bool
) -> None:
    await beat(kv)
    await share(kv, mine="10.1.1.9")
    await all_canaries(kv, "cm-1")
    join(directory, etcd)
    async with local.kv() as copy:
        if is_shared:
            await copy.put(keys.cluster_config("cm-9"), encode_config(replace(CONFIG, cluster_id=9)))
        async with mirroring(directory, local, replace(QUICK, heartbeat_s=0.05)):
            await mirrored(copy, "cm-1")
            assert (await copy.get(keys.HEARTBEAT) is None) is is_shared
            # Nor is it taken for a peer's copy that nobody wants.
            assert (await copy.get(keys.cluster_config("cm-9")) is not None) is is_shared


def test_a_config_beside_a_copy_keeps_what_is_not_known_here() -> None:
    value = b'{"id":2,"capabilities":{"maxConnectedClusters":511,"new":true},"later":[1]}'
    made = as_cached("KEY", value)
    assert json.loads(made) == {
        "id": 2,
        "capabilities": {"maxConnectedClusters": 511, "new": True, "syncedCanaries": True, "cached": True},
        "later": [1],
    }
    assert decode_config("KEY", made).cached
