"""One TCP connection between two namespaces that is never idle: numbered blocks, echoed and compared."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from meshd.kernel.netns import Netns
from tests.patience import patience

BLOCK_BYTES = 16 * 1024
# More than a lost packet costs, by far less than a broken connection does.
PATIENCE_S = patience(10)


class Stream:
    """``blocks``: how many came back as they were sent. ``failure``: why no more will."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.blocks = 0
        self.failure = ""
        self._ends = client, server
        self._is_over = False
        self._moved = threading.Condition()
        self._threads = [threading.Thread(target=run) for run in (self._ask, self._echo)]
        for thread in self._threads:
            thread.start()

    def goes_on(self) -> bool:
        """Whether another block that is sent from now on comes back."""
        with self._moved:
            # The one that is under way may have been sent before.
            wanted = self.blocks + 2
            self._moved.wait_for(lambda: self.blocks >= wanted or self.failure, 2 * PATIENCE_S)
            return self.blocks >= wanted

    def close(self) -> None:
        self._is_over = True
        for end in self._ends:
            with suppress(OSError):  # a connection that broke is not there to be shut down
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def _ask(self) -> None:
        reason = ""
        try:
            while not reason and not self._is_over:
                reason = self._exchange()
        except OSError as error:
            reason = str(error) or "failed"
        with self._moved:
            self.failure = reason or "closed"
            self._moved.notify_all()

    def _exchange(self) -> str:
        """Why the block that came back is not the one that was sent; empty: it is."""
        block = struct.pack(">Q", self.blocks) * (BLOCK_BYTES // 8)
        self._ends[0].sendall(block)
        if receive(self._ends[0], BLOCK_BYTES) != block:
            return "other bytes came back"
        with self._moved:
            self.blocks += 1
            self._moved.notify_all()
        return ""

    def _echo(self) -> None:
        server = self._ends[1]
        try:
            while not self._is_over:
                server.sendall(receive(server, BLOCK_BYTES))
        except OSError:
            return


def receive(connection: socket.socket, count: int) -> bytes:
    """Exactly ``count`` bytes; OSError: the connection ended before."""
    parts = []
    while count:
        part = connection.recv(count)
        if not part:
            raise OSError("the other end closed")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


@contextmanager
def stream(client: Netns | Path, server: Netns | Path, address: str, port: int = 9000) -> Iterator[Stream]:
    """A connection from ``client`` to ``server`` at ``address``, busy until the end; broken then is a failure."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with _socket(server, family) as listener:
        listener.settimeout(PATIENCE_S)
        listener.bind((address, port))
        listener.listen(1)
        dialled = _socket(client, family)
        dialled.settimeout(PATIENCE_S)
        dialled.connect((address, port))
        accepted, _ = listener.accept()
    accepted.settimeout(PATIENCE_S)
    made = Stream(dialled, accepted)
    try:
        yield made
        assert made.goes_on(), made.failure
    finally:
        made.close()


def _socket(netns: Netns | Path, family: int) -> socket.socket:
    if isinstance(netns, Netns):
        return netns.socket(family, socket.SOCK_STREAM)
    with Netns.open(netns) as opened:
        return opened.socket(family, socket.SOCK_STREAM)
