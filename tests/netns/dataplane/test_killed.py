"""An agent that is killed between any two writes leaves maps that serve, and the next one leaves no rubbish.

Property: whatever changes are made (services, backends, affinity, sources that come and go), and after whichever row the
writer dies, every frontend in the kernel names a complete list. The next start, over the same maps, writes what is wanted
and nothing else stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace

import pytest

from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.layouts import MemberKey, SlotKey
from meshd.dataplane.opening import open_object
from meshd.kernel.maps import ANY, Map
from meshd.model import Frontend, Protocol, Service, ServiceName, parse_address
from meshd.state import Mesh
from meshd.state.mesh import Object
from tests.netns.dataplane.node import Node, backend, backends, nothing_unwanted

LOCAL, REMOTE = "manifests", "cluster:cm-2"
SERVICES = 6


class Killed(BaseException):
    """Not an Exception: nobody handles the end of his own process."""


class Life:
    """How many rows may be written or deleted before the end."""

    def __init__(self, rows: float) -> None:
        self.left = rows
        self.spent = 0

    def spend(self) -> None:
        if self.left <= 0:
            raise Killed
        self.left -= 1
        self.spent += 1


class MortalMap(Map):
    """The same map; each row is a system call of its own, and any of them may be the last."""

    def __init__(self, immortal: Map, life: Life) -> None:
        super().__init__(os.dup(immortal.fd), immortal.name)
        self._life = life

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        self._life.spend()
        super().update(key, value, flags)

    def delete(self, key: bytes) -> bool:
        self._life.spend()
        return super().delete(key)

    def update_batch(self, entries: Mapping[bytes, bytes], flags: int = ANY) -> None:
        for key, value in entries.items():
            self.update(key, value, flags)

    def delete_batch(self, keys: Iterable[bytes]) -> int:
        return sum(self.delete(key) for key in keys)


@contextlib.asynccontextmanager
async def mortal_agent(
    node: Node, mesh: Mesh, life: Life
) -> AsyncIterator[tuple[Dataplane, asyncio.Task[None]]]:
    dataplane = Dataplane(node.config, mesh, open_object(node.config, ()))
    for name, each in dataplane.maps.items():
        dataplane.maps[name] = MortalMap(each, life)
    task = asyncio.create_task(dataplane.run())
    try:
        yield dataplane, task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
            await task
        for each in dataplane.maps.values():
            each.close()
        dataplane.close()


def wanted_by(source: str, dice: random.Random) -> list[Object]:
    """Some services of our own, or what a cluster adds to them."""
    found: list[Object] = []
    vips = dice.sample(range(SERVICES), SERVICES)  # They move, and change places.
    for number in range(SERVICES):
        name = ServiceName("default", f"service-{number}")
        members = tuple(
            backend(f"127.0.{1 if source == LOCAL else 2}.{n + 1}", weight=dice.choice([1, 100]))
            for n in dice.sample(range(5), dice.randrange(4))
        )
        if source == LOCAL and dice.random() < 0.8:
            vip = parse_address(f"10.96.2.{vips[number]}")
            frontends = (Frontend(vip, 80, Protocol.TCP, "http"), Frontend(vip, 53, Protocol.UDP, "dns"))
            affinity = dice.choice([0, 60])
            found.append(Service(name, source, frontends, is_global=True, affinity_timeout_s=affinity))
        if dice.random() < 0.8:
            part = backends(*members, source=source, cluster=source.removeprefix("cluster:"))
            found.append(replace(part, service=name))
    return found


def assert_every_list_complete(dataplane: Dataplane) -> None:
    layouts = dataplane.layouts
    rows = {name: dict(each.items()) for name, each in dataplane.maps.items()}
    for key, value in rows["frontends"].items():
        frontend, row = layouts.endpoint.decode(key), layouts.service.decode(value)
        for index in range(row.slots):
            packed = rows["slots"].get(layouts.slot_key.encode(SlotKey(row.list, index, frontend)))
            assert packed is not None
            slot = layouts.slot.decode(packed)
            assert layouts.u32.encode(slot.source) in rows["sources"]
            if row.affinity_timeout_s or frontend.protocol == Protocol.UDP:
                assert layouts.member_key.encode(MemberKey(row.list, slot.backend)) in rows["members"]


async def live(node: Node, mesh: Mesh, life: Life, changes: list[tuple[str, list[Object]]]) -> None:
    """Make the changes one after the other, until all are in the kernel or the agent died; the maps serve either way."""
    async with mortal_agent(node, mesh, life) as (dataplane, task):
        for source, objects in changes:
            mesh.replace(source, objects)
            while not task.done() and (mesh.pending or dataplane.retired.waiting):
                await asyncio.sleep(0)
            assert_every_list_complete(dataplane)
            if task.done():
                return


@pytest.mark.parametrize("seed", range(4))
async def test_maps_serve_after_a_death_at_any_row_and_the_next_start_leaves_no_rubbish(
    node: Node, seed: int
) -> None:
    dice = random.Random(seed)  # noqa: S311 - the same changes in every run
    changes = [
        (source, wanted_by(source, dice))
        for source in (REMOTE, LOCAL, *(dice.choice([LOCAL, REMOTE]) for _ in range(3)))
    ]
    whole = Life(float("inf"))
    await live(node, Mesh(), whole, changes)
    for death in dice.sample(range(whole.spent), min(25, whole.spent)):
        await live(node, Mesh(), Life(death), changes)
        mesh = Mesh()
        mesh.listing(LOCAL)
        mesh.listing(REMOTE)
        async with mortal_agent(node, mesh, Life(float("inf"))) as (dataplane, _):
            before = {name: dict(each.items()) for name, each in dataplane.maps.items()}
            await mesh.settled(mesh.revision)
            # Nobody has spoken: nothing is gone.
            after = {name: dict(each.items()) for name, each in dataplane.maps.items()}
            assert all(before[name].items() <= after[name].items() for name in before)
            mesh.replace(LOCAL, wanted_by(LOCAL, random.Random(death)))  # noqa: S311
            await mesh.settled(mesh.revision)
            assert_every_list_complete(dataplane)
            mesh.replace(REMOTE, wanted_by(REMOTE, random.Random(death)))  # noqa: S311
            await mesh.settled(mesh.revision)
            await nothing_unwanted(dataplane)
            assert_every_list_complete(dataplane)
