"""A list of plugins, asked in order as libcni asks them: each gets what the one before answered, and what it is capable of.

Plugins run in the node's namespace, as those of a runtime do.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.netns.cni.node import SHIM, CniNode

# Debian's containernetworking-plugins.
PLUGINS = Path("/usr/lib/cni")
NEEDS = "command:/usr/lib/cni/portmap"


class PluginFailed(Exception):
    """A plugin of the list answered with an error; the text is what it said."""


@dataclass(slots=True)
class Chain:
    """``plugins``: configurations, each with its type. ``results``: what each container's last plugin answered."""

    node: CniNode
    plugins: Sequence[Mapping[str, Any]]  # Any: JSON
    name: str = "mesh"
    version: str = "1.0.0"
    results: dict[str, Any] = field(default_factory=dict)  # Any: JSON
    runtime_configs: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # Any: JSON

    def add(self, container: str, netns: Path, **runtime_config: Any) -> list[str]:  # Any: JSON
        """Gives ``container`` its network; its addresses. ``runtime_config``: by capability.

        Raises:
            PluginFailed: a plugin refused; those before it are not asked to take theirs back, as with a runtime that dies.
        """
        result: Any = None  # Any: JSON
        self.runtime_configs[container] = runtime_config
        for plugin in self.plugins:
            result = self._ask("ADD", plugin, container, netns, result)
        self.results[container] = result
        return [each["address"].partition("/")[0] for each in result["ips"]]

    def check(self, container: str, netns: Path) -> None:
        """Asks each whether all is as it was made; not portmap, which looks for its IPv4 rules in IPv6's table (1.1.1).

        Raises:
            PluginFailed: it is not.
        """
        for plugin in self.plugins:
            if plugin["type"] == "portmap":
                continue
            self._ask("CHECK", plugin, container, netns, self.results[container])

    def delete(self, container: str, netns: Path) -> None:
        """Takes it away, the last plugin first."""
        for plugin in reversed(self.plugins):
            self._ask("DEL", plugin, container, netns, self.results[container])

    def _ask(
        self, command: str, plugin: Mapping[str, Any], container: str, netns: Path, result: Any
    ) -> Any:  # Any: JSON
        config: dict[str, Any] = {"cniVersion": self.version, "name": self.name, **plugin}
        capable = config.get("capabilities", {})
        given = self.runtime_configs.get(container, {})
        config["runtimeConfig"] = {name: each for name, each in given.items() if capable.get(name)}
        if result is not None:
            config["prevResult"] = result
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": str(netns),
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container}",
            "CNI_PATH": str(PLUGINS),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        path = SHIM if plugin["type"] == "meshd-cni" else PLUGINS / str(plugin["type"])
        done = self.node.netns.run(
            lambda: subprocess.run(
                [path], input=json.dumps(config).encode(), env=variables, capture_output=True, check=False
            )
        )
        if done.returncode:
            raise PluginFailed(f"{command} {plugin['type']}: {(done.stdout + done.stderr).decode()}")
        return json.loads(done.stdout) if done.stdout else None


def meshd(node: CniNode) -> Mapping[str, object]:
    """The entry that `meshctl cni install` writes."""
    return {
        "type": "meshd-cni",
        "socket": str(node.socket),
        "capabilities": {"ips": True, "bandwidth": True},
    }
