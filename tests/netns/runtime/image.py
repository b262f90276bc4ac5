"""A container image made of nothing but busybox: a shell, ping, wget and an HTTP server, in 2 MB and without a registry.

The form is what `docker save` writes, because every runtime imports that (https://github.com/moby/docker-image-spec,
"combined image JSON + filesystem changeset").
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

NAME = "meshd.test/busybox:1"
# What programs expect to be there; a runtime mounts over the first three.
DIRECTORIES = ("proc", "sys", "dev", "etc", "tmp", "www", "bin")
EPOCH = "1970-01-01T00:00:00Z"
# The names that Docker and the OCI have for the machines that Debian has containerd for.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write(path: Path, machine: str) -> None:
    """Makes the archive at ``path``, for a machine as `uname -m` calls it."""
    layer = _layer(Path(shutil.which("busybox") or "/bin/busybox"))
    config = {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "created": EPOCH,
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": EPOCH}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add(archive, "layer.tar", layer)
        _add(archive, "config.json", json.dumps(config).encode())
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _layer(busybox: Path) -> bytes:
    """The file system: busybox under the name of each of its programs."""
    listing = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        for name in DIRECTORIES:
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(directory)
        _add(layer, "bin/busybox", busybox.read_bytes(), 0o755)
        for name in listing.split():
            if name != "busybox":
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                layer.addfile(link)
    return content.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
