from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.short_circuit.machine import Machine
from tests.netns.short_circuit.machine import machine as made


@pytest.fixture
def machine(unique_name: str) -> Iterator[Machine]:
    """A node with the short circuit on."""
    with made(unique_name) as running:
        yield running
