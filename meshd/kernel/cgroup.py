"""Cgroup v2 directories: what programs at the socket hooks are attached to, and where workloads' processes
live."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from meshd.errors import ConfigError, KernelError

MOUNTS = Path("/proc/self/mounts")


def find_mount(mounts: str | None = None) -> Path:
    """Where cgroup v2 is mounted: /sys/fs/cgroup, or beside version 1 (hybrid) anywhere else.

    Raises:
        ConfigError: it is not mounted; says how to mount it.
    """
    for line in (MOUNTS.read_text() if mounts is None else mounts).splitlines():
        _device, where, filesystem, *_ = line.split(" ")
        if filesystem == "cgroup2":
            # The kernel writes blanks and backslashes in paths as octal escapes.
            return Path(where.encode().decode("unicode_escape"))
    raise ConfigError(
        "cgroup v2 is not mounted: `mount -t cgroup2 none /sys/fs/cgroup/unified`, or boot with it"
    )


def create(path: Path) -> None:
    """Makes the cgroup ``path`` and the missing ones above it; existing ones are left as they are."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KernelError("create", f"cgroup {path}", error.errno or 0) from error


def remove_tree(path: Path) -> None:
    """Removes the cgroup and all below it, deepest first; one that is gone already is no error.

    Raises:
        KernelError: a process still lives in one of them (EBUSY); those below it are gone.
    """
    if not path.is_dir():
        return
    for child in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        remove_tree(child)
    try:
        path.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        living = f"processes {processes(path)}" if error.errno == errno.EBUSY else ""
        raise KernelError("remove", f"cgroup {path}", error.errno or 0, living) from error


def move(path: Path, pid: int = 0) -> None:
    """Moves process ``pid`` (0: the caller) into the cgroup. Sockets it has made before stay in their old
    one."""
    try:
        (path / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        raise KernelError("move", f"process {pid} to cgroup {path}", error.errno or 0) from error


def processes(path: Path) -> list[int]:
    """Process ids in exactly this cgroup, none where it is gone."""
    try:
        return [int(pid) for pid in (path / "cgroup.procs").read_text().split()]
    except (FileNotFoundError, OSError):
        return []


def cgroup_id(path: Path) -> int:
    """The 64-bit id that bpf_get_current_cgroup_id and links report; in cgroup v2 it is the directory's inode
    number.

    Raises:
        KernelError: no such cgroup.
    """
    try:
        return path.stat().st_ino
    except OSError as error:
        raise KernelError("inspect", f"cgroup {path}", error.errno or 0) from error


def of_process(pid: int | str = "self") -> Path:
    """The cgroup v2 directory process ``pid`` is in.

    Raises:
        KernelError: no such process.
    """
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError as error:
        raise KernelError("inspect", f"process {pid}", error.errno or 0) from error
    # Version 2 is the hierarchy numbered 0 with no controllers named.
    relative = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    return find_mount() / os.path.normpath(relative).lstrip("/")
