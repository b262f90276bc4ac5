"""What the hooks note of connections while an agent is there: of services that other clusters serve, of no others."""

from __future__ import annotations

import socket
import subprocess

import pytest

from meshd.dataplane.attempts import Attempts
from meshd.dataplane.layouts import AttemptsRow
from meshd.model import Node as ModelNode
from tests.netns.dataplane.node import (
    BACKENDS4,
    VIP4,
    VIP6,
    Node,
    backend,
    backends,
    service,
    serving,
)

pytestmark = pytest.mark.needs("command:nft")

HERE, THERE, _ = BACKENDS4
SOURCE = "cluster:cm-2"


def silence(node: Node, address: str) -> None:
    """Nothing that is sent to ``address`` arrives."""
    family = "ip6" if ":" in address else "ip"
    rule = f"{family} daddr {address} drop"
    script = f"table inet silent {{\nchain input {{\ntype filter hook input priority 0\n{rule}\n}}\n}}\n"
    node.netns.run(lambda: subprocess.run(["nft", "-f", "-"], input=script.encode(), check=True))


def give_up(node: Node, address: str) -> None:
    with node.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as made:
        made.settimeout(0.02)
        with pytest.raises(TimeoutError):
            made.connect((address, 80))


def noted(attempts: Attempts) -> AttemptsRow | None:
    """Of the only backend of the node."""
    ((_, found),) = attempts.of("cm-2", "n9").items()
    return found


@pytest.mark.parametrize(("vip", "there"), [(VIP4, THERE), (VIP6, "fd00::12")])
async def test_connections_to_another_cluster_are_noted_while_the_agent_is_there(
    node: Node, vip: str, there: str
) -> None:
    with serving(node, there):
        async with node.agent() as dataplane:
            at_n9 = ModelNode("cm-2", "n9", SOURCE, extra=(backend(there).address,))
            node.mesh.replace(SOURCE, [at_n9, backends(backend(there), source=SOURCE, cluster="cm-2")])
            node.mesh.replace("manifests", [service(is_global=True)])
            await node.settle()
            attempts = Attempts(node.mesh, dataplane.layouts, dataplane.opened.loaded.maps["attempts"])
            assert noted(attempts) is None
            for _ in range(3):
                assert node.ask(vip) == there
            found = noted(attempts)
            assert found is not None
            assert (found.begun, found.answered, found.unanswered) == (3, 3, 0)
            assert 0 < found.last_ns < found.answered_ns
            silence(node, there)
            for _ in range(4):
                give_up(node, vip)
            after = noted(attempts)
            assert after is not None
            assert (after.begun, after.answered, after.unanswered) == (7, 3, 4)
            assert after.answered_ns == found.answered_ns < after.last_ns
            # It judges nobody: the agent does.
            assert dataplane.events()["avoided"] == 0


async def test_of_a_service_that_only_this_cluster_serves_nothing_is_noted(node: Node) -> None:
    with serving(node, HERE):
        async with node.agent() as dataplane:
            node.mesh.replace("manifests", [service(), backends(backend(HERE))])
            await node.settle()
            assert node.ask(VIP4) == HERE
            assert dict(dataplane.opened.loaded.maps["attempts"].items()) == {}
