"""rebel-base: an HTTP/1.1 server that says which pod of which cluster answered, and counts its answers.

On SIGTERM it does what a well-made pod does: it finishes what is open and goes on accepting for a grace period, because the
news that it is leaving takes time to spread; then it stops listening, finishes again, and exits 0.

The counts are two numbers in a file mapped into memory, so they survive SIGKILL:

    begun      answers handed to the kernel or just about to be
    answered   answers the kernel took whole

They differ by at most one for each SIGKILL, and only after one between the two.
"""

from __future__ import annotations

import argparse
import asyncio
import mmap
import os
import signal
import socket
import struct
from pathlib import Path
from typing import cast

COUNTS = struct.Struct("=QQ")
MAX_REQUEST = 16 * 1024


class Counts:
    """``begun`` and ``answered`` in the file at ``path``, from where an earlier process of the pod left them."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(COUNTS.pack(0, 0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), COUNTS.size)
        self.begun, self.answered = COUNTS.unpack_from(self._memory)

    def begin(self) -> None:
        self.begun += 1
        COUNTS.pack_into(self._memory, 0, self.begun, self.answered)

    def finish(self) -> None:
        self.answered += 1
        COUNTS.pack_into(self._memory, 0, self.begun, self.answered)


class Connection(asyncio.Protocol):
    """One connection, one request, one answer; closed by the server, as ``Connection: close`` says."""

    def __init__(self, answer: bytes, counts: Counts, open_connections: set[Connection]) -> None:
        self._answer = answer
        self._counts = counts
        self._open = open_connections
        self._request = b""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(
            asyncio.Transport, transport
        )  # What a TCP server makes; the base class is for pipes too.
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        self._request += data
        if b"\r\n\r\n" in self._request:
            self._counts.begin()
            self._transport.write(self._answer)
            # So small an answer always fits the socket's buffer.
            if self._transport.get_write_buffer_size() == 0:
                self._counts.finish()
            self._transport.close()
        elif len(self._request) > MAX_REQUEST:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._open.discard(self)
        self.ended.set_result(None)


def answer_of(cluster: str, pod: str) -> bytes:
    """The one answer of this pod: its cluster and name, one per line."""
    body = f"{cluster}\n{pod}\n".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def listener(port: int) -> socket.socket:
    """A socket that takes IPv6 and IPv4 connections."""
    listening = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listening.bind(("::", port))
    listening.listen(1024)
    return listening


def say_ready() -> None:
    """READY=1 to whoever started this (sd_notify(3)); nobody may have asked."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", path)


async def serve(port: int, grace_s: float, counts_path: Path) -> None:
    """Serves until SIGTERM and ``grace_s`` seconds more."""
    loop = asyncio.get_running_loop()
    terminated = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, terminated.set)
    counts = Counts(counts_path)
    open_connections: set[Connection] = set()
    answer = answer_of(os.environ.get("CLUSTER_NAME", "?"), os.environ.get("POD_NAME", "?"))
    server = await loop.create_server(
        lambda: Connection(answer, counts, open_connections), sock=listener(port)
    )
    print(f"listening on port {port}", flush=True)
    say_ready()
    await terminated.wait()
    print(f"terminating: accepting for {grace_s:g} s more", flush=True)
    await asyncio.sleep(grace_s)
    server.close()
    await asyncio.gather(*(connection.ended for connection in open_connections))
    print(f"ended: {counts.answered} answers", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="rebel-base", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--grace", type=float, default=2.0, metavar="SECONDS", help="go on accepting after SIGTERM"
    )
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.grace, Path(os.environ["POD_DIR"]) / "counts"))


if __name__ == "__main__":
    main()
