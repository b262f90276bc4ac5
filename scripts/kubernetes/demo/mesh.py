"""Two joined clusters as the demo sees them: asked and changed with kubectl and meshctl, watched by the clients' logs.

What no command does, a process that dies without warning, is a signal to the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict

from meshd.api.v1 import backend_pb2, node_pb2, status_pb2
from meshd.kernel import cgroup
from meshd.lab.readiness import Expected, lacking
from scripts.kubernetes import components
from scripts.kubernetes.cluster import RunningCluster, is_true
from scripts.kubernetes.demo.commands import call
from scripts.kubernetes.demo.objects import NAMESPACE, SERVICE
from scripts.kubernetes.errors import SiteError
from scripts.kubernetes.site import RunningSite

MESHCTL = (sys.executable, "-m", "meshd.ctl.main")
SYSTEM = "meshd-system"
AGENTS = "app.kubernetes.io/component=agent"
# Not more often: a question is a process here and one on the node, which take their time from what is waited for.
POLL_S = 0.5
# Of a machine that is busy with everything else; reached only when something is wrong.
PATIENCE_S = 180.0
# The kubelets' own word for how long pods may take.
TIMEOUT = f"--timeout={PATIENCE_S:g}s"
BACKENDS = f"meshctl backend list -o json {NAMESPACE}/{SERVICE}"
# In this order: what the last says is pending includes what the others said.
EVERYTHING = f"{BACKENDS} && meshctl node list -o json && meshctl status -o json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an agent said, all within a moment."""

    status: status_pb2.GetStatusResponse
    backends: Sequence[backend_pb2.Backend]
    nodes: Sequence[node_pb2.Node]


@dataclass(frozen=True, slots=True)
class Member:
    """A cluster of the mesh; ``name`` is what the mesh calls it."""

    name: str
    number: int
    running: RunningCluster

    async def kubectl(self, *arguments: str | Path, content: str = "", check: bool = True) -> str:
        """What kubectl prints for the administrator.

        Raises:
            SiteError: it failed, and ``check``.
        """
        command = (components.program("kubectl"), f"--kubeconfig={self.running.admin}", *arguments)
        return await call(*command, content=content, check=check)

    async def get(self, *arguments: str) -> Any:
        """What `kubectl get` answers as JSON. Any: objects of Kubernetes."""
        return json.loads(await self.kubectl("get", *arguments, "--output=json"))

    async def apply(self, *objects: object) -> None:
        body = {"apiVersion": "v1", "kind": "List", "items": objects}
        await self.kubectl("apply", "--filename=-", content=json.dumps(body))

    async def meshctl(self, *words: str, content: str = "") -> str:
        """What meshctl prints for the administrator; ``content`` is its standard input.

        Raises:
            SiteError: it failed.
        """
        return await call(*MESHCTL, *words, f"--kubeconfig={self.running.admin}", content=content)

    async def scale(self, namespace: str, name: str, replicas: int) -> None:
        """KIND/NAME has so many pods; returns when they are ready, and if there are to be none, when all are gone."""
        where = f"--namespace={namespace}"
        labels = (await self.get(name, where))["spec"]["selector"]["matchLabels"]
        await self.kubectl("scale", name, f"--replicas={replicas}", where)
        if replicas:
            await self.kubectl("rollout", "status", name, where, TIMEOUT)
        else:
            selector = ",".join(f"{key}={value}" for key, value in labels.items())
            await self.kubectl("wait", "--for=delete", "pod", f"--selector={selector}", where, TIMEOUT)

    async def pods(self, namespace: str, selector: str) -> list[Any]:
        """Those that are not on their way out. Any: objects of Kubernetes."""
        found = await self.get("pods", f"--namespace={namespace}", f"--selector={selector}")
        return [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]

    async def agent_of(self, node: str) -> str:
        """The name of the pod that meshd runs in on ``node``."""
        for pod in await self.pods(SYSTEM, AGENTS):
            if pod["spec"].get("nodeName") == node:
                return str(pod["metadata"]["name"])
        raise SiteError(f"no agent runs on {node}")

    async def ask(self, node: str) -> Answer:
        """What the agent of ``node`` says.

        Raises:
            SiteError: it does not answer.
        """
        backends, nodes, status = await self._meshctl_on(node, EVERYTHING)
        return Answer(
            ParseDict(status, status_pb2.GetStatusResponse()),
            ParseDict(backends, backend_pb2.ListBackendsResponse()).backends,
            ParseDict(nodes, node_pb2.ListNodesResponse()).nodes,
        )

    async def ready_backends_on(self, node: str) -> frozenset[str]:
        """Addresses of the backends that the agent of ``node`` says are ready.

        Raises:
            SiteError: it does not answer.
        """
        (said,) = await self._meshctl_on(node, BACKENDS)
        backends = ParseDict(said, backend_pb2.ListBackendsResponse()).backends
        return frozenset(backend.address for backend in backends if backend.ready)

    async def _meshctl_on(self, node: str, commands: str) -> list[Any]:
        """The JSON that ``commands`` print in the agent's pod on ``node``. Any: JSON."""
        pod = await self.agent_of(node)
        return _documents(
            await self.kubectl("exec", f"--namespace={SYSTEM}", pod, "--", "sh", "-c", commands)
        )

    def kill(self, pod: Any) -> None:
        """Kills the first container of ``pod``, all of it at once. Any: an object of Kubernetes.

        Raises:
            SiteError: it does not run.
        """
        (container, *_) = pod["status"]["containerStatuses"]
        root = cgroup.find_mount() / self.running.place.cgroup.partition("/")[0]
        identity = str(container.get("containerID", "")).rpartition("/")[2]
        places = [*root.glob(f"{self.running.name}/*/kubepods/**/*{identity}")] if identity else []
        pids = [pid for place in places for pid in cgroup.processes(place)]
        if not pids:
            raise SiteError(f"no process of {pod['metadata']['name']} runs")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    async def restarted(self, pod: Any) -> None:
        """Returns when the first container of ``pod`` was started once more than ``pod`` says, and is ready."""
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        before = pod["status"]["containerStatuses"][0]["restartCount"]

        async def is_back() -> str:
            now = await self.get("pod", name, f"--namespace={namespace}")
            ready = is_true(now, "Ready") and now["status"]["containerStatuses"][0]["restartCount"] > before
            return "" if ready else f"{namespace}/{name} is not ready again"

        await until(is_back)


class Mesh:
    """The clusters of a site, joined. ``directory``: what clients and backends write down, in CLUSTER/POD."""

    def __init__(self, site: RunningSite) -> None:
        self.site = site
        self.members = [
            Member(f"cm-{number}", number, running) for number, running in enumerate(site.clusters, 1)
        ]
        self.directory = site.place.state / "demo"

    def member(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    @property
    def cluster_names(self) -> list[str]:
        return [member.name for member in self.members]

    async def settled(self) -> None:
        """Returns when every agent has exactly the backends in its kernel that are ready in any cluster, and all clusters.

        Raises:
            SiteError: one has not after PATIENCE_S: which, and what it lacks.
        """
        nodes = [(member, node.name) for member in self.members for node in member.running.nodes]
        await asyncio.gather(*(until(partial(self._lacks, member, node)) for member, node in nodes))

    async def _lacks(self, member: Member, node: str) -> str:
        """What the agent of ``node`` lacks until it is settled, in words; empty: nothing."""
        others = frozenset(self.cluster_names) - {member.name}
        nodes = frozenset(each.name for other in self.members for each in other.running.nodes)
        try:
            ready = await self._ready_backends()
            # Mostly this is what is waited for, and it is asked quickly.
            if await member.ready_backends_on(node) != ready:
                return (
                    f"{node}: does not know exactly the backends that are ready: {', '.join(sorted(ready))}"
                )
            wanted = Expected(others, ready, nodes - {node})
            said = await member.ask(node)
        except SiteError as error:
            return f"{node}: {error}"
        missing = lacking(said.status, said.backends, said.nodes, wanted)
        return f"{node}: {missing}" if missing else ""

    async def _ready_backends(self) -> frozenset[str]:
        """Addresses of all backends of all clusters that Kubernetes says are ready."""
        found = await asyncio.gather(*(member.pods(NAMESPACE, f"app={SERVICE}") for member in self.members))
        ready = (pod for pods in found for pod in pods if is_true(pod, "Ready"))
        return frozenset(each["ip"] for pod in ready for each in pod["status"]["podIPs"])


async def until(lack: Callable[[], Awaitable[str]]) -> None:
    """Returns when ``lack`` says nothing.

    Raises:
        SiteError: it still does after PATIENCE_S; what it said last.
    """
    deadline = time.monotonic() + PATIENCE_S
    while missing := await lack():
        if time.monotonic() > deadline:
            raise SiteError(f"after {PATIENCE_S:g} s {missing}")
        await asyncio.sleep(POLL_S)


def _documents(text: str) -> list[Any]:
    """The JSON documents that ``text`` holds one after the other. Any: JSON."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while place < len(text.rstrip()):
        document, place = decoder.raw_decode(text, place)
        found.append(document)
        place += len(text[place:]) - len(text[place:].lstrip())
    return found
