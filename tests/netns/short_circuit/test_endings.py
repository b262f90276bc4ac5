"""How connections end: the other side learns the same of it, and after the same bytes, as on TCP."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from collections.abc import Callable

import pytest

from tests.netns.pod_network.traffic import pattern
from tests.netns.short_circuit.talk import echoed, received
from tests.netns.short_circuit.way import Way, alongside, check_stream, read, send_stream
from tests.patience import patience, wait_until

MB = 1 << 20
AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: close() sends a reset


def is_at_end(end: socket.socket) -> bool:
    """Whether the other end has closed, and all was read."""
    return read(end, 1) == b""


@pytest.mark.parametrize("client_first", [True, False], ids=["client first", "server first"])
def test_who_shuts_down_still_reads_all(way: Way, client_first: bool) -> None:
    with way.connected() as ends, way.hands_over():
        first, second = ends if client_first else ends[::-1]
        first.sendall(b"the question")
        first.shutdown(socket.SHUT_WR)
        assert received(second, 100) == b"the question"
        with alongside(lambda: send_stream(second, 8 * MB)):
            check_stream(first, 8 * MB)
        second.shutdown(socket.SHUT_WR)
        assert (is_at_end(first), is_at_end(second)) == (True, True)


@pytest.mark.parametrize("client_first", [True, False], ids=["client first", "server first"])
def test_what_was_sent_before_the_end_is_read_after_it(way: Way, client_first: bool) -> None:
    """The answer is complete although its sender is gone, and the reader had said before that it sends no more."""
    with way.connected() as ends, way.hands_over():
        reader, sender = ends if client_first else ends[::-1]
        reader.shutdown(socket.SHUT_WR)
        assert is_at_end(sender)
        for start in range(0, 20_000, 1000):
            sender.sendall(pattern(start, 1000))
        sender.close()
        wait_until(lambda: state(reader) not in {ESTABLISHED, FIN_WAIT2})
        check_stream(reader, 20_000, 333)
        assert is_at_end(reader)


ESTABLISHED, FIN_WAIT2 = 1, 5


def state(end: socket.socket) -> int:
    """Of the connection, as TCP names it."""
    return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def test_a_reset_ends_the_other_side_at_once(way: Way) -> None:
    with way.connected() as (near, far), way.hands_over():
        echoed(near, far, 5, 1000)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        far.close()
        assert select.select([near], [], [], patience(10))[0]
        with pytest.raises(ConnectionResetError):
            near.recv(1)
        with pytest.raises(BrokenPipeError):
            near.send(b"more")


def test_what_was_sent_before_a_reset_is_still_read(way: Way) -> None:
    with way.connected() as (near, far), way.hands_over():
        far.sendall(b"the last words")
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        far.close()
        wait_until(lambda: state(near) != ESTABLISHED)
        assert near.recv(100) == b"the last words"


def test_a_forged_reset_changes_nothing(way: Way) -> None:
    """Anybody in a pod can send one with a wrong number: no socket takes it, but whoever follows packets might."""
    with way.connected() as (near, far):
        near.sendall(b"unread")
        forge_reset(way, near)
        wait_until(lambda: not way.machine.connections())
        way.machine.on_loop(way.machine.leaver.look())
        assert received(far, 6) == b"unread"
        with way.hands_over():
            echoed(near, far, 200, 64)
        send_stream(near, 50_000)
        check_stream(far, 50_000)


def forge_reset(way: Way, near: socket.socket) -> None:
    raw = way.client.netns.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with raw:
        source, target = near.getsockname(), near.getpeername()
        header = struct.pack("!HHIIBBHHH", source[1], target[1], 12345, 0, 5 << 4, 4, 0, 0, 0)
        pseudo = (
            socket.inet_aton(source[0]) + socket.inet_aton(target[0]) + struct.pack("!HH", 6, len(header))
        )
        words = struct.unpack(f"!{len(pseudo + header) // 2}H", pseudo + header)
        total = sum(words)
        total = (total & 0xFFFF) + (total >> 16)
        checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        raw.sendto(header[:16] + struct.pack("!H", checksum) + header[18:], (target[0], 0))


def in_child(work: Callable[[], None], *inherits: socket.socket) -> int:
    """A process that does the work with these sockets, and then waits to be killed."""
    child = os.fork()
    if child:
        for each in inherits:
            each.close()
        return child
    try:
        work()
        signal.pause()
    finally:
        os._exit(1)


@pytest.mark.parametrize("client_dies", [True, False], ids=["client", "server"])
def test_what_a_killed_process_has_sent_is_read(way: Way, client_dies: bool) -> None:
    with way.connected() as ends:
        dying, staying = ends if client_dies else ends[::-1]
        before = way.taken()

        def sends() -> None:
            for start in range(0, 20_000, 1000):
                dying.sendall(pattern(start, 1000))
            staying.close()

        child = in_child(sends, dying)
        check_stream(staying, 10_000, 500)
        assert (way.taken() > before) is way.is_short
        wait_until(lambda: waiting(staying, 10_000))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        got = received(staying, 20_000)
        assert got == pattern(10_000, 10_000)
        assert is_at_end(staying)


def waiting(end: socket.socket, size: int) -> bool:
    """Whether so many bytes can be read."""
    return len(end.recv(size, socket.MSG_PEEK)) == size


def test_a_reader_that_is_killed_ends_its_writer(way: Way) -> None:
    with way.connected() as (near, far):
        child = in_child(near.close, far)
        # Nobody reads: some of it waits for a reader who never comes.
        near.sendall(b"x" * 1000)
        near.sendall(b"x" * 1000)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert select.select([near], [], [], patience(10))[0]

        def is_over() -> bool:
            try:
                near.send(b"x")
            except (BrokenPipeError, ConnectionResetError):
                return True
            return False

        wait_until(is_over)
