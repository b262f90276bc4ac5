"""``meshctl cni install|uninstall|status``: whether the container runtime of this machine uses meshd."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from meshd import config
from meshd.config import Config
from meshd.ctl.cni_pods import drained, named, pods
from meshd.ctl.containerd import containerd_version
from meshd.ctl.errors import CtlError
from meshd.errors import CniFilesError, ConfigError
from meshd.runtime import cni_files, cni_versions
from meshd.runtime.cni_files import Places, packaged_plugin

Command = Callable[[argparse.Namespace], int]


def telling(command: Command) -> Command:
    """``command``, which tells the user what is wrong with a file."""

    @wraps(command)
    def told(options: argparse.Namespace) -> int:
        try:
            return command(options)
        except CniFilesError as error:
            raise CtlError(str(error)) from error

    return told


@telling
def install(options: argparse.Namespace) -> int:
    """Write plugin and conflist; the runtime uses meshd for the next pod."""
    agent, places = _places(options)
    before: list[dict[str, Any]] = []  # Any: other plugins' configuration is theirs
    after: list[dict[str, Any]] = []  # Any: as above
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
    else:
        after = [each for each in cni_files.AFTER if (places.bin_dir / each["type"]).exists()]
    version, reason = _version(options, places, [*before, *after])
    made = cni_files.conflist(version, agent.cni_socket.absolute(), before, after, name=name)
    done = cni_files.install(places, packaged_plugin(), made)
    print("\n".join(done) if done else "already installed")
    print(f"in force for new pods: {places.conflist} (cniVersion {version})")
    for line in _remarks(places, reason, options.chained, after):
        print(line)
    return 0


def _version(
    options: argparse.Namespace, places: Places, others: Sequence[Mapping[str, Any]]
) -> tuple[str, str]:
    # Any: as above
    if options.cni_version:
        return options.cni_version, ""
    plugins = [places.bin_dir / str(each["type"]) for each in others]
    return cni_versions.newest(containerd_version(), [each for each in plugins if each.exists()])


def _remarks(places: Places, reason: str, chained: bool, after: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    # Any: as above
    if reason:
        yield f"no newer cniVersion, so no GC and no STATUS: {reason}"
    if not chained and not after:
        yield f"without host ports: there is no portmap in {places.bin_dir}"


@telling
def uninstall(options: argparse.Namespace) -> int:
    """Take plugin and conflist away; what was in force before is again."""
    _, places = _places(options)
    if options.drain:
        # The runtime takes pods away with the configuration that is in force, so ours stays until the last is gone.
        left = drained(options.timeout, lambda text: print(text, file=sys.stderr))
        if left:
            raise CtlError(
                f"after {options.timeout:g} s the runtime still has {named(left)}; nothing was changed. "
                "Keep new ones away, for example with kubectl drain"
            )
    elif (running := pods()) and not options.leave_running:
        raise CtlError(
            f"{named(running)} run here, and without its plugin nobody takes their interfaces away: "
            "use --drain to wait until they are gone, or --leave-running"
        )
    done = cni_files.uninstall(places)
    print("\n".join(done) if done else "was not installed")
    found = cni_files.configurations(places.conf_dir)
    print(f"in force for new pods: {found[0]}" if found else "the runtime has no network now")
    return 0


@telling
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
        "pods": str(len(pods())),
    }
    for name, text in lines.items():
        print(f"{name:10} {text}")
    return 0 if is_ours and in_force == places.conflist and serving else 1


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
        raise CtlError(f"{error}; --config names another") from error
    return agent, Places(options.conf_dir or agent.cni.conf_dir, options.bin_dir or agent.cni.bin_dir)
