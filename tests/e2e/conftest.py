from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.clusters import TwoClusters

_numbers = itertools.count(1)


@pytest.fixture
def make_clusters(tmp_path: Path, run_name: str) -> Iterator[Callable[..., TwoClusters]]:
    """Makes two clusters whose agents do not run yet, as `TwoClusters.make` is told; at most once a test."""
    made = TwoClusters(tmp_path, f"{run_name}c{next(_numbers)}")

    def make(**options: int) -> TwoClusters:
        made.make(**options)
        return made

    yield make
    made.close()


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory, run_name: str) -> Iterator[TwoClusters]:
    """Two running clusters of one node for all tests of a module: each uses services and numbers of its own."""
    made = TwoClusters(tmp_path_factory.mktemp("clusters"), f"{run_name}c{next(_numbers)}")
    try:
        made.make()
        made.start()
        yield made
    finally:
        made.close()
