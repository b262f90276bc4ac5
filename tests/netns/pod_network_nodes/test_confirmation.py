"""Two outages, as probes see them: one that real connections contradict, and one that they confirm."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshd.kernel.netns import Netns
from tests.netns.pod_network_nodes.fabric import Fabric, FabricNode
from tests.netns.pod_network_nodes.test_probes import (
    VIP,
    Mesh,
    events,
    failovers,
    in_use,
    problems,
)
from tests.patience import patience

pytestmark = [pytest.mark.needs("etcd"), pytest.mark.needs("command:nft")]

CONFIRMED, CONTRADICTED = "node is confirmed to be down", "node does not answer, and its backends do"


@dataclass
class Client:
    """In a pod of ``mesh.here``, and in the cgroup of its agent. ``there``: of the other cluster's backend."""

    mesh: Mesh
    netns: Netns
    enter: Callable[[Path], AbstractContextManager[None]]
    listeners: list[socket.socket]
    made: list[socket.socket] = field(default_factory=list)

    def connect(self, address: str, port: int, times: int) -> list[socket.socket]:
        """Sockets that have begun to connect."""
        found = []
        with self.enter(self.mesh.here.agent.cgroup):
            for _ in range(times):
                made = self.netns.socket(socket.AF_INET, socket.SOCK_STREAM)
                made.setblocking(False)
                assert made.connect_ex((address, port)) == errno.EINPROGRESS
                found.append(made)
        self.made += found
        return found

    def accepted_there(self) -> int:
        """How many connections came to the other cluster's backend since this was asked."""
        count = 0
        while True:
            try:
                self.made.append(self.listeners[1].accept()[0])
            except BlockingIOError:
                return count
            count += 1


def listener(node: FabricNode) -> socket.socket:
    with Netns.open(node.agent.directory / f"{node.name}-backend") as pod:
        made = pod.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.bind(("", 8080))
    made.listen(1024)
    made.setblocking(False)
    return made


def closed(sockets: list[socket.socket]) -> int:
    """How many were ended by the kernel on somebody's wish."""
    found = 0
    for each in sockets:
        try:
            each.recv(1)
        except ConnectionAbortedError:
            found += 1
        except (BlockingIOError, OSError):
            continue
    return found


@pytest.fixture
def client(fabric: Fabric, inside: Callable[[Path], AbstractContextManager[None]]) -> Iterator[Client]:
    mesh = Mesh(fabric, "native", **{"meshd.io/close-on-failover": "true"})
    path, _ = mesh.here.add("client")
    with ExitStack() as left, Netns.open(path) as netns:
        listeners = [left.enter_context(listener(node)) for node in (mesh.here, mesh.there)]
        made = Client(mesh, netns, inside, listeners)
        yield made
        for each in made.made:
            each.close()


def is_established(made: socket.socket) -> bool:
    return made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01"


def test_an_outage_closes_connections_only_when_connections_confirm_it(client: Client) -> None:
    mesh, here = client.mesh, client.mesh.here
    made = client.connect(VIP, 80, 24)
    there = 0

    def all_accepted() -> bool:
        nonlocal there
        there += client.accepted_there()
        return all(is_established(each) for each in made)

    here.agent.wait(all_accepted)
    there += client.accepted_there()
    assert there > 0

    # Only probes are lost, and pods are reached.
    mesh.cut((here, mesh.there), only="tcp dport 4240")

    def is_contradicted() -> bool:
        client.connect(mesh.backends[1], 8080, 1)
        client.accepted_there()
        return bool(events(here, CONTRADICTED))

    here.agent.wait(is_contradicted)
    here.agent.wait(lambda: in_use(here) == 1)
    assert "its backends do answer, so no connection is closed for it" in problems(here)
    # For as long as would be enough to confirm it.
    end = time.monotonic() + patience(1.5)
    while time.monotonic() < end:
        is_contradicted()
        time.sleep(0.05)
    assert (closed(made), events(here, CONFIRMED)) == (0, [])
    mesh.cut()
    here.agent.wait(lambda: in_use(here) == 2)
    assert "does not answer" not in problems(here)

    mesh.cut((here, mesh.there), (mesh.there, here))
    begun, hanging = time.time(), client.connect(VIP, 80, 24)
    here.agent.wait(lambda: bool(events(here, CONFIRMED)))
    gone = lost = 0

    def are_closed() -> bool:
        nonlocal gone, lost
        gone, lost = gone + closed(made), lost + closed(hanging)
        return gone >= there and lost >= failovers(here)[-1].unanswered > 0

    here.agent.wait(are_closed)
    assert gone == there
    # Who is at the other backend stays there.
    assert sum(is_established(each) for each in made) == len(made) - there > 0
    first, second = failovers(here)
    assert first.HasField("ended")
    assert second.unanswered == lost
    assert f"connects: {lost} unanswered, 0 answered" in problems(here)
    assert begun < second.last_connection.ToNanoseconds() / 1e9 < time.time()
    assert (len(events(here, CONFIRMED)), len(events(here, CONTRADICTED))) == (1, 1)
