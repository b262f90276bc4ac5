"""The calls by which programs read and write: each answers as it does on TCP, or the difference is shown here by name."""

from __future__ import annotations

import os
import select
import socket
import struct
import tempfile

import pytest

from tests.netns.pod_network.traffic import pattern
from tests.netns.short_circuit.talk import received
from tests.netns.short_circuit.way import Way, alongside, check_stream, peeked, send_stream, waits, write
from tests.patience import patience, wait_until

SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000  # asm-generic/socket.h, linux/socket.h; not in Python's socket
SO_EE_ORIGIN_ZEROCOPY = 5  # linux/errqueue.h
TCP_CORK = 3


@pytest.mark.parametrize("edge", [False, True], ids=["level", "edge"])
def test_epoll_tells_of_every_message(way: Way, edge: bool) -> None:
    """Edge-triggered: read to the end each time, as nginx does; an event that is missing would hang."""
    with way.connected() as (near, far), way.hands_over(), select.epoll() as poll:
        poll.register(far, select.EPOLLIN | (select.EPOLLET if edge else 0))
        size, at = 1_000_000, 0
        with alongside(lambda: send_stream(near, size, 500)):
            while at < size:
                assert poll.poll(patience(10)), f"no event after {at} bytes"
                while True:
                    try:
                        part = far.recv(3000)
                    except BlockingIOError:
                        break
                    assert part == pattern(at, len(part))
                    at += len(part)
                    if not edge:
                        break
        near.shutdown(socket.SHUT_WR)
        wait_until(lambda: bool(poll.poll(0)))
        assert far.recv(1) == b""


def test_epoll_tells_of_room(way: Way) -> None:
    with way.connected() as (near, far), way.hands_over(), select.epoll() as poll:
        poll.register(near, select.EPOLLOUT | select.EPOLLET)
        size, sent = 20_000_000, 0
        with alongside(lambda: check_stream(far, size)):
            while sent < size:
                try:
                    sent += near.send(pattern(sent, min(65536, size - sent)))
                except BlockingIOError:
                    assert poll.poll(patience(10)), f"no event after {sent} bytes"


def test_what_is_peeked_at_stays(way: Way) -> None:
    with way.connected() as (near, far), way.hands_over():
        near.sendall(b"abc")
        near.sendall(b"def")
        wait_until(lambda: far.recv(10, socket.MSG_PEEK) == b"abcdef")
        assert far.recv(2, socket.MSG_PEEK) == b"ab"
        assert far.recv(4) == b"abcd"
        assert far.recv(10, socket.MSG_PEEK) == b"ef"
        assert received(far, 2) == b"ef"


def test_fionread_counts_what_waits(way: Way) -> None:
    with way.connected() as (near, far), way.hands_over():
        assert waits(far) == 0
        near.sendall(b"x" * 1000)
        near.sendall(b"x" * 500)
        wait_until(lambda: waits(far) == 1500)
        received(far, 300)
        assert waits(far) == 1200
        received(far, 1200)
        assert waits(far) == 0


def test_an_empty_queue_says_eagain(way: Way) -> None:
    with way.connected() as (near, far), way.hands_over():
        near.sendall(b"abc")
        assert received(far, 3) == b"abc"
        for flags in (0, socket.MSG_PEEK, socket.MSG_WAITALL, socket.MSG_DONTWAIT):
            with pytest.raises(BlockingIOError):
                far.recv(1, flags)


def test_waitall_of_a_socket_that_does_not_block(way: Way) -> None:
    """Without blocking it waits for nothing, on TCP neither."""
    with way.connected() as (near, far), way.hands_over():
        near.sendall(b"abc")
        near.sendall(b"def")
        wait_until(lambda: waits(far) == 6)
        assert far.recv(6, socket.MSG_WAITALL) == b"abcdef"
        near.sendall(b"ghi")
        wait_until(lambda: waits(far) == 3)
        assert far.recv(6, socket.MSG_WAITALL) == b"ghi"


def test_low_water_holds_back_what_is_less(way: Way) -> None:
    with way.connected() as (near, far), way.hands_over(), select.epoll() as poll:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 100)
        poll.register(far, select.EPOLLIN)
        near.sendall(b"x" * 60)
        wait_until(lambda: peeked(far) == 60)
        assert poll.poll(0) == []
        near.sendall(b"x" * 60)
        assert poll.poll(patience(10)) != []
        assert received(far, 120) == b"x" * 120
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        near.sendall(b"one")
        assert received(far, 3) == b"one"
        for _ in range(20):
            near.sendall(b"x")
            received(far, 1)


def test_a_timeout_for_reading_changes_nothing(way: Way) -> None:
    with way.connected() as (near, far), way.hands_over():
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 5, 0))
        with pytest.raises(BlockingIOError):
            far.recv(1)
        near.sendall(b"abc")
        assert received(far, 3) == b"abc"


def test_sendfile(way: Way) -> None:
    size = 4_000_000
    with tempfile.TemporaryFile() as file, way.connected() as (near, far), way.hands_over():
        file.write(pattern(0, size))
        file.flush()

        def sends() -> None:
            at = 0
            while at < size:
                try:
                    at += os.sendfile(near.fileno(), file.fileno(), at, size - at)
                except BlockingIOError:
                    assert select.select([], [near], [], patience(10))[1]

        with alongside(sends):
            check_stream(far, size)


def test_pieces_of_one_call_arrive_together(way: Way) -> None:
    with way.connected() as (near, far), way.hands_over():
        near.sendmsg([b"ab", b"", b"c" * 5000, b"d"])
        assert received(far, 5003) == b"ab" + b"c" * 5000 + b"d"
        near.sendall(b"0123456789")
        wait_until(lambda: waits(far) == 10)
        parts = [bytearray(3), bytearray(3), bytearray(10)]
        assert far.recvmsg_into(parts)[0] == 10
        assert b"".join(map(bytes, parts))[:10] == b"0123456789"


@pytest.mark.parametrize("cork", [False, True], ids=["MSG_MORE", "TCP_CORK"])
def test_what_is_held_back_comes_whole(way: Way, cork: bool) -> None:
    with way.connected() as (near, far), way.hands_over():
        near.setsockopt(socket.IPPROTO_TCP, TCP_CORK, int(cork))
        for at in range(100):
            near.send(pattern(at * 100, 100), 0 if cork else socket.MSG_MORE)
        near.setsockopt(socket.IPPROTO_TCP, TCP_CORK, 0)
        near.send(pattern(10_000, 100))
        check_stream(far, 10_100)


def test_zerocopy_tells_that_pages_are_free(way: Way) -> None:
    """Such a sender's messages go on TCP, which does tell; they are handed over again when the option is taken back."""
    count = 10
    with way.connected() as (near, far), way.hands_over():
        near.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        for at in range(count):
            near.send(pattern(at * 20_000, 20_000), MSG_ZEROCOPY)
            check_from(far, at * 20_000, 20_000)
        told: set[int] = set()

        def are_free() -> bool:
            told.update(completed(near))
            return len(told) == count

        wait_until(are_free)
        near.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 0)
        for at in range(20):
            near.sendall(pattern(at * 8, 8))
            assert received(far, 8) == pattern(at * 8, 8)


def check_from(from_: socket.socket, start: int, size: int) -> None:
    assert received(from_, size) == pattern(start, size)


def completed(of: socket.socket) -> set[int]:
    """Numbers of sends whose pages the kernel says are free."""
    try:
        _, control, _, _ = of.recvmsg(1, 512, socket.MSG_ERRQUEUE)
    except BlockingIOError:
        return set()
    found: set[int] = set()
    for _, _, data in control:
        _, origin, _, _, _, first, last = struct.unpack_from("=IBBBBII", data)
        assert origin == SO_EE_ORIGIN_ZEROCOPY
        found.update(range(first, last + 1))
    return found


def test_splice_into_a_connection(way: Way) -> None:
    """From a pipe: that is a send, and nothing is different."""
    size = 1_000_000
    inlet, outlet = os.pipe2(os.O_NONBLOCK)
    try:
        with way.connected() as (near, far), way.hands_over():

            def moves() -> None:
                at = taken = 0
                while taken < size:
                    if at < size and select.select([], [outlet], [], 0)[1]:
                        at += os.write(outlet, pattern(at, min(4096, size - at)))
                    try:
                        taken += os.splice(inlet, near.fileno(), 65536)
                    except BlockingIOError:
                        assert select.select([], [near], [], patience(10))[1]

            with alongside(moves):
                check_stream(far, size)
    finally:
        os.close(inlet)
        os.close(outlet)


def test_bytes_thrown_away_unseen(way: Way) -> None:
    """MSG_TRUNC of a stream: the bytes are gone, without being copied anywhere."""
    with way.connected() as (near, far), way.hands_over():
        write(near, b"away" + b"kept")
        wait_until(lambda: waits(far) == 8)
        size, _, _, _ = far.recvmsg_into([bytearray(4)], 0, socket.MSG_TRUNC)
        assert size == 4
        assert received(far, 4) == b"kept"


def test_many_messages_of_one_call(way: Way) -> None:
    """A reader with a large buffer gets what several messages brought at once."""
    with way.connected() as (near, far), way.hands_over():
        for at in range(50):
            near.sendall(pattern(at * 100, 100))
        wait_until(lambda: waits(far) == 5000)
        assert far.recv(65536) == pattern(0, 5000)
