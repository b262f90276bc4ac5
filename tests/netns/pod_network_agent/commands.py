"""What an operator asks of a node's pod network."""

from __future__ import annotations

import subprocess
import sys

from meshd.api.v1 import metrics_pb2
from meshd.api.v1.metrics_pb2_grpc import MetricsServiceStub
from tests.netns.cni.node import CniNode
from tests.patience import patience


def cleanup(node: CniNode, *options: str) -> tuple[int, str]:
    """Runs `meshd cleanup` on the node; its status and what it said."""
    configuration = str(node.agent.configuration())
    command = [sys.executable, "-m", "meshd.agent", "cleanup", "--config", configuration, *options]
    done = node.netns.run(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    return done.returncode, done.stdout + done.stderr


def drops(node: CniNode) -> dict[tuple[str, str], int]:
    """Reason and direction -> packets, as the agent tells."""
    with node.agent.channel() as channel:
        answer = MetricsServiceStub(channel).ListDrops(metrics_pb2.ListDropsRequest(), timeout=patience(5))
    return {(one.reason, one.direction): one.packets for one in answer.drops}
