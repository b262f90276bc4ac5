"""A node's own records in a real etcd: written once, kept, put right, and taken back."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address, ip_network

from clustermesh import keys
from clustermesh.address_record import AddressRecord, decode_address, encode_address
from clustermesh.kv import Kv
from clustermesh.node_record import Node, NodeAddress, encode_node
from clustermesh.own_keys import OwnKeys
from tests.etcd.process import EtcdProcess
from tests.etcd.test_publisher import changes_until, running, stored

NODE = Node("n1", "cm-1", 1, addresses=(NodeAddress("InternalIP", ip_address("192.168.0.1")),))
NODE_KEY = keys.node("cm-1", "n1")
PREFIX = keys.addresses_prefix("cm-1")


def addresses(count: int, host: str = "192.168.0.1") -> dict[str, bytes]:
    """Keys and values of ``count`` pods on ``host``."""
    records = [
        AddressRecord(ip_network(f"10.1.{number // 250}.{number % 250 + 1}"), ip_address(host), 3)
        for number in range(count)
    ]
    return {keys.address(record.name): encode_address(record) for record in records}


def is_of(host: str, key: str, value: bytes) -> bool:
    """Whether the address under ``key`` is on ``host``."""
    name = key.removeprefix(PREFIX)
    record = decode_address(key, value, name=name, cluster_id=1, max_connected_clusters=255)
    return record.host == ip_address(host)


async def test_a_node_and_hundreds_of_addresses_are_written_in_few_transactions(kv: Kv) -> None:
    start = (await kv.list("cilium/")).revision
    own = OwnKeys(kv, keys_per_lease=300)
    own.update({NODE_KEY: encode_node(NODE), **addresses(700)})
    async with running(own):
        await own.settled()
        listing = await kv.list("cilium/")
    assert {item.key: item.value for item in listing.items} == {
        NODE_KEY: encode_node(NODE),
        **addresses(700),
    }
    assert listing.revision - start <= 8
    per_lease = Counter(item.lease for item in listing.items)
    assert (0 in per_lease, max(per_lease.values()), len(per_lease)) == (False, 300, 3)


async def test_only_what_changes_is_written_and_what_is_taken_back_goes(kv: Kv) -> None:
    own = OwnKeys(kv)
    own.update({NODE_KEY: encode_node(NODE), **addresses(3)})
    async with running(own):
        await own.settled()
        start = (await kv.list("cilium/")).revision
        first, second, third = sorted(addresses(3))
        moved = encode_node(replace(NODE, boot_id="b"))
        own.update({NODE_KEY: moved, **addresses(1)}, [second, "cilium/not-ours"])
        await own.settled()
        seen = await changes_until(kv, start, lambda change: change.value is None)
    assert {(change.key, change.value) for change in seen} == {(NODE_KEY, moved), (second, None)}
    assert set(await stored(kv, PREFIX)) == {first, third}


async def test_a_restart_writes_no_new_value_and_leaves_no_address_of_a_pod_that_is_gone(kv: Kv) -> None:
    first = OwnKeys(kv, ttl_s=60)
    first.update({NODE_KEY: encode_node(NODE), **addresses(3)})
    async with running(first):
        await first.settled()
    foreign = addresses(5, "192.168.0.2")
    fourth = sorted(foreign)[3]
    await kv.put(fourth, foreign[fourth])
    before = await stored(kv, "cilium/")
    second = OwnKeys(kv, ttl_s=60)
    second.update({NODE_KEY: encode_node(NODE), **addresses(2)})
    async with running(second):
        await second.settled()
        assert await stored(kv, "cilium/") == before
        second.clear_leftovers(PREFIX, lambda key, value: is_of("192.168.0.1", key, value))
        await second.settled()
        found = (await kv.list("cilium/")).items
    assert {item.key for item in found} == {NODE_KEY, *addresses(2), fourth}
    # Its own ones live by the new process's lease now.
    assert len({item.lease for item in found if item.key != fourth}) == 1


async def test_an_address_that_another_node_says_now_is_not_taken_back_from_it(kv: Kv) -> None:
    own = OwnKeys(kv)
    own.update(addresses(2))
    first, second = sorted(addresses(2))
    async with running(own):
        await own.settled()
        theirs = addresses(1, "192.168.0.2")[first]
        await kv.put(first, theirs)
        own.update({}, [first, second])
        await own.settled()
        assert await stored(kv, PREFIX) == {first: theirs}


async def test_a_new_etcd_of_the_own_cluster_is_filled(etcd: EtcdProcess, kv: Kv) -> None:
    own = OwnKeys(kv, ttl_s=3)
    wanted = {NODE_KEY: encode_node(NODE), **addresses(2)}
    own.update(wanted)
    async with running(own):
        await own.settled()
        etcd.kill()
        etcd.wipe()
        await etcd.start()
        async with etcd.kv() as fresh:
            seen: dict[str, bytes | None] = {}
            while seen.keys() != wanted.keys():
                for change in await changes_until(fresh, 0, lambda change: change.key in wanted):
                    seen[change.key] = change.value
                seen |= await stored(fresh, "cilium/")
    assert seen == wanted


async def test_what_somebody_deletes_is_put_back_by_the_audit(kv: Kv) -> None:
    own = OwnKeys(kv, audit_s=0.2)
    own.update(addresses(2))
    first, second = sorted(addresses(2))
    async with running(own):
        await own.settled()
        start = await kv.delete(second) and (await kv.list("cilium/")).revision
        seen = await changes_until(kv, start, lambda change: change.key == second)
    assert [change.value for change in seen] == [addresses(2)[second]]
    assert set(await stored(kv, PREFIX)) == {first, second}
