"""The agent as a process of a cluster's nodes, with the rights that deploy/kubernetes gives it and no others."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import yaml

from scripts.kubernetes.cluster import RunningCluster, RunningNode
from scripts.kubernetes.processes import Program, stop

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "deploy/kubernetes/base/cluster-role.yaml"
NAMESPACE = "meshd-system"
ACCOUNT = "meshd"
HEALTH = "127.0.0.1:9879"


class MeshAgents:
    """One on every node of ``cluster``, when `start` was called for it. ``options``: of the agents' configuration."""

    def __init__(self, cluster: RunningCluster, **options: object) -> None:
        self.cluster = cluster
        self._options = options
        account = {"name": ACCOUNT, "namespace": NAMESPACE}
        cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
            *yaml.safe_load_all(ROLE.read_text()),
        )
        self._kubeconfig = cluster.place.state / "agents.kubeconfig"
        self._kubeconfig.write_text(json.dumps(self._access()))

    def _access(self) -> object:
        admin = yaml.safe_load(self.cluster.admin.read_text())
        token = self.cluster.kubectl("create", "token", ACCOUNT, f"--namespace={NAMESPACE}", "--duration=2h")
        admin["users"] = [{"name": ACCOUNT, "user": {"token": token.strip()}}]
        name = admin["clusters"][0]["name"]
        admin["contexts"] = [{"name": ACCOUNT, "context": {"cluster": name, "user": ACCOUNT}}]
        admin["current-context"] = ACCOUNT
        return admin

    def start(self, node: RunningNode) -> None:
        """Starts the agent of ``node`` without waiting."""
        self.cluster.started.start(self._program(node))

    def stop(self, node: RunningNode, sign: signal.Signals = signal.SIGTERM) -> None:
        """Ends it, and returns when it is gone."""
        stop(self._program(node), self.cluster.started, sign)

    def is_ready(self, node: RunningNode) -> bool:
        """Whether /readyz says so."""
        return self.ask(node, "readyz") == "ok"

    def ask(self, node: RunningNode, what: str) -> str:
        """What ``healthz`` or ``readyz`` answers; empty: nobody answers."""
        command = f"import urllib.request as u, urllib.error as e\ntry: print(u.urlopen('http://{HEALTH}/{what}').read().decode())"
        command += "\nexcept e.HTTPError as x: print(x.read().decode())\nexcept OSError: pass"
        return node.run(sys.executable, "-c", command).strip()

    def wait_ready(self) -> None:
        """Until the nodes can run pods."""
        for node in self.cluster.nodes:
            self.cluster.wait(f"the agent of {node.name}", lambda node=node: self.is_ready(node))
        names = {node.name for node in self.cluster.nodes}
        self.cluster.wait("nodes with a network", lambda: set(self.cluster.ready_nodes()) == names)

    def status(self, node: RunningNode) -> Any:
        """What `meshctl status` shows. Any: JSON."""
        meshctl = (sys.executable, "-m", "meshd.ctl.main", "status", "--output=json")
        return json.loads(node.run("sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", ROOT, *meshctl))

    def log(self, node: RunningNode) -> str:
        """Of all its lives."""
        return self._program(node).log.read_text(errors="replace")

    def _program(self, node: RunningNode) -> Program:
        config = node.place.state / "meshd.yaml"
        options = {
            "nodeName": node.name,
            "logFormat": "json",
            "kubernetes": {
                "kubeconfig": str(self._kubeconfig),
                "network": True,
                "apiServer": {"endpoints": [self.cluster.endpoint]},
            },
        }
        config.write_text(yaml.safe_dump(options | self._options))
        argv = [sys.executable, "-m", "meshd.agent", "--config", str(config)]
        log = node.place.state / "log" / "meshd.log"
        return Program("meshd", argv, f"{node.place.system}/meshd", node.enter, log, everywhere=True)
