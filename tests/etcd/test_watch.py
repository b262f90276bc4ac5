"""Watches against a real etcd: order, restarts, compaction, a store that lost its past."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from itertools import groupby

import pytest

from clustermesh.errors import Compacted, KvUnavailable, StoreReplaced
from clustermesh.kv import Kv
from clustermesh.watch import Batch, Change, Interrupted
from tests.etcd.process import EtcdProcess

Watch = AsyncGenerator[Batch | Interrupted, None]


async def collect(watch: Watch, count: int) -> list[Change]:
    """The next ``count`` changes."""
    found: list[Change] = []
    async with asyncio.timeout(60):
        async for step in watch:
            if isinstance(step, Batch):
                found.extend(step.changes)
            if len(found) >= count:
                break
    return found


async def established(watch: Watch) -> None:
    """Wait for the batch that says the watch stands."""
    async with asyncio.timeout(60):
        assert isinstance(await anext(watch), Batch)


async def test_puts_and_deletes_arrive_in_order_and_other_prefixes_do_not(kv: Kv) -> None:
    start = (await kv.list("p/")).revision
    async with aclosing(kv.watch("p/", after=start)) as watch:
        await kv.put("p/a", b"1")
        await kv.put("q", b"other")
        await kv.put("p/b", b"2")
        await kv.delete("p/a")
        found = await collect(watch, 3)
    assert [(change.key, change.value) for change in found] == [("p/a", b"1"), ("p/b", b"2"), ("p/a", None)]


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_every_change_arrives_once_and_in_order_across_restarts_of_etcd(
    etcd: EtcdProcess, kv: Kv, how: str
) -> None:
    total = 60
    start = (await kv.list("p/")).revision

    async def write() -> None:
        for number in range(total):
            if number in {20, 40}:
                (etcd.stop if how == "stop" else etcd.kill)()
                await etcd.start()
            while await kv.get(f"p/{number:02}") is None:
                with contextlib.suppress(KvUnavailable):  # a slow machine; it may have happened all the same
                    await kv.put(f"p/{number:02}", b"v")

    found: list[Change] = []
    async with aclosing(kv.watch("p/", after=start)) as watch, asyncio.TaskGroup() as group:
        group.create_task(write())
        while not found or found[-1].key != f"p/{total - 1:02}":
            found += await collect(watch, 1)
    revisions = [change.revision for change in found]
    assert sorted(set(revisions)) == revisions
    assert [key for key, _ in groupby(change.key for change in found)] == [f"p/{n:02}" for n in range(total)]


async def test_an_interruption_is_told_once_and_ends_with_a_batch(etcd: EtcdProcess, kv: Kv) -> None:
    start = await kv.put("p/a", b"")
    async with aclosing(kv.watch("p/", after=start)) as watch:
        await established(watch)
        etcd.stop()
        step = await anext(watch)
        assert isinstance(step, Interrupted)
        await etcd.start()
        assert await anext(watch) == Batch(start, ())


async def test_a_watch_behind_a_compaction_says_so_instead_of_skipping(kv: Kv) -> None:
    start = await kv.put("p/a", b"1")
    for number in range(5):
        last = await kv.put("p/a", str(number).encode())
    await kv.compact(last)
    async with aclosing(kv.watch("p/", after=start)) as watch:
        with pytest.raises(Compacted, match="compacted"):
            await collect(watch, 1)


async def test_an_etcd_that_came_back_empty_with_the_same_id_is_noticed(etcd: EtcdProcess, kv: Kv) -> None:
    for number in range(5):
        start = await kv.put(f"p/{number}", b"")
    async with aclosing(kv.watch("p/", after=start)) as watch:
        await established(watch)
        etcd.kill()
        etcd.wipe()
        await etcd.start()
        with pytest.raises(StoreReplaced, match="older than"):
            await collect(watch, 1)


async def test_another_etcd_behind_the_same_address_is_noticed_by_watch_and_call(
    etcd: EtcdProcess, kv: Kv, make_etcd: Callable[..., EtcdProcess]
) -> None:
    start = await kv.put("p/a", b"")
    other = make_etcd("other")
    async with aclosing(kv.watch("p/", after=start)) as watch:
        await established(watch)
        etcd.kill()
        other.port = etcd.port
        await other.start()
        with pytest.raises(StoreReplaced, match="pinned to"):
            await collect(watch, 1)
        with pytest.raises(StoreReplaced, match="pinned to"):
            await kv.get("p/a")


async def test_a_large_batch_arrives_whole(kv: Kv) -> None:
    start = (await kv.list("p/")).revision
    for number in range(40):
        await kv.put(f"p/{number:02}", b"x" * 100_000)
    async with aclosing(kv.watch("p/", after=start)) as watch:
        found = await collect(watch, 40)
    assert [f"p/{number:02}" for number in range(40)] == [change.key for change in found]
    assert {100_000} == {len(change.value or b"") for change in found}
