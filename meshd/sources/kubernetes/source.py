"""Source ``kubernetes``: what an API server says of services, nodes, namespaces and this node's pods, kept current.

One informer a resource (meshd/kubeapi), one source for all of them: it is complete when each was listed. Out of reach,
everything it said stands, and status says of each resource since when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from time import perf_counter
from typing import NamedTuple
from urllib.parse import urlsplit

import structlog

from meshd.config import Config
from meshd.config_kubernetes import Kubernetes as Options
from meshd.errors import ConfigError
from meshd.kubeapi import kubeconfig, resources
from meshd.kubeapi.access import Access, in_cluster
from meshd.kubeapi.answers import Item
from meshd.kubeapi.client import Client
from meshd.kubeapi.informer import Health, Informer
from meshd.kubeapi.pace import Pace
from meshd.kubeapi.resources import Resource
from meshd.kubeapi.watching import Batch
from meshd.model import Address, Node
from meshd.model.address import from_ip
from meshd.sources import revisions
from meshd.sources.kubernetes.admission import Policy
from meshd.sources.kubernetes.contents import Contents
from meshd.sources.kubernetes.objects import Context, Value
from meshd.sources.kubernetes.services import SERVICE_NAME_LABEL
from meshd.sources.kubernetes.types import (
    EndpointSliceObject,
    KubernetesObject,
    NamespaceObject,
    NodeObject,
    PodObject,
    StoredService,
)
from meshd.state import Compacted, Mesh, PlanKey, SourceState

SOURCE = "kubernetes"
# How long the event loop may be held up.
SLICE_S = 0.004
# Between attempts to read credentials that are not there (yet).
CREDENTIALS_S = 5.0
# Services that another proxy serves, by name (Kubernetes, well-known labels), are none of ours, nor are their backends.
OTHER_PROXY = "!service.kubernetes.io/service-proxy-name"

log = structlog.get_logger(__name__)


class Watched(NamedTuple):
    """One resource, and what of it is asked for."""

    resource: Resource
    into: type[KubernetesObject]
    labels: str = ""
    fields: str = ""


def watched(node: str) -> Sequence[Watched]:
    """What the source reads. Of pods only those of ``node`` that have not ended: a large cluster has many."""
    return (
        Watched(resources.NAMESPACES, NamespaceObject),
        Watched(resources.NODES, NodeObject),
        Watched(resources.SERVICES, StoredService, OTHER_PROXY),
        Watched(resources.ENDPOINT_SLICES, EndpointSliceObject, f"{SERVICE_NAME_LABEL},{OTHER_PROXY}"),
        Watched(
            resources.PODS,
            PodObject,
            fields=f"spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed",
        ),
    )


def access(options: Options) -> Access:
    """Who asks which API server. Raises ConfigError: it cannot be had."""
    path = options.kubeconfig
    found = kubeconfig.load(path, context=options.context) if path is not None else in_cluster()
    return found.at(options.api_server.endpoints, options.api_server.tls_server_name)


class KubernetesSource:
    """Of ``config.kubernetes``, into ``mesh``, while `run` runs. ``pace``: how often each resource is asked for."""

    def __init__(self, mesh: Mesh, config: Config, pace: type[Pace] = Pace) -> None:
        options = config.kubernetes
        self._mesh = mesh
        self._options = options
        self._pace = pace
        self._node = config.node_name
        self._zone = config.zone
        self._context = Context(SOURCE, config.cluster_name, self._node, has_runtime=True)
        self._contents = Contents(
            self._context,
            Policy(
                tuple(map(ip_network, options.external_ips.allowed)),
                options.node_ports,
                options.node_port_rows,
            ),
            [value for value in mesh.objects_of(SOURCE) if isinstance(value, Value)],
            [ip_network(text) for text in config.cni.pod_cidrs],
            api_servers(options.api_server.endpoints),
        )
        self._writing = asyncio.Lock()
        self._informers: list[Informer[KubernetesObject]] = []
        self._no_access = ""
        self._turn_began = perf_counter()
        mesh.listing(SOURCE)

    @property
    def health(self) -> list[Health]:
        """Of each resource."""
        return [informer.health for informer in self._informers]

    def problems(self) -> list[str]:
        """What is away, since when; and what of the objects cannot be used. Each is one sentence."""
        away = [
            f"kubernetes: {described(health)}" for health in self.health if health.away_since_s is not None
        ]
        no_access = [f"kubernetes: {self._no_access}"] if self._no_access else []
        return [*no_access, *away, *(f"kubernetes: {problem}" for problem in self._contents.problems())]

    async def run(self) -> None:
        """Until cancelled."""
        asked = await self._access()
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(Client(asked))
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            for each in watched(self._node):
                listener = Listener(self, each.resource.kind)
                informer: Informer[KubernetesObject] = Informer(
                    client,
                    each.resource,
                    each.into,
                    listener,
                    labels=each.labels,
                    fields=each.fields,
                    pace=self._pace(),
                )
                self._informers.append(informer)
                tasks.create_task(informer.run())
            tasks.create_task(self._follow_nodes())

    async def _access(self) -> Access:
        """Waits for files that somebody has yet to put there."""
        while True:
            try:
                found = access(self._options)
            except ConfigError as error:
                if str(error) != self._no_access:
                    log.warning("API server cannot be asked, what it said stands", reason=str(error))
                self._no_access = str(error)
                self._mesh.mark_stale(SOURCE, str(error))
                await asyncio.sleep(CREDENTIALS_S)
            else:
                self._no_access = ""
                return found

    # What informers tell

    async def listed(self, kind: str, items: Sequence[Item[KubernetesObject]]) -> None:
        """All objects of ``kind``."""
        self._turn_began = perf_counter()
        for _ in self._contents.listed(kind, items):
            if perf_counter() - self._turn_began > SLICE_S:
                await asyncio.sleep(0)
                self._turn_began = perf_counter()
        await self._write()

    async def changed(self, kind: str, batch: Batch[KubernetesObject]) -> None:
        """What happened to objects of ``kind``."""
        self._contents.changed(kind, batch)
        await self._write()

    def reached(self) -> None:
        """Say in which state the source is, unless that follows at once."""
        if not self._writing.locked():
            self._say()

    def _say(self) -> None:
        away = [health for health in self.health if health.away_since_s is not None]
        if away:
            self._mesh.mark_stale(SOURCE, "; ".join(described(health) for health in away))
        elif self._contents.is_complete:
            self._mesh.mark_complete(SOURCE)
        elif self._mesh.sources[SOURCE].state is SourceState.STALE:
            self._mesh.mark_stale(SOURCE, "in reach again, and not listed completely yet")

    # Writing

    async def _write(self) -> None:
        """One after the other: of two versions of an object the newer one must be the last."""
        async with self._writing:
            zone = self._own_zone()
            puts, deletes = self._contents.take()
            if puts or deletes:
                await revisions.apply(self._mesh, SOURCE, puts, deletes)
            if self._own_zone() != zone and not self._zone:
                self._plan_all()
            self._say()

    def _own_zone(self) -> str:
        node = self._mesh.nodes.get((SOURCE, self._context.cluster, self._node))
        return node.zone if node is not None else ""

    def _plan_all(self) -> None:
        """This node is in another zone than it was thought to be: other backends may be nearer."""
        log.info("zone of this node", zone=self._own_zone())
        for name in self._mesh.service_names():
            self._mesh.touch(PlanKey("service", str(name)))

    async def _follow_nodes(self) -> None:
        """Nodes that other sources know: their addresses are nobody else's."""
        revision = -1
        while True:
            moved = self._mesh.moved_event()
            try:
                is_other = any(change.key[0] != SOURCE for change in self._mesh.nodes.changes(revision))
            except Compacted:
                is_other = True
            revision = self._mesh.revision
            if is_other:
                self._contents.other_nodes(other_nodes(self._mesh))
                await self._write()
                continue
            await moved.wait()


class Listener:
    """What the informer of ``kind`` tells, for the source."""

    def __init__(self, source: KubernetesSource, kind: str) -> None:
        self._source = source
        self._kind = kind

    async def listed(self, items: Sequence[Item[KubernetesObject]]) -> None:
        """Pass it on."""
        await self._source.listed(self._kind, items)

    async def changed(self, batch: Batch[KubernetesObject]) -> None:
        """Pass it on."""
        await self._source.changed(self._kind, batch)

    def reached(self) -> None:
        """Pass it on."""
        self._source.reached()


def other_nodes(mesh: Mesh) -> list[Node]:
    """The nodes of the mesh that Kubernetes did not tell of."""
    return [node for node in mesh.nodes.values() if node.source != SOURCE]


def described(health: Health) -> str:
    """``services away since 2026-01-01T00:00:00Z: reason``."""
    since = datetime.fromtimestamp(health.away_since_s or 0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{health.resource} away since {since}: {health.reason}"


def api_servers(endpoints: Sequence[str]) -> list[tuple[Address, int]]:
    """Those of ``endpoints`` that are addresses; names are found out by nobody here."""
    found = []
    for endpoint in endpoints:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        try:
            found.append((from_ip(ip_address(parts.hostname or "")), parts.port or 6443))
        except ValueError:
            continue
    return found
