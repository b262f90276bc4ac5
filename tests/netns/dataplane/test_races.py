"""The agent writes a row again and again while a client on another CPU reads it: nobody is refused or passed over."""

from __future__ import annotations

import multiprocessing
import socket
from collections import Counter

import pytest

from meshd.config import Maps
from meshd.model import Frontend, Protocol, Service, ServiceName, parse_address
from tests.netns.dataplane.node import BACKENDS4, VIP4, Node, backend, backends, service

# Before the hooks read an empty list twice, 14 of a million were refused.
CONNECTS = 600_000


def connect_again_and_again(
    client: socket.socket, outcomes: multiprocessing.SimpleQueue[Counter[int]]
) -> None:
    """Outcomes by errno; 0: connected."""
    found: Counter[int] = Counter()
    for _ in range(CONNECTS):
        found[client.connect_ex((VIP4, 53))] += 1
    outcomes.put(found)


@pytest.mark.parametrize("size", [65536, 8])
async def test_a_frontend_that_is_written_without_pause_refuses_nobody(node: Node, size: int) -> None:
    frontend = Frontend(parse_address("10.96.0.99"), 53, Protocol.UDP, "dns")
    empty = Service(ServiceName("default", "empty"), "manifests", (frontend,))
    async with node.agent(maps=Maps(frontends=size)) as dataplane:
        node.mesh.replace("manifests", [service(), backends(*map(backend, BACKENDS4)), empty])
        await node.settle()
        frontends = dataplane.maps["frontends"]
        rows = dict(frontends.items())
        fork = multiprocessing.get_context("fork")
        outcomes: multiprocessing.SimpleQueue[Counter[int]] = fork.SimpleQueue()
        client = node.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(None)
        process = fork.Process(target=connect_again_and_again, args=(client, outcomes))
        process.start()
        while process.is_alive() and outcomes.empty():
            frontends.update_batch(rows)
        assert outcomes.get() == {0: CONNECTS}
        process.join()
        assert dataplane.events()["translated"] == CONNECTS
