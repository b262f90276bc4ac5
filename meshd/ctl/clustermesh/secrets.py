"""What makes a cluster part of a mesh, as objects of Kubernetes: each directory of ``clustermesh.membership`` is a Secret.

They are taken out into a directory in memory, changed there by the same code as anywhere, and put back: what changed, and
only if nobody else has changed it meanwhile. The authority's Secret is mounted nowhere and no agent may read it.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clustermesh.membership import AUTHORITY, CLIENT, CLUSTER, ETCD, PEERS
from meshd.ctl.errors import CtlError
from meshd.errors import ApiServerError
from meshd.kubeapi.client import APPLY, OBJECT, Client
from meshd.kubeapi.resources import CONFIG_MAPS, SECRETS, Resource

# Any: objects of Kubernetes, as JSON.
Object = dict[str, Any]

MANAGER = "meshctl"
LABELS = {"app.kubernetes.io/name": "meshd"}
# Whoever writes an object between reading and writing it is asked to begin again.
CHANGED = 409


@dataclass(frozen=True, slots=True)
class Part:
    """Files below ``directory`` are the data of one object."""

    directory: str
    resource: Resource
    name: str


# In the order in which they are written: what is trusted before what signs, and last what says that all of it is there.
PARTS = (
    Part(ETCD, SECRETS, "meshd-etcd"),
    Part(CLIENT, SECRETS, "meshd-clustermesh"),
    Part(PEERS, SECRETS, "meshd-peers"),
    Part(AUTHORITY, SECRETS, "meshd-authority"),
    Part("", CONFIG_MAPS, "meshd-clustermesh"),
)


@dataclass(slots=True)
class Checkout:
    """``directory``: as membership.py knows it. ``versions``: resource versions of the objects that were there."""

    directory: Path
    before: dict[str, dict[str, bytes]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@contextmanager
def directory() -> Iterator[Path]:
    """A directory for keys, in memory where there is such a place, and gone afterwards."""
    memory = Path("/dev/shm")  # noqa: S108 - a directory of its own is made there, which only its owner may enter
    with tempfile.TemporaryDirectory(prefix="meshctl-", dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


async def take_out(client: Client, namespace: str, into: Path) -> Checkout:
    """All that is in the cluster, as files below ``into``."""
    taken = Checkout(into)
    for part in PARTS:
        found = await read(client, part.resource, part.name, namespace)
        below = into / part.directory
        below.mkdir(mode=0o700, exist_ok=True)
        if found is None:
            continue
        taken.before[part.directory] = data = data_of(found)
        taken.versions[part.directory] = found["metadata"]["resourceVersion"]
        for name, content in data.items():
            # Kubernetes lets no name of a key leave a directory.
            (below / name).write_bytes(content)
    return taken


async def put_back(client: Client, namespace: str, taken: Checkout) -> list[str]:
    """What changed is in the cluster; the names of the objects.

    Raises:
        CtlError: somebody else changed one of them; what was written before it is written, and the command may be repeated.
    """
    written = []
    for part in PARTS:
        files = _files(taken.directory / part.directory, part)
        if files == taken.before.get(part.directory) or not (files or part.directory in taken.before):
            continue
        await write(client, part.resource, part.name, namespace, files, taken.versions.get(part.directory))
        written.append(f"{part.resource.kind} {part.name}")
    return written


async def read(client: Client, resource: Resource, name: str, namespace: str) -> Object | None:
    """The object, None: there is none."""
    try:
        found: Object = await client.get(resource, name, namespace, into=OBJECT)
    except ApiServerError as error:
        if error.status != 404:
            raise
        return None
    return found


async def write(
    client: Client,
    resource: Resource,
    name: str,
    namespace: str,
    files: Mapping[str, bytes],
    version: str | None,
    labels: Mapping[str, str] = LABELS,
) -> None:
    """The object has ``files`` and nothing else. ``version``: it has to be that one; None: there must be none.

    Raises:
        CtlError: it is another one.
    """
    metadata: Object = {"name": name, "namespace": namespace, "labels": dict(labels)}
    body: Object = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
    if resource is SECRETS:
        body["type"] = "Opaque"
        data = {key: base64.b64encode(content).decode() for key, content in files.items()}
    else:
        data = {key: content.decode() for key, content in files.items()}
    try:
        if version is None:
            # Without data: what is not applied is not taken away by the next apply that does not have it.
            made = await client.create(resource, body, namespace, into=OBJECT, field_manager=MANAGER)
            version = made["metadata"]["resourceVersion"]
        await client.patch(
            resource,
            name,
            body | {"metadata": metadata | {"resourceVersion": version}, "data": data},
            namespace,
            into=OBJECT,
            kind=APPLY,
            field_manager=MANAGER,
            force=True,
        )
    except ApiServerError as error:
        if error.status != CHANGED:
            raise
        raise CtlError(
            f"{resource.kind} {namespace}/{name} was changed by somebody else meanwhile; run this again"
        ) from error


def data_of(found: Object) -> dict[str, bytes]:
    """The data of a Secret or ConfigMap."""
    data: Mapping[str, str] = found.get("data") or {}
    if found.get("kind") == CONFIG_MAPS.kind:
        return {key: text.encode() for key, text in data.items()}
    return {key: base64.b64decode(text) for key, text in data.items()}


def _files(below: Path, part: Part) -> dict[str, bytes]:
    # The directory of all has one file of its own.
    names = [CLUSTER] if not part.directory else sorted(path.name for path in below.iterdir())
    return {name: (below / name).read_bytes() for name in names if (below / name).is_file()}
