"""What stands although a remote cluster does not name it, as callers see it, and letting it go."""

from __future__ import annotations

from pathlib import Path

from structlog.testing import capture_logs

from meshd.api.v1 import backend_pb2, cluster_pb2
from meshd.model import Backend, BackendPort, BackendSlice, Cluster, Protocol, ServiceName, parse_address
from meshd.servers.control.callers import NEEDS, Role
from meshd.servers.introspection import Removal
from tests.fakes.agent import FakeAgent, serving
from tests.unit.ctl.running import meshctl

TIMEOUT_S = 20.0
WEB, API = ServiceName("galaxy", "web"), ServiceName("galaxy", "api")
STANDING = [Removal(WEB, 3, True, 1700000000.0), Removal(API, 1, False, 1700000060.0)]


def fill(agent: FakeAgent) -> None:
    agent.mesh.replace("clustermesh", [Cluster("cm-2", "clustermesh", 2)])
    agent.dataplane.removals = list(STANDING)


async def test_a_cluster_says_how_much_of_it_is_stale_and_held_and_since_when(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        fill(agent)
        request = cluster_pb2.GetClusterRequest(name="cm-2")
        peer = (await agent.clusters.GetCluster(request, timeout=TIMEOUT_S)).cluster.peer
        listed = await meshctl(agent, "cluster", "list")
    assert (peer.stale_services, peer.held_services, peer.held_backends) == (2, 1, 3)
    assert peer.held_since.seconds == 1700000000
    assert "STALE" in listed.out.splitlines()[0]
    assert "2 (1 held " in listed.out


async def test_who_confirms_is_told_what_was_let_go_and_the_log_says_who(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        fill(agent)
        with capture_logs() as logs:
            done = await meshctl(agent, "clustermesh", "confirm", "cm-2")
        again = await meshctl(agent, "clustermesh", "confirm", "cm-2")
        unknown = await meshctl(agent, "clustermesh", "confirm", "cm-9")
    assert (done.status, done.out.splitlines()) == (
        0,
        [
            "galaxy/api: 1 backends, stale since 2023-11-14T22:14:20Z",
            "galaxy/web: 3 backends, held since 2023-11-14T22:13:20Z",
            "2 services of cm-2 let go on this node",
        ],
    )
    assert (again.status, again.out) == (0, "0 services of cm-2 let go on this node\n")
    assert (unknown.status, unknown.err) == (1, "meshctl: peer cm-9 does not exist\n")
    (told,) = [line for line in logs if line["event"] == "removals confirmed"]
    assert (told["cluster"], told["services"], told["role"]) == ("cm-2", 2, "admin")


async def test_a_backend_that_only_stands_is_stale(tmp_path: Path) -> None:
    backend = Backend(parse_address("10.2.0.1"), (BackendPort("", Protocol.TCP, 80),))
    source = "cluster:cm-2"
    parts = [
        BackendSlice(WEB, "a", source, "cm-2", (backend,), stale_since_s=1700000000.0, held=True),
        BackendSlice(API, "a", source, "cm-2", (backend,)),
    ]
    async with serving(tmp_path) as agent:
        agent.mesh.replace(source, parts)
        found = await agent.backends.ListBackends(backend_pb2.ListBackendsRequest(), timeout=TIMEOUT_S)
    assert {one.service: one.stale for one in found.backends} == {"web": True, "api": False}


def test_letting_go_is_for_those_who_operate() -> None:
    assert NEEDS["/meshd.v1.ClusterService/ConfirmRemovals"] is Role.OPERATE
