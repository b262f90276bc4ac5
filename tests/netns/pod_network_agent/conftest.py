from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from build_backend import cni_shim
from tests.netns.cni.node import CniNode
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
