"""Clients in pods of every node that ask servers in pods of every node, and one outside; and what became of each request."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from scripts.kubernetes import layout
from scripts.kubernetes.cluster import RunningCluster
from scripts.kubernetes.errors import SiteError

HERE = Path(__file__).parent
# Of the agent, which has Python.
IMAGE = "docker.io/library/meshd:test"
PYTHON = "/opt/meshd/bin/python3"
PORT = 8080
OUTSIDE_PORT = 8090
# Of each target at least, by each client: less would not be load.
AT_LEAST = 50
Object = dict[str, Any]  # Any: objects of Kubernetes


class Lost(NamedTuple):
    """A kind of request of one client pod that was not answered as it should."""

    client: str
    target: str
    reason: str
    requests: int


class Report(NamedTuple):
    """``seen``: client pod -> target -> what clients.py says of it."""

    seen: dict[str, dict[str, Any]]  # Any: JSON

    def lost(self) -> list[Lost]:
        """Every request that was not answered; empty: each was, by whom it was asked."""
        found = []
        for client, targets in self.seen.items():
            for target, said in targets.items():
                found += [Lost(client, target, reason, n) for reason, n in said["failures"].items()]
                missing = said["asked"] - sum(said["answers"].values()) - sum(said["failures"].values())
                if missing:
                    found.append(Lost(client, target, "not accounted for", missing))
        return found

    def too_few(self) -> list[tuple[str, str, int]]:
        """Targets that were hardly asked."""
        return [
            (client, target, said["asked"])
            for client, targets in self.seen.items()
            for target, said in targets.items()
            if said["asked"] < AT_LEAST
        ]

    def answered_by(self, target: str) -> dict[str, set[str]]:
        """Client pod -> the servers that answered it."""
        return {client: set(targets[target]["answers"]) for client, targets in self.seen.items()}

    def __str__(self) -> str:
        return json.dumps(self.seen, indent=1)


class Load:
    """Servers are there; `running` has the clients ask them. ``targets``: what each client asks, see clients.py."""

    def __init__(self, cluster: RunningCluster) -> None:
        self._cluster = cluster
        self._cluster.apply(scripts(), *servers())
        self._cluster.kubectl("rollout", "status", "daemonset/server", "--timeout=120s")
        self._outside = outside_server(cluster)
        address = {
            name: self._cluster.get("service", name)["spec"]["clusterIP"] for name in ("web", "sticky")
        }
        outside = str(layout.OUTSIDE[0].ip)
        self.targets = [
            target("service", address["web"], 80, "connections", 4),
            target("service-datagrams", address["web"], 80, "datagrams", 2),
            target("service-streams", address["web"], 80, "streams", 6),
            target("sticky", address["sticky"], 80, "connections", 1),
            target("outside", outside, OUTSIDE_PORT, "connections", 2),
            target("outside-datagrams", outside, OUTSIDE_PORT, "datagrams", 1),
            target("outside-streams", outside, OUTSIDE_PORT, "streams", 4),
        ]

    def close(self) -> None:
        self._outside.terminate()
        self._outside.communicate()

    @contextmanager
    def running(self) -> Iterator[dict[str, Any]]:
        """What is done within is done under load; what the clients saw is in the answer afterwards, see `Report`."""
        names = [f"client-{node.name}" for node in self._cluster.nodes]
        self._cluster.apply(
            *(client(f"client-{node.name}", node.name, self.targets) for node in self._cluster.nodes)
        )
        seen: dict[str, Any] = {}
        try:
            for name in names:
                self._cluster.wait(f"{name} to ask", lambda name=name: "started" in self._said(name))
            yield seen
            for name in names:
                # Of process 1 of a container; it hears because it has a handler for it.
                self._cluster.kubectl("exec", name, "--", PYTHON, "-c", "import os; os.kill(1, 15)")
            for name in names:
                self._cluster.wait(
                    f"the report of {name}", lambda name=name: self._said(name).count("\n") > 1
                )
                seen[name] = json.loads(self._said(name).splitlines()[-1])
        finally:
            self._cluster.kubectl("delete", "pod", "--ignore-not-found", "--grace-period=1", *names)

    def _said(self, name: str) -> str:
        try:
            return self._cluster.kubectl("logs", name)
        except SiteError:
            return ""  # the container is not there yet


def target(name: str, host: str, port: int, kind: str, count: int) -> Object:
    return {"name": name, "host": host, "port": port, "kind": kind, "count": count}


def outside_server(cluster: RunningCluster) -> subprocess.Popen[bytes]:
    """A server in the world outside, which sees pods under their nodes' addresses only."""
    words = ["nsenter", f"--net={cluster.place.site.outside}", "--", sys.executable, str(HERE / "server.py")]
    command = [*words, "outside", str(layout.OUTSIDE[0].ip), str(OUTSIDE_PORT)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"listening\n"
    return process


def scripts() -> Object:
    names = ("server.py", "clients.py")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "load"},
        "data": {name: (HERE / name).read_text() for name in names},
    }


def container(name: str, command: list[str]) -> Object:
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": [PYTHON, *command],
        "volumeMounts": [{"name": "load", "mountPath": "/load"}],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }


def servers() -> list[Object]:
    """One on every node, and two services with all of them as backends."""
    labels = {"app": "server"}
    served = container("server", ["/load/server.py", "$(POD)", "0.0.0.0", str(PORT)])
    pod = {
        "containers": [served | {"readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1}}],
        "volumes": [{"name": "load", "configMap": {"name": "load"}}],
        "terminationGracePeriodSeconds": 0,
    }
    daemon_set = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "server"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    ports = [
        {"name": name.lower(), "protocol": name, "port": 80, "targetPort": PORT} for name in ("TCP", "UDP")
    ]

    def service(name: str, **more: object) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": labels, "ports": ports, **more},
        }

    return [daemon_set, service("web"), service("sticky", sessionAffinity="ClientIP")]


def client(name: str, node: str, targets: list[Object]) -> Object:
    """The clients of one node."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "client"}},
        "spec": {
            "nodeName": node,
            "containers": [container("client", ["/load/clients.py", json.dumps(targets)])],
            "volumes": [{"name": "load", "configMap": {"name": "load"}}],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 60,
        },
    }
