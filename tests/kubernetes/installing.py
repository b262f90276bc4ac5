"""meshd on real nodes as a user installs it: from the image, by ``meshctl kube``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.kubernetes.cluster import RunningCluster, RunningNode

IMAGE = ("--image", "meshd:test")
NAMESPACE = "meshd-system"
AGENTS = "app.kubernetes.io/name=meshd,app.kubernetes.io/component=agent"
# What the image, and real nodes that run it, need. The image is made first, where it is not there.
ON_NODES = [
    pytest.mark.needs(
        *("root", "bpf", "cgroup_v2", "command:mmdebstrap"),
        *("command:containerd", "command:runc", "command:busybox"),
    ),
    pytest.mark.timeout(1200),
]


def command(cluster: RunningCluster, action: str, *arguments: str) -> list[str]:
    """``meshctl kube ACTION`` for ``cluster``."""
    return [
        *(sys.executable, "-m", "meshd.ctl.main", "kube", action, f"--kubeconfig={cluster.admin}"),
        *arguments,
    ]


def meshctl(cluster: RunningCluster, action: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same to its end, whatever that is."""
    return subprocess.run(
        command(cluster, action, *arguments), capture_output=True, text=True, check=False, timeout=900
    )


def clustermesh(cluster: RunningCluster, action: str, *arguments: str | Path) -> str:
    """What ``meshctl clustermesh ACTION`` says, on both ways; it has to succeed."""
    words = ["-m", "meshd.ctl.main", "clustermesh", action, f"--kubeconfig={cluster.admin}", *arguments]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def install(cluster: RunningCluster, *arguments: str) -> str:
    """What `meshctl kube install` said; it succeeded. There is no kube-proxy on such nodes."""
    done = meshctl(cluster, "install", *IMAGE, "--without-kube-proxy", "--no-connectivity-test", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def is_installed(cluster: RunningCluster) -> bool:
    """Whether agents run on all nodes."""
    return meshctl(cluster, "status").returncode == 0


def agent(cluster: RunningCluster, node: RunningNode) -> str:
    """The name of the agent's pod on ``node``."""
    (found,) = agent_pods(cluster, node)
    return str(found["metadata"]["name"])


def agent_pods(cluster: RunningCluster, node: RunningNode) -> list[Any]:  # Any: objects of Kubernetes
    """The one on ``node``, unless it is just replaced."""
    pods = cluster.get("pods", "-n", NAMESPACE, "-l", AGENTS)["items"]
    return [
        each
        for each in pods
        if each["spec"].get("nodeName") == node.name and "deletionTimestamp" not in each["metadata"]
    ]
