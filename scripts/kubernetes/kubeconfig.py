"""What a client of an API server needs, in one file that may be copied anywhere: where it is, whom to trust, who we are."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from meshd.lab.record import replace_file
from scripts.kubernetes.certificates import KeyPair


def write(path: Path, server: str, authority: Path, client: KeyPair) -> Path:
    """Writes the kubeconfig of ``client`` at ``path`` (JSON, which is YAML) and returns that."""
    user = {
        "client-certificate-data": _encoded(client.certificate),
        "client-key-data": _encoded(client.key),
    }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "default",
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
        "clusters": [
            {
                "name": "default",
                "cluster": {"server": server, "certificate-authority-data": _encoded(authority)},
            }
        ],
        "users": [{"name": "default", "user": user}],
    }
    replace_file(path, json.dumps(content, indent=2).encode())
    return path


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
