"""``meshctl failover plan`` and ``history`` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Cluster,
    Frontend,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from meshd.model.failover import parse_ladder
from meshd.model.failover_history import Cause, Failover, Move
from tests.fakes.agent import FakeAgent, serving
from tests.unit.ctl.running import WEB, meshctl

DB = ServiceName("default", "db")
LADDER = "cluster:cm-2, local capacity 80, any"


def slice_of(name: ServiceName, cluster: str, *addresses: str) -> BackendSlice:
    ports = (BackendPort("", Protocol.TCP, 80),)
    source = "manifests" if cluster == "cm-1" else f"cluster:{cluster}"
    backends = tuple(Backend(parse_address(each), ports, node="node-9") for each in addresses)
    return BackendSlice(name, "part", source, cluster, backends)


def fill(agent: FakeAgent) -> None:
    """``web`` has backends in both clusters, ``db`` in cm-2 only."""
    mesh = agent.mesh
    frontends = (Frontend(parse_address("10.96.0.1"), 80, Protocol.TCP),)
    web = Service(WEB, "manifests", frontends, is_global=True, failover=parse_ladder(LADDER))
    db = Service(DB, "manifests", (frontends[0]._replace(port=5432),), is_global=True)
    mesh.replace("manifests", [web, db, slice_of(WEB, "cm-1", "10.1.0.1")])
    remote = [slice_of(WEB, "cm-2", "10.2.0.1", "10.2.0.2"), slice_of(DB, "cm-2", "10.2.0.3")]
    mesh.replace("cluster:cm-2", remote)
    mesh.replace("clustermesh", [Cluster("cm-1", "clustermesh", local=True), Cluster("cm-2", "clustermesh")])


async def test_a_plan_is_a_table_that_ends_with_who_is_left_with_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        fill(agent)
        done = await meshctl(agent, "failover", "plan", "--lose", "cm-2")
        assert (done.status, done.err) == (0, "")
        assert done.out == (
            "SERVICE      CLUSTER  SHARE       BACKENDS  EACH  HEADROOM\n"
            "default/db   cm-2     100% -> 0%  1 -> 0    -     -\n"
            "             nobody\n"
            "default/web  cm-1     0% -> 100%  0 -> 1    -     +80% -> -20%\n"
            "             cm-2     100% -> 0%  2 -> 0    -     -\n"
            "\n"
            "without cm-2: services that lose backends: 2, left with nothing: 1\n"
            "! service default/db has no other backend that serves\n"
        )


async def test_a_plan_for_programs_has_all_of_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        fill(agent)
        done = await meshctl(agent, "failover", "plan", "--lose", "cm-2", "-o", "json")
        db, web = json.loads(done.out)["plans"]
        assert (db["service"], db["nothingLeft"], db["lost"]) == ("db", True, 1)
        assert [each["cluster"] for each in web["clusters"]] == ["cm-1", "cm-2"]
        taking = web["clusters"][0]["after"]
        assert (taking["share"], taking["backends"], taking["capacity"]) == (1.0, 1, 0.8)


async def test_nobody_there_is_said(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        fill(agent)
        done = await meshctl(agent, "failover", "plan", "--lose", "cm-2", "--zone", "z9")
        assert done.out == "without cm-2, zone z9: no service has a backend there, so nothing changes\n"


async def test_what_nobody_names_cannot_be_lost(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        fill(agent)
        for arguments, name in (
            (("cm-3",), "cluster cm-3"),
            (("cm-2", "--node", "node-8"), "node cm-2/node-8"),
        ):
            done = await meshctl(agent, "failover", "plan", "--lose", *arguments)
            assert done.status == 1
            assert name in done.err
        known = await meshctl(agent, "failover", "plan", "--lose", "cm-1", "--node", "node-9")
        assert "services that lose backends: 1, left with nothing: 0" in known.out


SILENT = Failover(
    "cm-2",
    Cause.SILENT,
    1_800_000_000.0,
    ("node-1", "node-2"),
    0.6124,
    0.0231,
    (
        Move(WEB, 0.0231, {"cm-1": 0.25, "cm-2": 0.75}, {"cm-1": 1.0}),
        Move(DB, 0.02, {"cm-2": 1.0}, {"cm-2": 1.0}),
    ),
    2,
    7,
    1_800_000_012.4,
    (),
    1_800_000_000.03125,
    23,
)
WITHDRAWN = Failover(
    "cm-2",
    Cause.WITHDRAWN,
    1_800_000_100.0,
    switch_s=0.004,
    moves=(Move(DB, 0.004, {"cm-2": 1.0}, {}),),
    moved=1,
    waiting=(DB,),
)


async def test_history_is_a_table_of_the_newest_first(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        done = await meshctl(agent, "failover", "history")
        assert done.out == "no failovers are remembered on this node\n"
        agent.dataplane.failovers = [SILENT, WITHDRAWN]
        done = await meshctl(agent, "failover", "history", "-o", "wide")
        assert (done.status, done.err) == (0, "")
        assert done.out.splitlines() == [
            "FOUND                 LOST            CAUSE      DETECTION  SWITCH  SERVICES        TAKEN OVER BY  "
            "LEFT OPEN  LAST CONNECTION           UNANSWERED  LASTED   SHARES",
            "2027-01-15T08:01:40Z  cm-2            withdrawn  -          4 ms    default/db      nobody         "
            "-          -                         -           goes on  cm-2=100% -> nobody",
            "2027-01-15T08:00:00Z  cm-2/node-1 +1  silent     612 ms     23 ms   default/web +1  cm-1           "
            "7          2027-01-15T08:00:00.031Z  23          12s      cm-1=25%,cm-2=75% -> cm-1=100%",
        ]


async def test_history_for_programs_says_what_is_not_known_by_leaving_it_out(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.failovers = [SILENT, WITHDRAWN]
        done = await meshctl(agent, "failover", "history", "-o", "json")
        second, first = json.loads(done.out)["failovers"]
        assert (first["cause"], first["connections"], first["nodes"]) == (
            "FAILOVER_CAUSE_SILENT",
            7,
            ["node-1", "node-2"],
        )
        assert (first["detectionSeconds"], first["ended"]) == (0.6124, "2027-01-15T08:00:12.400Z")
        assert first["moves"][0]["before"] == {"cm-1": 0.25, "cm-2": 0.75}
        assert (first["unanswered"], first["lastConnection"][:23]) == (23, "2027-01-15T08:00:00.031")
        absent = {"detectionSeconds", "connections", "ended", "lastConnection", "unanswered"}
        assert not absent & second.keys()
