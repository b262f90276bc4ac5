"""The adapter against a real etcd: keys, transactions, leases."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from clustermesh.call import KvOptions
from clustermesh.channel import parse_endpoint
from clustermesh.errors import Compacted, KvUnavailable, LeaseLost
from clustermesh.kv import Kv
from clustermesh.operations import Compare, Delete, Get, Put
from tests.etcd.process import EtcdProcess, free_ports


async def test_a_key_that_was_put_is_read_back_with_its_revision(kv: Kv) -> None:
    revision = await kv.put("a/b", b"value")
    found = await kv.get("a/b")
    assert found is not None
    assert (found.key, found.value, found.mod_revision, found.lease) == ("a/b", b"value", revision, 0)


async def test_an_absent_key_is_none_and_deleting_it_is_no_error(kv: Kv) -> None:
    assert await kv.get("absent") is None
    assert await kv.delete("absent") == 0


async def test_a_list_holds_all_pages_of_one_revision_while_others_write(etcd: EtcdProcess) -> None:
    async with etcd.kv(options=KvOptions(page_keys=7)) as kv:
        for number in range(50):
            await kv.put(f"p/{number:03}", str(number).encode())
        await kv.put("pq", b"not under p/")
        listed, _ = await asyncio.gather(kv.list("p/"), kv.put("p/049x", b"late"))
    names = [item.key for item in listed.items if item.mod_revision <= listed.revision]
    assert names == [item.key for item in listed.items]
    assert [f"p/{number:03}" for number in range(50)] == [name for name in names if not name.endswith("x")]


async def test_a_list_of_a_prefix_ends_where_a_longer_cluster_name_begins(kv: Kv) -> None:
    await kv.put("s/a/1", b"")
    await kv.put("s/ab/1", b"")
    assert [item.key for item in (await kv.list("s/a/")).items] == ["s/a/1"]


async def test_a_transaction_does_one_side_or_the_other(kv: Kv) -> None:
    first = await kv.txn([Compare("k", "create", 0)], [Put("k", b"mine")], [Get("k")])
    second = await kv.txn([Compare("k", "create", 0)], [Put("k", b"theirs")], [Get("k")])
    assert first.succeeded
    assert not second.succeeded
    assert second.found[0] is not None
    assert second.found[0].value == b"mine"


async def test_a_transaction_compares_values_and_revisions_and_deletes(kv: Kv) -> None:
    revision = await kv.put("k", b"v")
    assert not (await kv.txn([Compare("k", "value", b"other")], [Delete("k")])).succeeded
    assert not (await kv.txn([Compare("k", "mod", revision, equal=False)], [Delete("k")])).succeeded
    assert (
        await kv.txn([Compare("k", "mod", revision), Compare("k", "value", b"v")], [Delete("k")])
    ).succeeded
    assert await kv.get("k") is None


async def test_a_lease_that_is_kept_outlives_its_time_and_one_that_is_not_takes_its_keys(kv: Kv) -> None:
    kept, dropped = await kv.grant(2), await kv.grant(2)
    await kv.put("kept", b"", kept)
    await kv.put("dropped", b"", dropped)
    keeper = asyncio.create_task(kv.keep(kept))
    listed = await kv.list("dropped")
    async with asyncio.timeout(20):
        async for step in kv.watch("dropped", after=listed.revision):
            if getattr(step, "changes", ()):
                break
    assert await kv.get("kept") is not None
    assert await kv.get("dropped") is None
    keeper.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeper


async def test_a_lease_that_was_revoked_is_reported_as_lost(kv: Kv) -> None:
    lease = await kv.grant(3)
    await kv.put("k", b"", lease)
    await kv.revoke(lease)
    assert await kv.get("k") is None
    with pytest.raises(LeaseLost):
        await kv.keep(lease)
    with pytest.raises(LeaseLost):
        await kv.put("k", b"", lease)
    await kv.revoke(lease)  # twice is no error


async def test_a_put_of_no_value_moves_the_key_to_another_lease_and_keeps_the_value(kv: Kv) -> None:
    old, new = await kv.grant(60), await kv.grant(60)
    await kv.put("k", b"stays", old)
    await kv.txn([], [Put("k", None, new.id)])
    await kv.revoke(old)
    found = await kv.get("k")
    assert found is not None
    assert (found.value, found.lease) == (b"stays", new.id)


async def test_the_past_is_readable_until_it_is_compacted(kv: Kv) -> None:
    first = await kv.put("k", b"1")
    second = await kv.put("k", b"2")
    past = await kv.get_at("k", first)
    assert past is not None
    assert past.value == b"1"
    await kv.compact(second)
    with pytest.raises(Compacted):
        await kv.get_at("k", first)


async def test_an_endpoint_nobody_listens_on_is_passed_over(etcd: EtcdProcess) -> None:
    dead = parse_endpoint(f"http://127.0.0.1:{free_ports(1)[0]}")
    async with Kv([dead, etcd.endpoint]) as kv:
        await kv.put("k", b"v")
        assert (await kv.txn([Compare("k", "value", b"v")], [Put("k", b"w")])).succeeded


async def test_when_no_member_answers_the_error_names_operation_key_and_address() -> None:
    port = free_ports(1)[0]
    async with Kv([parse_endpoint(f"http://127.0.0.1:{port}")], options=KvOptions(deadline_s=0.5)) as kv:
        with pytest.raises(KvUnavailable, match=rf"etcd put some/key: UNAVAILABLE.*127\.0\.0\.1:{port}"):
            await kv.put("some/key", b"")


async def test_calls_go_on_after_a_restart_of_the_only_member(etcd: EtcdProcess, kv: Kv) -> None:
    await kv.put("k", b"1")
    etcd.stop()
    waiting = asyncio.create_task(kv.get("k"))
    await etcd.start()
    found = await waiting
    assert found is not None
    assert found.value == b"1"


async def test_a_value_above_the_receive_limit_is_named_and_stepped_over(
    make_etcd: Callable[..., EtcdProcess],
) -> None:
    etcd = make_etcd(extra=["--max-request-bytes", "4000000"])
    await etcd.start()
    async with etcd.kv() as writer, etcd.kv(options=KvOptions(receive_limit_bytes=1_000_000)) as reader:
        for key, value in (("p/a", b"1"), ("p/b", b"x" * 2_000_000), ("p/c", b"3")):
            await writer.put(key, value)
        listed = await reader.list("p/")
    assert [(item.key, item.value) for item in listed.items] == [("p/a", b"1"), ("p/b", None), ("p/c", b"3")]
