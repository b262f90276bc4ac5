from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.short_circuit.machine import Machine
from tests.netns.short_circuit.machine import machine as made
from tests.netns.short_circuit.way import Way


@pytest.fixture
def machine(unique_name: str) -> Iterator[Machine]:
    """A node with the short circuit on."""
    with made(unique_name) as running:
        yield running


@pytest.fixture(scope="module")
def ways(run_name: str) -> Iterator[dict[bool, Way]]:
    """A node with two selected pods and two others, one for the tests of a file."""
    with made(f"{run_name}w") as running:
        selected = running.add_pod(7), running.add_pod(8)
        others = running.add_pod(9, selected=False), running.add_pod(10, selected=False)
        yield {True: Way(running, *selected, is_short=True), False: Way(running, *others, is_short=False)}


@pytest.fixture(params=[True, False], ids=["short", "tcp"])
def way(ways: dict[bool, Way], request: pytest.FixtureRequest) -> Way:
    """The short circuit, and plain TCP as the control of the same test."""
    return ways[request.param]
