"""Throwaway pieces of kernel: each fixture takes away what it made, also when the test failed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

import pytest

from meshd.kernel import cgroup
from meshd.kernel.netlink import VethEnd, create_veth
from meshd.kernel.netns import Netns
from meshd.kernel.object import BpfObject, Loaded
from meshd.kernel.pins import mount_bpffs, unmount_bpffs
from tests.bpf.compiled import compiled

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class NetnsPair:
    """Two namespaces joined by a veth pair. ``client`` is 10.77.0.1 and fd77::1, ``server`` 10.77.0.2 and fd77::2."""

    client: Netns
    server: Netns
    client_device: str
    server_device: str


@pytest.fixture
def unique_name(run_name: str) -> str:
    """A name no other test has; at most 13 characters, so that it also names a link."""
    return f"{run_name}n{next(_numbers)}"


@pytest.fixture
def scratch_cgroup(unique_name: str) -> Iterator[Path]:
    """An empty cgroup v2 directory directly below the mount."""
    path = cgroup.find_mount() / unique_name
    cgroup.create(path)
    try:
        yield path
    finally:
        cgroup.remove_tree(path)


@pytest.fixture
def inside() -> Callable[[Path], AbstractContextManager[None]]:
    """``with inside(path):`` runs this process in that cgroup, so that sockets made meanwhile belong to it."""

    @contextmanager
    def enter(path: Path) -> Iterator[None]:
        home = cgroup.of_process()
        cgroup.move(path)
        try:
            yield
        finally:
            cgroup.move(home)

    return enter


@pytest.fixture
def bpffs(tmp_path: Path, unique_name: str) -> Iterator[Path]:
    """A bpffs of this test's own; unmounting it ends whatever only its pins held."""
    directory = tmp_path / f"{unique_name}bpf"
    mount_bpffs(directory)
    try:
        yield directory
    finally:
        unmount_bpffs(directory)


@pytest.fixture
def netns_pair(unique_name: str) -> Iterator[NetnsPair]:
    """Two anonymous namespaces with a veth pair between them, IPv4 and IPv6, up."""
    with Netns.create("client") as client, Netns.create("server") as server:
        pair = NetnsPair(client, server, f"{unique_name}c", f"{unique_name}s")
        ends = (
            VethEnd(client, pair.client_device, (ip_interface("10.77.0.1/24"), ip_interface("fd77::1/64"))),
            VethEnd(server, pair.server_device, (ip_interface("10.77.0.2/24"), ip_interface("fd77::2/64"))),
        )
        create_veth(*ends)
        yield pair


@pytest.fixture(scope="session")
def probe_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The object of tests/bpf/programs/kernel_probe.bpf.c."""
    return compiled("kernel_probe", directory=tmp_path_factory.mktemp("kernel_probe"))


@pytest.fixture
def probe(probe_object: Path) -> Iterator[Loaded]:
    """The same, loaded with its defaults and without pins."""
    with BpfObject.open(probe_object) as bpf:
        loaded = bpf.load()
    try:
        yield loaded
    finally:
        loaded.close()
