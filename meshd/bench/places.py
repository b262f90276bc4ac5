"""Where the paths of a bench live: for each a client and a server namespace over a veth pair, and a cgroup.

Each path has its own, so that rules, connection tracking and hooks of one are not in the way of another. All of it hangs off
one name: a cgroup, a directory below /run and one below /var/lib (journals belong on a disk, as on a node). It goes when the
bench ends, however it ends; what a killed bench left is taken away by the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from meshd.bench.population import BACKEND_NETWORK
from meshd.errors import MeshError
from meshd.kernel import cgroup, pins
from meshd.kernel.netlink import VethEnd, add_route, create_veth, in_netns
from meshd.kernel.netns import Netns, remove_named
from meshd.lab.processes import kill_tree

PREFIX = "meshd-bench-"
CLIENT, SERVER = IPv4Interface("10.77.0.1/30"), IPv4Interface("10.77.0.2/30")
_RUN, _STATE = Path("/run"), Path("/var/lib")
_END_TIMEOUT_S, _LOOK_EVERY_S = 10.0, 0.01
_RTN_LOCAL, _TABLE_LOCAL = 2, 255  # linux/rtnetlink.h


class BenchError(MeshError):
    """The bench cannot go on; the sentence says which path or part, and why. Nothing of it stays on the machine."""


@dataclass(frozen=True, slots=True)
class Place:
    """One path's: processes that dial run in ``client`` and ``cgroup``, the server in ``server``."""

    name: str
    client: Netns
    server: Netns
    cgroup: Path


@dataclass(frozen=True, slots=True)
class Cpus:
    """Which CPU the measured client and which its server is pinned to; everything else goes where the kernel puts it."""

    client: int
    server: int

    @classmethod
    def chosen(cls) -> Cpus:
        """Two of those this process may use; the same one if there is only one."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(client=allowed[-1], server=allowed[0])

    def __str__(self) -> str:
        return f"client on CPU {self.client}, server on CPU {self.server}"


class Places:
    """Everything of one run, by its name; use `opened`."""

    def __init__(self, name: str, stack: contextlib.ExitStack) -> None:
        self.name = name
        self.cgroup = cgroup.find_mount() / name
        self.run, self.state = _RUN / name, _STATE / name
        self._stack = stack

    def place(self, name: str) -> Place:
        """A new path: namespaces that reach each other, with every backend address answered by the server's."""
        client, server = (
            self._stack.enter_context(Netns.create(f"{end} of {name}")) for end in ("client", "server")
        )
        create_veth(VethEnd(client, "eth0", (CLIENT,)), VethEnd(server, "eth0", (SERVER,)))
        # Service addresses need a route, too: netfilter translates after the first routing decision.
        add_route(client, IPv4Network("0.0.0.0/0"), IPv4Address(SERVER.ip))
        in_netns(server, f"local route to {BACKEND_NETWORK}", _answer_backends)
        path = self.cgroup / name.replace(" ", "-").replace(",", "")
        cgroup.create(path)
        return Place(name, client, server, path)

    def bpffs(self, name: str) -> Path:
        """A BPF file system of its own."""
        path = self.run / name
        pins.mount_bpffs(path)
        self._stack.callback(pins.unmount_bpffs, path)
        return path


@contextlib.contextmanager
def opened(name: str) -> Iterator[Places]:
    """Places called ``name``; at the end their processes are killed and all of it is removed."""
    with contextlib.ExitStack() as stack:
        places = Places(name, stack)
        stack.callback(_remove, places)
        cgroup.create(places.cgroup)
        for directory in (places.run, places.state):
            directory.mkdir(mode=0o700)
        try:
            yield places
        finally:
            # First, while what they use is still there.
            if places.cgroup.is_dir():
                kill_tree(places.cgroup)


def own_name() -> str:
    """The name of a run of this process."""
    return f"{PREFIX}{os.getpid()}"


def sweep(prefix: str = PREFIX) -> None:
    """Takes away what benches left that were killed: names of ``prefix`` and the id of a process that is no more."""
    for path in (
        *cgroup.find_mount().glob(f"{prefix}*"),
        *_RUN.glob(f"{prefix}*"),
        *_STATE.glob(f"{prefix}*"),
    ):
        pid = path.name.removeprefix(prefix)
        if pid.isdigit() and not Path("/proc", pid).exists():
            _remove(Places(path.name, contextlib.ExitStack()))


def _remove(places: Places) -> None:
    if places.cgroup.is_dir():
        kill_tree(places.cgroup)
        _until_unpopulated(places.cgroup)
        cgroup.remove_tree(places.cgroup)
    for path in places.run.glob("*"):
        if path.is_dir() and path.is_mount():
            pins.unmount_bpffs(path)
    # Namespaces that a bench gave names, as runtimes do (cni_plugins.py).
    for path in places.run.glob("pods/*"):
        remove_named(path)
    for directory in (places.run, places.state):
        shutil.rmtree(directory, ignore_errors=True)


def _until_unpopulated(group: Path) -> None:
    """A process that is still ending is listed no more, but holds its cgroup (cgroup-v2.rst, cgroup.events)."""
    deadline = time.monotonic() + _END_TIMEOUT_S
    while "populated 1" in (group / "cgroup.events").read_text() and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)


def _answer_backends(route: Any) -> None:
    """Every address of BACKEND_NETWORK is local, so that a server at 0.0.0.0 answers them all."""
    loopback = route.link_lookup(ifname="lo")[0]
    route.route(
        "add",
        dst=str(BACKEND_NETWORK),
        type=_RTN_LOCAL,
        table=_TABLE_LOCAL,
        scope=254,
        oif=loopback,
    )
