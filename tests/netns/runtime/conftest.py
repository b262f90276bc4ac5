from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from build_backend import cni_shim
from tests.netns.cni.node import CniNode
from tests.netns.runtime.containerd import Containerd

# Makes a node whose number is the argument, whose containerd has meshd as its network.
MakeRuntime = Callable[..., Containerd]


@pytest.fixture(scope="session", autouse=True)
def shim() -> None:
    cni_shim.build()


@pytest.fixture
def make_runtime(tmp_path: Path, unique_name: str) -> Iterator[MakeRuntime]:
    with contextlib.ExitStack() as made:

        def make(number: int = 1) -> Containerd:
            node = CniNode(tmp_path / f"node{number}", f"{unique_name}r{number}", number)
            made.callback(node.close)
            node.start()
            runtime = Containerd(node)
            made.callback(runtime.close)
            runtime.start()
            runtime.install()
            return runtime

        yield make
