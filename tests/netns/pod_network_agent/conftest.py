from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from build_backend import cni_shim
from meshd.kernel.netns import Netns
from tests.netns.cni.node import CniNode
from tests.netns.pod_network_agent.world import behind
from tests.patience import patience


@pytest.fixture(scope="session", autouse=True)
def shim() -> None:
    cni_shim.build()


@pytest.fixture
def node(tmp_path: Path, unique_name: str) -> Iterator[CniNode]:
    """A node that looks at everything several times a second."""
    made = CniNode(tmp_path / "node", unique_name)
    made.agent.options["auditIntervalS"] = patience(0.2)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def world(node: CniNode, unique_name: str) -> Iterator[Netns]:
    with behind(node, f"{unique_name}u") as made:
        yield made
