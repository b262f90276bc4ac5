"""Cgroups: found also on hybrid machines, made, entered, removed; named by the id that programs see."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from meshd.errors import ConfigError, KernelError
from meshd.kernel import cgroup


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "/sys/fs/cgroup"),
        (
            "tmpfs /sys/fs/cgroup tmpfs rw 0 0\nnone /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
            "/sys/fs/cgroup/unified",
        ),
        ("none /mnt/c\\040two cgroup2 rw 0 0\n", "/mnt/c two"),
    ],
    ids=["unified", "hybrid", "escaped blank"],
)
def test_cgroup_v2_is_found_wherever_it_is_mounted(mounts: str, found: str) -> None:
    assert cgroup.find_mount(mounts) == Path(found)


def test_a_machine_without_cgroup_v2_is_told_how_to_mount_it() -> None:
    with pytest.raises(ConfigError, match="mount -t cgroup2"):
        cgroup.find_mount("cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n")


def test_a_subtree_is_made_and_removed_whole(scratch_cgroup: Path) -> None:
    cgroup.create(scratch_cgroup / "a" / "b")
    cgroup.create(scratch_cgroup / "a" / "b")
    cgroup.remove_tree(scratch_cgroup / "a")
    cgroup.remove_tree(scratch_cgroup / "a")
    assert [entry.name for entry in scratch_cgroup.iterdir() if entry.is_dir()] == []


def test_a_process_moves_in_and_is_listed(
    scratch_cgroup: Path, inside: Callable[[Path], AbstractContextManager[None]]
) -> None:
    with inside(scratch_cgroup):
        members, mine = cgroup.processes(scratch_cgroup), cgroup.of_process()
    assert (members, mine) == ([os.getpid()], scratch_cgroup)


def test_a_cgroup_with_a_process_in_it_says_which(
    scratch_cgroup: Path, inside: Callable[[Path], AbstractContextManager[None]]
) -> None:
    cgroup.create(scratch_cgroup / "busy")
    with inside(scratch_cgroup / "busy"), pytest.raises(KernelError, match=str(os.getpid())) as refused:
        cgroup.remove_tree(scratch_cgroup)
    assert refused.value.errno == errno.EBUSY


def test_a_missing_process_is_named(scratch_cgroup: Path) -> None:
    with pytest.raises(KernelError, match="process 4194304"):
        cgroup.move(scratch_cgroup, 4194304)
