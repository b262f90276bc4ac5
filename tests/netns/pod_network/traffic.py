"""Packets between namespaces with plain sockets: streams whose every position is checked, datagrams, and echo requests."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from meshd.kernel.netns import Netns
from tests.bpf.packets import checksum
from tests.patience import patience

PATIENCE_S = patience(5)
# How long a server waits for what a client says next.
IDLE_S = patience(60)
_STEP = 1 << 16


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def pattern(start: int, size: int) -> bytes:
    """The bytes of a stream from ``start`` on: each eight say where they are."""
    first, last = start // 8, (start + size) // 8 + 1
    whole = struct.pack(f"<{last - first}Q", *range(first, last))
    return whole[start - first * 8 :][:size]


@contextmanager
def serving(
    netns: Netns, port: int, kind: socket.SocketKind = socket.SOCK_STREAM, at: str = "::"
) -> Iterator[None]:
    """Says to each who asks, over both families, who that is, and then echoes it.

    Datagrams are answered from ``at``; without, from whichever address the routes choose.
    """
    listener = netns.socket(family_of(at), kind)
    if at == "::":
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((at, port))
    if kind == socket.SOCK_STREAM:
        listener.listen(64)
    serve = _serve_streams if kind == socket.SOCK_STREAM else _serve_datagrams
    thread = threading.Thread(target=serve, args=(listener,))
    thread.start()
    try:
        yield
    finally:
        _end(listener, kind)
        thread.join()
        listener.close()


def _end(listener: socket.socket, kind: socket.SocketKind) -> None:
    if kind == socket.SOCK_STREAM:
        listener.shutdown(socket.SHUT_RDWR)
        return
    try:
        listener.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # Not connected: whoever waits is woken all the same.


def _serve_streams(listener: socket.socket) -> None:
    threads = []
    while True:
        try:
            connection, (asker, port, *_) = listener.accept()
        except OSError:
            break
        thread = threading.Thread(
            target=_echo, args=(connection, f"{asker.removeprefix('::ffff:')} {port}\n")
        )
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()


def _echo(connection: socket.socket, greeting: str) -> None:
    with connection:
        connection.settimeout(IDLE_S)
        try:
            connection.sendall(greeting.encode())
            while said := connection.recv(_STEP):
                connection.sendall(said)
        except OSError:
            return


def _serve_datagrams(server: socket.socket) -> None:
    while True:
        try:
            said, asker_at = server.recvfrom(_STEP)
        except OSError:
            return
        if not asker_at:
            return  # Shut down.
        asker, port, *rest = asker_at
        greeting = f"{asker.removeprefix('::ffff:')} {port}\n".encode()
        server.sendto(greeting + said, (asker, port, *rest))


class Stream:
    """A connection to what `serving` serves. ``asker`` and ``asker_port``: who asks, as the server sees it."""

    def __init__(self, netns: Netns, address: str, port: int, source: tuple[str, int] | None = None) -> None:
        self.socket = netns.socket(family_of(address), socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        try:
            if source:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.socket.bind(source)
            self.socket.connect((address, port))
            greeting = b""
            while not greeting.endswith(b"\n"):
                greeting += self._received(1)
        except OSError:
            self.socket.close()
            raise
        self.asker, number = greeting.decode().split()
        self.asker_port = int(number)
        self.position = 0

    def _received(self, size: int) -> bytes:
        said = self.socket.recv(size)
        if not said:
            raise ConnectionResetError("the server left")
        return said

    def exchange(self, size: int) -> None:
        """Sends ``size`` bytes, and checks that each of them comes back, where it was."""
        start = self.position
        sender = threading.Thread(target=self.socket.sendall, args=(pattern(start, size),))
        sender.start()
        while self.position < start + size:
            said = self._received(min(_STEP, start + size - self.position))
            assert said == pattern(self.position, len(said)), f"wrong at {self.position}"
            self.position += len(said)
        sender.join()

    def retransmitted(self) -> int:
        """How many segments this side sent more than once, as far as the kernel tells (struct tcp_info)."""
        told = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return int(struct.unpack_from("=I", told, 100)[0])

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def asked(netns: Netns, address: str, port: int, size: int = 100_000) -> str:
    """Who asks, as the server sees it, after ``size`` bytes went both ways; empty: nobody answered."""
    try:
        with Stream(netns, address, port) as stream:
            stream.exchange(size)
            return stream.asker
    except OSError:
        return ""


def asked_by_datagram(
    netns: Netns, address: str, port: int, size: int = 1000, wait_s: float = PATIENCE_S
) -> str:
    """The same with one datagram; what answers must be ``address``."""
    with netns.socket(family_of(address), socket.SOCK_DGRAM) as client:
        client.settimeout(wait_s)
        client.connect((address, port))
        client.send(pattern(0, size))
        try:
            greeting, _, rest = client.recv(_STEP).partition(b"\n")
        except OSError:
            return ""
        assert rest == pattern(0, size)
        return greeting.decode().split()[0]


def _echo_request(address: str, identifier: int, payload: bytes) -> bytes:
    kind = 128 if ":" in address else 8
    head = struct.pack("!BBHHH", kind, 0, 0, identifier, 1)
    # Of ICMPv6 the kernel fills the checksum in.
    return struct.pack("!BBHHH", kind, 0, checksum(head + payload), identifier, 1) + payload


def pinged(
    netns: Netns,
    address: str,
    size: int = 56,
    ttl: int = 64,
    identifier: int = 0x4D50,
    wait_s: float = PATIENCE_S,
) -> tuple[str, int]:
    """Who answered an echo request, and with which type of ICMP message; ("", -1): nobody."""
    family = family_of(address)
    protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    with netns.socket(family, socket.SOCK_RAW, protocol) as client:
        client.settimeout(wait_s)
        if family == socket.AF_INET6:
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        else:
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        client.sendto(_echo_request(address, identifier, pattern(0, size)), (address, 0))
        while True:
            try:
                said, (who, *_) = client.recvfrom(_STEP)
            except OSError:
                return "", -1
            message = said if family == socket.AF_INET6 else said[(said[0] & 15) * 4 :]
            if message[0] in (0, 129) and message[4:6] == identifier.to_bytes(2, "big"):
                assert message[8:] == pattern(0, size)
                return who, message[0]
            if message[0] in (1, 2, 3, 11) and identifier.to_bytes(2, "big") in message:
                return who, message[0]
