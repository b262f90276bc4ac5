"""io_uring by its bare system calls (io_uring_setup(2), io_uring_enter(2)): a ring, requests, and what became of them."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from tests.patience import patience

# linux/io_uring.h
SETUP, ENTER = 425, 426  # the same on every architecture
SQPOLL = 1 << 1
GETEVENTS, SQ_WAKEUP = 1, 2
SQES_OFFSET = 0x10000000
POLL_ADD, SENDMSG, RECVMSG, ASYNC_CANCEL, READ, WRITE, SEND, RECV = 6, 9, 10, 14, 22, 23, 26, 27
SPLICE, PROVIDE_BUFFERS, SEND_ZC = 30, 31, 47
LINK, BUFFER_SELECT = 1 << 2, 1 << 5
POLL_FIRST, MULTISHOT = 1, 2  # in `ioprio` of what sends and receives
POLL_MULTISHOT = 1  # in `length` of POLL_ADD
MORE = 1 << 1  # in the flags of a completion
_PARAMETERS_BYTES, _SQE_BYTES, _CQE_BYTES = 120, 64, 16

_libc = ctypes.CDLL(None, use_errno=True)


class Completion(NamedTuple):
    """What became of a request; ``result``: below 0 an errno."""

    number: int
    result: int
    flags: int

    @property
    def buffer(self) -> int:
        """Which of the provided ones was filled."""
        return self.flags >> 16


def request(
    opcode: int, fd: int, address: int = 0, length: int = 0, *, flags: int = 0, ioprio: int = 0, offset: int = 0,
    of_opcode: int = 0, number: int = 0, group: int = 0, splice_fd: int = 0,
) -> bytes:  # fmt: skip
    """An entry of the submission queue."""
    return struct.pack(
        "=BBHiQQIIQHHiQQ", opcode, flags, ioprio, fd, offset, address, length, of_opcode, number, group, 0,
        splice_fd, 0, 0,
    )  # fmt: skip


def address_of(buffer: bytearray, at: int = 0) -> int:
    """Where the kernel finds it; it must not be resized meanwhile."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer, at))


class Ring:
    """One ring of 64 entries, for one thread."""

    def __init__(self, flags: int = 0) -> None:
        parameters = ctypes.create_string_buffer(struct.pack("=III", 0, 0, flags), _PARAMETERS_BYTES)
        self.fd = _called(SETUP, 64, parameters)
        self._thread = bool(flags & SQPOLL)
        entries, complete = struct.unpack_from("=II", parameters)
        (self._head, self._tail, self._mask, *_, self._array) = struct.unpack_from("=7I", parameters, 40)
        (self._done_head, self._done_tail, _, _, _, self._done) = struct.unpack_from("=6I", parameters, 80)
        size = max(self._array + 4 * entries, self._done + _CQE_BYTES * complete)
        self._entries, self._complete = entries, complete
        self._ring = mmap.mmap(self.fd, size)
        # The kernel reads and writes them meanwhile: as whole words.
        self._words = (ctypes.c_uint32 * (size // 4)).from_buffer(self._ring)
        self._requests = mmap.mmap(self.fd, entries * _SQE_BYTES, offset=SQES_OFFSET)
        self._kept: list[Completion] = []

    def close(self) -> None:
        """Ends all that is under way."""
        os.close(self.fd)
        del self._words
        self._ring.close()
        self._requests.close()

    def submit(self, *requests: bytes) -> None:
        """Begins them, in this order."""
        tail = self._words[self._tail // 4]
        for each in requests:
            slot = tail % self._entries
            self._requests[slot * _SQE_BYTES : (slot + 1) * _SQE_BYTES] = each
            self._words[self._array // 4 + slot] = slot
            tail += 1
        self._words[self._tail // 4] = tail
        self._enter(len(requests), SQ_WAKEUP if self._thread else 0)

    def completed(self, number: int) -> Completion:
        """The next completion of the requests with this number; others wait."""
        while True:
            self._kept += self._reaped()
            for at, each in enumerate(self._kept):
                if each.number == number:
                    return self._kept.pop(at)
            waiting = select.poll()
            waiting.register(self.fd, select.POLLIN)
            assert waiting.poll(patience(10) * 1000), f"request {number} never ended"
            self._enter(0, GETEVENTS)

    def asked(self, made: bytes) -> int:
        """The result of one request, whose number is 0."""
        self.submit(made)
        return self.completed(0).result

    def _reaped(self) -> Sequence[Completion]:
        head, tail = self._words[self._done_head // 4], self._words[self._done_tail // 4]
        found = []
        while head != tail:
            at = self._done + head % self._complete * _CQE_BYTES
            found.append(Completion(*struct.unpack_from("=QiI", self._ring, at)))
            head = (head + 1) % (1 << 32)
        self._words[self._done_head // 4] = head
        return found

    def _enter(self, count: int, flags: int) -> None:
        _called(ENTER, self.fd, count, 0, flags, None, 0)


@contextmanager
def ring(flags: int = 0) -> Iterator[Ring]:
    """A ring, with its own thread of the kernel where ``flags`` say SQPOLL."""
    made = Ring(flags)
    try:
        yield made
    finally:
        made.close()


def wait_ready(on: Ring, end: socket.socket, event: int) -> None:
    """Waits by a request until the socket can be read or written."""
    result = on.asked(request(POLL_ADD, end.fileno(), of_opcode=event))
    assert result > 0, os.strerror(-result)


def _called(*arguments: object) -> int:
    found = int(
        _libc.syscall(*(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments))
    )
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"io_uring: {errno.errorcode.get(code, code)}")
    return found
