"""Who is there is seen through a real etcd, and who is not any more; an etcd that is away proves nobody absent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from clustermesh.presence import Presence
from tests.etcd.process import EtcdProcess
from tests.patience import patience

pytestmark = pytest.mark.needs("etcd")

TTL_S = 2


@asynccontextmanager
async def agent(etcd: EtcdProcess, node: str, cluster: str = "cm-1") -> AsyncIterator[Presence]:
    async with etcd.kv() as kv:
        presence = Presence(cluster, node, TTL_S)
        running = asyncio.create_task(presence.run(kv))
        try:
            yield presence
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(patience(30)):
        while not condition():
            await asyncio.sleep(0.02)


async def test_all_see_each_other_and_miss_who_is_gone(etcd: EtcdProcess) -> None:
    async with agent(etcd, "n1") as first, agent(etcd, "n3", "cm-2"):
        assert first.present is None
        async with agent(etcd, "n2"):
            await until(lambda: first.present == frozenset({"n1", "n2"}))
        # Not at once: it may only be started again.
        assert first.present == frozenset({"n1", "n2"})
        await until(lambda: first.present == frozenset({"n1"}))
        async with agent(etcd, "n2"):
            await until(lambda: first.present == frozenset({"n1", "n2"}))


async def test_while_etcd_is_away_nothing_is_known_and_then_everybody_has_time_to_come_back(
    etcd: EtcdProcess,
) -> None:
    async with agent(etcd, "n1") as first, agent(etcd, "n2"):
        await until(lambda: first.present == frozenset({"n1", "n2"}))
        etcd.stop()
        await until(lambda: first.present is None)
        etcd.wipe()
        await etcd.start()
        seen = set()
        async with asyncio.timeout(patience(30)):
            while first.present is None:
                await asyncio.sleep(0.02)
            seen.add(first.present)
        assert seen == {frozenset({"n1", "n2"})}
