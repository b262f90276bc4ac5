"""``meshctl kube uninstall``: nodes are given back before anything that could tell of them is deleted.

The agents go first, because two must not work on one node; then a DaemonSet of the same rights takes the runtime's
configuration, programs and maps away; then what Kubernetes was told of nodes; then the objects. Each step may be
repeated, so an uninstall that was interrupted is run again.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from typing import Any

from meshd.ctl.errors import CtlError
from meshd.ctl.kube import manifests, rollout
from meshd.ctl.kube.manifests import RESOURCES, Choice, Object
from meshd.errors import ApiServerError
from meshd.kubeapi.client import JSON, OBJECT, STRATEGIC, Client
from meshd.kubeapi.resources import DAEMON_SETS, NODES

NAME = "meshd"
TAINT = "meshd.io/agent-not-ready"
CONDITION = "NetworkUnavailable"
# How the reasons begin that agents give for the condition.
OURS = "Meshd"

Tell = Callable[[str], None]


async def remove(options: argparse.Namespace, client: Client, tell: Tell) -> None:
    """meshd is gone from the cluster.

    Raises:
        CtlError: a node could not be given back in time; what was not deleted yet is there for the next try.
    """
    namespace, wait_s = options.namespace, options.timeout
    cleaner = await _cleaner(options, client)
    if cleaner is not None:
        await client.delete(DAEMON_SETS, NAME, namespace, propagation="Foreground")
        tell("agents are ending; what they attached goes on")
        await rollout.wait_until_gone(client, namespace, NAME, wait_s)
        await _create(client, cleaner)
        if not options.no_wait:
            await rollout.wait(client, namespace, cleaner["metadata"]["name"], wait_s, tell)
            tell("nodes are as they were")
    if options.no_wait and cleaner is not None:
        raise CtlError("nodes are being given back; run this again, without --no-wait, to delete the rest")
    released = await release_nodes(client)
    tell(f"taint and condition are gone from {len(released)} nodes")
    for each in reversed(manifests.objects(Choice(namespace=namespace))):
        resource = RESOURCES[each["kind"]]
        if resource is DAEMON_SETS:
            await client.delete(resource, f"{NAME}-uninstall", namespace, propagation="Foreground")
        if resource.kind == "Namespace" and namespace != manifests.NAMESPACE:
            # Somebody else's, who put meshd there.
            continue
        await client.delete(resource, each["metadata"]["name"], namespace if resource.namespaced else "")
        # A namespace that is on its way takes nothing in, and an install right after this one would fail.
        await _wait_until_gone(client, each, namespace if resource.namespaced else "", wait_s)
        tell(f"{each['kind']} {each['metadata']['name']} deleted")


async def _wait_until_gone(client: Client, each: Object, namespace: str, wait_s: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + wait_s
    kind, name = each["kind"], each["metadata"]["name"]
    while True:
        try:
            await client.get(RESOURCES[kind], name, namespace, into=OBJECT)
        except ApiServerError as error:
            if error.status != 404:
                raise
            return
        if loop.time() >= end:
            raise CtlError(f"{kind} {name} is still there after {wait_s:g} s; it goes without us")
        await asyncio.sleep(rollout.POLL_S)


async def _cleaner(options: argparse.Namespace, client: Client) -> Object | None:
    """The DaemonSet that cleans; None: there is nothing of meshd on nodes."""
    try:
        agents: Object = await client.get(DAEMON_SETS, NAME, options.namespace, into=OBJECT)
    except ApiServerError as error:
        if error.status != 404:
            raise
    else:
        image = options.image or agents["spec"]["template"]["spec"]["containers"][0]["image"]
        return manifests.cleaning(agents, image, drop_translated=options.drop_translated)
    try:
        started: Object = await client.get(DAEMON_SETS, f"{NAME}-uninstall", options.namespace, into=OBJECT)
    except ApiServerError as error:
        if error.status != 404:
            raise
        return None
    return started


async def _create(client: Client, cleaner: Object) -> None:
    try:
        await client.create(DAEMON_SETS, cleaner, cleaner["metadata"]["namespace"], into=OBJECT)
    except ApiServerError as error:
        if error.status != 409:
            raise


async def release_nodes(client: Client) -> list[str]:
    """No node has meshd's taint or its condition any more; which had."""
    nodes = await client.list(NODES, into=OBJECT)
    released = []
    for node in (each.value for each in nodes.items if each.value is not None):
        name = node["metadata"]["name"]
        taints = without_taint(node)
        if taints is not None:
            await client.patch(NODES, name, taints, into=OBJECT, kind=JSON)
        if has_condition(node):
            gone = {"status": {"conditions": [{"$patch": "delete", "type": CONDITION}]}}
            await client.patch(NODES, name, gone, into=OBJECT, kind=STRATEGIC, subresource="status")
        if taints is not None or has_condition(node):
            released.append(name)
    return released


def without_taint(node: Object) -> list[dict[str, Any]] | None:
    """The JSON patch that takes our taint from ``node``, refused if its taints change meanwhile; None: it has none."""
    taints = node.get("spec", {}).get("taints") or []
    kept = [taint for taint in taints if taint["key"] != TAINT]
    if len(kept) == len(taints):
        return None
    return [
        {"op": "test", "path": "/spec/taints", "value": taints},
        {"op": "replace", "path": "/spec/taints", "value": kept},
    ]


def has_condition(node: Object) -> bool:
    """Whether ``node`` has the condition as an agent wrote it."""
    return any(
        each["type"] == CONDITION and str(each.get("reason", "")).startswith(OURS)
        for each in node.get("status", {}).get("conditions") or ()
    )
