"""What every system call of the machine costs more while somebody is selected: tracepoints look for calls of splice() then,
and the kernel enters all calls by a slower way.

Measured with an agent whose only pod comes and goes, before there is any other that has tracepoints.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from meshd.bench.agents import Agent
from meshd.bench.path_meshd import MeshNode
from meshd.bench.path_network import Network
from meshd.bench.path_probes import End, Placement, calls
from meshd.bench.path_results import ONE
from meshd.bench.places import BenchError
from meshd.bench.progress import Progress
from meshd.bench.report import Row, row
from meshd.lab import cni
from meshd.lab.cni import Container

# The agent's, as it pins it.
LINK = "short_circuit_splice"
WITH, WITHOUT = "somebody selected", "nobody selected"
METRIC, UNIT = "getppid()", "ns"
TIMEOUT_S, _LOOK_EVERY_S = 10.0, 0.02
# The kernel goes on calling for a tenth of a second or so after nobody holds the link any more.
SETTLE_S = 0.5
# The least of so many is what a call takes when nobody comes in between.
SLICES = 3


def measure(network: Network, rounds: int, seconds: float, progress: Progress) -> Iterator[Row]:
    """A figure for both states. None, and a word of it, where the agent attaches no tracepoint."""
    progress.step("system calls, with a tracepoint and without")
    placement = Placement.chosen()[0]
    found: dict[str, list[float]] = {WITHOUT: [], WITH: []}
    with contextlib.ExitStack() as stack:
        options: dict[str, object] = {"shortCircuit": {"default": True, "watchS": 0}}
        node = MeshNode(network, stack, network.node("calls"), options)
        netns = network.namespace("pod of calls")
        end = network.end(node.node, node.node.netns, 1, "127.0.0.1")
        path = Path(f"/proc/{os.getpid()}/fd/{netns.fd}")
        pod = Container("calls-1", netns=path, namespace="bench", name="pod-1")
        try:
            for _ in range(rounds):
                _wait(node.agent, attached=False)
                found[WITHOUT].append(_least(end, placement, seconds))
                cni.add(node.socket, pod)
                _wait(node.agent, attached=True)
                found[WITH].append(_least(end, placement, seconds))
                cni.delete(node.socket, pod)
        except BenchError as error:
            progress.step(f"no figure for system calls: {error}")
            return
    yield row(WITHOUT, ONE, METRIC, UNIT, values=found[WITHOUT])
    yield row(WITH, ONE, METRIC, UNIT, values=found[WITH], baseline=found[WITHOUT])


def _least(end: End, placement: Placement, seconds: float) -> float:
    time.sleep(SETTLE_S)
    return min(calls(end, end, placement, seconds)[0] for _ in range(SLICES))


def _wait(agent: Agent, *, attached: bool) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while agent.has_pinned(LINK) != attached:
        if time.monotonic() > deadline:
            what = "attached no tracepoint" if attached else "did not take its tracepoint off"
            raise BenchError(f"the agent {what} within {TIMEOUT_S:g} s")
        time.sleep(_LOOK_EVERY_S)
