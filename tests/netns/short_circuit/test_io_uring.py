"""io_uring on both sides: each request answers as it does on TCP, or the difference is shown here by name."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable

import pytest

from tests.netns.pod_network.traffic import pattern
from tests.netns.short_circuit import ring as io
from tests.netns.short_circuit.machine import Machine
from tests.netns.short_circuit.ring import Ring, address_of, request, ring
from tests.netns.short_circuit.ring_streams import (
    READERS,
    WRITERS,
    check_by_ring,
    recv,
    send,
    send_by_ring,
)
from tests.netns.short_circuit.talk import connected, echoed, received
from tests.netns.short_circuit.way import (
    STEP,
    Way,
    alongside,
    check_stream,
    send_stream,
    write,
)
from tests.patience import wait_until

pytestmark = pytest.mark.needs("io_uring")

MB = 1 << 20
SIZE = 4 * MB
BUFFERS, GROUP = 8, 1


@pytest.mark.parametrize("how", READERS)
def test_what_a_ring_reads_is_what_was_sent(way: Way, how: str) -> None:
    with (
        ring() as on,
        way.connected() as (near, far),
        way.hands_over(),
        alongside(lambda: send_stream(near, SIZE, 5000)),
    ):
        check_by_ring(on, far, SIZE, READERS[how])


@pytest.mark.parametrize("how", WRITERS)
def test_what_a_ring_sends_is_what_is_read(way: Way, how: str) -> None:
    with (
        ring() as on,
        way.connected() as (near, far),
        way.hands_over(),
        alongside(lambda: check_stream(far, SIZE)),
    ):
        send_by_ring(on, near, SIZE, WRITERS[how])


@pytest.mark.parametrize("step", [64, 5000, 200_000])
def test_a_thread_of_the_kernel_does_what_both_rings_are_asked(way: Way, step: int) -> None:
    size = min(SIZE, 2000 * step)
    with (
        ring(io.SQPOLL) as near_ring,
        ring(io.SQPOLL) as far_ring,
        way.connected() as (near, far),
        way.hands_over(),
        alongside(lambda: send_by_ring(near_ring, near, size, send, step)),
    ):
        check_by_ring(far_ring, far, size, recv)


def test_one_request_receives_many_messages(way: Way) -> None:
    """Multishot, in buffers that were provided: it goes on until they are used up, and then is asked for again."""
    pool, at = bytearray(BUFFERS * STEP), 0
    with ring() as on, way.connected() as (near, far), way.hands_over():
        provide(on, pool, 0, BUFFERS)
        with alongside(lambda: send_stream(near, SIZE, 5000)):
            many = request(
                io.RECV, far.fileno(), flags=io.BUFFER_SELECT, ioprio=io.MULTISHOT, number=7, group=GROUP
            )
            on.submit(many)
            shots = 0
            while at < SIZE:
                done = on.completed(7)
                if done.result > 0:
                    part = bytes(pool[done.buffer * STEP :][: done.result])
                    assert part == pattern(at, len(part)), f"other bytes than were sent after {at}"
                    at += len(part)
                    shots += 1
                    provide(on, pool, done.buffer, 1)
                else:
                    assert done.result == -errno.ENOBUFS
                if not done.flags & io.MORE and at < SIZE:
                    on.submit(many)
        assert shots > 10


def provide(on: Ring, pool: bytearray, first: int, count: int) -> None:
    made = request(
        io.PROVIDE_BUFFERS, count, address_of(pool, first * STEP), STEP, offset=first, number=8, group=GROUP
    )
    on.submit(made)
    assert on.completed(8).result >= 0


def test_one_poll_tells_of_every_message(way: Way) -> None:
    """Edge-triggered, as it is for rings: an event that is missing would hang."""
    with ring() as on, way.connected() as (near, far), way.hands_over():
        many = request(io.POLL_ADD, far.fileno(), length=io.POLL_MULTISHOT, of_opcode=select.POLLIN, number=7)
        on.submit(many)
        for at in range(200):
            write(near, pattern(at * 100, 100))
            assert on.completed(7).result & select.POLLIN
            assert received(far, 100) == pattern(at * 100, 100)


def test_a_chain_of_requests_answers(way: Way) -> None:
    """Waits, receives and sends, asked for at once."""
    room = bytearray(100)
    with ring() as on, way.connected() as (near, far), way.hands_over():
        for at in range(200):
            on.submit(
                request(io.POLL_ADD, far.fileno(), of_opcode=select.POLLIN, flags=io.LINK, number=1),
                request(io.RECV, far.fileno(), address_of(room), 100, flags=io.LINK, number=2),
                request(io.SEND, far.fileno(), address_of(room), 100, number=3),
            )
            write(near, pattern(at * 100, 100))
            assert received(near, 100) == pattern(at * 100, 100)
            assert [on.completed(number).result for number in (2, 3)] == [100, 100]
            assert on.completed(1).result > 0


def test_a_request_under_way_hears_that_the_other_end_closed(way: Way) -> None:
    room = bytearray(100)
    with ring() as on, way.connected() as (near, far), way.hands_over():
        echoed(near, far, 5, 64)
        on.submit(request(io.RECV, far.fileno(), address_of(room), 100))
        near.close()
        assert on.completed(0).result == 0


def test_who_cancels_a_request_loses_nothing(way: Way) -> None:
    room = bytearray(100)
    with ring() as on, way.connected() as (near, far), way.hands_over():
        for at in range(50):
            on.submit(
                request(io.RECV, far.fileno(), address_of(room), 100, number=7),
                request(io.ASYNC_CANCEL, -1, 7, number=8),
            )
            assert (on.completed(8).result, on.completed(7).result) == (0, -errno.ECANCELED)
            write(near, pattern(at * 100, 100))
            assert received(far, 100) == pattern(at * 100, 100)


def test_requests_under_way_stay_when_a_connection_leaves_and_comes_back(machine: Machine) -> None:
    room, client, server = bytearray(64), machine.add_pod(7), machine.add_pod(8)
    with ring() as on, connected(client, server) as (near, far):
        echoed(near, far, 50, 64)
        for _ in range(10):
            assert machine.sockets() == 2
            on.submit(request(io.RECV, far.fileno(), address_of(room), 64))
            keys = [key for key, _ in machine.maps["short_circuit_connections"].items()]
            machine.on_loop(machine.leaver.leave(keys, machine.cause("asked")))
            wait_until(lambda: not machine.sockets())
            near.sendall(bytes(range(64)))
            assert (on.completed(0).result, bytes(room)) == (64, bytes(range(64)))
            on.submit(request(io.RECV, near.fileno(), address_of(room), 64))
            machine.switchboard.raise_epoch()
            echo_one_way(near, far, lambda: machine.sockets() == 2)
            before = machine.handed_over()
            far.sendall(bytes(64))
            assert on.completed(0).result == 64
            assert machine.handed_over() > before


def echo_one_way(near: socket.socket, far: socket.socket, is_done: Callable[[], bool]) -> None:
    """Only ``far`` reads, until it is done: at ``near`` somebody waits."""
    while not is_done():
        near.sendall(b"x" * 64)
        assert received(far, 64) == b"x" * 64


def test_sending_without_a_copy_on_a_socket_that_was_admitted(way: Way) -> None:
    """The kernel refuses it on a socket that was ever in such a map."""
    with ring() as on, way.connected() as (near, far):
        room = bytearray(100)
        sent = on.asked(request(io.SEND_ZC, near.fileno(), address_of(room), 100))
        assert sent == (-errno.EOPNOTSUPP if way.is_short else 100)
        assert received(far, 0 if way.is_short else 100) == bytes(max(sent, 0))
        echoed(near, far, 5, 64)
