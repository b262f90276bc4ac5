"""Nodes say what only they can know: `meshd node look` in a pod on each, with the agents' rights, and nothing that stays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace

from meshd.ctl.kube import looks, manifests, rollout, throwaway
from meshd.ctl.kube.findings import Facts
from meshd.ctl.kube.looks import Look
from meshd.ctl.kube.manifests import SERVICE_ACCOUNTS, Choice
from meshd.ctl.kube.throwaway import Object, Tell
from meshd.errors import ApiServerError
from meshd.kubeapi.client import OBJECT, Client
from meshd.kubeapi.resources import PODS

PURPOSE = "look"
ACCOUNT = "look"
# A node that says nothing for so long is not waited for.
WAIT_S = 120.0


async def with_looks(client: Client, facts: Facts, image: str, wait_s: float, tell: Tell) -> Facts:
    """``facts`` with what nodes with Linux say, or why they do not."""
    names = [node.name for node in facts.nodes if node.system == "linux" and node.is_alive]
    away = {
        node.name: "its kubelet does not answer"
        for node in facts.nodes
        if node.system == "linux" and not node.is_alive
    }
    if not names:
        return replace(facts, not_looked=away)
    try:
        said = await _ask(client, names, image, min(wait_s, WAIT_S), tell)
    except ApiServerError as error:
        if error.status != 403:
            raise
        # Who may only read may check the rest.
        return replace(facts, not_looked=away | dict.fromkeys(names, str(error)))
    found = {name: each for name, each in said.items() if isinstance(each, Look)}
    not_looked = away | {name: each for name, each in said.items() if isinstance(each, str)}
    nodes = tuple(replace(node, look=found.get(node.name)) for node in facts.nodes)
    return replace(facts, nodes=nodes, not_looked=not_looked)


async def _ask(
    client: Client, nodes: Sequence[str], image: str, wait_s: float, tell: Tell
) -> dict[str, Look | str]:
    """What `_all` does, in a namespace of its own."""
    async with throwaway.namespace(client, PURPOSE, "privileged", tell) as namespace:
        tell(f"pods of namespace {namespace} look at {len(nodes)} nodes")
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": ACCOUNT},
            "automountServiceAccountToken": False,
        }
        await client.create(SERVICE_ACCOUNTS, account, namespace, into=OBJECT)
        return await _all(client, namespace, nodes, image, wait_s)


async def _all(
    client: Client, namespace: str, nodes: Sequence[str], image: str, wait_s: float
) -> dict[str, Look | str]:
    """Node -> its look, or why there is none."""
    names = {f"look-{number}": node for number, node in enumerate(nodes)}
    bodies = [pod(name, node, image) for name, node in names.items()]
    await asyncio.gather(*(client.create(PODS, each, namespace, into=OBJECT) for each in bodies))
    pods = await throwaway.until(
        client,
        namespace,
        wait_s,
        lambda pods: all(
            throwaway.has_ended(pods.get(name)) or throwaway.has_no_image(pods.get(name)) for name in names
        ),
    )
    found = await asyncio.gather(*(_one(client, namespace, name, pods.get(name)) for name in names))
    return dict(zip(nodes, found, strict=True))


async def _one(client: Client, namespace: str, name: str, found: Object | None) -> Look | str:
    if found is None or not throwaway.has_ended(found):
        why = rollout.trouble(found) if found else "the pod was deleted"
        return why or "the pod did not come to an end in time"
    try:
        log = await throwaway.log(client, namespace, name)
    except ApiServerError as error:
        return f"the log of its pod cannot be read: {error}"
    try:
        return looks.parse(json.loads(log.splitlines()[-1]))
    except (ValueError, IndexError):
        lines = log.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else str(found["status"].get("message") or "its pod said nothing")


def pod(name: str, node: str, image: str) -> Object:
    """A pod of the agents' rights that looks at ``node`` and ends. Of the host it has what is there, nothing is made."""
    (agents,) = (each for each in manifests.objects(Choice()) if each["kind"] == "DaemonSet")
    of_agents = agents["spec"]["template"]["spec"]
    agent = of_agents["containers"][0]
    volumes = [each for each in of_agents["volumes"] if each.get("hostPath", {}).get("type") == "Directory"]
    mounted = {each["name"] for each in volumes}
    container = {
        "name": "look",
        "image": image,
        "imagePullPolicy": agent["imagePullPolicy"],
        "command": ["meshd", "node", "look"],
        "securityContext": agent["securityContext"],
        "volumeMounts": [
            {**each, "readOnly": True} for each in agent["volumeMounts"] if each["name"] in mounted
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": throwaway.labels(PURPOSE)},
        "spec": {
            "nodeName": node,
            "hostNetwork": True,
            "tolerations": [{"operator": "Exists"}],
            "serviceAccountName": ACCOUNT,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": throwaway.LIFE_S,
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "volumes": volumes,
        },
    }
