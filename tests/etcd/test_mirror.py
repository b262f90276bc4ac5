"""Peers that are copied into one etcd, and read from there as from a KVStoreMesh."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from clustermesh import keys
from clustermesh.kv import Kv
from clustermesh.records import encode_config, encode_service
from clustermesh.watch import Batch
from tests.etcd.mirroring import (
    Make,
    all_canaries,
    beat,
    mirrored,
    mirroring,
    reading,
    stored,
    until_so,
)
from tests.etcd.process import EtcdProcess
from tests.etcd.recording import RecordingSink
from tests.etcd.test_learned_pin import join, node, share
from tests.etcd.test_nodes import addresses
from tests.etcd.test_publisher import CONFIG, service


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
