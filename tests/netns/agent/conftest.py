from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.agent.agent_node import AgentNode


@pytest.fixture
def node(tmp_path: Path, run_name: str, request: pytest.FixtureRequest) -> Iterator[AgentNode]:
    made = AgentNode(tmp_path, f"{run_name}-{abs(hash(request.node.nodeid)) % 0xFFFF:x}")
    yield made
    made.close()
