"""Layers become an image: one tar in the OCI image layout, which every container runtime imports.

https://github.com/opencontainers/image-spec, image-layout.md, manifest.md and config.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.image.layer import Layer

# How the OCI calls what `uname -m` says.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_TYPE = "application/vnd.oci.image"


@dataclass(frozen=True, slots=True)
class Image:
    """What is to be said of an image besides its layers. ``epoch``: seconds, when its sources are from."""

    name: str
    tag: str
    machine: str
    epoch: int
    labels: Mapping[str, str]
    entrypoint: Sequence[str]
    environment: Mapping[str, str]

    @property
    def reference(self) -> str:
        """As the kubelet asks the runtime for ``name:tag``: names without a registry are Docker's library."""
        return f"docker.io/library/{self.name}:{self.tag}"


def config_of(image: Image, layers: Sequence[Layer]) -> bytes:
    """The image's configuration, JSON."""
    created = datetime.fromtimestamp(image.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _json(
        {
            "created": created,
            "architecture": ARCHITECTURES[image.machine],
            "os": "linux",
            "config": {
                "Env": [f"{name}={value}" for name, value in image.environment.items()],
                "Entrypoint": list(image.entrypoint),
                "WorkingDir": "/",
                "Labels": dict(image.labels),
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": created, "created_by": layer.history} for layer in layers],
        }
    )


def manifest_of(config: bytes, layers: Sequence[Layer]) -> bytes:
    """The manifest that names configuration and layers by their digests, JSON."""
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_TYPE}.manifest.v1+json",
            "config": _described(f"{_TYPE}.config.v1+json", config),
            "layers": [
                {"mediaType": f"{_TYPE}.layer.v1.tar+gzip", "digest": layer.digest, "size": layer.size_bytes}
                for layer in layers
            ],
        }
    )


def write(path: Path, image: Image, layers: Sequence[Layer]) -> str:
    """The archive is at ``path``, or what was there before; the digest of the manifest."""
    config = config_of(image, layers)
    manifest = manifest_of(config, layers)
    described = _described(f"{_TYPE}.manifest.v1+json", manifest)
    described["platform"] = {"architecture": ARCHITECTURES[image.machine], "os": "linux"}
    described["annotations"] = {
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": image.tag,
    }
    index = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPE}.index.v1+json",
        "manifests": [described],
    }
    scratch = path.with_suffix(".new")
    with tarfile.open(scratch, "w", format=tarfile.PAX_FORMAT) as made:
        _add(made, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(made, "index.json", _json(index))
        for blob in (manifest, config):
            _add(made, _place(_digest(blob)), blob)
        for layer in layers:
            entry = tarfile.TarInfo(_place(layer.digest))
            entry.size = layer.size_bytes
            with Path(layer.path).open("rb") as content:
                made.addfile(entry, content)
    scratch.replace(path)
    return _digest(manifest)


def _described(media_type: str, blob: bytes) -> dict[str, Any]:
    # Any: a descriptor's optional fields are of several types.
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
