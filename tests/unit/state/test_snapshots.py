"""Snapshots of sources: written behind the mesh, read after a reboot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from meshd.model import Service, ServiceName
from meshd.state import Mesh
from meshd.state.journal import Journal, path_of
from meshd.state.snapshots import SMALL_CHANGE, Snapshots


def service(name: str, source: str = "manifests") -> Service:
    return Service(ServiceName("default", name), source)


@asynccontextmanager
async def running(mesh: Mesh, directory: Path) -> AsyncIterator[Snapshots]:
    snapshots = Snapshots(mesh, directory)
    task = asyncio.create_task(snapshots.run())
    try:
        yield snapshots
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def restored(directory: Path) -> Mesh:
    mesh = Mesh()
    Snapshots(mesh, directory).restore()
    return mesh


async def test_what_a_source_said_is_in_force_after_a_reboot_and_its_absence_means_nothing(
    tmp_path: Path,
) -> None:
    mesh = Mesh()
    async with running(mesh, tmp_path) as snapshots:
        mesh.replace("manifests", [service("web"), service("gone")])
        mesh.replace("manifests", [service("web")])
        await snapshots.flush()
    after = restored(tmp_path)
    assert list(after.services.values()) == [service("web")]
    assert not after.is_complete("manifests")
    assert not after.is_unheard("manifests")


async def test_a_small_change_is_in_the_journal_before_anything_else_happens(tmp_path: Path) -> None:
    mesh = Mesh()
    async with running(mesh, tmp_path) as snapshots:
        mesh.replace("manifests", [service("web")])
        await snapshots.flush()
        mesh.apply("manifests", [service("late")], [(Service, service("web").key)])
        assert list(restored(tmp_path).services.values()) == [service("late")]


async def test_changes_just_before_the_end_are_written_too(tmp_path: Path) -> None:
    mesh = Mesh()
    async with running(mesh, tmp_path) as snapshots:
        mesh.replace("manifests", [service("web")])
        await snapshots.flush()
        mesh.apply("manifests", [service("late")])
    assert list(restored(tmp_path).services.values()) == [service("web"), service("late")]


async def test_a_source_that_is_forgotten_has_no_file(tmp_path: Path) -> None:
    mesh = Mesh()
    async with running(mesh, tmp_path) as snapshots:
        mesh.replace("cluster:cm-2", [service("web", "cluster:cm-2")])
        await snapshots.flush()
        assert path_of(tmp_path, "cluster:cm-2").exists()
        mesh.forget("cluster:cm-2")
        await snapshots.flush()
        assert not path_of(tmp_path, "cluster:cm-2").exists()


async def test_the_api_keeps_its_own_journal(tmp_path: Path) -> None:
    mesh = Mesh()
    async with running(mesh, tmp_path) as snapshots:
        mesh.replace("api", [service("web", "api")])
        await snapshots.flush()
    assert not path_of(tmp_path, "api").exists()


async def test_lines_nobody_asked_to_restore_are_gone_once_the_source_has_listed(tmp_path: Path) -> None:
    mesh = Mesh()
    async with running(mesh, tmp_path) as snapshots:
        mesh.replace("manifests", [service("old"), service("web")])
        await snapshots.flush()
    mesh = Mesh()
    async with running(mesh, tmp_path) as snapshots:
        assert snapshots.restore(only=()) == {}
        mesh.replace("manifests", [service("web"), service("new")])
        await snapshots.flush()
    assert list(restored(tmp_path).services.values()) == [service("web"), service("new")]


async def test_a_source_is_restored_alone(tmp_path: Path) -> None:
    mesh = Mesh()
    async with running(mesh, tmp_path) as snapshots:
        mesh.replace("manifests", [service("web")])
        mesh.replace("kubernetes", [service("web", "kubernetes")])
        await snapshots.flush()
    mesh = Mesh()
    assert Snapshots(mesh, tmp_path).restore(only=("kubernetes",)) == {"kubernetes": 1}
    assert list(mesh.services.values()) == [service("web", "kubernetes")]


async def test_a_journal_that_cannot_be_read_leaves_the_others(tmp_path: Path) -> None:
    mesh = Mesh()
    async with running(mesh, tmp_path) as snapshots:
        mesh.replace("manifests", [service("web")])
        await snapshots.flush()
    path_of(tmp_path, "kubernetes").write_text('{"format":99,"source":"kubernetes"}\n')
    mesh = Mesh()
    assert Snapshots(mesh, tmp_path).restore() == {"manifests": 1}


def many(count: int = SMALL_CHANGE + 1) -> list[Service]:
    return [service(f"web-{number}") for number in range(count)]


async def test_a_journal_that_was_behind_when_its_agent_was_killed_does_not_speak_for_newer_rows(
    tmp_path: Path,
) -> None:
    mesh = Mesh()
    async with running(mesh, tmp_path) as snapshots:
        mesh.replace("manifests", [service("old")])
        await snapshots.flush()
        mesh.replace("manifests", many())
        # As the next start finds it after a kill at this moment.
        after = Mesh()
        assert Snapshots(after, tmp_path).restore(held={"manifests"}) == {}
        assert after.is_unheard("manifests")
        await snapshots.flush()
        assert Snapshots(Mesh(), tmp_path).restore(held={"manifests"}) == {"manifests": len(many())}


async def test_after_a_reboot_a_journal_that_was_behind_is_better_than_nothing(tmp_path: Path) -> None:
    mesh = Mesh()
    async with running(mesh, tmp_path) as snapshots:
        mesh.replace("manifests", [service("old")])
        await snapshots.flush()
        mesh.replace("manifests", many())
        assert Snapshots(Mesh(), tmp_path).restore() == {"manifests": 1}


async def test_what_is_behind_stays_behind_through_a_compaction(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "manifests", live=list)
    journal.load()
    journal.mark(behind=True)
    await journal.compact()
    journal.close()
    again = Journal(tmp_path, "manifests", live=list)
    again.load()
    assert again.is_behind


async def test_what_is_restored_is_not_written_again(tmp_path: Path) -> None:
    mesh = Mesh()
    async with running(mesh, tmp_path) as snapshots:
        mesh.replace("manifests", many())
        await snapshots.flush()
    before = path_of(tmp_path, "manifests").read_bytes()
    after = Mesh()
    async with running(after, tmp_path) as snapshots:
        snapshots.restore()
        await snapshots.flush()
    assert path_of(tmp_path, "manifests").read_bytes() == before
