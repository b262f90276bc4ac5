"""What users see of the short circuit on a node with an agent, and how they switch it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from build_backend import cni_shim
from meshd.dataplane.short_circuit import rows
from tests.netns.cni.node import CniNode
from tests.netns.short_circuit.test_agent import SELECTED, entries, talk
from tests.patience import patience, wait_until


@pytest.fixture(scope="module", autouse=True)
def shim() -> None:
    cni_shim.build()


@pytest.fixture
def node(tmp_path: Path, unique_name: str) -> Iterator[CniNode]:
    """A node on which every workload is selected; its agent does not run yet."""
    made = CniNode(tmp_path / "node", unique_name)
    made.agent.options |= {"auditIntervalS": patience(0.2), "shortCircuit": SELECTED}
    try:
        yield made
    finally:
        made.close()


def meshctl(node: CniNode, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`meshctl short-circuit` on the node."""
    command = [sys.executable, "-m", "meshd.ctl.main", "short-circuit", *arguments]
    environment = os.environ | {"MESHD_SOCKET": f"{node.agent.directory}/run/meshd.sock"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def asked(node: CniNode, *arguments: str) -> Any:  # Any: JSON
    """What it answers to programs."""
    done = meshctl(node, *arguments, "-o", "json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def figures(node: CniNode) -> dict[str, float]:
    """Of the short circuit, by name and labels."""
    status = node.agent.status()
    assert status is not None
    return {
        " ".join([one.name, *(one.labels[label] for label in sorted(one.labels))]): one.value
        for one in status.figures
        if one.name.startswith("short_circuit")
    }


def warnings(node: CniNode) -> list[str]:
    """What the agent's status warns of."""
    status = node.agent.status()
    assert status is not None
    return list(status.warnings)


def test_a_connection_is_seen_with_its_workloads_and_what_it_hands_over(node: CniNode) -> None:
    node.start()
    with talk(node) as running:
        running.goes_on()
        wait_until(lambda: bool(asked(node, "list")["connections"]), 30)
        (found,) = asked(node, "list", "one")["connections"]
        assert {found["first"]["workload"], found["second"]["workload"]} == {"default/one", "default/two"}
        assert asked(node, "list", "three")["connections"] == []
        wait_until(lambda: sent(node)[0] > 100, 30)
        state = asked(node, "status")
        assert (state["on"], state["reasons"], state["connections"], state["leaving"]) == (True, [], 1, 0)
        # Two addresses a pod.
        assert state["selected"] >= 4
        assert int(state["outcomes"]["admitted"]) == 1
        seen = figures(node)
        assert (seen["short_circuit_on"], seen["short_circuit_connections handing_over"]) == (1, 1)
        assert seen["short_circuit_messages handed_over"] > 100
        for pair in ("default/one default/two", "default/two default/one"):
            assert seen[f"short_circuit_pair_bytes {pair} handed_over"] > 100 * 50
    wait_until(lambda: not asked(node, "list")["connections"])
    (pair,) = asked(node, "pairs")["pairs"]
    assert (pair["open"], pair["closed"]) == ("0", "1")
    for end in ("first", "second"):
        # Each message was answered by one of its size; some of both went on TCP before they met.
        assert total(pair[end]["sent"]) == pytest.approx(running.rounds * 100, rel=0.5)
        assert int(pair[end]["sent"]["messages"]) > 100
    after = figures(node)
    assert after["short_circuit_bytes handed_over"] >= seen["short_circuit_bytes handed_over"]


def test_the_switch_acts_on_live_connections_and_outlives_the_agent(node: CniNode) -> None:
    node.start()
    with talk(node) as running:
        wait_until(lambda: sent(node)[0] > 100, 30)
        off = meshctl(node, "off")
        assert (off.returncode, off.stdout) == (
            0,
            "short circuit: off: it was switched off on this node\n",
        ), off.stderr
        wait_until(lambda: not asked(node, "list")["connections"], 30)
        before = sent(node)[0]
        running.goes_on()
        assert sent(node)[0] == before
        assert figures(node)["short_circuit_on"] == 0
        (told,) = [entry for entry in node.agent.log() if entry["event"] == "short circuit is to be switched"]
        assert (told["on"], told["of"], str(os.getuid()) in str(told["caller"])) == (False, "node", True)
        node.agent.kill()
        node.start()
        wait_until(lambda: asked(node, "status")["reasons"] == ["it was switched off on this node"], 30)
        assert (asked(node, "status")["on"], sent(node)[0]) == (False, before)
        assert meshctl(node, "on").stdout == "short circuit: on\n"
        wait_until(lambda: sent(node)[0] > before + 100, 30)


def test_a_switch_that_cannot_be_kept_says_so_and_what_holds(node: CniNode) -> None:
    node.start()
    wait_until(lambda: bool(asked(node, "status")["on"]), 30)
    (node.agent.directory / "state" / "short-circuit.new").mkdir()
    done = meshctl(node, "off")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the short circuit is off now, but that could not be written to" in done.stderr
    assert not asked(node, "status")["on"]
    node.agent.kill()
    node.start()
    wait_until(lambda: bool(asked(node, "status")["on"]), 30)


def test_where_it_is_disabled_the_status_says_by_whom(node: CniNode) -> None:
    node.agent.options["shortCircuit"] = SELECTED | {"enabled": False}
    node.start()
    state = asked(node, "status")
    assert (state["on"], state["reasons"]) == (
        False,
        ["the configuration has it disabled (shortCircuit.enabled)"],
    )
    # What is said now holds once it is enabled.
    assert meshctl(node, "off").returncode == 0
    assert asked(node, "status")["nodeOn"] is False
    assert not any("short circuit" in one for one in warnings(node))


def test_without_an_etcd_the_cluster_cannot_be_told(node: CniNode) -> None:
    node.start()
    done = meshctl(node, "off", "--cluster")
    assert (done.returncode, "no etcd is configured (clustermesh.etcd)" in done.stderr) == (1, True)
    assert asked(node, "status")["clusterOn"] is True


def test_a_workload_that_splices_is_named_with_what_it_did(node: CniNode) -> None:
    node.start()
    with talk(node) as running:
        wait_until(lambda: sent(node)[0] > 100, 30)
        running.end()
        reader, writer = os.pipe()
        try:
            running.near.sendall(b"spliced")
            wait_until(lambda: spliced(running.far.fileno(), writer), 30)
        finally:
            os.close(reader)
            os.close(writer)
        wait_until(lambda: bool(asked(node, "status")["excluded"]), 30)
        (found,) = asked(node, "status")["excluded"]
        assert (found["workload"], found["what"], found["process"]) == ("default/two", "splices", os.getpid())
        expected = (
            "connections of default/two stay on TCP, not on the short circuit: "
            f"its process {os.getpid()} splices"
        )
        assert expected in warnings(node)
        assert figures(node)["short_circuit_excluded_workloads"] == 1


def test_of_pods_that_are_gone_nothing_is_kept_but_the_sums(node: CniNode) -> None:
    node.start()
    with talk(node) as running:
        wait_until(lambda: sent(node)[0] > 100, 30)
    wait_until(lambda: not asked(node, "list")["connections"])
    before = sent(node)
    assert (entries(node, rows.WATCHES), entries(node, rows.TOTALS)) == (2, 1)
    assert node.ask("DEL", "two", node.agent.directory / f"{node.name}-two").status == 0
    wait_until(lambda: (entries(node, rows.WATCHES), entries(node, rows.TOTALS)) == (1, 0), 30)
    assert asked(node, "pairs")["pairs"] == []
    assert sent(node) == before
    assert running.rounds > 0


def spliced(socket: int, pipe: int) -> bool:
    """Whether the call moved something; it is seen either way."""
    try:
        return os.splice(socket, pipe, 100, flags=2) > 0  # SPLICE_F_NONBLOCK
    except BlockingIOError:
        return True


def sent(node: CniNode) -> tuple[int, int]:
    """Messages of all connections that ever were: handed over, and on TCP."""
    found = asked(node, "status")["sent"]
    return int(found["messages"]), int(found["tcpMessages"])


def total(of: dict[str, str]) -> int:
    """Bytes of an end, whichever way."""
    return int(of["bytes"]) + int(of["tcpBytes"])
