"""What becomes of the services of a peer when they vanish from its etcd, for every reason that they may have."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from clustermesh import keys
from clustermesh.evidence import HEARTBEAT_LIMIT_S
from clustermesh.known import Known, restored
from clustermesh.kv import Kv
from clustermesh.operations import Delete
from clustermesh.own_keys import OwnKeys
from clustermesh.peers import Peer
from clustermesh.publisher import Publisher, PublisherOptions
from clustermesh.records import encode_service
from clustermesh.remote import Remote, RemoteOptions
from tests.etcd.process import EtcdProcess
from tests.etcd.recording import RecordingSink
from tests.etcd.test_publisher import CONFIG, running, services
from tests.etcd.test_remote import share

# The shortest lease that etcd gives; and two heartbeats, as a reader is patient.
MORTAL = PublisherOptions(election_ttl_s=1, data_ttl_s=2, heartbeat_s=0.2)
LIMIT_S = 1.0


@pytest.fixture
def sink() -> RecordingSink:
    """What the reader under test tells."""
    return RecordingSink()


@asynccontextmanager
async def reading(
    etcd: EtcdProcess,
    sink: RecordingSink,
    known: Known | None = None,
    *,
    nodes_answer: Callable[[], bool] = lambda: True,
    **options: float,
) -> AsyncIterator[Remote]:
    """Cluster 2 reads cm-1 from ``etcd`` until the block ends, and what it has read first is told."""
    settings = RemoteOptions(**options)  # type: ignore[arg-type] # passed through
    remote = Remote(
        Peer("cm-1", (etcd.endpoint,)),
        2,
        sink,
        lambda _: None,
        options=settings,
        known=known,
        nodes_answer=nodes_answer,
    )
    task = asyncio.create_task(remote.run())
    try:
        await sink.told("synced", "cm-1")
        yield remote
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def names(numbers: Iterable[int]) -> set[str]:
    return {f"ns/svc-{number:03}" for number in numbers}


async def delete(kv: Kv, numbers: Iterable[int]) -> None:
    """As a lease does that ends: all in one revision."""
    gone = [Delete(keys.service("cm-1", *name.split("/"))) for name in sorted(names(numbers))]
    await kv.txn([], gone)


# Within the second limit the last heartbeat is young when all goes, and still nobody left in order. What is seen to go
# before its cluster-config is held then, so the successor names that, too.
@pytest.mark.parametrize(("limit_s", "left"), [(LIMIT_S, 4), (HEARTBEAT_LIMIT_S, 5)])
async def test_a_publisher_dead_beyond_its_lease_takes_nothing_away_until_a_successor_has_said_what_there_is(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink, limit_s: float, left: int
) -> None:
    publisher = Publisher(kv, "cm-1", CONFIG, options=MORTAL)
    publisher.set_services(services(5))
    async with running(publisher):
        await publisher.settled()
        reader = reading(etcd, sink, heartbeat_limit_s=limit_s)
        remote = await reader.__aenter__()
    try:
        await sink.until(lambda: sink.kept["cm-1"].keys() == names(range(5)))
        await sink.until(lambda: "its cluster-config is gone" in remote.status.reason)
        assert set(sink.services["cm-1"]) == names(range(5))
        assert (remote.status.state, remote.status.services) == ("stale", 5)
        successor = Publisher(kv, "cm-1", CONFIG, options=MORTAL)
        successor.set_services(services(left))
        async with running(successor):
            await sink.until(
                lambda: (set(sink.services["cm-1"]), sink.kept["cm-1"]) == (names(range(left)), {})
            )
            await sink.until(lambda: remote.status.state == "synced")
            assert remote.status.kept == {}
            told = [event for event in sink.events if event[0] == "delete"]
            assert told == []  # by a complete list, not by what its leases took
    finally:
        await reader.__aexit__(None, None, None)


async def test_a_lease_that_ends_while_somebody_lives_holds_what_it_takes_until_that_is_put_again(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 0)
    own = OwnKeys(kv, ttl_s=60)
    values = {keys.service("cm-1", "ns", one.name): encode_service(one) for one in services(5)}
    async with running(own):
        own.update(values)
        await own.settled()
    async with reading(etcd, sink) as remote:
        lease = await kv.get(next(iter(values)))
        assert lease is not None
        etcd.ctl("lease", "revoke", f"{lease.lease:x}")
        await sink.told("keep", "cm-1")
        assert sink.kept["cm-1"] == dict.fromkeys(names(range(5)), True)
        assert set(sink.services["cm-1"]) == names(range(5))
        for key, value in values.items():
            await kv.put(key, value)
        await sink.until(lambda: sink.kept["cm-1"] == {})
        assert (remote.status.kept, len(sink.services["cm-1"])) == ({}, 5)


async def test_a_few_deletions_count_and_where_no_node_answers_all_of_them(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    answers = True
    await share(kv, 5)
    async with reading(etcd, sink, nodes_answer=lambda: answers):
        await delete(kv, [0, 1])
        await sink.until(lambda: set(sink.services["cm-1"]) == names([2, 3, 4]))
        # The third within a minute: it was not two of five, it is three, and those two stand again.
        await delete(kv, [2])
        await sink.until(lambda: sink.kept["cm-1"] == dict.fromkeys(names([0, 1, 2]), True))
        answers = False
        await delete(kv, [3, 4])
        await sink.until(lambda: set(sink.services["cm-1"]) == names([0, 1, 2]))


async def test_an_etcd_restored_empty_takes_nothing_away_until_somebody_confirms_it(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 5)
    async with reading(etcd, sink) as remote:
        etcd.kill()
        etcd.wipe()
        await etcd.start()
        async with etcd.kv() as fresh:
            await share(fresh, 2)
        await sink.told("replace", "cm-1", "2")
        assert sink.kept["cm-1"] == dict.fromkeys(names([2, 3, 4]), True)
        assert set(remote.confirm()) == names([2, 3, 4])
        assert set(sink.services["cm-1"]) == names([0, 1])
        assert remote.confirm() == {}


async def test_an_etcd_restored_from_an_older_snapshot_takes_nothing_away(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink, tmp_path: Path
) -> None:
    await share(kv, 1)
    etcd.ctl("snapshot", "save", str(tmp_path / "snapshot"))
    await share(kv, 5)
    async with reading(etcd, sink):
        etcd.kill()
        etcd.wipe()
        etcd.restore(tmp_path / "snapshot")
        await etcd.start()
        await sink.told("replace", "cm-1", "1")
        assert sink.kept["cm-1"] == dict.fromkeys(names([1, 2, 3, 4]), True)
        # Its publisher goes on, and puts what the snapshot lacks.
        async with etcd.kv() as fresh:
            await share(fresh, 4)
            await sink.until(lambda: sink.kept["cm-1"] == dict.fromkeys(names([4]), True))


async def test_a_cluster_that_leaves_in_order_takes_everything_with_it(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 5)
    async with reading(etcd, sink):
        await kv.delete(keys.cluster_config("cm-1"))
        await sink.told("stale", "cm-1", "it leaves: its cluster-config was deleted")
        await delete(kv, range(5))
        await sink.until(lambda: sink.services["cm-1"] == {})
        assert not any(event[0] == "keep" for event in sink.events)


async def test_a_cluster_config_that_dies_with_its_publisher_is_no_leave(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 5)
    async with reading(etcd, sink, heartbeat_limit_s=LIMIT_S) as remote:
        await sink.told("stale", "cm-1", "no heartbeat for 1 s")
        await kv.delete(keys.cluster_config("cm-1"))
        await sink.until(lambda: "its cluster-config is gone" in remote.status.reason)
        # Somebody else's heartbeat does not make it one.
        await kv.put(keys.HEARTBEAT, b"any value")
        await sink.until(lambda: remote.status.reason == "its cluster-config is gone")
        await delete(kv, range(5))
        await sink.told("keep", "cm-1")
        assert not any(kept.held for kept in remote.status.kept.values())
        assert set(sink.services["cm-1"]) == names(range(5))


async def test_a_successor_that_begins_at_once_with_a_heartbeat_does_not_make_it_a_leave(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 5)
    async with reading(etcd, sink) as remote:
        # All at once, as leases end; and the heartbeat there again before anybody has looked.
        beat, config = keys.HEARTBEAT, keys.cluster_config("cm-1")
        gone = [Delete(keys.service("cm-1", *name.split("/"))) for name in sorted(names(range(5)))]
        await kv.txn([], [Delete(config), Delete(beat), *gone])
        await kv.put(beat, b"any value")
        await sink.until(lambda: remote.status.reason == "its cluster-config is gone")
        assert set(sink.services["cm-1"]) == sink.kept["cm-1"].keys() == names(range(5))


async def test_a_scale_to_zero_is_a_put_and_counts_at_once(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 2)
    async with reading(etcd, sink, heartbeat_limit_s=LIMIT_S):
        # Also while removals would not.
        await sink.told("stale", "cm-1", "no heartbeat for 1 s")
        for one in services(2):
            await kv.put(keys.service("cm-1", "ns", one.name), encode_service(replace(one, backends={})))
        await sink.until(lambda: not any(one.backends for one in sink.services["cm-1"].values()))
        assert sink.kept["cm-1"] == {}


async def test_a_restart_of_ours_goes_on_with_a_hold_where_it_was_and_the_hold_ends(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 5)
    async with reading(etcd, sink) as remote:
        await delete(kv, [0, 1, 2])
        await sink.told("keep", "cm-1")
        held = remote.status.kept
        rest = {one.full_name: one for one in services(5)[3:]}
    begun_s = held["ns/svc-000"].since_s
    known = restored(rest, held, begun_s)
    async with reading(etcd, sink, known) as remote:
        assert remote.status.kept == held
        assert set(sink.services["cm-1"]) == names(range(5))
    async with reading(etcd, sink, known, hold_s=0.1):
        await sink.until(lambda: set(sink.services["cm-1"]) == names([3, 4]))


async def test_what_went_while_we_were_away_is_judged_by_what_we_had(
    etcd: EtcdProcess, kv: Kv, sink: RecordingSink
) -> None:
    await share(kv, 3)
    earlier = {one.full_name: one for one in services(10)}
    async with reading(etcd, sink, restored(earlier, {}, 0.0)):
        assert sink.kept["cm-1"] == dict.fromkeys(names(range(3, 10)), True)
    earlier = {one.full_name: one for one in services(4)}
    async with reading(etcd, sink, restored(earlier, {}, 0.0)):
        assert (set(sink.services["cm-1"]), sink.kept["cm-1"]) == (names(range(3)), {})
