"""One layer of an image: a compressed tar whose bytes depend on nothing but what is in it."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

# What a container runtime brings, what a build leaves, and what would name the machine of the build.
LEFT_OUT = (
    "dev/",
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "var/cache/",
    "var/lib/apt/",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/log/",
)
# Level 6 is gzip's own default; 9 takes three times as long for one percent.
LEVEL = 6


@dataclass(frozen=True, slots=True)
class Layer:
    """``digest`` and ``size_bytes`` are of the compressed tar, ``diff_id`` is of the tar; ``history`` says what made it."""

    path: str
    digest: str
    diff_id: str
    size_bytes: int
    history: str


def is_wanted(name: str) -> bool:
    """Whether ``name``, relative to the root, belongs into an image; the directories of what is left out do."""
    return not any(name.startswith(path) if path.endswith("/") else name == path for path in LEFT_OUT)


def from_tar(source: Path, target: Path, epoch: int, history: str) -> Layer:
    """``source`` as a layer at ``target``, in its order, less what no image carries."""
    with tarfile.open(source) as given:

        def members(add: Callable[[tarfile.TarInfo, IO[bytes] | None], None]) -> None:
            for entry in given:
                entry.name = entry.name.removeprefix("./")
                if entry.name not in {"", "."} and is_wanted(entry.name):
                    add(entry, given.extractfile(entry) if entry.isreg() else None)

        return _write(target, members, epoch, history)


def from_directory(root: Path, names: Iterable[str], target: Path, epoch: int, history: str) -> Layer:
    """Everything below ``names`` (relative to ``root``) and the directories on the way, sorted, owned by root."""
    found = {path.relative_to(root) for name in names for path in ((root / name).rglob("*"))}
    found |= {Path(name) for name in names}
    found |= {parent for path in found for parent in path.parents if parent != Path()}

    def members(add: Callable[[tarfile.TarInfo, IO[bytes] | None], None]) -> None:
        with tarfile.open(target.with_suffix(".scratch"), "w") as naming:
            for path in sorted(found, key=str):
                entry = naming.gettarinfo(root / path, str(path))
                entry.uid = entry.gid = 0
                entry.uname = entry.gname = ""
                # Of the builder's umask nothing must be seen, and nobody but root may write.
                entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
                if entry.isreg():
                    with (root / path).open("rb") as content:
                        add(entry, content)
                else:
                    add(entry, None)
        target.with_suffix(".scratch").unlink()

    return _write(target, members, epoch, history)


def _write(
    target: Path,
    members: Callable[[Callable[[tarfile.TarInfo, IO[bytes] | None], None]], None],
    epoch: int,
    history: str,
) -> Layer:
    plain = target.with_suffix(".tar")
    with tarfile.open(plain, "w", format=tarfile.PAX_FORMAT) as layer:

        def add(entry: tarfile.TarInfo, content: IO[bytes] | None) -> None:
            entry.mtime = min(int(entry.mtime), epoch)
            # Fractions of a second and what else a source's headers said.
            entry.pax_headers = {}
            layer.addfile(entry, content)

        members(add)
    with (
        plain.open("rb") as given,
        target.open("wb") as made,
        gzip.GzipFile("", "wb", LEVEL, made, mtime=0) as compressed,
    ):
        shutil.copyfileobj(given, compressed, 1 << 20)
    written = Layer(str(target), _sha256(target), _sha256(plain), target.stat().st_size, history)
    plain.unlink()
    return written


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


def save(layer: Layer, path: Path) -> None:
    """Remembers ``layer`` at ``path``."""
    path.write_text(json.dumps(asdict(layer)))


def load(path: Path) -> Layer:
    """What :func:`save` wrote."""
    # Any: our own JSON.
    said: dict[str, Any] = json.loads(path.read_text())
    return Layer(**said)
