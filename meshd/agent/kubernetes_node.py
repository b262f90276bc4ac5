"""The agent as the network of a node of Kubernetes: who it is, when runtimes may use us, and what its Node says of that."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import structlog

from meshd.agent.cni import CniPlugin
from meshd.agent.round_trip import round_trip
from meshd.config import Config
from meshd.errors import CniFilesError, ConfigError, RoundTripFailed
from meshd.kubenode import identity as identities
from meshd.kubenode.announcement import Availability
from meshd.kubenode.identity import Identity
from meshd.kubenode.others import pods_of_others, sentence
from meshd.model import Workload
from meshd.runtime import cni_files, cni_versions
from meshd.runtime.cni_files import Places
from meshd.servers.introspection import Figure, Sample
from meshd.servers.readiness import Readiness
from meshd.state import Compacted, Mesh

if TYPE_CHECKING:
    from meshd.kubeapi.access import Access
    from meshd.kubenode.own_node import OwnNodeObject
    from meshd.kubenode.policies import Policies

log = structlog.get_logger(__name__)

SOURCE = "kubernetes"
# Between attempts of what a start needs, and between looks at whether new pods can be served.
AGAIN_S, LOOK_S = 3.0, 5.0
# One attempt may fail for reasons that go; after so many the Node says so.
FAILED_MOST = 3
NO_KUBE_PROXY = (
    "no kube-proxy (kubernetes.kubeProxy): clients outside reach no node port, load balancer or host port"
)


async def configured(config: Config, readiness: Readiness) -> tuple[Config, Identity]:
    """``config`` with what the Node of this machine says: pod CIDRs and addresses, unless they are configured.

    An earlier start's answer counts, without asking; else this waits for the API server and the Node.

    Raises:
        JournalError: it cannot be remembered.
    """
    from meshd.kubenode.own_node import first_identity  # noqa: PLC0415 - aiohttp is a heavy import
    from meshd.sources.kubernetes.source import access  # noqa: PLC0415

    def waiting(reason: str) -> None:
        readiness.reason = reason

    known = identities.load(config.state_dir)
    if known is None:
        known = await first_identity(lambda: access(config.kubernetes), config.node_name, waiting)
        identities.save(config.state_dir, known)
        readiness.reason = "starting"
    log.info("this node", pod_cidrs=known.pod_cidrs, addresses=known.addresses, runtime=known.runtime)
    cni = msgspec.structs.replace(config.cni, pod_cidrs=config.cni.pod_cidrs or known.pod_cidrs)
    addresses = config.node_addresses or known.addresses
    return msgspec.structs.replace(config, cni=cni, node_addresses=addresses), known


class KubernetesNode:
    """``used``: who this node was taken for at the start. Nothing of what it did is taken back when it ends."""

    def __init__(
        self, config: Config, mesh: Mesh, cni: CniPlugin, used: Identity, readiness: Readiness
    ) -> None:
        self._config = config
        self._mesh = mesh
        self._cni = cni
        self._used = used
        self._readiness = readiness
        self._places = Places(config.cni.conf_dir, config.cni.bin_dir)
        self._node: OwnNodeObject | None = None
        self._policies: Policies | None = None
        self._available: Availability | None = None

    def problems(self) -> list[str]:
        """What is not as somebody might think, each as one sentence."""
        found = self._node.problems() if self._node is not None else []
        if self._readiness.reason:
            found.append(f"not ready: {self._readiness.reason}")
        if not self._config.kubernetes.kube_proxy:
            found.append(NO_KUBE_PROXY)
        found += self._policies.problems() if self._policies is not None else []
        others = sentence(self._others())
        return [*found, *([others] if others else [])]

    def figures(self) -> Sequence[Figure]:
        """How many pods are another plugin's, and policies nobody enforces."""
        counts = self._policies.counts if self._policies is not None else {}
        policies = tuple(Sample(float(count), {"kind": kind}) for kind, count in counts.items())
        return [
            Figure("pods_of_others", "Pods of this node that another network plugin connected.", "gauge",
                   (Sample(float(len(self._others()))),)),
            Figure("unenforced_policies", "Policies in the API server, which meshd does not enforce.", "gauge",
                   policies),
        ]  # fmt: skip

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._serve())
            tasks.create_task(self._speak())
            tasks.create_task(self._avoid_others())

    # With the container runtime

    async def _serve(self) -> None:
        """Runtimes use us once that is any good; from then on the Node says whether new pods can come."""
        await self._cni.listening.wait()
        await self._know_services()
        await self._until_done(self._prove)
        await self._until_done(self._install)
        self._readiness.reason = ""
        while True:
            other = self._node.other_pods if self._node is not None else ""
            self._say(other or await self._cni.why_no_new_pods())
            await asyncio.sleep(LOOK_S)

    async def _know_services(self) -> None:
        """A pod's first question is one to the cluster's DNS. Where runtimes use us already, pods came before us."""
        while not self._mesh.sources[SOURCE].complete_once and not self._places.conflist.exists():
            self._readiness.reason = "the API server has not told of all services yet"
            await self._mesh.moved()
        self._avoid()

    async def _avoid_others(self) -> None:
        """What another plugin gave a pod here before us may be of the very CIDR that we give addresses of."""
        revision = -1
        while True:
            moved = self._mesh.moved_event()
            # It moves for every backend of the cluster, and a node has hundreds of pods.
            if self._pods_changed(revision):
                self._avoid()
            revision = self._mesh.revision
            await moved.wait()

    def _pods_changed(self, revision: int) -> bool:
        try:
            return bool(self._mesh.workloads.changes(revision))
        except Compacted:
            return True

    def _avoid(self) -> None:
        self._cni.avoid(frozenset(address for pod in self._others() for address in pod.addresses))

    async def _until_done(self, step: Callable[[], Awaitable[None]]) -> None:
        failed = 0
        while True:
            try:
                await step()
            except (RoundTripFailed, CniFilesError) as error:
                if str(error) != self._readiness.reason:
                    log.warning("new pods would have no network, it is tried again", reason=str(error))
                self._readiness.reason = str(error)
                failed += 1
                if failed >= FAILED_MOST:
                    self._say(str(error))
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def _prove(self) -> None:
        addresses = await round_trip(self._config.cni_socket)
        log.info("packets make the round trip through a new pod", addresses=addresses)

    async def _install(self) -> None:
        done = await asyncio.to_thread(self._write_files)
        log.info("the container runtime uses meshd", conflist=str(self._places.conflist), done=done)

    def _write_files(self) -> list[str]:
        places = self._places
        # A link that leads out of what this container sees of the node leads somewhere on the node itself.
        after = [each for each in cni_files.AFTER if os.path.lexists(places.bin_dir / each["type"])]
        plugins = [places.bin_dir / str(each["type"]) for each in after]
        version, reason = cni_versions.newest(self._used.runtime, plugins)
        if reason:
            log.info("no newer cniVersion, so no GC and no STATUS", version=version, reason=reason)
        made = cni_files.conflist(version, self._config.cni_socket.absolute(), after=after)
        return cni_files.install(places, cni_files.packaged_plugin(), made)

    # With the API server

    async def _speak(self) -> None:
        from meshd.kubeapi.client import Client  # noqa: PLC0415 - aiohttp is a heavy import
        from meshd.kubenode.own_node import OwnNodeObject  # noqa: PLC0415
        from meshd.kubenode.policies import Policies, is_teller  # noqa: PLC0415

        name = self._config.node_name
        asked = await self._access()
        async with Client(asked) as client, asyncio.TaskGroup() as tasks:
            self._node = OwnNodeObject(client, name, self._used, self._config.state_dir)
            self._policies = Policies(client, name, lambda: is_teller(name, self._nodes()))
            if self._available is not None:
                self._node.say(self._available)
            tasks.create_task(self._node.run())
            tasks.create_task(self._policies.run())

    async def _access(self) -> Access:
        """Waits for credentials; the source `kubernetes` says what is missing."""
        from meshd.sources.kubernetes.source import access  # noqa: PLC0415 - as above

        while True:
            try:
                return access(self._config.kubernetes)
            except ConfigError:
                await asyncio.sleep(AGAIN_S)

    def _say(self, reason: str) -> None:
        self._available = Availability(reason)
        if self._node is not None:
            self._node.say(self._available)

    def _nodes(self) -> list[str]:
        return [node.name for node in self._mesh.nodes.values() if node.source == SOURCE]

    def _others(self) -> list[Workload]:
        return pods_of_others(self._mesh.workloads.values(), SOURCE, self._cni.knows)
