"""The short circuit as callers see it, and the switch."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from meshd.api.v1 import short_circuit_pb2
from meshd.errors import ClusterNotTold, IntentNotKept, MeshError, NoClusterStore
from meshd.model import parse_address
from meshd.servers.control.callers import NEEDS, Role
from meshd.servers.short_circuit import Agreement, Connection, End, Excluded, Pair, Sent, State, Word
from tests.fakes.agent import serving
from tests.unit.ctl.running import meshctl

TIMEOUT_S = 20.0
MUCH = Sent(3 << 20, 900, 4096, 7, {"unread": 2, "queue_bytes": 5})
LITTLE = Sent(12, 1)


def end(number: int, port: int = 0, sent: Sent = LITTLE) -> End:
    return End(parse_address(f"10.1.0.{number}"), port, f"default/pod-{number}", sent)


def connection(number: int, leaves: str = "") -> Connection:
    return Connection(end(1, 40000 + number, MUCH), end(2 + number % 2, 80), 1700000000.0, leaves=leaves)


async def test_the_state_is_shown_with_what_is_left_out_and_why(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.short_circuit.now = State(
            on=False,
            reasons=("it was switched off on this node", "it was switched off in the cluster"),
            node_on=False,
            cluster_on=False,
            selected=4,
            connections=3,
            leaving=1,
            excluded=(Excluded("default/proxy", "splices", 4711), Excluded("", "tees", 12)),
            outcomes={"admitted": 5, "blocking": 9},
            sent=MUCH,
        )
        shown = await meshctl(agent, "short-circuit", "status")
        asked = short_circuit_pb2.GetShortCircuitRequest()
        found = await agent.short_circuits.GetShortCircuit(asked, timeout=TIMEOUT_S)
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.splitlines() == [
        "short circuit: off: it was switched off on this node; it was switched off in the cluster",
        "4 addresses are selected; 3 connections, 1 of them leaving; "
        "handed over 3 MiB/900, on TCP 4 KiB/7 (bytes/messages)",
        "! default/proxy stays on TCP: its process 4711 splices",
        "! a workload that is gone stays on TCP: its process 12 tees",
        "",
        "OUTCOME   COUNT",
        "blocking  9",
        "admitted  5",
        "",
        "WHY ON TCP   COUNT",
        "queue_bytes  5",
        "unread       2",
    ]
    assert (found.node_on, found.cluster_on, dict(found.sent.causes)) == (
        False,
        False,
        {"unread": 2, "queue_bytes": 5},
    )


async def test_connections_come_in_pages_each_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.short_circuit.connections = {
            bytes([number, 7]): connection(number) for number in range(10)
        }
        ports, pages, token = [], 0, ""
        while True:
            asked = short_circuit_pb2.ListShortCircuitsRequest(page_size=4, page_token=token)
            answer = await agent.short_circuits.ListShortCircuits(asked, timeout=TIMEOUT_S)
            ports += [one.first.port for one in answer.connections]
            pages, token = pages + 1, answer.next_page_token
            if not token:
                break
    assert (ports, pages) == ([40000 + number for number in range(10)], 3)


async def test_a_connection_is_shown_with_both_ends_and_why_it_leaves(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.short_circuit.connections = {b"a": connection(0), b"b": connection(1, "blocking")}
        lines = (await meshctl(agent, "short-circuit", "list", "-o", "wide")).out.splitlines()
        of_pod = (await meshctl(agent, "short-circuit", "list", "pod-3")).out.splitlines()
        found = json.loads((await meshctl(agent, "short-circuit", "list", "-o", "json")).out)["connections"]
    assert "default/pod-1 10.1.0.1:40000  default/pod-2 10.1.0.2:80  3 MiB/900 -> <- 12 B/1" in lines[1]
    assert "queue_bytes=5,unread=2 -> <- -" in lines[1]
    assert "leaving: blocking" in lines[2]
    assert (len(of_pod), "pod-3" in of_pod[1]) == (2, True)
    assert (found[0]["first"]["sent"]["tcpMessages"], found[1]["leaves"]) == ("7", "blocking")


async def test_pairs_are_shown_with_the_connections_that_are_over(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.short_circuit.known = [
            Pair(end(number), end(number + 1, sent=MUCH), open=1, closed=number) for number in (3, 1, 2)
        ]
        found = json.loads((await meshctl(agent, "short-circuit", "pairs", "-o", "json")).out)["pairs"]
        table = (await meshctl(agent, "short-circuit", "pairs")).out.splitlines()
    assert [(one["first"]["workload"], one["closed"]) for one in found] == [
        ("default/pod-1", "1"),
        ("default/pod-2", "2"),
        ("default/pod-3", "3"),
    ]
    assert table[1].split()[:6] == ["default/pod-1", "10.1.0.1", "default/pod-2", "10.1.0.2", "1", "1"]


async def test_the_switch_of_the_node_says_what_holds_and_the_log_says_who(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        with capture_logs() as logs:
            off = await meshctl(agent, "short-circuit", "off")
            on = await meshctl(agent, "short-circuit", "on")
        asked = agent.dataplane.short_circuit.asked
    assert (off.status, off.out) == (0, "short circuit: off: it was switched off on this node\n")
    assert (on.status, on.out) == (0, "short circuit: on\n")
    assert asked == [("node", False), ("node", True)]
    told = [entry for entry in logs if entry["event"] == "short circuit is to be switched"]
    assert [(entry["on"], entry["of"], entry["role"]) for entry in told] == [
        (False, "node", "admin"),
        (True, "node", "admin"),
    ]
    assert all(entry["caller"] for entry in told)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (IntentNotKept("/var/lib/x.json", "No space left on device", on=False), grpc.StatusCode.INTERNAL),
        (NoClusterStore("short circuit"), grpc.StatusCode.FAILED_PRECONDITION),
        (ClusterNotTold("refused"), grpc.StatusCode.ABORTED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, MeshError) else "",
)
async def test_a_switch_that_fails_says_what_holds(
    tmp_path: Path, error: MeshError, code: grpc.StatusCode
) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.short_circuit.refuses = error
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            request = short_circuit_pb2.SwitchShortCircuitRequest(cluster=True)
            await agent.short_circuits.SwitchShortCircuit(request, timeout=TIMEOUT_S)
        told = await meshctl(agent, "short-circuit", "off", "--cluster")
    assert (caught.value.code(), caught.value.details()) == (code, str(error))
    assert (told.status, told.out, told.err) == (1, "", f"meshctl: {error}\n")


async def test_the_cluster_is_waited_for_and_who_is_missing_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        fake = agent.dataplane.short_circuit
        fake.agreement = Agreement([Word("n1", on=False), Word("n2", on=False)], ["n3"])
        some = await meshctl(agent, "--timeout", "7", "short-circuit", "off", "--cluster")
        patience_s = fake.patience_s
        fake.agreement = Agreement(
            [Word("n1", on=True), Word("n2", on=False, reason="it was switched off on this node")]
        )
        all_of_them = await meshctl(agent, "short-circuit", "on", "--cluster")
        disobedient = await meshctl(agent, "short-circuit", "off", "--cluster")
        fake.agreement = Agreement([Word("n1", on=True)], superseded=True)
        other = await meshctl(agent, "short-circuit", "on", "--cluster")
    assert [line.split(maxsplit=2) for line in some.out.splitlines()[1:]] == [
        ["n1", "off", "-"],
        ["n2", "off", "-"],
        ["n3", "unreachable", "has not given its word"],
    ]
    assert patience_s is not None
    assert 0 < patience_s < 7
    assert "it was switched off on this node" in all_of_them.out
    assert "switched the cluster again" in other.out
    assert (some.status, all_of_them.status, disobedient.status, other.status) == (1, 0, 1, 1)


def test_who_may_only_read_cannot_switch() -> None:
    needs = {name.rpartition("/")[2]: role for name, role in NEEDS.items() if "ShortCircuit" in name}
    assert needs == {
        "GetShortCircuit": Role.READ,
        "ListShortCircuits": Role.READ,
        "ListShortCircuitPairs": Role.READ,
        "SwitchShortCircuit": Role.OPERATE,
    }
