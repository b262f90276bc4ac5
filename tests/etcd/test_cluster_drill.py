"""A drill is said to all nodes through a real etcd: each does it, ends it by itself, and says what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing

import msgspec
import pytest

from clustermesh import keys
from clustermesh.kv import Kv
from meshd.errors import ClusterNotTold, DrillGoesOn, UnknownObject
from meshd.model.drill import Drill
from meshd.sources.cluster_drill import ClusterDrill, Order, Said
from tests.etcd.following import following
from tests.etcd.process import EtcdProcess
from tests.patience import patience

KEY = keys.drill("cm-1")


class Kernel:
    """What drills on a node. ``knows``: whether it has the service."""

    def __init__(self, *, knows: bool = True) -> None:
        self.knows = knows
        self.begun: list[Drill] = []
        self.ended_ns: list[int] = []

    async def begin(self, drill: Drill) -> Mapping[str, float]:
        if not self.knows:
            raise UnknownObject(f"service {drill.service}")
        self.begun.append(drill)
        return {"cm-1": 1.0}

    async def end(self) -> Mapping[str, int]:
        self.ended_ns.append(time.monotonic_ns())
        return {"cm-1": 7}


def node(name: str, kernel: Kernel, kv: Kv) -> AbstractAsyncContextManager[ClusterDrill]:
    """A node that follows the cluster."""
    return following(ClusterDrill("cm-1", name, kernel), kv)


def order(for_s: float, number: str = "a1", until_s: float | None = None) -> Order:
    until = time.time() + for_s if until_s is None else until_s
    return Order(number, "default", "web", "cm-2", until, for_s)


def far() -> float:
    """So late that only the length of a drill counts, however long a node takes to hear of it."""
    return time.time() + 3600


async def heard(drill: ClusterDrill, condition: Callable[[dict[str, Said]], bool]) -> dict[str, Said]:
    """The words, as soon as they are as wanted."""
    async with asyncio.timeout(patience(20)), aclosing(drill.words()) as words:
        async for said in words:
            if condition(said):
                return said
    raise AssertionError("words end")


async def test_every_node_drills_and_ends_it_when_the_key_goes(kv: Kv) -> None:
    kernels = Kernel(), Kernel(), Kernel(knows=False)
    async with node("n1", kernels[0], kv) as first, node("n2", kernels[1], kv), node("n3", kernels[2], kv):
        await first.start(order(60))
        said = await heard(first, lambda words: len(words) == 3)
        assert [each.begun[0].lose for each in kernels[:2]] == ["cm-2", "cm-2"]
        assert [each.begun[0].service.name for each in kernels[:2]] == ["web", "web"]
        left_s = (kernels[0].begun[0].until_ns - time.monotonic_ns()) / 1e9
        assert 30 < left_s <= 60
        assert said["n1"] == Said("n1", "a1", planned={"cm-1": 1.0})
        assert said["n3"] == Said("n3", "a1", "service default/web does not exist", over=True)
        await first.stop("a1")
        said = await heard(first, lambda words: all(word.over for word in words.values()))
        assert said["n2"] == Said("n2", "a1", "", {"cm-1": 1.0}, True, {"cm-1": 7})
        assert (len(kernels[0].ended_ns), len(kernels[2].ended_ns)) == (1, 0)


async def test_a_drill_ends_in_its_time_and_its_key_goes(kv: Kv) -> None:
    kernel = Kernel()
    async with node("n1", kernel, kv) as drill:
        await drill.start(order(1.0, until_s=far()))
        await heard(drill, lambda words: "n1" in words and words["n1"].over)
        assert kernel.ended_ns[0] >= kernel.begun[0].until_ns
        async with asyncio.timeout(patience(20)):
            while (await kv.find(KEY)).items:
                await asyncio.sleep(0.01)
        # Another one may begin.
        await drill.start(order(60, "b2"))
        await heard(drill, lambda words: words["n1"].number == "b2")


async def test_it_ends_in_its_time_although_etcd_is_gone(etcd: EtcdProcess, kv: Kv) -> None:
    kernel = Kernel()
    async with node("n1", kernel, kv) as drill:
        await drill.start(order(2.0, until_s=far()))
        await heard(drill, lambda words: "n1" in words)
        etcd.kill()
        async with asyncio.timeout(patience(20)):
            while not kernel.ended_ns:
                await asyncio.sleep(0.01)
        assert kernel.ended_ns[0] >= kernel.begun[0].until_ns


async def test_a_node_that_comes_when_it_is_over_ignores_it_and_takes_it_away(kv: Kv) -> None:
    await kv.put(KEY, msgspec.json.encode(order(60, until_s=time.time() - 1)))
    kernel = Kernel()
    async with node("n1", kernel, kv) as drill:
        said = await heard(drill, lambda words: "n1" in words)
        assert (said["n1"].over, said["n1"].reason) == (True, "by the clock of this node it is over")
        async with asyncio.timeout(patience(20)):
            while (await kv.find(KEY)).items:
                await asyncio.sleep(0.01)
    assert kernel.begun == []


async def test_a_clock_that_is_behind_makes_no_drill_longer(kv: Kv) -> None:
    await kv.put(KEY, msgspec.json.encode(order(30, until_s=time.time() + 7200)))
    kernel = Kernel()
    async with node("n1", kernel, kv) as drill:
        await heard(drill, lambda words: "n1" in words)
    assert (kernel.begun[0].until_ns - time.monotonic_ns()) / 1e9 <= 30


async def test_only_one_drill_at_a_time(kv: Kv) -> None:
    kernel = Kernel()
    async with node("n1", kernel, kv) as drill:
        await drill.start(order(60))
        with pytest.raises(DrillGoesOn, match="service default/web without cm-2"):
            await drill.start(order(60, "b2"))
        await heard(drill, lambda words: "n1" in words)
        # Nobody else's is ended.
        await drill.stop("b2")
        assert len((await kv.find(KEY)).items) == 1


@pytest.mark.parametrize("value", [b"", b"now", b'{"number": "b2"}'])
async def test_what_cannot_be_read_changes_nothing(kv: Kv, value: bytes) -> None:
    kernel = Kernel()
    async with node("n1", kernel, kv) as drill:
        await drill.start(order(60))
        await heard(drill, lambda words: "n1" in words)
        await kv.put(KEY, value)
        await drill.start(order(60, "c3"))
        await heard(drill, lambda words: words["n1"].number == "c3")
    assert [each.number for each in kernel.begun] == ["a1", "c3"]
    assert len(kernel.ended_ns) == 1


async def test_without_a_connection_nothing_is_said() -> None:
    with pytest.raises(ClusterNotTold):
        await ClusterDrill("cm-1", "n1", Kernel()).start(order(60))
