"""What a peer that nobody pinned is held to, as callers see it, and how it is confirmed or learned anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clustermesh.peers import read_directory
from meshd.api.v1 import cluster_pb2
from meshd.config import ClusterMesh
from meshd.errors import JournalError
from meshd.model import Cluster, ClusterState
from meshd.servers.control.callers import NEEDS, Role
from tests.fakes.agent import FakeAgent, serving
from tests.unit.ctl.running import meshctl

TIMEOUT_S = 20.0
NETWORKS = ("10.2.0.0/16", "192.0.0.0/16")
FILE = "endpoints: ['http://127.0.0.1:1']\n"


def fill(agent: FakeAgent, origin: str = "learned") -> None:
    agent.mesh.replace(
        "clustermesh", [Cluster("cm-1", "clustermesh", 1, local=True), Cluster("cm-2", "clustermesh", 2)]
    )
    agent.dataplane.pin_origin = origin  # type: ignore[assignment] # one of its words
    if origin != "none yet":
        agent.dataplane.pin_cluster_id, agent.dataplane.pin_networks = 2, NETWORKS


@pytest.mark.parametrize("origin", ["stated", "learned", "none yet"])
async def test_a_cluster_says_who_pinned_it(origin: str, tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        fill(agent, origin)
        request = cluster_pb2.GetClusterRequest(name="cm-2")
        peer = (await agent.clusters.GetCluster(request, timeout=TIMEOUT_S)).cluster.peer
        listed = await meshctl(agent, "cluster", "list", "-o", "wide")
    name = cluster_pb2.PinOrigin.Name(peer.pin_origin)
    assert name == f"PIN_ORIGIN_{origin.upper().replace(' ', '_')}"
    assert tuple(peer.pin_networks) == (NETWORKS if origin != "none yet" else ())
    own, other = sorted(listed.out.splitlines()[1:])
    assert "PIN" in listed.out.splitlines()[0]
    assert f" {origin} " in other
    assert not any(word in own for word in ("stated", "learned", "none yet"))


@pytest.fixture
def peers(tmp_path: Path) -> Path:
    """A directory with a file for cm-2, without a pin."""
    path = tmp_path / "peers"
    path.mkdir()
    (path / "cm-2").write_text(FILE)
    return path


async def test_a_learned_pin_is_confirmed_by_stating_it_in_the_file(tmp_path: Path, peers: Path) -> None:
    async with serving(tmp_path, clustermesh=ClusterMesh(peers=peers)) as agent:
        fill(agent)
        printed = await meshctl(agent, "clustermesh", "pin", "cm-2", "--print")
        assert (peers / "cm-2").read_text() == FILE
        done = await meshctl(agent, "clustermesh", "pin", "cm-2")
    assert (printed.status, done.status, done.err) == (0, 0, "")
    assert (peers / "cm-2").read_text() == FILE + printed.out
    pin = read_directory(peers, "cm-1", {}).peers["cm-2"].pin
    assert (pin.cluster_id, tuple(map(str, pin.networks)), pin.is_learned) == (2, NETWORKS, False)


async def test_where_the_file_is_somebody_else_s_it_is_said_what_to_add(tmp_path: Path, peers: Path) -> None:
    (peers / "cm-2").rename(tmp_path / "mounted")
    (peers / "cm-2").symlink_to(tmp_path / "mounted")
    async with serving(tmp_path, clustermesh=ClusterMesh(peers=peers)) as agent:
        fill(agent)
        done = await meshctl(agent, "clustermesh", "pin", "cm-2")
    assert (done.status, done.out) == (1, "")
    assert (
        "is a link to where somebody else writes it; where the file comes from, add\nmeshd.io/pin:"
        in done.err
    )
    assert (tmp_path / "mounted").read_text() == FILE


async def test_only_what_was_learned_can_be_confirmed(tmp_path: Path, peers: Path) -> None:
    async with serving(tmp_path, clustermesh=ClusterMesh(peers=peers)) as agent:
        fill(agent, "stated")
        stated = await meshctl(agent, "clustermesh", "pin", "cm-2")
        fill(agent, "none yet")
        nothing = await meshctl(agent, "clustermesh", "pin", "cm-2")
    assert (stated.status, stated.out) == (0, "the pin of cm-2 is stated in its file already\n")
    assert (nothing.status, nothing.err) == (
        1,
        "meshctl: nothing was learned of cm-2 yet: its lists name no node\n",
    )
    assert (peers / "cm-2").read_text() == FILE


async def test_a_widening_is_accepted_by_learning_anew(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        fill(agent)
        done = await meshctl(agent, "clustermesh", "relearn", "cm-2")
        again = await meshctl(agent, "clustermesh", "relearn", "cm-2")
        unknown = await meshctl(agent, "clustermesh", "relearn", "cm-9")
        agent.dataplane.relearn_error = JournalError("/pins/cm-2", "Read-only file system")
        failed = await meshctl(agent, "clustermesh", "relearn", "cm-2")
    assert (done.status, done.out) == (
        0,
        "what cm-2 named first is forgotten on this node: its next list with nodes is its pin\n",
    )
    assert (again.status, again.out) == (0, "nothing was learned of cm-2 on this node\n")
    assert (unknown.status, unknown.err) == (1, "meshctl: peer cm-9 does not exist\n")
    assert failed.status == 1
    assert "Read-only file system" in failed.err


async def test_an_unconfirmed_pin_is_told_of_and_no_failure(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.refused_records = {}
        fill(agent)
        agent.mesh.replace("clustermesh", [Cluster("cm-2", "clustermesh", 2, state=ClusterState.SYNCED)])
        done = await meshctl(agent, "mesh", "doctor", "-o", "json")
    assert done.status == 0
    (found,) = json.loads(done.out)["findings"]
    assert (found["severity"], found["check"], found["where"]) == ("info", "clusters", "cluster cm-2")
    assert found["problem"] == "its pin is learned, unconfirmed: id 2, 10.2.0.0/16, 192.0.0.0/16"
    assert "meshctl clustermesh pin cm-2" in found["remedy"]


def test_learning_anew_is_for_those_who_operate() -> None:
    assert NEEDS["/meshd.v1.ClusterService/RelearnPin"] is Role.OPERATE
