"""Sockets with a past: connected, disconnected, connected elsewhere, or talking to several at once."""

from __future__ import annotations

import ctypes
import socket
import struct
from dataclasses import replace

import pytest

from meshd.model import Frontend, Protocol, Service, ServiceName, parse_address
from meshd.state.mesh import Object
from tests.netns.dataplane.node import (
    BACKENDS4,
    VIP4,
    Node,
    backend,
    backends,
    service,
    serving,
)

LIBC = ctypes.CDLL(None, use_errno=True)
SECOND_VIP = "10.96.0.53"


def disconnect(made: socket.socket) -> None:
    """connect() to AF_UNSPEC, which Python's sockets do not offer."""
    unspec = struct.pack("H14x", socket.AF_UNSPEC)
    assert LIBC.connect(made.fileno(), unspec, len(unspec)) == 0


async def test_what_a_disconnected_udp_socket_hears_of_a_backend_is_from_that_backend(node: Node) -> None:
    address = BACKENDS4[0]
    with serving(node, address):
        async with node.agent():
            node.mesh.replace("manifests", [service(), backends(backend(address))])
            await node.settle()
            with node.connect(VIP4, 53, socket.SOCK_DGRAM) as udp:
                disconnect(udp)
                udp.sendto(b"?", (address, 5353))
                assert udp.recvfrom(64)[1] == (address, 5353)


async def test_a_tcp_socket_that_failed_to_reach_a_service_may_dial_the_backend_itself(node: Node) -> None:
    address = BACKENDS4[0]
    async with node.agent() as dataplane:
        node.mesh.replace("manifests", [service(), backends(backend(address))])
        await node.settle()
        with node.open_socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
            tcp.settimeout(None)  # A failed connect() that waits leaves the socket ready for another.
            with pytest.raises(ConnectionRefusedError):
                tcp.connect((VIP4, 80))
            with serving(node, address):
                tcp.connect((address, 8080))
                assert tcp.getpeername() == (address, 8080)
                assert dict(dataplane.opened.loaded.maps["connections"].items()) == {}


@pytest.mark.parametrize("mapped", [False, True])
async def test_a_connected_udp_socket_that_names_the_service_address_stays_with_its_backend(
    node: Node, mapped: bool
) -> None:
    vip = f"::ffff:{VIP4}" if mapped else VIP4
    with serving(node, *BACKENDS4):
        async with node.agent():
            node.mesh.replace("manifests", [service(), backends(*map(backend, BACKENDS4))])
            await node.settle()
            for _ in range(12):
                with node.connect(vip, 53, socket.SOCK_DGRAM) as udp:
                    udp.sendto(b"?", (vip, 53))
                    assert udp.recvfrom(64)[1][:2] == (vip, 53)


async def test_an_unconnected_v4_mapped_udp_socket_hears_from_the_service_address(node: Node) -> None:
    with serving(node, BACKENDS4[0]):
        async with node.agent():
            node.mesh.replace("manifests", [service(), backends(backend(BACKENDS4[0]))])
            await node.settle()
            with node.open_socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
                udp.sendto(b"?", (f"::ffff:{VIP4}", 53))
                assert udp.recvfrom(64)[1][:2] == (f"::ffff:{VIP4}", 53)


async def test_a_udp_socket_that_asks_two_services_of_one_backend_hears_from_whom_it_asked(
    node: Node,
) -> None:
    name = ServiceName("default", "second")
    frontend = Frontend(parse_address(SECOND_VIP), 53, Protocol.UDP, "dns")
    part = backends(backend(BACKENDS4[0]))
    with serving(node, BACKENDS4[0]):
        async with node.agent():
            second: list[Object] = [Service(name, "manifests", (frontend,)), replace(part, service=name)]
            node.mesh.replace("manifests", [service(), part, *second])
            await node.settle()
            with node.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                for _ in range(3):
                    for vip in (VIP4, SECOND_VIP):
                        udp.sendto(b"?", (vip, 53))
                        assert udp.recvfrom(64)[1] == (vip, 53)


async def test_a_reply_is_named_right_after_the_record_of_it_was_pushed_out(node: Node) -> None:
    with serving(node, BACKENDS4[0]):
        async with node.agent() as dataplane:
            node.mesh.replace("manifests", [service(), backends(backend(BACKENDS4[0]))])
            await node.settle()
            replies = dataplane.opened.loaded.maps["datagram_frontends"]
            with node.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                for _ in range(2):
                    udp.sendto(b"?", (VIP4, 53))
                    assert udp.recvfrom(64)[1] == (VIP4, 53)
                    replies.delete_batch(list(replies.keys()))
