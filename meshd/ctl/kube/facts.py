"""What the API server knows of a cluster that matters before meshd comes: what the pre-flight looks at, read only."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import yaml

from clustermesh import pin
from clustermesh.errors import OptionsError
from meshd.ctl.kube.findings import Facts, Node
from meshd.errors import ApiServerError
from meshd.kubeapi.client import OBJECT, Client
from meshd.kubeapi.resources import DAEMON_SETS, ENDPOINT_SLICES, NODES, PODS, SECRETS, SERVICES, Resource

# Any: objects of Kubernetes, as JSON.
Object = dict[str, Any]

SERVICE_CIDRS = Resource("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", namespaced=False)
# Groups whose policies somebody may rely on; which version of them is served, and which kinds, the API server says.
POLICIES: Mapping[str, tuple[str, ...]] = {
    "networking.k8s.io": ("networkpolicies",),
    "policy.networking.k8s.io": (
        "clusternetworkpolicies",
        "adminnetworkpolicies",
        "baselineadminnetworkpolicies",
    ),
    "cilium.io": ("ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies"),
}
PEERS = "meshd-peers"
# How many kubelets are asked at the same time.
AT_ONCE = 16


async def gather(client: Client, namespace: str, api_servers: Iterable[str] = ()) -> Facts:
    """All that the API server knows of what matters. ``namespace``: of meshd; ``api_servers``: as the user names them.

    Raises:
        ApiServerError, ApiServerUnreachable: something could not be read.
    """
    version, policies, servers = await asyncio.gather(
        client.fetch("/version"), policies_of(client), api_servers_of(client)
    )
    nodes, daemon_sets, services, pods, cidrs, peers = await asyncio.gather(
        _listed(client, NODES),
        _listed(client, DAEMON_SETS),
        _listed(client, SERVICES),
        _listed(client, PODS),
        _listed_if_served(client, SERVICE_CIDRS),
        peers_of(client, namespace),
    )
    return Facts(
        version=version_of(json.loads(version)),
        nodes=tuple(await _with_cgroups(client, [node_of(node) for node in nodes])),
        service_cidrs=tuple(cidr for each in cidrs for cidr in each["spec"].get("cidrs", ())),
        daemon_sets=frozenset(each["metadata"]["name"] for each in daemon_sets),
        policies=policies,
        ports=(*service_ports(services), *host_ports(pods)),
        api_servers=tuple(api_servers) or servers,
        peers=peers,
    )


async def policies_of(client: Client) -> dict[str, tuple[str, ...]]:
    """Resource -> names of its objects, of all that this cluster serves and meshd would not enforce."""
    found: dict[str, tuple[str, ...]] = {}
    for group, plurals in POLICIES.items():
        for resource in await served(client, group):
            if resource.plural in plurals:
                found[resource.plural] = tuple(
                    "/".join(filter(None, (each["metadata"].get("namespace"), each["metadata"]["name"])))
                    for each in await _listed(client, resource)
                )
    return found


async def served(client: Client, group: str) -> list[Resource]:
    """The resources of ``group`` in the version that the API server prefers; none where it does not know the group."""
    try:
        about: Object = json.loads(await client.fetch(f"/apis/{group}"))
        version = about["preferredVersion"]["version"]
        resources: Object = json.loads(await client.fetch(f"/apis/{group}/{version}"))
    except ApiServerError as error:
        if error.status != 404:
            raise
        return []
    return [
        Resource(group, version, each["name"], each["kind"], bool(each["namespaced"]))
        for each in resources["resources"]
        # What belongs to an object has a slash.
        if "/" not in each["name"]
    ]


async def api_servers_of(client: Client) -> tuple[str, ...]:
    """HOST:PORT of every API server, as they register themselves for the service `kubernetes`."""
    slices = await client.list(
        ENDPOINT_SLICES, "default", into=OBJECT, labels="kubernetes.io/service-name=kubernetes"
    )
    found = []
    for each in (item.value for item in slices.items if item.value is not None):
        ports = [port["port"] for port in each.get("ports") or () if port.get("name") == "https"]
        for endpoint in each.get("endpoints") or ():
            for address in endpoint["addresses"]:
                host = f"[{address}]" if ":" in address else address
                found += [f"{host}:{port}" for port in ports]
    return tuple(found)


async def peers_of(client: Client, namespace: str) -> dict[str, tuple[str, ...]]:
    """Joined cluster -> its networks, as `meshctl clustermesh join` left them; what is unreadable is nobody's."""
    try:
        secret = await client.get(SECRETS, PEERS, namespace, into=OBJECT)
    except ApiServerError as error:
        # Who may not read Secrets may check the rest.
        if error.status not in (403, 404):
            raise
        return {}
    found = {}
    for name, content in (secret.get("data") or {}).items():
        try:
            document = yaml.safe_load(base64.b64decode(content))
            networks = pin.parse(document[pin.KEY]).networks
        except (ValueError, KeyError, TypeError, yaml.YAMLError, OptionsError):
            continue
        found[name] = tuple(map(str, networks))
    return found


def version_of(said: Mapping[str, str]) -> tuple[int, int]:
    """Major and minor; some distributions write ``36+``."""
    major, minor = (int(re.sub(r"\D.*", "", said[name]) or 0) for name in ("major", "minor"))
    return major, minor


def node_of(node: Object) -> Node:
    """A Node, as far as the pre-flight looks at it."""
    status = node.get("status", {})
    info = status.get("nodeInfo", {})
    spec = node.get("spec", {})
    return Node(
        name=node["metadata"]["name"],
        kernel=info.get("kernelVersion", ""),
        system=info.get("operatingSystem", "linux"),
        architecture=info.get("architecture", "amd64"),
        pod_cidrs=tuple(spec.get("podCIDRs") or filter(None, [spec.get("podCIDR")])),
        addresses=tuple(
            each["address"] for each in status.get("addresses") or () if each["type"] == "InternalIP"
        ),
        is_alive=not any(
            each["type"] == "Ready" and each["status"] == "Unknown" for each in status.get("conditions") or ()
        ),
    )


def service_ports(services: Iterable[Object]) -> list[str]:
    """Services that somebody outside may dial, each as one phrase."""
    return [
        f"{service['spec']['type']} {service['metadata']['namespace']}/{service['metadata']['name']}"
        for service in services
        if service["spec"].get("type") in ("NodePort", "LoadBalancer")
    ]


def host_ports(pods: Iterable[Object]) -> list[str]:
    """Pods with ports of their node; those on the host's network have them by themselves."""
    return [
        f"host port of pod {pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in pods
        if not pod["spec"].get("hostNetwork")
        and any(
            port.get("hostPort")
            for container in pod["spec"].get("containers", ())
            for port in container.get("ports") or ()
        )
    ]


async def _with_cgroups(client: Client, nodes: list[Node]) -> list[Node]:
    """``nodes`` with what their kubelets say of cgroups; a kubelet that does not answer says nothing."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def ask(node: Node) -> Node:
        async with limit:
            try:
                metrics = await client.fetch(f"/api/v1/nodes/{node.name}/proxy/metrics")
            except ApiServerError:
                return node
        found = re.search(rb"^kubelet_cgroup_version (\d)", metrics, re.MULTILINE)
        return replace(node, cgroups=int(found[1]) if found else 0)

    return list(await asyncio.gather(*map(ask, nodes)))


async def _listed(client: Client, resource: Resource) -> list[Object]:
    return [each.value for each in (await client.list(resource, into=OBJECT)).items if each.value is not None]


async def _listed_if_served(client: Client, resource: Resource) -> list[Object]:
    try:
        return await _listed(client, resource)
    except ApiServerError as error:
        if error.status != 404:
            raise
        return []
