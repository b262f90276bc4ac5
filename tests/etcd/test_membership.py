"""Two clusters that join with the command line, each with a real etcd that asks who somebody is."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clustermesh import keys
from clustermesh.channel import TlsFiles
from clustermesh.errors import KvError
from clustermesh.kv import Kv
from clustermesh.mesh import ClusterMesh
from clustermesh.peers import read_directory
from clustermesh.publisher import Publisher
from tests.etcd.process import EtcdProcess
from tests.etcd.recording import RecordingSink
from tests.etcd.test_publisher import CONFIG, SHORT, running, service, services

# The long form; shorter where somebody wants to see it at all.
ROTATING_S = int(os.environ.get("MESHD_TEST_ROTATING_S", "3600"))
BETWEEN_S = 5.0


async def clustermesh(*arguments: object) -> tuple[int, str]:
    """Exit status and all that was printed."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clustermesh.cli",
        *map(str, arguments),
        stdout=pipe,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def done(*arguments: object) -> str:
    status, said = await clustermesh(*arguments)
    assert status == 0, said
    return said


class Joined:
    """Cluster cm-1 with an etcd, and cm-2, which is to read it."""

    def __init__(self, root: Path, etcd: EtcdProcess) -> None:
        self.one, self.two = root / "cm-1", root / "cm-2"
        self.invitation = root / "invitation"
        self.etcd = etcd

    async def init(self, *, restricted: bool = True) -> None:
        for number, directory in enumerate((self.one, self.two), start=1):
            url = self.etcd.url.replace("http:", "https:")
            await done(
                *("init", "--directory", directory, "--name", f"cm-{number}", "--id", number),
                *("--network", f"10.{number}.0.0/16", "--endpoint", url),
            )
        below = self.one / "etcd"
        self.etcd.scheme = "https"
        self.etcd.extra = [
            *("--cert-file", str(below / "etcd.crt"), "--key-file", str(below / "etcd.key")),
            *("--trusted-ca-file", str(below / "ca.crt"), "--client-cert-auth"),
        ]
        await self.etcd.start()
        if restricted:
            await done("restrict", "--directory", self.one)

    async def join(self) -> None:
        await done("invite", "cm-2", "--directory", self.one, "-o", self.invitation)
        await done("join", self.invitation, "--directory", self.two)

    def admin(self) -> Kv:
        below = self.one / "client"
        return Kv(
            [self.etcd.endpoint], tls=TlsFiles(below / "ca.crt", below / "admin.crt", below / "admin.key")
        )

    def peer(self) -> Kv:
        peer = read_directory(self.two / "peers", "cm-2", {}).peers["cm-1"]
        return Kv(peer.endpoints, tls=peer.tls)

    @asynccontextmanager
    async def reading(self, sink: RecordingSink) -> AsyncIterator[ClusterMesh]:
        mesh = ClusterMesh(self.two / "peers", "cm-2", 2, sink)
        task = asyncio.create_task(mesh.run())
        try:
            yield mesh
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def joined(tmp_path: Path, make_etcd: Callable[..., EtcdProcess]) -> Joined:
    both = Joined(tmp_path, make_etcd())
    await both.init()
    return both


async def test_a_cluster_that_was_invited_reads_what_is_shared_and_nothing_else(joined: Joined) -> None:
    await joined.join()
    sink = RecordingSink()
    async with joined.admin() as kv, running(publisher(kv)), joined.reading(sink):
        await sink.told("synced", "cm-1")
        assert len(sink.services["cm-1"]) == 20
        async with joined.peer() as peer:
            assert await peer.get(keys.cluster_config("cm-1")) is not None
            for refused in (
                peer.get(keys.publisher("cm-1")),
                peer.put(keys.service("cm-1", "ns", "svc-000"), b"{}"),
                peer.put(keys.cluster_config("cm-1"), b"{}"),
            ):
                with pytest.raises(KvError, match="permission denied"):
                    await refused


async def test_without_an_invitation_nobody_reads(joined: Joined) -> None:
    below = joined.two / "client"
    stranger = TlsFiles(joined.one / "client" / "ca.crt", below / "admin.crt", below / "admin.key")
    async with Kv([joined.etcd.endpoint], tls=stranger) as kv:
        with pytest.raises(KvError):
            await kv.get(keys.cluster_config("cm-1"))


async def test_who_has_left_may_not_read_any_more(joined: Joined) -> None:
    await joined.join()
    async with joined.peer() as peer:
        await peer.get(keys.cluster_config("cm-1"))
        said = await done("leave", "cm-2", "--directory", joined.one)
        assert said == "cm-2 was no peer\nits nodes may not read cm-1 any more\n"
        with pytest.raises(KvError, match=r"permission denied|invalid auth"):
            await peer.get(keys.cluster_config("cm-1"))


async def test_every_step_may_be_repeated(joined: Joined) -> None:
    for _ in range(2):
        await done("restrict", "--directory", joined.one)
        await done("leave", "cm-2", "--directory", joined.one)
        await joined.join()
    said = await done("join", joined.invitation, "--directory", joined.two)
    assert said == "cm-1 was joined like that already\n"
    said = await done("status", "--directory", joined.two)
    assert "peer cm-1, id 1: 10.1.0.0/16\n" in said
    assert "peers/cm-1.crt ends " in said


def publisher(kv: Kv) -> Publisher:
    made = Publisher(kv, "cm-1", CONFIG, options=SHORT)
    made.set_services([service(one.name, "10.1.0.9") for one in services(20)])
    return made


class Rotation:
    """A publisher of cm-1 and a reader in cm-2 while keys change. ``changes``: how many have arrived."""

    def __init__(self, joined: Joined, made: Publisher, sink: RecordingSink) -> None:
        self.joined, self.made, self.sink = joined, made, sink
        self.changes = 0

    async def change_arrives(self) -> None:
        """What is published now is read now."""
        self.changes += 1
        wanted = service("moving", f"10.1.{self.changes >> 8 & 255}.{self.changes & 255}")
        self.made.upsert(wanted)
        await self.sink.until(lambda: self.sink.services["cm-1"].get(wanted.full_name) == wanted)

    async def certificates(self) -> None:
        await done("rotate", "certificates", "--directory", self.joined.one)
        await self.change_arrives()

    async def authority(self) -> None:
        await done("rotate", "authority", "--directory", self.joined.one)
        await self._restart_etcd()
        await self.joined.join()
        await self.change_arrives()
        await self.certificates()
        await done("rotate", "authority", "--finish", "--directory", self.joined.one)
        await self._restart_etcd()

    async def _restart_etcd(self) -> None:
        # It reads its authorities only when it starts.
        self.joined.etcd.kill()
        await self.joined.etcd.start()
        await self.change_arrives()

    def nothing_was_lost_or_listed_again(self) -> None:
        told = Counter(event[0] for event in self.sink.events)
        assert (told["replace"], told["delete"], told["gone"]) == (0, 0, 0)


@asynccontextmanager
async def rotating(joined: Joined) -> AsyncIterator[Rotation]:
    await joined.join()
    sink = RecordingSink()
    async with joined.admin() as kv, running(made := publisher(kv)), joined.reading(sink):
        await sink.told("synced", "cm-1")
        yield Rotation(joined, made, sink)


async def test_certificates_and_authority_are_changed_and_nothing_is_listed_again(joined: Joined) -> None:
    async with rotating(joined) as keys_change:
        await keys_change.certificates()
        await keys_change.authority()
    keys_change.nothing_was_lost_or_listed_again()


@pytest.mark.long
@pytest.mark.timeout(ROTATING_S + 600)
async def test_for_an_hour_they_are_changed_and_nothing_is_listed_again(joined: Joined) -> None:
    end_s = time.monotonic() + ROTATING_S
    async with rotating(joined) as keys_change:
        for turn in itertools.count(1):
            await keys_change.certificates()
            if turn % 10 == 0:
                await keys_change.authority()
            quiet_s = min(time.monotonic() + BETWEEN_S, end_s)
            while time.monotonic() < quiet_s:
                await keys_change.change_arrives()
                await asyncio.sleep(0.1)
            if time.monotonic() > end_s:
                break
    keys_change.nothing_was_lost_or_listed_again()
