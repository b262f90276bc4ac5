"""The short circuit of all nodes of a cluster is switched on one of them; nodes that are away are named, and do it later."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import grpc
import pytest

from meshd.api.v1 import short_circuit_pb2
from meshd.api.v1.short_circuit_pb2_grpc import ShortCircuitServiceStub
from tests.netns.pod_network_nodes.fabric import Fabric, FabricNode
from tests.patience import patience

pytestmark = pytest.mark.needs("etcd", "sk_msg_reads_sockets")
SWITCHED_OFF = "it was switched off in the cluster"


def switch(
    node: FabricNode, word: str, timeout_s: float
) -> tuple[int, dict[str, tuple[bool, str]], list[str]]:
    """`meshctl short-circuit on|off --cluster`: exit status, the nodes' words, and who is missing."""
    command = [sys.executable, "-m", "meshd.ctl.main", "--timeout", str(timeout_s), "short-circuit", word]
    environment = os.environ | {"MESHD_SOCKET": f"{node.agent.directory}/run/meshd.sock"}
    done = subprocess.run(
        [*command, "--cluster", "-o", "json"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    return (
        done.returncode,
        {one["node"]: (one["on"], one["reason"]) for one in said["nodes"]},
        said["missing"],
    )


def state(node: FabricNode) -> short_circuit_pb2.GetShortCircuitResponse | None:
    """What its agent says; None: it does not answer."""
    with node.agent.channel() as channel:
        request = short_circuit_pb2.GetShortCircuitRequest()
        try:
            return ShortCircuitServiceStub(channel).GetShortCircuit(request, timeout=patience(5))
        except grpc.RpcError:
            return None


def is_on(node: FabricNode) -> bool:
    """Whether messages may be handed over there."""
    found = state(node)
    return found is not None and found.on


def reasons(node: FabricNode) -> list[str]:
    """Why it is off there."""
    found = state(node)
    return list(found.reasons) if found is not None else []


def test_all_nodes_do_it_and_who_is_away_is_named_and_does_it_later(fabric: Fabric) -> None:
    first, second = fabric.node(1), fabric.node(2)
    for node in (first, second):
        node.start()
    first.agent.wait(lambda: first.knows("cm-1/n2") and is_on(first) and is_on(second))
    words = {"n1": (False, SWITCHED_OFF), "n2": (False, SWITCHED_OFF)}
    assert switch(first, "off", patience(20)) == (0, words, [])
    assert not is_on(first)
    assert not is_on(second)
    # What was said outlives the agent, also where etcd cannot be asked.
    second.agent.kill()
    fabric.etcd("cm-1").stop()
    second.start()
    second.agent.wait(lambda: reasons(second) == [SWITCHED_OFF])
    fabric.etcd("cm-1").start()
    second.agent.kill()
    status, said, missing = switch(first, "on", patience(5))
    assert (status, said, missing) == (1, {"n1": (True, "")}, ["n2"])
    second.start()
    second.agent.wait(lambda: is_on(second))
