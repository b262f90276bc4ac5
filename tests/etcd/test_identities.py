"""Identities in a real etcd: the same number for the same labels, kept while used, deleted when not, read in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from clustermesh import keys
from clustermesh.address_record import identity_range
from clustermesh.identity_allocator import MOST_TRIED, IdentityAllocator
from clustermesh.identity_upkeep import UnusedIdentities
from clustermesh.kv import Kv
from clustermesh.operations import Compare, Delete, Put
from clustermesh.publisher import Publisher, PublisherOptions
from clustermesh.records import encode_config
from meshd.model import Namespace, Node, Workload, parse_address
from meshd.model.cluster import OWN_NODE
from meshd.sources.local_etcd import LocalEtcd
from meshd.state import Mesh
from meshd.state.mesh import WORKLOAD_PRECEDENCE
from tests.etcd.process import EtcdProcess
from tests.etcd.recording import RecordingSink
from tests.etcd.test_nodes_remote import canary, reading
from tests.etcd.test_publisher import CONFIG, SHORT, running, stored
from tests.etcd.test_remote import share

FIRST, LAST = identity_range(1, 255)
IDS = keys.identities_prefix("cm-1")
CLUSTER = "k8s:io.cilium.k8s.policy.cluster=cm-1;"


def labels(app: str) -> str:
    return f"k8s:app={app};{CLUSTER}"


class Allocating:
    """An allocator, and how often it told."""

    def __init__(self, kv: Kv, *apps: str, audit_s: float = 300.0) -> None:
        self._told = asyncio.Event()
        self.allocator = IdentityAllocator(kv, 1, 255, told=self._told.set, audit_s=audit_s)
        self.allocator.want([labels(app) for app in apps])

    async def settled(self) -> dict[str, int]:
        """The numbers, once everything wanted has one or gets none."""
        async with asyncio.timeout(30):
            while self.allocator.pending:
                self._told.clear()
                await self._told.wait()
        return dict(self.allocator.numbers)


@asynccontextmanager
async def at_work(*parts: Allocating) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(part.allocator.run()) for part in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def written(kv: Kv) -> dict[int, str]:
    """Number -> labels, in etcd."""
    return {
        int(key.removeprefix(IDS)): (value or b"").decode() for key, value in (await stored(kv, IDS)).items()
    }


async def place(kv: Kv, app: str) -> int:
    """The number that ``app`` gets where it has the choice; nothing is left of it."""
    one = Allocating(kv, app)
    async with at_work(one):
        (number,) = (await one.settled()).values()
    await kv.delete(keys.identity(number))
    return number


async def test_nodes_that_see_the_same_labels_at_the_same_time_agree(kv: Kv) -> None:
    apps = [f"app-{number}" for number in range(20)]
    nodes = [Allocating(kv, *apps) for _ in range(5)]
    async with at_work(*nodes):
        found = [await node.settled() for node in nodes]
    assert found == [found[0]] * 5
    assert await written(kv) == {number: text for text, number in found[0].items()}
    assert len(found[0]) == 20
    assert all(FIRST <= number <= LAST for number in found[0].values())


async def test_a_number_that_others_have_is_left_to_them(kv: Kv) -> None:
    number = await place(kv, "web")
    await kv.put(keys.identity(number), labels("other").encode())
    one = Allocating(kv, "web")
    async with at_work(one):
        assert await one.settled() == {labels("web"): number + 1}
    assert (await written(kv))[number] == labels("other")


async def test_a_number_that_other_nodes_say_they_use_is_used_if_it_has_these_labels(kv: Kv) -> None:
    mine, lie, theirs = FIRST + 5, FIRST + 6, FIRST + 7
    await kv.put(keys.identity(mine), labels("web").encode())
    await kv.put(keys.identity(lie), labels("other").encode())
    await kv.put(keys.identity_use(labels("web"), "192.168.0.2"), str(mine).encode())
    await kv.put(keys.identity_use(labels("web"), "192.168.0.1"), str(LAST + 1).encode())
    await kv.put(keys.identity_use(labels("db"), "192.168.0.2"), str(lie).encode())
    # More labels, which begin alike.
    await kv.put(keys.identity_use(labels("db") + "/k8s:x=y;", "192.168.0.2"), str(theirs).encode())
    one = Allocating(kv, "web", "db")
    async with at_work(one):
        found = await one.settled()
    assert found[labels("web")] == mine
    assert found[labels("db")] not in {mine, lie, theirs}


async def test_after_etcd_came_back_empty_everybody_has_the_number_that_they_had(
    etcd: EtcdProcess, kv: Kv
) -> None:
    one = Allocating(kv, "web", audit_s=0.2)
    async with at_work(one):
        before = await one.settled()
        etcd.kill()
        etcd.wipe()
        await etcd.start()
        async with etcd.kv() as fresh, asyncio.timeout(30):
            while not await written(fresh):
                await asyncio.sleep(0.05)
            assert await written(fresh) == {number: text for text, number in before.items()}
        assert one.allocator.numbers == before


async def test_what_somebody_took_meanwhile_is_told_anew(kv: Kv) -> None:
    one = Allocating(kv, "web", audit_s=0.1)
    async with at_work(one):
        ((_, number),) = (await one.settled()).items()
        await kv.put(keys.identity(number), labels("usurper").encode())
        async with asyncio.timeout(30):
            while one.allocator.numbers[labels("web")] == number:
                await asyncio.sleep(0.02)
        assert one.allocator.numbers == {labels("web"): number + 1}


async def test_what_gets_none_is_named_and_holds_up_nobody(kv: Kv) -> None:
    start = await place(kv, "web")
    taken = [FIRST + (start - FIRST + step) % (LAST - FIRST + 1) for step in range(MOST_TRIED)]
    for batch in (taken[at : at + 100] for at in range(0, MOST_TRIED, 100)):
        await kv.txn([], [Put(keys.identity(number), b"k8s:taken=;") for number in batch])
    one = Allocating(kv, "web", "zzz")
    async with at_work(one):
        assert list(await one.settled()) == [labels("zzz")]
    assert list(one.allocator.failed) == [labels("web")]


async def test_what_nobody_uses_from_one_look_to_the_next_is_deleted(kv: Kv) -> None:
    async def delete_if(key: str, conditions: Iterable[Compare]) -> bool:
        return (await kv.txn(list(conditions), [Delete(key)])).succeeded

    used, unused, again = FIRST, FIRST + 1, FIRST + 2
    for number, app in ((used, "used"), (unused, "unused"), (again, "again")):
        await kv.put(keys.identity(number), labels(app).encode())
    await kv.put(keys.identity_use(labels("used"), "192.168.0.1"), str(used).encode())
    upkeep = UnusedIdentities(kv, "cm-1")
    assert await upkeep.sweep(delete_if) == 0
    # A node begins to use it: its own key comes a moment later.
    one = Allocating(kv, "again")
    await kv.put(keys.identity_use(labels("again"), "192.168.0.9"), str(again).encode())
    async with at_work(one):
        assert await one.settled() == {labels("again"): again}
    await kv.delete(keys.identity_use(labels("again"), "192.168.0.9"))
    assert await upkeep.sweep(delete_if) == 1
    assert set(await written(kv)) == {used, again}
    assert await upkeep.sweep(delete_if) == 1
    assert set(await written(kv)) == {used}


async def test_the_publisher_deletes_what_nobody_uses(kv: Kv) -> None:
    await kv.put(keys.identity(FIRST), labels("gone").encode())
    await kv.put(keys.identity(FIRST + 1), labels("used").encode())
    await kv.put(keys.identity_use(labels("used"), "192.168.0.1"), str(FIRST + 1).encode())
    publisher = Publisher(kv, "cm-1", CONFIG, options=replace(SHORT, audit_s=0.1))
    publisher.set_services([])
    async with running(publisher), asyncio.timeout(30):
        while set(await written(kv)) != {FIRST + 1}:
            await asyncio.sleep(0.05)


NODE = Node("cm-1", "n1", OWN_NODE, (parse_address("192.168.0.1"),), ("10.1.0.0/24",))
WEB = Workload(
    "bar",
    "web-1",
    "kubernetes",
    "",
    (parse_address("10.1.0.7"),),
    labels=(("app", "web"), ("pod-template-hash", "abc")),
)
WEB_LABELS = (
    "k8s:app=web;k8s:io.cilium.k8s.namespace.labels.team=a;"
    + CLUSTER
    + "k8s:io.kubernetes.pod.namespace=bar;"
)


def mesh(*pods: Workload) -> Mesh:
    made = Mesh()
    made.apply(OWN_NODE, [NODE])
    for source in WORKLOAD_PRECEDENCE:
        named = [Namespace("bar", source, labels=(("team", "a"),))] if source == "kubernetes" else []
        made.replace(source, [*named, *(pod for pod in pods if pod.source == source)])
    return made


@asynccontextmanager
async def speaking(etcd: EtcdProcess, of: Mesh, tmp_path: Path) -> AsyncIterator[None]:
    """The agent's part of node n1 in ``etcd``, without a publisher."""
    (tmp_path / "cm-1").write_text(f"endpoints: ['{etcd.url}']\n")
    options = PublisherOptions(election_ttl_s=1, data_ttl_s=60)
    agent = LocalEtcd(of, tmp_path / "cm-1", "cm-1", 1, "n1", publish=False, options=options)
    task = asyncio.create_task(agent.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until_stored(kv: Kv, expected: dict[str, bytes], prefix: str = "cilium/state/identities/") -> None:
    async with asyncio.timeout(30):
        while await stored(kv, prefix) != expected:
            await asyncio.sleep(0.02)


async def test_a_node_says_who_its_pods_are_and_which_identities_it_uses(
    etcd: EtcdProcess, kv: Kv, tmp_path: Path
) -> None:
    # A container runtime knows a pod before the API server's word of it has come, and knows no labels.
    attached = replace(WEB, source="cni", labels=None)
    alike = replace(WEB, name="web-2", addresses=(parse_address("10.1.0.8"),))
    unknown = replace(attached, name="other", addresses=(parse_address("10.1.0.9"),))
    of = mesh(attached, WEB, alike, unknown)
    use = keys.identity_use(WEB_LABELS, "192.168.0.1")
    async with speaking(etcd, of, tmp_path):
        async with asyncio.timeout(30):
            while not await kv.get(use) or len(await stored(kv, keys.addresses_prefix("cm-1"))) < 3:
                await asyncio.sleep(0.02)
        (number,) = await written(kv)
        both = {keys.identity(number): WEB_LABELS.encode(), use: str(number).encode()}
        await until_stored(kv, both)
        said = await stored(kv, keys.addresses_prefix("cm-1"))
        ids = {
            key.rpartition("/")[2]: (value or b"").partition(b'"ID":')[2][:6] for key, value in said.items()
        }
        ours = str(number).encode()
        assert {at: value.partition(b",")[0] for at, value in ids.items()} == {
            "10.1.0.7": ours,
            "10.1.0.8": ours,
            "10.1.0.9": b"3",
        }
        held = await kv.get(use)
        assert held is not None
        assert held.lease != 0
        master = await kv.get(keys.identity(number))
        assert master is not None
        assert master.lease == 0
        # As many as use it: it goes with the last.
        of.apply("kubernetes", deletes=[(Workload, alike.key)])
        of.apply("kubernetes", deletes=[(Workload, WEB.key)])
        await until_stored(kv, {keys.identity(number): WEB_LABELS.encode()})


async def test_a_restart_says_the_same_again_and_takes_back_what_nobody_uses_any_more(
    etcd: EtcdProcess, kv: Kv, tmp_path: Path
) -> None:
    db = replace(WEB, name="db-1", labels=(("app", "db"),), addresses=(parse_address("10.1.0.8"),))
    async with speaking(etcd, mesh(WEB, db), tmp_path), asyncio.timeout(30):
        while (
            len(await stored(kv, keys.addresses_prefix("cm-1"))) < 2
            or len(await stored(kv, keys.IDENTITY_USES)) < 2
        ):
            await asyncio.sleep(0.02)
    foreign = keys.identity_use(WEB_LABELS, "192.168.0.2")
    number = next(number for number, text in (await written(kv)).items() if text == WEB_LABELS)
    await kv.put(foreign, str(number).encode())
    before = await kv.list("cilium/state/")
    values = {item.key: item.value for item in before.items}
    gone = {keys.address("10.1.0.8"), keys.identity_use(WEB_LABELS.replace("web", "db"), "192.168.0.1")}
    seen: list[tuple[str, bytes | None]] = []
    async with speaking(etcd, mesh(WEB), tmp_path):
        async with asyncio.timeout(30):
            async for step in kv.watch("cilium/state/", after=before.revision):
                seen += [(change.key, change.value) for change in getattr(step, "changes", ())]
                if {key for key, value in seen if value is None} == gone:
                    break
    assert [(key, value) for key, value in seen if value is not None and values.get(key) != value] == []
    assert foreign in await stored(kv, keys.IDENTITY_USES)


async def test_identities_of_a_peer_are_read_after_its_nodes_and_before_its_addresses(
    etcd: EtcdProcess, kv: Kv
) -> None:
    sink = RecordingSink()
    await share(kv, 1)
    await kv.put(keys.identity(FIRST), labels("web").encode())
    await kv.put(keys.identity(LAST + 1), labels("web").encode())
    await kv.put(keys.identity(FIRST + 1), b"k8s:io.cilium.k8s.policy.cluster=cm-3;")
    for resource in ("ip", "nodes"):
        await canary(kv, resource)
    async with reading(etcd, sink) as (remote, _):
        await sink.until(lambda: keys.canary("cm-1", "identities") in remote.status.reason)
        assert sink.events == [("nodes", "cm-1")]
        await canary(kv, "identities")
        await sink.told("addresses", "cm-1")
        await sink.told("synced", "cm-1")
        status = remote.status
        refused = {f"identity {FIRST + 1}", f"identity {LAST + 1}"}
        assert (status.identities, set(status.refused)) == (1, refused)
        assert status.refusals == {"id": 1, "labels": 1}


async def test_identities_that_a_kvstoremesh_copied_are_read_below_its_own_prefix(
    etcd: EtcdProcess, kv: Kv
) -> None:
    sink = RecordingSink()
    await kv.put(keys.cluster_config("cm-1"), encode_config(replace(CONFIG, cached=True)))
    await kv.put(f"cilium/cache/identities/v1/cm-1/id/{FIRST}", labels("web").encode())
    await kv.put(keys.identity(FIRST + 9), labels("web").encode())
    for resource in ("nodes", "identities", "ip", "services"):
        await kv.put(keys.canary("cm-1", resource, cached=True), b"now")
    async with reading(etcd, sink) as (remote, _):
        await sink.told("synced", "cm-1")
        assert (remote.status.identities, remote.status.refused) == (1, {})
