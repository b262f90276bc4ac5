"""Policies of the cluster, which meshd does not enforce: counted, and each is told so by an Event.

Whoever wrote one may believe in it, so this is said where he looks: on the object. The name of an Event follows from the
object's uid and generation, so of several agents that tell only the first one's is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
import structlog

from meshd.errors import ApiServerError, MeshError
from meshd.kubeapi.answers import Item
from meshd.kubeapi.client import OBJECT, Client, Object
from meshd.kubeapi.informer import Informer
from meshd.kubeapi.pace import Pace
from meshd.kubeapi.resources import EVENTS, NETWORK_POLICIES, Resource
from meshd.kubeapi.watching import Batch

log = structlog.get_logger(__name__)

# Where only some clusters serve it; the version is what the API server prefers.
OPTIONAL = (
    Resource(
        "policy.networking.k8s.io", "", "clusternetworkpolicies", "ClusterNetworkPolicy", namespaced=False
    ),
    Resource("cilium.io", "", "ciliumnetworkpolicies", "CiliumNetworkPolicy"),
    Resource(
        "cilium.io",
        "",
        "ciliumclusterwidenetworkpolicies",
        "CiliumClusterwideNetworkPolicy",
        namespaced=False,
    ),
)
# How often it is asked whether these are served meanwhile.
LOOK_S = 60.0
REASON = "PolicyNotEnforced"
# Events of objects without a namespace are in this one (Kubernetes, client-go's recorder).
NO_NAMESPACE = "default"
# Nodes, the first by name, whose agents tell: one is enough, and one may be away.
TELLERS = 3
NAME_MOST = 253


class PolicyMetadata(msgspec.Struct, frozen=True, rename="camel", gc=False):
    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""


class Policy(msgspec.Struct, frozen=True, gc=False):
    """Any policy: what it says is nobody's business here."""

    metadata: PolicyMetadata


class Group(msgspec.Struct, frozen=True, rename="camel"):
    """What /apis/GROUP answers (meta/v1 APIGroup)."""

    preferred_version: dict[str, str] = {}


class Served(msgspec.Struct, frozen=True):
    """One of APIResourceList."""

    name: str


class ServedList(msgspec.Struct, frozen=True):
    """What /apis/GROUP/VERSION answers (meta/v1 APIResourceList)."""

    resources: list[Served] = []


def is_teller(own: str, nodes: Sequence[str]) -> bool:
    """Whether the agent of node ``own`` tells; ``nodes``: all of the cluster."""
    return own in sorted(nodes)[:TELLERS]


def event(resource: Resource, policy: Policy, node: str, now: str) -> Object:
    """What is told of ``policy``."""
    metadata = policy.metadata
    tail = f".meshd-{metadata.uid[:8]}-{metadata.generation}"
    namespace = metadata.namespace or NO_NAMESPACE
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": metadata.name[: NAME_MOST - len(tail)] + tail, "namespace": namespace},
        "involvedObject": {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "namespace": metadata.namespace,
            "name": metadata.name,
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
        },
        "reason": REASON,
        "message": f"meshd does not enforce any {resource.kind}: what it forbids is not forbidden",
        "type": "Warning",
        "source": {"component": "meshd", "host": node},
        "reportingComponent": "meshd",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


class Policies:
    """Of the kinds that the API server serves. ``tells``: whether this agent makes the Events."""

    def __init__(self, client: Client, node: str, tells: Callable[[], bool], pace: type[Pace] = Pace) -> None:
        self._client = client
        self._node = node
        self._tells = tells
        self._pace = pace
        self._kinds: dict[str, OneKind] = {}
        self._untold = ""
        self._moved = asyncio.Event()

    @property
    def counts(self) -> Mapping[str, int]:
        """Kind -> how many there are."""
        return {kind: len(each.found) for kind, each in sorted(self._kinds.items())}

    def problems(self) -> list[str]:
        """Each is one sentence."""
        found = [f"{count} {kind}" for kind, count in self.counts.items() if count]
        sentences = [f"policies are not enforced: {', '.join(found)}"] if found else []
        sentences += [
            f"policies of kind {kind} cannot be counted, the count is of before: {each.informer.health.reason}"
            for kind, each in sorted(self._kinds.items())
            if each.informer.health.away_since_s is not None
        ]
        return [*sentences, *([self._untold] if self._untold else [])]

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(NETWORK_POLICIES).informer.run())
            tasks.create_task(self._tell())
            while True:
                for resource in await self._served():
                    tasks.create_task(self._follow(resource).informer.run())
                await asyncio.sleep(LOOK_S)

    def _follow(self, resource: Resource) -> OneKind:
        made = OneKind(self._client, resource, self._moved, self._pace())
        self._kinds[resource.kind] = made
        return made

    async def _served(self) -> list[Resource]:
        """Those of OPTIONAL that are served since the last look."""
        found = []
        for resource in OPTIONAL:
            if resource.kind in self._kinds:
                continue
            try:
                known = resource._replace(version=await self._version(resource))
                if await self._is_served(known):
                    found.append(known)
            except ApiServerError as error:
                # Neither group nor version: nobody can have made one.
                if error.status != 404:
                    log.warning("cannot find out whether it is served", kind=resource.kind, reason=str(error))
            except (MeshError, msgspec.DecodeError) as error:
                log.warning("cannot find out whether it is served", kind=resource.kind, reason=str(error))
        return found

    async def _version(self, resource: Resource) -> str:
        body = await self._client.fetch(f"/apis/{resource.group}")
        return msgspec.json.decode(body, type=Group).preferred_version.get("version", "")

    async def _is_served(self, resource: Resource) -> bool:
        body = await self._client.fetch(f"/apis/{resource.group}/{resource.version}")
        return any(
            each.name == resource.plural for each in msgspec.json.decode(body, type=ServedList).resources
        )

    async def _tell(self) -> None:
        told: set[tuple[str, int]] = set()
        while True:
            self._moved.clear()
            untold = ""
            for each in list(self._kinds.values()) if self._tells() else ():
                for policy in list(each.found.values()):
                    key = policy.metadata.uid, policy.metadata.generation
                    if key in told:
                        continue
                    try:
                        await self._make_event(each.resource, policy)
                    except ApiServerError as error:
                        untold = f"events on policies cannot be made, it is tried again: {error}"
                    except MeshError:
                        continue  # out of reach, which the source `kubernetes` says
                    else:
                        told.add(key)
            self._untold = untold
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._moved.wait()
            except TimeoutError:
                continue

    async def _make_event(self, resource: Resource, policy: Policy) -> None:
        """Raises MeshError: nobody has told of it so far."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace = policy.metadata.namespace or NO_NAMESPACE
        try:
            made = event(resource, policy, self._node, now)
            await self._client.create(EVENTS, made, namespace, into=OBJECT)
        except ApiServerError as error:
            # Another agent told, or the namespace is gone.
            if error.status not in (409, 404):
                raise


class OneKind:
    """``found``: (namespace, name) -> policy."""

    def __init__(self, client: Client, resource: Resource, moved: asyncio.Event, pace: Pace) -> None:
        self.resource = resource
        self.found: dict[tuple[str, str], Policy] = {}
        self.informer = Informer(client, resource, Policy, self, pace=pace)
        self._moved = moved

    async def listed(self, items: Sequence[Item[Policy]]) -> None:
        """All there are."""
        self.found = {item.key: item.value for item in items if item.value is not None}
        self._moved.set()

    async def changed(self, batch: Batch[Policy]) -> None:
        """What came and went."""
        for change in batch:
            if change.gone or change.item.value is None:
                self.found.pop(change.item.key, None)
            else:
                self.found[change.item.key] = change.item.value
        self._moved.set()

    def reached(self) -> None:
        """`Policies.problems` looks at the informer itself."""
