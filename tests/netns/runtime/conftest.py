from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from build_backend import cni_shim
from tests.netns.cni.node import CniNode
from tests.netns.pod_network_nodes.fabric import Fabric
from tests.netns.runtime.containerd import Containerd

# A runtime whose network is meshd, on a node whose agent runs.
RunsOn = Callable[[CniNode], Containerd]


@pytest.fixture(scope="session", autouse=True)
def shim() -> None:
    cni_shim.build()


@pytest.fixture
def fabric(tmp_path: Path, unique_name: str) -> Iterator[Fabric]:
    """A bridge without nodes. To be named before `containerd_on`: runtimes go first."""
    made = Fabric(tmp_path, unique_name)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def containerd_on() -> Iterator[RunsOn]:
    with contextlib.ExitStack() as made:

        def make(node: CniNode) -> Containerd:
            runtime = Containerd(node)
            made.callback(runtime.close)
            runtime.start()
            runtime.install()
            return runtime

        yield make


@pytest.fixture
def node(tmp_path: Path, unique_name: str) -> Iterator[CniNode]:
    made = CniNode(tmp_path / "node", unique_name)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def runtime(node: CniNode, containerd_on: RunsOn) -> Containerd:
    """The one of a node that is alone."""
    return containerd_on(node)
