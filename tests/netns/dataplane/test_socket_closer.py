"""Sockets whose backend went are closed; nobody else's are."""

from __future__ import annotations

import asyncio
import select
import socket
from dataclasses import replace

import pytest

from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.socket_closer import Because, Stale
from meshd.errors import RowsFailed
from meshd.model import Backend, Frontend, Protocol, Service, ServiceName, parse_address
from meshd.state import Mesh
from tests.netns.dataplane.node import (
    BACKENDS4,
    VIP4,
    VIP6,
    Node,
    Servers,
    backend,
    backends,
    service,
    serving,
)

GONE, STAYS = BACKENDS4[:2]
OTHER_VIP = "10.96.0.99"


async def destroyed(dataplane: Dataplane, count: int) -> None:
    async with asyncio.timeout(5):
        while dataplane.closer.destroyed.total() < count:
            await asyncio.sleep(0.001)


def is_open(made: socket.socket) -> bool:
    """Whether the socket has no pending error."""
    return made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


async def connected_to(node: Node, vip: str, address: str) -> socket.socket:
    """A UDP socket that connected to ``vip`` and was sent to ``address``."""
    while True:
        made = node.connect(vip, 53, socket.SOCK_DGRAM)
        made.send(b"?")
        if made.recv(64).split()[0].decode() == address:
            return made
        made.close()


@pytest.mark.parametrize("change", ["removed", "not ready"])
@pytest.mark.parametrize(("vip", "gone", "stays"), [(VIP4, GONE, STAYS), (VIP6, "fd00::11", "fd00::12")])
async def test_connected_udp_sockets_of_a_backend_that_went_are_destroyed_and_counted(
    node: Node, change: str, vip: str, gone: str, stays: str
) -> None:
    with serving(node, gone, stays):
        async with node.agent() as dataplane:
            node.mesh.replace("manifests", [service(), backends(backend(gone), backend(stays))])
            await node.settle()
            lost, kept = await connected_to(node, vip, gone), await connected_to(node, vip, stays)
            rest = [] if change == "removed" else [backend(gone, ready=False, serving=False)]
            node.mesh.apply("manifests", [backends(backend(stays), *rest)])
            await destroyed(dataplane, 1)
            with pytest.raises(ConnectionAbortedError):
                lost.recv(64)
            kept.send(b"?")
            assert kept.recv(64).split()[0].decode() == stays
            assert dataplane.closer.destroyed == {("default/rebel-base", "udp", Because.REMOVAL): 1}


async def test_a_backend_that_is_serving_while_it_ends_keeps_its_sockets(node: Node) -> None:
    with serving(node, GONE, STAYS):
        async with node.agent() as dataplane:
            node.mesh.replace("manifests", [service(), backends(backend(GONE), backend(STAYS))])
            await node.settle()
            lost = await connected_to(node, VIP4, GONE)
            ending = backend(GONE, ready=False, terminating=True)
            await node.settle(node.mesh.apply("manifests", [backends(backend(STAYS), ending)]))
            lost.send(b"?")
            assert lost.recv(64).split()[0].decode() == GONE
            await node.settle(node.mesh.apply("manifests", [backends(backend(STAYS))]))
            await destroyed(dataplane, 1)
            assert dataplane.closer.destroyed.total() == 1


async def test_a_socket_that_dialled_the_backend_itself_or_through_another_service_survives(
    node: Node,
) -> None:
    other = ServiceName("default", "other")
    frontend = Frontend(parse_address(OTHER_VIP), 53, Protocol.UDP, "dns")
    with serving(node, GONE, STAYS):
        async with node.agent() as dataplane:
            node.mesh.replace(
                "manifests",
                [
                    service(),
                    backends(backend(GONE), backend(STAYS)),
                    Service(other, "manifests", (frontend,)),
                    replace(backends(backend(GONE)), service=other),
                ],
            )
            await node.settle()
            lost = await connected_to(node, VIP4, GONE)
            direct = node.connect(GONE, 5353, socket.SOCK_DGRAM)
            through_other = node.connect(OTHER_VIP, 53, socket.SOCK_DGRAM)
            node.mesh.apply("manifests", [backends(backend(STAYS))])
            await destroyed(dataplane, 1)
            with pytest.raises(ConnectionAbortedError):
                lost.recv(64)
            for survivor in (direct, through_other):
                survivor.send(b"?")
                assert survivor.recv(64).split()[0].decode() == GONE


@pytest.mark.parametrize("asked_for", [True, False])
async def test_tcp_connections_are_closed_only_where_the_service_asks_for_it(
    node: Node, asked_for: bool
) -> None:
    with serving(node, GONE) as servers:
        silent(servers, node)
        async with node.agent() as dataplane:
            ports = tuple(
                port._replace(port=9090) if port.port_name == "http" else port for port in backend(GONE).ports
            )
            members: list[Backend] = [replace(backend(GONE), ports=ports)]
            node.mesh.replace("manifests", [service(close_tcp=asked_for), backends(*members)])
            await node.settle()
            # A UDP socket beside it shows that the backend's removal was acted upon.
            witness = await connected_to(node, VIP4, GONE)
            tcp = node.connect(VIP4, 80)
            node.mesh.apply("manifests", [backends()])
            await destroyed(dataplane, 2 if asked_for else 1)
            assert is_open(tcp) != asked_for
            assert not is_open(witness)
            assert dataplane.closer.destroyed["default/rebel-base", "tcp", Because.REMOVAL] == int(asked_for)


def silent(servers: Servers, node: Node) -> None:
    """A TCP listener that keeps its connections and says nothing."""
    listener = node.open_socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((GONE, 9090))
    listener.listen(8)
    servers._sockets.append(listener)


async def test_sockets_of_a_backend_that_went_while_no_agent_ran_are_destroyed_at_the_next_start(
    node: Node,
) -> None:
    with serving(node, GONE, STAYS):
        async with node.agent():
            node.mesh.replace("manifests", [service(), backends(backend(GONE), backend(STAYS))])
            await node.settle()
            lost, kept = await connected_to(node, VIP4, GONE), await connected_to(node, VIP4, STAYS)
        node.mesh = Mesh()
        node.mesh.listing("manifests")
        async with node.agent() as dataplane:
            assert is_open(lost)
            node.mesh.replace("manifests", [service(), backends(backend(STAYS))])
            await destroyed(dataplane, 1)
            assert select.select([lost], [], [], 5)[0] == [lost]
            with pytest.raises(ConnectionAbortedError):
                lost.recv(64)
            kept.send(b"?")
            assert kept.recv(64).split()[0].decode() == STAYS


async def test_records_go_with_their_sockets(node: Node) -> None:
    with serving(node, STAYS):
        async with node.agent() as dataplane:
            node.mesh.replace("manifests", [service(), backends(backend(STAYS))])
            await node.settle()
            connections = dataplane.opened.loaded.maps["connections"]
            made = [node.connect(VIP4, 80) for _ in range(5)]
            assert len(dict(connections.items())) == 5
            for each in made:
                each.close()
            assert dict(connections.items()) == {}


async def test_a_workload_that_leaves_while_its_sockets_are_looked_at_ends_nothing_else(node: Node) -> None:
    with serving(node, GONE, STAYS):
        async with node.agent() as dataplane:
            node.mesh.replace("manifests", [service(), backends(backend(GONE), backend(STAYS))])
            await node.settle()
            await connected_to(node, VIP4, GONE)
            # Its netlink socket is closed, as by a DEL that comes between the look and the end of the socket.
            dataplane.netns._open["pods/client"].diag.close()
            node.mesh.apply("manifests", [backends(backend(STAYS))])
            async with asyncio.timeout(5):
                while not dataplane.closer.failed:
                    await asyncio.sleep(0.001)
            await node.settle(node.mesh.apply("manifests", [backends(backend(GONE))]))
            assert node.ask(VIP4) == GONE


async def test_a_service_that_could_not_be_planned_at_the_start_keeps_its_sockets(node: Node) -> None:
    thief = Service(
        ServiceName("default", "a-thief"),
        "manifests",
        (Frontend(parse_address(OTHER_VIP), 53, Protocol.UDP, "dns"),),
    )
    taken = Frontend(parse_address(OTHER_VIP), 53, Protocol.UDP, "dns")
    with serving(node, STAYS):
        async with node.agent():
            node.mesh.replace("manifests", [service(), backends(backend(STAYS))])
            await node.settle()
            kept = await connected_to(node, VIP4, STAYS)
        node.mesh = Mesh()
        node.mesh.listing("manifests")
        async with node.agent() as dataplane:
            refused = service(frontends=(*service().frontends, taken))
            node.mesh.replace("manifests", [thief, refused, backends(backend(STAYS))])
            with pytest.raises(RowsFailed):
                await node.settle()
            async with asyncio.timeout(5):
                while not dataplane.closer.rounds:
                    await asyncio.sleep(0.001)
            assert is_open(kept)


async def test_a_socket_that_moved_on_to_another_service_survives(node: Node) -> None:
    other = ServiceName("default", "other")
    frontend = Frontend(parse_address(OTHER_VIP), 53, Protocol.UDP, "dns")
    with serving(node, GONE, STAYS):
        async with node.agent() as dataplane:
            node.mesh.replace(
                "manifests",
                [
                    service(),
                    backends(backend(GONE), backend(STAYS)),
                    Service(other, "manifests", (frontend,)),
                    replace(backends(backend(GONE)), service=other),
                ],
            )
            await node.settle()
            moved = await connected_to(node, VIP4, GONE)
            connections = dataplane.opened.loaded.maps["connections"]
            ((key, value),) = connections.items()
            moved.connect((OTHER_VIP, 53))
            # What a look found, a moment ago.
            record = dataplane.layouts.connection.decode(value)
            stale = [Stale(key, value, "default/rebel-base")]
            await dataplane.closer.close(record.netns_cookie, record.backend, stale)
            assert is_open(moved)
