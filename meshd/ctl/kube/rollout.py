"""How far a DaemonSet is, and why it is no further: what ``install``, ``upgrade`` and ``uninstall`` wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from meshd.ctl.errors import CtlError
from meshd.kubeapi.client import OBJECT, Client
from meshd.kubeapi.resources import DAEMON_SETS, PODS

# Any: objects of Kubernetes, as JSON.
Object = dict[str, Any]

POLL_S = 1.0
# Reasons of a container that waits which are no trouble.
ON_ITS_WAY = frozenset({"", "ContainerCreating", "PodInitializing"})


@dataclass(frozen=True, slots=True)
class Progress:
    """``seen``: the controller has looked at what was applied last; before, the numbers are of what was there before."""

    seen: bool
    wanted: int
    updated: int
    available: int

    @property
    def is_done(self) -> bool:
        return self.seen and self.updated >= self.wanted and self.available >= self.wanted

    def __str__(self) -> str:
        if not self.seen:
            return "not looked at yet"
        return f"{self.updated} of {self.wanted} nodes have it, {self.available} are available"


def progress_of(daemon_set: Object) -> Progress:
    """What its status says."""
    status = daemon_set.get("status", {})
    return Progress(
        seen=status.get("observedGeneration", 0) >= daemon_set["metadata"].get("generation", 0),
        wanted=status.get("desiredNumberScheduled", 0),
        updated=status.get("updatedNumberScheduled", 0),
        available=status.get("numberAvailable", 0),
    )


def troubles(pods: Iterable[Object]) -> list[str]:
    """One line for each pod that is not on its way to be ready: its node, and why."""
    return [f"{node_of(pod)}: {reason}" for pod in pods if (reason := trouble(pod))]


def trouble(pod: Object) -> str:
    """Why ``pod`` is not ready and not on its way to be; empty: it is."""
    status = pod.get("status", {})
    each: Object
    for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = each.get("state", {})
        waiting, last = state.get("waiting", {}), each.get("lastState", {}).get("terminated", {})
        if waiting.get("reason", "") not in ON_ITS_WAY:
            ended = f"; it ended with status {last['exitCode']}" if "exitCode" in last else ""
            return f"{waiting['reason']}: {waiting.get('message', 'no more is said')}{ended}"
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"not scheduled: {condition.get('message', condition.get('reason', ''))}"
    return ""


def node_of(pod: Object) -> str:
    return str(pod.get("spec", {}).get("nodeName") or pod["metadata"]["name"])


async def wait(client: Client, namespace: str, name: str, wait_s: float, tell: Callable[[str], None]) -> None:
    """Until all nodes have the DaemonSet as it is now; ``tell`` hears of each step, and once of each trouble.

    Raises:
        CtlError: not within ``wait_s`` seconds; it goes on by itself.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + wait_s
    told: set[str] = set()
    while True:
        progress, problems = await look(client, namespace, name)
        for line in (str(progress), *problems):
            if line not in told:
                told.add(line)
                tell(line)
        if progress.is_done:
            return
        if loop.time() >= end:
            why = f": {'; '.join(problems)}" if problems else ""
            raise CtlError(f"{name}: after {wait_s:g} s {progress}{why}; it goes on without us")
        await asyncio.sleep(POLL_S)


async def look(client: Client, namespace: str, name: str) -> tuple[Progress, list[str]]:
    """How far the DaemonSet is, and the troubles of its pods."""
    daemon_set = await client.get(DAEMON_SETS, name, namespace, into=OBJECT)
    labels = ",".join(
        f"{key}={value}" for key, value in daemon_set["spec"]["selector"]["matchLabels"].items()
    )
    pods = await client.list(PODS, namespace, into=OBJECT, labels=labels)
    return progress_of(daemon_set), troubles(each.value for each in pods.items if each.value is not None)


async def wait_until_gone(client: Client, namespace: str, name: str, wait_s: float) -> None:
    """Until no pod of the DaemonSet ``name`` is left, which is deleted.

    Raises:
        CtlError: not within ``wait_s`` seconds.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + wait_s
    while True:
        pods = await client.list(PODS, namespace, into=OBJECT, labels="app.kubernetes.io/name=meshd")
        left = [
            node_of(each.value)
            for each in pods.items
            if each.value is not None
            and any(owner["name"] == name for owner in each.value["metadata"].get("ownerReferences") or ())
        ]
        if not left:
            return
        if loop.time() >= end:
            raise CtlError(f"{name}: after {wait_s:g} s its pods are still on {', '.join(left[:5])}")
        await asyncio.sleep(POLL_S)
