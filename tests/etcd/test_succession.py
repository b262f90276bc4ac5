"""A publisher that starts again on its node does not wait for the lease of the one it replaces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from clustermesh import keys
from clustermesh.election import Office, campaign
from clustermesh.kv import Kv
from clustermesh.operations import Put
from clustermesh.publisher import Publisher, PublisherOptions
from clustermesh.records import ClusterConfig

# Longer than any test may take: nothing here ends because a lease does.
LONG = PublisherOptions(election_ttl_s=600, data_ttl_s=900, heartbeat_s=0.5)
CONFIG = ClusterConfig(1)


@asynccontextmanager
async def running(publisher: Publisher) -> AsyncIterator[None]:
    task = asyncio.create_task(publisher.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def held_by_the_dead(kv: Kv, name: str) -> Office:
    """The office of somebody who will not give it up."""
    office = await campaign(kv, keys.publisher("cm-1"), name, LONG.election_ttl_s)
    assert isinstance(office, Office)
    return office


async def test_a_publisher_takes_over_from_the_one_that_died_on_its_node_and_fences_it_off(kv: Kv) -> None:
    dead = await held_by_the_dead(kv, "n1/before")
    successor = Publisher(kv, "cm-1", CONFIG, node="n1", options=LONG)
    successor.set_services([])
    async with running(successor):
        await successor.settled()
        late = await kv.txn([dead.fence], [Put("cilium/late", b"written by the dead")])
    assert (successor.status.role, late.succeeded) == ("publisher", False)


async def test_a_publisher_of_another_node_waits_for_the_lease(kv: Kv) -> None:
    await held_by_the_dead(kv, "n1/before")
    other = Publisher(kv, "cm-1", CONFIG, node="n", options=LONG)
    async with running(other):
        async with asyncio.timeout(60):
            while other.status.role != "standby":
                await asyncio.sleep(0)
        assert other.status.holder == "n1/before"


async def test_two_nodes_of_one_name_do_not_throw_each_other_out_again_and_again(kv: Kv) -> None:
    first = Publisher(kv, "cm-1", CONFIG, node="n1", options=LONG)
    second = Publisher(kv, "cm-1", CONFIG, node="n1", options=LONG)
    for publisher in (first, second):
        publisher.set_services([])
    async with running(first):
        await first.settled()
        async with running(second):
            await second.settled()
            async with asyncio.timeout(60):
                while first.status.role != "standby":
                    await asyncio.sleep(0.01)
            assert (second.status.role, second.status.terms) == ("publisher", 1)
