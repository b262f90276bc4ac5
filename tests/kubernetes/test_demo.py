"""The demo on two joined clusters loses no request, and fails when the dataplane does not do its part."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshd.lab.demo import checks
from meshd.lab.demo.picture import Picture
from meshd.lab.demo.stage import Phase, Stage
from scripts.kubernetes.demo import joining
from scripts.kubernetes.demo.mesh import Mesh
from scripts.kubernetes.demo.phases import PHASES, serve
from scripts.kubernetes.demo.run import go_through, joined
from scripts.kubernetes.layout import Site
from scripts.kubernetes.removal import remove
from scripts.kubernetes.site import Wanted, site
from tests.kubernetes.test_site import what_is_left

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "scripts.kubernetes.demo"]

pytestmark = [
    pytest.mark.needs("root", "bpf", "cgroup_v2", "veth", "ipv6"),
    pytest.mark.needs("command:containerd", "command:runc", "command:busybox", "command:mmdebstrap"),
    # The images are made first, where they are not there.
    pytest.mark.timeout(1200),
]
# On a node: what answers services, in connect() and in packets, is gone; maps and agent stay.
TAKE_OFF = """
from functools import partial
from pathlib import Path
from meshd.kernel import netlink
from meshd.kernel.links import Link
from meshd.kernel.netns import Netns

for pin in Path("/sys/fs/bpf/meshd/links").glob("*connect*"):
    link = Link.open_pinned(pin)
    link.detach()
    link.close()

def take_off(links, route):
    for index in (route.link_lookup(ifname=name)[0] for name in links):
        route.tc("del", "clsact", index=index)

with Netns.current() as netns:
    links = [name for name in netlink.link_names(netns) if name.startswith("mpod")]
    netlink.in_netns(netns, "programs of pods", partial(take_off, links))
print(len(links))
"""


async def _take_off(stage: Stage[Mesh]) -> None:
    for node in [node for member in stage.ground.members for node in member.running.nodes]:
        links = node.run("sh", "-c", f'cd {ROOT} && exec {sys.executable} -c "$1"', "sh", TAKE_OFF)
        assert int(links) > 0
    await serve(stage)


# What a demo must not call a success.
TAKEN_OFF = Phase("hooks and programs are taken off", _take_off, checks.both_serve, checks.no_switch)


@dataclass(frozen=True)
class Done:
    """A demo that was gone through. Any: JSON."""

    status: int
    report: Any


@pytest.fixture(scope="module")
def done(run_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """The first phases on two joined clusters of one node, and then one in which nobody answers services."""
    out = tmp_path_factory.mktemp("demo")
    images = joining.archives()

    async def demo(mesh: Mesh) -> int:
        await joined(mesh, images, print)
        picture = Picture(io.StringIO(), mesh.cluster_names)
        return await go_through(mesh, out, picture, (*PHASES[:2], TAKEN_OFF))

    with site(f"{run_name}j", Wanted([1, 1])) as made:
        status = asyncio.run(demo(Mesh(made)))
    yield Done(status, _report(out))


def _report(out: Path) -> Any:
    return json.loads((out / "report.json").read_text())


@pytest.mark.long
def test_no_request_is_lost_when_the_backends_of_a_cluster_go(done: Done) -> None:
    phases = done.report["phases"][:2]
    assert [(phase["lost"], phase.get("problems")) for phase in phases] == [(0, None)] * 2, done.report
    both, one = (phase["answers"] for phase in phases)
    assert min(*both.values(), one["cm-1"]) > 0


@pytest.mark.long
def test_it_fails_when_hooks_and_programs_are_taken_off(done: Done) -> None:
    last = done.report["phases"][2]
    assert (done.status, done.report["ok"]) == (1, False)
    assert done.report["lost"] == last["lost"] > 0
    assert any("requests were lost" in problem for problem in last["problems"])


@pytest.fixture
def place(run_name: str) -> Iterator[Site]:
    made = Site(f"{run_name}x")
    try:
        yield made
    finally:
        remove(made)


@pytest.mark.long
def test_the_whole_demo_loses_no_request_and_leaves_nothing(place: Site, tmp_path: Path) -> None:
    command = [*COMMAND, "--name", place.name, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = _report(tmp_path)
    assert (done.returncode, report["ok"], report["lost"]) == (0, True, 0), done.stdout + done.stderr
    assert [phase["name"] for phase in report["phases"]] == [phase.name for phase in PHASES]
    assert report["phases"][-1]["lost"] > 0
    assert sum(phase["requests"] for phase in report["phases"]) == report["requests"]
    assert (tmp_path / "timeline.svg").exists()
    assert what_is_left(place) == []


# ``reached``: what it says when it has come so far.
@pytest.mark.long
@pytest.mark.parametrize(
    ("reached", "ending"),
    [
        pytest.param("API server of", signal.SIGINT, id="starting"),
        pytest.param("etcds of the mesh", signal.SIGTERM, id="joining"),
        pytest.param("phase 1 ", signal.SIGHUP, id="under load"),
    ],
)
def test_an_interrupted_demo_leaves_nothing(
    place: Site, tmp_path: Path, reached: str, ending: signal.Signals
) -> None:
    run = _demo_until(place, tmp_path, reached)
    run.send_signal(ending)
    run.communicate()
    assert (run.returncode, what_is_left(place)) == (130, [])


@pytest.mark.long
def test_a_demo_whose_reader_goes_away_leaves_nothing(place: Site, tmp_path: Path) -> None:
    run = _demo_until(place, tmp_path, "etcds of the mesh")
    assert run.stdout is not None
    run.stdout.close()
    assert (run.wait(), what_is_left(place)) == (1, [])


def _demo_until(place: Site, out: Path, reached: str) -> subprocess.Popen[str]:
    command = [*COMMAND, "--name", place.name, "--out", str(out)]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert run.stdout is not None
    for line in run.stdout:
        if reached in line:
            break
    return run
