"""What a mirror says of a peer that goes, changes, or names what it may not; and that it lives."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from clustermesh import keys
from clustermesh.kv import Kv
from clustermesh.mirror_peer import as_cached
from clustermesh.records import decode_config, encode_config
from clustermesh.watch import Batch
from tests.etcd.mirroring import (
    QUICK,
    all_canaries,
    beat,
    mirrored,
    mirroring,
    stored,
    until_so,
)
from tests.etcd.process import EtcdProcess
from tests.etcd.test_learned_pin import join, node, share
from tests.etcd.test_publisher import CONFIG


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
