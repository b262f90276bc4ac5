from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.pod_network.host import Host, Pod, host


@pytest.fixture
def node(unique_name: str) -> Iterator[Host]:
    with host(unique_name) as made:
        yield made


@pytest.fixture
def pods(node: Host) -> tuple[Pod, Pod]:
    """Two pods of the node."""
    return node.add_pod(7), node.add_pod(8)
