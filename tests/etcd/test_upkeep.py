"""An etcd is looked after: it is full and takes writes again, its store shrinks, and those may read who are declared."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clustermesh import keys, membership
from clustermesh.access import Access, access
from clustermesh.call import KvOptions
from clustermesh.channel import TlsFiles
from clustermesh.errors import KvError
from clustermesh.kv import Kv
from clustermesh.maintenance import NOSPACE, Maintenance
from clustermesh.readers import Readers, put_in_force
from clustermesh.upkeep import keep_up, look
from tests.etcd.process import EtcdProcess, free_ports
from tests.etcd.test_membership import Joined

QUOTA = 16 << 20
VALUE = b"x" * (512 << 10)
IMPATIENT = KvOptions(deadline_s=3.0)


@asynccontextmanager
async def maintaining(*members: EtcdProcess) -> AsyncIterator[Maintenance]:
    made = Maintenance([each.endpoint for each in members], None)
    try:
        yield made
    finally:
        await made.close()


def address(member: EtcdProcess) -> str:
    return f"127.0.0.1:{member.port}"


async def overwrite(kv: Kv, times: int) -> None:
    """History that nobody needs."""
    for _ in range(times):
        await kv.put("big", VALUE)


async def test_an_etcd_without_space_takes_writes_again_because_history_goes(
    make_etcd: Callable[..., EtcdProcess],
) -> None:
    etcd = make_etcd(extra=["--quota-backend-bytes", str(QUOTA)])
    await etcd.start()
    async with etcd.kv(options=IMPATIENT) as kv, maintaining(etcd) as maintenance:
        with pytest.raises(KvError, match="space exceeded"):
            await overwrite(kv, 100)
        seen = await look(maintenance)
        assert seen.alarms == {NOSPACE}
        assert await keep_up(kv, maintenance, seen, address(etcd), QUOTA) == 1
        seen = await look(maintenance)
        assert seen.alarms == frozenset()
        status = seen.members[address(etcd)]
        assert status is not None
        assert status.size_bytes < QUOTA / 4
        await kv.put("big", VALUE)


async def test_an_alarm_stays_while_what_is_held_is_too_much(make_etcd: Callable[..., EtcdProcess]) -> None:
    etcd = make_etcd(extra=["--quota-backend-bytes", str(QUOTA)])
    await etcd.start()
    async with etcd.kv(options=IMPATIENT) as kv, maintaining(etcd) as maintenance:
        with pytest.raises(KvError, match="space exceeded"):
            for number in range(1000):  # etcd looks at its size now and then only
                await kv.put(f"big-{number}", VALUE)
        await keep_up(kv, maintenance, await look(maintenance), address(etcd), QUOTA)
        assert (await look(maintenance)).alarms == {NOSPACE}


async def test_members_are_defragmented_one_after_the_other_by_the_keeper_of_the_leader(
    make_etcd: Callable[..., EtcdProcess],
) -> None:
    cluster = dict(zip(("m0", "m1", "m2"), free_ports(3), strict=True))
    members = [make_etcd(name, cluster=cluster) for name in cluster]
    for member in members:
        member.launch()
    await asyncio.gather(*(member.listening() for member in members))
    async with Kv([each.endpoint for each in members]) as kv, maintaining(*members) as maintenance:
        # 90 MiB, of which half a MiB is needed.
        await overwrite(kv, 180)
        await kv.compact((await kv.find("big")).revision)

        async def all_know() -> bool:
            found = (await maintenance.statuses()).values()
            return all(each is not None and each.in_use_bytes < (8 << 20) for each in found)

        async with asyncio.timeout(60):
            while not await all_know():
                # What became free is counted when something is written.
                await kv.put("small", b"")
                await asyncio.sleep(0.1)
        seen = await look(maintenance)
        leader = next(name for name, each in seen.members.items() if each is not None and each.leads)
        for name in seen.members:
            if name != leader:
                assert await keep_up(kv, maintenance, seen, name, QUOTA) == 0
        assert await keep_up(kv, maintenance, seen, leader, QUOTA) == 3
        sizes = [each.size_bytes for each in (await maintenance.statuses()).values() if each is not None]
        assert len(sizes) == 3
        assert max(sizes) < (8 << 20)
        assert await keep_up(kv, maintenance, await look(maintenance), leader, QUOTA) == 0


@asynccontextmanager
async def users_of(joined: Joined) -> AsyncIterator[tuple[Kv, Access]]:
    below = joined.one / "client"
    tls = TlsFiles(below / "ca.crt", below / "admin.crt", below / "admin.key")
    async with joined.admin() as kv, access([joined.etcd.endpoint], tls) as users:
        yield kv, users


async def test_those_may_read_who_are_declared_and_an_older_declaration_changes_nothing(
    tmp_path: Path, make_etcd: Callable[..., EtcdProcess]
) -> None:
    joined = Joined(tmp_path, make_etcd())
    await joined.init(restricted=False)
    first = Readers("cm-1")
    both = first.admitting("cm-2").admitting("cm-3")
    async with users_of(joined) as (kv, users):
        assert await put_in_force(kv, users, first) == 1
        # From here on etcd asks who somebody is, and cm-2 has not been let in.
        invitation = membership.invite(joined.one, "cm-2", datetime.timedelta(days=1))
        membership.join(joined.two, invitation)
        async with joined.peer() as peer:
            with pytest.raises(KvError, match=r"permission denied|invalid auth|user name"):
                await peer.get(keys.cluster_config("cm-1"))
        assert await put_in_force(kv, users, both) == 3
        assert await users.admitted() == ("cm-2", "cm-3")
        async with joined.peer() as peer:
            await peer.get(keys.cluster_config("cm-1"))
        # Somebody who has not seen the newest file yet.
        assert await put_in_force(kv, users, first) == 3
        assert await users.admitted() == ("cm-2", "cm-3")
        # By another hand.
        await users.dismiss("cm-2")
        await put_in_force(kv, users, both)
        assert await users.admitted() == ("cm-2", "cm-3")
        assert await put_in_force(kv, users, both.dismissing("cm-3")) == 4
        assert await users.admitted() == ("cm-2",)


async def test_writes_go_on_while_those_change_who_may_read(
    tmp_path: Path, make_etcd: Callable[..., EtcdProcess]
) -> None:
    joined = Joined(tmp_path, make_etcd())
    await joined.init()
    written = [0]

    async def write(kv: Kv) -> None:
        while True:
            await kv.put(f"key-{written[0]}", b"")
            written[0] += 1

    async with users_of(joined) as (kv, users):
        # Several at a time, so that some are under way when users change.
        writers = [asyncio.create_task(write(kv)) for _ in range(20)]
        for number in range(60):
            await users.admit(f"cm-{number}")
        for writer in writers:
            writer.cancel()
        ended = await asyncio.gather(*writers, return_exceptions=True)
    assert [each for each in ended if not isinstance(each, asyncio.CancelledError)] == []
    assert written[0] > 20
