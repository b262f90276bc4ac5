"""The packet that goes through a pod made for it before a container runtime may use the agent."""

from __future__ import annotations

import subprocess
import sys

from tests.netns.cni.node import CniNode

SCRIPT = """
import asyncio, sys
from pathlib import Path
from meshd.agent.round_trip import round_trip
from meshd.errors import RoundTripFailed
try:
    print(*asyncio.run(round_trip(Path(sys.argv[1]))))
except RoundTripFailed as error:
    print(error, file=sys.stderr)
"""


def round_trip(node: CniNode) -> tuple[str, str]:
    """The addresses that were reached, and what went wrong; on the node, as its agent does it."""
    command = [sys.executable, "-c", SCRIPT, str(node.socket)]
    done = node.netns.run(lambda: subprocess.run(command, capture_output=True, text=True, check=True))
    return done.stdout.strip(), done.stderr.strip()


def on_node(node: CniNode, *command: str) -> None:
    node.netns.run(lambda: subprocess.run(command, check=True))


def test_a_packet_comes_back_in_both_families_and_nothing_of_the_pod_stays(node: CniNode) -> None:
    assert round_trip(node) == ("10.77.1.1 fd77:0:0:1::1", "")
    node.agent.wait(lambda: node.links() == [])
    assert node.ask("STATUS").status == 0
    # Its addresses cool down as everybody's.
    assert node.add("one")[1].addresses == ["10.77.1.2", "fd77:0:0:1::2"]


def test_one_family_that_does_not_arrive_is_a_failure_that_names_it(node: CniNode) -> None:
    on_node(node, "ip", "-6", "rule", "add", "to", "fd77:0:0:1::/64", "prio", "0", "prohibit")
    on_node(node, "ip", "-6", "rule", "add", "from", "all", "lookup", "local", "prio", "1")
    on_node(node, "ip", "-6", "rule", "del", "prio", "0", "lookup", "local")
    _, said = round_trip(node)
    assert said.startswith("no packet makes the round trip through a new pod: a datagram to fd77:0:0:1::1")
    node.agent.wait(lambda: node.links() == [])


def test_a_pod_that_cannot_be_made_is_a_failure_in_the_plugins_words(node: CniNode) -> None:
    node.agent.kill()
    node.start(podCidrs=["10.78.0.0/32"], coolDownS=3600)
    node.add("one")
    _, said = round_trip(node)
    assert said.endswith("ADD: no address left in 10.78.0.0/32: 1 usable, 1 in use")


def test_nobody_who_listens_is_a_failure(node: CniNode) -> None:
    node.agent.kill()
    assert "ADD: the CNI plugin does not answer" in round_trip(node)[1]
