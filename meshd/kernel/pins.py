"""Pins: how maps outlive the process, and how a start finds them again.

A map is pinned as ``<map>_<schema hash>``. A build with another layout therefore never opens a map it would
misread: it makes its own beside the old one, whose entries stay for whoever still reads them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshd.errors import KernelError
from meshd.kernel._libbpf import ffi, lib
from meshd.kernel.maps import Map, read_info
from meshd.kernel.result import checked, checked_libc


@dataclass(frozen=True, slots=True)
class Reused:
    """A map taken from its pin; it keeps ``max_entries`` even where ``wanted_max_entries`` differs."""

    path: Path
    max_entries: int
    wanted_max_entries: int


def pin_path(directory: Path, map_name: str, schema_hash: str) -> Path:
    """Where a map of that layout is pinned."""
    return directory / f"{map_name}_{schema_hash}"


def reuse_pinned(
    raw_maps: Mapping[str, Any], hashes: Mapping[str, str], directory: Path
) -> dict[str, Reused]:
    """Hands the pinned maps of equal layout to libbpf, before it loads; map name -> what was reused.

    ``raw_maps`` are libbpf's maps by name. A pin that holds another type of map than its name promises is
    refused: someone else put it there.

    Raises:
        KernelError: such a pin, or one that cannot be opened.
    """
    reused = {}
    for name, raw in raw_maps.items():
        path = pin_path(directory, name, hashes[name])
        fd = lib.bpf_obj_get(os.fsencode(path))
        if fd == -errno.ENOENT:
            continue
        checked(fd, "open", f"pin {path}")
        try:
            info, wanted = read_info(fd, str(path)), lib.bpf_map__max_entries(raw)
            _require_same_shape(path, raw, info.map_type, info.key_size, info.value_size)
            checked(lib.bpf_map__reuse_fd(raw, fd), "reuse", f"pin {path}")
            reused[name] = Reused(path, info.max_entries, wanted)
        finally:
            os.close(fd)  # libbpf keeps a duplicate.
    return reused


def _require_same_shape(path: Path, raw: Any, map_type: int, key_size: int, value_size: int) -> None:
    found = (map_type, key_size, value_size)
    wanted = (lib.bpf_map__type(raw), lib.bpf_map__key_size(raw), lib.bpf_map__value_size(raw))
    if found != wanted:
        detail = f"(type, key size, value size) is {found}, expected {wanted}: remove the pin"
        raise KernelError("reuse", f"pin {path}", errno.EEXIST, detail)


def pin_new_maps(maps: Mapping[str, Map], hashes: Mapping[str, str], directory: Path) -> None:
    """Pins ``maps`` in ``directory``, which is made if missing.

    Raises:
        KernelError: one could not be pinned; none of them is pinned then.
    """
    pinned: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, bpf_map in maps.items():
            path = pin_path(directory, name, hashes[name])
            bpf_map.pin(path)
            pinned.append(path)
    except (KernelError, OSError) as error:
        for path in pinned:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise KernelError("create", f"pin directory {directory}", error.errno or 0) from error
        raise


def mount_bpffs(directory: Path) -> None:
    """Mounts a bpffs of its own at ``directory`` (made if missing), readable by root only.

    Raises:
        KernelError: not allowed, or no bpffs in this kernel.
    """
    directory.mkdir(parents=True, exist_ok=True)
    flags = lib.MS_NOSUID | lib.MS_NODEV | lib.MS_NOEXEC
    checked_libc(
        lib.mount(b"bpf", os.fsencode(directory), b"bpf", flags, b"mode=0700"),
        "mount",
        f"bpffs at {directory}",
    )


def unmount_bpffs(directory: Path) -> None:
    """Unmounts it and removes the directory; all pins in it go, and what only they held. Gone already is no
    error."""
    if lib.umount2(os.fsencode(directory), lib.MNT_DETACH) < 0 and ffi.errno not in (
        errno.EINVAL,
        errno.ENOENT,
    ):
        raise KernelError("unmount", f"bpffs at {directory}", ffi.errno)
    if directory.is_dir():
        directory.rmdir()


def is_bpffs(directory: Path) -> bool:
    """Whether ``directory`` is inside a bpffs."""
    kind, longest, wanted = "", -1, directory.resolve()
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, where, filesystem, *_ = line.split(" ")
        # Of the mounts above it the deepest counts, and of several at one place the last.
        if wanted.is_relative_to(where) and len(where) >= longest:
            kind, longest = filesystem, len(where)
    return kind == "bpf"
