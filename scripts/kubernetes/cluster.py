"""One running cluster: what is asked of it, and its programs stopped and started again.

It knows all of it from its place (``layout.py``), so whoever did not start it can do the same with it.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshd.kernel import cgroup
from scripts.kubernetes import api_server, components, layout, node_programs
from scripts.kubernetes.control_plane import ControlPlane
from scripts.kubernetes.errors import SiteError
from scripts.kubernetes.node_namespaces import enter
from scripts.kubernetes.processes import Program, Started, runs, stop, wait

# Of a machine that is busy with everything else; reached only when something is wrong.
READY_S = 180.0
COMMAND_S = 120.0


class RunningNode:
    """A node of a running cluster."""

    def __init__(self, node: layout.Node, started: Started) -> None:
        self.place = node
        self.started = started

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def enter(self) -> tuple[str, ...]:
        """The words before a command that shall run there: in its network, mounts and cgroups."""
        holders = cgroup.processes(cgroup.find_mount() / self.place.system / "namespaces")
        if not holders:
            raise SiteError(f"node {self.name} is gone")
        return enter(self.place, holders[0])

    def run(self, *command: str | Path, content: str | None = None, check: bool = True) -> str:
        """What ``command`` prints on the node; ``content`` is its standard input.

        Raises:
            SiteError: it failed, and ``check``; carries what it said.
        """
        return answer([*self.enter, *command], content, check=check)

    def programs(self) -> dict[str, Program]:
        """Its programs by name, those that need not run too."""
        make = (node_programs.containerd, node_programs.kubelet, node_programs.kube_proxy)
        return {program.name: program for program in (each(self.place, self.enter) for each in make)}

    def start(self, name: str) -> None:
        """Starts ``containerd``, ``kubelet`` or ``kube-proxy``."""
        self.started.start(self.programs()[name])

    def stop(self, name: str, sign: signal.Signals = signal.SIGTERM) -> None:
        """Ends a program and returns when it is gone; containers and what holds them stay, as on any machine."""
        stop(self.programs()[name], self.started, sign)

    def import_image(self, archive: Path) -> None:
        """An image for the node's pods, which say `imagePullPolicy: Never`; a tar as `docker save` or OCI has it.

        ``archive`` is read on the node: it sees this machine's files, except below /run, /var/lib and /var/log.
        """
        self.run(
            "ctr", "--address", node_programs.SOCKET, "--namespace", "k8s.io", "images", "import", archive
        )


class RunningCluster:
    """``control``: its programs; ``nodes``: in their order."""

    def __init__(
        self, place: layout.Cluster, control: ControlPlane, nodes: Sequence[layout.Node], started: Started
    ) -> None:
        self.place = place
        self.control = control
        self.started = started
        self.nodes = [RunningNode(node, started) for node in nodes]

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def admin(self) -> Path:
        """A kubeconfig that may do everything, for this machine."""
        return self.place.admin

    @property
    def endpoint(self) -> str:
        """``HOST:PORT`` of the API server as nodes and pods reach it without its service."""
        return f"{self.place.control.v4.ip}:{layout.API_PORT}"

    def kubectl(self, *arguments: str | Path, content: str | None = None, check: bool = True) -> str:
        """What kubectl prints for the administrator; ``content`` is its standard input.

        Raises:
            SiteError: it failed, and ``check``; carries what it said.
        """
        command = [components.program("kubectl"), f"--kubeconfig={self.admin}", *arguments]
        return answer(command, content, check=check)

    def get(self, *arguments: str) -> Any:
        """What `kubectl get` answers as JSON. Any: objects of Kubernetes."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def apply(self, *objects: object) -> None:
        """Puts ``objects`` in force."""
        body = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "--filename=-", content=json.dumps(body))

    def start_etcd(self) -> None:
        """Starts it without waiting; the API server finds it."""
        self.started.start(self.control.etcd)

    def stop_etcd(self, sign: signal.Signals = signal.SIGTERM) -> None:
        stop(self.control.etcd, self.started, sign)

    def start_api_server(self) -> None:
        """Starts it, where it was, and returns when it is ready."""
        self.started.start(self.control.api_server)
        self.wait_api_server()

    def wait_api_server(self) -> None:
        control = self.control
        wait(
            f"the API server of {self.place.site.name}/{self.name}",
            lambda: api_server.is_ready(control.server),
            (control.etcd, control.api_server),
            READY_S,
        )

    def stop_api_server(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """Ends it, and returns when its port is free."""
        stop(self.control.api_server, self.started, sign)

    def ready_nodes(self) -> list[str]:
        """Names of those whose kubelet says that they can run pods."""
        return [node["metadata"]["name"] for node in self.get("nodes")["items"] if is_true(node, "Ready")]

    def registered(self) -> dict[str, list[str]]:
        """Node -> networks of its pods, of those nodes that have them."""
        nodes = self.get("nodes")["items"]
        return {
            node["metadata"]["name"]: node["spec"]["podCIDRs"] for node in nodes if "podCIDRs" in node["spec"]
        }

    def wait(self, what: str, ready: Any, patience_s: float = READY_S) -> None:
        """Returns when ``ready()`` says so; fails with the logs' ends if it does not, or a program ended meanwhile."""
        wait(what, ready, self.programs(), patience_s)

    def programs(self) -> list[Program]:
        """All that run for as long as the cluster does."""
        control = self.control
        own = [control.etcd, control.api_server, control.controller_manager, control.scheduler]
        of_nodes = [program for node in self.nodes for program in node.programs().values()]
        return [program for program in (*own, *of_nodes) if runs(program)]


def is_true(body: Any, condition: str) -> bool:
    """Whether ``condition`` of an object's status holds. Any: objects of Kubernetes."""
    conditions = body.get("status", {}).get("conditions", [])
    return any(each["type"] == condition and each["status"] == "True" for each in conditions)


def answer(command: Sequence[str | Path], content: str | None = None, *, check: bool) -> str:
    """What ``command`` prints; ``content`` is its standard input.

    Raises:
        SiteError: it failed, and ``check``; carries what it said.
    """
    done = subprocess.run(
        command,
        input=content if content is not None else "",
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    if check and done.returncode != 0:
        words = " ".join(Path(word).name if n == 0 else str(word) for n, word in enumerate(command))
        raise SiteError(f"{words} failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")
    return done.stdout
