"""How a ring reads and sends: each kind of request, and streams of them whose bytes say where they are."""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Callable
from functools import partial

from tests.netns.pod_network.traffic import pattern
from tests.netns.short_circuit import ring as io
from tests.netns.short_circuit.ring import Ring, address_of, request
from tests.netns.short_circuit.way import STEP

WHERE_IT_IS = (1 << 64) - 1  # as the offset of what has no places

Reader = Callable[[Ring, socket.socket, int], bytes]
Writer = Callable[[Ring, socket.socket, bytes], int]


def recv(on: Ring, end: socket.socket, size: int, ioprio: int = 0) -> bytes:
    room = bytearray(size)
    return of(room, on.asked(request(io.RECV, end.fileno(), address_of(room), size, ioprio=ioprio)))


def recvmsg(on: Ring, end: socket.socket, size: int) -> bytes:
    room = bytearray(size)
    vector = vector_of(room)
    header = header_of(vector)
    return of(room, on.asked(request(io.RECVMSG, end.fileno(), address_of(header), 1)))


def read(on: Ring, end: socket.socket, size: int) -> bytes:
    room = bytearray(size)
    made = request(io.READ, end.fileno(), address_of(room), size, offset=WHERE_IT_IS)
    return of(room, on.asked(made))


def polled_recv(on: Ring, end: socket.socket, size: int) -> bytes:
    """Waits by a request, and then reads by the call."""
    io.wait_ready(on, end, select.POLLIN)
    return end.recv(size)


def linked_recv(on: Ring, end: socket.socket, size: int) -> bytes:
    """Both at once: the second begins when the first has ended."""
    room = bytearray(size)
    on.submit(
        request(io.POLL_ADD, end.fileno(), of_opcode=select.POLLIN, flags=io.LINK, number=1),
        request(io.RECV, end.fileno(), address_of(room), size),
    )
    assert on.completed(1).result > 0
    return of(room, on.completed(0).result)


READERS: dict[str, Reader] = {
    "recv": recv,
    "poll first": partial(recv, ioprio=io.POLL_FIRST),
    "recvmsg": recvmsg,
    "read": read,
    "poll": polled_recv,
    "linked": linked_recv,
}


def send(on: Ring, end: socket.socket, data: bytes) -> int:
    room = bytearray(data)
    return on.asked(request(io.SEND, end.fileno(), address_of(room), len(room)))


def sendmsg(on: Ring, end: socket.socket, data: bytes) -> int:
    room = bytearray(data)
    vector = vector_of(room)
    header = header_of(vector)
    return on.asked(request(io.SENDMSG, end.fileno(), address_of(header), 1))


def write_by_ring(on: Ring, end: socket.socket, data: bytes) -> int:
    room = bytearray(data)
    return on.asked(request(io.WRITE, end.fileno(), address_of(room), len(room), offset=WHERE_IT_IS))


def linked_sends(on: Ring, end: socket.socket, data: bytes) -> int:
    """In parts that go one after the other, each as a whole."""
    room, part = bytearray(data), max(len(data) // 4, 1)
    starts = range(0, len(room), part)
    on.submit(
        *[
            request(
                io.SEND,
                end.fileno(),
                address_of(room, at),
                min(part, len(room) - at),
                of_opcode=socket.MSG_WAITALL,
                flags=io.LINK if at != starts[-1] else 0,
            )
            for at in starts
        ]
    )
    return sum(on.completed(0).result for _ in starts)


WRITERS: dict[str, Writer] = {
    "send": send,
    "sendmsg": sendmsg,
    "write": write_by_ring,
    "linked": linked_sends,
}


def of(room: bytearray, result: int) -> bytes:
    """What came; no errno."""
    assert result >= 0, errno.errorcode[-result]
    return bytes(room[:result])


def vector_of(room: bytearray) -> bytearray:
    """A struct iovec; ``room`` has to live as long."""
    return bytearray(struct.pack("=QQ", address_of(room), len(room)))


def header_of(vector: bytearray) -> bytearray:
    """A struct msghdr; ``vector`` has to live as long."""
    return bytearray(struct.pack("=QQQQQQQ", 0, 0, address_of(vector), 1, 0, 0, 0))


def check_by_ring(on: Ring, end: socket.socket, size: int, how: Reader) -> None:
    """Reads so many bytes; each stands where it was sent."""
    at = 0
    while at < size:
        part = how(on, end, STEP)
        assert part, f"the other end closed after {at} of {size} bytes"
        assert part == pattern(at, len(part)), f"other bytes than were sent after {at}"
        at += len(part)


def send_by_ring(on: Ring, end: socket.socket, size: int, how: Writer, step: int = STEP) -> None:
    """Bytes that say where they are."""
    at = 0
    while at < size:
        sent = how(on, end, pattern(at, min(step, size - at)))
        assert sent > 0, errno.errorcode[-sent]
        at += sent
