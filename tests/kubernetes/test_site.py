"""Sites by hand: a maker that is killed leaves nothing that `down` does not find."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.kubernetes import hierarchies
from scripts.kubernetes.layout import Site
from scripts.kubernetes.removal import remove
from tests.gate.left_behind import named_after

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "scripts.kubernetes"]

pytestmark = [
    pytest.mark.needs("root", "bpf", "cgroup_v2", "veth", "ipv6"),
    pytest.mark.needs("command:containerd", "command:runc", "command:busybox"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def place(run_name: str) -> Iterator[Site]:
    made = Site(f"{run_name}s")
    try:
        yield made
    finally:
        remove(made)


def kubernetes(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )


def what_is_left(place: Site) -> list[str]:
    older = [str(root / place.name) for root in hierarchies.version_1() if (root / place.name).exists()]
    directories = [str(path) for path in (place.run, place.state) if path.exists()]
    return [*named_after(place.name), *older, *directories]


# The file that is there when the maker has come so far: between any two of them lies what a kill could leave half made.
@pytest.mark.parametrize(
    "reached",
    [
        pytest.param("netns/router", marks=pytest.mark.long),
        pytest.param("netns/c1", marks=pytest.mark.long),
        pytest.param("c1/log/etcd.log", marks=pytest.mark.long),
        pytest.param("c1-n1/ready", marks=pytest.mark.long),
        "c1-n2/log/containerd.log",
    ],
)
def test_what_a_killed_maker_left_is_removed_by_the_name(place: Site, reached: str) -> None:
    with subprocess.Popen([*COMMAND, "up", place.name], cwd=ROOT, stdout=subprocess.DEVNULL) as maker:
        while not ((place.run / reached).exists() or (place.state / reached).exists()):
            assert maker.poll() is None, "the maker ended"
        maker.kill()
    assert what_is_left(place) != []
    done = kubernetes("down", place.name)
    assert (done.returncode, what_is_left(place)) == (0, []), done.stderr


def test_a_maker_that_is_interrupted_leaves_nothing(place: Site) -> None:
    with subprocess.Popen([*COMMAND, "up", place.name], cwd=ROOT, stdout=subprocess.DEVNULL) as maker:
        while not (place.state / "c1-n1/ready").exists():
            assert maker.poll() is None, "the maker ended"
        maker.terminate()
    assert what_is_left(place) == []


def test_a_site_outlives_the_command_that_made_it(place: Site) -> None:
    made = kubernetes("up", place.name, "--nodes", "1")
    assert made.returncode == 0, made.stderr
    nodes = kubernetes("kubectl", place.name, "get", "nodes", "--output=name")
    assert nodes.stdout == "node/c1-n1\n"
    assert kubernetes("enter", f"{place.name}/c1-n1", "hostname", "-I").stdout.split()[0] == "10.210.1.11"
    again = kubernetes("up", place.name)
    assert (again.returncode, again.stderr.count("already")) == (1, 1)


def test_a_cluster_that_is_not_there_is_named(run_name: str) -> None:
    done = kubernetes("kubectl", f"{run_name}x", "get", "nodes")
    assert (done.returncode, f"no cluster {run_name}x" in done.stderr) == (1, True)
