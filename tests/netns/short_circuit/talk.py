"""Connections between pods, read and written as event loops do it: non-blocking."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.netns.pod_network.host import Pod
from tests.patience import patience

CHUNK = 1 << 20
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@contextmanager
def connected(client: Pod, server: Pod, family: int = 4) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection between two pods: the client's socket and the accepted one, both non-blocking."""
    with server.netns.socket(FAMILY[family], socket.SOCK_STREAM) as listener:
        listener.bind((server.ip[family], 0))
        listener.listen()
        with client.netns.socket(FAMILY[family], socket.SOCK_STREAM) as near:
            near.connect((server.ip[family], listener.getsockname()[1]))
            far, _ = listener.accept()
            with far:
                for each in (near, far):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    each.setblocking(False)
                yield near, far


def is_ready(end: socket.socket, event: int) -> bool:
    """Waits for it; False: it did not come. Not select(), which knows no descriptor from 1024 on."""
    waiting = select.poll()
    waiting.register(end, event)
    return bool(waiting.poll(patience(10) * 1000))


def received(from_: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer if the other end closes."""
    got = bytearray()
    while len(got) < size:
        assert is_ready(from_, select.POLLIN), f"{len(got)} of {size} bytes came"
        part = from_.recv(min(CHUNK, size - len(got)))
        if not part:
            break
        got += part
    return bytes(got)


def echoed(near: socket.socket, far: socket.socket, rounds: int, size: int) -> None:
    """Messages go there and back, one after the other."""
    for _ in range(rounds):
        message = os.urandom(size)
        near.sendall(message)
        there = received(far, size)
        far.sendall(there)
        assert received(near, size) == message
