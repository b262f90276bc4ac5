"""``meshctl cni install|uninstall|status``: whether the container runtime of this machine uses meshd."""

from __future__ import annotations

import argparse
import platform
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

from meshd import config
from meshd.config import Config
from meshd.ctl import cni_files
from meshd.ctl.cni_files import Places
from meshd.ctl.errors import CtlError
from meshd.errors import ConfigError

NEWEST = "1.1.0"
# The newest that every runtime in use takes: containerd refuses configurations of a version it does not know.
SAFE = "1.0.0"
CONTAINERD_FOR_NEWEST = (2, 0)


def install(options: argparse.Namespace) -> int:
    """Write plugin and conflist; the runtime uses meshd for the next pod."""
    agent, places = _places(options)
    version = options.cni_version or version_for_runtime()
    before: list[dict[str, Any]] = []  # Any: other plugins' configuration is theirs
    name = "meshd"
    if options.chained:
        others = cni_files.theirs(places.conf_dir)
        if not others:
            raise CtlError(
                f"there is no configuration in {places.conf_dir} that meshd could be chained after"
            )
        name, before = cni_files.plugins_of(others[0])
    elif not agent.cni.pod_cidrs:
        raise CtlError("cni.podCidrs is not configured: set it, or use --chained")
    made = cni_files.conflist(version, agent.cni_socket.absolute(), before, name)
    done = cni_files.install(places, packaged_plugin(), made)
    print("\n".join(done) if done else "already installed")
    print(f"in force for new pods: {places.conflist} (cniVersion {version})")
    return 0


def uninstall(options: argparse.Namespace) -> int:
    """Take plugin and conflist away; what was in force before is again."""
    _, places = _places(options)
    running = pods()
    if running and not options.leave_running:
        raise CtlError(
            f"{running} pods of meshd run here, and without its plugin nobody takes their interfaces away: "
            "stop them first, or use --leave-running"
        )
    done = cni_files.uninstall(places)
    print("\n".join(done) if done else "was not installed")
    left = cni_files.configurations(places.conf_dir)
    print(f"in force for new pods: {left[0]}" if left else "the runtime has no network now")
    return 0


def status(options: argparse.Namespace) -> int:
    """What is installed, what is in force, and whether the agent answers; 1 if a new pod would not be meshd's."""
    agent, places = _places(options)
    plugin = places.plugin
    is_ours = plugin.exists() and plugin.read_bytes() == packaged_plugin()
    found = cni_files.configurations(places.conf_dir)
    in_force = found[0] if found else None
    serving = answers(agent.cni_socket)
    lines = {
        "plugin": f"{plugin}: " + ("ready" if is_ours else "another build" if plugin.exists() else "absent"),
        "conflist": f"{places.conflist}: " + ("ready" if places.conflist in found else "absent"),
        "in force": str(in_force or "nothing"),
        "put aside": ", ".join(path.name for path in sorted(places.conf_dir.glob("*" + cni_files.ASIDE)))
        or "nothing",
        "agent": f"{agent.cni_socket}: " + ("answers" if serving else "does not answer"),
        "pods": str(pods()),
    }
    for name, text in lines.items():
        print(f"{name:10} {text}")
    return 0 if is_ours and in_force == places.conflist and serving else 1


def pods() -> int:
    """How many pods of meshd have an interface on this node: links of this name are ours."""
    return sum(1 for _ in Path("/sys/class/net").glob("mpod*"))


def packaged_plugin() -> bytes:
    """The shim for this machine.

    Raises:
        CtlError: the package has none.
    """
    path = Path(__file__).with_name(f"{cni_files.PLUGIN}.{platform.machine()}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise CtlError(f"this package has no CNI plugin for {platform.machine()}: {path}") from error


def version_for_runtime() -> str:
    """The newest version of the specification that the runtime on this machine takes."""
    try:
        done = subprocess.run(
            ["containerd", "--version"], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return SAFE
    return newest_for_containerd(done.stdout)


def newest_for_containerd(said: str) -> str:
    """The newest version that the containerd takes which says ``said`` of itself."""
    found = re.search(r"\bv?(\d+)\.(\d+)\.\d+", said)
    return NEWEST if found and (int(found[1]), int(found[2])) >= CONTAINERD_FOR_NEWEST else SAFE


def answers(path: Path) -> bool:
    """Whether somebody listens at ``path``."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _places(options: argparse.Namespace) -> tuple[Config, Places]:
    try:
        agent = config.load(options.config)
    except ConfigError as error:
        raise CtlError(str(error)) from error
    return agent, Places(options.conf_dir or agent.cni.conf_dir, options.bin_dir or agent.cni.bin_dir)
