from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.pod_network_nodes.fabric import Fabric


@pytest.fixture
def fabric(tmp_path: Path, unique_name: str) -> Iterator[Fabric]:
    """A bridge without nodes."""
    made = Fabric(tmp_path, unique_name)
    try:
        yield made
    finally:
        made.close()
