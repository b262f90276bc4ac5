"""sock_diag: the right sockets are found in the right namespace, and only the one asked for ends."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from meshd.kernel.netns import Netns
from meshd.kernel.sockets import LISTEN, TCP, UDP, Endpoint, SocketDiag, can_destroy
from tests.netns.conftest import NetnsPair

PORT = 7000
KINDS = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
# Family of the client's socket, the address it dials, and the address the kernel knows it by.
PATHS = [
    pytest.param(socket.AF_INET, "10.77.0.2", "10.77.0.2", id="IPv4"),
    pytest.param(socket.AF_INET6, "fd77::2", "fd77::2", id="IPv6"),
    pytest.param(socket.AF_INET6, "::ffff:10.77.0.2", "10.77.0.2", id="v4-mapped"),
]


@pytest.fixture
def open_sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listen(pair: NetnsPair, stack: ExitStack, protocol: int, port: int = PORT) -> socket.socket:
    """A dual-stack server socket in the server's namespace."""
    server = stack.enter_context(pair.server.socket(socket.AF_INET6, KINDS[protocol]))
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", port))
    if protocol == TCP:
        server.listen()
    return server


def dial(
    netns: Netns, stack: ExitStack, protocol: int, family: int, address: str, port: int = PORT
) -> socket.socket:
    client = stack.enter_context(netns.socket(family, KINDS[protocol]))
    client.settimeout(5)
    client.connect((address, port))
    return client


def inode(client: socket.socket) -> int:
    return os.fstat(client.fileno()).st_ino


def cookie(client: socket.socket) -> int:
    return int.from_bytes(client.getsockopt(socket.SOL_SOCKET, 57, 8), "little")  # SO_COOKIE


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
@pytest.mark.parametrize(("family", "dialled", "known"), PATHS)
def test_a_socket_is_found_by_its_destination(
    netns_pair: NetnsPair, open_sockets: ExitStack, protocol: int, family: int, dialled: str, known: str
) -> None:
    listen(netns_pair, open_sockets, protocol)
    listen(netns_pair, open_sockets, protocol, PORT + 1)
    client = dial(netns_pair.client, open_sockets, protocol, family, dialled)
    dial(netns_pair.client, open_sockets, protocol, family, dialled, PORT + 1)
    remote = Endpoint(ip_address(known), PORT)
    with SocketDiag(netns_pair.client) as diag:
        found = diag.connected_to(protocol, remote)
    described = [(f.cookie, f.inode, f.remote, f.local.port) for f in found]
    assert described == [(cookie(client), inode(client), remote, client.getsockname()[1])]


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
@pytest.mark.parametrize(("family", "dialled", "known"), PATHS)
def test_only_the_destroyed_socket_breaks(
    netns_pair: NetnsPair, open_sockets: ExitStack, protocol: int, family: int, dialled: str, known: str
) -> None:
    listen(netns_pair, open_sockets, protocol)
    doomed, spared = (dial(netns_pair.client, open_sockets, protocol, family, dialled) for _ in range(2))
    with SocketDiag(netns_pair.client) as diag:
        found = {f.inode: f for f in diag.connected_to(protocol, Endpoint(ip_address(known), PORT))}
        assert diag.destroy(found[inode(doomed)])
    with pytest.raises(OSError, match=r".") as broken:
        doomed.recv(1)
    assert broken.value.errno == errno.ECONNABORTED
    assert spared.send(b"still here") == 10


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
def test_a_socket_that_has_gone_is_no_error(
    netns_pair: NetnsPair, open_sockets: ExitStack, protocol: int
) -> None:
    listen(netns_pair, open_sockets, protocol)
    client = dial(netns_pair.client, open_sockets, protocol, socket.AF_INET, "10.77.0.2")
    with SocketDiag(netns_pair.client) as diag:
        (found,) = diag.connected_to(protocol, Endpoint(ip_address("10.77.0.2"), PORT))
        client.close()
        if protocol == TCP:
            # close() alone may leave it in FIN_WAIT: what must not happen is an error.
            diag.destroy(found)
        assert not diag.destroy(found)


def test_another_socket_with_the_same_addresses_survives_an_old_cookie(
    netns_pair: NetnsPair, open_sockets: ExitStack
) -> None:
    listen(netns_pair, open_sockets, UDP)
    first = dial(netns_pair.client, open_sockets, UDP, socket.AF_INET, "10.77.0.2")
    port = first.getsockname()[1]
    with SocketDiag(netns_pair.client) as diag:
        (found,) = diag.connected_to(UDP, Endpoint(ip_address("10.77.0.2"), PORT))
        first.close()
        second = open_sockets.enter_context(netns_pair.client.socket(socket.AF_INET, socket.SOCK_DGRAM))
        second.bind(("10.77.0.1", port))
        second.connect(("10.77.0.2", PORT))
        assert not diag.destroy(found)
    assert second.send(b"still here") == 10


def test_sockets_of_other_namespaces_are_not_seen(netns_pair: NetnsPair, open_sockets: ExitStack) -> None:
    listen(netns_pair, open_sockets, UDP)
    dial(netns_pair.client, open_sockets, UDP, socket.AF_INET, "10.77.0.2")
    with SocketDiag(netns_pair.server) as diag:
        assert diag.connected_to(UDP, Endpoint(ip_address("10.77.0.2"), PORT)) == []


def test_an_ipv6_address_finds_no_ipv4_socket(netns_pair: NetnsPair, open_sockets: ExitStack) -> None:
    listen(netns_pair, open_sockets, UDP)
    dial(netns_pair.client, open_sockets, UDP, socket.AF_INET, "10.77.0.2")
    with SocketDiag(netns_pair.client) as diag:
        assert diag.connected_to(UDP, Endpoint(ip_address("fd77::2"), PORT)) == []


def test_many_sockets_are_listed_over_several_answers(netns_pair: NetnsPair, open_sockets: ExitStack) -> None:
    listen(netns_pair, open_sockets, UDP)
    clients = [dial(netns_pair.client, open_sockets, UDP, socket.AF_INET, "10.77.0.2") for _ in range(600)]
    with SocketDiag(netns_pair.client) as diag:
        found = diag.connected_to(UDP, Endpoint(ip_address("10.77.0.2"), PORT))
    assert {f.cookie for f in found} == {cookie(client) for client in clients}


def test_listeners_are_listed_when_asked_for(netns_pair: NetnsPair, open_sockets: ExitStack) -> None:
    server = listen(netns_pair, open_sockets, TCP)
    with SocketDiag(netns_pair.server) as diag:
        assert [f.inode for f in diag.all(TCP, LISTEN)] == [inode(server)]
        assert diag.all(TCP) == []


@pytest.mark.needs("sock_destroy")
def test_this_kernel_is_known_to_destroy_sockets() -> None:
    assert can_destroy()
