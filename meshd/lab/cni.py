"""Pods' interfaces as a container runtime gets them: by starting the real shim with what CNI says it is told."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshd.errors import MeshError

VERSION = "1.1.0"
NETWORK = "mesh"
IFNAME = "eth0"
# What `meshctl cni install` puts where a runtime looks.
SHIM = Path(__file__).parents[1] / "ctl" / f"meshd-cni.{platform.machine()}"


class CniFailed(MeshError):
    """The plugin answered with an error, or was not there; the sentence is what it says."""


@dataclass(frozen=True, slots=True)
class Container:
    """Whose interface it is: an ID that no other container of the node has, its namespace, and its pod's name."""

    id: str
    netns: Path
    namespace: str
    name: str


def is_served(socket: Path) -> bool:
    """Whether somebody answers at ``socket`` who could give a pod its interface."""
    try:
        _ask(socket, "STATUS", {}, {}, "network")
    except CniFailed:
        return False
    return True


def add(socket: Path, container: Container, addresses: Sequence[object] = ()) -> list[str]:
    """Gives ``container`` its interface, with ``addresses`` where they are given; the addresses it has.

    Raises:
        CniFailed: no interface was made.
    """
    asked = {"runtimeConfig": {"ips": [str(address) for address in addresses]}}
    said = _ask(socket, "ADD", _variables(container), asked if addresses else {}, _named(container))
    return [each["address"].partition("/")[0] for each in said["ips"]]


def delete(socket: Path, container: Container) -> None:
    """Takes the interface away; one that is not there is no error.

    Raises:
        CniFailed: the agent did not take it.
    """
    _ask(socket, "DEL", _variables(container), {}, _named(container))


def _named(container: Container) -> str:
    return f"{container.namespace}/{container.name}"


def _variables(container: Container) -> dict[str, str]:
    return {
        "CNI_CONTAINERID": container.id,
        "CNI_NETNS": str(container.netns),
        "CNI_IFNAME": IFNAME,
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={container.namespace};K8S_POD_NAME={container.name}",
    }


def _ask(
    socket: Path, command: str, variables: Mapping[str, str], options: Mapping[str, object], what: str
) -> Any:  # Any: JSON
    config = {"cniVersion": VERSION, "name": NETWORK, "type": "meshd-cni", "socket": str(socket), **options}
    done = subprocess.run(
        [str(SHIM)],
        input=json.dumps(config),
        env={"CNI_COMMAND": command, "CNI_PATH": str(SHIM.parent), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    said = json.loads(done.stdout) if done.stdout else {}
    if done.returncode:
        why = ": ".join(filter(None, (said.get("msg", ""), said.get("details", "")))) or done.stderr.strip()
        raise CniFailed(f"CNI {command} of {what}: {why}")
    return said
