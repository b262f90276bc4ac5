"""A backend falls silent while no agent is there: the hooks leave it alone for a while, if only somebody else answers."""

from __future__ import annotations

import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable

import pytest

from meshd.kernel.netns import Netns
from tests.netns.agent.agent_node import PORT, VIP, AgentNode, endpoint_slice, lines, service
from tests.netns.agent.test_restart import settled
from tests.patience import patience

pytestmark = pytest.mark.needs("command:nft")

BACKENDS = ("127.0.0.11", "127.0.0.12")
SILENT = BACKENDS[1]
# bpf/lib/absence.h: after so long without a beat the agent is missed.
ABSENT_S = 1.0
# One of two backends is drawn: so it is asked three times but once in 50000 tries.
ENOUGH = 24


def silence(netns: Netns, *addresses: str) -> None:
    """Nothing that is sent to ``addresses`` arrives, and everything else does."""
    rules = "".join(f"ip daddr {address} drop\n" for address in addresses)
    chain = f"chain input {{\ntype filter hook input priority 0\n{rules}}}\n"
    script = f"table ip silent\ndelete table ip silent\ntable ip silent {{\n{chain}}}\n"
    netns.run(lambda: subprocess.run(["nft", "-f", "-"], input=script.encode(), check=True))


def asked(node: AgentNode, inside: Callable[..., object], times: int, timeout_s: float) -> Counter[str]:
    """Who answers ``times`` connections in a row; the empty string: nobody within the time."""
    found: Counter[str] = Counter()
    for _ in range(times):
        with inside(node.cgroup), node.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as client:  # type: ignore[attr-defined] # a context
            client.settimeout(timeout_s)
            try:
                client.connect((VIP, PORT))
                found[client.recv(64).decode()] += 1
            except TimeoutError:
                found[""] += 1
    return found


@pytest.fixture
def served(node: AgentNode) -> AgentNode:
    server = node.spawn("server.py", *BACKENDS)
    assert next(lines(server)) == "listening"
    node.write_service(*BACKENDS)
    node.start()
    node.wait(lambda: settled(node))
    return node


def test_without_an_agent_who_is_silent_is_left_alone(
    served: AgentNode, inside: Callable[..., object]
) -> None:
    served.kill()
    silence(served.netns, SILENT)
    time.sleep(ABSENT_S)
    at_first = asked(served, inside, ENOUGH, 0.05)
    # Three unanswered, the last for 300 ms.
    time.sleep(0.3)
    then = asked(served, inside, 40, patience(2))
    assert at_first[""] >= 3
    assert then == {BACKENDS[0]: 40}


def test_who_answers_again_is_used_again(served: AgentNode, inside: Callable[..., object]) -> None:
    served.kill()
    silence(served.netns, SILENT)
    time.sleep(ABSENT_S)
    asked(served, inside, ENOUGH, 0.05)
    time.sleep(0.3)
    assert asked(served, inside, 10, patience(2)) == {BACKENDS[0]: 10}
    silence(served.netns)
    # An agent that is back knows better than what its absence taught.
    served.start()
    served.wait(lambda: settled(served))
    assert set(asked(served, inside, 40, patience(2))) == set(BACKENDS)


def test_if_nobody_answers_the_choice_stays_as_it_was(
    served: AgentNode, inside: Callable[..., object]
) -> None:
    served.kill()
    silence(served.netns, *BACKENDS)
    time.sleep(ABSENT_S)
    assert asked(served, inside, 12, 0.05) == {"": 12}
    time.sleep(0.3)
    assert asked(served, inside, 4, 0.05) == {"": 4}
    silence(served.netns)
    # Both are avoided still, and serve.
    assert "" not in asked(served, inside, 40, patience(2))


def test_a_client_that_is_kept_at_its_backend_is_kept_at_another_one(
    node: AgentNode, inside: Callable[..., object]
) -> None:
    three = (*BACKENDS, "127.0.0.13")
    assert next(lines(node.spawn("server.py", *three))) == "listening"
    sticky = service("default", VIP)
    sticky["spec"]["sessionAffinity"] = "ClientIP"  # type: ignore[index] # a dict
    node.write("default", sticky, endpoint_slice("default", *three))
    node.start()
    node.wait(lambda: settled(node))
    (first,) = asked(node, inside, 4, patience(2))
    node.kill()
    silence(node.netns, first)
    time.sleep(ABSENT_S)
    assert asked(node, inside, 3, 0.05) == {"": 3}
    time.sleep(0.3)
    then = asked(node, inside, 20, patience(2))
    assert list(then.values()) == [20]
    assert first not in then


def test_with_an_agent_the_hooks_judge_nobody(served: AgentNode, inside: Callable[..., object]) -> None:
    silence(served.netns, SILENT)
    asked(served, inside, ENOUGH, 0.05)
    time.sleep(0.3)
    assert asked(served, inside, 30, 0.05)[""] >= 5
