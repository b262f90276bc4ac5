"""Three members, and the leader is killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from itertools import groupby

from clustermesh.kv import Kv
from clustermesh.watch import Change
from tests.etcd.process import EtcdProcess, free_ports
from tests.etcd.test_watch import collect


async def leader_of(members: list[EtcdProcess]) -> EtcdProcess:
    """The member that leads, once there is one."""
    async with asyncio.timeout(60):
        while True:
            for member in members:
                status = json.loads(member.ctl("endpoint", "status", "-w", "json"))[0]["Status"]
                if status["leader"] == status["header"]["member_id"]:
                    return member
            await asyncio.sleep(0.1)


async def test_when_the_leader_is_killed_no_write_fails_and_no_change_is_missed_or_repeated(
    make_etcd: Callable[..., EtcdProcess],
) -> None:
    names = ("a", "b", "c")
    ports = dict(zip(names, free_ports(3), strict=True))
    members = [make_etcd(name, cluster=ports) for name in names]
    for member in members:
        member.launch()
    for member in members:
        await member.listening()
    leader = await leader_of(members)
    total = 60
    async with Kv(
        [member.endpoint for member in [leader, *(one for one in members if one is not leader)]]
    ) as kv:
        lease = await kv.grant(15)
        start = (await kv.list("p/")).revision

        async def write() -> None:
            for number in range(total):
                if number == 20:
                    leader.kill()
                await kv.put(f"p/{number:02}", b"v", lease)

        async with aclosing(kv.watch("p/", after=start)) as watch:
            writing = asyncio.create_task(write())
            found: list[Change] = []
            while not found or found[-1].key != f"p/{total - 1:02}":
                found += await collect(watch, 1)
            await writing
        await kv.renew(lease)
    revisions = [change.revision for change in found]
    assert sorted(set(revisions)) == revisions
    # A put whose answer was lost may have happened twice, in two revisions: each was told once, and in order.
    assert [key for key, _ in groupby(change.key for change in found)] == [f"p/{n:02}" for n in range(total)]
