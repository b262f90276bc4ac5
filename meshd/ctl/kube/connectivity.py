"""A test of connectivity between real pods: made in a namespace of its own, and gone with it, whatever ends the test.

Servers first, one on every node and behind a service each; when they are there, a client beside each tries what
`connectivity_rows` says and prints what came, which is read as the log of its pod.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meshd.ctl.errors import CtlError
from meshd.ctl.kube import connectivity_objects as objects
from meshd.ctl.kube import connectivity_rows as rows
from meshd.ctl.kube import rollout, throwaway
from meshd.ctl.kube.connectivity_rows import Row, Server, Surroundings, Target
from meshd.ctl.kube.manifests import SERVICE_ACCOUNTS
from meshd.ctl.kube.throwaway import Object, Tell
from meshd.errors import ApiServerError
from meshd.kubeapi.client import OBJECT, Client
from meshd.kubeapi.resources import CONFIG_MAPS, NODES, PODS, SERVICES

# All tries of the slowest target, and the start of a pod.
PROBE_S = 60.0
# Of a larger cluster, so many are taken, evenly; the user can name others.
MOST_NODES = 32
DNS = "k8s-app=kube-dns"


@dataclass(frozen=True, slots=True)
class Wanted:
    """``nodes``: empty for all; ``outside``: (address, port); ``start_s``: how long a pod may take until it is ready."""

    image: str
    nodes: Sequence[str] = ()
    outside: Sequence[tuple[str, int]] = ()
    start_s: float = 120.0


async def test(client: Client, wanted: Wanted, tell: Tell) -> list[Row]:
    """All rows, those of one node together.

    Raises:
        CtlError: there is nothing to test. ApiServerError, ApiServerUnreachable: it could not be done.
    """
    nodes = await _nodes(client, wanted, tell)
    async with throwaway.namespace(client, objects.PURPOSE, "restricted", tell) as namespace:
        tell(f"pods of namespace {namespace} test connectivity")
        await client.create(SERVICE_ACCOUNTS, objects.account(), namespace, into=OBJECT)
        await client.create(CONFIG_MAPS, objects.program(), namespace, into=OBJECT)
        servers = await _serve(client, namespace, nodes, wanted)
        around = await _surroundings(client, wanted)
        found = await _probe(client, namespace, wanted, servers, around)
    return [*map(rows.start_row, servers), *found]


async def _nodes(client: Client, wanted: Wanted, tell: Tell) -> list[Object]:
    listed = await client.list(NODES, into=OBJECT)
    linux = [
        each.value
        for each in listed.items
        if each.value is not None
        and each.value.get("status", {}).get("nodeInfo", {}).get("operatingSystem", "linux") == "linux"
    ]
    by_name = {each["metadata"]["name"]: each for each in linux}
    unknown = set(wanted.nodes) - by_name.keys()
    if unknown:
        raise CtlError(f"the cluster has no node with Linux called {', '.join(sorted(unknown))}")
    if not by_name:
        raise CtlError("the cluster has no node with Linux: there is nothing to test")
    names = list(dict.fromkeys(wanted.nodes)) or sorted(by_name)
    if not wanted.nodes and len(names) > MOST_NODES:
        step = len(names) / MOST_NODES
        chosen = [names[int(number * step)] for number in range(MOST_NODES)]
        tell(f"{len(chosen)} of {len(names)} nodes are tested; --node NAME for others")
        names = chosen
    return [by_name[name] for name in names]


async def _serve(client: Client, namespace: str, nodes: Sequence[Object], wanted: Wanted) -> list[Server]:
    """The servers, ready or not, in the order of ``nodes``."""

    async def make(number: int, node: Object) -> Server:
        name, node_name = f"server-{number}", node["metadata"]["name"]
        await client.create(PODS, objects.server(name, node_name, wanted.image), namespace, into=OBJECT)
        service = await client.create(SERVICES, objects.service(name), namespace, into=OBJECT)
        status = node.get("status", {})
        return Server(
            node=node_name,
            name=name,
            service_addresses=service["spec"]["clusterIPs"],
            node_addresses=[
                each["address"] for each in status.get("addresses") or () if each["type"] == "InternalIP"
            ],
            kubelet_port=status.get("daemonEndpoints", {}).get("kubeletEndpoint", {}).get("Port", 10250),
        )

    made = await asyncio.gather(*(make(number, node) for number, node in enumerate(nodes)))
    pods = await throwaway.until(
        client,
        namespace,
        wanted.start_s,
        lambda pods: all(
            _is_ready(pod) or throwaway.has_ended(pod) or throwaway.has_no_image(pod)
            for pod in (pods.get(each.name) for each in made)
        ),
    )
    return [_with_pod(each, pods.get(each.name), wanted.start_s) for each in made]


def _is_ready(pod: Object | None) -> bool:
    conditions = (pod or {}).get("status", {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _with_pod(server: Server, pod: Object | None, start_s: float) -> Server:
    status = (pod or {}).get("status", {})
    found = replace(
        server, pod_addresses=[each["ip"] for each in status.get("podIPs") or ()], is_ready=_is_ready(pod)
    )
    if found.is_ready:
        return found
    why = rollout.trouble(pod) if pod else "the pod was deleted"
    if status.get("phase") == "Running" and not why:
        return replace(found, trouble=f"it runs, and for {start_s:g} s its node did not reach it")
    ended = [
        f"it ended with status {state['exitCode']} {state.get('message', '')}".strip()
        for each in status.get("containerStatuses") or ()
        if (state := each.get("state", {}).get("terminated"))
    ]
    said = why or status.get("message") or "".join(ended) or f"{status.get('phase')} for {start_s:g} s"
    return replace(found, trouble=said, concern="start")


async def _surroundings(client: Client, wanted: Wanted) -> Surroundings:
    api_server = await client.get(SERVICES, "kubernetes", "default", into=OBJECT)
    dns = await client.list(SERVICES, "kube-system", into=OBJECT, labels=DNS)
    return Surroundings(
        api_server=api_server["spec"].get("clusterIPs") or (),
        outside=wanted.outside,
        has_dns=bool(dns.items),
    )


async def _probe(
    client: Client, namespace: str, wanted: Wanted, servers: Sequence[Server], around: Surroundings
) -> list[Row]:
    """What pods beside the servers that are ready found."""
    numbers = [number for number, server in enumerate(servers) if server.is_ready]
    tried = {f"client-{number}": rows.targets(servers, number, around) for number in numbers}
    bodies = [
        objects.client(name, servers[number].node, wanted.image, targets)
        for number, (name, targets) in zip(numbers, tried.items(), strict=True)
    ]
    await asyncio.gather(*(client.create(PODS, each, namespace, into=OBJECT) for each in bodies))
    await throwaway.until(
        client,
        namespace,
        wanted.start_s + PROBE_S,
        lambda pods: all(throwaway.has_ended(pods.get(name)) for name in tried),
    )
    answers = await asyncio.gather(
        *(_answers(client, namespace, name, targets) for name, targets in tried.items())
    )
    return [
        row
        for number, targets, said in zip(numbers, tried.values(), answers, strict=True)
        for row in rows.rows(servers, number, targets, said, around)
    ]


async def _answers(
    client: Client, namespace: str, name: str, tried: Sequence[Target]
) -> list[Mapping[str, Any]]:
    """What the pod printed. Where its log cannot be read, that is what came of all that it tried."""
    try:
        log = await throwaway.log(client, namespace, name)
    except ApiServerError as error:
        said = f"the log of the pod that tried it cannot be read: {error}"
        return [{"id": number, "passed": False, "said": said, "tries": 0} for number in range(len(tried))]
    found: list[Mapping[str, Any]] = []
    for line in log.splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and {"id", "passed", "said", "tries"} <= answer.keys():
            found.append(answer)
    return found
