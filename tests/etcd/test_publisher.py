"""The publisher against a real etcd: order, succession, what peers see meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from clustermesh import keys
from clustermesh.errors import InvalidRecord, OptionsError
from clustermesh.kv import Kv
from clustermesh.operations import Compare, Operation, Put, TxnResult
from clustermesh.own_keys import OwnKeys
from clustermesh.publisher import Publisher, PublisherOptions
from clustermesh.records import ClusterConfig, ClusterService, Port, encode_config, encode_service
from clustermesh.watch import Batch, Change
from tests.etcd.process import EtcdProcess

CONFIG = ClusterConfig(1, service_exports_enabled=False)
SHORT = PublisherOptions(election_ttl_s=2, data_ttl_s=6, heartbeat_s=0.5)
PREFIX = keys.services_prefix("cm-1")


def service(name: str, backend: str = "10.0.0.1") -> ClusterService:
    """A service of cm-1 with one backend."""
    return ClusterService(
        cluster="cm-1",
        namespace="ns",
        name=name,
        cluster_id=1,
        frontends={ip_address("10.96.0.1"): {"http": Port("TCP", 80)}},
        backends={ip_address(backend): {"http": Port("TCP", 8080)}},
    )


def services(count: int) -> list[ClusterService]:
    """``count`` different ones."""
    return [service(f"svc-{number:03}") for number in range(count)]


@asynccontextmanager
async def running(*parts: Publisher | OwnKeys) -> AsyncIterator[None]:
    """The parts run until the block ends."""
    tasks = [asyncio.create_task(part.run()) for part in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def stored(kv: Kv, prefix: str = PREFIX) -> dict[str, bytes | None]:
    """Key -> value under ``prefix``."""
    return {item.key: item.value for item in (await kv.list(prefix)).items}


def wanted(these: Iterable[ClusterService]) -> dict[str, bytes]:
    """The same, as it should be."""
    return {keys.service("cm-1", one.namespace, one.name): encode_service(one) for one in these}


async def changes_until(kv: Kv, after: int, last: Callable[[Change], bool]) -> list[Change]:
    """All changes under cilium/ after revision ``after`` up to the first for which ``last`` holds."""
    seen: list[Change] = []
    async with asyncio.timeout(60), aclosing(kv.watch("cilium/", after=after)) as watch:
        async for step in watch:
            for change in step.changes if isinstance(step, Batch) else ():
                seen.append(change)
                if last(change):
                    return seen
    raise AssertionError("the watch ended")


async def test_everything_a_peer_needs_is_written_and_the_canary_after_the_services(kv: Kv) -> None:
    start = (await kv.list("cilium/")).revision
    publisher = Publisher(kv, "cm-1", CONFIG)
    publisher.set_services(services(250))
    canary = keys.canary("cm-1", "services")
    async with running(publisher):
        seen = await changes_until(kv, start, lambda change: change.key == canary)
        await publisher.settled()
    order = [change.key for change in seen]
    assert set(wanted(services(250))) <= set(order[:-1])
    assert await stored(kv) == wanted(services(250))
    config = await kv.get("cilium/cluster-config/cm-1")
    assert config is not None
    assert config.value == encode_config(CONFIG)
    assert {key.split("/")[5] for key in await stored(kv, "cilium/synced/cm-1/")} == set(
        keys.CANARY_RESOURCES
    )
    heartbeat = await kv.get("cilium/.heartbeat")
    assert heartbeat is not None
    assert heartbeat.lease != 0


async def test_until_the_set_is_complete_there_is_no_canary_and_nothing_is_deleted(kv: Kv) -> None:
    await kv.put(keys.service("cm-1", "ns", "of-old"), b"left by a predecessor")
    publisher = Publisher(kv, "cm-1", CONFIG)
    publisher.set_services(services(3), complete=False)
    async with running(publisher):
        await publisher.settled()
        assert keys.service("cm-1", "ns", "of-old") in await stored(kv)
        assert await kv.get(keys.canary("cm-1", "services")) is None
        publisher.set_services(services(3))
        await publisher.settled()
        assert await stored(kv) == wanted(services(3))
        assert await kv.get(keys.canary("cm-1", "services")) is not None


class InterruptedKv(Kv):
    """Says when the first service is written, before whoever writes goes on."""

    on_service: Callable[[], object] | None = None

    async def txn(
        self,
        compare: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        repeatable: bool = False,
    ) -> TxnResult:
        done = await super().txn(compare, success, failure, repeatable=repeatable)
        told = self.on_service
        if told is not None and any(
            isinstance(each, Put) and each.value and each.key.startswith(PREFIX) for each in success
        ):
            self.on_service = None
            told()
        return done


async def test_a_set_that_becomes_complete_amid_a_write_deletes_nothing_that_is_in_it(
    etcd: EtcdProcess, kv: Kv
) -> None:
    predecessors = [service("of-old"), service("kept")]
    for one in predecessors:
        await kv.put(keys.service("cm-1", "ns", one.name), encode_service(one))
    start = (await kv.list("cilium/")).revision
    now = [service("kept", "10.0.0.2"), service("new")]
    canary = keys.canary("cm-1", "services")
    async with InterruptedKv([etcd.endpoint]) as interrupted:
        publisher = Publisher(interrupted, "cm-1", CONFIG)
        publisher.set_services(now[1:], complete=False)
        interrupted.on_service = lambda: bool(publisher.set_services(now))
        async with running(publisher):
            seen = await changes_until(kv, start, lambda change: change.key == canary)
            await publisher.settled()
    assert await stored(kv) == wanted(now)
    assert [change.key for change in seen if change.value is None] == [keys.service("cm-1", "ns", "of-old")]
    # The canary says that everything is there.
    told = {change.key: change.value for change in seen}
    assert {key: told[key] for key in wanted(now)} == wanted(now)


async def test_a_service_taken_back_by_name_goes_also_before_the_set_is_complete(kv: Kv) -> None:
    publisher = Publisher(kv, "cm-1", CONFIG)
    publisher.set_services(services(2), complete=False)
    async with running(publisher):
        await publisher.settled()
        publisher.delete("ns", "svc-000")
        await publisher.settled()
        assert await stored(kv) == wanted(services(2)[1:])


async def test_a_changed_service_is_rewritten_and_an_unchanged_one_is_not(kv: Kv) -> None:
    publisher = Publisher(kv, "cm-1", CONFIG)
    publisher.set_services(services(5))
    async with running(publisher):
        await publisher.settled()
        before = {item.key: item.mod_revision for item in (await kv.list(PREFIX)).items}
        publisher.upsert(service("svc-001", "10.0.0.99"))
        publisher.set_services([*services(5)[:1], service("svc-001", "10.0.0.99"), *services(5)[2:]])
        await publisher.settled()
        after = {item.key: item.mod_revision for item in (await kv.list(PREFIX)).items}
    assert [key.rpartition("/")[2] for key in after if after[key] != before[key]] == ["svc-001"]


async def test_a_service_that_cannot_be_published_is_named_and_the_others_are_written(kv: Kv) -> None:
    publisher = Publisher(kv, "cm-1", CONFIG)
    huge = replace(service("huge"), labels={"x": "y" * 1_600_000})
    foreign = replace(service("foreign"), cluster="cm-2")
    refused = publisher.set_services([huge, foreign, *services(2)])
    with pytest.raises(InvalidRecord, match=r"value: \d+ bytes"):
        publisher.upsert(huge)
    async with running(publisher):
        await publisher.settled()
    assert await stored(kv) == wanted(services(2))
    assert {name: error.field for name, error in refused.items()} == {
        "ns/huge": "value",
        "ns/foreign": "cluster",
    }


async def test_one_record_that_etcd_refuses_does_not_hold_up_its_batch(
    make_etcd: Callable[..., EtcdProcess],
) -> None:
    etcd = make_etcd(extra=["--max-request-bytes", "100000"])
    await etcd.start()
    large = replace(service("large"), labels={"x": "y" * 150_000})
    async with etcd.kv() as kv:
        publisher = Publisher(kv, "cm-1", CONFIG)
        publisher.set_services([large, *services(20)])
        async with running(publisher):
            await publisher.settled()
            assert await stored(kv) == wanted(services(20))
            assert list(publisher.status.failed or ()) == [keys.service("cm-1", "ns", "large")]


async def test_only_one_of_two_publishers_is_in_office_and_the_other_follows_a_clean_stop_at_once(
    kv: Kv,
) -> None:
    first, second = Publisher(kv, "cm-1", CONFIG, node="n1"), Publisher(kv, "cm-1", CONFIG, node="n2")
    for publisher in (first, second):
        publisher.set_services(services(3))
    async with running(second):
        async with running(first):
            await asyncio.wait(
                [asyncio.ensure_future(one.settled()) for one in (first, second)],
                return_when=asyncio.FIRST_COMPLETED,
            )
            roles = sorted(one.status.role for one in (first, second))
            assert roles in (["publisher", "standby"], ["candidate", "publisher"])
        async with asyncio.timeout(10):  # the election lease is 15 s: it was given up, not waited for
            await second.settled()
        assert second.status.role == "publisher"
        assert await stored(kv) == wanted(services(3))


async def test_when_the_publisher_is_killed_a_successor_takes_over_and_no_peer_sees_a_key_vanish(
    etcd: EtcdProcess, kv: Kv
) -> None:
    async with published_by_process(etcd) as victim:
        listing = await kv.list("cilium/")
        successor = Publisher(kv, "cm-1", CONFIG, options=SHORT)
        # It knows only part of the services for now, as after a start: the rest must survive all the same.
        successor.set_services(services(10), complete=False)
        async with running(successor):
            victim.kill()
            await successor.settled()
            await lapse(etcd, {item.lease for item in listing.items})
            assert await stored(kv) == wanted(services(50))
            successor.set_services(services(49))
            gone = keys.service("cm-1", "ns", "svc-049")
            seen = await changes_until(
                kv, listing.revision, lambda change: change.key == gone and change.value is None
            )
    assert [change.key for change in seen if change.value is None] == [gone]


@asynccontextmanager
async def published_by_process(etcd: EtcdProcess) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that has published 50 services and is still in office."""
    command = [sys.executable, "-m", "tests.etcd.publishing", etcd.url, "50"]
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=root)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"settled\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def lapse(etcd: EtcdProcess, leases: set[int]) -> None:
    """Wait until etcd has dropped all of ``leases``."""
    gone = {f"{lease:x}" for lease in leases}
    async with asyncio.timeout(60):
        while gone & {line.strip().zfill(16).lstrip("0") for line in etcd.ctl("lease", "list").splitlines()}:
            await asyncio.sleep(0.1)


async def test_a_deposed_publisher_writes_nothing_more(kv: Kv) -> None:
    publisher = Publisher(kv, "cm-1", CONFIG)
    publisher.set_services(services(1))
    async with running(publisher):
        await publisher.settled()
        await kv.delete(keys.publisher("cm-1"))
        await kv.put(keys.publisher("cm-1"), b"usurper")
        publisher.upsert(service("late"))
        async with asyncio.timeout(20):
            while publisher.status.role != "standby":
                await asyncio.sleep(0.02)
        assert await stored(kv) == wanted(services(1))
        assert publisher.status.holder == "usurper"
        await kv.delete(keys.publisher("cm-1"))
        await publisher.settled()
    assert await stored(kv) == wanted([*services(1), service("late")])


async def test_after_etcd_was_emptied_everything_is_written_again_and_the_canary_last(
    etcd: EtcdProcess, kv: Kv
) -> None:
    publisher = Publisher(kv, "cm-1", CONFIG, options=SHORT)
    publisher.set_services(services(120))
    canary = keys.canary("cm-1", "services")
    async with running(publisher):
        await publisher.settled()
        etcd.kill()
        etcd.wipe()
        await etcd.start()
        async with etcd.kv() as fresh:
            seen = await changes_until(fresh, 0, lambda change: change.key == canary)
    assert set(wanted(services(120))) <= {change.key for change in seen[:-1]}


async def test_another_etcd_in_place_of_ours_is_filled(
    etcd: EtcdProcess, kv: Kv, make_etcd: Callable[..., EtcdProcess]
) -> None:
    publisher = Publisher(kv, "cm-1", CONFIG, options=SHORT)
    publisher.set_services(services(3))
    async with running(publisher):
        await publisher.settled()
        etcd.kill()
        other = make_etcd("other")
        other.port = etcd.port
        await other.start()
        async with other.kv() as fresh:
            canary = keys.canary("cm-1", "services")
            await changes_until(fresh, 0, lambda change: change.key == canary)
            assert await stored(fresh) == wanted(services(3))


async def test_what_someone_else_changed_is_put_right_by_the_audit(kv: Kv) -> None:
    publisher = Publisher(kv, "cm-1", CONFIG, options=replace(SHORT, audit_s=0.2))
    publisher.set_services(services(2))
    async with running(publisher):
        await publisher.settled()
        start = await kv.put(keys.service("cm-1", "ns", "svc-000"), b"tampered")
        seen = await changes_until(kv, start, lambda change: change.key.endswith("svc-000"))
        assert seen[-1].value == encode_service(services(1)[0])


async def test_many_keys_are_spread_over_leases(kv: Kv) -> None:
    publisher = Publisher(kv, "cm-1", CONFIG, options=replace(SHORT, keys_per_lease=10))
    publisher.set_services(services(35))
    async with running(publisher):
        await publisher.settled()
        per_lease: dict[int, int] = {}
        for item in (await kv.list("cilium/")).items:
            per_lease[item.lease] = per_lease.get(item.lease, 0) + 1
    assert max(per_lease.values()) <= 10
    assert 0 not in per_lease


def test_an_election_lease_that_is_not_the_shorter_one_is_refused() -> None:
    with pytest.raises(OptionsError, match="must be shorter"):
        PublisherOptions(election_ttl_s=900, data_ttl_s=900)


async def test_an_etcd_that_is_restored_from_an_older_snapshot_gets_what_it_lacks_from_the_publisher_in_office(
    etcd: EtcdProcess, kv: Kv, tmp_path: Path
) -> None:
    """The snapshot has the publisher's office and leases, so nothing but its records says that time went back."""
    publisher = Publisher(kv, "cm-1", CONFIG)
    publisher.set_services([service("svc", "10.0.0.1")])
    async with running(publisher):
        await publisher.settled()
        etcd.ctl("snapshot", "save", str(tmp_path / "snapshot"))
        publisher.upsert(service("svc", "10.0.0.2"))
        await publisher.settled()
        etcd.kill()
        etcd.wipe()
        etcd.restore(tmp_path / "snapshot", as_it_was=True)
        await etcd.start()
        # An audit would put it, too, but minutes later.
        async with etcd.kv() as fresh, asyncio.timeout(30):
            while await stored(fresh) != wanted([service("svc", "10.0.0.2")]):
                await asyncio.sleep(0.1)
