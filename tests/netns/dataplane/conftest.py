from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.dataplane.node import Node


@pytest.fixture
def node(tmp_path: Path, run_name: str, request: pytest.FixtureRequest) -> Iterator[Node]:
    made = Node(tmp_path, f"{run_name}-{abs(hash(request.node.nodeid)) % 0xFFFF:x}")
    yield made
    made.close()
