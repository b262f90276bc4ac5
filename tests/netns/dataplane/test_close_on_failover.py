"""A confirmed outage closes connections of services that ask for it; nobody else's, and nothing else does."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.socket_closer import Because
from meshd.model import Frontend, OnStale, Outage, Protocol, Service, ServiceName, parse_address
from meshd.model import Node as ModelNode
from meshd.model.drill import Drill
from meshd.model.failover import parse_ladder
from meshd.model.outage import PROBES
from meshd.state import Mesh
from tests.netns.dataplane.node import (
    BACKENDS4,
    NAME,
    VIP4,
    Node,
    backend,
    backends,
    service,
)
from tests.netns.dataplane.test_drill import planned
from tests.netns.dataplane.test_socket_closer import destroyed, is_open

HERE, THERE, ALSO_THERE = BACKENDS4
SOURCE = "cluster:cm-2"
OTHER_VIP = "10.96.0.99"
# asm-generic/socket.h, which Python does not name.
SO_COOKIE = 57
CLOSED = {
    ("default/rebel-base", "tcp", Because.FAILOVER): 1,
    ("default/rebel-base", "udp", Because.FAILOVER): 1,
}


class Site:
    """``rebel-base``, which asks for closing, and ``other``, which does not; each has backends in two clusters."""

    def __init__(self, node: Node, dataplane: Dataplane) -> None:
        self.node = node
        self.dataplane = dataplane
        self.outage = Outage("cm-2", "n9", time.time(), "it does not answer probes", silent_s=0.6)

    @staticmethod
    def fill(mesh: Mesh, **facts: object) -> None:
        ports = ((80, Protocol.TCP, "http"), (53, Protocol.UDP, "dns"))
        frontends = tuple(Frontend(parse_address(OTHER_VIP), *each) for each in ports)
        other = Service(ServiceName("default", "other"), "manifests", frontends, is_global=True)
        there = backends(backend(THERE), source=SOURCE, cluster="cm-2")
        node = ModelNode("cm-2", "n9", SOURCE, pod_cidrs=(f"{THERE}/32",))
        mesh.replace(SOURCE, [node, there, replace(there, service=other.name)])
        here = backends(backend(HERE))
        asks = service(is_global=True, close_on_failover=True, **facts)
        mesh.replace("manifests", [asks, other, here, replace(here, service=other.name)])
        # What was restored stands: nobody was asked yet.
        mesh.replace(PROBES, list(mesh.outages.values()))

    async def say(self, **facts: object) -> None:
        """The kernel follows the outage, with these ``facts``, and the closer has looked at everything since."""
        self.outage = replace(self.outage, **facts)  # type: ignore[arg-type] # fields of all types
        await self.node.settle(self.node.mesh.apply(PROBES, [self.outage]))
        await looked_at_all(self.dataplane)

    def connected(self, vip: str, kind: int) -> socket.socket:
        """A socket that was sent to the other cluster's backend."""
        port = 80 if kind == socket.SOCK_STREAM else 53
        while True:
            made = self.node.connect(vip, port, kind)
            connections = self.dataplane.opened.loaded.maps["connections"]
            row = connections.lookup(made.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))
            assert row is not None
            record = self.dataplane.layouts.connection.decode(row)
            if record.backend.address == parse_address(THERE):
                return made
            made.close()

    def all_connected(self) -> list[socket.socket]:
        """TCP and UDP of the service that asks, then of the other."""
        kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        return [self.connected(vip, kind) for vip in (VIP4, OTHER_VIP) for kind in kinds]


async def looked_at_all(dataplane: Dataplane) -> None:
    rounds = dataplane.closer.rounds
    dataplane.closer.look_at_all()
    async with asyncio.timeout(5):
        while dataplane.closer.rounds == rounds:
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def listening(node: Node) -> Iterator[None]:
    """TCP servers that keep their connections; of UDP nobody is needed."""
    made = []
    for address in (HERE, THERE, ALSO_THERE):
        listener = node.open_socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind((address, 8080))
        listener.listen(64)
        made.append(listener)
    yield
    for each in made:
        each.close()


async def test_a_confirmed_outage_closes_tcp_and_udp_of_the_service_that_asks_and_counts_them(
    node: Node,
) -> None:
    async with node.agent() as dataplane:
        site = Site(node, dataplane)
        site.fill(node.mesh)
        await node.settle()
        made = site.all_connected()
        await site.say()
        assert [is_open(each) for each in made] == [True] * 4
        await site.say(confirmed=True)
        assert [is_open(each) for each in made] == [False, False, True, True]
        assert dataplane.closer.destroyed == CLOSED


async def test_what_was_confirmed_before_a_restart_is_done_after_it_and_only_once(node: Node) -> None:
    async with node.agent() as dataplane:
        site = Site(node, dataplane)
        site.fill(node.mesh)
        await node.settle()
        made = site.all_connected()
    # The agent died when it had written down that the outage is confirmed.
    node.mesh = Mesh()
    node.mesh.restore(PROBES, [replace(site.outage, confirmed=True)])
    for source in (SOURCE, "manifests"):
        node.mesh.listing(source)
    async with node.agent() as dataplane:
        site.fill(node.mesh)
        await destroyed(dataplane, 2)
        assert [is_open(each) for each in made] == [False, False, True, True]
        again = Site(node, dataplane)
        await again.say(confirmed=True)
        assert dataplane.closer.destroyed == CLOSED


async def test_where_nobody_else_serves_nothing_is_closed_until_somebody_does(node: Node) -> None:
    async with node.agent() as dataplane:
        site = Site(node, dataplane)
        site.fill(node.mesh)
        node.mesh.apply("manifests", [backends()])
        await node.settle()
        made = site.all_connected()
        await node.settle(node.mesh.apply(PROBES, [replace(site.outage, confirmed=True)]))
        await looked_at_all(dataplane)
        assert [is_open(each) for each in made] == [True] * 4
        node.mesh.apply("manifests", [backends(backend(HERE))])
        await destroyed(dataplane, 2)
        assert [is_open(each) for each in made] == [False, False, True, True]


@pytest.mark.parametrize("change", ["contradicted", "drill", "stale", "dropped", "preferred"])
async def test_what_is_not_confirmed_closes_nothing(node: Node, change: str) -> None:
    async with node.agent() as dataplane:
        site = Site(node, dataplane)
        site.fill(node.mesh, **({"on_stale": OnStale.DROP} if change == "dropped" else {}))
        await node.settle()
        made = site.all_connected()
        if change == "contradicted":
            await site.say(contradicted=True)
        elif change == "drill":
            dataplane.drills.begin(Drill("1", NAME, "cm-2", time.monotonic_ns() + 10**10))
            await planned(node)
        elif change in {"stale", "dropped"}:
            node.mesh.mark_stale(SOURCE, "etcd is out of reach")
            node.mesh.mark_overdue(SOURCE)
        else:
            laddered = node.mesh.service(NAME)
            assert laddered is not None
            node.mesh.apply("manifests", [replace(laddered, failover=parse_ladder("local, any"))])
        await node.settle()
        await looked_at_all(dataplane)
        assert [is_open(each) for each in made] == [True] * 4
        assert not dataplane.closer.destroyed
