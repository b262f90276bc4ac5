"""Sockets that turn blocking or back, and that other processes have, too: they leave or stay, and nothing is lost."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import threading
from collections.abc import Callable

import pytest

from tests.netns.pod_network.traffic import pattern
from tests.netns.short_circuit.talk import echoed, received
from tests.netns.short_circuit.way import (
    STEP,
    Way,
    alongside,
    check_stream,
    moves_on,
    read,
    send_and_check,
    send_stream,
    streams_both_ways,
    write,
)
from tests.patience import patience, wait_until

MB = 1 << 20


def leaves(way: Way, near: socket.socket) -> None:
    """Waits until both sockets are out of the map."""
    wait_until(lambda: way.machine.row_of(near) is None and not way.machine.sockets(), 15)


@pytest.mark.parametrize("turns", [0, 1], ids=["client", "server"])
def test_a_socket_that_turns_blocking_leaves_under_load(way: Way, turns: int) -> None:
    with way.connected() as ends, way.hands_over():
        with streams_both_ways(*ends) as read_now:
            moves_on(read_now)
            ends[turns].setblocking(True)
            leaves(way, ends[0])
            moves_on(read_now)
            # Waits within the call from now on, and is never told that there is nothing.
            ends[turns].settimeout(None)
        for each in ends:
            each.setblocking(False)


@pytest.mark.parametrize("turns", [0, 1], ids=["client", "server"])
def test_who_waits_in_a_call_gets_all_after_it_has_left(way: Way, turns: int) -> None:
    """A socket that turned blocking may be told once or twice that there is nothing, until it has left; then never."""
    with way.connected() as ends, way.hands_over():
        reader, writer = ends[turns], ends[1 - turns]
        writer.sendall(b"before")
        reader.setblocking(True)
        assert received(reader, 6) == b"before"
        told = 0
        for at in range(100):
            write(writer, pattern(at * 8, 8))
            got = b""
            while not got:
                try:
                    got = reader.recv(8)
                except BlockingIOError:
                    told += 1
                    assert at == 0, "told that there is nothing although it had left"
                    leaves(way, ends[0])
            assert got == pattern(at * 8, 8)
            if at == 0:
                leaves(way, ends[0])
        assert told <= (1 if way.is_short else 0)
        reader.setblocking(False)


def test_a_writer_that_turns_blocking_waits_for_room(way: Way) -> None:
    with way.connected() as (near, far):
        near.setblocking(True)
        with alongside(lambda: near.sendall(pattern(0, 16 * MB))):
            check_stream(far, 16 * MB)
        leaves(way, near)
        near.setblocking(False)


def test_a_writer_leaves_while_it_waits_for_room(way: Way) -> None:
    with way.connected() as (near, far):
        near.setblocking(True)
        with alongside(lambda: near.sendall(pattern(0, 16 * MB))):
            leaves(way, near)
            check_stream(far, 16 * MB)
        near.setblocking(False)


def test_one_that_blocks_for_a_while_may_come_back(way: Way) -> None:
    """After it has left, the connection is looked at again in another epoch."""
    with way.connected() as (near, far):
        far.setblocking(True)
        write(near, b"question")
        assert far.recv(100) == b"question"
        leaves(way, near)
        far.setblocking(False)
        way.machine.switchboard.raise_epoch()
        with way.hands_over():
            way.use(near, far)


def test_modes_that_change_all_the_while_lose_nothing(way: Way) -> None:
    over = threading.Event()

    def flips(end: socket.socket) -> None:
        while not over.wait(0.003):
            os.set_blocking(end.fileno(), True)
            os.set_blocking(end.fileno(), False)

    with (
        way.connected() as (near, far),
        way.hands_over(),
        alongside(lambda: flips(near), lambda: flips(far)),
    ):
        try:
            send_and_check(near, far, 8 * MB)
            send_and_check(far, near, 8 * MB)
        finally:
            over.set()


def in_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def test_a_forked_child_goes_on_with_the_socket(way: Way) -> None:
    with way.connected() as (near, far), way.hands_over():
        child = in_child(lambda: send_stream(near, 4 * MB))
        check_stream(far, 4 * MB)
        assert os.waitpid(child, 0)[1] == 0
        echoed(near, far, 20, 64)


def test_a_socket_that_is_handed_to_another_process(way: Way) -> None:
    """With bytes in its queue; who had it closes it, and nobody at the other end notices."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with way.connected() as (near, far), way.hands_over(), ours, theirs:

        def echoes() -> None:
            far.close()
            _, control, _, _ = theirs.recvmsg(1, 100)
            given = socket.socket(fileno=array.array("i", control[0][2])[0])
            given.setblocking(False)
            at = 0
            while at < MB:
                part = read(given, STEP)
                write(given, part)
                at += len(part)

        near.sendall(pattern(0, 1000))
        child = in_child(echoes)
        ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [far.fileno()]))])
        far.close()

        def sends() -> None:
            for start in range(1000, MB, 1000):
                write(near, pattern(start, min(1000, MB - start)))

        with alongside(sends):
            check_stream(near, MB)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("duplicate", [False, True], ids=["one descriptor", "two descriptors"])
def test_several_readers_of_one_socket_get_each_byte_once(way: Way, duplicate: bool) -> None:
    size, got, lock = 2 * MB, [0], threading.Lock()
    with way.connected() as (near, far), contextlib.ExitStack() as stack, way.hands_over():
        other = stack.enter_context(far.dup()) if duplicate else far
        other.setblocking(False)

        def reads(from_: socket.socket) -> None:
            while got[0] < size:
                try:
                    part = from_.recv(1000)
                except BlockingIOError:
                    threading.Event().wait(0.001)
                    continue
                assert part == b"x" * len(part)
                with lock:
                    got[0] += len(part)

        with alongside(lambda: reads(far), lambda: reads(other)):
            for _ in range(size // 1000):
                write(near, b"x" * 1000)
            write(near, b"x" * (size % 1000))
        wait_until(lambda: got[0] == size, patience(1))
