"""Container images from programs that are here, without a registry: busybox, and CoreDNS with nothing beside it.

The form is what `docker save` writes, because every runtime imports that (https://github.com/moby/docker-image-spec,
"combined image JSON + filesystem changeset").
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.kubernetes import components

BUSYBOX = "meshd.test/busybox:1"
# What holds the namespaces of a pod: it sleeps.
PAUSE = "meshd.test/pause:1"
COREDNS = "meshd.test/coredns:1"
EPOCH = "1970-01-01T00:00:00Z"
# The names that Docker and the OCI have for the machines that Debian has containerd for.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# What programs expect to be there; a runtime mounts over the first three.
DIRECTORIES = ("proc", "sys", "dev", "etc", "tmp", "www", "bin")


@dataclass(frozen=True, slots=True)
class Image:
    """``names``: what it is called; each runs ``command`` with ``layer`` (a tar) as its file system."""

    name: str
    layer: bytes
    command: Sequence[str]


def write_all(directory: Path) -> list[Path]:
    """Archives of all images in ``directory``, made unless they are there."""
    directory.mkdir(parents=True, exist_ok=True)
    made = []
    for name, make in (("busybox", _busybox), ("pause", _pause), ("coredns", _coredns)):
        path = directory / f"{name}.tar"
        if not path.exists():
            partial = path.with_suffix(".new")
            write(partial, make())
            partial.replace(path)
        made.append(path)
    return made


def write(path: Path, image: Image) -> None:
    """Makes the archive of ``image`` at ``path``."""
    digest = hashlib.sha256(image.layer).hexdigest()
    machine = platform.machine()
    config = {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "created": EPOCH,
        "config": {"Env": ["PATH=/bin"], "Cmd": list(image.command)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": EPOCH}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [image.name], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add(archive, "layer.tar", image.layer)
        _add(archive, "config.json", json.dumps(config).encode())
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _busybox() -> Image:
    return Image(BUSYBOX, _shell(), ("/bin/sh",))


def _pause() -> Image:
    return Image(PAUSE, _shell(), ("/bin/sleep", "2147483647"))


def _shell() -> bytes:
    """busybox under the name of each of its programs."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    listing = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        _add_directories(layer)
        _add(layer, "bin/busybox", busybox.read_bytes(), 0o755)
        for name in listing.split():
            if name != "busybox":
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                layer.addfile(link)
    return content.getvalue()


def _coredns() -> Image:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        _add_directories(layer)
        _add(layer, "bin/coredns", components.program("coredns").read_bytes(), 0o755)
    return Image(COREDNS, content.getvalue(), ("/bin/coredns",))


def _add_directories(layer: tarfile.TarFile) -> None:
    for name in DIRECTORIES:
        directory = tarfile.TarInfo(name)
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        layer.addfile(directory)


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
