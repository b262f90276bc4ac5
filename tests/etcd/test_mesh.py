"""Peers that come, change and go with their files, and the program on its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clustermesh import keys
from clustermesh.kv import Kv
from clustermesh.mesh import ClusterMesh, MeshOptions
from clustermesh.records import encode_service
from tests.etcd.process import EtcdProcess
from tests.etcd.recording import RecordingSink
from tests.etcd.test_publisher import services
from tests.etcd.test_remote import share


@asynccontextmanager
async def meshed(directory: Path, sink: RecordingSink) -> AsyncIterator[ClusterMesh]:
    """Cluster cm-9 (id 9) with the peers of ``directory``, until the block ends."""
    mesh = ClusterMesh(directory, "cm-9", 9, sink, options=MeshOptions(scan_s=0.05))
    task = asyncio.create_task(mesh.run())
    try:
        yield mesh
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def peer_file(etcd: EtcdProcess) -> str:
    """The text of a peer's file."""
    return f"endpoints: ['{etcd.url}']\n"


async def test_peers_are_added_changed_and_removed_with_their_files(
    etcd: EtcdProcess, kv: Kv, directory: Path, make_etcd: Callable[..., EtcdProcess]
) -> None:
    sink = RecordingSink()
    await share(kv, 3)
    async with meshed(directory, sink) as mesh:
        await sink.told("peers")
        (directory / "cm-1").write_text(peer_file(etcd))
        await sink.told("peers", "cm-1")
        await sink.told("synced", "cm-1")
        other = make_etcd("other")
        await other.start()
        async with other.kv() as elsewhere:
            await share(elsewhere, 2)
        (directory / "cm-1").write_text(peer_file(other))
        await sink.told("stale", "cm-1")
        assert len(sink.services["cm-1"]) == 3
        await sink.told("replace", "cm-1", "2")
        assert [peer.state for peer in mesh.status.peers] == ["synced"]
        (directory / "cm-1").unlink()
        await sink.told("gone", "cm-1")
        await sink.told("peers")
        assert mesh.status.peers == ()


async def test_a_directory_that_cannot_be_read_takes_no_peer_away(
    etcd: EtcdProcess, kv: Kv, directory: Path
) -> None:
    sink = RecordingSink()
    await share(kv, 3)
    (directory / "cm-1").write_text(peer_file(etcd))
    async with meshed(directory, sink) as mesh:
        await sink.told("synced", "cm-1")
        directory.rename(directory.with_name("away"))  # noqa: ASYNC240 - a test directory
        await sink.until(lambda: "No such file" in mesh.status.directory_error)
        # The peer goes on: what it changes now still arrives.
        await kv.delete(keys.service("cm-1", "ns", "svc-002"))
        await sink.told("delete", "cm-1", "ns/svc-002")
        directory.with_name("away").rename(directory)
        await sink.until(lambda: mesh.status.directory_error == "")
        assert not any(event[0] in {"gone", "peers"} for event in sink.events)


async def test_a_start_without_a_readable_directory_names_no_peers_at_all(directory: Path) -> None:
    sink = RecordingSink()
    async with meshed(directory / "missing", sink) as mesh:
        await sink.until(lambda: mesh.status.directory_error == "No such file or directory")
        assert sink.events == []


async def test_two_peers_with_one_cluster_id_are_not_both_connected(
    etcd: EtcdProcess, kv: Kv, directory: Path
) -> None:
    sink = RecordingSink()
    await share(kv, 1)
    (directory / "cm-1").write_text(peer_file(etcd))
    async with meshed(directory, sink) as mesh:
        await sink.told("synced", "cm-1")
        config = await kv.get(keys.cluster_config("cm-1"))
        assert config is not None
        await kv.put(keys.cluster_config("cm-2"), config.value or b"")
        (directory / "cm-2").write_text(peer_file(etcd))
        await sink.until(lambda: any("is that of cm-1" in peer.last_failure for peer in mesh.status.peers))
        assert [peer.state for peer in mesh.status.peers] == ["synced", "connecting"]


async def test_a_broken_file_is_in_the_status_and_the_peer_goes_on(
    etcd: EtcdProcess, kv: Kv, directory: Path
) -> None:
    sink = RecordingSink()
    await share(kv, 2)
    (directory / "cm-1").write_text(peer_file(etcd))
    async with meshed(directory, sink) as mesh:
        await sink.told("synced", "cm-1")
        (directory / "cm-1").write_text("endpoints: 5\n")
        await sink.until(lambda: "cm-1" in mesh.status.refused_files)
        await kv.delete(keys.service("cm-1", "ns", "svc-000"))
        await sink.told("delete", "cm-1", "ns/svc-000")
        assert [peer.state for peer in mesh.status.peers] == ["synced"]


async def run_cli(*arguments: str) -> asyncio.subprocess.Process:
    """``clustermesh ARGUMENTS`` as a process of its own."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clustermesh.cli", *arguments, stdout=pipe, stderr=pipe
    )


async def test_the_program_publishes_a_file_reads_it_again_and_dumps_it(
    etcd: EtcdProcess, directory: Path
) -> None:
    (directory / "cm-1").write_text(peer_file(etcd))
    shared = [json.loads(encode_service(one)) for one in services(2)]
    source = directory / "services.json"
    source.write_text(json.dumps([*shared, {**shared[0], "name": "bad", "clusterID": 7}]))
    where = ("--config", str(directory / "cm-1"))
    publishing = await run_cli("publish", *where, "--id", "1", "--services", str(source))
    try:
        assert publishing.stdout is not None
        async with asyncio.timeout(20):
            assert await publishing.stdout.readline() == b"published\n"
        dumped = await run_cli("dump", *where, "-o", "json")
        out, _ = await dumped.communicate()
        shown = json.loads(out)
        assert (dumped.returncode, shown["synced"], shown["invalid"]) == (0, True, [])
        assert [one["name"] for one in shown["services"]] == ["ns/svc-000", "ns/svc-001"]
        assert shown["services"][0]["backends"] == ["10.0.0.1:8080/TCP"]
        async with etcd.kv() as kv:
            after = (await kv.list("x")).revision
            source.write_text(json.dumps(shared[:1]))
            publishing.send_signal(signal.SIGHUP)
            async with asyncio.timeout(20):
                async for step in kv.watch(keys.services_prefix("cm-1"), after=after):
                    if getattr(step, "changes", ()):
                        break
            assert [item.key for item in (await kv.list(keys.services_prefix("cm-1"))).items] == [
                keys.service("cm-1", "ns", "svc-000")
            ]
    finally:
        publishing.send_signal(signal.SIGTERM)
        _, complaints = await publishing.communicate()
    assert publishing.returncode == 0
    assert b"left out:" in complaints
    assert b"clusterID: is '7', expected '1'" in complaints


async def test_a_dump_names_invalid_records_and_fails(etcd: EtcdProcess, kv: Kv, directory: Path) -> None:
    (directory / "cm-1").write_text(peer_file(etcd))
    await share(kv, 1)
    await kv.put(keys.service("cm-1", "ns", "bad"), b"{}")
    dumped = await run_cli("dump", "--config", str(directory / "cm-1"))
    out, _ = await dumped.communicate()
    assert dumped.returncode == 1
    assert b"ns/svc-000  yes     10.96.0.1:80/TCP  10.0.0.1:8080/TCP" in out
    assert b"invalid: cilium/state/services/v1/cm-1/ns/bad: cluster: is '', expected 'cm-1'" in out


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["dump"], 2, b"--config"),
        (["nonsense"], 2, b"nonsense"),
        (["dump", "--config", "/nowhere/cm-1"], 1, b"clustermesh: /nowhere/cm-1: No such file or directory"),
    ],
)
async def test_a_failure_is_one_line_and_an_exit_status(
    arguments: list[str], status: int, complaint: bytes
) -> None:
    process = await run_cli(*arguments)
    _, err = await process.communicate()
    assert process.returncode == status
    assert complaint in err
    assert b"Traceback" not in err
