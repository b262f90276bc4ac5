"""The CNI plugins that are compared, each on a node of its own: meshd through its shim, and bridge with host-local.

Both give a pod an IPv4 and an IPv6 address, a default route of each family, and a way to the node.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshd.bench.agents import Agent
from meshd.bench.places import BenchError, Place, Places
from meshd.bench.workers import Worker
from meshd.kernel.netns import Netns, remove_named
from meshd.lab.cni import SHIM

# Where Debian and where everybody else puts them.
DIRECTORIES = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
VERSION = "1.0.0"
IFNAME = "eth0"
TIMEOUT_S = 30.0
LOOK_EVERY_S = 0.01


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plugin on one node. ``config`` is what a runtime gives it on standard input."""

    name: str
    path: Path
    config: Mapping[str, object]
    worker: Worker
    pods: dict[str, Path] = field(default_factory=dict)

    def add(self, container: str) -> float:
        """Milliseconds until ``container`` had its interface.

        Raises:
            BenchError: it has none; says why.
        """
        answer = self._ask("ADD", container)
        if len(json.loads(answer["said"])["ips"]) != 2:
            raise BenchError(f"{self.name}: {container} has not one address of each family: {answer['said']}")
        return float(answer["ms"])

    def delete(self, container: str) -> float:
        """Milliseconds until the plugin had answered."""
        return float(self._ask("DEL", container)["ms"])

    def ready(self) -> None:
        """Waits until it answers."""
        deadline = time.monotonic() + TIMEOUT_S
        while self._asked("STATUS", {}, {**self.config, "cniVersion": "1.1.0"})["status"]:
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} does not answer")
            time.sleep(LOOK_EVERY_S)

    def _ask(self, command: str, container: str) -> dict[str, Any]:
        """Any: what the worker answers."""
        variables = {
            "CNI_CONTAINERID": container,
            "CNI_NETNS": str(self.pods[container]),
            "CNI_IFNAME": IFNAME,
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={container}",
        }
        answer = self._asked(command, variables, self.config)
        if answer["status"]:
            raise BenchError(f"{self.name}: {command} of {container} failed: {answer['said']}")
        return answer

    def _asked(
        self, command: str, variables: Mapping[str, str], config: Mapping[str, object]
    ) -> dict[str, Any]:
        """Any: as above."""
        told = {"CNI_COMMAND": command, "CNI_PATH": str(self.path.parent), "PATH": "/usr/sbin:/usr/bin"}
        found: dict[str, Any] = self.worker.ask(
            plugin=str(self.path), variables=told | dict(variables), config=json.dumps(config)
        )
        return found


def require_plugins() -> Path:
    """The directory with bridge and host-local.

    Raises:
        BenchError: this machine has none.
    """
    for directory in DIRECTORIES:
        if all((directory / name).exists() for name in ("bridge", "host-local")):
            return directory
    raise BenchError(
        "the baseline needs the plugins bridge and host-local: apt-get install containernetworking-plugins"
    )


def meshd(places: Places, place: Place, stack: contextlib.ExitStack) -> tuple[Plugin, Agent]:
    """An agent that serves CNI on the node ``place``, and the plugin that asks it."""
    socket = places.run / "cni.sock"
    options = {"cni": {"socket": str(socket), "podCidrs": ["10.91.0.0/22", "fd91::/118"]}}
    agent = stack.enter_context(Agent(places, place, options))
    config = {"cniVersion": VERSION, "name": "bench", "type": "meshd-cni", "socket": str(socket)}
    plugin = Plugin("meshd", SHIM, config, _runtime(places, place, stack))
    plugin.ready()
    return plugin, agent


def bridge(places: Places, place: Place, stack: contextlib.ExitStack) -> Plugin:
    """The usual plugins on the node ``place``."""
    directory = require_plugins()
    ranges = [[{"subnet": "10.92.0.0/22"}], [{"subnet": "fd92::/118"}]]
    ipam = {
        "type": "host-local",
        "ranges": ranges,
        "dataDir": str(places.run / "host-local"),
    }
    config = {
        "cniVersion": VERSION,
        "name": "bench",
        "type": "bridge",
        "bridge": "cni0",
        "isDefaultGateway": True,
        "ipam": ipam,
    }
    return Plugin("bridge", directory / "bridge", config, _runtime(places, place, stack))


def make_pods(plugin: Plugin, count: int, places: Places, stack: contextlib.ExitStack) -> None:
    """``count`` namespaces for ``plugin``, as a runtime makes them before it asks."""
    for number in range(count):
        container = f"{plugin.name}{number}"
        path = places.run / "pods" / f"{places.name}-{container}"
        Netns.create_named(path).close()
        stack.callback(remove_named, path)
        plugin.pods[container] = path


def _runtime(places: Places, place: Place, stack: contextlib.ExitStack) -> Worker:
    worker = Worker(f"runtime of {place.name}", "cni_runtime", places.cgroup / "runtimes", place.client)
    stack.callback(worker.close)
    return worker
