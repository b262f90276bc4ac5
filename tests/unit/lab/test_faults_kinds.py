"""Which faults come in a series, and which of them at once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from meshd.config import load
from meshd.lab.agents import write_config
from meshd.lab.faults.ground import DATA_LEASE_S, ELECTION_LEASE_S, Ground, spec
from meshd.lab.faults.kinds import KINDS, drawn_of, in_turn
from meshd.lab.lab import Lab
from meshd.lab.layout import Places

# Of those that need neither a pod nor an elected publisher, which a lab has only when it stands.
NAMES = ("link", "uplink", "node-killed", "etcd-cut-off", "etcd-compacted", "agent-frozen", "large-packets")
SEEDS = range(5)


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    """On paper."""
    return Ground(Lab(Places("on-paper", tmp_path, tmp_path, tmp_path), spec(1.0)))


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_that_come_together_act_on_different_things_and_at_most_one_of_them_is_felt(
    ground: Ground, seed: int
) -> None:
    rng = random.Random(seed)  # noqa: S311 - to be repeated
    waiting = in_turn(rng, 30, NAMES)
    came = 0
    while waiting:
        faults = drawn_of(waiting, 3, rng, ground)
        assert 1 <= len(faults) <= 3
        assert sum(fault.effect.is_felt for fault in faults) <= 1
        touched = [name for fault in faults for name in fault.touches]
        assert len(touched) == len(set(touched))
        came += len(faults)
    assert came == 30


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_comes_before_any_comes_again(seed: int) -> None:
    names = in_turn(random.Random(seed), 30, list(KINDS))  # noqa: S311 - to be repeated
    assert set(names[: len(KINDS)]) == set(KINDS)
    assert len(names) == 30


def test_agents_of_the_lab_have_its_short_leases(ground: Ground) -> None:
    places, (cluster, *_) = ground.lab.places, ground.lab.clusters
    written = load(write_config(places, cluster, cluster.nodes[0], ground.lab.spec)).clustermesh
    assert (written.election_lease_s, written.data_lease_s) == (ELECTION_LEASE_S, DATA_LEASE_S)
