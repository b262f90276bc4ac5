"""The agent's own image in a container with the rights that the DaemonSet gives it, and no others."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml

from scripts.image import __main__ as building
from tests.netns.runtime.containerd import Containerd

ROOT = Path(__file__).parents[3]
DAEMON_SET = ROOT / "deploy/kubernetes/base/daemon-set.yaml"
NAME = "docker.io/library/meshd:test"
PROGRAMS = "/opt/meshd/bin"
# What ctr gives a container that asks for nothing (containerd, oci/spec.go).
USUAL = frozenset(
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT "  # noqa: SIM905 - a list of one a line says no more
    "KILL AUDIT_WRITE".split()
)


@functools.cache
def archive() -> Path:
    """The image of this tree."""
    path = building.BUILD / "meshd-test.tar"
    building.build(path, "test")
    return path


def etcd_archive() -> Path:
    """The image of the mesh's etcd, made with the other."""
    return building.etcd_beside(archive())


@functools.cache
def container() -> dict[str, Any]:
    """The DaemonSet's container."""
    # Any: an object of Kubernetes.
    found: dict[str, Any] = yaml.safe_load(DAEMON_SET.read_text())["spec"]["template"]["spec"]["containers"][
        0
    ]
    return found


def capabilities() -> list[str]:
    """All that the DaemonSet's container has."""
    said = container()["securityContext"]["capabilities"]
    assert said["drop"] == ["ALL"]
    return list(said["add"])


def load(runtime: Containerd) -> None:
    """Puts the image into ``runtime``."""
    runtime.ctr("images", "import", "--snapshotter", "native", str(archive()))


def command(runtime: Containerd, name: str, *program: str, granted: list[str] | None = None) -> list[str]:
    """`ctr` with a container like the DaemonSet's on the network of ``runtime``'s node; what it has of the host is in the
    places where the DaemonSet has it, besides the directory of the test. ``granted``: capabilities, if others."""
    granted = capabilities() if granted is None else granted
    directory = runtime.node.agent.directory
    mounts = {
        "/sys/fs/cgroup": ("/sys/fs/cgroup", "rbind:ro"),
        "/proc/sys/net": ("/host/proc/sys/net", "rbind:rw"),
        str(directory): (str(directory), "rbind:rslave:rw"),
    }
    options = ["--rm", "--snapshotter", "native", "--read-only", "--seccomp", "--net-host"]
    options += ["--cgroup", f"/{runtime.name}/{name}"]
    options += [f"--cap-drop=CAP_{each}" for each in sorted(USUAL) if each not in granted]
    options += [f"--cap-add=CAP_{each}" for each in granted]
    options += [
        f"--mount=type=bind,src={there},dst={here},options={how}" for there, (here, how) in mounts.items()
    ]
    return runtime.command("run", *options, NAME, name, *program)


def run(runtime: Containerd, name: str, *program: str) -> subprocess.CompletedProcess[str]:
    """Runs ``program`` in such a container to its end."""
    return runtime.do(*command(runtime, name, *program))
