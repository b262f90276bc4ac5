"""The agents' containers as nodes' container runtimes have them: to kill them, and when the API server cannot be asked."""

from __future__ import annotations

import json
from typing import Any

from scripts.kubernetes.cluster import RunningNode
from scripts.kubernetes.errors import SiteError
from scripts.kubernetes.node_programs import SOCKET


def ctr(node: RunningNode, *arguments: str) -> str:
    return node.run("ctr", "--address", SOCKET, "--namespace", "k8s.io", *arguments)


def running(node: RunningNode) -> str:
    """The container in which the agent of ``node`` runs now; empty: none."""
    ours = ctr(node, "containers", "list", "--quiet", 'labels."io.kubernetes.container.name"==agent').split()
    tasks = [line.split() for line in ctr(node, "tasks", "list").splitlines()[1:]]
    return next((name for name, _, state in tasks if name in ours and state == "RUNNING"), "")


def kill(node: RunningNode) -> str:
    """`kill -9`; the container that it was."""
    found = running(node)
    assert found, f"no agent runs on {node.name}"
    ctr(node, "tasks", "kill", "--signal", "SIGKILL", found)
    return found


def status(node: RunningNode) -> Any:
    """What `meshctl status` says in the agent's container, None: it does not answer. Any: JSON."""
    try:
        said = ctr(
            node, "tasks", "exec", "--exec-id", "status", running(node) or "none", "/opt/meshd/bin/meshctl", "status",
            "--output=json",
        )  # fmt: skip
    except SiteError:
        return None
    return json.loads(said)


def is_settled(node: RunningNode, *, but: str = "") -> bool:
    """Whether an agent in a container other than ``but`` serves, and the kernel holds all that it wants."""
    if running(node) in {"", but}:
        return False
    said = status(node)
    return said is not None and said.get("pending", 0) in {0, "0"} and is_ready(node)


def is_ready(node: RunningNode) -> bool:
    """Whether /readyz says so."""
    return bool(node.run("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:9879/readyz", check=False))
