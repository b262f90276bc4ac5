"""Which files of a directory are manifests, and the content of those that changed. Blocking: for a thread."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".yaml", ".yml", ".json")
FILE_MAX_BYTES = 128 * 1024 * 1024


class Signature(NamedTuple):
    """Differs when the content may."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int


class Contents(NamedTuple):
    text: str
    signature: Signature


class Refused(NamedTuple):
    """A file that is there and cannot be read."""

    reason: str


class Found(NamedTuple):
    """``files``: name -> what is in it now, None if it is gone. ``unchanged`` need not be read again."""

    files: dict[str, Contents | Refused | None]
    unchanged: set[str]


def is_manifest(name: str) -> bool:
    """Whether a file of that name is read: by its suffix, and neither hidden nor an editor's copy (``#x#``, ``x~``)."""
    return name.endswith(SUFFIXES) and not name.startswith((".", "#"))


def read_changed(
    directory: Path, names: Iterable[str] | None, known: Mapping[str, Signature | None]
) -> Found:
    """The files ``names`` of ``directory``, in order; with None all that are there or ``known`` and not as known.

    Raises:
        OSError: the directory cannot be listed to its end.
    """
    found = Found({}, set())
    everything = names is None
    if names is None:
        listed = os.listdir(directory)  # noqa: PTH208 - names are what we go by
        names = known.keys() | {name for name in listed if is_manifest(name)}
    for name in sorted(names):
        status = _stat(directory / name)
        if everything and isinstance(status, Signature) and status == known.get(name):
            found.unchanged.add(name)
        else:
            found.files[name] = _read(directory / name) if isinstance(status, Signature) else status
    return found


def _stat(path: Path) -> Signature | Refused | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        # A link whose target is missing is there; it may be on its way to its next one.
        return Refused("is a link to nothing") if path.is_symlink() else None
    except OSError as error:
        return Refused(os.strerror(error.errno or 0))
    # Directories, sockets and the like hold no manifests, whatever they are called.
    return _signature(status) if stat.S_ISREG(status.st_mode) else None


def _signature(status: os.stat_result) -> Signature:
    return Signature(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _read(path: Path) -> Contents | Refused | None:
    try:
        with path.open("rb", buffering=0) as file:
            signature = _signature(os.fstat(file.fileno()))
            data = file.read(FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Refused(os.strerror(error.errno or 0))
    if len(data) > FILE_MAX_BYTES:
        return Refused(f"is larger than {FILE_MAX_BYTES} bytes")
    try:
        return Contents(data.decode("utf-8-sig"), signature)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Refused(f"is not UTF-8 in line {line}")
