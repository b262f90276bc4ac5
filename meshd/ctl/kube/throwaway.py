"""Pods for a moment: a namespace of their own, which goes with all that is in it, whatever ends what they are for."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from meshd.ctl.kube import rollout
from meshd.errors import ApiServerError, MeshError
from meshd.kubeapi.client import OBJECT, Client
from meshd.kubeapi.resources import NAMESPACES, PODS

# Any: objects of Kubernetes, as JSON.
Object = dict[str, Any]
Tell = Callable[[str], None]

POLL_S = 0.3
# Whatever becomes of the meshctl that made them, pods end by themselves.
LIFE_S = 900
ENDED = ("Succeeded", "Failed")
# A pull that failed is tried again, for minutes, and mostly fails for the same reason.
NO_IMAGE = ("ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")


def labels(purpose: str) -> dict[str, str]:
    """Of everything that is made for ``purpose``."""
    return {"app.kubernetes.io/name": "meshd", "app.kubernetes.io/component": purpose}


@asynccontextmanager
async def namespace(client: Client, purpose: str, security: str, tell: Tell) -> AsyncIterator[str]:
    """A new one called ``meshd-PURPOSE-...``; those of its purpose that were left behind go now.

    ``security``: what Pod Security Admission lets its pods have (restricted, privileged).
    """
    await _remove_old(client, purpose, tell)
    name = f"meshd-{purpose}-{secrets.token_hex(3)}"
    words = {f"pod-security.kubernetes.io/{mode}": security for mode in ("enforce", "warn")}
    body = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels(purpose) | words},
    }
    is_made = True
    try:
        try:
            await client.create(NAMESPACES, body, into=OBJECT)
        except ApiServerError:
            is_made = False
            raise
        yield name
    finally:
        try:
            if is_made:
                await client.delete(NAMESPACES, name)
        except MeshError as error:
            tell(f"namespace {name} is still there: kubectl delete namespace {name} ({error})")


async def _remove_old(client: Client, purpose: str, tell: Tell) -> None:
    chosen = ",".join(f"{key}={value}" for key, value in labels(purpose).items())
    listed = await client.list(NAMESPACES, into=OBJECT, labels=chosen)
    for metadata in (each.value["metadata"] for each in listed.items if each.value is not None):
        made = datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
        if "deletionTimestamp" not in metadata and time.time() - made > LIFE_S:
            tell(f"namespace {metadata['name']} was left behind, and goes")
            await client.delete(NAMESPACES, metadata["name"])


async def until(
    client: Client,
    namespace: str,
    wait_s: float,
    is_done: Callable[[Mapping[str, Object]], bool],
) -> dict[str, Object]:
    """The pods of ``namespace`` by name, when they are as wanted or ``wait_s`` passed."""
    loop = asyncio.get_running_loop()
    end = loop.time() + wait_s
    while True:
        listed = await client.list(PODS, namespace, into=OBJECT)
        pods = {each.value["metadata"]["name"]: each.value for each in listed.items if each.value is not None}
        if is_done(pods) or loop.time() >= end:
            return pods
        await asyncio.sleep(POLL_S)


def has_ended(pod: Object | None) -> bool:
    return (pod or {}).get("status", {}).get("phase") in ENDED


def has_no_image(pod: Object | None) -> bool:
    """Whether its node cannot have the image, at least not soon."""
    return pod is not None and rollout.trouble(pod).startswith(NO_IMAGE)


async def log(client: Client, namespace: str, name: str) -> bytes:
    """What the pod printed.

    Raises:
        ApiServerError: it cannot be read, for example because its kubelet cannot be reached.
    """
    return await client.fetch(PODS.path(namespace, name, "log"))
