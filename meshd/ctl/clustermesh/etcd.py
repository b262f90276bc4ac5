"""The mesh's own etcd on Kubernetes: its nodes, its objects, and what its keepers say of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

import yaml

from clustermesh import etcd_members, readers
from clustermesh.etcd_members import Members
from clustermesh.readers import Readers
from meshd import __version__
from meshd.ctl.clustermesh import secrets
from meshd.ctl.clustermesh.secrets import Object
from meshd.ctl.errors import CtlError
from meshd.errors import ApiServerError
from meshd.kubeapi.client import APPLY, MERGE, OBJECT, Client
from meshd.kubeapi.resources import CONFIG_MAPS, NODES, PODS, SERVICES, STATEFUL_SETS, Resource

NAME = "meshd-etcd"
LABEL, LABELLED = "node-restriction.kubernetes.io/meshd-etcd", "member"
COMPONENT = {"app.kubernetes.io/name": "meshd", "app.kubernetes.io/component": "etcd"}
SELECTOR = ",".join(f"{key}={value}" for key, value in COMPONENT.items())
AGENTS = "app.kubernetes.io/name=meshd,app.kubernetes.io/component=agent"
READERS, MEMBERS, STATE = "readers.yaml", "members.yaml", "etcd state"
# On pods: kubelets look at what is mounted into a pod when the pod changes, and else about once a minute.
NUDGED = "meshd.io/nudged"
# On the template: pods are replaced when it changes.
AUTHORITY = "meshd.io/authority"
BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
RESOURCES = {each.kind: each for each in (STATEFUL_SETS, SERVICES, BUDGETS)}
SOURCE = Path(__file__).with_name("etcd.yaml")
POLL_S, AT_ONCE = 1.0, 20
# A kubelet hears of a Secret and of a pod on two ways; the Secret is to be first.
AHEAD_S = 1.0
# So many lines of a keeper's log are looked through for the last one that tells of its etcd.
LINES = 200

Tell = Callable[[str], None]


async def chosen_members(client: Client, cluster: str, names: Iterable[str]) -> Members:
    """Members on the nodes that are named, else on those that have the label.

    Raises:
        CtlError: a node is not there, has no address, or none is named.
    """
    listed = await client.list(NODES, into=OBJECT)
    nodes = {each.value["metadata"]["name"]: each.value for each in listed.items if each.value is not None}
    wanted = list(names) or [name for name, node in nodes.items() if _labels(node).get(LABEL) == LABELLED]
    if not wanted:
        raise CtlError(
            f"where is etcd to run? Name one node, or three, with --etcd-node (of {', '.join(sorted(nodes))}); "
            "or --endpoint, where the etcd is somebody else's"
        )
    if missing := [name for name in wanted if name not in nodes]:
        raise CtlError(f"there is no node {missing[0]}: {', '.join(sorted(nodes))} are there")
    addresses = {name: _address(nodes[name]) for name in sorted(set(wanted))}
    return Members(f"{cluster}-{token_hex(4)}", addresses)


def _labels(node: Object) -> Mapping[str, str]:
    found: Mapping[str, str] = node["metadata"].get("labels") or {}
    return found


def _address(node: Object) -> str:
    for each in node.get("status", {}).get("addresses") or ():
        if each["type"] == "InternalIP":
            return str(each["address"])
    raise CtlError(f"node {node['metadata']['name']} has no InternalIP")


async def declared(client: Client, namespace: str) -> tuple[Members, Readers, str] | None:
    """What the etcd here is to be, with the resource version of its ConfigMap; None: there is none here."""
    found = await secrets.read(client, CONFIG_MAPS, NAME, namespace)
    if found is None:
        return None
    data, where = secrets.data_of(found), f"ConfigMap {NAME}"
    return (
        etcd_members.parse(where, data.get(MEMBERS, b"")),
        readers.parse(where, data.get(READERS, b"")),
        found["metadata"]["resourceVersion"],
    )


async def declare(
    client: Client, namespace: str, members: Members, wanted: Readers, version: str | None
) -> None:
    """Members and keepers read it."""
    files = {MEMBERS: etcd_members.render(members), READERS: readers.render(wanted)}
    await secrets.write(client, CONFIG_MAPS, NAME, namespace, files, version, COMPONENT)


async def label_nodes(client: Client, members: Members) -> None:
    """Nodes of ``members``, and no others, have the label that the pods look for."""
    listed = await client.list(NODES, into=OBJECT)
    for node in (each.value for each in listed.items if each.value is not None):
        name = node["metadata"]["name"]
        wanted = LABELLED if name in members.addresses else None
        if _labels(node).get(LABEL) != wanted:
            change = {"metadata": {"labels": {LABEL: wanted}}}
            await client.patch(NODES, name, change, into=OBJECT, kind=MERGE)


def objects(namespace: str, members: Members, image: str | None) -> list[Object]:
    """StatefulSet and what belongs to it."""
    found = [each for each in yaml.safe_load_all(SOURCE.read_text()) if each]
    for each in found:
        each["metadata"]["namespace"] = namespace
        if each["kind"] == "StatefulSet":
            each["spec"]["replicas"] = len(members.addresses)
            for container in each["spec"]["template"]["spec"]["containers"]:
                container["image"] = image or f"{NAME}:{__version__}"
    return found


async def apply(client: Client, namespace: str, members: Members, image: str | None) -> None:
    """It runs, or will."""
    for each in objects(namespace, members, image):
        await client.patch(
            RESOURCES[each["kind"]],
            each["metadata"]["name"],
            each,
            namespace,
            into=OBJECT,
            kind=APPLY,
            field_manager=secrets.MANAGER,
            force=True,
        )


async def nudge(client: Client, namespace: str, selector: str) -> int:
    """Kubelets look at once at what is mounted into the pods that ``selector`` names; how many.

    Where one cannot be told, it looks by itself within about a minute.
    """
    await asyncio.sleep(AHEAD_S)
    pods = await client.list(PODS, namespace, into=OBJECT, labels=selector)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(pod: Object) -> None:
        change = {"metadata": {"annotations": {NUDGED: token_hex(4)}}}
        async with gate:
            try:
                await client.patch(PODS, pod["metadata"]["name"], change, namespace, into=OBJECT, kind=MERGE)
            except ApiServerError as error:
                # It is gone.
                if error.status != 404:
                    raise

    found = [each.value for each in pods.items if each.value is not None]
    await asyncio.gather(*(one(pod) for pod in found))
    return len(found)


async def states(client: Client, namespace: str) -> dict[str, Object | None]:
    """What each keeper said last, by the node of its pod; None: nothing yet, or it cannot be asked."""
    pods = await client.list(PODS, namespace, into=OBJECT, labels=SELECTOR)
    found: dict[str, Object | None] = {}
    for pod in (each.value for each in pods.items if each.value is not None):
        node = str(pod["spec"].get("nodeName") or pod["metadata"]["name"])
        path = PODS.path(namespace, pod["metadata"]["name"], "log")
        try:
            text = await client.fetch(path, {"container": "keeper", "tailLines": str(LINES)})
        except ApiServerError:
            found[node] = None
        else:
            found[node] = last_state(text)
    return found


def last_state(text: bytes) -> Object | None:
    """The last line of a keeper's log that tells of its etcd."""
    for line in reversed(text.splitlines()):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and said.get("event") == STATE:
            return said
    return None


async def wait_in_force(client: Client, namespace: str, wanted: Readers, wait_s: float, tell: Tell) -> None:
    """Until a keeper says that those may read who are declared.

    Raises:
        CtlError: not within ``wait_s`` seconds; it goes on by itself.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + wait_s
    told: set[str] = set()
    while True:
        for node, state in (await states(client, namespace)).items():
            if state is not None and state.get("generation", 0) >= wanted.generation:
                return
            line = f"{node}: {_waits_for(state)}"
            if line not in told:
                told.add(line)
                tell(line)
        if loop.time() >= end:
            raise CtlError(
                f"after {wait_s:g} s no etcd of {namespace} says that it is as declared; it goes on without us"
                f"{''.join(f'; {each}' for each in await troubles(client, namespace))}"
            )
        await nudge(client, namespace, SELECTOR)


def _waits_for(state: Object | None) -> str:
    return "its etcd is starting" if state is None else "it has not seen the new readers yet"


async def troubles(client: Client, namespace: str) -> list[str]:
    """Of its pods, one line each."""
    from meshd.ctl.kube.rollout import troubles as of_pods  # noqa: PLC0415 - of another command

    pods = await client.list(PODS, namespace, into=OBJECT, labels=SELECTOR)
    return of_pods(each.value for each in pods.items if each.value is not None)


async def restart(client: Client, namespace: str, authority: str, wait_s: float, tell: Tell) -> None:
    """Members are replaced one by one, if they were not since ``authority``.

    Raises:
        CtlError: not within ``wait_s`` seconds; it goes on by itself.
    """
    change = {"spec": {"template": {"metadata": {"annotations": {AUTHORITY: authority}}}}}
    await client.patch(
        STATEFUL_SETS, NAME, change, namespace, into=OBJECT, kind=MERGE, field_manager="meshctl-rotate"
    )
    tell("members of etcd are restarted one by one")
    loop = asyncio.get_running_loop()
    end = loop.time() + wait_s
    while not is_done(await client.get(STATEFUL_SETS, NAME, namespace, into=OBJECT)):
        if loop.time() >= end:
            raise CtlError(
                f"after {wait_s:g} s not all members run anew; they go on without us"
                f"{''.join(f'; {each}' for each in await troubles(client, namespace))}"
            )
        await asyncio.sleep(POLL_S)


def is_done(stateful_set: Object) -> bool:
    """Whether every pod is of the newest template and ready."""
    status, spec = stateful_set.get("status", {}), stateful_set["spec"]
    wanted: Any = spec.get("replicas", 1)
    return bool(
        status.get("observedGeneration", 0) >= stateful_set["metadata"]["generation"]
        and status.get("updatedReplicas", 0) >= wanted
        and status.get("availableReplicas", 0) >= wanted
    )
