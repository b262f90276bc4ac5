"""Bytes through a TCP connection between two namespaces, without processes of their own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshd.kernel.netns import Netns
from tests.patience import patience

PATIENCE_S = patience(5)


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextmanager
def serving(netns: Path, port: int) -> Iterator[None]:
    """A server in ``netns``, both families, that answers each connection with who asks and then with what it hears."""
    with Netns.open(netns) as opened:
        listener = opened.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", port))
    listener.listen(16)
    thread = threading.Thread(target=_serve, args=(listener,))
    thread.start()
    try:
        yield
    finally:
        # Wakes accept, which closing does not.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            connection, (asker, *_) = listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(PATIENCE_S)
            try:
                connection.sendall(f"{asker.removeprefix('::ffff:')}\n".encode())
                while said := connection.recv(1 << 16):
                    connection.sendall(said)
            except OSError:
                continue


def asked(netns: Netns | Path, address: str, port: int, data: bytes = b"meshd") -> str:
    """Who asks, as the server at ``address`` sees it, which then echoed ``data``; empty: nobody answered."""
    if isinstance(netns, Path):
        with Netns.open(netns) as opened:
            return asked(opened, address, port, data)
    with netns.socket(family_of(address), socket.SOCK_STREAM) as client:
        client.settimeout(PATIENCE_S)
        try:
            client.connect((address, port))
            with client.makefile("rb") as stream:
                asker = stream.readline().decode().strip()
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                return asker if stream.read() == data else ""
        except OSError:
            return ""
