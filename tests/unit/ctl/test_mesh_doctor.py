"""``meshctl mesh doctor``: what an agent knows, and what its files and etcds say."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path

import pytest

from clustermesh import doctor
from clustermesh.snapshot import Etcd, Snapshot
from meshd.api.v1 import cluster_pb2, node_pb2, status_pb2
from meshd.config import ClusterMesh
from meshd.ctl.mesh_checks import Known, findings
from meshd.ctl.mesh_doctor import heard
from meshd.model import Cluster, ClusterState, Node
from tests.etcd.process import free_ports
from tests.fakes.agent import serving
from tests.unit.ctl.running import meshctl

STATUS = status_pb2.GetStatusResponse(
    version=status_pb2.GetVersionResponse(version="1.0"), node="n1", cluster="cm-1"
)
WELL = Known(
    STATUS,
    (
        cluster_pb2.Cluster(name="cm-1", local=True),
        cluster_pb2.Cluster(name="cm-2", state=cluster_pb2.CLUSTER_STATE_SYNCED),
    ),
    (
        node_pb2.Node(cluster="cm-1", name="n1"),
        node_pb2.Node(
            cluster="cm-2",
            name="n2",
            state=node_pb2.NODE_STATE_FRESH,
            reachability=node_pb2.REACHABILITY_UP,
            loss=0.01,
        ),
    ),
    "1.0",
)


def test_of_what_is_as_it_should_be_nothing_is_said() -> None:
    assert findings(WELL) == []


def remote(**changes: object) -> Known:
    """The other cluster, changed."""
    changed = cluster_pb2.Cluster(name="cm-2", state=cluster_pb2.CLUSTER_STATE_SYNCED)
    changed.MergeFrom(cluster_pb2.Cluster(**changes))  # type: ignore[arg-type] # passed through
    return replace(WELL, clusters=(changed,))


def node(**changes: object) -> Known:
    """Its node, changed."""
    changed = node_pb2.Node(cluster="cm-2", name="n2", state=node_pb2.NODE_STATE_FRESH)
    changed.MergeFrom(node_pb2.Node(**changes))  # type: ignore[arg-type] # passed through
    return replace(WELL, nodes=(changed,))


def source(name: str) -> Known:
    """One that is out of reach."""
    stale = status_pb2.Source(name=name, state=status_pb2.SOURCE_STATE_STALE, reason="timed out")
    status = status_pb2.GetStatusResponse()
    status.CopyFrom(STATUS)
    status.sources.append(stale)
    return replace(WELL, status=status)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (replace(WELL, version="1.1"), ["versions node n1: its agent is 1.0, this meshctl 1.1"]),
        (source("etcd"), ["sources source etcd: is out of reach: timed out"]),
        (source("kubernetes"), []),
        (
            remote(state=cluster_pb2.CLUSTER_STATE_STALE, reason="no heartbeat for 130 s"),
            ["clusters cluster cm-2: is stale: no heartbeat for 130 s"],
        ),
        (
            remote(peer=cluster_pb2.Peer(refused={"backends": 2, "value": 1})),
            ["clusters cluster cm-2: records refused since the agent's start: 3 (backends 2, value 1)"],
        ),
        (
            remote(peer=cluster_pb2.Peer(stale_services=5, held_services=3, held_backends=9)),
            [
                "clusters cluster cm-2: 3 services are held: its etcd lost most of what it had at once",
                "clusters cluster cm-2: 2 services stand that its etcd does not name",
            ],
        ),
        (
            node(state=node_pb2.NODE_STATE_REFUSED, reason="10.1.0.0/24 belongs to this node"),
            ["nodes node cm-2/n2: is refused: 10.1.0.0/24 belongs to this node"],
        ),
        (
            node(state=node_pb2.NODE_STATE_STALE),
            ["nodes node cm-2/n2: is stale: its record is gone, what it said stands"],
        ),
        (node(reason="no way to it"), ["nodes node cm-2/n2: no way to it"]),
        (
            node(reachability=node_pb2.REACHABILITY_DOWN, loss=1.0),
            ["probes node cm-2/n2: does not answer probes any more"],
        ),
        (
            node(reachability=node_pb2.REACHABILITY_UNKNOWN),
            ["probes node cm-2/n2: has never answered a probe"],
        ),
        (
            node(reachability=node_pb2.REACHABILITY_UP, loss=0.05),
            ["probes node cm-2/n2: 5% of the probes of the last ten seconds were lost"],
        ),
    ],
)
def test_what_an_agent_knows_to_be_wrong_is_said_with_its_object(known: Known, expected: list[str]) -> None:
    assert [f"{each.check} {each.where}: {each.problem}" for each in findings(known)] == expected


def heartbeats(age_s: float) -> list[cluster_pb2.Cluster]:
    """Of cm-2, as an agent heard them."""
    return [cluster_pb2.Cluster(name="cm-2", peer=cluster_pb2.Peer(heartbeat_age_seconds=age_s))]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (heartbeats(20.0), heartbeats(21.5), 21.5),
        # The next one came while etcd was looked at: nobody knows which of them was read there.
        (heartbeats(59.0), heartbeats(0.5), None),
        ([cluster_pb2.Cluster(name="cm-2")], heartbeats(0.5), None),
    ],
)
def test_an_age_counts_only_if_it_is_that_of_the_heartbeat_in_etcd(
    before: list[cluster_pb2.Cluster], after: list[cluster_pb2.Cluster], expected: float | None
) -> None:
    snapshot = Snapshot("cm-1", datetime.datetime.now(datetime.UTC), etcds=(Etcd("cm-2", Path("cm-2")),))
    assert heard(snapshot, before, after).etcds[0].heard_s == expected


@pytest.mark.parametrize(
    ("origin", "warned"), [(cluster_pb2.PIN_ORIGIN_LEARNED, False), (cluster_pb2.PIN_ORIGIN_NONE_YET, True)]
)
def test_a_peer_whose_pin_the_agent_learned_is_not_called_unpinned(
    origin: cluster_pb2.PinOrigin.ValueType, warned: bool
) -> None:
    networks = ["10.2.0.0/16"] if origin == cluster_pb2.PIN_ORIGIN_LEARNED else []
    peer = cluster_pb2.Peer(pin_origin=origin, pin_cluster_id=2, pin_networks=networks)
    snapshot = Snapshot("cm-1", datetime.datetime.now(datetime.UTC), etcds=(Etcd("cm-2", Path("cm-2")),))
    seen = heard(snapshot, [], [cluster_pb2.Cluster(name="cm-2", peer=peer)])
    assert any("is not pinned" in each.problem for each in doctor.findings(seen)) is warned


async def test_the_agent_is_asked_and_the_files_of_its_configuration_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "peers").mkdir()
    (port,) = free_ports(1)
    (tmp_path / "peers" / "cm-2").write_text(f"endpoints: ['http://127.0.0.1:{port}']")
    async with serving(tmp_path, clustermesh=ClusterMesh(peers=tmp_path / "peers")) as agent:
        there = Cluster("cm-2", "clustermesh", 2, state=ClusterState.STALE, reason="nobody answers")
        own = Cluster("cm-1", "clustermesh", 1, local=True, state=ClusterState.SYNCED)
        agent.mesh.replace("clustermesh", [own, there])
        agent.mesh.replace("node", [Node("cm-1", "n1", "node")])
        done = await meshctl(agent, "mesh", "doctor", "-o", "json")
        found = json.loads(done.out)["findings"]
        assert (done.status, done.err) == (1, "")
        assert {(each["severity"], each["check"]) for each in found} == {
            ("error", "clusters"),  # what the agent says
            ("warning", "clusters"),
            ("error", "members"),  # what is seen from here
            ("warning", "members"),
            ("error", "answers"),
            ("warning", "files"),
        }
        done = await meshctl(agent, "mesh", "doctor", "--no-files")
        assert done.status == 1
        assert done.out.splitlines()[0] == "error    clusters      cluster cm-2: is stale: nobody answers"
        assert done.out.splitlines()[-1].startswith(
            "n1 of cm-1, peers: cm-2 (files and etcds were not looked"
        )


async def test_where_nothing_is_wrong_the_exit_status_is_zero(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.mesh.replace("clustermesh", [Cluster("cm-1", "clustermesh", 1, local=True)])
        done = await meshctl(agent, "mesh", "doctor")
        assert (done.status, done.out) == (0, "n1 of cm-1, peers: none: nothing is wrong\n")
